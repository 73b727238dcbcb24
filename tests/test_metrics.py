import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import accuracy, crossentropy

from keras_showattend.metrics import MaskedAccuracy, Perplexity, TokenWeightedMean


def perplexity(*args):
    return np.exp(crossentropy(*args))


METRICS = [(MaskedAccuracy, accuracy), (Perplexity, perplexity)]
metrics = pytest.mark.parametrize(("metric", "reference"), METRICS, ids=["accuracy", "perplexity"])


def batch(*shape, seed=0):
    """Tokens with padding among them, and logits that favour them at about every second position."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 5, shape) * (rng.random(shape) < 0.7)
    logits = rng.normal(size=(*shape, 5)) + np.eye(5)[tokens] * (rng.random((*shape, 1)) < 0.5) * 3
    return tokens.astype("int32"), logits.astype("float32")


def test_accuracy_worked_by_hand():
    # Right, wrong, and a padding that would be right: 1/2.
    metric = MaskedAccuracy()
    metric.update_state(np.array([[1, 2, 0]]), np.eye(3)[[[1, 1, 0]]])
    assert float(metric.result()) == 0.5


def test_perplexity_worked_by_hand():
    # p = 1/2 and p = 1/8: the geometric mean of 2 and 8 is 4.
    metric = Perplexity()
    metric.update_state(np.array([[1, 2, 0]]), np.log([[[4, 8, 4], [13, 1, 2], [1, 1, 1]]]))
    np.testing.assert_allclose(float(metric.result()), 4.0, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    which=st.sampled_from(METRICS),
    shape=st.sampled_from([(1, 4), (3, 2), (2, 3, 4)]),
    axes=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_equals_the_reference(which, shape, axes, seed):
    metric, reference = which[0](), which[1]
    tokens, logits = batch(*shape, seed=seed)
    weights = spread = None
    if axes:
        weights = np.random.default_rng(seed).random(shape[:axes]).astype("float32")
        spread = np.broadcast_to(weights.reshape(*weights.shape, *[1] * (len(shape) - weights.ndim)), shape)
    metric.update_state(tokens, logits, sample_weight=weights)
    np.testing.assert_allclose(float(metric.result()), reference(tokens, logits, spread), rtol=1e-5, atol=1e-7)


@metrics
def test_batches_add_up_to_the_whole_set(metric, reference):
    tokens, logits = batch(5, 2, 4)
    weights = np.random.default_rng(1).random((5, 2)).astype("float32")
    whole, parts = metric(), metric()
    whole.update_state(tokens, logits, sample_weight=weights)
    # Unequal in rows, and in real tokens.
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5)):
        parts.update_state(tokens[rows], logits[rows], sample_weight=weights[rows])
    np.testing.assert_allclose(float(parts.result()), float(whole.result()), rtol=1e-5)
    np.testing.assert_allclose(
        float(whole.result()), reference(tokens, logits, np.repeat(weights[..., None], 4, -1)), rtol=1e-5
    )


@metrics
def test_a_batch_of_longer_captions_counts_more(metric, reference):
    tokens, logits = batch(4, 3, 12)
    tokens[..., 3:][:2] = 0
    measured = metric()
    # The first images' captions are of three tokens, and nobody pads them.
    measured.update_state(tokens[:2, :, :3], logits[:2, :, :3])
    measured.update_state(tokens[2:], logits[2:])
    np.testing.assert_allclose(float(measured.result()), reference(tokens, logits), rtol=1e-5)


@metrics
def test_padding_changes_nothing(metric, reference):
    tokens, logits = batch(2, 3, 4)
    padding = [(0, 1), (0, 2), (0, 3)]
    plain, padded = metric(), metric()
    plain.update_state(tokens, logits)
    padded_tokens, padded_logits = np.pad(tokens, padding), np.pad(logits, [*padding, (0, 0)])
    # The padded positions predict the padding, which a metric that counted them would take for right.
    padded_logits[..., 0] += 9 * (padded_tokens == 0)
    padded.update_state(padded_tokens, padded_logits)
    np.testing.assert_allclose(float(padded.result()), float(plain.result()), rtol=1e-5)


@metrics
def test_reset(metric, reference):
    state = metric()
    empty = float(state.result())
    assert empty == {MaskedAccuracy: 0.0, Perplexity: 1.0}[metric]
    state.update_state(*batch(2, 4))
    assert float(state.result()) != empty
    state.reset_state()
    assert float(state.result()) == empty


@metrics
def test_nothing_but_padding_counts_nothing(metric, reference):
    tokens, logits = batch(2, 4)
    state = metric()
    state.update_state(tokens, logits)
    before = float(state.result())
    state.update_state(np.zeros_like(tokens), logits)
    state.update_state(tokens, logits, sample_weight=np.zeros(2))
    assert float(state.result()) == before


@metrics
def test_config_round_trip(metric, reference):
    state = metric(name="own", dtype="float64")
    config = json.loads(json.dumps(keras.metrics.serialize(state)))
    again = keras.metrics.deserialize(config)
    assert type(again) is metric
    assert (again.name, again.dtype) == ("own", "float64")
    assert again.get_config() == state.get_config()


@metrics
def test_too_many_axes_of_weights_are_an_error(metric, reference):
    with pytest.raises(ValueError, match="`sample_weight` must have no more axes than the tokens"):
        metric().update_state(*batch(2, 4), sample_weight=np.ones((2, 4, 1)))


def test_perplexity_of_half_precision_logits_is_summed_in_float32():
    metric = Perplexity()
    metric.update_state(np.ones((3, 1000), "int32"), np.zeros((3, 1000, 4), "float16"))
    np.testing.assert_allclose(float(metric.result()), 4.0, rtol=1e-5)


def test_token_weighted_mean_counts_a_batch_by_its_weight():
    # (3 * 1 + 1 * 5) / 4 = 2; the last loss is never weighed.
    mean = TokenWeightedMean()
    for loss, rows, weight in [(1.0, 7, 3.0), (5.0, 9, 1.0)]:
        mean.update_state(loss, sample_weight=rows)
        mean.weigh(weight)
        mean.weigh(100.0)
    mean.update_state(50.0, sample_weight=4)
    assert float(mean.result()) == 2.0
