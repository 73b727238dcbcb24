"""The 2018 notebook's draw of some of COCO's captions."""

import numpy as np

from keras_showattend.datasets.seeds import check_seed

# What NumPy's `RandomState`, which scikit-learn draws with, takes.
SEED_LIMIT = 2**32


def check_draw_seed(seed):
    """Returns `seed` as an int, or raises a ValueError unless it lies in [0, 2**32)."""
    return check_seed(seed, limit=SEED_LIMIT)


def draw_captions(total, count, seed):
    """Draws captions without replacement, as the notebook did.

    Its line was `sklearn.utils.shuffle(captions, names, random_state=1)[:30000]`, over the
    annotations in the file's order.

    Args:
        total: Int, the number of captions.
        count: Int, how many to draw; above `total`, all are drawn.
        seed: Int in [0, 2**32).

    Returns:
        int array of places in the file, ascending.
    """
    return np.sort(np.random.RandomState(seed).permutation(total)[:count])
