"""Additive attention with learned projections of query and key."""

import keras
from keras import ops

from keras_showattend.layers.dropout import Dropout
from keras_showattend.ops import additive_attention
from keras_showattend.ops.projection import project
from keras_showattend.validation import check_fraction, check_positive_integer, shapes_agree


@keras.saving.register_keras_serializable(package="keras_showattend")
class BahdanauAttention(keras.layers.Layer):
    """Lets each query look at a set of locations and returns what it saw.

        e_l = v . tanh(W_q q + b_q + W_k k_l + b_k);   a = softmax(e);   c = sum_l a_l x_l

    with `query` q, `key` k and `value` x. Differs from the paper in having biases (`use_bias=False` gives the
    paper's form). Differs from `keras.layers.AdditiveAttention` in learning the projections W_q and W_k, in
    keys that may be projected once for a whole loop, in a single query per example, and in that a row whose
    every location is masked gets zero weights and a zero context instead of an average of masked values.

    Args:
        units: Positive int, the width `U` of the scoring space.
        use_bias: Bool, whether the projections have biases.
        dropout: Float in [0, 1), the share of attention weights dropped in training.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        query: Float, `(B, Q)` for one query an example, or `(B, T, Q)`.
        value: Float, `(B, L, D)`.
        key: Optional float, `(B, L, K)`; defaults to `value`.
        value_mask: Optional bool, `(B, L)`; True = attend. Keras fills it in when `value` carries a mask. A row
            with no True gives zero weights and a zero context, never NaN.
        projected_key: Optional float, `(B, L, U)`, from `project_key`; then `key` is not used.
        return_attention_scores: Bool, whether to return the weights too.
        training: Bool, whether to drop weights.

    Returns:
        context: `(B, D)` or `(B, T, D)`, compute dtype.
        weights: `(B, L)` or `(B, T, L)`, compute dtype, where asked for. They sum to 1 over L, or to 0 where all
            is masked; with dropout, these are the weights after it.

    Raises:
        ValueError: If `units` is not a positive int or `dropout` not in [0, 1); if `query`, `value`, `key`,
            `projected_key` or `value_mask` has a wrong rank or does not fit the others; if `project_key` is called
            before the layer is built.

    Example:
    >>> import keras_showattend, numpy as np
    >>> attention = keras_showattend.layers.BahdanauAttention(units=8)
    >>> query, value = np.ones((2, 5)), np.ones((2, 49, 16))
    >>> context, weights = attention(query, value, return_attention_scores=True)
    >>> tuple(context.shape), tuple(weights.shape)
    ((2, 16), (2, 49))

    Reference: Bahdanau, Cho, Bengio 2015, arXiv 1409.0473, section 3.1, equations 5 and 6, and appendix A.1.2.
    """

    def __init__(self, units, use_bias=True, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.units = check_positive_integer("units", units)
        self.use_bias = bool(use_bias)
        self.dropout = check_fraction("dropout", dropout)
        # A child layer, so that its seed is part of the layer's state on every backend.
        self.weights_dropout = Dropout(self.dropout, dtype=self.dtype_policy)
        self.supports_masking = True

    def build(self, query_shape, value_shape, key_shape=None, projected_key_shape=None):
        key_shape = key_shape or value_shape
        self.query_kernel = self._add_kernel("query_kernel", (query_shape[-1], self.units))
        self.key_kernel = self._add_kernel("key_kernel", (key_shape[-1], self.units))
        if self.use_bias:
            self.query_bias = self.add_weight(name="query_bias", shape=(self.units,), initializer="zeros")
            self.key_bias = self.add_weight(name="key_bias", shape=(self.units,), initializer="zeros")
        # One column, so that glorot's bounds are those of a layer with one output.
        self.score_kernel = self._add_kernel("score_kernel", (self.units, 1))
        self.weights_dropout.build((*query_shape[:-1], value_shape[1]))

    def _add_kernel(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="glorot_uniform")

    def project_key(self, key):
        """W_k k + b_k, once for a loop of many queries.

        Args:
            key: Float, `(B, L, K)`.

        Returns:
            `(B, L, U)` in the compute dtype, for `projected_key`.

        Raises:
            ValueError: If the layer is not built, or if the width of `key` is not the built one.

        Example:
        ```python
        attention = keras_showattend.layers.BahdanauAttention(units=8)
        attention.build((None, 5), (None, 49, 16))
        value = np.ones((2, 49, 16))
        projected_key = attention.project_key(value)  # once
        for query in np.ones((3, 2, 5)):
            context = attention(query, value, projected_key=projected_key)  # (2, 16)
        ```
        """
        if not self.built:
            raise ValueError(
                f"`project_key` needs the weights of {self.name!r}: call the layer once, or "
                "`build(query_shape, value_shape)`, before. Received: built=False."
            )
        key = ops.cast(ops.convert_to_tensor(key), self.compute_dtype)
        self._check_width("key", key, self.key_kernel.shape[0])
        return self._project(key, self.key_kernel, self.key_bias if self.use_bias else None)

    def _project(self, x, kernel, bias):
        dtype = self.compute_dtype
        return project(x, ops.cast(kernel, dtype), None if bias is None else ops.cast(bias, dtype))

    def call(
        self,
        query,
        value,
        key=None,
        value_mask=None,
        projected_key=None,
        return_attention_scores=False,
        training=None,
    ):
        self._check_inputs(query, value, key, value_mask, projected_key)
        if projected_key is None:
            projected_key = self.project_key(value if key is None else key)
        self._check_width("query", query, self.query_kernel.shape[0])
        # Projected first: the gradient of a product of rank 3 does not compile inside a loop under XLA on TensorFlow.
        query = self._project(query, self.query_kernel, self.query_bias if self.use_bias else None)
        one_query = len(query.shape) == 2
        if one_query:
            query = query[:, None]
        weights = additive_attention(
            query,
            projected_key,
            ops.cast(self.score_kernel, self.compute_dtype),
            None if value_mask is None else ops.cast(value_mask, "bool"),
        )
        weights = ops.cast(weights, self.compute_dtype)
        weights = self.weights_dropout(weights, training=training)
        # (B, T, L) @ (B, L, D)
        context = ops.matmul(weights, value)
        if one_query:
            context, weights = context[:, 0], weights[:, 0]
        return (context, weights) if return_attention_scores else context

    def _check_inputs(self, query, value, key, value_mask, projected_key):
        if len(query.shape) not in (2, 3):
            raise ValueError(
                f"`query` must have the shape (B, Q) or (B, T, Q). Received: query.shape={tuple(query.shape)}."
            )
        if len(value.shape) != 3:
            raise ValueError(f"`value` must have the shape (B, L, D). Received: value.shape={tuple(value.shape)}.")
        for name, x in (("key", key), ("projected_key", projected_key)):
            if x is not None and (len(x.shape) != 3 or not shapes_agree(x.shape[:2], value.shape[:2])):
                raise ValueError(
                    f"`{name}` must have rank 3 and the batch size and locations of `value`. Received: "
                    f"{name}.shape={tuple(x.shape)}, value.shape={tuple(value.shape)}."
                )
        if projected_key is not None:
            self._check_width("projected_key", projected_key, self.units)
        if not shapes_agree(query.shape[:1], value.shape[:1]):
            raise ValueError(
                "`query` and `value` must have the same batch size. Received: "
                f"query.shape={tuple(query.shape)}, value.shape={tuple(value.shape)}."
            )
        if value_mask is not None and (
            len(value_mask.shape) != 2 or not shapes_agree(value_mask.shape, value.shape[:2])
        ):
            raise ValueError(
                "`value_mask` must have the shape (B, L) of `value`. Received: "
                f"value_mask.shape={tuple(value_mask.shape)}, value.shape={tuple(value.shape)}."
            )

    def _check_width(self, name, x, width):
        if x.shape[-1] != width:
            raise ValueError(
                f"The last axis of `{name}` must have the width {width} that {self.name!r} was built with. "
                f"Received: {name}.shape={tuple(x.shape)}."
            )

    def compute_mask(self, query, previous_mask=None):
        # A context stands where its query stood, so the mask of the queries goes on; that of `value` ends here.
        return previous_mask if len(query.shape) == 3 else None

    def compute_output_shape(self, query_shape, value_shape, key_shape=None, projected_key_shape=None):
        return (*query_shape[:-1], value_shape[-1])

    def compute_output_spec(
        self,
        query,
        value,
        key=None,
        value_mask=None,
        projected_key=None,
        return_attention_scores=False,
        training=None,
    ):
        self._check_inputs(query, value, key, value_mask, projected_key)
        leading = tuple(query.shape[:-1])
        context = keras.KerasTensor((*leading, value.shape[-1]), dtype=self.compute_dtype)
        if not return_attention_scores:
            return context
        return context, keras.KerasTensor((*leading, value.shape[1]), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
        }
