"""The beams of a search, and what one step makes of them."""

from typing import NamedTuple

from keras import ops, tree

from keras_showattend.decoding.decoded import Decoded, rows_of_steps, write
from keras_showattend.decoding.rules import allow
from keras_showattend.decoding.top_k import stable_top_k
from keras_showattend.ops import at_least_float32
from keras_showattend.ops.fusing import fused


class Beams(NamedTuple):
    """R = B x W rows: the W beams of one sequence together, the best first. The score of one that isn't is -inf."""

    token: object  # int32 (R,), the last
    score: object  # (R,), log-probability
    length: object  # int32 (R,)
    stopped: object  # bool (R,): ended, without an allowed token, or not existing
    ended: object  # bool (R,)
    tokens: object  # int32 (R, T)
    attention: list  # one tensor (R, T, L), or none


def check_rows(state):
    """Raise a ValueError for a state that can't be put in the order of the beams."""
    for leaf in tree.flatten(state):
        if len(getattr(leaf, "shape", ())) == 0:
            raise ValueError(
                "`state` must consist of tensors with a row for every sequence, as beams are put in order: give what "
                f"is the same for all a row each. Received: a leaf of type {type(leaf).__name__} without rows."
            )


def first_beams(batch_size, max_length, start_id, padding_id):
    """One beam a sequence, which has read the start id."""
    nobody = ops.zeros((batch_size,), dtype="bool")
    return Beams(
        token=ops.full((batch_size,), start_id, dtype="int32"),
        score=ops.zeros((batch_size,), dtype="float32"),
        length=ops.zeros((batch_size,), dtype="int32"),
        stopped=nobody,
        ended=nobody,
        tokens=ops.full((batch_size, max_length), padding_id, dtype="int32"),
        attention=[],
    )


def advance(options, step, t, beams, state, count, end_id, padding_id):
    """One step of a search.

    Args:
        options: `BeamSearch`.
        step: As in `beam_search`.
        t: Int32 scalar, the number of the step.
        beams: `Beams`, `count` a sequence.
        state: Nest of tensors with a row for every beam.
        count: Int, 1 at the first step and `options.width` later.
        end_id: Int.
        padding_id: Int.

    Returns:
        `(beams, state)`, `options.width` beams a sequence.
    """
    width = options.width
    logits, state, *seen = step(beams.token, state)
    gained, ids = _continuations(options, end_id, logits, beams.tokens, beams.token, t)
    # Not `gained[:, 0]`: XLA computes the first column of the k largest by sorting all.
    stopped = beams.stopped | (ops.max(gained, axis=-1) == float("-inf"))
    # A beam that has stopped goes on as itself and in no other way.
    itself = ops.where(ops.arange(width) == 0, 0.0, float("-inf"))
    gained = ops.where(stopped[:, None], ops.cast(itself, gained.dtype), gained)
    totals = ops.cast(beams.score, gained.dtype)[:, None] + gained
    ids = ops.where(stopped[:, None], padding_id, ids)
    seen = [ops.where(stopped[:, None], ops.zeros_like(a), a) for a in seen]
    buffers = beams.attention or [rows_of_steps(a, beams.tokens.shape[1]) for a in seen]
    beams = beams._replace(
        length=beams.length + ops.cast(ops.logical_not(stopped), "int32"),
        stopped=stopped,
        attention=[write(buffer, a, t) for buffer, a in zip(buffers, seen, strict=True)],
    )
    ranks = options.rank(totals, beams.length, *beams.attention)

    # (B, count x width) continuations of each sequence
    _, chosen = stable_top_k(ops.reshape(ranks, (-1, count * width)), width)
    rows = _flat(chosen // width, count)
    chosen = _flat(chosen, count * width)
    beams, state = tree.map_structure(lambda x: ops.take(x, rows, axis=0), (beams, state))
    token, score = (ops.take(ops.reshape(x, (-1,)), chosen, axis=0) for x in (ids, totals))
    exists = score > float("-inf")
    ended = exists & (beams.ended | (ops.logical_not(beams.stopped) & (token == end_id)))
    beams = beams._replace(
        token=token,
        score=score,
        stopped=beams.stopped | ended | ops.logical_not(exists),
        ended=ended,
        tokens=write(beams.tokens, token, t),
    )
    return beams, state


def best_beams(options, beams, padding_id):
    """`Decoded`, of the best `n_best` beams of each sequence; those that ended go first."""
    width, n_best = options.width, options.n_best
    ranks = ops.reshape(options.rank(beams.score[:, None], beams.length, *beams.attention), (-1, width))
    _, order = stable_top_k(ranks, width)
    ended = ops.take_along_axis(ops.reshape(beams.ended, (-1, width)), order, axis=1)
    _, first = stable_top_k(ops.cast(ended, "float32"), n_best)
    rows = _flat(ops.take_along_axis(order, first, axis=1), width)
    tokens, score, attention = tree.map_structure(
        lambda x: ops.take(x, rows, axis=0), (beams.tokens, beams.score, beams.attention)
    )
    exists = score > float("-inf")
    tokens = ops.where(exists[:, None], tokens, padding_id)
    attention = [ops.where(exists[:, None, None], a, ops.zeros_like(a)) for a in attention]
    if n_best > 1:
        tokens, score, attention = tree.map_structure(
            lambda x: ops.reshape(x, (-1, n_best, *ops.shape(x)[1:])), (tokens, score, attention)
        )
    return Decoded(tokens, score, attention[0] if attention else None)


@fused
def _continuations(options, end_id, logits, tokens, last, t):
    """The best `width` tokens of every row, `(R, width)`: what is gained and ids, -inf where there are no more."""
    width = options.width
    log_probabilities = ops.log_softmax(at_least_float32(logits), axis=-1)
    allowed = allow(options, log_probabilities, tokens, last, t, end_id)
    # Tokens are compared within their row, so that a width of 1 is greedy decoding to the last digit, and few are left
    # to compare with those of other beams.
    count = min(width, allowed.shape[-1])
    gained, ids = stable_top_k(allowed, count)
    missing = [[0, 0], [0, width - count]]
    return ops.pad(gained, missing, constant_values=float("-inf")), ops.pad(ids, missing)


def _flat(places, count):
    """Places `(B, K)` among the `count` of each sequence, as places among all, `(B x K,)`."""
    first = ops.arange(ops.shape(places)[0], dtype="int32") * count
    return ops.reshape(first[:, None] + places, (-1,))
