"""Checks of arguments that several classes share, and the one form of their messages."""


def check_positive_integer(name, value):
    """Raise a ValueError unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {_shown(name, value)}")
    return value


def check_fraction(name, value):
    """Raise a ValueError unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {_shown(name, value)}")
    return float(value)


def check_not_negative(name, value):
    """Raise a ValueError unless `value` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"`{name}` must be a finite number >= 0. Received: {_shown(name, value)}")
    return float(value)


def shapes_agree(shape, other):
    """Whether two static shapes are equal on the leading axes that both have, wherever both sizes are known."""
    return all(a == b or None in (a, b) for a, b in zip(shape, other, strict=False))


def _shown(name, value):
    return f"{name}={value!r} (type {type(value).__name__})."
