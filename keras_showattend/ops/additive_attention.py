"""The scores of Bahdanau's attention, for queries and keys that are already projected.

A loop that meets the same keys again and again need not compute a tanh for every query and key. With
p = 1 / (1 + exp(2q) exp(2k)), the sigmoid of -2 (q + k),

    tanh(q + k) = 1 - 2 p        v . tanh(q + k_l) = sum(v) - 2 v . p_l

the exponentials are taken once for each query and once for each key, the pair costs one product and one
division, and softmax does not see sum(v).
"""

from keras import ops

from keras_showattend.ops.masking import masked_softmax
from keras_showattend.ops.precision import at_least_float32
from keras_showattend.ops.scan import on_jax_accelerator

# exp(2 x 40) is far inside float32, and tanh(40) is 1 to the last digit.
_LARGEST = 40.0


def additive_attention(query, keys, score_kernel, mask=None):
    """Attention weights a = softmax_l(v . tanh(q + k_l)).

    Args:
        query: Float, `(B, T, A)`, projected queries.
        keys: Float, `(B, L, A)`, projected keys, the same for all T queries.
        score_kernel: Float, `(A, 1)`, v.
        mask: Optional bool, `(B, L)`, True = attend.

    Returns:
        `(B, T, L)`, float32 at least; a row with nothing to attend to is zero.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.ops import additive_attention
    >>> tuple(additive_attention(ops.ones((2, 3, 4)), ops.ones((2, 7, 4)), ops.ones((4, 1))).shape)
    (2, 3, 7)

    Reference: Bahdanau, Cho, Bengio 2015, arXiv 1409.0473, equation 6 and appendix A.1.2.
    """
    # tanh(q + k): all that is left to do is the product with v.
    return attend(ops.tanh(query[:, :, None] + keys[:, None]), score_kernel, mask)


def attend(hidden, score_kernel, mask=None):
    """The weights `(B, T, L)` of `hidden` `(B, T, L, A)`, float32 at least."""
    if on_jax_accelerator():
        # Fused with what makes `hidden`, which then is never written: on an H100 that makes the whole recurrence 1.4
        # times as fast. On a CPU the product is faster.
        scores = ops.sum(hidden * score_kernel[:, 0], axis=-1)
    else:
        # A product of rank 4 by rank 2 ends TensorFlow's process on some CPUs; rank 2 by rank 2 is safe.
        scores = ops.matmul(ops.reshape(hidden, (-1, hidden.shape[-1])), score_kernel)
        shape = tuple(hidden.shape)[:-1]
        # A constant where it can be one: LiteRT is not reliable with shapes that it computes.
        known = [-1 if size is None else size for size in shape]
        scores = ops.reshape(scores, known if known.count(-1) < 2 else ops.shape(hidden)[:-1])
    return masked_softmax(scores, None if mask is None else mask[:, None])


def exponentials(x):
    """exp(2x), float32 at least, for queries and for keys.

    Beyond 40, x counts as 40. That changes a tanh only where a query and a key, both beyond it, cancel.
    """
    return ops.exp(2 * ops.clip(at_least_float32(x), -_LARGEST, _LARGEST))


def sigmoids(exp_query, exp_keys):
    """The p = (1 - tanh(q + k)) / 2, `(B, T, L, A)`, of the `exponentials` `(B, T, A)` and `(B, L, A)`."""
    return 1 / (1 + exp_query[:, :, None] * exp_keys[:, None])


def attend_sigmoids(p, score_kernel, mask=None):
    """The weights `(B, T, L)` of `sigmoids`."""
    return attend(p, -2 * at_least_float32(score_kernel), mask)
