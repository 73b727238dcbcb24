"""The scenes of a split, drawn when they are asked for."""

import collections.abc
import dataclasses
import operator

import numpy as np

from keras_showattend.datasets.seeds import check_seed
from keras_showattend.datasets.shape_scenes.drawing import draw_scene
from keras_showattend.validation import check_positive_integer

# The number of scenes in each split; the order is part of every scene's seed.
SPLIT_SIZES = {"train": 4000, "validation": 500, "test": 500}


class Scenes(collections.abc.Sequence):
    """A sequence of examples, each drawn anew whenever it is asked for; see `load_scenes`."""

    def __init__(self, split, count, seed):
        self.split = split
        self.seed = seed
        self._count = count

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        # A range knows negative indices and the error for one beyond the end.
        index = range(len(self))[operator.index(index)]
        # Each scene has a seed of its own, so that neither the order in which scenes are drawn
        # nor their number changes a pixel.
        split_index = list(SPLIT_SIZES).index(self.split)
        scene = draw_scene(np.random.default_rng([self.seed, split_index, index]))
        return {
            "image_id": f"{self.split}-{index:06d}",
            "image": scene.image,
            "captions": scene.captions,
            "objects": [dataclasses.asdict(item) for item in scene.objects],
        }

    def __repr__(self):
        return f"<Scenes {self.split!r}: {len(self)} scenes, seed {self.seed}>"


def load_scenes(split="train", count=None, seed=0):
    """Gives the scenes of a split, drawn one by one as they are read.

    The pixels and the captions of a scene depend on `seed`, the split and the scene's index
    alone: `load_scenes(count=10)` gives the first ten of `load_scenes()`.

    Args:
        split: `"train"`, `"validation"` or `"test"`.
        count: Optional positive int, the number of scenes. Defaults to 4000, 500 and 500.
        seed: Non-negative int; another seed gives another data set.

    Returns:
        A sequence. Indexing it with an int gives a dict; a slice gives a list of them:

        - `"image_id"`: str such as `"train-000017"`.
        - `"image"`: uint8, `(128, 128, 3)`, RGB.
        - `"captions"`: list of five str.
        - `"objects"`: list of dicts with `"shape"`, `"color"`, `"size"` (str) and `"box"`, four
          ints `(y_min, x_min, y_max, x_max)` in pixels, half-open and tight around the object.

    Raises:
        ValueError: If an argument is none of the above.

    Example:
    ```python
    from keras_showattend.datasets import shape_scenes

    scenes = shape_scenes.load_scenes("validation", count=8)
    scenes[0]["captions"]  # such as ["a small red circle above a large blue square", ...]
    ```
    """
    if split not in SPLIT_SIZES:
        raise ValueError(f"`split` must be one of {list(SPLIT_SIZES)}. Received: split={split!r}.")
    count = SPLIT_SIZES[split] if count is None else check_positive_integer("count", count)
    return Scenes(split, count, check_seed(seed))
