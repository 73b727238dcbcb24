"""What a user of Keras expects of any layer: summary, names, shapes ahead of time, repeatable runs, fine-tuning."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
from numerics import assert_close, numpy

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, BahdanauAttention, FeatureEncoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy, Perplexity

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


def captioner(dropout=0.0, **kwargs):
    encoder = FeatureEncoder(4, dropout=dropout, name="reader")
    model = Captioner(encoder, AttentionGRUDecoder(9, 4, 6, dropout=dropout, name="writer"), **kwargs)
    model.compile("adam")
    return model


def built_captioner(**kwargs):
    model = captioner(**kwargs)
    model.build([(None, 4, 5), (None, None)])
    return model


def test_weights_have_names_that_stay():
    assert [w.path for w in built_decoder(name="writer").weights] == [f"writer/{name}" for name in DECODER_WEIGHTS]
    # However many others were made before, and inside a model too.
    features, tokens = keras.Input((None, 5)), keras.Input((None,), dtype="int32")
    decoder = AttentionGRUDecoder(9, 4, 6, name="writer")
    model = keras.Model([features, tokens], decoder(tokens, features))
    assert [w.path for w in model.weights] == [f"writer/{name}" for name in DECODER_WEIGHTS]


def test_names_of_a_captioner_stay_when_it_is_loaded(tmp_path):
    first, second = built_captioner(name="teller"), built_captioner(name="teller")
    paths = [w.path for w in first.weights]
    assert paths == [
        *(f"teller/reader/projection/{name}" for name in ("kernel", "bias")),
        *(f"teller/writer/{name}" for name in DECODER_WEIGHTS),
    ]
    assert [w.path for w in second.weights] == paths
    first.save(tmp_path / "c.keras")
    loaded = keras.models.load_model(tmp_path / "c.keras")
    assert [w.path for w in loaded.weights] == paths
    assert [layer.name for layer in loaded.layers] == ["reader", "writer"]


def all_layers():
    """The three layers in one functional model, masks and all."""
    tokens, grid, queries = keras.Input((None,), dtype="int32"), keras.Input((2, 2, 5)), keras.Input((8, 3))
    read = FeatureEncoder(4, name="reader")(grid)
    context = BahdanauAttention(7, name="looker")(queries, read)
    return keras.Model([tokens, grid, queries], [AttentionGRUDecoder(9, 4, 6, name="writer")(tokens, read), context])


def summary_of(model):
    lines = []
    model.summary(print_fn=lines.append, line_length=140)
    return "\n".join(lines)


def test_summary_of_a_functional_model():
    model = all_layers()
    text = summary_of(model)
    for name, shape in (
        ("reader (FeatureEncoder)", "(None, 4, 4)"),
        ("looker (BahdanauAttention)", "(None, 8, 4)"),
        ("writer (AttentionGRUDecoder)", "(None, None, 9)"),
    ):
        (line,) = (line for line in text.splitlines() if name in line)
        assert shape in line
    assert f"{model.count_params():,}" in text


def test_summary_of_a_captioner():
    model = built_captioner()
    text = summary_of(model)
    assert "reader (FeatureEncoder)" in text
    assert "writer (AttentionGRUDecoder)" in text
    assert f"{model.count_params():,}" in text


@pytest.mark.parametrize("which", ["functional", "captioner"])
def test_plot_model(tmp_path, which):
    pytest.importorskip("pydot")
    if not keras.src.utils.model_visualization.check_graphviz():
        pytest.skip("needs Graphviz")
    model = all_layers() if which == "functional" else built_captioner()
    keras.utils.plot_model(model, tmp_path / "model.png", show_shapes=True, show_layer_names=True)
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    drawn = keras.utils.model_to_dot(model, show_layer_names=True, show_shapes=True).to_string()
    for name in ("reader", "looker", "writer") if which == "functional" else ("captioner",):
        assert name in drawn


CALLS = {
    "encoder": (lambda: FeatureEncoder(4), [FEATURES]),
    "encoder of a grid": (lambda: FeatureEncoder(4), [FEATURES[:, None]]),
    "attention": (lambda: BahdanauAttention(7), [FEATURES[..., :3], FEATURES]),
    "attention of one query": (lambda: BahdanauAttention(7), [FEATURES[:, 0], FEATURES]),
    "decoder": (lambda: AttentionGRUDecoder(9, 4, 6), [TOKENS, FEATURES]),
    "decoder of groups": (lambda: AttentionGRUDecoder(9, 4, 6), [np.stack([TOKENS] * 3, axis=1), FEATURES]),
    "extractor": (lambda: FeatureExtractor("patches", image_size=32), [np.ones((2, 32, 32, 3), "float32")]),
    "captioner": (lambda: captioner(), [[FEATURES, TOKENS]]),
    "captioner of groups": (lambda: captioner(), [[FEATURES, np.stack([TOKENS] * 3, axis=1)]]),
}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("case", CALLS)
def test_shapes_and_dtypes_ahead_of_time_are_those_of_the_call(case, policy):
    keras.config.set_dtype_policy(policy)
    make, arguments = CALLS[case]
    layer = make()
    found = layer(*arguments)
    shape, dtype = tuple(found.shape), keras.backend.standardize_dtype(found.dtype)
    assert tuple(layer.compute_output_shape(*keras.tree.map_structure(np.shape, arguments))) == shape
    specs = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, str(x.dtype)), arguments)
    spec = layer.compute_output_spec(*specs)
    assert (tuple(spec.shape), spec.dtype) == (shape, dtype)
    # A batch of any size, before the layer is built.
    specs = keras.tree.map_structure(lambda x: keras.KerasTensor((None, *x.shape[1:]), str(x.dtype)), arguments)
    output = make()(*specs)
    assert (tuple(output.shape), output.dtype) == ((None, *shape[1:]), dtype)


def test_shapes_of_further_outputs_ahead_of_time():
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


def loss_and_weights_after_fit(optimizer, batch_size, **compiled):
    """Those of a captioner after an epoch of 8 images, always with the same weights to begin with."""
    model = built_captioner()
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(scale=0.5, size=w.shape) for w in model.get_weights()])
    model.compile(optimizer, **compiled)
    # Captions of one length: batches of the same number of tokens weigh alike.
    x, y = np.tile(FEATURES[:1], (8, 1, 1)) + np.arange(8)[:, None, None], np.tile(TOKENS[:1], (8, 1))
    history = model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0).history
    return history["loss"], model.get_weights()


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has no `steps_per_execution` on torch")
def test_several_steps_at_a_time_are_the_same_steps():
    (loss, weights), (same_loss, same) = (
        loss_and_weights_after_fit(keras.optimizers.SGD(0.1), 2, steps_per_execution=count) for count in (1, 3)
    )
    np.testing.assert_allclose(same_loss, loss, rtol=1e-5)
    assert_close(same, weights, atol=1e-5)


def test_gradients_of_small_batches_add_up_to_those_of_a_large_one():
    _, weights = loss_and_weights_after_fit(keras.optimizers.SGD(0.1), 4)
    _, accumulated = loss_and_weights_after_fit(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), 2)
    assert_close(accumulated, weights, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_goes_on_by_itself(copied):
    model = built_captioner()
    model.fit(FEATURES, TOKENS, verbose=0)
    expected = numpy(model([FEATURES, TOKENS]))
    other = copied(model)
    assert_close(other([FEATURES, TOKENS]), expected, atol=1e-6)
    model.fit(FEATURES, TOKENS, verbose=0)
    assert np.abs(numpy(model([FEATURES, TOKENS])) - expected).max() > 1e-4
    assert_close(other([FEATURES, TOKENS]), expected, atol=1e-6)
    other.fit(FEATURES, TOKENS, verbose=0)
    # The optimizer, with its moments, went along.
    assert_close(other([FEATURES, TOKENS]), model([FEATURES, TOKENS]), atol=1e-6)


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


def test_int8_of_a_captioner():
    model = built_captioner()
    rng = np.random.default_rng(4)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    before, exact = model.generate(FEATURES, max_length=4), numpy(model([FEATURES, TOKENS]))
    model.quantize("int8")
    quantized = {layer.name for layer in model._flatten_layers() if getattr(layer, "quantization_mode", None)}
    # The weights of the recurrence are no layer of Keras that can be quantized.
    assert quantized == {"projection", "embedding", "hidden", "vocabulary"}
    logits = numpy(model([FEATURES, TOKENS]))
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()
    # What was compiled before does not stay.
    found = model.generate(FEATURES, max_length=4)
    assert (found.scores != before.scores).any()


def test_lora_of_a_captioner_is_seen_by_searches_compiled_before():
    model = built_captioner()
    before = model.generate(FEATURES, max_length=4)
    model.encoder.projection.enable_lora(2)
    model.decoder.vocabulary.enable_lora(2)
    assert {w.name for w in model.trainable_weights} >= {"lora_kernel_a", "lora_kernel_b"}
    model.compile(keras.optimizers.SGD(1.0))
    same = model.generate(FEATURES, max_length=4)
    np.testing.assert_allclose(same.scores, before.scores, rtol=1e-5)
    for factor in (model.encoder.projection.lora_kernel_b, model.decoder.vocabulary.lora_kernel_b):
        factor.assign(np.ones(factor.shape))
    assert (model.generate(FEATURES, max_length=4).scores != before.scores).all()


@pytest.mark.parametrize("frozen", ["encoder", "decoder", "decoder.embedding", "decoder.gru", "decoder.attention"])
def test_what_is_not_trainable_stays(frozen):
    model, rest = built_captioner(), []
    part = model
    for name in frozen.split("."):
        part = getattr(part, name)
    part.trainable = False
    model.compile(keras.optimizers.SGD(1.0))
    stays = part.get_weights()
    rest = [w for w in model.trainable_weights if not any(w is own for own in part.weights)]
    before = [numpy(w) for w in rest]
    assert len(rest) == len(model.weights) - len(part.weights)
    model.fit(FEATURES, TOKENS, verbose=0)
    for weight, old in zip(part.get_weights(), stays, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert any(np.abs(numpy(w) - old).max() > 0 for w, old in zip(rest, before, strict=True))


CONFIGURED = {
    "encoder": lambda: FeatureEncoder(4, activation="tanh", dropout=0.25, name="reader", dtype="mixed_bfloat16"),
    "attention": lambda: BahdanauAttention(7, use_bias=False, dropout=0.25, name="looker"),
    "decoder": lambda: AttentionGRUDecoder(
        9, 4, 6, 7, 0.25, "he_normal", "orthogonal", True, "mean_feature", name="writer", trainable=False
    ),
    "extractor": lambda: FeatureExtractor("patches", image_size=32),
    "loss": lambda: MaskedSparseCategoricalCrossentropy(label_smoothing=0.1, name="smoothed", dtype="float64"),
    "accuracy": lambda: MaskedAccuracy(name="right", dtype="float64"),
    "perplexity": lambda: Perplexity(name="hesitation"),
    "tokenizer": lambda: CaptionTokenizer.fit(["A b", "b C"], lowercase=False, punctuation="#"),
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_configs_go_round_through_json(name):
    made = CONFIGURED[name]()
    config = json.loads(json.dumps(made.get_config()))
    assert type(made).from_config(config).get_config() == made.get_config()
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(made))))
    assert type(again) is type(made)
    assert again.get_config() == made.get_config()


@pytest.mark.parametrize("captions_of_an_image", [None, 3])
def test_validation_split_sets_the_last_images_aside(captions_of_an_image):
    x, y = np.repeat(FEATURES, 4, axis=0), np.repeat(TOKENS, 4, axis=0)
    if captions_of_an_image:
        y = np.repeat(y[:, None], captions_of_an_image, axis=1)
    split, given = captioner(), captioner()
    split.build([(None, 4, 5), (None, None)])
    given.build([(None, 4, 5), (None, None)])
    given.set_weights(split.get_weights())
    history = split.fit(x, y, validation_split=0.5, batch_size=4, shuffle=False, verbose=0).history
    expected = given.fit(x[:4], y[:4], validation_data=(x[4:], y[4:]), batch_size=4, shuffle=False, verbose=0).history
    assert set(history) == {"loss", "val_loss"}
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)


@pytest.mark.parametrize("captions_of_an_image", [None, 3])
def test_a_weight_of_0_is_as_if_the_caption_was_not_there(captions_of_an_image):
    model = built_captioner()
    y, weights = TOKENS, np.array([2.0, 0.0])
    if captions_of_an_image:
        y = np.repeat(y[:, None], 3, axis=1)
        weights = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = model.evaluate(FEATURES, y, sample_weight=weights, verbose=0)
    np.testing.assert_allclose(found, model.evaluate(FEATURES[:1], TOKENS[:1], verbose=0), rtol=1e-5)


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
