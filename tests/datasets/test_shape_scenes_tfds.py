"""TFDS's own checks of a builder: registered, documented, readable, splits disjoint."""

import pathlib
from typing import ClassVar
from unittest import mock

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("dill")  # The test case hashes its examples with it.
tfds = pytest.importorskip("tensorflow_datasets")

from keras_showattend.datasets.shape_scenes import (  # noqa: E402
    scenes,
    shape_scenes_dataset_builder,
)


class ShapeScenesTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = shape_scenes_dataset_builder.Builder
    SPLITS: ClassVar[dict[str, int]] = {"train": 3, "validation": 2, "test": 1}
    # Nothing is downloaded, so nothing stands in for it; the test case only wants a folder.
    EXAMPLE_DIR = str(pathlib.Path(__file__).parent)

    def setUp(self):
        patcher = mock.patch.dict(scenes.SPLIT_SIZES, self.SPLITS)
        patcher.start()
        self.addCleanup(patcher.stop)
        super().setUp()
