"""One sequence at a time for each row: the loop that greedy decoding and sampling share."""

from keras import ops, tree

from keras_showattend.decoding.decoded import Decoded, rows_of_steps, write
from keras_showattend.decoding.rules import allow
from keras_showattend.ops import at_least_float32
from keras_showattend.validation import check_positive_integer


def follow(choose, options, step, state, batch_size, max_length, start_id, end_id, padding_id):
    """Take the token that `choose` gives at every step, until every sequence has ended.

    Args:
        choose: Function `(allowed, t) -> token`: log-probabilities `(B, V)`, minus infinity where a token is
            forbidden, and the number of the step, to ids `(B,)`.
        options: `Decoding`, the rules for what is forbidden.
        step: As in `greedy_search`, like all that follows.
        state: Nest of tensors.
        batch_size: Int or scalar tensor, B.
        max_length: Positive int T.
        start_id: Int.
        end_id: Int.
        padding_id: Int.

    Returns:
        `Decoded(tokens, scores, attention)`.
    """
    check_positive_integer("max_length", max_length)
    options.check_length(max_length)

    def advance(t, token, stopped, score, tokens, state):
        logits, state, *attention = step(token, state)
        log_probabilities = ops.log_softmax(at_least_float32(logits), axis=-1)
        allowed = allow(options, log_probabilities, tokens, token, t, end_id)
        token = ops.cast(choose(allowed, t), "int32")
        gained = ops.take_along_axis(allowed, token[:, None], axis=-1)[:, 0]
        # Where nothing is allowed, whatever was chosen is forbidden.
        stopped = stopped | (gained == float("-inf"))
        score = score + ops.where(stopped, ops.zeros_like(gained), gained)
        token = ops.where(stopped, padding_id, token)
        attention = [ops.where(stopped[:, None], ops.zeros_like(a), a) for a in attention]
        return token, stopped | (token == end_id), score, write(tokens, token, t), attention, state

    # The first step stands outside the loop: it tells the dtype of the scores and the shape of the attention.
    t = ops.zeros((), dtype="int32")
    token = ops.full((batch_size,), start_id, dtype="int32")
    nobody = ops.zeros((batch_size,), dtype="bool")
    tokens = ops.full((batch_size, max_length), padding_id, dtype="int32")
    token, stopped, score, tokens, seen, state = advance(t, token, nobody, 0.0, tokens, state)
    attention = [write(rows_of_steps(a, max_length), a, t) for a in seen]
    structure = state

    def body(t, token, stopped, score, tokens, attention, state):
        state = tree.pack_sequence_as(structure, state)
        token, stopped, score, tokens, seen, state = advance(t, token, stopped, score, tokens, state)
        attention = [write(a, x, t) for a, x in zip(attention, seen, strict=True)]
        return t + 1, token, stopped, score, tokens, attention, tree.flatten(state)

    loop = (t + 1, token, stopped, score, tokens, attention, tree.flatten(state))
    if max_length > 1:
        loop = ops.while_loop(
            lambda t, token, stopped, *_: ops.logical_not(ops.all(stopped)),
            body,
            loop,
            maximum_iterations=max_length - 1,
        )
    _, _, _, score, tokens, attention, _ = loop
    return Decoded(tokens, score, attention[0] if attention else None)
