import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import MODES, TIGHT, as_tensor, value_and_gradients

from keras_showattend.ops import lookup


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_the_rows(dtype):
    table = np.arange(12.0).reshape(4, 3)
    found = lookup(as_tensor(table), ops.convert_to_tensor([[3, 0], [3, 1]], dtype=dtype))
    np.testing.assert_array_equal(ops.convert_to_numpy(found), table[[[3, 0], [3, 1]]])


@pytest.mark.parametrize("mode", MODES)
def test_a_row_read_twice_has_the_sum_of_both_gradients(mode):
    # Rows 2, 0, 2 weigh 1, 10, 100: row 2 gets 101, row 1 nothing.
    weights = np.array([[1.0], [10.0], [100.0]])

    def loss(table):
        return ops.sum(lookup(table, ops.convert_to_tensor([2, 0, 2])) * as_tensor(weights))

    _, (gradient,) = value_and_gradients(loss, [np.zeros((3, 2))], mode)
    assert isinstance(gradient, np.ndarray)
    np.testing.assert_array_equal(gradient, [[10, 10], [0, 0], [101, 101]])


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_gradient_of_any_indices(indices):
    indices = np.array(indices, "int32")
    weights = np.random.default_rng(0).normal(size=(*indices.shape, 2))
    expected = np.zeros((5, 2))
    np.add.at(expected, indices, weights)

    def loss(table):
        return ops.sum(lookup(table, ops.convert_to_tensor(indices)) * as_tensor(weights))

    _, (gradient,) = value_and_gradients(loss, [np.zeros((5, 2))])
    np.testing.assert_allclose(gradient, expected, atol=TIGHT)
