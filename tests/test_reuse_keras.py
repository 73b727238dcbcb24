"""What a user of Keras expects of any layer: summary, names, shapes ahead of time, repeatable runs, fine-tuning."""

import keras
import numpy as np
import pytest
from numerics import assert_close, numpy

from keras_showattend import Captioner
from keras_showattend.layers import AttentionGRUDecoder, BahdanauAttention, FeatureEncoder

TOKENS = np.array([[2, 4, 5, 3], [2, 6, 3, 0]], "int32")
FEATURES = np.random.default_rng(1).normal(size=(2, 4, 5)).astype("float32")

DECODER_WEIGHTS = [
    "embedding/embeddings",
    "attention/query_kernel",
    "attention/key_kernel",
    "attention/query_bias",
    "attention/key_bias",
    "attention/score_kernel",
    "gru/kernel",
    "gru/recurrent_kernel",
    "gru/bias",
    "hidden/kernel",
    "hidden/bias",
    "vocabulary/kernel",
    "vocabulary/bias",
]


def built_decoder(**kwargs):
    decoder = AttentionGRUDecoder(9, embed_dim=4, units=6, attention_units=7, **kwargs)
    decoder.build((None, None), (None, None, 5))
    return decoder


def captioner(dropout=0.0):
    model = Captioner(FeatureEncoder(4, dropout=dropout), AttentionGRUDecoder(9, 4, 6, dropout=dropout, name="writer"))
    model.compile("adam")
    return model


def test_weights_have_names_that_stay():
    assert [w.path for w in built_decoder(name="writer").weights] == [f"writer/{name}" for name in DECODER_WEIGHTS]
    # However many others were made before, and inside a model too.
    features, tokens = keras.Input((None, 5)), keras.Input((None,), dtype="int32")
    decoder = AttentionGRUDecoder(9, 4, 6, name="writer")
    model = keras.Model([features, tokens], decoder(tokens, features))
    assert [w.path for w in model.weights] == [f"writer/{name}" for name in DECODER_WEIGHTS]
    assert len({w.path for w in captioner().weights}) == len(captioner().weights)


def test_summary():
    features, tokens = keras.Input((None, 5)), keras.Input((None,), dtype="int32")
    context = BahdanauAttention(7, name="looker")(keras.Input((3,)), features)
    assert context.shape == (None, 5)
    model = keras.Model([features, tokens], AttentionGRUDecoder(9, 4, 6, name="writer")(tokens, features))
    lines = []
    model.summary(print_fn=lines.append, line_length=120)
    text = "\n".join(lines)
    assert "writer (AttentionGRUDecoder)" in text
    assert "(None, None, 9)" in text
    assert f"{model.count_params():,}" in text
    lines.clear()
    writer = captioner()
    writer.build([(None, 4, 5), (None, None)])
    writer.summary(print_fn=lines.append, line_length=120)
    assert "writer (AttentionGRUDecoder)" in "\n".join(lines)
    assert f"{writer.count_params():,}" in "\n".join(lines)


def test_shapes_ahead_of_time():
    decoder = built_decoder()
    assert decoder.compute_output_shape((2, 4), (2, 4, 5)) == (2, 4, 9)
    specs = decoder.compute_output_spec(
        keras.KerasTensor((2, 3, 4), "int32"),
        keras.KerasTensor((2, 4, 5)),
        return_state=True,
        return_attention_scores=True,
    )
    found = decoder(np.stack([TOKENS] * 3, axis=1), FEATURES, return_state=True, return_attention_scores=True)
    assert [x.shape for x in specs] == [tuple(x.shape) for x in found] == [(2, 3, 4, 9), (6, 6), (2, 3, 4, 4)]
    assert [x.dtype for x in specs] == [keras.backend.standardize_dtype(x.dtype) for x in found]
    attention = BahdanauAttention(7)
    assert attention.compute_output_shape((2, 3), (2, 4, 5)) == (2, 5)
    specs = attention.compute_output_spec(
        keras.KerasTensor((None, 8, 3)), keras.KerasTensor((None, None, 5)), return_attention_scores=True
    )
    assert [x.shape for x in specs] == [(None, 8, 5), (None, 8, None)]


def test_a_seed_repeats_a_run_to_the_bit():
    def run(seed):
        keras.utils.set_random_seed(seed)
        model = captioner(dropout=0.3)
        losses = model.fit(FEATURES, TOKENS, batch_size=1, epochs=2, verbose=0).history["loss"]
        return losses, model.get_weights()

    (losses, weights), again, (others, _) = run(1), run(1), run(2)
    assert losses == again[0]
    for weight, same in zip(weights, again[1], strict=True):
        np.testing.assert_array_equal(weight, same)
    assert losses != others


def test_lora_on_the_output_layers_trains_and_decodes_alike():
    decoder = built_decoder()
    expected = numpy(decoder(TOKENS, FEATURES))
    for layer in (decoder.embedding, decoder.attention, decoder.gru):
        layer.trainable = False
    decoder.hidden.enable_lora(2)
    decoder.vocabulary.enable_lora(2)
    # Its second factor starts at zero.
    assert_close(decoder(TOKENS, FEATURES), expected, atol=1e-6)
    inputs = [keras.Input((None,), dtype="int32"), keras.Input((None, 5))]
    model = keras.Model(inputs, decoder(*inputs))
    kernels = decoder.gru.get_weights()[0], decoder.vocabulary.kernel
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit([TOKENS, FEATURES], expected + 1, verbose=0)
    np.testing.assert_array_equal(decoder.gru.get_weights()[0], kernels[0])
    logits = numpy(decoder(TOKENS, FEATURES))
    assert np.abs(logits - expected).max() > 1e-3
    memory = decoder.prepare(FEATURES)
    assert_close(decoder.step(TOKENS[:, 0], decoder.initial_state(2), memory)[0], logits[:, 0])


@pytest.mark.parametrize("name", ["embedding", "hidden", "vocabulary"])
def test_int8_of_a_layer(name):
    decoder = built_decoder()
    expected = numpy(decoder(TOKENS, FEATURES))
    getattr(decoder, name).quantize("int8")
    logits = numpy(decoder(TOKENS, FEATURES))
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    memory = decoder.prepare(FEATURES)
    step = decoder.step(TOKENS[:, 0], decoder.initial_state(2), memory)[0]
    assert_close(step, logits[:, 0], atol=0.05 * np.abs(expected).max())


def test_validation_split_sets_the_last_images_aside():
    history = captioner().fit(
        np.repeat(FEATURES, 4, axis=0), np.repeat(TOKENS, 4, axis=0), validation_split=0.5, verbose=0
    )
    assert set(history.history) == {"loss", "val_loss"}


@pytest.mark.parametrize("method", ["fit", "train_on_batch"])
def test_class_weight_is_refused(method):
    # To Keras the class of a caption would be the position of its largest id.
    with pytest.raises(ValueError, match=r"`class_weight` has no meaning .* class_weight=\{2: 1.0\}"):
        getattr(captioner(), method)(FEATURES, TOKENS, class_weight={2: 1.0})


def test_class_weight_by_position_is_refused():
    with pytest.raises(ValueError, match="`class_weight` has no meaning"):
        captioner().fit(FEATURES, TOKENS, 2, 1, 0, None, 0.0, None, True, {2: 1.0})


def test_validation_split_of_a_data_set_is_refused():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return FEATURES, TOKENS

    with pytest.raises(ValueError, match="`validation_split` is only supported for"):
        captioner().fit(Batches(), validation_split=0.5, verbose=0)
