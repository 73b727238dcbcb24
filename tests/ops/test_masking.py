import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import MODES, as_tensor, mixing_factors, mixture, value_and_gradients
from reference import softmax

from keras_showattend.ops import masked_mean, masked_softmax


def random_scores(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape), rng.random(shape) < 0.6


# ------------------------------------------------------------------------------------- softmax


def test_softmax_worked_by_hand():
    # exp(log 1) : exp(log 3) = 1 : 3, and the third location is not there.
    weights = masked_softmax(np.log([[1.0, 3.0, 50.0]]), [[True, True, False]])
    np.testing.assert_allclose(ops.convert_to_numpy(weights), [[0.25, 0.75, 0.0]], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([1, 3]),
    locations=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1, 30, 1e4]),
)
def test_softmax_equals_the_reference(rows, locations, seed, scale):
    scores, mask = random_scores(rows, locations, seed=seed)
    scores = scores * scale
    weights = ops.convert_to_numpy(masked_softmax(as_tensor(scores), mask))
    expected = [softmax(row, row_mask) for row, row_mask in zip(scores, mask, strict=True)]
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    np.testing.assert_allclose(weights.sum(-1), mask.any(-1), atol=1e-12)
    assert np.all(weights[~mask] == 0)


def test_softmax_without_a_mask_is_the_plain_one():
    scores, _ = random_scores(3, 4)
    np.testing.assert_allclose(
        ops.convert_to_numpy(masked_softmax(as_tensor(scores))), [softmax(row) for row in scores], atol=1e-12
    )


def test_softmax_broadcasts_its_mask():
    scores, mask = random_scores(2, 3, 5)
    mask = mask[:, :1]
    one_by_one = [softmax(scores[b, t], mask[b, 0]) for b in range(2) for t in range(3)]
    np.testing.assert_allclose(
        ops.convert_to_numpy(masked_softmax(as_tensor(scores), mask)), np.reshape(one_by_one, (2, 3, 5)), atol=1e-12
    )


@pytest.mark.parametrize("huge", [1e30, -1e30])
def test_softmax_ignores_masked_scores_however_large(huge):
    scores, mask = np.array([[0.3, huge, -0.2, huge]]), np.array([[True, False, True, False]])
    moderate = np.where(mask, scores, 1.0)
    expected = ops.convert_to_numpy(masked_softmax(moderate, mask))
    np.testing.assert_array_equal(ops.convert_to_numpy(masked_softmax(scores, mask)), expected)


@pytest.mark.parametrize("mode", MODES)
def test_softmax_of_an_empty_row_has_no_gradient(mode):
    scores, mask = random_scores(3, 4)
    mask[1] = False
    mask[2] = True

    def loss(scores):
        return mixture(masked_softmax(scores, mask))

    value, (gradient,) = value_and_gradients(loss, [scores], mode)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_array_equal(gradient[~mask], 0)
    # The Jacobian of the softmax, diag(a) - a a^T, of the full row.
    factors = ops.convert_to_numpy(mixing_factors(12))[8:]
    a = softmax(scores[2])
    np.testing.assert_allclose(gradient[2], a * (factors - a @ factors), atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_softmax_gradient_survives_huge_masked_scores(mode):
    scores, mask = np.array([[0.3, 1e30, -0.2]], "float32"), np.array([[True, False, True]])
    _, (gradient,) = value_and_gradients(lambda x: mixture(masked_softmax(x, mask)), [scores], mode)
    assert np.all(np.isfinite(gradient))
    assert gradient[0, 1] == 0


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_softmax_computes_in_float32_at_least(dtype, expected):
    scores = ops.cast(np.array([[6e4, -6e4, 6e4], [1.0, 2.0, 3.0]]), dtype)
    mask = np.array([[False, True, True], [False, False, False]])
    weights = masked_softmax(scores, mask)
    assert ops.dtype(weights) == expected
    np.testing.assert_array_equal(ops.convert_to_numpy(weights), [[0, 0, 1], [0, 0, 0]])


# ---------------------------------------------------------------------------------------- mean


def test_mean_worked_by_hand():
    # (2 * 1 + 1 * 4) / 3 = 2
    assert float(masked_mean([1.0, 4.0, 100.0], [2.0, 1.0, 0.0])) == 2.0


def test_mean_equals_that_of_what_is_kept():
    values, mask = random_scores(3, 4)
    np.testing.assert_allclose(float(masked_mean(as_tensor(values), mask)), values[mask].mean(), rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_mean_of_nothing_is_zero_with_a_zero_gradient(mode):
    values = np.array([1.0, 2.0])
    value, (gradient,) = value_and_gradients(lambda x: masked_mean(x, [False, False]), [values], mode)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_mean_sums_half_precision_in_float32():
    # 3000 ones: bfloat16 would stop counting at 256, float16 at 2048.
    for dtype in ("float16", "bfloat16"):
        mean = masked_mean(ops.ones((3000,), dtype), ops.ones((3000,), dtype))
        assert ops.dtype(mean) == "float32"
        assert float(mean) == 1.0
