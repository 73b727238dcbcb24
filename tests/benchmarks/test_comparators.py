"""What ours is compared with does the same maths: same weights, same loss, same gradient."""

import keras
import numpy as np
import pytest
from comparators.keras_rnn import compiled_composition
from harness.sizes import Sizes
from keras import ops

from keras_showattend import Captioner
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

SIZES = Sizes(batch_size=3, locations=4, feature_width=6, embed_dim=5, units=7, vocabulary=11)
TOKENS = np.array([[2, 5, 6, 7, 3], [2, 10, 3, 0, 0], [2, 4, 8, 3, 0]], "int32")
REAL_TARGETS = 4 + 2 + 3


@pytest.fixture
def features():
    shape = (SIZES.batch_size, SIZES.locations, SIZES.feature_width)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.fixture
def captioner():
    model = Captioner(
        FeatureEncoder(SIZES.embed_dim), AttentionGRUDecoder(SIZES.vocabulary, SIZES.embed_dim, SIZES.units)
    )
    model.build([(None, SIZES.locations, SIZES.feature_width), (None, None)])
    # Large enough that a wrong weight changes the loss, biases too.
    generator = np.random.default_rng(1)
    model.set_weights([generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(1.0))
    return model


@pytest.fixture(params=[False, True], ids=["keys at every step", "keys once"])
def composition(request):
    model = compiled_composition(SIZES, request.param, jit_compile=False)
    model((np.zeros((1, SIZES.locations, SIZES.feature_width), "float32"), np.zeros((1, 1), "int32")))
    model.compile(keras.optimizers.SGD(1.0), loss=model.loss, jit_compile=keras.backend.backend() == "jax")
    return model


def composition_pairs(captioner, composition):
    """Weights of the two that stand for the same."""
    decoder, cell = captioner.decoder, composition.cell
    attention = decoder.attention
    return [
        (captioner.encoder.projection.kernel, composition.encoder.kernel),
        (captioner.encoder.projection.bias, composition.encoder.bias),
        (decoder.embedding.embeddings, composition.embedding.embeddings),
        (attention.key_kernel, cell.key.kernel),
        (attention.key_bias, cell.key.bias),
        (attention.query_kernel, cell.query.kernel),
        (attention.query_bias, cell.query.bias),
        (attention.score_kernel, cell.score),
        (decoder.gru.kernel, cell.gru.kernel),
        (decoder.gru.recurrent_kernel, cell.gru.recurrent_kernel),
        (decoder.gru.bias, cell.gru.bias),
        (decoder.hidden.kernel, composition.hidden.kernel),
        (decoder.hidden.bias, composition.hidden.bias),
        (decoder.vocabulary.kernel, composition.vocabulary.kernel),
        (decoder.vocabulary.bias, composition.vocabulary.bias),
    ]


def copy_over(pairs):
    for ours, theirs in pairs:
        theirs.assign(ops.convert_to_numpy(ours).reshape(theirs.shape))


def test_the_composition_trains_as_ours_does(captioner, composition, features):
    pairs = composition_pairs(captioner, composition)
    assert len(pairs) == len(captioner.trainable_variables) == len(composition.trainable_variables)
    copy_over(pairs)
    before = captioner.get_weights()

    inputs, targets = TOKENS[:, :-1], TOKENS[:, 1:]
    real = (targets != 0).astype("float32")
    theirs = float(composition.train_on_batch((features, inputs), targets, sample_weight=real))
    ours = float(captioner.train_on_batch(features, TOKENS))

    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert max(np.abs(new - old).max() for new, old in zip(captioner.get_weights(), before, strict=True)) > 1e-2
    for mine, other in pairs:
        other = ops.convert_to_numpy(other).reshape(mine.shape)
        np.testing.assert_allclose(ops.convert_to_numpy(mine), other, atol=1e-5, err_msg=mine.path)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the notebook's loop is TensorFlow's")
def test_the_notebook_with_its_state_carried_has_our_loss(captioner, features):
    import tensorflow as tf
    from comparators.notebook import NotebookTrainer

    trainer = NotebookTrainer(SIZES.vocabulary, SIZES.embed_dim, SIZES.units, carry_state=True)
    trainer.loss(tf.constant(features), tf.constant(TOKENS))
    decoder, theirs = captioner.decoder, trainer.decoder
    copy_over(
        [
            (captioner.encoder.projection.kernel, trainer.encoder.kernel),
            (captioner.encoder.projection.bias, trainer.encoder.bias),
            (decoder.embedding.embeddings, theirs.embedding.embeddings),
            (decoder.attention.key_kernel, theirs.attention.W1.kernel),
            (decoder.attention.key_bias, theirs.attention.W1.bias),
            (decoder.attention.query_kernel, theirs.attention.W2.kernel),
            (decoder.attention.query_bias, theirs.attention.W2.bias),
            (decoder.attention.score_kernel, theirs.attention.V.kernel),
            (decoder.gru.kernel, theirs.gru.cell.kernel),
            (decoder.gru.recurrent_kernel, theirs.gru.cell.recurrent_kernel),
            (decoder.gru.bias, theirs.gru.cell.bias),
            (decoder.hidden.kernel, theirs.fc1.kernel),
            (decoder.hidden.bias, theirs.fc1.bias),
            (decoder.vocabulary.kernel, theirs.fc2.kernel),
            (decoder.vocabulary.bias, theirs.fc2.bias),
        ]
    )
    theirs.attention.V.bias.assign([5.0])  # under the softmax it changes nothing
    ours = float(captioner.test_on_batch(features, TOKENS))
    # Theirs is a sum over words of means over all captions, ours a mean over real tokens.
    loss = float(trainer.loss(tf.constant(features), tf.constant(TOKENS)))
    np.testing.assert_allclose(loss, ours * REAL_TARGETS / SIZES.batch_size, atol=1e-5)
