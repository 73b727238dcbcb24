"""The last layer of a decoder, whose width is whatever the vocabulary has."""

import keras
from keras import ops

from keras_showattend.layers.projection import Projection
from keras_showattend.ops.accelerator import on_jax_accelerator

# A GPU's tensor cores want rows that start at multiples of 16 bytes. With 5,001 columns instead of 5,008 the products
# of the vocabulary layer and its loss, forward and backward, take 1.6 times as long on an H100.
_FAST_COLUMNS = 8


@keras.saving.register_keras_serializable(package="keras_showattend")
class VocabularyLayer(Projection):
    """A `keras.layers.Dense` of any number of units that is as fast on a GPU as one of a round number.

    The same weights, the same values and, through LoRA and quantization, the same ways to change it.
    """

    def call(self, inputs, training=None):
        padding = -self.units % _FAST_COLUMNS
        if not padding or not on_jax_accelerator():
            return super().call(inputs, training=training)
        logits = ops.matmul(inputs, ops.pad(self.kernel, [[0, 0], [0, padding]]))
        return logits[..., : self.units] + self.bias
