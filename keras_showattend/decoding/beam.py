"""Beam search: the best few sequences are followed at once."""

import dataclasses

from keras import ops

from keras_showattend.decoding.beams import advance, best_beams, check_rows, first_beams
from keras_showattend.decoding.looping import loop
from keras_showattend.decoding.options import Decoding
from keras_showattend.token_ids import END, PADDING, START
from keras_showattend.validation import check_integer, check_not_negative, check_number, check_positive_integer, shown

# What a location without any attention counts as; the logarithm of 0 would put all captions on a par.
_LEAST_COVERAGE = 1e-30


@dataclasses.dataclass(frozen=True)
class BeamSearch(Decoding):
    """Beam search: at every step the best `width` continuations of all beams are kept.

    A beam that has ended is kept as it is, as long as it is among the best `width`. Beams are ranked by

        log P(Y) / ((5 + |Y|) / 6)^alpha + beta sum_l log(min(sum_t a_tl, 1))

    with alpha = `length_penalty`, beta = `coverage_penalty`, |Y| the number of tokens, the end id included, and the
    attention a. Of equals, the beam that ranked higher before comes first, then the lower id. At the end captions that
    ended go before those that did not.

    Args:
        width: Positive int, how many beams are kept; it may exceed the vocabulary.
        length_penalty: Number alpha: 0 ranks by the plain sum of log-probabilities, which favours short captions, a
            larger one longer captions; or `"average"`, which ranks by the mean log-probability of a token.
        coverage_penalty: Number beta >= 0: how much captions are preferred that have looked at every location.
        n_best: Positive int K, how many captions to return, at most `width`; above 1, an axis K follows B. Where
            there are fewer, the rest are padding with the score minus infinity.
        min_length: Int >= 0, how many tokens must stand before the end id may follow.
        no_repeat_ngram: Int >= 0; no sequence of so many tokens occurs twice in a caption, 0 = no such rule.
        banned: Ids that are never chosen; by default padding, unknown and start. The ban acts after the log-softmax,
            so that scores stay the model's own.
        forbidden_last: Ids of words that a caption must not end with: the end id never follows them directly.

    Raises:
        ValueError: For an argument that does not fit, naming the rule.

    Example:
    >>> from keras_showattend.decoding import BeamSearch
    >>> BeamSearch(width=3, length_penalty="average", n_best=2).n_best
    2

    Reference: Wu et al. 2016, arXiv 1609.08144, equation 14.
    """

    width: int = 5
    length_penalty: float | str = 0.0
    coverage_penalty: float = 0.0
    n_best: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("width", "n_best"):
            self._set(name, check_integer(name, getattr(self, name), least=1))
        if self.n_best > self.width:
            raise ValueError(
                f"`n_best` must not be greater than `width`. Received: n_best={self.n_best}, width={self.width}."
            )
        if not isinstance(self.length_penalty, str):
            rule = 'a finite number or "average"'
            self._set("length_penalty", check_number("length_penalty", self.length_penalty, rule, lambda a: True))
        elif self.length_penalty != "average":
            raise ValueError(
                '`length_penalty` must be a finite number or "average". '
                f"Received: {shown('length_penalty', self.length_penalty)}"
            )
        self._set("coverage_penalty", check_not_negative("coverage_penalty", self.coverage_penalty))

    def decode(
        self,
        step,
        state,
        batch_size,
        max_length,
        *,
        memory=None,
        start_id=START,
        end_id=END,
        padding_id=PADDING,
    ):
        check_positive_integer("max_length", max_length)
        self.check_length(max_length)
        check_rows(state)

        def go_on(t, beams, state, shared, count=self.width):
            return advance(
                self, lambda token, state: step(token, state, *shared), t, beams, state, count, end_id, padding_id
            )

        # The first step stands outside the loop: it makes `width` beams of one, and tells the dtype of the scores and
        # the shape of the attention.
        shared = () if memory is None else (memory,)
        beams = first_beams(batch_size, max_length, start_id, padding_id)
        beams, state = go_on(ops.zeros((), dtype="int32"), beams, state, shared, count=1)
        beams = loop(go_on, beams, state, max_length, shared, self.width, leave=memory is not None)
        return best_beams(self, beams, padding_id)

    def rank(self, totals, length, attention=None):
        """The scores by which beams are ranked, with the penalties.

        Args:
            totals: Float, `(R, K)`, log-probabilities of K continuations of R beams.
            length: Int, `(R,)`, how many tokens they have.
            attention: Float, `(R, T, L)`; None where the step gives none.

        Returns:
            `(R, K)`, the dtype of `totals`.

        Raises:
            ValueError: If there is a coverage penalty and no attention.
        """
        length = ops.cast(ops.maximum(length, 1), totals.dtype)[:, None]
        if self.length_penalty == "average":
            totals = totals / length
        elif self.length_penalty:
            totals = totals / ((5 + length) / 6) ** self.length_penalty
        if self.coverage_penalty:
            if attention is None:
                raise ValueError(
                    "`coverage_penalty` needs a `step` that returns attention. Received: "
                    f"coverage_penalty={self.coverage_penalty}, and a step that returns (logits, state)."
                )
            coverage = ops.clip(ops.sum(ops.cast(attention, totals.dtype), axis=1), _LEAST_COVERAGE, 1.0)
            totals = totals + self.coverage_penalty * ops.sum(ops.log(coverage), axis=-1, keepdims=True)
        return totals


def beam_search(step, state, batch_size, max_length, start_id=START, end_id=END, padding_id=PADDING, **options):
    """Follow the best few sequences at once, until all that are kept have ended.

    Runs inside `tf.function`, `jax.jit` and eagerly: the loop is the backend's own and stops early.

    Args:
        step: Function `(token, state) -> (logits, state)` or `(logits, state, attention)`, with token int32 `(R,)`,
            logits `(R, V)`, attention `(R, L)`, and a state whose dtypes, and shapes but for R, stay the same. R is B
            at the first step and B x `width` after it; the rows of one sequence stand together, the rows of the
            state are put in the order of the beams, and what the step sees besides it must serve any R.
        state: Nest of tensors with B rows, what the first step gets.
        batch_size: Int or scalar tensor, B.
        max_length: Positive int T, the most tokens to generate, the end id included.
        start_id: Int, the token that the first step reads.
        end_id: Int, the token that ends a sequence.
        padding_id: Int, what stands after the end.
        **options: Those of `BeamSearch`.

    Returns:
        `Decoded(tokens, scores, attention)`, the best first where there are several. The scores are the sequences' own
        log-probabilities, without penalties. Where none has ended at `max_length`, they are the best unfinished ones,
        those among them that the rules left no token.

    Raises:
        ValueError: If `max_length` is not a positive integer or an option does not fit; if the state has leaves
            without rows; if there is a coverage penalty and no attention.

    Example:
    >>> import numpy as np
    >>> from keras import ops
    >>> from keras_showattend.decoding import beam_search
    >>> chances = np.full((6, 6), 1e-9, "float32")  # row i: of the ids after i
    >>> chances[2, [4, 5]] = 0.6, 0.4  # 4 is the better first id, but after it nothing is certain
    >>> chances[4, [3, 4, 5]] = 0.4, 0.3, 0.3
    >>> chances[5, [3, 4]] = 0.9, 0.1
    >>> def step(token, state):
    ...     return ops.take(ops.convert_to_tensor(np.log(chances)), token, axis=0), state
    >>> decoded = beam_search(step, (), batch_size=1, max_length=4, width=2)
    >>> ops.convert_to_numpy(decoded.tokens).tolist(), round(float(ops.exp(decoded.scores[0])), 2)
    ([[5, 3, 0, 0]], 0.36)
    """
    return BeamSearch(**options).decode(
        step, state, batch_size, max_length, start_id=start_id, end_id=end_id, padding_id=padding_id
    )
