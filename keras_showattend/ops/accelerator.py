"""Whether there is a GPU or a TPU, whose fastest way is another than a processor's."""

import keras


def on_accelerator():
    """Whether the backend computes on a GPU or TPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    # Keras puts every tensor on the device that it found, or that a `device` scope names.
    return keras.ops.zeros(()).device.type != "cpu"


def on_jax_accelerator():
    """Whether the backend is JAX, and computes on a GPU or TPU."""
    return keras.backend.backend() == "jax" and on_accelerator()
