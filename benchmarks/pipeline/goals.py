"""The goals of the parts, each a bound on the ratio of one contender to its part's reference."""

from typing import NamedTuple

from contenders import GROUPED

from pipeline.extraction import BUILD
from pipeline.reading import STORE
from pipeline.training import FROM_STORE


class Goal(NamedTuple):
    """A bound on a ratio."""

    part: str
    name: str
    bound: float
    at_least: bool

    def of(self, result):
        """What became of it, a dict, by the results of its part."""
        ratio = next((row["ratio"] for row in result["contenders"] if row["name"] == self.name), None)
        reached = None
        if ratio is not None:
            reached = ratio >= self.bound if self.at_least else ratio <= self.bound
        verdict = "not measured" if ratio is None else f"{ratio:.4g}, {'reached' if reached else 'missed'}"
        sentence = (
            f"Goal, {self.part}: {self.name}, in {result['unit']}, {'at least' if self.at_least else 'at most'} "
            f"{self.bound:g} times {result['reference']}: {verdict}."
        )
        return {**self._asdict(), "ratio": ratio, "reached": reached, "sentence": sentence}


GOALS = (
    Goal("extraction", BUILD, 0.9, at_least=True),
    Goal("size", STORE, 0.51, at_least=False),
    Goal("read", GROUPED, 5, at_least=True),
    Goal("training", FROM_STORE, 1.05, at_least=False),
)


def goals_of(result):
    """The goals of the parts that have results, as dicts.

    Args:
        result: Dict from the names of parts to their results, or None.
    """
    return [goal.of(result[goal.part]) for goal in GOALS if result[goal.part]]
