"""Dropout: Keras's own rule, with draws of another generator."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_showattend.layers.dropout import Dropout

X = np.random.default_rng(0).normal(size=(40, 50)).astype("float32")


def dropped(rate=0.25, **options):
    keras.utils.set_random_seed(3)
    return ops.convert_to_numpy(Dropout(rate, **options)(X, training=True))


def test_values_are_kept_and_scaled_or_zero():
    found = dropped()
    kept = found != 0
    np.testing.assert_allclose(found[kept], X[kept] / 0.75, rtol=1e-6)
    # Five standard deviations of a binomial of 2,000.
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / X.size)


def test_every_call_draws_anew_and_a_seed_repeats_all():
    keras.utils.set_random_seed(3)
    layer = Dropout(0.25)
    first, second = (ops.convert_to_numpy(layer(X, training=True)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(first, dropped())


@pytest.mark.parametrize("options", [{"rate": 0.25, "training": False}, {"rate": 0.0, "training": True}])
def test_nothing_is_dropped(options):
    np.testing.assert_array_equal(ops.convert_to_numpy(Dropout(options["rate"])(X, training=options["training"])), X)


def test_noise_shape():
    kept = dropped(noise_shape=(40, 1)) != 0
    assert (kept.all(axis=1) | ~kept.any(axis=1)).all()
    assert 0 < kept.mean() < 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about XLA in TensorFlow")
def test_under_xla():
    import tensorflow as tf

    layer = Dropout(0.25)
    drop = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    first, second = drop(X).numpy(), drop(X).numpy()
    assert (first != second).any()
    kept = first != 0
    np.testing.assert_allclose(first[kept], X[kept] / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / X.size)
