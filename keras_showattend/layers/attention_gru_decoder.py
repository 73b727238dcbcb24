"""A GRU that looks at the features before every word."""

import keras
from keras import ops

from keras_showattend.layers.bahdanau_attention import BahdanauAttention
from keras_showattend.layers.decoder_checks import batch_of, check_call, check_features, check_rows, check_state
from keras_showattend.layers.dropout import Dropout
from keras_showattend.layers.projection import Projection
from keras_showattend.layers.vocabulary_layer import VocabularyLayer
from keras_showattend.ops import (
    AttentionGRUWeights,
    ContextGate,
    at_least_float32,
    at_least_float32_dtype,
    attention_gru,
    attention_gru_step,
    lookup,
    masked_softmax,
)
from keras_showattend.ops.additive_attention import exponentials
from keras_showattend.ops.projection import project
from keras_showattend.validation import check_fraction, check_positive_integer


@keras.saving.register_keras_serializable(package="keras_showattend")
class AttentionGRUDecoder(keras.layers.Layer):
    """Writes a sequence of tokens while attending to a set of features.

        c_t = attention(h_{t-1}, features)
        h_t = GRU([c_t, embedding(token_t)], h_{t-1})
        logits_t = W_o (W_h h_t + b_h) + b_o

    from h_0 = 0. Xu et al. also have a gate beta_t, a number that says how much the image counts for this word, and a
    first state made of the image, whose features at the locations are x_l:

        c_t = beta_t attention(h_{t-1}, features)       with `context_gate=True`
        beta_t = sigmoid(w_beta . h_{t-1} + b_beta)
        h_0 = tanh(W_i mean_l(x_l) + b_i)               with `state_initializer="mean_feature"`

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
        kernel_initializer: For the kernels of the GRU's inputs, the two output layers, the gate and the first state.
        recurrent_initializer: For the GRU's recurrent kernel.
        context_gate: Bool, whether a gate scales the context; `decoder.gate(state)` gives it. The attention weights
            that are returned are those before the gate: they sum to 1.
        state_initializer: `"zeros"`, or `"mean_feature"`: the layer `decoder.first_state` of the mean of the features
            over the locations that may be attended to, or of zeros where there are none.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        tokens: Int, `(B, T)`; or `(N, G, T)`, G captions for each of N images, and B stands for N x G.
        features: Float, `(B, L, F)` or `(N, L, F)`; any L, F fixed when the layer is built.
        features_mask: Optional bool, `(B, L)` or `(N, L)`; True = attend. Keras fills it in when `features`
            carries a mask. Where nothing may be attended to, the context is zero.
        initial_state: Optional float, `(B, U)`; otherwise what `state_initializer` says.
        return_state: Bool, whether to return the state after the last step.
        return_attention_scores: Bool, whether to return the attention weights.
        training: Bool, whether to apply dropout.
        return_hidden: Bool, whether to return what the vocabulary layer gets in place of the logits, for
            `keras_showattend.ops.vocabulary_crossentropy`.

    Returns:
        logits: `(B, T, V)` or `(N, G, T, V)`, float32 at least; or hidden: `(..., U)`, compute dtype.
        state: `(B, U)`, compute dtype, where asked for.
        weights: `(B, T, L)` or `(N, G, T, L)`, compute dtype, where asked for.

        Every token is a step, padding too: padding behind a caption leaves the outputs before it as they are, and
        the returned state is the one after all T steps.

    Raises:
        ValueError: If a size is not a positive int, `dropout` not in [0, 1) or `state_initializer` not known; if
            `tokens`, `features`, `features_mask` or `initial_state` has a wrong rank, batch size or width; if
            `prepare` or `step` is called before the layer is built.

    Example:
    >>> import keras_showattend, numpy as np
    >>> decoder = keras_showattend.layers.AttentionGRUDecoder(vocab_size=50, embed_dim=8, units=16)
    >>> tokens, features = np.ones((2, 7), "int32"), np.ones((2, 49, 32), "float32")
    >>> logits, weights = decoder(tokens, features, return_attention_scores=True)
    >>> tuple(logits.shape), tuple(weights.shape)
    ((2, 7, 50), (2, 7, 49))
    >>> memory = decoder.prepare(features)
    >>> logits, state, weights = decoder.step(tokens[:, 0], decoder.initial_state(2, memory), memory)
    >>> tuple(logits.shape)
    (2, 50)

    Reference: Xu et al. 2015, arXiv 1502.03044: section 3.1.2 for decoder and first state (an MLP's of any depth; here
    of one layer), 4.2 for the soft attention, 4.2.1 for the gate; the attention of Bahdanau et al. 2015,
    arXiv 1409.0473, appendix A.1.2; the GRU of Cho et al. 2014, arXiv 1406.1078.
    """

    # `prepare` gives a row for each image and nothing else, and `step` takes any number of rows, known or not: captions
    # that have ended can leave a search.
    memory_has_rows = True

    def __init__(
        self,
        vocab_size,
        embed_dim,
        units,
        attention_units=None,
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="glorot_uniform",
        context_gate=False,
        state_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = check_positive_integer("vocab_size", vocab_size)
        self.embed_dim = check_positive_integer("embed_dim", embed_dim)
        self.units = check_positive_integer("units", units)
        if attention_units is not None:
            attention_units = check_positive_integer("attention_units", attention_units)
        self.attention_units = attention_units
        self.dropout = check_fraction("dropout", dropout)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        if not isinstance(context_gate, bool):
            raise ValueError(f"`context_gate` must be True or False. Received: context_gate={context_gate!r}.")
        self.context_gate = context_gate
        if state_initializer not in ("zeros", "mean_feature"):
            raise ValueError(
                '`state_initializer` must be "zeros" or "mean_feature". '
                f"Received: state_initializer={state_initializer!r}."
            )
        self.state_initializer = state_initializer

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
        self.hidden = Projection(
            self.units,
            kernel_initializer=_clone(self.kernel_initializer),
            dtype=policy,
            name="hidden",
        )
        # Half precision would leave three digits of a logit.
        self.vocabulary = VocabularyLayer(
            self.vocab_size,
            kernel_initializer=_clone(self.kernel_initializer),
            dtype=at_least_float32_dtype(self.compute_dtype),
            name="vocabulary",
        )
        # After the others, so that the weights of a decoder without them keep their order.
        self.gate = self.first_state = None
        if self.context_gate:
            self.gate = keras.layers.Dense(
                1,
                activation="sigmoid",
                kernel_initializer=_clone(self.kernel_initializer),
                dtype=policy,
                name="gate",
            )
        if self.state_initializer == "mean_feature":
            self.first_state = keras.layers.Dense(
                self.units,
                activation="tanh",
                kernel_initializer=_clone(self.kernel_initializer),
                dtype=policy,
                name="first_state",
            )
        self.embedding_dropout = Dropout(self.dropout, dtype=policy)
        self.output_dropout = Dropout(self.dropout, dtype=policy)
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
        if self.gate is not None:
            self.gate.build((None, self.units))
        if self.first_state is not None:
            self.first_state.build((None, width))
        self.embedding_dropout.build((None, None, self.embed_dim))
        self.output_dropout.build((None, None, self.units))

    def prepare(self, features, features_mask=None):
        """What does not change from step to step: the features, and what is made of their keys.

        Args:
            features: Float, `(N, L, F)`.
            features_mask: Optional bool, `(N, L)`, True = attend.

        Returns:
            A dict of tensors, every one with N rows: `features`; `key_exponentials`, at least float32, which a step
            would else compute anew from the keys; where there is one, `mask`; and `first_state`, `(N, U)`, with
            `state_initializer="mean_feature"`.

        Raises:
            ValueError: If the layer is not built, or a shape does not fit.
        """
        self._check_built("prepare")
        check_features(features, features_mask, self._feature_width())
        features, mask = self._cast(features), _bool(features_mask)
        memory = self._start(features, mask)
        memory["key_exponentials"] = exponentials(self.attention.project_key(features))
        if mask is not None:
            memory["mask"] = mask
        return memory

    def _start(self, features, mask):
        """The part of `prepare`'s dict that `initial_state` reads."""
        memory = {"features": features}
        if self.first_state is not None:
            memory["first_state"] = self.first_state(_mean_feature(features, mask))
        return memory

    def initial_state(self, batch_size, memory=None):
        """The state before the first step: zeros, or that of the image of each caption.

        Args:
            batch_size: Int or scalar tensor B, a multiple of the N rows of `memory`, shared as in `step`.
            memory: What `prepare` returned; only `state_initializer="mean_feature"` needs it.

        Returns:
            `(B, U)`, compute dtype.

        Raises:
            ValueError: If `memory` is missing, or `batch_size` is not a multiple of its rows.
        """
        if memory is not None:
            check_rows("`batch_size` must be a multiple", batch_size, memory, f"batch_size={batch_size}")
        if self.first_state is None:
            return ops.zeros((batch_size, self.units), dtype=self.compute_dtype)
        if memory is None:
            raise ValueError(
                'With `state_initializer="mean_feature"`, `initial_state` needs the `memory` that `prepare` returns. '
                "Received: memory=None."
            )
        # (N, U) to (N x G, U)
        first = memory["first_state"]
        return ops.repeat(first, batch_size // ops.shape(first)[0], axis=0)

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
        batch = token.shape[0]
        check_state("state", state, batch, self.units)
        check_rows("`token` must have a multiple", batch, memory, f"token.shape={tuple(token.shape)}")
        inputs = self._input_gates(self.embedding(token))
        state, weights = attention_gru_step(
            inputs,
            ops.cast(state, self.compute_dtype),
            None,
            memory["features"],
            memory.get("mask"),
            self._recurrence_weights(),
            key_exponentials=memory["key_exponentials"],
            gate=self._context_gate(),
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
        return_hidden=False,
    ):
        self._check_call(tokens, features, features_mask, initial_state)
        shape = ops.shape(tokens)
        features, mask = self._cast(features), _bool(features_mask)
        # Time first, while the arrays are still narrow: (T, B)
        tokens = ops.transpose(ops.reshape(tokens, (-1, shape[-1])))
        embedded = self.embedding_dropout(self._embed(tokens), training=training)
        if initial_state is None:
            initial_state = self.initial_state(ops.shape(tokens)[1], self._start(features, mask))
        states, weights = attention_gru(
            self._input_gates(embedded),
            ops.cast(initial_state, self.compute_dtype),
            self.attention.project_key(features),
            features,
            mask,
            self._recurrence_weights(),
            return_attention=return_attention_scores,
            gate=self._context_gate(),
        )
        hidden = self.output_dropout(self.hidden(_like_tokens(states, shape)), training=training)
        outputs = [hidden if return_hidden else self.vocabulary(hidden)]
        if return_state:
            outputs.append(states[-1])
        if return_attention_scores:
            outputs.append(_like_tokens(weights, shape))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _embed(self, tokens):
        if self.embedding.quantization_mode is not None:
            # Its rows are integers, of which the layer alone knows the scale.
            return self._cast(self.embedding(tokens))
        return lookup(self._cast(self.embedding.embeddings), tokens)

    def _input_gates(self, embedded):
        """The half of the GRU's gates that does not wait for the state: `(..., E)` to `(..., 3U)`."""
        embedded = ops.cast(embedded, self.compute_dtype)
        kernel, bias = self._cast(self.gru.kernel), self._cast(self.gru.bias)
        return project(embedded, kernel[-self.embed_dim :], bias[0])

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

    def _context_gate(self):
        if self.gate is None:
            return None
        return ContextGate(kernel=self._cast(self.gate.kernel), bias=self._cast(self.gate.bias))

    def _cast(self, x):
        # `step` and `prepare` run outside `__call__`, where Keras does not cast weights and inputs by itself.
        return ops.cast(ops.convert_to_tensor(x), self.compute_dtype)

    def _check_built(self, method):
        if not self.built:
            raise ValueError(
                f"`{method}` needs the weights of {self.name!r}: call the layer once, or "
                "`build(tokens_shape, features_shape)`, before. Received: built=False."
            )

    def _check_call(self, tokens, features, features_mask, initial_state):
        check_call(tokens, features, features_mask, initial_state, self._feature_width(), self.units)

    def _feature_width(self):
        return self.attention.key_kernel.shape[0] if self.built else None

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
        return_hidden=False,
    ):
        self._check_call(tokens, features, features_mask, initial_state)
        shape = tuple(tokens.shape)
        width, dtype = (self.units, self.compute_dtype) if return_hidden else (self.vocab_size, self.vocabulary.dtype)
        outputs = [keras.KerasTensor((*shape, width), dtype=dtype)]
        if return_state:
            outputs.append(keras.KerasTensor((batch_of(shape), self.units), dtype=self.compute_dtype))
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
            "context_gate": self.context_gate,
            "state_initializer": self.state_initializer,
        }


def _like_tokens(x, tokens_shape):
    """`(T, B, W)` to the layout of the tokens, `(..., T, W)`."""
    x = ops.transpose(x, (1, 0, 2))
    return ops.reshape(x, (*tokens_shape, ops.shape(x)[-1]))


def _bool(mask):
    return None if mask is None else ops.cast(ops.convert_to_tensor(mask), "bool")


def _mean_feature(features, mask):
    """The mean over the locations that the mask allows, `(N, L, F)` to `(N, F)`, float32 at least."""
    # Attention that prefers nothing: one over the number of locations that are allowed, and 0 where there is none.
    shares = masked_softmax(ops.zeros(ops.shape(features)[:2], dtype=features.dtype), mask)
    return ops.sum(shares[..., None] * at_least_float32(features), axis=1)


def _clone(initializer):
    # An initializer draws the same values again for the same shape, and its clone draws others.
    return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer
