"""Checks of arguments that several classes share, and the one form of their messages."""

import sys

import numpy as np


def check_integer(name, value, least):
    """The value as an int; a ValueError unless it is an integer of at least `least`."""
    if not _is_integer(value) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}. Received: {shown(name, value)}")
    return int(value)


def check_positive_integer(name, value):
    """The value as an int; a ValueError unless it is an integer of at least 1."""
    if not _is_integer(value) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {shown(name, value)}")
    return int(value)


def check_number(name, value, rule, holds):
    """The value as a float; a ValueError, with the `rule`, unless it is a finite number for which `holds(value)`."""
    number = float(value) if isinstance(value, float | np.floating) else value
    # An integer may be larger than any float; NaN is not at most anything.
    valid = (_is_integer(number) or isinstance(number, float)) and abs(number) <= sys.float_info.max
    if not valid or not holds(number):
        raise ValueError(f"`{name}` must be {rule}. Received: {shown(name, value)}")
    return float(number)


def check_fraction(name, value, rule="a number in [0, 1)"):
    """The value as a float; a ValueError, with the `rule`, unless it is a number in [0, 1)."""
    return check_number(name, value, rule, lambda x: 0 <= x < 1)


def check_not_negative(name, value):
    """The value as a float; a ValueError unless it is a finite number of at least 0."""
    return check_number(name, value, "a finite number >= 0", lambda x: x >= 0)


def shapes_agree(shape, other):
    """Whether two static shapes are equal on the leading axes that both have, wherever both sizes are known."""
    return all(a == b or None in (a, b) for a, b in zip(shape, other, strict=False))


def shown(name, value):
    """The value, as every message ends."""
    return f"{name}={value!r} (type {type(value).__name__})."


def _is_integer(value):
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
