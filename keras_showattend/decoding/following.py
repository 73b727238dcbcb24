"""One sequence at a time for each row: the loop that greedy decoding and sampling share."""

from typing import NamedTuple

from keras import ops

from keras_showattend.decoding.decoded import Decoded, rows_of_steps, write
from keras_showattend.decoding.looping import loop
from keras_showattend.decoding.rules import allow
from keras_showattend.ops import at_least_float32
from keras_showattend.ops.fusing import fused
from keras_showattend.validation import check_positive_integer


class _Followed(NamedTuple):
    """B sequences on their way."""

    token: object  # int32 (B,), the last
    stopped: object  # bool (B,)
    score: object  # (B,), log-probability
    tokens: object  # int32 (B, T)
    attention: list  # one tensor (B, T, L), or none


def follow(choose, options, step, state, batch_size, max_length, start_id, end_id, padding_id, memory=None, drawn=()):
    """Take the token that `choose` gives at every step, until every sequence has ended.

    Args:
        choose: Function `(allowed, t, *drawn) -> token`: log-probabilities `(B, V)`, minus infinity where a token is
            forbidden, the number of the step, and what was drawn, to ids `(B,)`.
        options: `Decoding`, the rules for what is forbidden.
        step: As in `greedy_search`, like all that follows.
        state: Nest of tensors.
        batch_size: Int or scalar tensor, B.
        max_length: Positive int T.
        start_id: Int.
        end_id: Int.
        padding_id: Int.
        memory: As in `Decoding.decode`.
        drawn: Tuple of tensors with B rows.

    Returns:
        `Decoded(tokens, scores, attention)`.
    """
    check_positive_integer("max_length", max_length)
    options.check_length(max_length)
    shared = () if memory is None else (memory,)
    # XLA rounds sums over the vocabulary otherwise: a draw at the edge of a word's share would fall to another word.
    next_token = _next_token if drawn else fused(_next_token)

    def advance(t, followed, state, constants):
        token, stopped, score, tokens, buffers = followed
        shared, drawn = constants
        logits, state, *seen = step(token, state, *shared)
        token, gained = next_token(choose, options, end_id, logits, tokens, token, t, *drawn)
        # Where nothing is allowed, whatever was chosen is forbidden.
        stopped = stopped | (gained == float("-inf"))
        score = score + ops.where(stopped, ops.zeros_like(gained), gained)
        token = ops.where(stopped, padding_id, token)
        seen = [ops.where(stopped[:, None], ops.zeros_like(a), a) for a in seen]
        buffers = buffers or [rows_of_steps(a, max_length) for a in seen]
        attention = [write(buffer, a, t) for buffer, a in zip(buffers, seen, strict=True)]
        return _Followed(token, stopped | (token == end_id), score, write(tokens, token, t), attention), state

    # The first step stands outside the loop: it tells the dtype of the scores and the shape of the attention.
    followed = _Followed(
        token=ops.full((batch_size,), start_id, dtype="int32"),
        stopped=ops.zeros((batch_size,), dtype="bool"),
        score=0.0,
        tokens=ops.full((batch_size, max_length), padding_id, dtype="int32"),
        attention=[],
    )
    followed, state = advance(ops.zeros((), dtype="int32"), followed, state, (shared, drawn))
    followed = loop(advance, followed, state, max_length, (shared, drawn), leave=memory is not None)
    return Decoded(followed.tokens, followed.score, followed.attention[0] if followed.attention else None)


def _next_token(choose, options, end_id, logits, tokens, last, t, *drawn):
    """The token that is chosen, int32 `(B,)`, and its log-probability, minus infinity where none is allowed."""
    log_probabilities = ops.log_softmax(at_least_float32(logits), axis=-1)
    allowed = allow(options, log_probabilities, tokens, last, t, end_id)
    token = ops.cast(choose(allowed, t, *drawn), "int32")
    return token, ops.take_along_axis(allowed, token[:, None], axis=-1)[:, 0]
