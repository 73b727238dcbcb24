import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import FLOAT64_WORKS, MODES, TIGHT, as_tensor, assert_gradients_match_differences, value_and_gradients
from reference import crossentropy

from keras_showattend.losses import MaskedSparseCategoricalCrossentropy

VOCABULARY = 7


def batch(*shape, seed=0, dtype="float32"):
    """Tokens with padding among them, and logits."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCABULARY, shape) * (rng.random(shape) < 0.7)
    return tokens.astype("int32"), rng.normal(size=(*shape, VOCABULARY)).astype(dtype)


def test_worked_by_hand():
    # p(1) = 3/4 at the first position, p(2) = 1/2 at the second, and the third is padding:
    # (log 4/3 + log 2) / 2 = log(8/3) / 2.
    logits = np.log([[[1e-9, 3.0, 1.0], [1e-9, 1.0, 1.0], [1.0, 1e-9, 1e-9]]])
    loss = MaskedSparseCategoricalCrossentropy()(np.array([[1, 2, 0]]), logits)
    np.testing.assert_allclose(float(loss), np.log(8 / 3) / 2, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from([(3,), (1, 4), (3, 2), (2, 3, 4)]),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    weighted=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_the_reference(shape, smoothing, weighted, seed):
    tokens, logits = batch(*shape, seed=seed)
    weights = np.random.default_rng(seed).random(shape) if weighted else None
    loss = MaskedSparseCategoricalCrossentropy(label_smoothing=smoothing)(tokens, logits, sample_weight=weights)
    np.testing.assert_allclose(float(loss), crossentropy(tokens, logits, weights, smoothing), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), more_steps=st.sampled_from([0, 3]), more_captions=st.sampled_from([0, 2]))
def test_padding_changes_nothing(seed, more_steps, more_captions):
    tokens, logits = batch(2, 3, 4, seed=seed)
    padding = [(0, 0), (0, more_captions), (0, more_steps)]
    padded = np.pad(tokens, padding), np.pad(logits, [*padding, (0, 0)], constant_values=5.0)
    loss = MaskedSparseCategoricalCrossentropy(label_smoothing=0.1)
    np.testing.assert_allclose(float(loss(*padded)), float(loss(tokens, logits)), rtol=1e-5, atol=1e-7)


def test_logits_at_padding_change_nothing():
    tokens, logits = batch(2, 3, 4)
    others = np.where(tokens[..., None] == 0, 1e4, logits).astype("float32")
    assert (tokens == 0).any()
    loss = MaskedSparseCategoricalCrossentropy()
    assert float(loss(tokens, others)) == float(loss(tokens, logits))


def test_equals_the_unmasked_loss_of_the_real_tokens():
    tokens, logits = batch(3, 4)
    real = tokens != 0
    assert 0 < real.sum() < tokens.size
    unmasked = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(tokens[real], logits[real])
    np.testing.assert_allclose(float(MaskedSparseCategoricalCrossentropy()(tokens, logits)), float(unmasked), rtol=1e-6)


def test_label_smoothing_equals_that_of_keras():
    tokens, logits = batch(3, 4)
    real = tokens != 0
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)(
        np.eye(VOCABULARY)[tokens[real]], logits[real]
    )
    loss = MaskedSparseCategoricalCrossentropy(label_smoothing=0.2)(tokens, logits)
    np.testing.assert_allclose(float(loss), float(smoothed), rtol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_sample_weights_spread_over_the_tokens(axes):
    tokens, logits = batch(2, 3, 4)
    weights = np.random.default_rng(1).random((2, 3, 4)[:axes])
    spread = np.broadcast_to(weights.reshape(*weights.shape, *[1] * (3 - axes)), (2, 3, 4))
    loss = MaskedSparseCategoricalCrossentropy()(tokens, logits, sample_weight=weights)
    np.testing.assert_allclose(float(loss), crossentropy(tokens, logits, spread), rtol=1e-5)


def test_integer_weights_count_captions_several_times():
    tokens, logits = batch(2, 4, seed=3)
    loss = MaskedSparseCategoricalCrossentropy()
    twice = loss(np.concatenate([tokens, tokens[:1]]), np.concatenate([logits, logits[:1]]))
    np.testing.assert_allclose(float(loss(tokens, logits, sample_weight=np.array([2, 1]))), float(twice), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nothing", ["padding", "zero weights"])
def test_nothing_to_count_gives_zero_and_no_gradient(nothing, mode):
    tokens, logits = batch(2, 4)
    weights = np.zeros(2, "float32") if nothing == "zero weights" else None
    tokens = tokens * (nothing != "padding")
    loss = MaskedSparseCategoricalCrossentropy()
    value, (gradient,) = value_and_gradients(lambda x: loss(tokens, x, sample_weight=weights), [logits], mode)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_that_of_the_reference_and_zero_at_padding(mode):
    tokens, logits = batch(3, 4)
    logits[tokens == 0] = 1e30
    loss = MaskedSparseCategoricalCrossentropy()
    _, (gradient,) = value_and_gradients(lambda x: loss(tokens, x), [logits], mode)
    real = tokens != 0
    np.testing.assert_array_equal(gradient[~real], 0)
    # softmax - onehot, over the number of real tokens
    exponentials = np.exp(logits[real].astype("float64"))
    expected = exponentials / exponentials.sum(-1, keepdims=True) - np.eye(VOCABULARY)[tokens[real]]
    np.testing.assert_allclose(gradient[real], expected / real.sum(), atol=1e-6)


def test_gradient_equals_finite_differences_in_float64():
    tokens, logits = batch(2, 4, dtype="float64")
    loss = MaskedSparseCategoricalCrossentropy(label_smoothing=0.1, dtype="float64")
    assert_gradients_match_differences(lambda x: loss(tokens, x), [logits])


def test_float64_keeps_its_digits():
    tokens, logits = batch(2, 4, dtype="float64")
    weights = np.array([0.5, 0.125])
    loss = MaskedSparseCategoricalCrossentropy(dtype="float64")(tokens, as_tensor(logits), sample_weight=weights)
    assert ops.dtype(loss) == "float64" or not FLOAT64_WORKS
    expected = crossentropy(tokens, logits, np.repeat(weights[:, None], 4, 1))
    np.testing.assert_allclose(float(loss), expected, rtol=TIGHT)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_are_summed_in_float32(dtype):
    # 3000 tokens of log 4 each: float16 would overflow or stop counting.
    tokens = np.ones((3, 1000), "int32")
    loss = MaskedSparseCategoricalCrossentropy()(tokens, ops.zeros((3, 1000, 4), dtype))
    assert ops.dtype(loss) == "float32"
    np.testing.assert_allclose(float(loss), np.log(4), rtol=1e-5)


def test_any_integers_serve_as_tokens():
    tokens, logits = batch(2, 4)
    loss = MaskedSparseCategoricalCrossentropy()
    for dtype in ("int64", "uint8", "float32"):
        assert float(loss(tokens.astype(dtype), logits)) == float(loss(tokens, logits))


def test_config_round_trip():
    loss = MaskedSparseCategoricalCrossentropy(label_smoothing=0.3, name="xent", dtype="float64")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is MaskedSparseCategoricalCrossentropy
    assert again.get_config() == loss.get_config() == {"label_smoothing": 0.3, "name": "xent", "dtype": "float64"}
    tokens, logits = batch(2, 4)
    assert float(again(tokens, logits)) == float(loss(tokens, logits))


@pytest.mark.parametrize("value", [-0.1, 1.0, True, "0.1"])
def test_label_smoothing_must_be_a_fraction(value):
    with pytest.raises(
        ValueError, match=r"`label_smoothing` must be a number in \[0, 1\)\. Received: label_smoothing="
    ):
        MaskedSparseCategoricalCrossentropy(label_smoothing=value)


def test_too_many_axes_of_weights_are_an_error():
    tokens, logits = batch(2, 4)
    with pytest.raises(ValueError, match=r"`sample_weight` must have no more axes than the tokens.*\(2, 4, 1\)"):
        MaskedSparseCategoricalCrossentropy()(tokens, logits, sample_weight=np.ones((2, 4, 1)))
