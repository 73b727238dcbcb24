"""Sampling: at every step a token drawn from the model's distribution, or from its more probable part."""

import dataclasses

import keras
from keras import ops

from keras_showattend.decoding.following import follow
from keras_showattend.decoding.options import Decoding
from keras_showattend.decoding.top_k import stable_top_k
from keras_showattend.token_ids import END, PADDING, START
from keras_showattend.validation import check_integer, check_number, shown

# A random number that rounds to 1 would lie behind all tokens.
_BELOW_ONE = 1 - 2**-20
# What float32 has of temperatures and of the nucleus: quotients stay finite, and the first token is never left out.
_LEAST, _MOST = 1e-30, 1e30


@dataclasses.dataclass(frozen=True)
class Sampling(Decoding):
    """Sampling: at every step a token drawn by its probability.

    In this order: what the rules forbid is left out, `temperature` sharpens or flattens, `top_k` keeps the most
    probable tokens, `top_p` the fewest of these that reach that probability together. What remains is drawn from in
    proportion. The scores are log-probabilities under the model itself, without any of this.

    Args:
        temperature: Number > 0: p^(1 / temperature). Near 0, sampling is greedy decoding.
        top_k: Optional positive int, how many tokens may be drawn.
        top_p: Optional number in (0, 1], the nucleus. It sorts the vocabulary at every step; with `top_k`, only those.
        seed: Optional int, 0 to 2^32 - 1. With a seed the same captions come every time, on one backend; None draws
            others each time, in a sequence that `keras.utils.set_random_seed` fixes.
        min_length: Int >= 0, how many tokens must stand before the end id may follow.
        no_repeat_ngram: Int >= 0; no sequence of so many tokens occurs twice in a caption, 0 = no such rule.
        banned: Ids that are never drawn; by default padding, unknown and start.
        forbidden_last: Ids of words that a caption must not end with: the end id never follows them directly.

    Raises:
        ValueError: For an argument that does not fit, naming the rule.

    Example:
    >>> from keras_showattend.decoding import Sampling
    >>> Sampling(temperature=0.8, top_p=0.9, seed=1).top_p
    0.9

    Reference: nucleus sampling is from Holtzman et al. 2020, arXiv 1904.09751, section 3.1.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self):
        super().__post_init__()
        self._set("temperature", check_number("temperature", self.temperature, "a finite number > 0", lambda t: t > 0))
        if self.top_k is not None:
            self._set("top_k", check_integer("top_k", self.top_k, least=1))
        if self.top_p is not None:
            self._set("top_p", check_number("top_p", self.top_p, "a number in (0, 1]", lambda p: 0 < p <= 1))
        if self.seed is not None:
            self._set("seed", check_integer("seed", self.seed, least=0))
            if self.seed >= 2**32:
                raise ValueError(f"`seed` must be less than 2^32. Received: {shown('seed', self.seed)}")

    def draw(self, count, max_length):
        """A random number for each token.

        Args:
            count: Int or scalar tensor, how many sequences.
            max_length: Positive int, the most tokens of each.

        Returns:
            A tuple of one array, float32 `(count, max_length)`, in [0, 1).
        """
        return (keras.random.uniform((count, max_length), dtype="float32", seed=self.seed),)

    @property
    def program(self):
        return dataclasses.replace(self, seed=None)

    def decode(
        self,
        step,
        state,
        batch_size,
        max_length,
        numbers,
        *,
        memory=None,
        start_id=START,
        end_id=END,
        padding_id=PADDING,
    ):
        drawn = (ops.convert_to_tensor(numbers),)
        return follow(
            self._drawn, self, step, state, batch_size, max_length, start_id, end_id, padding_id, memory, drawn
        )

    def _drawn(self, allowed, t, numbers):
        """Ids `(B,)`, for log-probabilities `(B, V)`, the step t and random numbers `(B, T)`."""
        # Relative to the best, so that the smallest temperature leaves it 0 and the others far below; the bound is for
        # rows in which nothing is allowed.
        best = ops.maximum(ops.max(allowed, axis=-1, keepdims=True), -1e30)
        tempered = (allowed - best) / min(max(self.temperature, _LEAST), _MOST)
        ids = None
        if self.top_k is not None or self.top_p is not None:
            size = allowed.shape[-1]
            tempered, ids = stable_top_k(tempered, min(self.top_k or size, size))
        weights = ops.exp(tempered)
        if self.top_p is not None and self.top_p < 1:
            before = ops.cumsum(weights, axis=-1) - weights
            nucleus = max(self.top_p, _LEAST) * ops.sum(weights, axis=-1, keepdims=True)
            weights = ops.where(before < nucleus, weights, 0.0)
        # Token i owns the numbers from the sum of the weights before it to that sum with its own.
        sums = ops.where(weights > 0, ops.cumsum(weights, axis=-1), 0.0)
        number = ops.cast(ops.take(numbers, t, axis=1), sums.dtype)[:, None] * _BELOW_ONE
        owners = sums > number * ops.max(sums, axis=-1, keepdims=True)
        last = sums.shape[-1] - 1
        place = ops.min(ops.where(owners, ops.arange(last + 1, dtype="int32"), last), axis=-1)
        return place if ids is None else ops.take_along_axis(ids, place[:, None], axis=-1)[:, 0]


def sample(
    step,
    state,
    batch_size,
    max_length,
    start_id=START,
    end_id=END,
    padding_id=PADDING,
    numbers=None,
    **options,
):
    """Draw a token at every step until every sequence has ended.

    Runs inside `tf.function`, `jax.jit` and eagerly: the loop is the backend's own and stops early. The random numbers
    are drawn before it.

    Args:
        step: Function `(token, state) -> (logits, state)` or `(logits, state, attention)`, as in `greedy_search`.
        state: Nest of tensors, what the first step gets.
        batch_size: Int or scalar tensor, B.
        max_length: Positive int T, the most tokens to generate, the end id included.
        start_id: Int, the token that the first step reads.
        end_id: Int, the token that ends a sequence.
        padding_id: Int, what stands after the end.
        numbers: Optional float `(B, T)` in [0, 1), one random number for each token; None draws them with the seed
            of the options. In a function that is compiled once and called often, hand them over: what is drawn while
            it is traced stays the same, or can't be drawn there.
        **options: Those of `Sampling`.

    Returns:
        `Decoded(tokens, scores, attention)`, the scores the model's own log-probabilities, whatever the temperature.
        Sequences that have not ended at `max_length` are returned as they are, and so is one that the rules leave no
        token.

    Raises:
        ValueError: If `max_length` is not a positive integer or an option does not fit.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.decoding import sample
    >>> def dice(token, state):  # ids 4 to 9 are equally likely
    ...     return ops.where(ops.arange(10) > 3, ops.zeros((3, 10)), -100.0), state
    >>> decoded = sample(dice, (), batch_size=3, max_length=5, seed=0)
    >>> tuple(decoded.tokens.shape), bool(ops.all(decoded.tokens > 3))
    ((3, 5), True)
    """
    sampling = Sampling(**options)
    if numbers is None:
        (numbers,) = sampling.draw(batch_size, max_length)
    return sampling.decode(
        step, state, batch_size, max_length, numbers, start_id=start_id, end_id=end_id, padding_id=padding_id
    )
