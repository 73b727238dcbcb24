"""What a Keras user would write today: `keras.layers.RNN` around a cell that attends and calls `GRUCell`.

The keys are projected once, before the loop, and the vocabulary layer runs on all steps at once, as a
careful user would do; the loop, its gradient and the padding are Keras's own.
"""

import keras
from keras import ops


class AttendingCell(keras.layers.Layer):
    """One step: Bahdanau's attention with the state, then a GRU cell on the context and the token."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = self.output_size = units
        self.query = keras.layers.Dense(units)
        self.gru = keras.layers.GRUCell(units, recurrent_initializer="glorot_uniform")
        self.features = self.keys = None

    def build(self, input_shape):
        self.score = self.add_weight(shape=(self.units,), name="score")
        self.query.build((None, self.units))
        self.gru.build((None, self.features.shape[-1] + input_shape[-1]))

    def call(self, inputs, states, training=None):
        (state,) = states
        hidden = ops.tanh(self.query(state)[:, None] + self.keys)
        # Keras's Dense on three axes does not compile inside a loop under XLA on TensorFlow.
        weights = ops.softmax(ops.sum(hidden * self.score, axis=-1), axis=-1)
        context = ops.sum(weights[..., None] * self.features, axis=1)
        output, (state,) = self.gru(ops.concatenate([context, inputs], axis=-1), [state])
        return output, [state]


class KerasComposition(keras.Model):
    """A captioner of Keras's own layers; call it on `(features, tokens)`, train it on logits and targets."""

    def __init__(self, vocab_size, embed_dim, units):
        super().__init__()
        self.encoder = keras.layers.Dense(embed_dim, activation="relu")
        self.key = keras.layers.Dense(units)
        self.embedding = keras.layers.Embedding(vocab_size, embed_dim)
        self.cell = AttendingCell(units)
        self.rnn = keras.layers.RNN(self.cell, return_sequences=True)
        self.hidden = keras.layers.Dense(units)
        self.vocabulary = keras.layers.Dense(vocab_size)

    def call(self, inputs):
        features, tokens = inputs
        self.cell.features = self.encoder(features)
        self.cell.keys = self.key(self.cell.features)
        states = self.rnn(self.embedding(tokens))
        return self.vocabulary(self.hidden(states))


def compiled_composition(sizes, jit_compile=True):
    """The model, compiled with a mean over real tokens: give the mask of the targets as `sample_weight`."""
    model = KerasComposition(sizes.vocabulary, sizes.embed_dim, sizes.units)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer="adam", loss=loss, jit_compile=jit_compile)
    return model
