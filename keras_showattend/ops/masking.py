"""Softmax and mean over the positions that a mask allows, computed in float32 at least."""

from keras import ops

from keras_showattend.ops.precision import at_least_float32


def masked_softmax(scores, mask=None):
    """Softmax over the last axis, on the positions where the mask is True.

        a_l = exp(e_l) / sum_{k: mask_k} exp(e_k)   where mask_l, else 0

    Args:
        scores: Float, `(..., L)`.
        mask: Optional bool, broadcastable to `scores`; True = keep. A row with no True gives zeros, with
            a zero gradient, never NaN.

    Returns:
        Weights with the shape of `scores`, in float32 (float64 for float64 scores): half precision sums
        err by 5e-3, so the caller casts back where it wants to.

    Example:
    >>> from keras_showattend.ops import masked_softmax
    >>> weights = masked_softmax([[0.0, 0.0, 5.0]], mask=[[True, True, False]])
    >>> [round(float(w), 2) for w in weights[0]]
    [0.5, 0.5, 0.0]
    """
    scores = at_least_float32(scores)
    if mask is None:
        return ops.softmax(scores, axis=-1)
    mask = ops.broadcast_to(ops.convert_to_tensor(mask, dtype="bool"), ops.shape(scores))
    lowest = ops.stop_gradient(ops.min(scores, axis=-1, keepdims=True))
    # A masked score takes the place of the lowest one, so that it can't overflow, nor its gradient;
    # the factor behind the exponential makes it exactly zero.
    scores = ops.where(mask, scores, lowest)
    shift = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True))
    exponentials = ops.exp(scores - shift) * ops.cast(mask, scores.dtype)
    total = ops.sum(exponentials, axis=-1, keepdims=True)
    return exponentials / ops.where(total > 0, total, ops.ones_like(total))


def masked_mean(values, weights):
    """Mean of `values` in which every entry counts by its weight; 0 where all weights are 0.

    Args:
        values: Float, any shape.
        weights: Bool or float, the shape of `values`.

    Returns:
        A scalar, float32 at least.

    Example:
    >>> from keras_showattend.ops import masked_mean
    >>> float(masked_mean([1.0, 3.0, 100.0], [True, True, False]))
    2.0
    """
    values = at_least_float32(values)
    weights = ops.cast(weights, values.dtype)
    return ops.divide_no_nan(ops.sum(values * weights), ops.sum(weights))
