"""The prepared data set as examples: what a feature store is built of, and the notebook's subset."""

import re

import numpy as np
import pytest

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from coco_archives import DUMMY  # noqa: E402

from keras_showattend.datasets import coco_json, coco_showattend  # noqa: E402
from keras_showattend.datasets.coco_showattend.coco_showattend_dataset_builder import Builder  # noqa: E402
from keras_showattend.features import FeatureExtractor, FeatureStore  # noqa: E402

IMAGES = {"train": {9, 25, 30}, "restval": {42, 133}, "validation": {74}, "test": {73, 136}}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Where the data set is prepared, and from what."""
    config = tfds.download.DownloadConfig(manual_dir=DUMMY)
    return {"data_dir": tmp_path_factory.mktemp("data"), "download_config": config}


@pytest.fixture
def unprepared(monkeypatch):
    """Fails where an argument is refused only after the data set was prepared."""

    def download_and_prepare(self, **arguments):
        raise AssertionError("too late")

    monkeypatch.setattr(Builder, "download_and_prepare", download_and_prepare)


def file_of(image_id):
    (path,) = DUMMY.glob(f"*/COCO_*_{image_id:012d}.jpg")
    return path


def test_examples_are_prepared_and_read(options):
    examples = list(coco_showattend.load_examples(**options))
    captions = {example["image_id"]: example["captions"] for example in examples}
    assert captions == {
        9: ["A plate with four squares of colour.", "Four colours on a tray "],
        25: ["Two tall animals that aren't there.", "A café seen from far away.", "Nothing moves here."],
        30: ["A grey picture."],
    }
    for example in examples:
        assert list(example) == ["image_id", "image", "captions"]
        assert type(example["image_id"]) is int
        assert type(example["image"]) is bytes
        assert example["image"] == file_of(example["image_id"]).read_bytes()


@pytest.mark.parametrize("split", [*IMAGES, "train+restval", "restval + train + test", "train[:1]+restval"])
def test_splits_together_and_in_part(options, split):
    examples = coco_showattend.load_examples(split, **options)
    ids = [example["image_id"] for example in examples]
    # As often as one likes, and in the same order.
    assert [example["image_id"] for example in examples] == ids
    assert len(examples) == len(ids) == len(set(ids))
    names = [part.strip() for part in split.split("+")]
    if "[" not in split:
        assert set(ids) == set.union(*(IMAGES[name] for name in names))
    else:
        assert len(ids) == 3
        assert set(ids) >= IMAGES["restval"]
    assert repr(examples) == (f"<PreparedExamples of coco_showattend/karpathy/1.0.0, {split!r}: {len(ids)} images>")


def test_the_official_splits(options):
    examples = coco_showattend.load_examples("validation", config="2014", **options)
    assert {example["image_id"] for example in examples} == {42, 73, 74, 133, 136}
    captions = {example["image_id"]: example["captions"] for example in examples}
    assert captions[136] == ["A wall with paint on it.\n", "Someone painted a wall."]


def test_a_feature_store_is_built_of_them(options, tmp_path, capsys):
    examples = coco_showattend.load_examples("train+restval", **options)
    extractor = FeatureExtractor("patches")
    store = FeatureStore.build(tmp_path / "store", examples, extractor, batch_size=2)
    # Their number is known beforehand: it is in the progress bar.
    assert "5/5" in capsys.readouterr().out
    assert set(store.image_ids) == IMAGES["train"] | IMAGES["restval"]
    assert store.captions(30) == ["A grey picture."]
    from_file = [{"image_id": 9, "image": str(file_of(9)), "captions": ["a"]}]
    expected = FeatureStore.build(tmp_path / "from_file", from_file, extractor, batch_size=2, verbose=0)
    np.testing.assert_array_equal(store.features([9]), expected.features([9]))
    # Built again, nothing is computed anew.
    again = FeatureStore.build(tmp_path / "store", examples, extractor, batch_size=2, verbose=0)
    assert again.image_ids == store.image_ids


@pytest.mark.parametrize(("captions", "seed"), [(1, 1), (3, 1), (4, 0), (5, 7), (6, 1), (30_000, 1)])
def test_the_notebooks_subset_is_that_of_the_json_file(options, captions, seed):
    subset = coco_showattend.notebook_subset(captions, seed, **options)
    expected = coco_json(
        DUMMY / "annotations/captions_train2014.json", DUMMY / "train2014", max_captions=captions, seed=seed
    )
    for _ in range(2):
        found = {example["image_id"]: example for example in subset}
        assert {key: example["captions"] for key, example in found.items()} == {
            example["image_id"]: example["captions"] for example in expected
        }
        assert all(example["image"] == file_of(key).read_bytes() for key, example in found.items())
    assert len(subset) == len(expected)
    assert subset.captions == min(captions, 6)
    assert repr(subset) == (
        f"<DrawnExamples of coco_showattend/2014/1.0.0, 'train': {len(expected)} images, {min(captions, 6)} captions>"
    )


def test_the_notebooks_numbers_are_the_defaults(options):
    subset, everything = (
        coco_showattend.notebook_subset(**options),
        coco_json(DUMMY / "annotations/captions_train2014.json", DUMMY / "train2014", max_captions=30_000, seed=1),
    )
    assert subset.captions == sum(len(example["captions"]) for example in everything)


@pytest.mark.parametrize("config", ["2017", None, 2014])
def test_config_refuses(unprepared, config):
    message = rf"`config` must be one of \['karpathy', '2014'\]. Received: config={config!r}\."
    with pytest.raises(ValueError, match=message):
        coco_showattend.load_examples(config=config)


@pytest.mark.parametrize(
    ("split", "config"),
    [
        ("val", "karpathy"),
        ("restval", "2014"),
        ("train+tset", "karpathy"),
        ("", "2014"),
        (None, "2014"),
        ("all", "2014"),
    ],
)
def test_split_refuses(unprepared, split, config):
    message = rf"`split` must be made of .*'validation'.* config='{config}'. Received: split={re.escape(repr(split))}\."
    with pytest.raises(ValueError, match=message):
        coco_showattend.load_examples(split, config)


def test_the_subset_refuses(unprepared):
    with pytest.raises(ValueError, match=r"`captions` must be a positive integer. Received: captions=0"):
        coco_showattend.notebook_subset(captions=0)
    with pytest.raises(ValueError, match=r"`seed` must be a non-negative integer below .* Received: seed=-1"):
        coco_showattend.notebook_subset(seed=-1)
