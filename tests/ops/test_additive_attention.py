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


def arrays(images, queries, locations, width, seed):
    generator = np.random.default_rng(seed)
    sizes = (images, queries, locations), (images, queries, width), (images, locations, width)
    return [generator.normal(size=size) for size in sizes]


def naive_sums(d_scores, query, keys):
    """The sums over keys of the slopes and of p, and the sums over queries of the slopes."""
    over_keys, products, over_queries = np.zeros_like(query), np.zeros_like(query), np.zeros_like(keys)
    for (image, one, location), d in np.ndenumerate(d_scores):
        p = (1 - np.tanh(query[image, one] + keys[image, location])) / 2
        over_keys[image, one] += d * p * (1 - p)
        products[image, one] += d * p
        over_queries[image, location] += d * p * (1 - p)
    return over_keys, products, over_queries


def sums(d_scores, query, keys):
    exp_query, exp_keys = exponentials(query), exponentials(keys)
    over_keys = sums_over_keys(d_scores, exp_query, key_parts(exp_keys))
    return *over_keys, sums_over_queries(d_scores, exp_query, exp_keys)


def assert_sums_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-5, atol=1e-5)


@settings(max_examples=4 if keras.backend.backend() == "jax" else 40, deadline=None)
@given(
    images=st.integers(1, 3),
    queries=st.integers(1, 9),
    locations=st.integers(1, 17),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_sums_equal_those_of_a_loop(images, queries, locations, width, seed):
    case = arrays(images, queries, locations, width, seed)
    assert_sums_equal(sums(*(ops.convert_to_tensor(x, "float32") for x in case)), naive_sums(*case))


@pytest.mark.parametrize("locations", [8, 19])
def test_sums_on_accelerators_equal_those_of_a_loop(monkeypatch, locations):
    case = arrays(images=2, queries=6, locations=locations, width=3, seed=0)
    monkeypatch.setattr(MODULE, "on_accelerator", lambda: True)
    assert_sums_equal(sums(*(ops.convert_to_tensor(x, "float32") for x in case)), naive_sums(*case))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="shapes that are not known are TensorFlow's")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_sums_of_sizes_that_tracing_does_not_know(jit_compile):
    import tensorflow as tf

    signature = [tf.TensorSpec((None, None, width), "float32") for width in (None, 3, 3)]
    traced = tf.function(sums, input_signature=signature, jit_compile=jit_compile)
    for sizes in ((1, 3, 2), (2, 5, 11)):
        case = arrays(*sizes, width=3, seed=1)
        assert_sums_equal(traced(*(tf.constant(x, "float32") for x in case)), naive_sums(*case))
