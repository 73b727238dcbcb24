"""How the 2018 notebook "Image Captioning with Attention" kept features: one float32 `.npy` file for each image.

They are extracted by a `tf.data` map that reads, decodes, resizes and preprocesses, and an eager call on batches; and
read back one caption at a time, by `np.load` inside a `tf.data` map. Writing the files alone needs NumPy only.
"""

import os

import numpy as np

EXTRACTION_BATCH = 16
SHUFFLED = 1000  # captions with their features, in the buffer that they are drawn from


def feature_file(folder, index):
    """Where the features of the image of this number are; the notebook's lay beside its photographs."""
    return os.path.join(folder, f"{index:06d}.npy")


def write(folder, features, first=0):
    """Write the features `(N, L, D)` of the images from number `first` on; return the files."""
    paths = [feature_file(folder, first + index) for index in range(len(features))]
    for path, array in zip(paths, features, strict=True):
        np.save(path, array.astype("float32"))
    return paths


def extract(image_paths, model, preprocess, image_size, folder):
    """Write the features of JPEG files; return the files, in the order of `image_paths`.

    Args:
        image_paths: List of str.
        model: Maps a batch of preprocessed images to features `(N, rows, columns, D)` or `(N, L, D)`.
        preprocess: Maps float32 pixels, 0 to 255, to what the model was trained on.
        image_size: `(height, width)`.
        folder: Where the files go.
    """
    import tensorflow as tf

    def load(path):
        pixels = tf.image.decode_jpeg(tf.io.read_file(path), channels=3)
        return preprocess(tf.image.resize(pixels, image_size))

    dataset = tf.data.Dataset.from_tensor_slices(image_paths)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(EXTRACTION_BATCH)
    files = []
    for images in dataset:
        features = model(images)
        features = tf.reshape(features, (features.shape[0], -1, features.shape[-1]))
        files += write(folder, features.numpy(), first=len(files))
    return files


def batches(files, tokens, batch_size):
    """A shuffled epoch of features `(batch_size, L, D)` with tokens `(batch_size, T)`, every caption with its own.

    Args:
        files: List of N str, an image's file for each caption.
        tokens: int32 `(N, T)`.
        batch_size: Int, captions.
    """
    import tensorflow as tf

    def load(path, caption):
        return np.load(path.decode()), caption

    dataset = tf.data.Dataset.from_tensor_slices((files, tokens))
    dataset = dataset.map(
        lambda path, caption: tf.numpy_function(load, [path, caption], [tf.float32, tf.int32]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.shuffle(SHUFFLED).batch(batch_size).prefetch(tf.data.AUTOTUNE)
