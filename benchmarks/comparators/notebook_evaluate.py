"""How the 2018 notebook "Image Captioning with Attention" wrote a caption: its `evaluate`, on TensorFlow.

One image at a time, eagerly: at each word the features are projected again, a GRU layer runs over a sequence of one,
and the attention and the word come back to Python.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from comparators.notebook import Decoder
from keras_showattend.token_ids import END, START


def notebook_layers(captioner):
    """The notebook's encoder and decoder with the weights of a built `Captioner`.

    The state goes through the GRU, as in ours: without, the maths would be another.
    """
    ours, attention = captioner.decoder, captioner.decoder.attention
    encoder = keras.layers.Dense(captioner.encoder.embed_dim, activation="relu")
    decoder = Decoder(ours.vocab_size, ours.embed_dim, ours.units, carry_state=True)
    width = captioner.encoder.projection.kernel.shape[0]
    # Called once, which makes the weights.
    decoder(tf.zeros((1, 1), "int32"), encoder(tf.zeros((1, 1, width))), tf.zeros((1, ours.units)))
    pairs = [
        (encoder.kernel, captioner.encoder.projection.kernel),
        (encoder.bias, captioner.encoder.projection.bias),
        (decoder.embedding.embeddings, ours.embedding.embeddings),
        (decoder.attention.W1.kernel, attention.key_kernel),
        (decoder.attention.W1.bias, attention.key_bias),
        (decoder.attention.W2.kernel, attention.query_kernel),
        (decoder.attention.W2.bias, attention.query_bias),
        (decoder.attention.V.kernel, attention.score_kernel),
        (decoder.gru.cell.kernel, ours.gru.kernel),
        (decoder.gru.cell.recurrent_kernel, ours.gru.recurrent_kernel),
        (decoder.gru.cell.bias, ours.gru.bias),
        (decoder.fc1.kernel, ours.hidden.kernel),
        (decoder.fc1.bias, ours.hidden.bias),
        (decoder.fc2.kernel, ours.vocabulary.kernel),
        (decoder.fc2.bias, ours.vocabulary.bias),
    ]
    for theirs, mine in pairs:
        theirs.assign(ops.reshape(mine, theirs.shape))
    return encoder, decoder


def evaluate(encoder, decoder, features, max_length):
    """The caption of one image; of the notebook's two ways to choose a word the one that takes the most probable.

    Args:
        encoder: The notebook's, from `notebook_layers`.
        decoder: Likewise.
        features: Float array `(L, D)`.
        max_length: Int, the most ids to write.

    Returns:
        A list of ids, the end id kept, and the attention at each of them, `(ids, L)`.
    """
    plot = np.zeros((max_length, features.shape[0]))
    encoded = encoder(tf.constant(features[None]))
    state = tf.zeros((1, decoder.units))
    token = tf.constant([[START]])
    ids = []
    for place in range(max_length):
        logits, state, weights = decoder(token, encoded, state)
        plot[place] = tf.reshape(weights, (-1,)).numpy()
        ids.append(int(tf.argmax(logits[0]).numpy()))
        if ids[-1] == END:
            break
        token = tf.constant([[ids[-1]]])
    return ids, plot[: len(ids)]
