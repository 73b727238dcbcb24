import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import MODES, TIGHT, as_tensor, assert_gradients_match_differences, gradients_mixed, value_and_gradients

from keras_showattend.ops import softmax_crossentropy


def by_hand(logits, targets, smoothing):
    """The loss of each row and its gradient, from the definition."""
    logits = logits.astype("float64")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    q = (1 - smoothing) * np.eye(logits.shape[-1])[targets] + smoothing / logits.shape[-1]
    # Where q is 0 nothing counts, not even a probability of 0.
    logs = np.log(p, out=np.full_like(p, -np.inf), where=p > 0)
    return -np.sum(np.where(q > 0, q * np.where(q > 0, logs, 0), 0), -1), p - q


def weighed_sum(targets, weights, smoothing):
    targets, weights = ops.convert_to_tensor(targets, dtype="int32"), as_tensor(weights)
    return lambda logits: ops.sum(softmax_crossentropy(logits, targets, smoothing) * weights)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("mode", MODES)
def test_the_definition_and_its_gradient(mode, smoothing):
    random = np.random.default_rng(0)
    logits, weights = random.normal(size=(2, 3, 7)) * 3, random.normal(size=(2, 3))
    targets = random.integers(0, 7, (2, 3))
    loss, gradient = by_hand(logits, targets, smoothing)
    value, (found,) = value_and_gradients(weighed_sum(targets, weights, smoothing), [logits], mode)
    np.testing.assert_allclose(value, np.sum(loss * weights), rtol=10 * TIGHT)
    np.testing.assert_allclose(found, weights[..., None] * gradient, atol=TIGHT)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="refused there")
@pytest.mark.parametrize("mode", MODES)
def test_the_gradients_gradient_equals_finite_differences(mode):
    logits = np.random.default_rng(0).normal(size=(2, 7))
    loss = weighed_sum([6, 2], np.array([1.0, -2.0]), 0.3)
    assert_gradients_match_differences(gradients_mixed(loss), [logits], mode)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda classes: st.tuples(
            st.just(classes), st.lists(st.integers(0, classes - 1), min_size=1, max_size=3), st.floats(0, 0.9)
        )
    )
)
def test_any_targets(case):
    classes, targets, smoothing = case
    logits = np.random.default_rng(classes).normal(size=(len(targets), classes))
    weights = np.arange(1.0, len(targets) + 1)
    loss, gradient = by_hand(logits, targets, smoothing)
    value, (found,) = value_and_gradients(weighed_sum(targets, weights, smoothing), [logits])
    np.testing.assert_allclose(value, np.sum(loss * weights), atol=10 * TIGHT)
    np.testing.assert_allclose(found, weights[:, None] * gradient, atol=10 * TIGHT)


def test_large_logits_and_classes_that_are_ruled_out_stay_finite():
    logits = np.array([[1e4, -1e4, 0.0], [-1e9, 2.0, 1.0]], "float32")
    value, (gradient,) = value_and_gradients(weighed_sum([0, 1], np.ones(2, "float32"), 0.0), [logits])
    np.testing.assert_allclose(value, np.log(1 + np.exp(-1)), rtol=1e-5)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0, share - 1, 1 - share]], atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's transformations")
def test_the_transformations_of_jax():
    import jax

    logits, targets = np.random.default_rng(0).normal(size=(3, 5)).astype("float32"), np.array([0, 4, 2])
    _, expected = by_hand(logits, targets, 0.1)

    def loss(logits, targets):
        return softmax_crossentropy(logits, targets, 0.1).sum()

    for gradient in (jax.grad(jax.jit(loss)), jax.jit(jax.grad(loss)), jax.grad(jax.checkpoint(loss))):
        np.testing.assert_allclose(gradient(logits, targets), expected, atol=1e-6)
    rows = jax.vmap(jax.grad(loss))(logits, targets)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_the_dtype_is_that_of_the_logits():
    for dtype in ("float32", "float16"):
        loss = softmax_crossentropy(ops.zeros((2, 4), dtype=dtype), np.array([1, 3]), 0.1)
        assert loss.dtype == ops.zeros((), dtype=dtype).dtype
