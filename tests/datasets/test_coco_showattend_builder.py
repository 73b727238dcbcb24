"""TFDS's own checks of the builder: registered, documented, readable, splits disjoint, checksums known."""

import pathlib
import tempfile
from typing import ClassVar

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("dill")  # The test case hashes its examples with it.
tfds = pytest.importorskip("tensorflow_datasets")

from coco_archives import SIZES, write_archives  # noqa: E402

from keras_showattend.datasets.coco_showattend import coco_showattend_dataset_builder  # noqa: E402


class Archives(tfds.testing.DatasetBuilderTestCase):
    """The archives are one folder below `manual_dir`, where only the mocked download finds them."""

    DATASET_CLASS = coco_showattend_dataset_builder.Builder

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.EXAMPLE_DIR = folder.name
        write_archives(pathlib.Path(folder.name) / "downloads")
        super().setUpClass()


class OfficialTest(Archives):
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar[list[str]] = ["2014"]
    SPLITS: ClassVar[dict[str, int]] = SIZES["2014"]
    DL_DOWNLOAD_RESULT: ClassVar[dict[str, str]] = {
        "train2014": "downloads/train2014.zip",
        "val2014": "downloads/val2014.zip",
        "annotations": "downloads/annotations_trainval2014.zip",
    }


class KarpathyTest(Archives):
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar[list[str]] = ["karpathy"]
    SPLITS: ClassVar[dict[str, int]] = SIZES["karpathy"]
    DL_DOWNLOAD_RESULT: ClassVar[dict[str, str]] = {
        "train2014": "downloads/train2014.zip",
        "val2014": "downloads/val2014.zip",
        "karpathy": "downloads/caption_datasets.zip",
    }


class ManualKarpathyTest(tfds.testing.DatasetBuilderTestCase):
    """The dummy data themselves are an extracted `manual_dir`."""

    DATASET_CLASS = coco_showattend_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar[list[str]] = ["karpathy"]
    SPLITS: ClassVar[dict[str, int]] = SIZES["karpathy"]


# Not a test by itself.
del Archives
