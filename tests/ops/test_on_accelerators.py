"""What the recurrence does differently where JAX has a GPU, tested on the CPU: the same figures."""

import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_showattend.ops import additive_attention
from keras_showattend.ops.scan import on_jax_accelerator, scan


@pytest.fixture
def as_if_on_a_gpu(monkeypatch):
    # The package's names of these modules are those of their functions.
    for name in ("additive_attention", "scan"):
        monkeypatch.setattr(sys.modules[f"keras_showattend.ops.{name}"], "on_jax_accelerator", lambda: True)


def test_the_processors_of_the_tests_are_no_accelerators():
    if keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            pytest.skip("there is one")
    assert not on_jax_accelerator()


def test_scores_as_sums_give_the_weights_of_scores_as_products(as_if_on_a_gpu):
    generator = np.random.default_rng(0)
    query, keys, kernel = (generator.normal(size=size).astype("float32") for size in ((2, 3, 5), (2, 7, 5), (5, 1)))
    scores = np.tanh(query[:, :, None] + keys[:, None]) @ kernel[:, 0]
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    weights = additive_attention(*(ops.convert_to_tensor(x) for x in (query, keys, kernel)))
    np.testing.assert_allclose(ops.convert_to_numpy(weights), expected, rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_unrolled_loops_take_every_step_once(as_if_on_a_gpu, length, reverse):
    x = np.arange(1.0, length + 1, dtype="float32")

    def step(carry, x):
        return (2 * carry[0] + x[0],), (carry[0] - x[0],)

    (last,), (rows,) = scan(step, (ops.zeros(()),), (ops.convert_to_tensor(x),), reverse=reverse)
    carry, expected = 0.0, np.zeros(length)
    for t in reversed(range(length)) if reverse else range(length):
        expected[t] = carry - x[t]
        carry = 2 * carry + x[t]
    assert float(last) == carry
    np.testing.assert_array_equal(ops.convert_to_numpy(rows), expected)
