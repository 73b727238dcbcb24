"""The dummy data of `coco_showattend` as archives laid out like the real ones."""

import json
import pathlib
import shutil
import zipfile

import keras_showattend

DUMMY = pathlib.Path(keras_showattend.__file__).parent / "datasets" / "coco_showattend" / "dummy_data"

# What each archive holds.
ARCHIVES = {
    "train2014.zip": "train2014",
    "val2014.zip": "val2014",
    "annotations_trainval2014.zip": "annotations",
    "caption_datasets.zip": "dataset_coco.json",
}

# Photographs with captions, and those without.
SIZES = {"2014": {"train": 3, "validation": 5}, "karpathy": {"train": 3, "restval": 2, "validation": 1, "test": 2}}
WITHOUT_CAPTIONS = {
    "2014": {"train": 1, "validation": 1},
    "karpathy": {"train": 1, "restval": 1, "validation": 0, "test": 0},
}


def write_archives(folder, source=DUMMY, names=tuple(ARCHIVES)):
    """Writes the named archives of what lies in `source` into `folder`, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        inside = source / ARCHIVES[name]
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path in sorted(inside.rglob("*")) if inside.is_dir() else [inside]:
                archive.write(path, path.relative_to(source).as_posix())
    return folder


def copy_dummy(folder):
    """A copy of the dummy data, to be spoiled."""
    return pathlib.Path(shutil.copytree(DUMMY, folder))


def edit_json(path, edit):
    """Applies a function to the content of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def prepare(config, data_dir, manual_dir, **options):
    """The builder after it prepared the data set from `manual_dir`; the options are TFDS's `DownloadConfig`'s."""
    import tensorflow_datasets as tfds

    from keras_showattend.datasets.coco_showattend.coco_showattend_dataset_builder import Builder

    builder = Builder(config=config, data_dir=data_dir)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, **options))
    return builder
