"""The scores of Bahdanau's attention, for queries and keys that are already projected."""

from keras import ops

from keras_showattend.ops.masking import masked_softmax


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
    return attend(hidden_scores(query, keys), score_kernel, mask)


def hidden_scores(query, keys):
    """tanh(q + k), `(B, T, L, A)`: all that is left to do is the product with v."""
    return ops.tanh(query[:, :, None] + keys[:, None])


def attend(hidden, score_kernel, mask=None):
    """The weights `(B, T, L)` of `hidden_scores`, float32 at least."""
    # A product of rank 4 by rank 2 ends TensorFlow's process on some CPUs; rank 2 by rank 2 is safe.
    scores = ops.matmul(ops.reshape(hidden, (-1, hidden.shape[-1])), score_kernel)
    scores = ops.reshape(scores, ops.shape(hidden)[:-1])
    return masked_softmax(scores, None if mask is None else mask[:, None])
