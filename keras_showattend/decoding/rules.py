"""Which tokens may come next."""

import numpy as np
from keras import ops


def allow(options, log_probabilities, tokens, last, t, end_id):
    """The log-probabilities, minus infinity where the options forbid a token.

    Args:
        options: `Decoding`.
        log_probabilities: Float `(R, V)`, of the next token of R sequences.
        tokens: Int32 `(R, T)`, the t tokens that stand, anything behind them.
        last: Int32 `(R,)`, the token before: that at t - 1, or the start id.
        t: Int32 scalar.
        end_id: Int, the token that ends a sequence.

    Returns:
        `(R, V)`. Nothing is renormalised.
    """
    size = log_probabilities.shape[-1]
    options.check_vocabulary(size)
    ids = np.arange(size)
    forbidden = ops.convert_to_tensor(np.isin(ids, options.banned)[None])
    no_end = []
    if options.min_length:
        no_end.append(ops.reshape(t < options.min_length, (1, 1)))
    if options.forbidden_last:
        words = ops.convert_to_tensor(options.forbidden_last, dtype="int32")
        no_end.append(ops.any(last[:, None] == words, axis=-1, keepdims=True))
    for rows in no_end:
        forbidden = forbidden | (rows & ops.convert_to_tensor(ids == end_id))
    allowed = ops.where(forbidden, float("-inf"), log_probabilities)
    if options.no_repeat_ngram:
        allowed = _ban_repeated(allowed, tokens, t, options.no_repeat_ngram)
    return allowed


def _ban_repeated(log_probabilities, tokens, t, n):
    """Forbid what would complete a sequence of n tokens that the row has already."""
    length = tokens.shape[1]
    if n > length:
        return log_probabilities
    # Window i holds the tokens i to i + n - 1: all but its last must be the newest n - 1 tokens.
    windows = length - n + 1
    last = tokens[:, n - 1 :]
    repeats = ops.broadcast_to(ops.arange(n - 1, length) < t, ops.shape(last))
    for k in range(n - 1):
        newest = ops.take(tokens, ops.maximum(t - n + 1 + k, 0), axis=1)
        repeats = repeats & (tokens[:, k : k + windows] == newest[:, None])
    penalties = ops.where(repeats, float("-inf"), 0.0)
    rows = ops.broadcast_to(ops.arange(ops.shape(last)[0], dtype="int32")[:, None], ops.shape(last))
    indices = ops.stack([ops.reshape(rows, (-1,)), ops.reshape(last, (-1,))], axis=-1)
    updates = ops.cast(ops.reshape(penalties, (-1,)), log_probabilities.dtype)
    return ops.scatter_update(log_probabilities, indices, updates, reduction="add")
