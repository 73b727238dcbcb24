"""`tfds.load("shape_scenes")` gives the scenes of `load_scenes`; without TFDS the rest works."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from keras_showattend.datasets import shape_scenes
from keras_showattend.datasets.shape_scenes import scenes as scenes_module

SPLITS = {"train": 3, "validation": 2, "test": 1}


def run(code):
    """Runs a program of its own, since this one may have imported everything already."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)


def test_works_where_only_keras_numpy_and_pillow_are():
    result = run(
        """
        import os
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "sklearn"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        # Any backend that is here and isn't TensorFlow.
        for backend in ("jax", "torch"):
            try:
                __import__(backend)
            except ImportError:
                continue
            os.environ["KERAS_BACKEND"] = backend
            break
        else:
            os.environ["KERAS_BACKEND"] = "numpy"
        sys.meta_path.insert(0, Blocker())
        import keras_showattend.datasets as datasets

        assert not {"tensorflow", "tensorflow_datasets", "sklearn"} & set(sys.modules)
        print(datasets.shape_scenes.load_scenes(count=2)[1]["image"].shape)
        datasets.check_disjoint([1], [2])
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(128, 128, 3)"


def test_registering_the_builder_imports_no_tensorflow():
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("jax")
    result = run(
        """
        import os
        import sys

        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        before = "tensorflow" in sys.modules
        import keras_showattend.datasets
        import tensorflow_datasets as tfds

        assert ("tensorflow" in sys.modules) == before
        assert "shape_scenes" in tfds.core.registered._DATASET_REGISTRY
        """
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data set with a few scenes a split, prepared the usual way."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        for split, count in SPLITS.items():
            patch.setitem(scenes_module.SPLIT_SIZES, split, count)
        return tfds.load("shape_scenes", data_dir=folder, with_info=True)


@pytest.mark.parametrize("split", SPLITS)
def test_prepared_scenes_are_those_of_load_scenes(prepared, split):
    data, info = prepared
    features = info.features["objects"].feature
    read = {example["image_id"]: example for example in data[split].as_numpy_iterator()}
    assert len(read) == SPLITS[split]
    for expected in shape_scenes.load_scenes(split, count=SPLITS[split]):
        example = read[expected["image_id"].encode()]
        np.testing.assert_array_equal(example["image"], expected["image"])
        assert [caption.decode() for caption in example["captions"]] == expected["captions"]
        objects = example["objects"]
        for name in ("shape", "color", "size"):
            words = [features[name].int2str(label) for label in objects[name]]
            assert words == [item[name] for item in expected["objects"]]
        boxes = [item["box"] for item in expected["objects"]]
        np.testing.assert_allclose(objects["bbox"] * 128, boxes)


def test_description_citation_and_tags_come_along(prepared):
    import tensorflow_datasets as tfds

    _, info = prepared
    assert "coloured shapes" in info.description
    assert "xu2015show" in info.citation
    metadata = tfds.builder_cls("shape_scenes").get_metadata()
    assert "content.data-type.image" in metadata.tags
    assert set(metadata.tags) <= set(tfds.core.dataset_metadata.valid_tags())
    assert info.version == "1.0.0"


def test_sizes_are_the_documented_ones():
    assert scenes_module.SPLIT_SIZES == {"train": 4000, "validation": 500, "test": 500}
