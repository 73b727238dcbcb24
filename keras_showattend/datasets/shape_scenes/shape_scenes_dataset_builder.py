"""`shape_scenes` for TensorFlow Datasets."""

from typing import ClassVar

import tensorflow_datasets as tfds

from keras_showattend.datasets.shape_scenes.drawing import COLORS, IMAGE_SIZE, SHAPES, SIZES
from keras_showattend.datasets.shape_scenes.scenes import SPLIT_SIZES, load_scenes


class Builder(tfds.core.GeneratorBasedBuilder):
    """The scenes of `load_scenes()` with its defaults, under `tfds.load("shape_scenes")`.

    `objects` is a sequence of `shape`, `color` and `size`, which are class labels, and `bbox`,
    whose sides are shares of the picture's.

    Example:
    ```python
    import keras_showattend.datasets  # registers the builder
    import tensorflow_datasets as tfds

    train = tfds.load("shape_scenes", split="train")
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image_id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "objects": tfds.features.Sequence(
                        {
                            "shape": tfds.features.ClassLabel(names=list(SHAPES)),
                            "color": tfds.features.ClassLabel(names=list(COLORS)),
                            "size": tfds.features.ClassLabel(names=list(SIZES)),
                            "bbox": tfds.features.BBoxFeature(),
                        }
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # The scenes are drawn, nothing is downloaded.
        return {split: self._generate_examples(split) for split in SPLIT_SIZES}

    def _generate_examples(self, split):
        for example in load_scenes(split):
            objects = [
                {
                    "shape": item["shape"],
                    "color": item["color"],
                    "size": item["size"],
                    "bbox": tfds.features.BBox(*(side / IMAGE_SIZE for side in item["box"])),
                }
                for item in example["objects"]
            ]
            yield example["image_id"], {**example, "objects": objects}
