"""A GRU that looks at the features before every word."""

import math

import keras
from keras import backend, ops

from keras_showattend.layers.bahdanau_attention import BahdanauAttention
from keras_showattend.ops import (
    AttentionGRUWeights,
    at_least_float32_dtype,
    attention_gru,
    attention_gru_step,
    lookup,
)
from keras_showattend.ops.additive_attention import exponentials
from keras_showattend.validation import check_fraction, check_positive_integer, shapes_agree


@keras.saving.register_keras_serializable(package="keras_showattend")
class AttentionGRUDecoder(keras.layers.Layer):
    """Writes a sequence of tokens while attending to a set of features.

        c_t = attention(h_{t-1}, features)
        h_t = GRU([c_t, embedding(token_t)], h_{t-1})
        logits_t = W_o (W_h h_t + b_h) + b_o

    The GRU is that of `keras.layers.GRU(reset_after=True)`, with the same gate order and weight layout: its weights,
    in `decoder.gru`, move between the two. Differs from Xu et al. in the cell (theirs is an LSTM) and from the 2018
    TensorFlow notebook in that the state goes through the GRU from step to step (there only the attention saw it).

    Keys are projected once, the token half of the gates and the vocabulary layer run on all steps at once, and the
    loop's gradient is written by hand: see `keras_showattend.ops.attention_gru`.

    Args:
        vocab_size: Positive int `V`, number of token ids.
        embed_dim: Positive int `E`, width of the token embeddings.
        units: Positive int `U`, width of the state.
        attention_units: Positive int, width of the attention's scoring space; None takes `units`.
        dropout: Float in [0, 1), applied to the embeddings and before the vocabulary layer.
        kernel_initializer: For the kernels of the GRU's inputs and of the two output layers.
        recurrent_initializer: For the GRU's recurrent kernel.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        tokens: Int, `(B, T)`; or `(N, G, T)`, G captions for each of N images, and B stands for N x G.
        features: Float, `(B, L, F)` or `(N, L, F)`; any L, F fixed when the layer is built.
        features_mask: Optional bool, `(B, L)` or `(N, L)`; True = attend. Keras fills it in when `features`
            carries a mask. Where nothing may be attended to, the context is zero.
        initial_state: Optional float, `(B, U)`; zeros otherwise.
        return_state: Bool, whether to return the state after the last step.
        return_attention_scores: Bool, whether to return the attention weights.
        training: Bool, whether to apply dropout.

    Returns:
        logits: `(B, T, V)` or `(N, G, T, V)`, float32 at least.
        state: `(B, U)`, compute dtype, where asked for.
        weights: `(B, T, L)` or `(N, G, T, L)`, compute dtype, where asked for.

        Every token is a step, padding too: padding behind a caption leaves the outputs before it as they are, and
        the returned state is the one after all T steps.

    Raises:
        ValueError: If a size is not a positive int or `dropout` not in [0, 1); if `tokens`, `features`,
            `features_mask` or `initial_state` has a wrong rank, batch size or width; if `prepare` or `step` is
            called before the layer is built.

    Example:
    >>> import keras_showattend, numpy as np
    >>> decoder = keras_showattend.layers.AttentionGRUDecoder(vocab_size=50, embed_dim=8, units=16)
    >>> tokens, features = np.ones((2, 7), "int32"), np.ones((2, 49, 32), "float32")
    >>> logits, weights = decoder(tokens, features, return_attention_scores=True)
    >>> tuple(logits.shape), tuple(weights.shape)
    ((2, 7, 50), (2, 7, 49))
    >>> memory = decoder.prepare(features)
    >>> logits, state, weights = decoder.step(tokens[:, 0], decoder.initial_state(2), memory)
    >>> tuple(logits.shape)
    (2, 50)

    Reference: Xu et al. 2015, arXiv 1502.03044, section 3.1.2 with the soft attention of 4.2; the attention of
    Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2; the GRU of Cho et al. 2014, arXiv 1406.1078.
    """

    def __init__(
        self,
        vocab_size,
        embed_dim,
        units,
        attention_units=None,
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = check_positive_integer("vocab_size", vocab_size)
        self.embed_dim = check_positive_integer("embed_dim", embed_dim)
        self.units = check_positive_integer("units", units)
        if attention_units is not None:
            check_positive_integer("attention_units", attention_units)
        self.attention_units = attention_units
        self.dropout = check_fraction("dropout", dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)

        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(self.vocab_size, self.embed_dim, dtype=policy, name="embedding")
        self.attention = BahdanauAttention(attention_units or self.units, dtype=policy, name="attention")
        self.gru = keras.layers.GRUCell(
            self.units,
            kernel_initializer=_clone(self.kernel_initializer),
            recurrent_initializer=_clone(self.recurrent_initializer),
            dtype=policy,
            name="gru",
        )
        self.hidden = keras.layers.Dense(
            self.units,
            kernel_initializer=_clone(self.kernel_initializer),
            dtype=policy,
            name="hidden",
        )
        # Half precision would leave three digits of a logit.
        self.vocabulary = keras.layers.Dense(
            self.vocab_size,
            kernel_initializer=_clone(self.kernel_initializer),
            dtype=at_least_float32_dtype(self.compute_dtype),
            name="vocabulary",
        )
        self.embedding_dropout = keras.layers.Dropout(self.dropout, dtype=policy)
        self.output_dropout = keras.layers.Dropout(self.dropout, dtype=policy)
        self.supports_masking = True

    def build(self, tokens_shape, features_shape):
        width = features_shape[-1]
        if width is None:
            raise ValueError(
                "The width of `features`, its last axis, must be known to build the decoder. "
                f"Received: features.shape={tuple(features_shape)}."
            )
        self.embedding.build(tokens_shape)
        self.attention.build((None, self.units), (None, None, width))
        self.gru.build((None, width + self.embed_dim))
        self.hidden.build((None, None, self.units))
        self.vocabulary.build((None, None, self.units))
        self.embedding_dropout.build((None, None, self.embed_dim))
        self.output_dropout.build((None, None, self.units))

    def prepare(self, features, features_mask=None):
        """What does not change from step to step: the features, and what is made of their keys.

        Args:
            features: Float, `(N, L, F)`.
            features_mask: Optional bool, `(N, L)`, True = attend.

        Returns:
            A dict of tensors, every one with N rows: `features`; `key_exponentials`, at least float32, which a step
            would else compute anew from the keys; and, where there is one, `mask`.

        Raises:
            ValueError: If the layer is not built, or a shape does not fit.
        """
        self._check_built("prepare")
        self._check_features(features, features_mask)
        features = self._cast(features)
        memory = {"features": features, "key_exponentials": exponentials(self.attention.project_key(features))}
        if features_mask is not None:
            memory["mask"] = _bool(features_mask)
        return memory

    def initial_state(self, batch_size):
        """The state before the first step: zeros `(batch_size, U)`, compute dtype."""
        return ops.zeros((batch_size, self.units), dtype=self.compute_dtype)

    def step(self, token, state, memory):
        """One step without dropout: reads a token, returns the logits of the next one.

        Args:
            token: Int, `(B,)`. B is a multiple of the N rows of `memory`; with B = N x G, the first G tokens belong
                to the first row, and so on, so that several captions share an image's features.
            state: Float, `(B, U)`, from `initial_state` or the step before.
            memory: What `prepare` returned.

        Returns:
            logits `(B, V)`, float32 at least; state `(B, U)`; attention weights `(B, L)`.

        Raises:
            ValueError: If the layer is not built, or `token` or `state` has a wrong shape.
        """
        self._check_built("step")
        token, state = ops.convert_to_tensor(token), ops.convert_to_tensor(state)
        if len(token.shape) != 1:
            raise ValueError(f"`token` must have the shape (B,). Received: token.shape={tuple(token.shape)}.")
        self._check_state("state", state, token.shape[0])
        rows = memory["features"].shape[0]
        if None not in (rows, token.shape[0]) and token.shape[0] % rows:
            raise ValueError(
                f"`token` must have a multiple of the {rows} rows of `memory`. "
                f"Received: token.shape={tuple(token.shape)}."
            )
        inputs = self._input_gates(self.embedding(token))
        state, weights = attention_gru_step(
            inputs,
            ops.cast(state, self.compute_dtype),
            None,
            memory["features"],
            memory.get("mask"),
            self._recurrence_weights(),
            key_exponentials=memory["key_exponentials"],
        )
        return self.vocabulary(self.hidden(state)), state, weights

    def call(
        self,
        tokens,
        features,
        features_mask=None,
        initial_state=None,
        return_state=False,
        return_attention_scores=False,
        training=None,
    ):
        self._check_inputs(tokens, features, features_mask, initial_state)
        shape = ops.shape(tokens)
        features = self._cast(features)
        # Time first, while the arrays are still narrow: (T, B)
        tokens = ops.transpose(ops.reshape(tokens, (-1, shape[-1])))
        embedded = lookup(self._cast(self.embedding.embeddings), tokens)
        embedded = self.embedding_dropout(embedded, training=training)
        if initial_state is None:
            initial_state = self.initial_state(ops.shape(tokens)[1])
        states, weights = attention_gru(
            self._input_gates(embedded),
            ops.cast(initial_state, self.compute_dtype),
            self.attention.project_key(features),
            features,
            None if features_mask is None else _bool(features_mask),
            self._recurrence_weights(),
            return_attention=return_attention_scores,
        )
        hidden = self.hidden(_like_tokens(states, shape))
        outputs = [self.vocabulary(self.output_dropout(hidden, training=training))]
        if return_state:
            outputs.append(states[-1])
        if return_attention_scores:
            outputs.append(_like_tokens(weights, shape))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _input_gates(self, embedded):
        """The half of the GRU's gates that does not wait for the state: `(..., E)` to `(..., 3U)`."""
        embedded = ops.cast(embedded, self.compute_dtype)
        kernel, bias = self._cast(self.gru.kernel), self._cast(self.gru.bias)
        return ops.matmul(embedded, kernel[-self.embed_dim :]) + bias[0]

    def _recurrence_weights(self):
        attention, gru = self.attention, self.gru
        return AttentionGRUWeights(
            query_kernel=self._cast(attention.query_kernel),
            query_bias=self._cast(attention.query_bias),
            score_kernel=self._cast(attention.score_kernel),
            context_kernel=self._cast(gru.kernel)[: -self.embed_dim],
            recurrent_kernel=self._cast(gru.recurrent_kernel),
            recurrent_bias=self._cast(gru.bias)[1],
        )

    def _cast(self, x):
        # `step` and `prepare` run outside `__call__`, where Keras does not cast weights and inputs by itself.
        return ops.cast(ops.convert_to_tensor(x), self.compute_dtype)

    def _check_built(self, method):
        if not self.built:
            raise ValueError(
                f"`{method}` needs the weights of {self.name!r}: call the layer once, or "
                "`build(tokens_shape, features_shape)`, before. Received: built=False."
            )

    def _check_features(self, features, features_mask):
        shape = tuple(features.shape)
        width = self.attention.key_kernel.shape[0] if self.built else None
        if len(shape) != 3 or (width is not None and shape[-1] != width):
            wanted = "F" if width is None else f"F={width}"
            raise ValueError(f"`features` must have the shape (N, L, {wanted}). Received: features.shape={shape}.")
        if features_mask is None:
            return
        mask_shape = tuple(features_mask.shape)
        if len(mask_shape) != 2 or not shapes_agree(mask_shape, shape):
            raise ValueError(
                "`features_mask` must have the shape (N, L) of `features`. Received: "
                f"features_mask.shape={mask_shape}, features.shape={shape}."
            )

    def _check_state(self, name, state, batch):
        shape = tuple(state.shape)
        if len(shape) != 2 or not shapes_agree(shape[:1], (batch,)) or shape[1] != self.units:
            raise ValueError(
                f"`{name}` must have the shape (B, {self.units}), B={batch}. Received: {name}.shape={shape}."
            )

    def _check_inputs(self, tokens, features, features_mask, initial_state):
        shape = tuple(tokens.shape)
        if len(shape) not in (2, 3):
            raise ValueError(f"`tokens` must have the shape (B, T) or (N, G, T). Received: tokens.shape={shape}.")
        if not backend.is_int_dtype(tokens.dtype):
            raise ValueError(
                f"`tokens` must be integers. Received: tokens.dtype={backend.standardize_dtype(tokens.dtype)}."
            )
        self._check_features(features, features_mask)
        if not shapes_agree(shape[:1], features.shape[:1]):
            raise ValueError(
                "`tokens` and `features` must have the same number of rows. Received: "
                f"tokens.shape={shape}, features.shape={tuple(features.shape)}."
            )
        if initial_state is not None:
            batch = None if None in shape[:-1] else math.prod(shape[:-1])
            self._check_state("initial_state", initial_state, batch)

    def compute_mask(self, tokens, previous_mask=None):
        # Logits carry no mask: the loss finds padding in the targets.
        return None

    def compute_output_shape(self, tokens_shape, features_shape):
        return (*tokens_shape, self.vocab_size)

    def compute_output_spec(
        self,
        tokens,
        features,
        features_mask=None,
        initial_state=None,
        return_state=False,
        return_attention_scores=False,
        training=None,
    ):
        self._check_inputs(tokens, features, features_mask, initial_state)
        shape = tuple(tokens.shape)
        outputs = [keras.KerasTensor((*shape, self.vocab_size), dtype=self.vocabulary.dtype)]
        if return_state:
            batch = None if None in shape[:-1] else math.prod(shape[:-1])
            outputs.append(keras.KerasTensor((batch, self.units), dtype=self.compute_dtype))
        if return_attention_scores:
            outputs.append(keras.KerasTensor((*shape, features.shape[1]), dtype=self.compute_dtype))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "vocab_size": self.vocab_size,
            "embed_dim": self.embed_dim,
            "units": self.units,
            "attention_units": self.attention_units,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
        }


def _like_tokens(x, tokens_shape):
    """`(T, B, W)` to the layout of the tokens, `(..., T, W)`."""
    x = ops.transpose(x, (1, 0, 2))
    return ops.reshape(x, (*tokens_shape, ops.shape(x)[-1]))


def _bool(mask):
    return ops.cast(ops.convert_to_tensor(mask), "bool")


def _clone(initializer):
    # An initializer draws the same values again for the same shape, and its clone draws others.
    return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer
