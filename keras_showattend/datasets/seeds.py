"""The one rule for the seeds of this package."""

import numbers


def check_seed(seed):
    """Returns `seed` as an int, or raises a ValueError unless it is an integer of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(
            f"`seed` must be a non-negative integer. Received: seed={seed!r} (type {type(seed).__name__})."
        )
    return int(seed)
