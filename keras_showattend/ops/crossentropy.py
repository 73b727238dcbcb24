"""The cross-entropy of a softmax over many classes, in as few passes over the logits as it takes."""

from keras import ops

from keras_showattend.ops.gradients import custom_gradient


def softmax_crossentropy(logits, targets, label_smoothing=0.0):
    """Cross-entropy of each row of logits.

        loss = -sum_v q_v log p_v,   q = (1 - e) onehot(target) + e / V,   p = softmax(logits)
             = log sum_v exp(l_v) - (1 - e) l_target - e mean_v(l_v)

    Its gradient by hand, g (p - q), is one pass over logits that are read anyway; a backend's own keeps or makes more
    arrays of that size, and of all arrays of a training step these are the largest. On JAX it has no forward-mode
    derivative (`jax.jvp`); on torch it has no second one, and refuses `create_graph=True`.

    Args:
        logits: Float, `(..., V)`, V known.
        targets: Int, `(...)`, from 0 to V - 1.
        label_smoothing: Float e in [0, 1).

    Returns:
        `(...)`, in nats and in the dtype of `logits`.

    Example:
    >>> import numpy as np
    >>> from keras_showattend.ops import softmax_crossentropy
    >>> round(float(softmax_crossentropy(np.zeros((1, 4), "float32"), np.array([2]))[0]), 4)  # log 4
    1.3863
    """
    logits, targets = ops.convert_to_tensor(logits), ops.cast(targets, "int32")
    classes = logits.shape[-1]

    @custom_gradient
    def run(logits, targets):
        # A comparison fuses with what surrounds it, a gather and its gradient do not.
        is_target = ops.arange(classes, dtype="int32") == targets[..., None]
        total = ops.logsumexp(logits, axis=-1)
        loss = total - (1 - label_smoothing) * ops.sum(ops.where(is_target, logits, 0.0), axis=-1)
        if label_smoothing:
            loss = loss - label_smoothing * ops.mean(logits, axis=-1)

        def gradient(upstream):
            wanted = (1 - label_smoothing) * ops.cast(is_target, logits.dtype) + label_smoothing / classes
            return upstream[..., None] * (ops.exp(logits - total[..., None]) - wanted), None

        return loss, gradient

    return run(logits, targets)
