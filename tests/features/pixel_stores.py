"""Feature stores whose features are the pixels: known without computing, and nothing to compile."""

import pathlib

import keras
import numpy as np

from keras_showattend.features import FeatureExtractor, FeatureStore

SIDE = 4


def pixel_extractor(side=SIDE):
    """An extractor that gives the pixels back, a location each."""
    return FeatureExtractor(keras.Sequential([keras.Input((side, side, 3)), keras.layers.Identity()]))


def make_examples(count, start=0, side=SIDE):
    """Examples with random images, which `number_of` tells apart."""
    images = np.random.default_rng(5).integers(0, 256, (256, side, side, 3)).astype("uint8")
    images[:, 0, 0, 0] = np.arange(256)
    return [
        {"image_id": i, "image": images[i], "captions": [f"picture {i}", "ein Bär, \u2028 \U0001f43b" + "!" * (i % 3)]}
        for i in range(start, start + count)
    ]


def number_of(image):
    """Which of the examples an image belongs to; None where it is no array."""
    return int(image[0, 0, 0]) if isinstance(image, np.ndarray) else None


def features_of(examples):
    """What a store must give for examples, `(N, L, D)`."""
    return np.stack([example["image"].reshape(-1, 3) for example in examples]).astype("float32")


class WatchedExtractor:
    """Passes everything on, and tells of each image that is to be loaded."""

    def __init__(self, extractor, on_load=lambda image: None):
        self.extractor = extractor
        self.on_load = on_load
        self.loaded = []

    def __getattr__(self, name):
        return getattr(self.extractor, name)

    def __call__(self, images):
        return self.extractor(images)

    def load_image(self, image):
        self.loaded.append(number_of(image))
        self.on_load(image)
        return self.extractor.load_image(image)


def build(folder, examples, extractor=None, **options):
    """A build of small batches and small shards."""
    options = {"batch_size": 2, "shard_size": 4, "verbose": 0, **options}
    return FeatureStore.build(folder, examples, extractor or pixel_extractor(), **options)


def contents(folder):
    """The bytes of each file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def shard_files(number):
    """Names of the two files of a shard."""
    return [f"features-{number:05d}.npy", f"captions-{number:05d}.jsonl"]
