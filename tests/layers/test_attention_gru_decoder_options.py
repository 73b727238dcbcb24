"""The gate of the context and the first state made of the image, in the layer and in a captioner.

Sizes: N = 2 images of G = 3 captions of T = 4 tokens, L = 5 locations; widths 7 to 11, V = 13 tokens.
"""

import json

import keras
import numpy as np
import pytest
from keras import ops
from numerics import (
    MODES,
    TIGHT,
    assert_close,
    assert_gradients_match_differences,
    layer_loss,
    mixture,
    numpy,
    value_and_gradients,
)
from reference import decoder as naive_decoder
from reference import first_state, named_weights, opening, randomize

from keras_showattend import Captioner
from keras_showattend.decoding import BeamSearch
from keras_showattend.generation import generate_together
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy

N, G, T, L, F, E, U, A, V = 2, 3, 4, 5, 7, 8, 9, 11, 13
GATE, START = {"context_gate": True}, {"state_initializer": "mean_feature"}
OPTIONS = {"gate": GATE, "first state": START, "both": GATE | START}
ALL = {"return_state": True, "return_attention_scores": True}

every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def arrays(dtype="float32"):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (N, G, T)).astype("int32")
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0]], "bool")
    return tokens, rng.normal(size=(N, L, F)).astype(dtype), mask


def random_layer(**kwargs):
    layer = AttentionGRUDecoder(V, E, U, attention_units=A, **kwargs)
    layer.build((None, None), (None, None, F))
    return randomize(layer)


def steps(layer, tokens, features, mask):
    """What the whole call gives, by single steps: logits, the last state and weights."""
    memory = layer.prepare(features, mask)
    state, logits, weights = layer.initial_state(N * G, memory), [], []
    for t in range(T):
        step_logits, state, step_weights = layer.step(tokens[..., t].reshape(-1), state, memory)
        logits.append(step_logits)
        weights.append(step_weights)
    by_caption = (ops.reshape(ops.stack(x, axis=1), (N, G, T, -1)) for x in (logits, weights))
    return next(by_caption), state, next(by_caption)


# ------------------------------------------------------------------------------------ the values


@every_option
@pytest.mark.parametrize("masked", [True, False])
def test_equals_the_reference_and_its_own_steps(options, masked):
    tokens, features, mask = arrays()
    mask = mask if masked else None
    layer = random_layer(dropout=0.5, **options)
    result = layer(tokens, features, features_mask=mask, **ALL)
    # For the reference every caption has its own row.
    rows = [np.repeat(x, G, axis=0) if x is not None else None for x in (features, mask)]
    logits, state, weights = naive_decoder(tokens.reshape(-1, T), rows[0], named_weights(layer), rows[1])
    assert_close(result, (logits.reshape(N, G, T, V), state, weights.reshape(N, G, T, L)))
    assert_close(steps(layer, tokens, features, mask), result)
    # A state that is given takes the first one's place.
    given = np.random.default_rng(1).normal(size=(N * G, U)).astype("float32")
    expected = naive_decoder(tokens.reshape(-1, T), rows[0], named_weights(layer), rows[1], given)
    assert_close(layer(tokens, features, features_mask=mask, initial_state=given, return_state=True)[1], expected[1])


def test_worked_by_hand():
    # One unit, two locations with the features 1 and 3, every weight 0 but three. The first state is
    # tanh(2 * log(2) / 2) = (4 - 1) / (4 + 1) = 3/5, the attention 1/2 for each, the context 2, the gate
    # s(3/5 * 5/3 log(3)) = 3/4; z = 1/2 and n = tanh(2 * 3/4 * 1/2), so that h = 3/10 + tanh(3/4) / 2.
    layer = AttentionGRUDecoder(2, 1, 1, **OPTIONS["both"])
    layer.build((None, None), (None, None, 1))
    values = {name: np.zeros(w.shape) for name, w in named_weights(layer).items()}
    values["first_state/kernel"][:] = np.log(2) / 2
    values["gate/kernel"][:] = 5 / 3 * np.log(3)
    values["gru/kernel"][0, 2] = 0.5
    layer.set_weights(list(values.values()))
    features = np.array([[[1.0], [3.0]]])
    _, state, weights = layer(np.array([[1]]), features, **ALL)
    assert_close((state, weights), ([[0.3 + np.tanh(0.75) / 2]], [[[0.5, 0.5]]]))
    start = layer.initial_state(1, layer.prepare(features))
    assert_close((start, layer.gate(start)), ([[0.6]], [[0.75]]))


def test_the_first_state_is_that_of_the_image():
    _, features, mask = arrays()
    layer = random_layer(**START)
    memory = layer.prepare(features, mask)
    weights = named_weights(layer)
    expected = np.stack([first_state(x, weights, m[None]) for x, m in zip(features, mask, strict=True)])
    assert_close(layer.initial_state(N, memory), expected)
    assert_close(layer.initial_state(N * G, memory), np.repeat(expected, G, axis=0))
    assert_close(layer.initial_state(N, layer.prepare(features)), [first_state(x, weights) for x in features])
    # Without the option the memory is not needed and changes nothing.
    plain = random_layer()
    np.testing.assert_array_equal(numpy(plain.initial_state(N * G, plain.prepare(features, mask))), 0)


def test_the_gate_reads_the_state_and_leaves_the_attention():
    tokens, features, mask = arrays()
    layer = random_layer(**GATE)
    logits, state, attention = numpy(layer(tokens, features, features_mask=mask, **ALL))
    weights = named_weights(layer)
    expected = [[opening(weights["gate/kernel"], weights["gate/bias"], h)] for h in state]
    assert_close(layer.gate(state), expected)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    # An open gate is none: the weights in front of the gate's are those of a decoder without it.
    layer.gate.set_weights([np.zeros((U, 1)), np.array([40.0])])
    plain = random_layer()
    plain.set_weights(layer.get_weights()[:-2])
    result = layer(tokens, features, features_mask=mask, **ALL)
    assert_close(result, plain(tokens, features, features_mask=mask, **ALL), atol=1e-6)
    assert np.abs(numpy(result[0]) - logits).max() > 0.01


@every_option
def test_masked_equals_removed(options):
    tokens, features, mask = arrays()
    layer = random_layer(**options)
    others = np.where(mask[..., None], features, 1e3).astype("float32")
    logits, state, weights = numpy(layer(tokens, others, features_mask=mask, **ALL))
    for n, kept in enumerate(mask):
        removed = layer(tokens[n : n + 1], features[n : n + 1, kept], **ALL)
        assert_close(removed, (logits[n : n + 1], state[n * G : (n + 1) * G], weights[n : n + 1][..., kept]))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_an_image_with_nothing_to_attend_to(dtype):
    tokens, features, mask = arrays()
    mask[1] = False
    layer = random_layer(dtype=dtype, **OPTIONS["both"])
    logits, _, weights = numpy(layer(tokens, features, features_mask=mask, **ALL))
    np.testing.assert_array_equal(weights[1], 0)
    expected = layer(tokens[1:], np.zeros_like(features[1:]))
    assert_close(logits[1:], expected, atol=2e-3 if dtype == "mixed_float16" else 1e-5)
    loss = layer_loss(layer, tokens, features, features_mask=mask)
    _, gradients = value_and_gradients(loss, [w.numpy() for w in layer.trainable_weights])
    assert all(np.all(np.isfinite(g)) for g in gradients)
    _, (d_features,) = value_and_gradients(lambda x: mixture(layer(tokens, x, features_mask=mask)), [features])
    np.testing.assert_array_equal(d_features[1], 0)


# ------------------------------------------------------------------------------- Keras's contract


@every_option
def test_config_round_trip(options):
    layer = AttentionGRUDecoder(V, E, U, name="writer", dtype="mixed_bfloat16", **options)
    config = layer.get_config()
    assert options.items() <= config.items()
    again = keras.layers.deserialize(json.loads(json.dumps(keras.layers.serialize(layer))))
    assert again.get_config() == config
    assert (again.gate is None) == (layer.gate is None)


def test_configs_from_before_the_options_load():
    config = AttentionGRUDecoder(V, E, U).get_config()
    assert config.pop("context_gate") is False
    assert config.pop("state_initializer") == "zeros"
    layer = AttentionGRUDecoder.from_config(config)
    layer.build((None, None), (None, None, F))
    assert not {"gate/kernel", "first_state/kernel"} & set(named_weights(layer))


@every_option
def test_build_makes_the_weights(options):
    plain, layer = random_layer(), AttentionGRUDecoder(V, E, U, attention_units=A, **options)
    layer.build((None, None), (None, None, F))
    added = {}
    if "context_gate" in options:
        added |= {"gate/kernel": (U, 1), "gate/bias": (1,)}
    if "state_initializer" in options:
        added |= {"first_state/kernel": (F, U), "first_state/bias": (U,)}
    # Behind all others.
    expected = [*((name, w.shape) for name, w in named_weights(plain).items()), *added.items()]
    assert [(name, w.shape) for name, w in named_weights(layer).items()] == expected
    assert layer.gate is None or np.abs(named_weights(layer)["gate/kernel"]).min() > 0


def test_the_kernel_initializer_reaches_the_weights():
    layer = AttentionGRUDecoder(V, E, U, kernel_initializer="ones", **OPTIONS["both"])
    layer.build((None, None), (None, None, F))
    for name in ("gate/kernel", "first_state/kernel"):
        np.testing.assert_array_equal(named_weights(layer)[name], 1)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("leading", [(None,), (None, None), (G, None)])
def test_symbolic_calls_and_any_sizes(dtype, leading):
    layer = random_layer(dtype=dtype, **OPTIONS["both"])
    inputs = [keras.Input(leading, dtype="int32"), keras.Input((None, F)), keras.Input((None,), dtype="bool")]
    outputs = layer(inputs[0], inputs[1], features_mask=inputs[2], **ALL)
    assert [x.shape for x in outputs] == [(None, *leading, V), (None, U), (None, *leading, None)]
    assert [x.dtype for x in outputs] == ["float32", layer.compute_dtype, layer.compute_dtype]
    model = keras.Model(inputs, [outputs[0], outputs[2]])
    tokens, features, mask = arrays()
    tokens = tokens if len(leading) == 2 else tokens[:, 0]
    for x in [(tokens, features, mask), (tokens[:1], features[:1, :3], mask[:1, :3])]:
        expected = layer(x[0], x[1], features_mask=x[2], return_attention_scores=True)
        pairs = zip(model.predict(list(x), verbose=0), expected, strict=True)
        # Compiled, half precision is rounded at other places.
        for found, wanted in pairs:
            assert_close(ops.cast(found, "float32"), ops.cast(wanted, "float32"), 1e-5 if dtype == "float32" else 0.15)


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.3), ("mixed_float16", 0.03)])
def test_mixed_precision(policy, tolerance):
    tokens, features, mask = arrays()
    exact = random_layer(**OPTIONS["both"])(tokens, features, features_mask=mask, **ALL)
    layer = random_layer(dtype=policy, **OPTIONS["both"])
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    result = layer(tokens, features, features_mask=mask, **ALL)
    compute = policy.removeprefix("mixed_")
    assert [ops.dtype(x) for x in result] == ["float32", compute, compute]
    assert_close([ops.cast(x, "float32") for x in result], exact, atol=tolerance)
    by_steps = steps(layer, tokens, features, mask)
    assert [ops.dtype(x) for x in by_steps] == ["float32", compute, compute]
    assert_close(by_steps[0], result[0], atol=tolerance / 3)
    assert ops.dtype(layer.initial_state(N, layer.prepare(features))) == compute


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fits_compiled_on_batches_of_two_sizes(policy):
    keras.config.set_dtype_policy(policy)
    rng = np.random.default_rng(0)
    inputs = [keras.Input((None, None), dtype="int32"), keras.Input((None, F))]
    layer = AttentionGRUDecoder(V, E, U, attention_units=A, dropout=0.1, **OPTIONS["both"])
    model = keras.Model(inputs, layer(*inputs))
    before = named_weights(layer)
    model.compile(
        keras.optimizers.SGD(0.1), MaskedSparseCategoricalCrossentropy(), jit_compile=keras.backend.backend() != "torch"
    )
    x = [rng.integers(1, V, (5, G, T)), rng.normal(size=(5, L, F)).astype("float32")]
    history = model.fit(x, rng.integers(0, V, (5, G, T)), batch_size=3, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    for name, weight in named_weights(layer).items():
        assert np.abs(weight - before[name]).max() > 1e-6, name


# ------------------------------------------------------------------------------------- gradients


def test_weights_gradients_equal_finite_differences():
    tokens, features, mask = arrays(dtype="float64")
    mask[1] = False
    layer = random_layer(dtype="float64", **OPTIONS["both"])
    loss = layer_loss(layer, tokens, features, features_mask=mask, **ALL)
    assert_gradients_match_differences(loss, [w.numpy() for w in layer.trainable_weights])


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_those_of_the_steps(mode):
    tokens, features, mask = arrays(dtype="float64")
    layer = random_layer(dtype="float64", **OPTIONS["both"])
    variables = layer.trainable_variables

    def loss(run):
        def of_weights(features, *weights):
            with keras.StatelessScope(list(zip(variables, weights, strict=True))):
                return mixture(run(features))

        return of_weights

    values = [features, *(w.numpy() for w in variables)]
    whole = loss(lambda x: layer(tokens, x, features_mask=mask, **ALL))
    value, gradients = value_and_gradients(whole, values, mode)
    expected, wanted = value_and_gradients(loss(lambda x: steps(layer, tokens, x, mask)), values)
    np.testing.assert_allclose(value, expected, rtol=10 * TIGHT)
    for name, x, y in zip(["features", *named_weights(layer)], gradients, wanted, strict=True):
        np.testing.assert_allclose(x, y, atol=TIGHT * max(1.0, np.abs(y).max()), rtol=0, err_msg=name)
        assert np.abs(y).max() > 1e-3, name


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("value", ["mean", None, True, ["zeros"]])
def test_state_initializer_must_be_known(value):
    with pytest.raises(ValueError, match=r'`state_initializer` must be "zeros" or "mean_feature"\. Received: state_in'):
        AttentionGRUDecoder(V, E, U, state_initializer=value)


def test_initial_state_needs_a_memory_that_fits():
    _, features, _ = arrays()
    layer = random_layer(**START)
    with pytest.raises(ValueError, match=r'With `state_initializer="mean_feature"`, .* Received: memory=None\.'):
        layer.initial_state(N)
    for one in (layer, random_layer()):
        with pytest.raises(ValueError, match=r"`batch_size` must be a multiple of the 2 rows .*batch_size=3\."):
            one.initial_state(3, one.prepare(features))


# ------------------------------------------------------------------------------ in a captioner


def captioner_of(seed, **options):
    captioner = Captioner(FeatureEncoder(6), AttentionGRUDecoder(V, E, U, **options))
    captioner.build([(None, L, F), (None, None)])
    generator = np.random.default_rng(seed)
    captioner.set_weights([generator.normal(0, 0.8, w.shape) for w in captioner.get_weights()])
    return captioner


def features_of(n):
    return np.random.default_rng(3).normal(size=(n, L, F)).astype("float32")


def log_probabilities(captioner, x, tokens):
    inputs = np.concatenate([np.full_like(tokens[..., :1], 2), tokens[..., :-1]], axis=-1)
    return numpy(ops.log_softmax(captioner([x, inputs])))


def assert_scores_by(log_probabilities, tokens, scores):
    chosen = np.take_along_axis(log_probabilities, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores, (chosen * (tokens != 0)).sum(-1), rtol=1e-4, atol=1e-5)


def test_a_captioner_fits_decodes_and_saves(tmp_path):
    rng = np.random.default_rng(0)
    x, y = features_of(6), rng.integers(3, V, (6, G, T + 2))
    y[..., 0] = 2
    captioner = Captioner(FeatureEncoder(6), AttentionGRUDecoder(V, E, U, **OPTIONS["both"]), attention_penalty=0.1)
    captioner.compile(keras.optimizers.Adam(0.03))
    losses = captioner.fit(x, y, batch_size=4, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    found = {}
    for way in ("greedy", BeamSearch(3, n_best=2)):
        found[way] = captioner.generate(x, way, max_length=T)
        tokens, scores = (part if way != "greedy" else part[:, None] for part in found[way][:2])
        assert_scores_by(log_probabilities(captioner, x, tokens), tokens, scores)
    captioner.save(tmp_path / "captioner.keras")
    loaded = keras.models.load_model(tmp_path / "captioner.keras")
    assert loaded.decoder.get_config() == captioner.decoder.get_config()
    for way, expected in found.items():
        again = loaded.generate(x, way, max_length=T)
        np.testing.assert_array_equal(again.tokens, expected.tokens)
        np.testing.assert_allclose(again.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize("way", ["greedy", BeamSearch(3)], ids=["greedy", "beam"])
def test_captioners_with_and_without_write_together(way):
    x, both = features_of(4), [captioner_of(1, **OPTIONS["both"]), captioner_of(2)]
    tokens, scores, attention, _ = generate_together(both, x, way, max_length=T, batch_size=3)
    first, second = (log_probabilities(one, x, tokens) for one in both)
    assert_scores_by(np.logaddexp(first, second) - np.log(2), tokens, scores)
    written = tokens != 0
    np.testing.assert_allclose(attention.sum(-1)[written], 1, atol=1e-5)
