"""Batches that lie in memory, for `fit`, and how long its epochs take."""

import time

import keras
import numpy as np
from harness.batches import features_of
from keras import ops

DEVICE, MEMORY = "on the device", "in memory, float16"


def epoch_in_memory(sizes, buckets, steps, place):
    """What `fit` takes: an epoch of `steps` batches, one and the same for each bucket.

    Args:
        sizes: `Sizes`.
        buckets: List of `Bucket`.
        steps: Int, batches in the epoch, the buckets among them by their shares.
        place: `DEVICE` for tensors that need not move, `MEMORY` for arrays as a feature store gives them.

    Returns:
        A data set of the kind that `FeatureStore.batches` makes on the backend.
    """
    batches = [_batch(sizes, bucket, place) for bucket in buckets]
    return batches_in_memory(batches, order_of_buckets(buckets, steps))


def batches_in_memory(batches, order):
    """What `fit` takes: the batches, pairs of features and tokens, at the indices of `order`."""
    dataset = _Batches(batches, order)
    return _tf_dataset(dataset) if keras.backend.backend() == "tensorflow" else dataset


def order_of_buckets(buckets, steps, seed=0):
    """A bucket for each step: each as often as its share of the epoch says, in a random order."""
    ends = np.cumsum([bucket.share for bucket in buckets])
    order = np.searchsorted(ends, (np.arange(steps) + 0.5) / steps)
    return np.random.default_rng(seed).permutation(np.minimum(order, len(buckets) - 1))


class _Batches(keras.utils.PyDataset):
    """An epoch of a few batches, again and again."""

    def __init__(self, batches, order):
        super().__init__()
        self.batches = batches
        self.order = order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return self.batches[self.order[index]]


def _tf_dataset(batches):
    """As `FeatureStore.batches` makes it: what goes through TensorFlow are numbers of batches, T is unknown."""
    import tensorflow as tf

    features, tokens = batches[0]
    specs = (
        tf.TensorSpec((None, *features.shape[1:]), features.dtype),
        tf.TensorSpec((None, tokens.shape[1], None), tokens.dtype),
    )

    def read(index):
        arrays = tf.numpy_function(lambda i: batches[int(i)], [index], [spec.dtype for spec in specs], stateful=False)
        return tuple(tf.ensure_shape(array, spec.shape) for array, spec in zip(arrays, specs, strict=True))

    return tf.data.Dataset.range(len(batches)).map(read).prefetch(tf.data.AUTOTUNE)


class EpochClock(keras.callbacks.Callback):
    """The seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        float(logs["loss"])  # the device may still be at work when Python is through
        self.seconds.append(time.perf_counter() - self._start)


def _batch(sizes, bucket, place):
    features = features_of(sizes, len(bucket.tokens))
    if place == MEMORY:
        # As a feature store keeps them.
        return features.astype("float16"), bucket.tokens
    return ops.convert_to_tensor(features), ops.convert_to_tensor(bucket.tokens)
