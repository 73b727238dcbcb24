"""The form of a metric's figures."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """A metric of all captions together, and of each.

    Attributes:
        score: Float.
        per_image: `{image_id: float}`, in the order of the captions.
    """

    score: float
    per_image: dict


def mean_scores(image_ids, values):
    """The `Scores` of a metric that is a mean over images."""
    return Scores(float(np.mean(values)), dict(zip(image_ids, map(float, values), strict=True)))
