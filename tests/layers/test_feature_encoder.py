"""Widths: features 5, result 7; B = 2 images of L = 6 locations, a grid of 2 x 3."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from numerics import MODES, as_tensor, assert_close, assert_gradients_match_differences, layer_loss, mixture, numpy
from reference import named_weights, randomize

from keras_showattend.layers import FeatureEncoder

B, ROWS, COLUMNS, D, E = 2, 2, 3, 5, 7
L = ROWS * COLUMNS
STORED = Path(__file__).with_name("weights_feature_encoder.npz")


def features(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape or (B, L, D)).astype(dtype)


def random_layer(**kwargs):
    layer = FeatureEncoder(E, **kwargs)
    layer.build((None, None, D))
    return randomize(layer)


def naive(x, weights):
    """max(0, W x + b) at every location."""
    kernel, bias = weights["projection/kernel"], weights["projection/bias"]
    return np.array([[np.maximum(kernel.T @ location + bias, 0) for location in image] for image in x])


# ------------------------------------------------------------------------------------ the values


def test_equals_the_reference():
    layer = random_layer()
    assert_close(layer(features()), naive(features(), named_weights(layer)))


def test_worked_by_hand():
    # relu([1 2] . [[1 3], [-1 1]] + [0 -6]) = relu([1 - 2, 3 + 2 - 6]) = 0 0; without the activation -1 -1.
    weights = [np.array([[1.0, 3.0], [-1.0, 1.0]]), np.array([0.0, -6.0])]
    for activation, expected in [("relu", [[[0.0, 0.0]]]), (None, [[[-1.0, -1.0]]])]:
        layer = FeatureEncoder(2, activation=activation)
        layer.build((None, None, 2))
        layer.set_weights(weights)
        assert_close(layer(np.array([[[1.0, 2.0]]])), expected)


def test_a_grid_is_read_row_by_row():
    grid = features(B, ROWS, COLUMNS, D)
    layer = random_layer()
    encoded = numpy(layer(grid))
    assert encoded.shape == (B, L, E)
    for row in range(ROWS):
        for column in range(COLUMNS):
            one = layer(grid[:, row, column][:, None])
            assert_close(encoded[:, COLUMNS * row + column], one[:, 0], atol=1e-6)


def test_locations_have_no_order():
    order = np.random.default_rng(1).permutation(L)
    layer = random_layer()
    assert_close(layer(features()[:, order]), numpy(layer(features()))[:, order], atol=1e-6)


# ----------------------------------------------------------------------------------------- masks


def test_the_mask_of_the_features_goes_on():
    x = features()
    x[0, 4:] = 0
    inputs = keras.Input((L, D))
    encoded = random_layer()(keras.layers.Masking()(inputs))
    # Keras averages over the locations that the mask keeps.
    model = keras.Model(inputs, [encoded, keras.layers.GlobalAveragePooling1D()(encoded)])
    encoded, mean = numpy(model(x))
    assert_close(mean, [encoded[0, :4].mean(0), encoded[1].mean(0)])


def test_a_grid_has_no_mask():
    layer = random_layer()
    assert layer.compute_mask(keras.Input((ROWS, COLUMNS, D)), "anything") is None
    assert layer.compute_mask(keras.Input((L, D)), "anything") == "anything"


# ------------------------------------------------------------------------------- Keras's contract


def test_config_round_trip():
    layer = FeatureEncoder(E, activation="gelu", dropout=0.3, name="mapper", dtype="mixed_bfloat16")
    config = layer.get_config()
    wanted = {"embed_dim": E, "activation": "gelu", "dropout": 0.3, "name": "mapper"}
    assert wanted.items() <= config.items()
    assert FeatureEncoder.from_config(config).get_config() == config
    again = keras.layers.deserialize(json.loads(json.dumps(keras.layers.serialize(layer))))
    assert type(again) is FeatureEncoder
    assert again.get_config() == config
    assert again.projection.compute_dtype == "bfloat16"
    assert again.projection.activation is keras.activations.gelu


@keras.saving.register_keras_serializable(package="tests")
class Mapper(keras.Model):
    def __init__(self, embed_dim, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.encoder = FeatureEncoder(embed_dim)

    def build(self, features_shape):
        self.encoder.build(features_shape)

    def call(self, features):
        return self.encoder(features)

    def get_config(self):
        return {**super().get_config(), "embed_dim": self.embed_dim}


def test_save_and_load_inside_a_model(tmp_path):
    model = Mapper(E)
    model.build((None, None, D))
    randomize(model)
    expected = numpy(model(features()))
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras")(features()), expected, atol=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other = Mapper(E)
    other.build((None, None, D))
    other.load_weights(tmp_path / "model.weights.h5")
    assert_close(other(features()), expected, atol=0)


@pytest.mark.parametrize("shape", [(None, None, D), (None, ROWS, None, D)])
def test_build_makes_the_weights(shape):
    layer = FeatureEncoder(E)
    layer.build(shape)
    assert {k: w.shape for k, w in named_weights(layer).items()} == {
        "projection/kernel": (D, E),
        "projection/bias": (E,),
    }
    assert layer.count_params() == (D + 1) * E
    assert layer.built


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("shape", "locations"),
    [((None, D), None), ((L, D), L), ((ROWS, COLUMNS, D), L), ((ROWS, None, D), None), ((None, None, D), None)],
)
def test_symbolic_and_eager_calls_agree(shape, locations, dtype):
    layer = random_layer(dtype=dtype)
    symbolic = layer(keras.Input(shape))
    eager = layer(features(B, L, D) if len(shape) == 2 else features(B, ROWS, COLUMNS, D))
    assert symbolic.shape == (None, locations, E) == layer.compute_output_shape((None, *shape))
    assert eager.shape == (B, L, E)
    assert symbolic.dtype == ops.dtype(eager) == layer.compute_dtype


def test_any_grid_in_a_functional_model():
    inputs = keras.Input((None, None, D))
    layer = random_layer()
    model = keras.Model(inputs, layer(inputs))
    for rows, columns in [(2, 3), (4, 1)]:
        x = features(B, rows, columns, D)
        assert_close(model.predict(x, verbose=0), naive(x.reshape(B, rows * columns, D), named_weights(layer)))


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.06), ("mixed_float16", 0.01)])
def test_mixed_precision(policy, tolerance):
    exact = random_layer()(features())
    keras.config.set_dtype_policy(policy)
    layer = random_layer()
    assert {w.dtype for w in layer.trainable_weights} == {"float32"}
    result = layer(features())
    assert ops.dtype(result) == policy.removeprefix("mixed_")
    assert_close(ops.cast(result, "float32"), exact, atol=tolerance)


@pytest.mark.parametrize("shape", [(L, D), (ROWS, COLUMNS, D)])
def test_fits_compiled_on_batches_of_two_sizes(shape):
    inputs = keras.Input((*[None] * (len(shape) - 1), D))
    layer = FeatureEncoder(E, dropout=0.1)
    model = keras.Model(inputs, layer(inputs))
    before = named_weights(layer)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=keras.backend.backend() != "torch")
    history = model.fit(features(5, *shape), features(5, L, E), batch_size=3, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    for name, weight in named_weights(layer).items():
        assert np.abs(weight - before[name]).max() > 1e-5, name


# ------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_finite_differences(mode):
    x = features(dtype="float64")
    layer = random_layer(dtype="float64", activation="tanh")
    assert_gradients_match_differences(
        layer_loss(layer, as_tensor(x)), [w.numpy() for w in layer.trainable_weights], mode
    )
    assert_gradients_match_differences(lambda x: mixture(layer(x)), [x], mode)


# --------------------------------------------------------------------------------------- dropout


def test_dropout_drops_inputs_and_scales_the_others():
    layer = FeatureEncoder(D, activation=None, dropout=0.4)
    layer.build((None, None, D))
    layer.set_weights([np.eye(D), np.zeros(D)])
    result = numpy(layer(features(), training=True))
    dropped = result == 0
    assert 0 < dropped.sum() < dropped.size
    np.testing.assert_allclose(result[~dropped], features()[~dropped] / 0.6, rtol=1e-5)


def test_dropout_is_reproducible_and_off_outside_training():
    def run(seed, **kwargs):
        keras.utils.set_random_seed(seed)
        return numpy(random_layer(dropout=0.4)(features(), **kwargs))

    np.testing.assert_array_equal(run(1, training=True), run(1, training=True))
    assert np.abs(run(1, training=True) - run(2, training=True)).max() > 0.01
    expected = numpy(random_layer()(features()))
    np.testing.assert_array_equal(run(1, training=False), expected)
    np.testing.assert_array_equal(run(1), expected)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("embed_dim", [0, -3, 2.0, True, None])
def test_embed_dim_must_be_a_positive_integer(embed_dim):
    with pytest.raises(ValueError, match=r"`embed_dim` must be a positive integer\. Received: embed_dim="):
        FeatureEncoder(embed_dim)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, True, None])
def test_dropout_must_be_a_fraction(dropout):
    with pytest.raises(ValueError, match=r"`dropout` must be a number in \[0, 1\)\. Received: dropout="):
        FeatureEncoder(E, dropout=dropout)


@pytest.mark.parametrize("shape", [(B, D), (B, 1, ROWS, COLUMNS, D)])
def test_features_must_be_locations_or_a_grid(shape):
    message = r"`features` must have the shape \(B, L, D\) or \(B, H, W, D\)\. Received: features\.shape="
    with pytest.raises(ValueError, match=message):
        FeatureEncoder(E)(features(*shape))
    with pytest.raises(ValueError, match=message):
        random_layer()(features(*shape))


# ---------------------------------------------------------------------------------- every backend


def test_stored_weights_give_the_stored_outputs():
    with np.load(STORED) as stored:
        layer = FeatureEncoder(E)
        layer.build((None, None, D))
        layer.set_weights([stored[name] for name in named_weights(layer)])
        assert_close(layer(stored["features"]), stored["encoded"])


def write_stored():
    """For a change that is meant: `PYTHONPATH=tests python tests/layers/test_feature_encoder.py`."""
    layer = random_layer()
    weights = {name: w.astype("float32") for name, w in named_weights(layer).items()}
    np.savez_compressed(STORED, **weights, features=features(), encoded=numpy(layer(features())))


if __name__ == "__main__":
    write_stored()


def test_a_width_that_is_not_known_may_be_the_right_one():
    layer = random_layer()
    assert layer.compute_output_shape((None, None, None)) == (None, None, E)
    assert tuple(layer(keras.Input((None, None))).shape) == (None, None, E)
