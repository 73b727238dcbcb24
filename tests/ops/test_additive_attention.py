"""The sums of the gradient, beside loops over every query and key."""

import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_showattend.ops.additive_attention import exponentials, key_parts, sums_over_keys, sums_over_queries

MODULE = sys.modules["keras_showattend.ops.additive_attention"]


def arrays(steps, images, captions, locations, width, seed):
    generator = np.random.default_rng(seed)
    sizes = (steps, images, captions, locations), (steps, images, captions, width), (images, locations, width)
    return [generator.normal(size=size) for size in sizes]


def naive_sums(d_scores, query, keys):
    """The sums over keys of the slopes and of p, and the sums over queries of the slopes."""
    over_keys, products, over_queries = np.zeros_like(query), np.zeros_like(query), np.zeros_like(keys)
    for (*one, location), d in np.ndenumerate(d_scores):
        one, image = tuple(one), one[1]
        p = (1 - np.tanh(query[one] + keys[image, location])) / 2
        over_keys[one] += d * p * (1 - p)
        products[one] += d * p
        over_queries[image, location] += d * p * (1 - p)
    return over_keys[0], products[0], over_queries


def sums(d_scores, query, keys):
    """Those over keys of the first step, and those over the queries of all."""
    exp_query, exp_keys = exponentials(query), exponentials(keys)
    over_keys = sums_over_keys(d_scores[0], exp_query[0], key_parts(exp_keys))
    return *over_keys, sums_over_queries(d_scores, exp_query, exp_keys)


def assert_sums_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-5, atol=1e-5)


@settings(max_examples=4 if keras.backend.backend() == "jax" else 40, deadline=None)
@given(
    steps=st.integers(1, 4),
    images=st.integers(1, 3),
    captions=st.integers(1, 3),
    locations=st.integers(1, 17),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_sums_equal_those_of_a_loop(**sizes):
    case = arrays(**sizes)
    assert_sums_equal(sums(*(ops.convert_to_tensor(x, "float32") for x in case)), naive_sums(*case))


@pytest.mark.parametrize("locations", [8, 19])
def test_sums_on_accelerators_equal_those_of_a_loop(monkeypatch, locations):
    case = arrays(steps=3, images=2, captions=2, locations=locations, width=3, seed=0)
    monkeypatch.setattr(MODULE, "on_accelerator", lambda: True)
    assert_sums_equal(sums(*(ops.convert_to_tensor(x, "float32") for x in case)), naive_sums(*case))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes that are not known are TensorFlow's")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_sums_of_sizes_that_tracing_does_not_know(jit_compile):
    import tensorflow as tf

    signature = [tf.TensorSpec((*[None] * rank, width), "float32") for rank, width in ((3, None), (3, 3), (2, 3))]
    traced = tf.function(sums, input_signature=signature, jit_compile=jit_compile)
    for sizes in ((2, 1, 3, 2), (3, 2, 5, 11)):
        case = arrays(*sizes, width=3, seed=1)
        assert_sums_equal(traced(*(tf.constant(x, "float32") for x in case)), naive_sums(*case))
