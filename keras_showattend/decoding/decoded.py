"""What decoding returns, and how it is filled in step by step."""

from typing import NamedTuple

from keras import ops


class Decoded(NamedTuple):
    """Sequences and what was seen on the way: B of them, T = `max_length`.

    With `n_best` above 1 an axis of that size follows B.

    Attributes:
        tokens: Int32, `(B, T)`, the end id kept, the padding id after it.
        scores: `(B,)`, the sequences' own log-probabilities, natural logarithms, float32 at least.
        attention: `(B, T, L)`, zero after the end; None where `step` gives none.
    """

    tokens: object
    scores: object
    attention: object


def rows_of_steps(x, max_length):
    """Zeros `(R, max_length, ...)`, a place for `x` `(R, ...)` at every step."""
    shape = ops.shape(x)
    return ops.zeros((shape[0], max_length, *shape[1:]), dtype=x.dtype)


def write(buffer, x, t):
    """`buffer[:, t] = x`."""
    # JAX takes indices of one type only, and counts plain integers as int64 where that is enabled.
    zero, t = ops.zeros((), dtype="int32"), ops.cast(t, "int32")
    start = (zero, t, *[zero] * (len(buffer.shape) - 2))
    return ops.slice_update(buffer, start, x[:, None])
