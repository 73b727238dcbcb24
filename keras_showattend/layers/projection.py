"""A dense layer whose gradient is fast on a processor."""

import keras

from keras_showattend.ops.projection import project


@keras.saving.register_keras_serializable(package="keras_showattend")
class Projection(keras.layers.Dense):
    """A `keras.layers.Dense`, with the products of `keras_showattend.ops.projection`.

    The same weights, the same values and, through LoRA and quantization, the same ways to change it.
    """

    def call(self, inputs, training=None):
        projected = project(inputs, self.kernel, self.bias)
        return projected if self.activation is None else self.activation(projected)

    def quantize(self, mode=None, type_check=False, **kwargs):
        # Keras refuses classes that it does not know, whatever is asked for.
        super().quantize(mode, type_check=False, **kwargs)
