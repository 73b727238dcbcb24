"""The training loop of the 2018 notebook "Image Captioning with Attention", on TensorFlow.

One Python loop over the words of the captions, all padded to the longest of the data set; at each word
the features are projected again, and a GRU layer runs over a sequence of one.
"""

import keras
import tensorflow as tf


class Attention(keras.Model):
    """The notebook's additive attention: `score = V tanh(W1 features + W2 state)`."""

    def __init__(self, units):
        super().__init__()
        self.W1 = keras.layers.Dense(units)
        self.W2 = keras.layers.Dense(units)
        self.V = keras.layers.Dense(1)

    def call(self, features, state):
        hidden = tf.tanh(self.W1(features) + self.W2(state[:, None]))
        weights = tf.nn.softmax(self.V(hidden), axis=1)
        return tf.reduce_sum(weights * features, axis=1), weights


class Decoder(keras.Model):
    """One word at a time: attend with the state, then the GRU, then two dense layers."""

    def __init__(self, vocab_size, embed_dim, units, carry_state=False):
        super().__init__()
        self.units = units
        # The notebook never handed the state to its GRU; with it, the maths is that of `AttentionGRUDecoder`.
        self.carry_state = carry_state
        self.embedding = keras.layers.Embedding(vocab_size, embed_dim)
        self.gru = keras.layers.GRU(
            units, return_sequences=True, return_state=True, recurrent_initializer="glorot_uniform"
        )
        self.fc1 = keras.layers.Dense(units)
        self.fc2 = keras.layers.Dense(vocab_size)
        self.attention = Attention(units)

    def call(self, token, features, state):
        context, weights = self.attention(features, state)
        x = tf.concat([context[:, None], self.embedding(token)], axis=-1)
        output, state = self.gru(x, initial_state=state if self.carry_state else None)
        x = self.fc1(output)
        return self.fc2(tf.reshape(x, (-1, x.shape[2]))), state, weights


class NotebookTrainer:
    """Encoder, decoder, Adam and the training step."""

    def __init__(self, vocab_size, embed_dim, units, carry_state=False):
        self.encoder = keras.layers.Dense(embed_dim, activation="relu")
        self.decoder = Decoder(vocab_size, embed_dim, units, carry_state)
        self.optimizer = keras.optimizers.Adam()
        self.loss_object = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def loss(self, features, tokens):
        """Summed over words, averaged over all captions, those that have ended too."""
        loss = 0.0
        features = self.encoder(features)
        state = tf.zeros((tokens.shape[0], self.decoder.units))
        for t in range(1, tokens.shape[1]):
            logits, state, _ = self.decoder(tokens[:, t - 1 : t], features, state)
            losses = self.loss_object(tokens[:, t], logits)
            loss += tf.reduce_mean(losses * tf.cast(tokens[:, t] != 0, losses.dtype))
        return loss

    def train_step(self, features, tokens):
        """One step; wrap it in `tf.function` or call it as it is."""
        with tf.GradientTape() as tape:
            loss = self.loss(features, tokens)
        variables = self.encoder.trainable_variables + self.decoder.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss
