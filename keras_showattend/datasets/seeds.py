"""The one rule for the seeds of this package."""

import numbers


def check_seed(seed, limit=None):
    """Returns `seed` as an int, or raises a ValueError unless it is an integer in [0, limit)."""
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or seed < 0 or (limit is not None and seed >= limit):
        rule = "a non-negative integer" if limit is None else f"a non-negative integer below {limit:,}"
        raise ValueError(f"`seed` must be {rule}. Received: seed={seed!r} (type {type(seed).__name__}).")
    return int(seed)
