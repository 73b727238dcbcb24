"""The photographs whose features are extracted: those of a captions file, or JPEG files drawn here."""

import glob
import os

import numpy as np

from keras_showattend.datasets import coco_json

IMAGES = "../shared/flickr8k/images"
ANNOTATIONS = "../shared/flickr8k/annotations/captions_*.json"
_DRAWN_SIZE = (500, 375)  # pixels, width and height, of many a photograph of COCO and Flickr8k
_COARSE_SIZE = (16, 12)


def find_photographs(folder=None, annotations=None):
    """The photographs with their captions, or None where there are none at the default place.

    Args:
        folder: Folder of the images; None for `IMAGES`.
        annotations: List of captions files in the COCO format; None for the files of `ANNOTATIONS`.

    Returns:
        A list of examples as `coco_json` gives them, each image once.

    Raises:
        FileNotFoundError: If a folder or file that was asked for doesn't exist.
        ValueError: If a file holds no captions in the COCO format.
    """
    if folder is None and annotations is None and not (os.path.isdir(IMAGES) and glob.glob(ANNOTATIONS)):
        return None
    files = sorted(glob.glob(ANNOTATIONS)) if annotations is None else annotations
    examples = {}
    for file in files:
        for example in coco_json(file, IMAGES if folder is None else folder):
            examples.setdefault(example["image_id"], example)
    return list(examples.values())


def draw_photographs(folder, count, seed=0):
    """Write `count` JPEG files of smooth random colours; return their examples."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    examples = []
    for index in range(count):
        coarse = generator.integers(0, 256, (*_COARSE_SIZE[::-1], 3), dtype="uint8")
        path = os.path.join(folder, f"{index:06d}.jpg")
        Image.fromarray(coarse).resize(_DRAWN_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        examples.append({"image_id": index, "image": path, "captions": ["random colours"]})
    return examples
