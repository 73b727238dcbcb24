"""From backbone features to what the decoder attends to."""

import math

import keras
from keras import ops

from keras_showattend.layers.dropout import Dropout
from keras_showattend.layers.projection import Projection
from keras_showattend.validation import check_fraction, check_positive_integer


@keras.saving.register_keras_serializable(package="keras_showattend")
class FeatureEncoder(keras.layers.Layer):
    """Maps the features of every location to the width that the decoder attends to.

        y_l = activation(W x_l + b), the same W and b at every location

    Args:
        embed_dim: Positive int, the width `E` of the result.
        activation: Name or function, as in `keras.layers.Dense`.
        dropout: Float in [0, 1), the share of input values dropped in training.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        features: Float, `(B, L, D)`, or a grid `(B, H, W, D)` whose locations are taken row by row.
        training: Bool, whether to drop values.

    Returns:
        `(B, L, E)` with L = H x W for a grid, compute dtype. A mask of `(B, L, D)` features is passed on.

    Raises:
        ValueError: If `embed_dim` is not a positive int, `dropout` not in [0, 1), or `features` not of rank 3 or 4 or
            not of the width that the layer was built with.

    Example:
    >>> import keras_showattend, numpy as np
    >>> encoder = keras_showattend.layers.FeatureEncoder(embed_dim=16)
    >>> tuple(encoder(np.ones((2, 7, 7, 1280))).shape)
    (2, 49, 16)

    Reference: the CNN encoder of TensorFlow's notebook "Image Captioning with Attention", 2018; the annotation
    vectors a_i of Xu et al. 2015, arXiv 1502.03044, section 3.1.1, with a learned projection.
    """

    def __init__(self, embed_dim, activation="relu", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = check_positive_integer("embed_dim", embed_dim)
        self.activation = keras.activations.get(activation)
        self.dropout = check_fraction("dropout", dropout)
        self.input_dropout = Dropout(self.dropout, dtype=self.dtype_policy)
        self.projection = Projection(
            self.embed_dim, activation=self.activation, dtype=self.dtype_policy, name="projection"
        )
        self.supports_masking = True

    def build(self, features_shape):
        self._check_shape(features_shape)
        self.input_dropout.build(features_shape)
        # (B, L, D) in either case
        self.projection.build((None, None, features_shape[-1]))

    def call(self, features, training=None):
        self._check_shape(features.shape)
        if len(features.shape) == 4:
            batch, rows, columns, width = ops.shape(features)
            features = ops.reshape(features, (batch, rows * columns, width))
        return self.projection(self.input_dropout(features, training=training))

    def _check_shape(self, shape):
        if len(shape) not in (3, 4):
            raise ValueError(
                f"`features` must have the shape (B, L, D) or (B, H, W, D). Received: features.shape={tuple(shape)}."
            )
        width = self.projection.kernel.shape[0] if self.projection.built else None
        if None not in (width, shape[-1]) and shape[-1] != width:
            raise ValueError(
                f"The last axis of `features` must have the width {width} that {self.name!r} was built with. "
                f"Received: features.shape={tuple(shape)}."
            )

    def compute_mask(self, features, previous_mask=None):
        return previous_mask if len(features.shape) == 3 else None

    def compute_output_shape(self, features_shape):
        self._check_shape(features_shape)
        batch, *locations, _ = features_shape
        return (batch, None if None in locations else math.prod(locations), self.embed_dim)

    def compute_output_spec(self, features, training=None):
        return keras.KerasTensor(self.compute_output_shape(features.shape), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }
