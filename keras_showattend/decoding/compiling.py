"""Decoding under the backend's compiler."""

import keras
from keras import ops

from keras_showattend.ops import without_gradients


def compile_decoding(decode, variables):
    """`decode`, compiled, without gradients, and with the values that the variables have at each call.

    Args:
        decode: Function of tensors, whose ranks stay the same, that reads `variables`.
        variables: List of Keras variables.

    Returns:
        A function of as many arrays.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Nothing in it depends on values but the loop, which is the backend's own.
        return tf.function(decode, autograph=False, reduce_retracing=True)
    if keras.backend.backend() == "jax":
        import jax

        # A compiled closure would keep the values of its first call, so they are an argument.
        @jax.jit
        def compiled(values, *arrays):
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return decode(*arrays)

        return lambda *arrays: compiled([v.value for v in variables], *arrays)

    def run(*arrays):
        with without_gradients():
            return decode(*map(ops.convert_to_tensor, arrays))

    return run
