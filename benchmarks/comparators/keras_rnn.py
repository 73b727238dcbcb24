"""What a Keras user would write today: `keras.layers.RNN` around a cell that attends and calls `GRUCell`.

The loop and its gradient are Keras's own, and the vocabulary layer runs on all steps at once. As most write it, the
cell holds all of the attention and projects the features at every step, like the attention of the 2018 notebook; a
careful user projects the keys once, before the loop.
"""

import keras
from keras import ops


class AttendingCell(keras.layers.Layer):
    """One step: Bahdanau's attention with the state, then a GRU cell on the context and the token."""

    def __init__(self, units, project_once, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.project_once = project_once
        self.state_size = self.output_size = units
        self.query = keras.layers.Dense(units)
        # On three axes, Keras's Dense does not compile inside a loop under XLA on TensorFlow; this layer does.
        self.key = keras.layers.EinsumDense("bld,du->blu", (None, units), bias_axes="u")
        self.gru = keras.layers.GRUCell(units, recurrent_initializer="glorot_uniform")
        self.features = self.keys = None

    def attend_to(self, features):
        """What the steps of this batch look at."""
        self.features = features
        self.keys = self.key(features) if self.project_once else None

    def build(self, input_shape):
        self.score = self.add_weight(shape=(self.units,), name="score")
        self.query.build((None, self.units))
        if not self.key.built:
            self.key.build(self.features.shape)
        self.gru.build((None, self.features.shape[-1] + input_shape[-1]))

    def call(self, inputs, states, training=None):
        (state,) = states
        keys = self.key(self.features) if self.keys is None else self.keys
        hidden = ops.tanh(self.query(state)[:, None] + keys)
        weights = ops.softmax(ops.sum(hidden * self.score, axis=-1), axis=-1)
        context = ops.sum(weights[..., None] * self.features, axis=1)
        output, (state,) = self.gru(ops.concatenate([context, inputs], axis=-1), [state])
        return output, [state]


class KerasComposition(keras.Model):
    """A captioner of Keras's own layers; call it on `(features, tokens)`, train it on logits and targets."""

    def __init__(self, vocab_size, embed_dim, units, project_once=True):
        super().__init__()
        self.encoder = keras.layers.Dense(embed_dim, activation="relu")
        self.embedding = keras.layers.Embedding(vocab_size, embed_dim)
        self.cell = AttendingCell(units, project_once)
        self.rnn = keras.layers.RNN(self.cell, return_sequences=True)
        self.hidden = keras.layers.Dense(units)
        self.vocabulary = keras.layers.Dense(vocab_size)

    def call(self, inputs):
        features, tokens = inputs
        self.cell.attend_to(self.encoder(features))
        states = self.rnn(self.embedding(tokens))
        return self.vocabulary(self.hidden(states))


def compiled_composition(sizes, project_once=True, jit_compile=True):
    """The model, compiled with a mean over real tokens: give the mask of the targets as `sample_weight`."""
    model = KerasComposition(sizes.vocabulary, sizes.embed_dim, sizes.units, project_once)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    model.compile(optimizer="adam", loss=loss, jit_compile=jit_compile)
    return model
