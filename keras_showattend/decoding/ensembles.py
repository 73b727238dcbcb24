"""Several models that write one sequence together."""

import math

from keras import ops

from keras_showattend.ops import at_least_float32


def ensemble(steps):
    """A step whose probabilities are the mean of those of several steps.

        p(token) = 1/M sum_m p_m(token)

    Args:
        steps: List of M functions `(token, state) -> (logits, state)` or `(logits, state, attention)`, over the same
            vocabulary.

    Returns:
        A function `(token, states) -> (logits, states[, attention])`: the logits are the logarithms of the mean
        probabilities, float32 at least; `states` is a list of M states; the attention is the mean over the steps
        that return one, and left out where none does.

    Raises:
        ValueError: If there is no step; when called, if vocabularies or locations differ in number.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.decoding import ensemble, greedy_search
    >>> def says(word):
    ...     return lambda token, state: (ops.one_hot([word], 8) * 9.0, state)
    >>> step = ensemble([says(4), says(5), says(5)])
    >>> ops.convert_to_numpy(greedy_search(step, [(), (), ()], batch_size=1, max_length=2).tokens).tolist()
    [[5, 5]]
    """
    steps = list(steps)
    if not steps:
        raise ValueError("`steps` must hold at least one step. Received: steps=[].")

    def step(token, states):
        outputs = [one(token, state) for one, state in zip(steps, states, strict=True)]
        logits = [at_least_float32(output[0]) for output in outputs]
        _check_sizes("logits", logits)
        log_probabilities = ops.stack([ops.log_softmax(x, axis=-1) for x in logits])
        mean = ops.logsumexp(log_probabilities, axis=0) - math.log(len(steps))
        states = [output[1] for output in outputs]
        seen = [output[2] for output in outputs if len(output) > 2]
        if not seen:
            return mean, states
        _check_sizes("attention", seen)
        return mean, states, ops.mean(ops.stack(seen), axis=0)

    return step


def _check_sizes(name, tensors):
    sizes = [x.shape[-1] for x in tensors]
    if len(set(sizes)) > 1:
        raise ValueError(f"The {name} of all `steps` must have the same last axis. Received: sizes {sizes}.")
