"""x K + b, and the gradient of K in the order of its product that is fastest."""

import functools

import keras
from keras import ops

from keras_showattend.ops.accelerator import on_accelerator
from keras_showattend.ops.gradients import custom_gradient


def project(x, kernel, bias=None):
    """Multiply with a kernel and add a bias at every position: x K + b.

    The same numbers as `keras.ops.matmul`, whose gradient it leaves to the backend but where TensorFlow compiles for a
    processor: there XLA computes that of K, x^T d, as `weight_gradient` does.

    Args:
        x: Float, `(..., I)`.
        kernel: Float K, `(I, O)`, in the dtype of `x`.
        bias: Optional float b, `(O,)`, likewise.

    Returns:
        `(..., O)`.

    Example:
    >>> from keras import ops
    >>> from keras_showattend.ops.projection import project
    >>> tuple(project(ops.ones((2, 3, 4)), ops.ones((4, 5)), ops.zeros(5)).shape)
    (2, 3, 5)
    """
    if keras.backend.backend() == "tensorflow" and _compiled_for_processor():
        # A variable too, of which TensorFlow's gradients by hand know nothing.
        shape, x, kernel = ops.shape(x), ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
        projected = _product(ops.reshape(x, (-1, kernel.shape[0])), kernel)
        # The bias is added to rows: its gradient is a sum over one axis, not over several.
        projected = projected if bias is None else ops.add(projected, bias)
        return ops.reshape(projected, (*shape[:-1], kernel.shape[-1]))
    projected = ops.matmul(x, kernel)
    return projected if bias is None else ops.add(projected, bias)


@custom_gradient
def _product(x, kernel):
    def gradient(upstream):
        return ops.matmul(upstream, ops.transpose(kernel)), weight_gradient(x, upstream)

    return ops.matmul(x, kernel), gradient


def weight_gradient(x, d):
    """x^T d, the gradient of a kernel that x was multiplied with.

    On a processor XLA's product is slow with a first factor that lies transposed in memory: at the notebook's sizes it
    takes 1.1 times, with the wide features first 1.4 times as long as one of factors that lie as they are multiplied.
    The narrower factor is therefore turned before, in an array of its own.

    Args:
        x: Float, `(R, I)`.
        d: Float, `(R, O)`, the gradient of the product's R rows.

    Returns:
        `(I, O)`.
    """
    if not _compiled_for_processor():
        return ops.matmul(ops.transpose(x), d)
    if x.shape[-1] <= d.shape[-1]:
        return ops.matmul(_as_it_is(ops.transpose(x)), d)
    # Without the outer one XLA would turn the product's factors around, not its result.
    return ops.transpose(_as_it_is(ops.matmul(_as_it_is(ops.transpose(d)), x)))


def _compiled_for_processor():
    """Whether XLA compiles what is computed here, for a processor."""
    backend = keras.backend.backend()
    if backend == "torch" or on_accelerator():
        return False
    return backend == "jax" or _tensorflow_compiles()


def _tensorflow_compiles():
    import tensorflow as tf

    try:
        # Public interfaces don't tell. If these move, products are slower and no less right.
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:
        return False
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _as_it_is(x):
    """`x`, as an array that XLA neither moves nor merges with the product that it goes into."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.optimization_barrier(x)
    return _tensorflow_barrier()(x)


@functools.cache
def _tensorflow_barrier():
    import tensorflow as tf

    try:
        from tensorflow.compiler.tf2xla.python import xla
    except ImportError:
        return lambda x: x
    # TensorFlow knows no gradient of it. What it registers of one by hand stays in memory as long as the process, here
    # and wherever else a gradient is by hand: a little for each program that is traced.
    barrier = tf.custom_gradient(lambda x: (xla.optimization_barrier(x)[0], lambda upstream: upstream))
    # Compiled by itself, if a graph that was traced for XLA should ever run without it.
    return tf.function(lambda x: barrier(x), autograph=False, jit_compile=True)
