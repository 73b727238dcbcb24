"""Which captions belong to which photograph, from COCO's own files and from Karpathy's."""

import json
import posixpath
from typing import NamedTuple

from keras_showattend.datasets.json_entries import check_entries

# The archives' folders of photographs.
FOLDERS = ("train2014", "val2014")

# Our names of the splits, and whose photographs (or which of Karpathy's words) they are.
OFFICIAL_SPLITS = {"train": "train2014", "validation": "val2014"}
KARPATHY_SPLITS = {"train": "train", "restval": "restval", "validation": "val", "test": "test"}


class SplitImages(NamedTuple):
    """The photographs of a split.

    `images` is a list of dicts with `"image_id"`, `"folder"`, `"file_name"` and `"captions"`, each
    of these a dict with `"id"`, `"text"` and `"position"`; `uncaptioned` is how many more there are
    that have no captions.
    """

    images: list
    uncaptioned: int


def read_official(files):
    """Reads the two captions files of COCO 2014.

    Args:
        files: `SourceFiles` of `annotations_trainval2014.zip`.

    Returns:
        dict from each split's name to its `SplitImages`.

    Raises:
        ValueError: If a file is no COCO captions file, an id appears twice, an annotation's image
            isn't listed, a caption is blank, or there is no caption. The message names the file.
    """
    splits = {}
    for split, folder in OFFICIAL_SPLITS.items():
        name = f"annotations/captions_{folder}.json"
        where = files.where(name)
        content = _load_json(files, name)
        rule = f"A COCO captions file is needed. Received: {where!r}, "
        images = {}
        for entry in check_entries(content, "images", {"id": (int,), "file_name": (str,)}, rule):
            _add_image(images, entry["id"], folder, entry["file_name"], where)
        fields = {"id": (int,), "image_id": (int,), "caption": (str,)}
        for position, entry in enumerate(check_entries(content, "annotations", fields, rule)):
            if entry["image_id"] not in images:
                raise ValueError(
                    'The image of an annotation must be in the list "images". Received: '
                    f"image_id={entry['image_id']} in annotation {position} of {where!r}, which isn't."
                )
            _add_caption(images[entry["image_id"]], entry["id"], entry["caption"], position, where)
        splits[split] = _with_captions(images.values(), split, where)
    return splits


def read_karpathy(files):
    """Reads Karpathy's splits of COCO 2014.

    Args:
        files: `SourceFiles` of `caption_datasets.zip`.

    Returns:
        dict from each split's name to its `SplitImages`; his "val" is our "validation". A caption's
        position is its running number in the whole file.

    Raises:
        ValueError: If the file isn't as Karpathy's is, an id appears twice, a caption is blank, or
            a split has no caption. The message names the file.
    """
    name = "dataset_coco.json"
    where = files.where(name)
    rule = f"Karpathy's splits of COCO are needed. Received: {where!r}, "
    fields = {"cocoid": (int,), "filepath": (str,), "filename": (str,), "split": (str,), "sentences": (list,)}
    ours = {his: split for split, his in KARPATHY_SPLITS.items()}
    images, by_split = {}, {split: [] for split in KARPATHY_SPLITS}
    position = 0
    # The words of every sentence once more: without them, reading takes two thirds of the time and memory.
    content = _load_json(files, name, without=("tokens", "sentids"))
    for number, entry in enumerate(check_entries(content, "images", fields, rule)):
        for field, known in (("filepath", FOLDERS), ("split", tuple(ours))):
            if entry[field] not in known:
                raise ValueError(
                    f'{rule}where the "{field}" of "images"[{number}] is none of {known}: {entry[field]!r}.'
                )
        image = _add_image(images, entry["cocoid"], entry["filepath"], entry["filename"], where)
        by_split[ours[entry["split"]]].append(image)
        sentence_fields = {"sentid": (int,), "raw": (str,)}
        for sentence in check_entries(entry, "sentences", sentence_fields, f'{rule}in "images"[{number}], '):
            _add_caption(image, sentence["sentid"], sentence["raw"], position, where)
            position += 1
    return {split: _with_captions(members, split, where) for split, members in by_split.items()}


def _load_json(files, name, without=()):
    """What a JSON file holds, without some keys of its objects."""

    def forget(entry):
        for key in without:
            entry.pop(key, None)
        return entry

    content = files.read(name)
    try:
        return json.loads(content, object_hook=forget if without else None)
    except ValueError as error:  # Broken JSON, or bytes that are no UTF-8.
        raise ValueError(f"A JSON file is needed. Received: {files.where(name)!r}, which isn't: {error}") from error


def _add_image(images, image_id, folder, file_name, where):
    if image_id in images:
        raise ValueError(
            f"The ids of images must be unique. Received: id={image_id} for both "
            f"{images[image_id]['file_name']!r} and {file_name!r} in {where!r}."
        )
    # A captions file may come from a stranger, and must not read files elsewhere.
    if file_name != posixpath.basename(file_name) or "\\" in file_name or file_name in ("", ".", ".."):
        raise ValueError(
            "The file name of an image must be a name without folders. "
            f"Received: {file_name!r} (image id {image_id}) in {where!r}."
        )
    images[image_id] = {"image_id": image_id, "folder": folder, "file_name": file_name, "captions": []}
    return images[image_id]


def _add_caption(image, caption_id, text, position, where):
    if not text.strip():
        raise ValueError(
            f"A caption must not be blank. Received: {text!r} as caption {position} "
            f"({image['file_name']}, image id {image['image_id']}) in {where!r}."
        )
    image["captions"].append({"id": caption_id, "text": text, "position": position})


def _with_captions(images, split, where):
    captioned = [image for image in images if image["captions"]]
    if not captioned:
        raise ValueError(
            f"Every split must hold at least one caption. Received: {where!r}, which has none for the split {split!r}."
        )
    return SplitImages(captioned, len(images) - len(captioned))
