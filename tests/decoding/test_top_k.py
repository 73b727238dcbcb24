import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from writers import compiled

from keras_showattend.decoding.top_k import stable_top_k

R, V = 6, 9


@given(
    seed=st.integers(0, 10**6),
    k=st.sampled_from([1, 4, V - 1, V]),
    kinds=st.sampled_from([1, 2, 4, 1000]),
    forbidden=st.booleans(),
)
def test_equals_a_stable_sort(seed, k, kinds, forbidden):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, kinds, (R, V)).astype("float32")
    if forbidden:
        x[rng.random((R, V)) < 0.5] = -np.inf
    values, indices = stable_top_k(ops.convert_to_tensor(x), k)
    expected = np.argsort(-x, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ops.convert_to_numpy(indices), expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(values), np.take_along_axis(x, expected, -1))
    assert keras.backend.standardize_dtype(indices.dtype) == "int32"


@pytest.mark.parametrize("size", [5001, 300])
def test_equal_entries_among_many(size):
    # Large enough for the backends' fast ways, which sort only in part; ties at the last place and before it.
    x = np.random.default_rng(0).normal(size=(8, size)).astype("float32")
    x[:, [200, 100, 299]] = 9
    x[4:, [7, 250]] = 8
    indices = ops.convert_to_numpy(compiled(lambda x: stable_top_k(x, 4)[1])(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(indices[:, :3], [[100, 200, 299]] * 8)
    np.testing.assert_array_equal(indices[4:, 3], [7] * 4)


def test_a_float64_row_keeps_its_digits():
    x = ops.convert_to_tensor(np.array([[1.0, 1.0 + 1e-12, 1.0]]), dtype="float64")
    _, indices = stable_top_k(x, 3)
    exact = keras.backend.standardize_dtype(x.dtype) == "float64"
    np.testing.assert_array_equal(ops.convert_to_numpy(indices), [[1, 0, 2]] if exact else [[0, 1, 2]])
