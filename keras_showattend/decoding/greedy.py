"""Greedy decoding: at every step the most probable token."""

from typing import NamedTuple

from keras import ops, tree

from keras_showattend.ops import at_least_float32
from keras_showattend.token_ids import END, PADDING, START, UNKNOWN
from keras_showattend.validation import check_positive_integer


class Decoded(NamedTuple):
    """Sequences and what was seen on the way, B of them, T = `max_length`."""

    tokens: object  # int32 (B, T), the end id kept, the padding id after it
    scores: object  # float32 (B,), the sequences' log-probabilities
    attention: object  # (B, T, L), zero after the end; None where `step` gives none


def greedy_search(
    step,
    state,
    batch_size,
    max_length,
    start_id=START,
    end_id=END,
    padding_id=PADDING,
    banned=(PADDING, UNKNOWN, START),
):
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
        banned: Ids that are never chosen. The ban acts after the log-softmax, so scores stay the model's own.

    Returns:
        `Decoded(tokens, scores, attention)`.

    Raises:
        ValueError: If `max_length` is not a positive integer.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.decoding import greedy_search
    >>> def count(token, state):  # a "model" that says 4, 5, 6, then ends with 3
    ...     return ops.one_hot(ops.where(state == 3, 3, state + 4), 8), state + 1
    >>> decoded = greedy_search(count, ops.zeros((1,), "int32"), batch_size=1, max_length=6)
    >>> ops.convert_to_numpy(decoded.tokens)[0].tolist()
    [4, 5, 6, 3, 0, 0]
    """
    check_positive_integer("max_length", max_length)

    def advance(token, ended, score, state):
        logits, state, *attention = step(token, state)
        log_probabilities = ops.log_softmax(at_least_float32(logits), axis=-1)
        allowed = _ban(log_probabilities, banned)
        token = ops.cast(ops.argmax(allowed, axis=-1), "int32")
        gained = ops.take_along_axis(log_probabilities, token[:, None], axis=-1)[:, 0]
        score = score + ops.where(ended, ops.zeros_like(gained), gained)
        token = ops.where(ended, padding_id, token)
        attention = [ops.where(ended[:, None], ops.zeros_like(a), a) for a in attention]
        return token, ended | (token == end_id), score, state, attention

    first = ops.full((batch_size,), start_id, dtype="int32")
    nobody = ops.zeros((batch_size,), dtype="bool")
    # The first step stands outside the loop: it tells the dtype of the scores and the shape of the attention.
    token, ended, score, state, attention = advance(first, nobody, 0.0, state)

    def rows(x, filling=0):
        """A row for every step, `(B, T, ...)`, the first one filled in."""
        shape = ops.shape(x)
        buffer = ops.full((shape[0], max_length, *shape[1:]), filling, dtype=x.dtype)
        return _write(buffer, x, 0)

    def body(t, token, ended, score, tokens, attention, state):
        state = tree.pack_sequence_as(structure, state)
        token, ended, score, state, seen = advance(token, ended, score, state)
        tokens = _write(tokens, token, t)
        attention = [_write(a, x, t) for a, x in zip(attention, seen, strict=True)]
        return t + 1, token, ended, score, tokens, attention, tree.flatten(state)

    structure = state
    loop = (
        ops.convert_to_tensor(1, dtype="int32"),
        token,
        ended,
        score,
        rows(token, padding_id),
        [rows(a) for a in attention],
        tree.flatten(state),
    )
    if max_length > 1:
        loop = ops.while_loop(
            lambda t, token, ended, *_: ops.logical_not(ops.all(ended)),
            body,
            loop,
            maximum_iterations=max_length - 1,
        )
    _, _, _, score, tokens, attention, _ = loop
    return Decoded(tokens, score, attention[0] if attention else None)


def _ban(log_probabilities, banned):
    size = log_probabilities.shape[-1]
    ban = ops.any(ops.arange(size)[:, None] == ops.convert_to_tensor(list(banned), dtype="int32"), axis=-1)
    return ops.where(ban, float("-inf"), log_probabilities)


def _write(buffer, x, t):
    """`buffer[:, t] = x`."""
    # JAX takes indices of one type only, and counts plain integers as int64 where that is enabled.
    zero, t = ops.zeros((), dtype="int32"), ops.cast(t, "int32")
    start = (zero, t, *[zero] * (len(buffer.shape) - 2))
    return ops.slice_update(buffer, start, x[:, None])
