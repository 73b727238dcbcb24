"""Files that `coco_showattend` can't be prepared from: refused in words that name them."""

import re

import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")

from coco_archives import DUMMY, copy_dummy, edit_json, prepare, write_archives

from keras_showattend.datasets.coco_showattend.coco_showattend_dataset_builder import Builder

CONFIGS = ("2014", "karpathy")


def refuses(config, tmp_path, manual_dir, message):
    with pytest.raises(ValueError, match=message):
        prepare(config, tmp_path / "data", manual_dir)
    assert not Builder(config=config, data_dir=tmp_path / "data").is_prepared()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["archives", "folders"])
def test_a_missing_photograph(tmp_path, config, kind):
    folder = copy_dummy(tmp_path / "manual")
    (folder / "val2014" / "COCO_val2014_000000000074.jpg").unlink()
    # Nobody misses an image that has no captions.
    (folder / "train2014" / "COCO_train2014_000000000034.jpg").unlink()
    if kind == "archives":
        folder = write_archives(tmp_path / "archives", source=folder)
    where = re.escape(str(folder / "val2014.zip" if kind == "archives" else folder))
    message = (
        rf"must be there. Received: '{where}', which lacks 1 of \d, "
        r"the first one 'val2014/COCO_val2014_000000000074.jpg' \(image id 74\)"
    )
    refuses(config, tmp_path, folder, message)


def test_an_annotation_of_an_unknown_image(tmp_path):
    folder = copy_dummy(tmp_path / "manual")
    edit_json(
        folder / "annotations/captions_val2014.json", lambda content: content["annotations"][2].update(image_id=9)
    )
    message = r"image_id=9 in annotation 2 of '.*annotations/captions_val2014.json', which isn't"
    refuses("2014", tmp_path, folder, message)


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_caption(tmp_path, blank):
    folder = copy_dummy(tmp_path / "manual")
    path = folder / "annotations/captions_train2014.json"
    edit_json(path, lambda content: content["annotations"][1].update(caption=blank))
    shown = re.escape(repr(blank))
    message = rf"must not be blank. Received: {shown} as caption 1 \(COCO_.*09.jpg, image id 9\) in '.*{path.name}'"
    refuses("2014", tmp_path, folder, message)
    edit_json(folder / "dataset_coco.json", lambda content: content["images"][4]["sentences"][1].update(raw=blank))
    message = (
        rf"must not be blank. Received: {shown} as caption 8 \(COCO_.*25.jpg, image id 25\) in '.*dataset_coco.json'"
    )
    refuses("karpathy", tmp_path, folder, message)


def drop_captions(content):
    content["annotations"] = []


def twice(content):
    content["images"][1]["id"] = content["images"][0]["id"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content["images"][2].pop("file_name"), r'where "images"\[2\] has no "file_name"'),
        (lambda content: content["images"][2].update(id="9"), r'the "id" of "images"\[2\] is no integer: \'9\''),
        (lambda content: content["annotations"][0].pop("caption"), r'"annotations"\[0\] has no "caption"'),
        (lambda content: content.pop("annotations"), r'which has no "annotations"; its keys are'),
        (twice, r"unique. Received: id=30 for both '.*030.jpg' and '.*034.jpg' in '.*captions_train2014.json'"),
        (
            lambda content: content["images"][3].update(file_name="../val2014/COCO_val2014_000000000042.jpg"),
            r"name without folders. Received: '\.\./val2014.*' \(image id 25\) in '.*captions_train2014.json'",
        ),
        (drop_captions, r"at least one caption. Received: '.*captions_train2014.json', which has none .* 'train'"),
    ],
)
def test_a_captions_file_that_is_not_coco(tmp_path, edit, message):
    folder = copy_dummy(tmp_path / "manual")
    edit_json(folder / "annotations/captions_train2014.json", edit)
    refuses("2014", tmp_path, folder, message)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda image: image.update(split="dev"), r'the "split" of "images"\[1\] is none of .*\'restval\'.*: \'dev\''),
        (lambda image: image.update(filepath="/etc"), r'the "filepath" of "images"\[1\] is none of .*: \'/etc\''),
        (lambda image: image.update(filename="a/b.jpg"), r"name without folders. Received: 'a/b.jpg' \(image id 9\)"),
        (lambda image: image.update(cocoid=74), r"unique. Received: id=74 for both"),
        (lambda image: image.pop("sentences"), r'"images"\[1\] has no "sentences"'),
        (lambda image: image["sentences"][1].pop("raw"), r'in "images"\[1\], where "sentences"\[1\] has no "raw"'),
    ],
)
def test_splits_that_are_not_karpathys(tmp_path, edit, message):
    folder = copy_dummy(tmp_path / "manual")
    edit_json(folder / "dataset_coco.json", lambda content: edit(content["images"][1]))
    refuses("karpathy", tmp_path, folder, message)


def test_a_split_without_captions(tmp_path):
    folder = copy_dummy(tmp_path / "manual")
    edit_json(folder / "dataset_coco.json", lambda content: content["images"][0].update(split="train"))
    refuses("karpathy", tmp_path, folder, r"dataset_coco.json', which has none for the split 'validation'")


@pytest.mark.parametrize("name", ["annotations/captions_val2014.json", "dataset_coco.json"])
def test_no_json(tmp_path, name):
    folder = copy_dummy(tmp_path / "manual")
    (folder / name).write_bytes(b"\xff\xd8 this is a photograph")
    refuses("2014" if "2014" in name else "karpathy", tmp_path, folder, rf"JSON file is needed. Received: '.*{name}'")


@pytest.mark.parametrize("name", ["train2014.zip", "annotations_trainval2014.zip"])
def test_an_archive_cut_short(tmp_path, name):
    folder = write_archives(tmp_path / "manual")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    refuses("2014", tmp_path, folder, rf"A zip archive is needed. Received: '.*{name}', which isn't")


def test_an_archive_with_a_wrong_byte(tmp_path):
    folder = write_archives(tmp_path / "manual")
    photograph = (DUMMY / "val2014" / "COCO_val2014_000000000074.jpg").read_bytes()
    spoiled = photograph[:-9] + b"spoiled.."
    archive = folder / "val2014.zip"
    archive.write_bytes(archive.read_bytes().replace(photograph, spoiled))
    refuses("2014", tmp_path, folder, r"val2014.zip/val2014/COCO_val2014_000000000074.jpg' can't be read: Bad CRC")


def test_an_archive_of_something_else(tmp_path):
    folder = write_archives(tmp_path / "manual")
    (folder / "train2014.zip").rename(folder / "annotations_trainval2014.zip")
    message = (
        r"'annotations/captions_train2014.json' is needed. Received: '.*annotations_trainval2014.zip', which lacks"
    )
    write_archives(folder, names=["train2014.zip"])
    refuses("2014", tmp_path, folder, message)
