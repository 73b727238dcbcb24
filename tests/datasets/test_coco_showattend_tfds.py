"""`coco_showattend`, prepared from archives and folders: what is stored, what is left out, what is downloaded."""

import json
import logging
import re
import subprocess
import sys
import textwrap

import pytest

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from coco_archives import DUMMY, SIZES, WITHOUT_CAPTIONS, prepare, write_archives  # noqa: E402
from PIL import Image  # noqa: E402

import keras_showattend.datasets  # noqa: E402, F401  Registers the builder.
from keras_showattend.datasets.coco_showattend.coco_showattend_dataset_builder import Builder  # noqa: E402

CONFIGS = ("2014", "karpathy")


def read(builder, split, **arguments):
    """The examples of a split by image id."""
    data = tfds.as_numpy(builder.as_dataset(split=split, **arguments))
    return {int(example["image_id"]): example for example in data}


def captions_of(example):
    captions = example["captions"]
    return [
        (int(key), text.decode(), int(position))
        for key, text, position in zip(captions["id"], captions["text"], captions["position"], strict=True)
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Both configurations, prepared from archives."""
    archives = write_archives(tmp_path_factory.mktemp("archives"))
    data_dir = tmp_path_factory.mktemp("data")
    return {config: prepare(config, data_dir, archives) for config in CONFIGS}


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Archives stand in for the downloads; the list of what was asked for."""
    archives = write_archives(tmp_path / "downloads_stand_in")
    asked = []

    def download(self, urls):
        asked.extend(urls.values())
        return {name: archives / url.rpartition("/")[2] for name, url in urls.items()}

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    return asked


def test_official_captions_are_those_of_the_files(prepared):
    for split, year in (("train", "train2014"), ("validation", "val2014")):
        content = json.loads((DUMMY / f"annotations/captions_{year}.json").read_text())
        expected = {}
        for position, entry in enumerate(content["annotations"]):
            expected.setdefault(entry["image_id"], []).append((entry["id"], entry["caption"], position))
        examples = read(prepared["2014"], split)
        assert {key: captions_of(example) for key, example in examples.items()} == expected
        names = {entry["id"]: entry["file_name"] for entry in content["images"]}
        assert all(example["file_name"].decode() == names[key] for key, example in examples.items())
        assert len(examples) == SIZES["2014"][split]


def test_karpathys_captions_are_those_of_his_file(prepared):
    expected = {split: {} for split in SIZES["karpathy"]}
    position = 0
    for entry in json.loads((DUMMY / "dataset_coco.json").read_text())["images"]:
        captions = []
        for sentence in entry["sentences"]:
            captions.append((sentence["sentid"], sentence["raw"], position))
            position += 1
        if captions:
            expected[{"val": "validation"}.get(entry["split"], entry["split"])][entry["cocoid"]] = captions
    for split, images in expected.items():
        examples = read(prepared["karpathy"], split)
        assert {key: captions_of(example) for key, example in examples.items()} == images
        assert len(images) == SIZES["karpathy"][split]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_bytes_of_the_files_are_untouched(prepared, config):
    greyscale = 0
    for split in SIZES[config]:
        raw = read(prepared[config], split, decoders={"image": tfds.decode.SkipDecoding()})
        for key, example in read(prepared[config], split).items():
            name = example["file_name"].decode()
            path = DUMMY / name.split("_")[1] / name
            assert raw[key]["image"] == path.read_bytes()
            with Image.open(path) as image:
                greyscale += image.mode == "L"
                assert example["image"].shape == (image.height, image.width, 3)
    assert greyscale == 1


@pytest.mark.parametrize("config", CONFIGS)
def test_no_image_is_in_two_splits(prepared, config):
    ids = [key for split in SIZES[config] for key in read(prepared[config], split)]
    assert len(ids) == len(set(ids)) == sum(SIZES[config].values())


@pytest.mark.parametrize("config", CONFIGS)
def test_images_without_captions_are_counted(prepared, config):
    again = Builder(config=config, data_dir=prepared[config].data_dir_root)
    for builder in (prepared[config], again):
        assert builder.info.metadata["images_without_captions"] == WITHOUT_CAPTIONS[config]
        for split, captions in builder.info.metadata["captions"].items():
            assert captions == sum(len(captions_of(example)) for example in read(builder, split).values())
    ids = {key for split in SIZES[config] for key in read(prepared[config], split)}
    assert not ids & {34, 139}


def test_images_without_captions_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        prepare("2014", tmp_path, DUMMY)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("keras_showattend")]
    assert messages == [
        f"coco_showattend: 1 images of '{split}' have no captions: left out." for split in ("train", "validation")
    ]


def test_loads_by_name_with_its_description(prepared):
    data_dir = prepared["karpathy"].data_dir_root
    data, info = tfds.load("coco_showattend/karpathy", split="train+restval", data_dir=data_dir, with_info=True)
    assert len(data) == 5
    assert tfds.builder("coco_showattend", data_dir=data_dir).builder_config.name == "karpathy"
    assert "Photographs of everyday scenes" in info.description
    for key in ("lin2014microsoft", "chen2015microsoft", "karpathy2015deep"):
        assert key in info.citation
    assert info.homepage == "https://cocodataset.org"


def test_registering_imports_no_tensorflow():
    pytest.importorskip("jax")
    code = """
        import os
        import sys

        os.environ["KERAS_BACKEND"] = "jax"
        import keras

        before = "tensorflow" in sys.modules
        import keras_showattend.datasets
        import tensorflow_datasets as tfds

        assert ("tensorflow" in sys.modules) == before
        assert "coco_showattend" in tfds.core.registered._DATASET_REGISTRY
        """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


ASKED = {
    "2014": ["train2014.zip", "val2014.zip", "annotations_trainval2014.zip"],
    "karpathy": ["train2014.zip", "val2014.zip", "caption_datasets.zip"],
}


@pytest.mark.parametrize("config", CONFIGS)
def test_only_what_captions_need_is_downloaded(tmp_path, downloads, config):
    builder = Builder(config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    assert [url.rpartition("/")[2] for url in downloads] == ASKED[config]
    assert set(downloads) <= set(Builder.url_infos)
    assert builder.info.splits["train"].num_examples == 3


def test_the_registered_checksums_are_those_of_the_published_files():
    by_name = {url.rpartition("/")[2]: info for url, info in Builder.url_infos.items()}
    assert {name: int(info.size) for name, info in by_name.items()} == {
        "train2014.zip": 13510573713,
        "val2014.zip": 6645013297,
        "annotations_trainval2014.zip": 252872794,
        "caption_datasets.zip": 36745453,
    }
    assert all(re.fullmatch("[0-9a-f]{64}", info.checksum) for info in by_name.values())


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["archives", "folders"])
def test_files_of_the_users_own_are_used(tmp_path, downloads, capsys, config, kind):
    manual_dir = DUMMY if kind == "folders" else write_archives(tmp_path / "manual")
    builder = prepare(config, tmp_path / "data", manual_dir)
    assert downloads == []
    assert {split: builder.info.splits[split].num_examples for split in SIZES[config]} == SIZES[config]
    printed = capsys.readouterr().out
    assert f"coco_showattend: train2014 from {manual_dir if kind == 'folders' else manual_dir / 'train2014.zip'}" in (
        printed
    )


@pytest.mark.parametrize("archives", [["val2014.zip"], ["train2014.zip", "annotations_trainval2014.zip"]])
def test_only_what_is_missing_is_downloaded(tmp_path, downloads, capsys, archives):
    manual_dir = write_archives(tmp_path / "manual", names=archives)
    builder = prepare("2014", tmp_path / "data", manual_dir)
    missing = [name for name in ASKED["2014"] if name not in archives]
    assert [url.rpartition("/")[2] for url in downloads] == missing
    printed = capsys.readouterr().out
    for name in ASKED["2014"]:
        source = str(manual_dir / name) if name in archives else f"http://images.cocodataset.org/.*{name}"
        assert re.search(rf"coco_showattend: \w+ from {source}\n", printed)
    assert builder.info.splits.total_num_examples == 8


def test_an_archive_a_folder_and_a_download(tmp_path, downloads):
    manual_dir = write_archives(tmp_path / "manual", names=["train2014.zip"])
    (manual_dir / "val2014").symlink_to(DUMMY / "val2014")
    prepare("karpathy", tmp_path / "data", manual_dir)
    assert [url.rpartition("/")[2] for url in downloads] == ["caption_datasets.zip"]


def test_annotations_of_something_else_do_not_count(tmp_path, downloads):
    (tmp_path / "manual" / "annotations").mkdir(parents=True)
    (tmp_path / "manual" / "annotations" / "instances_train2014.json").write_text("{}")
    prepare("2014", tmp_path / "data", tmp_path / "manual")
    assert len(downloads) == 3


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_or_missing_manual_dir(tmp_path, downloads, exists):
    manual_dir = tmp_path / "manual"
    if exists:
        manual_dir.mkdir()
    prepare("2014", tmp_path / "data", manual_dir)
    assert len(downloads) == 3


def test_apache_beam_is_needed_only_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"need Apache Beam: pip install 'keras-showattend\[beam\]'"):
        prepare("2014", tmp_path, DUMMY, beam_runner="DirectRunner")
    assert prepare("2014", tmp_path, DUMMY).is_prepared()
