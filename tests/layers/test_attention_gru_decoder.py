"""Sizes: N = 2 images of G = 3 captions of T = 4 tokens, L = 5 locations; widths 7 to 11, V = 13 tokens."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from numerics import (
    FLOAT64_WORKS,
    MODES,
    TIGHT,
    as_tensor,
    assert_close,
    assert_gradients_match_differences,
    layer_loss,
    mixture,
    numpy,
    value_and_gradients,
)
from reference import decoder as naive_decoder
from reference import named_weights, randomize

from keras_showattend.layers import AttentionGRUDecoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy

N, G, T, L, F, E, U, A, V = 2, 3, 4, 5, 7, 8, 9, 11, 13
STORED = Path(__file__).with_name("weights_attention_gru_decoder.npz")
ALL = {"return_state": True, "return_attention_scores": True}


def arrays(group=False, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (N, G, T) if group else (N, T)).astype("int32")
    features = rng.normal(size=(N, L, F)).astype(dtype)
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0]], "bool")
    state = rng.normal(size=(N * G if group else N, U)).astype(dtype)
    return tokens, features, mask, state


def random_layer(**kwargs):
    layer = AttentionGRUDecoder(V, E, U, **{"attention_units": A, **kwargs})
    layer.build((None, None), (None, None, F))
    return randomize(layer)


# ------------------------------------------------------------------------------------ the values


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_equals_the_reference(masked, with_state):
    tokens, features, mask, state = arrays()
    mask, state = mask if masked else None, state if with_state else None
    layer = random_layer()
    result = layer(tokens, features, features_mask=mask, initial_state=state, **ALL)
    expected = naive_decoder(tokens, features, named_weights(layer), mask, state)
    assert_close(result, expected)
    logits, last, weights = expected
    options = {"features_mask": mask, "initial_state": state}
    assert_close(layer(tokens, features, **options), logits)
    assert_close(layer(tokens, features, **options, return_state=True), (logits, last))
    assert_close(layer(tokens, features, **options, return_attention_scores=True), (logits, weights))


def test_worked_by_hand():
    # One unit, one location, every weight 0 but the candidate's for the feature, 1/2, and the two output layers'.
    # z = 1/2 and n = tanh(2 / 2) at each step, so h = tanh(1) / 2, then 3/4 tanh(1); logits (2h, -2h).
    layer = AttentionGRUDecoder(2, 1, 1)
    layer.build((None, None), (None, None, 1))
    values = {name: np.zeros(w.shape) for name, w in named_weights(layer).items()}
    values["gru/kernel"][0, 2] = 0.5
    values["hidden/kernel"][:] = 2
    values["vocabulary/kernel"][:] = [[1, -1]]
    layer.set_weights(list(values.values()))
    h = np.tanh(1) * np.array([0.5, 0.75])
    result = layer(np.array([[0, 1]]), np.array([[[2.0]]]), **ALL)
    assert_close(result, ([np.stack([2 * h, -2 * h], -1)], [[h[1]]], [[[1.0], [1.0]]]))


def test_the_gru_is_that_of_keras():
    # With one location the context is its feature at every step, and the GRU reads a sequence known beforehand.
    tokens, features, _, state = arrays()
    features = features[:, :1]
    layer = random_layer()
    embedded = numpy(layer.embedding(tokens))
    sequence = np.concatenate([np.repeat(features, T, 1), embedded], axis=-1)
    gru = keras.layers.GRU(U, reset_after=True, return_sequences=True, return_state=True)
    gru.build(sequence.shape)

    def assert_equal():
        states, last = gru(sequence, initial_state=ops.convert_to_tensor(state))
        logits = layer.vocabulary(layer.hidden(states))
        assert_close(layer(tokens, features, initial_state=state, return_state=True), (logits, last))

    gru.set_weights(layer.gru.get_weights())
    assert_equal()
    randomize(gru, seed=9)
    layer.gru.set_weights(gru.get_weights())
    assert_equal()


@pytest.mark.parametrize("masked", [True, False])
def test_grouped_captions_equal_one_by_one(masked):
    tokens, features, mask, state = arrays(group=True)
    mask = mask if masked else None
    layer = random_layer()
    logits, last, weights = layer(tokens, features, features_mask=mask, initial_state=state, **ALL)
    assert logits.shape == (N, G, T, V)
    assert last.shape == (N * G, U)
    assert weights.shape == (N, G, T, L)
    one_by_one = layer(
        tokens.reshape(N * G, T),
        np.repeat(features, G, axis=0),
        features_mask=None if mask is None else np.repeat(mask, G, axis=0),
        initial_state=state,
        **ALL,
    )
    assert_close((numpy(logits).reshape(N * G, T, V), last, numpy(weights).reshape(N * G, T, L)), one_by_one)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_step_by_step_equals_all_at_once(masked, group):
    tokens, features, mask, state = arrays(group)
    mask = mask if masked else None
    layer = random_layer(dropout=0.5)
    logits, last, weights = numpy(layer(tokens, features, features_mask=mask, initial_state=state, **ALL))
    memory = layer.prepare(features, mask)
    for t in range(T):
        step = layer.step(tokens[..., t].reshape(-1), state, memory)
        state = step[1]
        assert_close((step[0], step[2]), (logits[..., t, :].reshape(-1, V), weights[..., t, :].reshape(-1, L)))
    assert_close(state, last)


def test_the_state_starts_at_zero():
    tokens, features, _, _ = arrays()
    layer = random_layer()
    state = layer.initial_state(N)
    np.testing.assert_array_equal(numpy(state), np.zeros((N, U)))
    assert_close(layer(tokens, features, initial_state=state), layer(tokens, features), atol=0)


def test_padding_behind_a_caption_leaves_what_is_before():
    tokens, features, mask, _ = arrays()
    padded = np.pad(tokens, [(0, 0), (0, 2)])
    layer = random_layer()
    logits, weights = numpy(layer(padded, features, mask, return_attention_scores=True))
    expected = layer(tokens, features, mask, return_attention_scores=True)
    assert_close((logits[:, :T], weights[:, :T]), expected, atol=1e-6)


def test_weights_sum_to_one_and_locations_have_no_order():
    tokens, features, mask, _ = arrays()
    order = np.array([3, 0, 4, 1, 2])
    layer = random_layer()
    logits, weights = numpy(layer(tokens, features, mask, return_attention_scores=True))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    permuted = layer(tokens, features[:, order], mask[:, order], return_attention_scores=True)
    assert_close(permuted, (logits, weights[..., order]))


# ----------------------------------------------------------------------------------------- masks


def test_masked_equals_removed():
    tokens, features, mask, _ = arrays()
    layer = random_layer()
    logits, state, weights = numpy(layer(tokens, features, features_mask=mask, **ALL))
    for n, kept in enumerate(mask):
        assert np.all(weights[n][:, ~kept] == 0)
        removed = layer(tokens[n : n + 1], features[n : n + 1, kept], **ALL)
        assert_close(removed, (logits[n : n + 1], state[n : n + 1], weights[n : n + 1][..., kept]))


def test_masked_values_change_nothing():
    tokens, features, mask, _ = arrays()
    others = np.where(mask[..., None], features, 1e3).astype("float32")
    layer = random_layer()
    expected = layer(tokens, features, features_mask=mask, **ALL)
    assert_close(layer(tokens, others, features_mask=mask, **ALL), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_an_image_with_nothing_to_attend_to(dtype):
    tokens, features, mask, _ = arrays(group=True)
    mask[1] = False
    layer = random_layer(dtype=dtype)
    logits, state, weights = numpy(layer(tokens, features, features_mask=mask, **ALL))
    np.testing.assert_array_equal(weights[1], 0)
    # The context is zero, as if the features were.
    expected = numpy(layer(tokens[1:], np.zeros_like(features[1:]), **ALL))
    assert_close((logits[1:], state[G:]), expected[:2], atol=2e-3 if dtype == "mixed_float16" else 1e-5)
    loss = layer_loss(layer, tokens, features, features_mask=mask)
    _, gradients = value_and_gradients(loss, [w.numpy() for w in layer.trainable_weights])
    assert all(np.all(np.isfinite(g)) for g in gradients)
    _, (d_features,) = value_and_gradients(lambda x: mixture(layer(tokens, x, features_mask=mask)), [features])
    np.testing.assert_array_equal(d_features[1], 0)
    assert np.abs(d_features[0][mask[0]]).max() > 0


@pytest.mark.parametrize("group", [False, True])
def test_keras_hands_the_mask_of_the_features_over(group):
    tokens, features, mask, _ = arrays(group)
    features = np.where(mask[..., None], features, 0)
    layer = random_layer()
    inputs = [keras.Input(tokens.shape[1:], dtype="int32"), keras.Input((L, F))]
    model = keras.Model(inputs, layer(inputs[0], keras.layers.Masking()(inputs[1]), return_attention_scores=True))
    expected = layer(tokens, features, features_mask=mask, return_attention_scores=True)
    assert_close(model([tokens, features]), expected)
    assert_close(model.predict([tokens, features], verbose=0), expected)
    unmasked = layer(tokens, features, return_attention_scores=True)
    assert np.abs(numpy(unmasked[1]) - numpy(expected[1])).max() > 0.01


def test_embeddings_mask_reaches_the_layer():
    words = np.array([[3, 1, 0, 0], [2, 2, 4, 0]])
    embedding = keras.layers.Embedding(5, F, mask_zero=True)
    layer = random_layer()
    tokens = arrays()[0]
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    logits = layer(inputs[0], embedding(inputs[1]))
    assert getattr(logits, "_keras_mask", None) is None
    expected = layer(tokens, numpy(embedding(words)), features_mask=words != 0)
    assert_close(keras.Model(inputs, logits)([tokens, words]), expected)


# ------------------------------------------------------------------------------- Keras's contract


def test_config_round_trip():
    layer = AttentionGRUDecoder(
        V,
        E,
        U,
        attention_units=A,
        dropout=0.3,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.2, seed=1),
        recurrent_initializer="orthogonal",
        name="writer",
        dtype="mixed_bfloat16",
    )
    config = layer.get_config()
    wanted = {"vocab_size": V, "embed_dim": E, "units": U, "attention_units": A, "dropout": 0.3, "name": "writer"}
    assert wanted.items() <= config.items()
    assert AttentionGRUDecoder.from_config(config).get_config() == config
    again = keras.layers.deserialize(json.loads(json.dumps(keras.layers.serialize(layer))))
    assert type(again) is AttentionGRUDecoder
    assert again.get_config() == config
    assert again.kernel_initializer.stddev == 0.2
    assert isinstance(again.gru.recurrent_initializer, keras.initializers.Orthogonal)
    assert again.gru.compute_dtype == "bfloat16"


def test_attention_units_default_to_units():
    layer = AttentionGRUDecoder(V, E, U)
    assert layer.get_config()["attention_units"] is None
    assert layer.attention.units == U


def test_initializers_reach_the_weights():
    layer = AttentionGRUDecoder(V, E, U, kernel_initializer="ones", recurrent_initializer="zeros")
    layer.build((None, None), (None, None, F))
    weights = named_weights(layer)
    for name in ("gru/kernel", "hidden/kernel", "vocabulary/kernel"):
        np.testing.assert_array_equal(weights[name], 1)
    np.testing.assert_array_equal(weights["gru/recurrent_kernel"], 0)


def test_kernels_of_one_shape_start_apart():
    # V = U, so that the two output layers have kernels of the same shape.
    layer = AttentionGRUDecoder(U, E, U, kernel_initializer=keras.initializers.GlorotUniform())
    layer.build((None, None), (None, None, F))
    weights = named_weights(layer)
    assert weights["hidden/kernel"].shape == weights["vocabulary/kernel"].shape
    assert np.abs(weights["hidden/kernel"] - weights["vocabulary/kernel"]).max() > 0


@keras.saving.register_keras_serializable(package="tests")
class Writer(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.decoder = AttentionGRUDecoder(V, E, units)

    def build(self, tokens_shape, features_shape):
        self.decoder.build(tokens_shape, features_shape)

    def call(self, tokens, features):
        return self.decoder(tokens, features)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_save_and_load_inside_a_model(tmp_path):
    tokens, features, _, _ = arrays()
    model = Writer(U)
    model.build((None, None), (None, None, F))
    randomize(model)
    expected = numpy(model(tokens, features))
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(tokens, features), expected, atol=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = Writer(U)
    other.build((None, None), (None, None, F))
    other.load_weights(tmp_path / "model.weights.h5")
    assert_close(other(tokens, features), expected, atol=0)


@pytest.mark.parametrize("tokens_shape", [(None, None), (None, G, None)])
def test_build_makes_the_weights(tokens_shape):
    layer = AttentionGRUDecoder(V, E, U, attention_units=A)
    layer.build(tokens_shape, (None, None, F))
    expected = {
        "embedding/embeddings": (V, E),
        "attention/query_kernel": (U, A),
        "attention/key_kernel": (F, A),
        "attention/query_bias": (A,),
        "attention/key_bias": (A,),
        "attention/score_kernel": (A, 1),
        "gru/kernel": (F + E, 3 * U),
        "gru/recurrent_kernel": (U, 3 * U),
        "gru/bias": (2, 3 * U),
        "hidden/kernel": (U, U),
        "hidden/bias": (U,),
        "vocabulary/kernel": (U, V),
        "vocabulary/bias": (V,),
    }
    assert {name: w.shape for name, w in named_weights(layer).items()} == expected
    assert layer.count_params() == sum(np.prod(shape) for shape in expected.values())
    assert layer.built


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("leading", [(None,), (T,), (G, T), (None, None), (G, None)])
def test_symbolic_and_eager_calls_agree(dtype, leading):
    group = len(leading) == 2
    tokens, features, _, _ = arrays(group)
    layer = random_layer(dtype=dtype)
    inputs = keras.Input(leading, dtype="int32"), keras.Input((None, F))
    symbolic = layer(*inputs, **ALL)
    assert [x.shape for x in symbolic] == [(None, *leading, V), (None, U), (None, *leading, None)]
    eager = layer(tokens, features, **ALL)
    assert [x.shape for x in eager] == [(*tokens.shape, V), (len(eager[1]), U), (*tokens.shape, L)]
    logits_dtype = "float64" if dtype == "float64" else "float32"
    assert [x.dtype for x in symbolic] == [logits_dtype, layer.compute_dtype, layer.compute_dtype]
    if dtype != "float64" or FLOAT64_WORKS:
        assert [ops.dtype(x) for x in eager] == [x.dtype for x in symbolic]
    assert layer(*inputs).shape == layer.compute_output_shape((None, *leading), (None, None, F))
    assert [x.shape for x in layer(*inputs, return_state=True)] == [x.shape for x in symbolic[:2]]
    assert [x.shape for x in layer(*inputs, return_attention_scores=True)] == [x.shape for x in symbolic[::2]]


def test_hidden_states_in_place_of_logits():
    layer, (tokens, features, *_) = random_layer(), arrays()
    hidden, weights = layer(tokens, features, return_attention_scores=True, return_hidden=True)
    logits = layer(tokens, features)
    assert tuple(hidden.shape) == (*tokens.shape, layer.units)
    assert_close(layer.vocabulary(hidden), logits)
    symbolic = layer.compute_output_spec(tokens, features, return_attention_scores=True, return_hidden=True)
    assert [x.shape for x in symbolic] == [tuple(x.shape) for x in (hidden, weights)]


def test_the_batch_of_the_state_is_known_where_it_can_be():
    layer = random_layer()
    tokens = keras.KerasTensor((N, G, T), dtype="int32")
    _, state = layer(tokens, keras.KerasTensor((N, L, F)), return_state=True)
    assert state.shape == (N * G, U)


def test_any_sizes_in_a_functional_model():
    layer = random_layer()
    inputs = [keras.Input((None, None), dtype="int32"), keras.Input((None, F)), keras.Input((None,), dtype="bool")]
    outputs = layer(inputs[0], inputs[1], features_mask=inputs[2], return_attention_scores=True)
    model = keras.Model(inputs, outputs)
    tokens, features, mask, _ = arrays(group=True)
    for x in [(tokens, features, mask), (tokens[:1, :2, :1], features[:1, :3], mask[:1, :3])]:
        expected = layer(x[0], x[1], features_mask=x[2], return_attention_scores=True)
        assert_close(model.predict(list(x), verbose=0), expected)


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_any_integers_serve_as_tokens(dtype):
    tokens, features, _, _ = arrays()
    layer = random_layer()
    assert_close(layer(tokens.astype(dtype), features), layer(tokens, features), atol=0)


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.3), ("mixed_float16", 0.03)])
def test_mixed_precision(policy, tolerance):
    tokens, features, mask, state = arrays()
    exact = random_layer()(tokens, features, features_mask=mask, initial_state=state, **ALL)
    keras.config.set_dtype_policy(policy)
    layer = random_layer()
    compute = policy.removeprefix("mixed_")
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    result = layer(tokens, features, features_mask=mask, initial_state=state, **ALL)
    assert [ops.dtype(x) for x in result] == ["float32", compute, compute]
    assert_close([ops.cast(x, "float32") for x in result], exact, atol=tolerance)
    memory = layer.prepare(features, mask)
    assert ops.dtype(memory["features"]) == compute
    assert ops.dtype(memory["key_exponentials"]) == "float32"
    assert ops.dtype(layer.initial_state(N)) == compute
    for t in range(T):
        step_logits, state, weights = layer.step(tokens[:, t], state, memory)
        assert [ops.dtype(x) for x in (step_logits, state, weights)] == ["float32", compute, compute]
    assert_close(step_logits, result[0][:, -1], atol=tolerance / 10)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fits_compiled_on_batches_of_two_sizes(policy):
    keras.config.set_dtype_policy(policy)
    rng = np.random.default_rng(0)
    inputs = [keras.Input((None, None), dtype="int32"), keras.Input((None, F))]
    layer = AttentionGRUDecoder(V, E, U, attention_units=A, dropout=0.1)
    model = keras.Model(inputs, layer(*inputs))
    before = named_weights(layer)
    model.compile(
        keras.optimizers.SGD(0.1), MaskedSparseCategoricalCrossentropy(), jit_compile=keras.backend.backend() != "torch"
    )
    x = [rng.integers(1, V, (5, G, T)), rng.normal(size=(5, L, F)).astype("float32")]
    history = model.fit(x, rng.integers(0, V, (5, G, T)), batch_size=3, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    for name, weight in named_weights(layer).items():
        assert np.abs(weight - before[name]).max() > 1e-5, name


# ------------------------------------------------------------------------------------- gradients


def test_weights_gradients_equal_finite_differences():
    tokens, features, mask, state = arrays(group=True, dtype="float64")
    mask[1] = False
    layer = random_layer(dtype="float64")
    options = {"features_mask": mask, "initial_state": as_tensor(state), **ALL}
    loss = layer_loss(layer, tokens, as_tensor(features), **options)
    assert_gradients_match_differences(loss, [w.numpy() for w in layer.trainable_weights])


@pytest.mark.parametrize("mode", MODES)
def test_input_gradients_equal_finite_differences(mode):
    tokens, features, mask, state = arrays(group=True, dtype="float64")
    layer = random_layer(dtype="float64")

    def loss(features, state):
        return mixture(layer(tokens, features, features_mask=mask, initial_state=state, **ALL))

    assert_gradients_match_differences(loss, [features, state], mode)


def test_steps_have_the_gradient_of_the_whole():
    tokens, features, mask, _ = arrays(dtype="float64")
    layer = random_layer(dtype="float64")

    def steps(features):
        memory, state, logits = layer.prepare(features, mask), layer.initial_state(N), []
        for t in range(T):
            step_logits, state, _ = layer.step(tokens[:, t], state, memory)
            logits.append(step_logits)
        return mixture(ops.stack(logits, axis=1))

    value, (gradient,) = value_and_gradients(steps, [features])
    expected, (wanted,) = value_and_gradients(lambda x: mixture(layer(tokens, x, features_mask=mask)), [features])
    np.testing.assert_allclose(value, expected, rtol=10 * TIGHT)
    np.testing.assert_allclose(gradient, wanted, atol=10 * TIGHT)


# --------------------------------------------------------------------------------------- dropout


def test_dropout_before_the_vocabulary_layer():
    # An identity in place of the vocabulary layer, and embeddings of zero, on which dropout does nothing.
    tokens, features, _, _ = arrays()
    layer = AttentionGRUDecoder(U, E, U, dropout=0.4)
    layer.build((None, None), (None, None, F))
    randomize(layer)
    layer.embedding.set_weights([np.zeros((U, E))])
    layer.vocabulary.set_weights([np.eye(U), np.zeros(U)])
    tokens = tokens % U
    plain = numpy(layer(tokens, features, training=False))
    dropped = numpy(layer(tokens, features, training=True))
    zero = dropped == 0
    assert 0 < zero.sum() < zero.size
    np.testing.assert_allclose(dropped[~zero], plain[~zero] / 0.6, rtol=1e-4)


def test_dropout_on_the_embeddings():
    # The state is before the last dropout: only that of the embeddings can change it.
    tokens, features, _, _ = arrays()
    layer = random_layer(dropout=0.4)
    _, plain = numpy(layer(tokens, features, return_state=True, training=False))
    _, dropped = numpy(layer(tokens, features, return_state=True, training=True))
    assert np.abs(dropped - plain).max() > 0.01


def test_dropout_is_reproducible_and_off_outside_training():
    tokens, features, _, _ = arrays()

    def run(seed, **kwargs):
        keras.utils.set_random_seed(seed)
        return numpy(random_layer(dropout=0.4)(tokens, features, **kwargs))

    np.testing.assert_array_equal(run(1, training=True), run(1, training=True))
    assert np.abs(run(1, training=True) - run(2, training=True)).max() > 0.01
    expected = numpy(random_layer()(tokens, features))
    np.testing.assert_array_equal(run(1, training=False), expected)
    np.testing.assert_array_equal(run(1), expected)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", ["vocab_size", "embed_dim", "units", "attention_units"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True, "7"])
def test_sizes_must_be_positive_integers(name, value):
    sizes = {"vocab_size": V, "embed_dim": E, "units": U, name: value}
    with pytest.raises(ValueError, match=rf"`{name}` must be a positive integer\. Received: {name}="):
        AttentionGRUDecoder(**sizes)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, True, None])
def test_dropout_must_be_a_fraction(dropout):
    with pytest.raises(ValueError, match=r"`dropout` must be a number in \[0, 1\)\. Received: dropout="):
        AttentionGRUDecoder(V, E, U, dropout=dropout)


MISFITS = {
    "rank of tokens": ("tokens", (N,), r"`tokens` must have the shape \(B, T\) or \(N, G, T\).*\(2,\)"),
    "no token": ("tokens", (N, 0), r"`tokens` must have at least one token a caption\..*\(2, 0\)"),
    "no location": ("features", (N, 0, F), r"`features` must have at least one location\..*\(2, 0, 7\)"),
    "rows of tokens": ("tokens", (3, T), r"`tokens` and `features` must have the same number of rows.*\(3, 4\)"),
    "rank of features": ("features", (N, F), r"`features` must have the shape \(N, L, F=7\).*\(2, 7\)"),
    "width of features": ("features", (N, L, 6), r"`features` must have the shape \(N, L, F=7\).*\(2, 5, 6\)"),
    "locations of the mask": ("features_mask", (N, 4), r"`features_mask` must have the shape \(N, L\).*\(2, 4\)"),
    "rank of the mask": ("features_mask", (N, L, 1), r"`features_mask` must have the shape \(N, L\).*\(2, 5, 1\)"),
    "rows of the state": ("initial_state", (3, U), r"`initial_state` must have the shape \(B, 9\), B=2.*\(3, 9\)"),
    "width of the state": ("initial_state", (N, 8), r"`initial_state` must have the shape \(B, 9\), B=2.*\(2, 8\)"),
    "rank of the state": ("initial_state", (U,), r"`initial_state` must have the shape \(B, 9\), B=2.*\(9,\)"),
}


@pytest.mark.parametrize(("name", "shape", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_shapes_must_fit(name, shape, message):
    tokens, features, mask, state = arrays()
    inputs = {"tokens": tokens, "features": features, "features_mask": mask, "initial_state": state}
    inputs[name] = np.zeros(shape, inputs[name].dtype)
    with pytest.raises(ValueError, match=message):
        random_layer()(**inputs)


def test_tokens_must_be_integers():
    tokens, features, _, _ = arrays()
    with pytest.raises(ValueError, match=r"`tokens` must be integers\. Received: tokens\.dtype=float32"):
        random_layer()(tokens.astype("float32"), features)


def test_the_state_of_grouped_captions_has_a_row_for_each():
    tokens, features, _, state = arrays(group=True)
    with pytest.raises(ValueError, match=r"`initial_state` must have the shape \(B, 9\), B=6.*\(2, 9\)"):
        random_layer()(tokens, features, initial_state=state[:N])


def test_the_width_of_the_features_must_be_known():
    with pytest.raises(ValueError, match=r"The width of `features`, .* must be known .*\(None, None, None\)"):
        AttentionGRUDecoder(V, E, U).build((None, None), (None, None, None))


def test_prepare_and_step_need_a_built_layer():
    tokens, features, _, state = arrays()
    layer = AttentionGRUDecoder(V, E, U, name="writer")
    with pytest.raises(ValueError, match=r"`prepare` needs the weights of 'writer'.*Received: built=False"):
        layer.prepare(features)
    with pytest.raises(ValueError, match=r"`step` needs the weights of 'writer'.*Received: built=False"):
        layer.step(tokens[:, 0], state, {})


def test_prepare_and_step_check_shapes():
    tokens, features, mask, state = arrays()
    layer = random_layer()
    with pytest.raises(ValueError, match=r"`features` must have the shape \(N, L, F=7\).*\(2, 5, 6\)"):
        layer.prepare(features[..., :6])
    with pytest.raises(ValueError, match=r"`features_mask` must have the shape \(N, L\).*\(2, 3\)"):
        layer.prepare(features, mask[:, :3])
    memory = layer.prepare(features)
    with pytest.raises(ValueError, match=r"`token` must have the shape \(B,\)\. Received: token\.shape=\(2, 4\)"):
        layer.step(tokens, state, memory)
    with pytest.raises(ValueError, match=r"`state` must have the shape \(B, 9\), B=2.*\(1, 9\)"):
        layer.step(tokens[:, 0], state[:1], memory)
    with pytest.raises(ValueError, match=r"`token` must have a multiple of the 2 rows .*token\.shape=\(3,\)"):
        layer.step(np.zeros(3, "int32"), np.zeros((3, U), "float32"), memory)


# ---------------------------------------------------------------------------------- every backend


def test_stored_weights_give_the_stored_outputs():
    with np.load(STORED) as stored:
        layer = AttentionGRUDecoder(V, E, U, attention_units=A)
        layer.build((None, None), (None, None, F))
        layer.set_weights([stored[name] for name in named_weights(layer)])
        inputs = {name: stored[name] for name in ("tokens", "features", "features_mask", "initial_state")}
        assert_close(layer(**inputs, **ALL), [stored[name] for name in ("logits", "state", "attention")])


def write_stored():
    """For a change that is meant: `PYTHONPATH=tests python tests/layers/test_attention_gru_decoder.py`."""
    names = ("tokens", "features", "features_mask", "initial_state")
    layer, inputs = random_layer(), dict(zip(names, arrays(group=True), strict=True))
    logits, state, attention = numpy(layer(**inputs, **ALL))
    weights = {name: w.astype("float32") for name, w in named_weights(layer).items()}
    np.savez_compressed(STORED, **inputs, **weights, logits=logits, state=state, attention=attention)


if __name__ == "__main__":
    write_stored()
