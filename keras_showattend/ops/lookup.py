"""Rows of a table, with a gradient that every optimizer reads in the same way."""

from keras import ops

from keras_showattend.ops.gradients import custom_gradient
from keras_showattend.ops.precision import at_least_float32


def lookup(table, indices):
    """The rows of `table` at `indices`.

    The gradient of `table` is a dense tensor in which a row that was read several times has the sum. TensorFlow's
    own would be `IndexedSlices`, an entry for every reading, and Keras's Adam squares those one by one: frequent
    words would then learn faster than on JAX and torch.

    Args:
        table: Float, `(V, E)`.
        indices: Int of any dtype, any shape, 0 to V - 1.

    Returns:
        `(..., E)`, in the dtype of `table`.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.ops import lookup
    >>> tuple(lookup(ops.ones((9, 4)), ops.ones((2, 3), dtype="int32")).shape)
    (2, 3, 4)
    """
    rows, width = table.shape
    indices = ops.cast(indices, "int32")

    @custom_gradient
    def run(table):
        def gradient(upstream):
            entries = at_least_float32(ops.reshape(upstream, (-1, width)))
            total = ops.segment_sum(entries, ops.reshape(indices, (-1,)), num_segments=rows)
            return ops.cast(total, table.dtype)

        return ops.take(table, indices, axis=0), gradient

    return run(table)
