"""Greedy decoding: at every step the most probable token."""

import dataclasses

from keras import ops

from keras_showattend.decoding.following import follow
from keras_showattend.decoding.options import Decoding
from keras_showattend.token_ids import END, PADDING, START


@dataclasses.dataclass(frozen=True)
class Greedy(Decoding):
    """Greedy decoding: at every step the most probable token, of equals the one with the lower id.

    `captioner.generate(x, decoding="greedy")` is `Greedy()`.

    Args:
        min_length: Int >= 0, how many tokens must stand before the end id may follow.
        no_repeat_ngram: Int >= 0; no sequence of so many tokens occurs twice in a caption, 0 = no such rule.
        banned: Ids that are never chosen; by default padding, unknown and start. The ban acts after the log-softmax,
            so that scores stay the model's own.
        forbidden_last: Ids of words that a caption must not end with: the end id never follows them directly.

    Raises:
        ValueError: For an argument that does not fit, naming the rule.

    Example:
    >>> from keras_showattend.decoding import Greedy
    >>> Greedy(min_length=5).min_length
    5
    """

    def decode(
        self,
        step,
        state,
        batch_size,
        max_length,
        *,
        memory=None,
        start_id=START,
        end_id=END,
        padding_id=PADDING,
    ):
        return follow(_most_probable, self, step, state, batch_size, max_length, start_id, end_id, padding_id, memory)


def _most_probable(allowed, t):
    return ops.argmax(allowed, axis=-1)


def greedy_search(step, state, batch_size, max_length, start_id=START, end_id=END, padding_id=PADDING, **options):
    """Follow the most probable token until every sequence has ended.

    Runs inside `tf.function`, `jax.jit` and eagerly: the loop is the backend's own and stops early.

    Args:
        step: Function `(token, state) -> (logits, state)` or `(logits, state, attention)`, with token int32 `(B,)`,
            logits `(B, V)`, attention `(B, L)`, and a state whose shapes and dtypes stay the same.
        state: Nest of tensors, what the first step gets.
        batch_size: Int or scalar tensor, B.
        max_length: Positive int T, the most tokens to generate, the end id included.
        start_id: Int, the token that the first step reads.
        end_id: Int, the token that ends a sequence.
        padding_id: Int, what stands after the end.
        **options: Those of `Greedy`.

    Returns:
        `Decoded(tokens, scores, attention)`. Sequences that have not ended at `max_length` are returned as they are,
        and so is one that the rules leave no token.

    Raises:
        ValueError: If `max_length` is not a positive integer or an option does not fit.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.decoding import greedy_search
    >>> def count(token, state):  # a "model" that says 4, 5, 6, then ends with 3
    ...     return ops.one_hot(ops.where(state == 3, 3, state + 4), 8), state + 1
    >>> decoded = greedy_search(count, ops.zeros((1,), "int32"), batch_size=1, max_length=6)
    >>> ops.convert_to_numpy(decoded.tokens)[0].tolist()
    [4, 5, 6, 3, 0, 0]
    """
    return Greedy(**options).decode(
        step, state, batch_size, max_length, start_id=start_id, end_id=end_id, padding_id=padding_id
    )
