"""Widths: query 3, value 5, key 6, scoring space 7; B = 2 examples of T = 4 queries and L = 8 locations."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from numerics import (
    FLOAT64_WORKS,
    MODES,
    as_tensor,
    assert_close,
    assert_gradients_match_differences,
    layer_loss,
    mixture,
    numpy,
    value_and_gradients,
)
from reference import bahdanau_attention, named_weights, randomize

from keras_showattend.layers import BahdanauAttention

B, T, L, Q, D, K, A = 2, 4, 8, 3, 5, 6, 7
STORED = Path(__file__).with_name("weights_bahdanau_attention.npz")


def arrays(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    query, value, key = (rng.normal(size=shape).astype(dtype) for shape in [(B, T, Q), (B, L, D), (B, L, K)])
    mask = np.array([[1, 0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0, 0, 1]], "bool")
    return query, value, key, mask


def random_layer(key_width=K, **kwargs):
    layer = BahdanauAttention(A, **kwargs)
    layer.build((None, None, Q), (None, None, D), (None, None, key_width))
    return randomize(layer)


# ------------------------------------------------------------------------------------ the values


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_equals_the_reference(use_bias, masked):
    query, value, key, mask = arrays()
    mask = mask if masked else None
    layer = random_layer(use_bias=use_bias)
    result = layer(query, value, key, value_mask=mask, return_attention_scores=True)
    expected = bahdanau_attention(query, value, key, named_weights(layer), mask)
    assert_close(result, expected)
    assert_close(layer(query, value, key, value_mask=mask), expected[0])


def test_the_value_is_the_key_by_default():
    query, value, _, mask = arrays()
    layer = random_layer(key_width=D)
    assert_close(
        layer(query, value, value_mask=mask, return_attention_scores=True),
        bahdanau_attention(query, value, value, named_weights(layer), mask),
    )


def test_worked_by_hand():
    # v . tanh(0 + k) with v = 2 log 3 and the keys 0 and atanh(1/2): scores 0 and log 3, weights 1/4 and 3/4,
    # context 1/4 * 8 + 3/4 * 4 = 5.
    layer = BahdanauAttention(1, use_bias=False)
    layer.build((None, 1), (None, None, 1))
    layer.set_weights([np.array([[w]]) for w in (1.0, 1.0, 2 * np.log(3))])
    context, weights = layer(
        np.zeros((1, 1)), np.array([[[8.0], [4.0]]]), np.arctanh([[[0.0], [0.5]]]), return_attention_scores=True
    )
    assert_close((context, weights), ([[5.0]], [[0.25, 0.75]]))


def test_equals_keras_additive_attention_where_it_is_the_same():
    rng = np.random.default_rng(0)
    query, value, key = (rng.normal(size=(B, n, A)).astype("float32") for n in (T, L, L))
    mask = arrays()[3]
    theirs = keras.layers.AdditiveAttention()
    theirs.build([(B, T, A), (B, L, A), (B, L, A)])
    scale = rng.normal(size=A)
    theirs.set_weights([scale])
    ours = BahdanauAttention(A, use_bias=False)
    ours.build((None, None, A), (None, None, A))
    ours.set_weights([np.eye(A), np.eye(A), scale[:, None]])
    assert_close(
        ours(query, value, key, value_mask=mask, return_attention_scores=True),
        theirs([query, value, key], mask=[None, ops.convert_to_tensor(mask)], return_attention_scores=True),
    )


def test_one_query_equals_many_one_by_one():
    query, value, key, mask = arrays()
    layer = random_layer()
    contexts, weights = layer(query, value, key, value_mask=mask, return_attention_scores=True)
    for t in range(T):
        one = layer(query[:, t], value, key, value_mask=mask, return_attention_scores=True)
        assert one[0].shape == (B, D)
        assert one[1].shape == (B, L)
        assert_close(one, (contexts[:, t], weights[:, t]), atol=1e-6)


def test_a_projected_key_takes_the_place_of_the_key():
    query, value, key, _ = arrays()
    layer = random_layer()
    projected = layer.project_key(key)
    assert projected.shape == (B, L, A)
    assert_close(layer(query, value, projected_key=projected), layer(query, value, key), atol=1e-6)


def test_weights_sum_to_one_and_locations_have_no_order():
    query, value, key, mask = arrays()
    order = np.random.default_rng(1).permutation(L)
    layer = random_layer()
    context, weights = layer(query, value, key, value_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(numpy(weights).sum(-1), 1, atol=1e-6)
    assert_close(
        layer(query, value[:, order], key[:, order], value_mask=mask[:, order], return_attention_scores=True),
        (context, numpy(weights)[..., order]),
    )


# ----------------------------------------------------------------------------------------- masks


def test_masked_equals_removed():
    query, value, key, mask = arrays()
    layer = random_layer()
    context, weights = numpy(layer(query, value, key, value_mask=mask, return_attention_scores=True))
    assert np.all(weights[~np.repeat(mask[:, None], T, 1)] == 0)
    for b in range(B):
        kept = mask[b]
        removed = layer(query[b : b + 1], value[b : b + 1, kept], key[b : b + 1, kept], return_attention_scores=True)
        assert_close(removed, (context[b : b + 1], weights[b : b + 1][..., kept]))


def test_masked_values_change_nothing():
    query, value, key, mask = arrays()
    other_value, other_key = (np.where(mask[..., None], x, 1e4).astype("float32") for x in (value, key))
    layer = random_layer()
    assert_close(
        layer(query, other_value, other_key, value_mask=mask, return_attention_scores=True),
        layer(query, value, key, value_mask=mask, return_attention_scores=True),
        atol=0,
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_row_with_nothing_to_attend_to(dtype):
    query, value, _, mask = arrays()
    mask[1] = False
    layer = random_layer(key_width=D, dtype=dtype)
    context, weights = numpy(layer(query, value, value_mask=mask, return_attention_scores=True))
    np.testing.assert_array_equal(context[1], 0)
    np.testing.assert_array_equal(weights[1], 0)
    assert np.abs(context[0]).min() > 0
    loss = layer_loss(layer, query, value, value_mask=mask)
    _, gradients = value_and_gradients(loss, [w.numpy() for w in layer.trainable_weights])
    assert all(np.all(np.isfinite(g)) for g in gradients)
    _, (d_query, d_value) = value_and_gradients(lambda q, v: mixture(layer(q, v, value_mask=mask)), [query, value])
    np.testing.assert_array_equal(d_query[1], 0)
    np.testing.assert_array_equal(d_value[1], 0)
    assert np.abs(d_query[0]).max() > 0


def test_keras_hands_the_mask_of_the_value_over():
    query, value, _, mask = arrays()
    value = np.where(mask[..., None], value, 0)
    layer = random_layer(key_width=D)
    queries, values = keras.Input((T, Q)), keras.Input((L, D))
    model = keras.Model([queries, values], layer(queries, keras.layers.Masking()(values), return_attention_scores=True))
    expected = layer(query, value, value_mask=mask, return_attention_scores=True)
    assert_close(model([query, value]), expected)
    assert_close(model.predict([query, value], verbose=0), expected)
    assert np.abs(numpy(expected[1]) - numpy(layer(query, value, return_attention_scores=True)[1])).max() > 0.01


def test_embeddings_mask_reaches_the_layer():
    words = np.array([[3, 1, 0, 0], [2, 2, 4, 0]])
    embedding = keras.layers.Embedding(5, D, mask_zero=True)
    layer = random_layer(key_width=D)
    query = arrays()[0]
    queries, ids = keras.Input((None, Q)), keras.Input((None,), dtype="int32")
    model = keras.Model([queries, ids], layer(queries, embedding(ids)))
    expected = layer(query, numpy(embedding(words)), value_mask=words != 0)
    assert_close(model([query, words]), expected)


def test_the_mask_of_the_queries_goes_on():
    queries, values = keras.Input((T, Q)), keras.Input((L, D))
    layer = random_layer(key_width=D)
    contexts, _ = layer(keras.layers.Masking()(queries), values, return_attention_scores=True)
    # Keras averages over the steps that the mask keeps.
    model = keras.Model([queries, values], [contexts, keras.layers.GlobalAveragePooling1D()(contexts)])
    query, value, _, _ = arrays()
    query[:, 2:] = 0
    contexts, mean = numpy(model([query, value]))
    assert_close(mean, contexts[:, :2].mean(1))
    # A single query has no steps that a mask could tell apart.
    assert layer.compute_mask(keras.Input((T, Q)), "anything") == "anything"
    assert layer.compute_mask(keras.Input((Q,)), "anything") is None


# ------------------------------------------------------------------------------- Keras's contract


def test_config_round_trip():
    layer = BahdanauAttention(A, use_bias=False, dropout=0.3, name="looker", dtype="mixed_bfloat16")
    config = layer.get_config()
    assert (config["units"], config["use_bias"], config["dropout"], config["name"]) == (A, False, 0.3, "looker")
    assert BahdanauAttention.from_config(config).get_config() == config
    again = keras.layers.deserialize(json.loads(json.dumps(keras.layers.serialize(layer))))
    assert type(again) is BahdanauAttention
    assert again.get_config() == config
    assert again.compute_dtype == "bfloat16"


@keras.saving.register_keras_serializable(package="tests")
class Looker(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = BahdanauAttention(units)

    def build(self, query_shape, value_shape):
        self.attention.build(query_shape, value_shape)

    def call(self, query, value):
        return self.attention(query, value, return_attention_scores=True)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_save_and_load_inside_a_model(tmp_path):
    query, value, _, _ = arrays()
    model = Looker(A)
    model.build((None, None, Q), (None, None, D))
    randomize(model)
    expected = numpy(model(query, value))
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(query, value), expected, atol=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = Looker(A)
    other.build((None, None, Q), (None, None, D))
    other.load_weights(tmp_path / "model.weights.h5")
    assert_close(other(query, value), expected, atol=0)


@pytest.mark.parametrize("use_bias", [True, False])
def test_build_makes_the_weights(use_bias):
    layer = BahdanauAttention(A, use_bias=use_bias)
    layer.build((None, Q), (None, None, D), (None, None, K))
    shapes = {name: w.shape for name, w in named_weights(layer).items()}
    expected = {"query_kernel": (Q, A), "key_kernel": (K, A), "score_kernel": (A, 1)}
    if use_bias:
        expected |= {"query_bias": (A,), "key_bias": (A,)}
    assert shapes == expected
    assert layer.count_params() == (Q + K + 1 + 2 * use_bias) * A
    assert layer.built


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("steps", [None, T, 0])
def test_symbolic_and_eager_calls_agree(dtype, steps):
    query, value, key, _ = arrays()
    query = query[:, 0] if steps == 0 else query
    layer = random_layer(dtype=dtype)
    queries = keras.Input((Q,) if steps == 0 else (steps, Q))
    symbolic = layer(queries, keras.Input((None, D)), keras.Input((None, K)), return_attention_scores=True)
    middle = () if steps == 0 else (steps,)
    assert [x.shape for x in symbolic] == [(None, *middle, D), (None, *middle, None)]
    eager = layer(query, value, key, return_attention_scores=True)
    for x, wanted in zip(eager, symbolic, strict=True):
        assert wanted.dtype == layer.compute_dtype
        assert ops.dtype(x) == wanted.dtype or (dtype == "float64" and not FLOAT64_WORKS)
        assert len(x.shape) == len(wanted.shape)
        assert all(b in (a, None) for a, b in zip(x.shape, wanted.shape, strict=True))
    alone = layer(queries, keras.Input((None, D)), keras.Input((None, K)))
    assert (alone.shape, alone.dtype) == (symbolic[0].shape, symbolic[0].dtype)
    assert layer.compute_output_shape((None, *middle, Q), (None, L, D)) == (None, *middle, D)


def test_any_number_of_queries_and_locations_in_a_functional_model():
    query, value, key, _ = arrays()
    layer = random_layer()
    inputs = [keras.Input((None, Q)), keras.Input((None, D)), keras.Input((None, K))]
    model = keras.Model(inputs, layer(*inputs, return_attention_scores=True))
    for t, n in [(T, L), (1, 3)]:
        cut = query[:, :t], value[:, :n], key[:, :n]
        assert_close(model.predict(cut, verbose=0), layer(*cut, return_attention_scores=True))


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.06), ("mixed_float16", 0.01)])
def test_mixed_precision(policy, tolerance):
    query, value, key, mask = arrays()
    exact = random_layer()
    keras.config.set_dtype_policy(policy)
    layer = random_layer()
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    result = layer(query, value, key, value_mask=mask, return_attention_scores=True)
    assert {ops.dtype(x) for x in result} == {layer.compute_dtype} == {policy.removeprefix("mixed_")}
    projected = layer.project_key(key)
    assert ops.dtype(projected) == layer.compute_dtype
    expected = exact(query, value, key, value_mask=mask, return_attention_scores=True)
    assert_close([ops.cast(x, "float32") for x in result], expected, atol=tolerance)
    assert_close(
        ops.cast(layer(query, value, projected_key=projected), "float32"), exact(query, value, key), atol=tolerance
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fits_compiled_on_batches_of_two_sizes(policy):
    keras.config.set_dtype_policy(policy)
    rng = np.random.default_rng(0)
    inputs = [keras.Input((None, Q)), keras.Input((None, D))]
    layer = BahdanauAttention(A, dropout=0.1)
    model = keras.Model(inputs, layer(*inputs))
    before = named_weights(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=keras.backend.backend() != "torch")
    x = [rng.normal(size=(5, T, Q)), rng.normal(size=(5, L, D))]
    history = model.fit(x, rng.normal(size=(5, T, D)), batch_size=3, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    for name, weight in named_weights(layer).items():
        assert np.abs(weight - before[name]).max() > 1e-5, name


# ------------------------------------------------------------------------------------- gradients


def test_weights_gradients_equal_finite_differences():
    query, value, key, mask = arrays(dtype="float64")
    mask[1] = False
    layer = random_layer(dtype="float64")
    loss = layer_loss(layer, *map(as_tensor, (query, value, key)), value_mask=mask, return_attention_scores=True)
    assert_gradients_match_differences(loss, [w.numpy() for w in layer.trainable_weights])


@pytest.mark.parametrize("mode", MODES)
def test_input_gradients_equal_finite_differences(mode):
    query, value, key, mask = arrays(dtype="float64")
    layer = random_layer(dtype="float64")

    def loss(*inputs):
        return mixture(layer(*inputs, value_mask=mask, return_attention_scores=True))

    assert_gradients_match_differences(loss, [query, value, key], mode)


# --------------------------------------------------------------------------------------- dropout


def test_dropout_drops_weights_and_scales_the_others():
    query, value, key, _ = arrays()
    layer = random_layer(dropout=0.4)
    plain = numpy(layer(query, value, key, return_attention_scores=True, training=False)[1])
    context, weights = numpy(layer(query, value, key, return_attention_scores=True, training=True))
    dropped = weights == 0
    assert 0 < dropped.sum() < dropped.size
    np.testing.assert_allclose(weights[~dropped], plain[~dropped] / 0.6, rtol=1e-5)
    np.testing.assert_allclose(context, weights @ value, atol=1e-5)


def test_dropout_is_reproducible_and_off_outside_training():
    query, value, key, _ = arrays()

    def run(seed, **kwargs):
        keras.utils.set_random_seed(seed)
        return numpy(random_layer(dropout=0.4)(query, value, key, **kwargs))

    np.testing.assert_array_equal(run(1, training=True), run(1, training=True))
    assert np.abs(run(1, training=True) - run(2, training=True)).max() > 0.01
    expected = numpy(random_layer()(query, value, key))
    np.testing.assert_array_equal(run(1, training=False), expected)
    np.testing.assert_array_equal(run(1), expected)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("units", [0, -3, 2.0, True, None, "7"])
def test_units_must_be_a_positive_integer(units):
    with pytest.raises(ValueError, match=r"`units` must be a positive integer\. Received: units="):
        BahdanauAttention(units)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, True, None])
def test_dropout_must_be_a_fraction(dropout):
    with pytest.raises(ValueError, match=r"`dropout` must be a number in \[0, 1\)\. Received: dropout="):
        BahdanauAttention(A, dropout=dropout)


MISFITS = {
    "rank of query": ("query", (Q,), r"`query` must have the shape.*\(3,\)"),
    "width of query": ("query", (B, T, 4), r"The last axis of `query` must have the width 3 .*\(2, 4, 4\)"),
    "batch size": ("query", (3, T, Q), r"`query` and `value` must have the same batch size.*\(3, 4, 3\).*\(2, 8, 5\)"),
    "rank of value": ("value", (B, L, 1, D), r"`value` must have the shape \(B, L, D\).*\(2, 8, 1, 5\)"),
    "rank of key": ("key", (B, K), r"`key` must have rank 3.*key\.shape=\(2, 6\)"),
    "locations of key": ("key", (B, 7, K), r"`key` must have rank 3 and the .*\(2, 7, 6\).*\(2, 8, 5\)"),
    "width of key": ("key", (B, L, 4), r"The last axis of `key` must have the width 6 .*\(2, 8, 4\)"),
    "locations of the mask": ("value_mask", (B, 5), r"`value_mask` must have the shape \(B, L\).*\(2, 5\)"),
    "rank of the mask": ("value_mask", (B, L, 1), r"`value_mask` must have the shape \(B, L\).*\(2, 8, 1\)"),
    "width of the projected key": ("projected_key", (B, L, 4), r"`projected_key` must have the width 7 .*\(2, 8, 4\)"),
    "rank of the projected key": ("projected_key", (B, A), r"`projected_key` must have rank 3.*\(2, 7\)"),
}


@pytest.mark.parametrize(("name", "shape", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_shapes_must_fit(name, shape, message):
    query, value, key, mask = arrays()
    inputs = {"query": query, "value": value, "key": key, "value_mask": mask, name: np.zeros(shape, "float32")}
    with pytest.raises(ValueError, match=message):
        random_layer()(**inputs)


def test_project_key_needs_a_built_layer():
    with pytest.raises(ValueError, match=r"`project_key` needs the weights of 'looker'.*Received: built=False"):
        BahdanauAttention(A, name="looker").project_key(np.zeros((B, L, K)))


def test_project_key_checks_the_width():
    with pytest.raises(ValueError, match=r"The last axis of `key` must have the width 6 .*\(2, 8, 4\)"):
        random_layer().project_key(np.zeros((B, L, 4)))


# ---------------------------------------------------------------------------------- every backend


def test_stored_weights_give_the_stored_outputs():
    with np.load(STORED) as stored:
        inputs = {k: stored[k] for k in ("query", "value", "key", "value_mask")}
        layer = BahdanauAttention(A)
        layer.build((None, None, Q), (None, None, D), (None, None, K))
        layer.set_weights([stored[name] for name in named_weights(layer)])
        result = layer(**inputs, return_attention_scores=True)
        assert_close(result, (stored["context"], stored["attention"]), atol=1e-5)


def write_stored():
    """For a change that is meant: `PYTHONPATH=tests python tests/layers/test_bahdanau_attention.py`."""
    query, value, key, mask = arrays()
    layer, inputs = random_layer(), {"query": query, "value": value, "key": key, "value_mask": mask}
    context, attention = numpy(layer(**inputs, return_attention_scores=True))
    weights = {name: w.astype("float32") for name, w in named_weights(layer).items()}
    np.savez_compressed(STORED, **inputs, **weights, context=context, attention=attention)


if __name__ == "__main__":
    write_stored()
