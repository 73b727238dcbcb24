"""Photographs and pictures with captions, as examples that the rest of the package reads.

An example is a dict `{"image_id", "image", "captions"}`: an int or a str, a path, encoded bytes
or a uint8 array `(H, W, 3)`, and a list of str. Where TensorFlow Datasets is installed, importing
this package also makes `tfds.load("shape_scenes")` and `tfds.load("coco_showattend")` work.
"""

from keras_showattend.datasets import coco_showattend, shape_scenes
from keras_showattend.datasets.coco_json import coco_json
from keras_showattend.datasets.splits import check_disjoint, split_by_image

try:
    import tensorflow_datasets  # noqa: F401  Imports no TensorFlow before it is used.
except ImportError:
    pass  # Everything but the builders works without it.
else:
    # Defining a builder registers it.
    from keras_showattend.datasets.coco_showattend import coco_showattend_dataset_builder  # noqa: F401
    from keras_showattend.datasets.shape_scenes import shape_scenes_dataset_builder  # noqa: F401

__all__ = ["check_disjoint", "coco_json", "coco_showattend", "shape_scenes", "split_by_image"]
