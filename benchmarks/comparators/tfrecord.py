"""Features as TensorFlow's own file format keeps them: TFRecord files, one record for each image.

A record is a `tf.train.Example` of the raw bytes of float16 features and int32 tokens, all captions of the image
together, padded to the longest of the data set.
"""

import itertools
import os

import numpy as np
import tensorflow as tf

SHUFFLED = 1000  # records in the buffer that they are drawn from
_FEATURES, _TOKENS = "features", "tokens"


def write(folder, images, shards=8):
    """Write the records, in turn to each of the files.

    Args:
        folder: Where the files go.
        images: Iterable of pairs of features `(L, D)` and tokens `(G, T)`.
        shards: Int, how many files; several can be read at a time.

    Returns:
        The files.
    """
    files = [os.path.join(folder, f"{shard:03d}.tfrecord") for shard in range(shards)]
    writers = [tf.io.TFRecordWriter(file) for file in files]
    for (features, tokens), writer in zip(images, itertools.cycle(writers), strict=False):
        raw = {_FEATURES: features.astype("float16"), _TOKENS: tokens.astype("int32")}
        fields = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[np.ascontiguousarray(array).tobytes()]))
            for name, array in raw.items()
        }
        writer.write(tf.train.Example(features=tf.train.Features(feature=fields)).SerializeToString())
    for writer in writers:
        writer.close()
    return files


def batches(files, features_shape, tokens_shape, batch_size):
    """A shuffled epoch of features `(n, L, D)`, float16, with tokens `(n, G, T)`.

    Args:
        files: List of str.
        features_shape: `(L, D)`.
        tokens_shape: `(G, T)`.
        batch_size: Int, images.
    """
    fields = {name: tf.io.FixedLenFeature((), tf.string) for name in (_FEATURES, _TOKENS)}

    def parse(record):
        found = tf.io.parse_single_example(record, fields)
        features = tf.reshape(tf.io.decode_raw(found[_FEATURES], tf.float16), features_shape)
        return features, tf.reshape(tf.io.decode_raw(found[_TOKENS], tf.int32), tokens_shape)

    dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files))
    dataset = dataset.interleave(
        tf.data.TFRecordDataset,
        cycle_length=len(files),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    # Shuffled before they are parsed, as TensorFlow's guide to performance advises: bytes are handed on, not copied.
    dataset = dataset.shuffle(SHUFFLED).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
