"""Feature stores whose features are the pixels: known without computing, and nothing to compile."""

import pathlib

import keras
import numpy as np

from keras_showattend.features import FeatureStore, read_image

SIDE = 4


class PixelExtractor:
    """What a store needs of an extractor: gives the pixels back, a location each, and tells of images to be loaded.

    No `FeatureExtractor` around a model that does nothing: to serialize that model for its fingerprint, Keras would
    import TensorFlow on every backend.
    """

    width = 3

    def __init__(self, side=SIDE, on_load=lambda image: None):
        self.grid = (side, side)
        self.locations = side * side
        self.on_load = on_load
        self.loaded = []

    def __call__(self, images):
        return keras.ops.reshape(images, (-1, self.locations, self.width))

    def load_image(self, image):
        self.loaded.append(number_of(image))
        self.on_load(image)
        return read_image(image).astype("float32")

    def fingerprint(self):
        return {"backbone": "pixels", "grid": list(self.grid)}


def make_example(number, side=SIDE):
    """An example with a random image, which `number_of` knows again."""
    image = np.random.default_rng(number).integers(0, 256, (side, side, 3)).astype("uint8")
    image[0, 0, 0] = number % 256
    captions = [f"picture {number}", "ein Bär\u2028\U0001f43b" + "!" * (number % 3)]
    return {"image_id": number, "image": image, "captions": captions}


def make_examples(count, start=0):
    """A list of examples."""
    return [make_example(number) for number in range(start, start + count)]


def number_of(image):
    """The number of the example that an image belongs to; None where it is no array."""
    return int(image[0, 0, 0]) if isinstance(image, np.ndarray) else None


def features_of(examples):
    """What a store must give for examples, `(N, L, D)`."""
    return np.stack([example["image"].reshape(-1, 3) for example in examples]).astype("float32")


def build(folder, examples, extractor=None, **options):
    """A build of small batches and small shards."""
    options = {"batch_size": 2, "shard_size": 4, "verbose": 0, **options}
    return FeatureStore.build(folder, examples, extractor or PixelExtractor(), **options)


def contents(folder):
    """The bytes of each file in a folder."""
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def shard_files(number):
    """Names of the two files of a shard."""
    return [f"features-{number:05d}.npy", f"captions-{number:05d}.jsonl"]
