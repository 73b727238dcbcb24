import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import MODES, TIGHT, as_tensor, assert_gradients_match_differences, gradients_mixed, value_and_gradients

from keras_showattend.ops import vocabulary_crossentropy

U, V = 3, 7


def arrays(rows, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in ((rows, U), (U, V), (V,))]


def by_hand(hidden, kernel, bias, targets, weights, smoothing):
    """The three sums, and the loss's gradients with respect to the first three arguments, row by row."""
    sums, gradients = np.zeros(3), [np.zeros_like(x) for x in (hidden, kernel, bias)]
    for row, (h, y, w) in enumerate(zip(hidden, targets, weights, strict=True)):
        logits = h @ kernel + bias
        p = np.exp(logits) / np.exp(logits).sum()
        q = (1 - smoothing) * np.eye(V)[y] + smoothing / V
        sums += w * np.array([-(q * np.log(p)).sum(), -np.log(p[y]), logits.argmax() == y])
        gradients[0][row] = kernel @ (w * (p - q))
        gradients[1] += np.outer(h, w * (p - q))
        gradients[2] += w * (p - q)
    return sums, gradients


def check(rows, counting, smoothing, mode=MODES[0], upstream=1.0, seed=0):
    random = np.random.default_rng(seed)
    hidden, kernel, bias = arrays(rows, seed)
    targets = random.integers(0, V, rows)
    weights = np.where(random.permutation(rows) < counting, random.normal(size=rows), 0.0)
    given_targets, given_weights = ops.convert_to_tensor(targets, dtype="int32"), as_tensor(weights)

    def loss(hidden, kernel, bias):
        return upstream * vocabulary_crossentropy(hidden, kernel, bias, given_targets, given_weights, smoothing).loss

    (wanted, *_), gradients = by_hand(hidden, kernel, bias, targets, weights, smoothing)
    value, found = value_and_gradients(loss, [hidden, kernel, bias], mode)
    np.testing.assert_allclose(value, upstream * wanted, rtol=10 * TIGHT, atol=10 * TIGHT)
    for one, other in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, upstream * other, atol=10 * TIGHT)


# No row, what fills each share of the rows that is computed apart, one more, and all.
@pytest.mark.parametrize(
    ("counting", "smoothing"), [(0, 0.3), (5, 0.0), (14, 0.3), (15, 0.0), (16, 0.3), (17, 0.0), (19, 0.3), (20, 0.0)]
)
@pytest.mark.parametrize("mode", MODES)
def test_the_definition_and_its_gradient(mode, counting, smoothing):
    check(20, counting, smoothing, mode, upstream=-1.5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="refused there")
@pytest.mark.parametrize("mode", MODES)
def test_the_gradients_gradient_equals_finite_differences(mode):
    targets, weights = ops.convert_to_tensor([1, 0, 6], dtype="int32"), as_tensor(np.array([0.5, 0.0, 2.0]))

    def loss(*arrays):
        return vocabulary_crossentropy(*arrays, targets, weights, 0.3).loss

    assert_gradients_match_differences(gradients_mixed(loss), arrays(3), mode)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows))), st.integers(0, 99))
def test_any_number_of_rows(case, seed):
    check(*case, smoothing=0.1, seed=seed)


def test_all_sums():
    hidden, kernel, bias = arrays(6)
    # Of equal logits the first is the prediction.
    kernel[:, 1] = kernel[:, 0]
    bias[:2] = 9.0
    targets, weights = np.array([0, 1, 0, 2, 0, 1]), np.array([1.0, 2.0, 0.0, 0.5, 0.25, 0.0])
    options = {"label_smoothing": 0.3, "count_right": True}
    sums = vocabulary_crossentropy(
        *map(as_tensor, (hidden, kernel, bias)), ops.convert_to_tensor(targets), as_tensor(weights), **options
    )
    wanted, _ = by_hand(hidden, kernel, bias, targets, weights, 0.3)
    assert wanted[2] == 1.25
    np.testing.assert_allclose([float(ops.stop_gradient(x)) for x in sums], wanted, rtol=10 * TIGHT)
    assert vocabulary_crossentropy(hidden, kernel, bias, targets, weights).right is None


def test_logits_whose_exponentials_are_beyond_float32():
    hidden, kernel, bias = arrays(2)
    arguments = ops.convert_to_tensor([1, 2]), as_tensor(np.ones(2))
    near, far = (vocabulary_crossentropy(*map(as_tensor, (hidden, kernel, b)), *arguments) for b in (bias, bias + 1000))
    np.testing.assert_allclose(float(ops.stop_gradient(far.loss)), float(ops.stop_gradient(near.loss)), rtol=1e-3)


def test_half_precision_is_summed_in_that_of_the_kernel():
    hidden, kernel, bias = (x.astype("float32") for x in arrays(8))
    half = ops.cast(hidden, "bfloat16")
    options = {"targets": np.arange(8) % V, "weights": np.ones(8, "float32")}
    found = vocabulary_crossentropy(half, kernel, bias, **options).loss
    wanted = vocabulary_crossentropy(ops.cast(half, "float32"), kernel, bias, **options).loss
    assert float(ops.stop_gradient(found)) == float(ops.stop_gradient(wanted))
