"""Pieces of a TensorFlow graph that become one kernel each."""

import contextlib
import contextvars
import functools

import keras

from keras_showattend.ops.accelerator import on_accelerator

_active = contextvars.ContextVar("fusing", default=False)


@contextlib.contextmanager
def fusing():
    """A context in which functions marked `fused` are compiled by XLA, inside the graph that is traced.

    It is for long loops on TensorFlow without a GPU, which else writes every intermediate array to memory and reads it
    again: what a step of decoding does with its queries and keys is four to six times as fast. The products around it
    stay with TensorFlow, whose kernels are faster than XLA's there. A shape that is new costs a tenth of a second for
    each function, and what was compiled for it stays with the process: with many sizes, fix the `batch_size`. On other
    backends, which compile all or nothing, it changes nothing.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.ops.fusing import fused, fusing
    >>> double = fused(lambda x: x + x)
    >>> with fusing():
    ...     float(double(ops.ones(())))
    2.0
    """
    token = _active.set(keras.backend.backend() == "tensorflow" and not on_accelerator())
    try:
        yield
    finally:
        _active.reset(token)


def fused(function):
    """The function; inside `fusing` it is one kernel. Its arguments, by position, are tensors or hashable."""

    @functools.wraps(function)
    def run(*arrays):
        return _compiled(function)(*arrays) if _active.get() else function(*arrays)

    return run


@functools.cache
def _compiled(function):
    import tensorflow as tf

    # Not `reduce_retracing`: after a model of another width it would hide the widths, which reshapes must know.
    return tf.function(function, autograph=False, jit_compile=True)
