"""Random features with captions in a `FeatureStore`, and the same in the files of the comparators."""

import functools
import os

import keras
import numpy as np
from comparators import notebook_features
from harness.batches import draw_lengths

from keras_showattend import CaptionTokenizer
from keras_showattend.features import FeatureExtractor, FeatureStore

_FIRST_WORD = 4  # the ids before it are no words
_CHUNK = 64  # images copied from the store at a time


class SyntheticFeatures:
    """Features and captions of `images` images, written when they are first asked for.

    Args:
        folder: Folder that may be written in.
        sizes: `Sizes`, of features and captions.
        images: Int.
        dtype: Of the store.
    """

    def __init__(self, folder, sizes, images, dtype):
        self.folder = folder
        self.sizes = sizes
        self.images = images
        self.dtype = dtype

    @functools.cached_property
    def store(self):
        """The `FeatureStore`."""
        print(f"  writing the features of {self.images} images")
        return FeatureStore.build(
            os.path.join(self.folder, "synthetic"),
            _examples(self.sizes, self.images),
            FeatureExtractor(_cheap_network(self.sizes)),
            dtype=self.dtype,
            verbose=0,
        )

    @functools.cached_property
    def tokenizer(self):
        """A tokenizer of the captions."""
        captions = [text for image_id in self.store.image_ids for text in self.store.captions(image_id)]
        return CaptionTokenizer.fit(captions, max_vocabulary=self.sizes.vocabulary)

    def tokens(self, image_ids):
        """int32 `(images, G, T)`, padded to the longest of these captions."""
        captions = [text for image_id in image_ids for text in self.store.captions(image_id)]
        tokens = self.tokenizer.encode(captions)
        return tokens.reshape(len(image_ids), self.sizes.captions_per_image, -1)

    @functools.cached_property
    def notebook_files(self):
        """The notebook's files, one for each image of the store."""
        folder = os.path.join(self.folder, "npy")
        os.makedirs(folder)
        files = []
        for features in self.feature_chunks(self.store.image_ids):
            files += notebook_features.write(folder, features, first=len(files))
        return files

    def feature_chunks(self, image_ids):
        """The features of some images in arrays `(n, L, D)`, a few images at a time."""
        for start in range(0, len(image_ids), _CHUNK):
            yield self.store.features(image_ids[start : start + _CHUNK])


def _examples(sizes, images, seed=0):
    """Examples whose image has a pixel for each location."""
    generator = np.random.default_rng(seed)
    lengths = draw_lengths(sizes, images * sizes.captions_per_image, generator)
    # Some caption of the data set is the longest.
    lengths[0] = sizes.longest
    lengths = lengths.reshape(images, sizes.captions_per_image)
    for image_id in range(images):
        yield {
            "image_id": image_id,
            "image": generator.integers(0, 256, (1, sizes.locations, 3), dtype="uint8"),
            # Start and end are tokens too, and no words.
            "captions": [_caption(sizes, length - 2, generator) for length in lengths[image_id]],
        }


def _caption(sizes, words, generator):
    return " ".join(f"word{number}" for number in generator.integers(_FIRST_WORD, sizes.vocabulary, words))


def _cheap_network(sizes):
    """A network that takes next to no time for its features: a dense layer on each pixel."""
    pixels = keras.Input((1, sizes.locations, 3))
    features = keras.layers.Dense(
        sizes.feature_width, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed=0)
    )(keras.layers.Reshape((sizes.locations, 3))(pixels))
    return keras.Model(pixels, features)
