"""The options that every way of decoding has, and their checks."""

import dataclasses

import numpy as np

from keras_showattend.token_ids import PADDING, START, UNKNOWN
from keras_showattend.validation import check_integer, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """A way of decoding: what `Greedy`, `Sampling` and `BeamSearch` have in common.

    The rules act on log-probabilities, whose exponentials then no longer sum to 1: nothing is renormalised, and scores
    stay the model's own. Where they leave a sequence no token at all it stops there, unfinished.

    Args:
        min_length: Int >= 0, how many tokens must stand before the end id may follow.
        no_repeat_ngram: Int >= 0; no sequence of so many tokens occurs twice in a caption, 0 = no such rule.
        banned: Ids that are never chosen.
        forbidden_last: Ids of words that a caption must not end with: the end id never follows them directly. (A
            caption cut off at `max_length` may stop there.)

    Raises:
        ValueError: For an argument that does not fit, naming the rule.
    """

    min_length: int = 0
    no_repeat_ngram: int = 0
    banned: tuple = (PADDING, UNKNOWN, START)
    forbidden_last: tuple = ()

    def __post_init__(self):
        for name in ("min_length", "no_repeat_ngram"):
            self._set(name, check_integer(name, getattr(self, name), least=0))
        for name in ("banned", "forbidden_last"):
            self._set(name, _checked_ids(name, getattr(self, name)))

    def _set(self, name, value):
        # The way to set a field of a frozen dataclass while it is made.
        object.__setattr__(self, name, value)

    def decode(self, step, state, batch_size, max_length, *drawn, memory=None, **ids):
        """Whole sequences from `step`.

        Args:
            step: As in `greedy_search`; with `memory`, a function `(token, state, memory)`.
            state: As in `greedy_search`.
            batch_size: As in `greedy_search`.
            max_length: As in `greedy_search`.
            *drawn: What `draw` gave.
            memory: Optional nest of tensors that have a row for every sequence. Then sequences that have ended leave
                the batch, with their rows of the memory and the state: the step must serve any number of sequences, and
                see no other rows. On TensorFlow this does not compile under XLA; on JAX ended sequences stay.
            **ids: `start_id`, `end_id` and `padding_id`, as in `greedy_search`.

        Returns:
            `Decoded(tokens, scores, attention)`.
        """
        raise NotImplementedError

    def draw(self, count, max_length):
        """The random numbers that a search takes.

        Args:
            count: Int or scalar tensor, how many sequences.
            max_length: Positive int, the most tokens of each.

        Returns:
            A tuple of arrays of `count` rows, for `decode`; empty where nothing is random.
        """
        return ()

    @property
    def program(self):
        """The options that a compiled search depends on: those that are equal in this share one."""
        return self

    def check_length(self, max_length):
        """Check that a caption of `min_length` has room.

        Args:
            max_length: Positive int, the most tokens to generate.

        Raises:
            ValueError: If `min_length` is greater.
        """
        if self.min_length > max_length:
            raise ValueError(
                "`min_length` must not be greater than `max_length`. "
                f"Received: min_length={self.min_length}, max_length={max_length}."
            )

    def check_vocabulary(self, size):
        """Check the ids of the rules against a vocabulary.

        Args:
            size: Int V, the size of the vocabulary.

        Raises:
            ValueError: If an id does not exist, or where none is left to choose.
        """
        if size is None:
            raise ValueError("`step` must return logits whose last axis is known. Received: logits.shape[-1]=None.")
        for name in ("banned", "forbidden_last"):
            ids = getattr(self, name)
            if max(ids, default=0) >= size:
                raise ValueError(
                    f"`{name}` must hold ids below the vocabulary size {size}. Received: {name}={list(ids)}."
                )
        if len(set(self.banned)) == size:
            raise ValueError(
                f"`banned` must leave at least one of the {size} ids of the vocabulary. "
                f"Received: banned={list(self.banned)}."
            )


def _checked_ids(name, ids):
    if isinstance(ids, str | bytes) or not hasattr(ids, "__iter__"):
        raise ValueError(f"`{name}` must be a list of ids. Received: {shown(name, ids)}")
    ids = tuple(ids)
    for i in ids:
        if isinstance(i, bool) or not isinstance(i, int | np.integer) or i < 0:
            raise ValueError(f"`{name}` must hold ids, integers of at least 0. Received: {shown('id', i)}")
    return tuple(int(i) for i in ids)
