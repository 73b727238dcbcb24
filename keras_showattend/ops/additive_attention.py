"""The scores of Bahdanau's attention, for queries and keys that are already projected.

A loop that meets the same keys again and again need not compute a tanh for every query and key. With
p = 1 / (1 + exp(2q) exp(2k)), the sigmoid of -2 (q + k),

    tanh(q + k) = 1 - 2 p        v . tanh(q + k_l) = sum(v) - 2 v . p_l

the exponentials are taken once for each query and once for each key, the pair costs one product and one
division, and softmax does not see sum(v). With d the gradient of the scores, those of the queries, keys and v are sums
of d p (1 - p) over keys and over queries, and of d p over both.
"""

import keras
from keras import ops

from keras_showattend.ops.accelerator import on_accelerator, on_jax_accelerator
from keras_showattend.ops.masking import masked_softmax
from keras_showattend.ops.precision import at_least_float32
from keras_showattend.ops.scan import scan

# exp(2 x 40) is far inside float32, and tanh(40) is 1 to the last digit.
_LARGEST = 40.0
# So many parts of the keys, at most, do the sums of the gradient take one after the other.
_PARTS = 4


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


def key_parts(exp_keys):
    """The keys in parts, as `sums_over_keys` takes them.

    On a processor XLA adds up parts without writing their terms to memory, which for a reduction over all locations it
    does; on torch, what one operation writes there the next one finds in the cache.

    Args:
        exp_keys: `(N, L, A)`, the `exponentials` of keys.

    Returns:
        A list of tensors of as many locations each, the last filled up with zeros.
    """
    length = ops.shape(exp_keys)[1]
    if on_accelerator():
        count = 1
    elif isinstance(length, int):
        # The largest of the numbers of parts that need the least filling.
        count = min(range(_PARTS, _PARTS // 2, -1), key=lambda n: -length % n)
    else:
        count = _PARTS
    return _split(exp_keys, 1, count)


def sums_over_keys(d_scores, exp_query, parts):
    """sum_l d_gl p_gl (1 - p_gl) and sum_l d_gl p_gl, for the gradients of the queries and of v.

    Args:
        d_scores: `(N, G, L)`, d, the gradient of the scores.
        exp_query: `(N, G, A)`.
        parts: What `key_parts` makes of the keys.

    Returns:
        Two tensors `(N, G, A)`.
    """
    slopes = products = 0
    for d, keys in zip(_split(d_scores, 2, len(parts)), parts, strict=True):
        p = sigmoids(exp_query, keys)
        slopes = slopes + _terms_or_sums(d, p - p * p)
        products = products + _terms_or_sums(d, p)
    return ops.sum(slopes, axis=2), ops.sum(products, axis=2)


def _terms_or_sums(d, x):
    """The d_gl x_gl that are yet to be added up over l, `(N, G, L, A)`, or their sums, `(N, G, 1, A)`."""
    if keras.backend.backend() == "torch":
        # A product needs no array of the terms; XLA needs none anyway.
        return ops.matmul(d[:, :, None], x)
    return d[..., None] * x


def sums_over_queries(d_scores, exp_query, exp_keys):
    """sum_tg d_tgl p_tgl (1 - p_tgl), for the gradient of the keys.

    Args:
        d_scores: `(T, N, G, L)`, d, the gradient of the scores of T steps.
        exp_query: `(T, N, G, A)`.
        exp_keys: `(N, L, A)`.

    Returns:
        `(N, L, A)`.
    """
    # Elsewhere each part would be one more loop to compile.
    parts = key_parts(exp_keys) if keras.backend.backend() == "torch" else [exp_keys]
    d_parts = _split(d_scores, 3, len(parts))
    sums = [_sum_over_queries(d, exp_query, keys) for d, keys in zip(d_parts, parts, strict=True)]
    return ops.concatenate(sums, axis=1)[:, : ops.shape(exp_keys)[1]]


def _sum_over_queries(d_scores, exp_query, exp_keys):
    def add(carry, x):
        d, exp_query = x
        p = sigmoids(exp_query, exp_keys)
        return (carry[0] + ops.sum(d[..., None] * (p - p * p), axis=1),), ()

    (total,), _ = scan(add, (ops.zeros_like(exp_keys),), (d_scores, exp_query))
    return total


def _split(x, axis, count):
    """`count` parts of the same length, the last filled up with zeros: where d is zero, nothing is added."""
    shape = list(ops.shape(x))
    shape[axis] = -shape[axis] % count
    if not isinstance(shape[axis], int) or shape[axis]:
        x = ops.concatenate([x, ops.zeros(shape, dtype=x.dtype)], axis=axis)
    return ops.split(x, count, axis=axis)
