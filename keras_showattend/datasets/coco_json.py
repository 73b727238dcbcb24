"""Reads captions in the COCO JSON format, with the folder that holds the images."""

import collections.abc
import json
import os

from keras_showattend.datasets.draws import check_draw_seed, draw_captions
from keras_showattend.datasets.json_entries import check_entries
from keras_showattend.validation import check_positive_integer


class CocoExamples(collections.abc.Sequence):
    """The examples of a COCO captions file; see `coco_json`.

    Attributes:
        skipped_images: int, how many images were left out because the file has no caption for
            them.
    """

    def __init__(self, examples, skipped_images):
        self._examples = examples
        self.skipped_images = skipped_images

    def __len__(self):
        return len(self._examples)

    def __getitem__(self, index):
        return self._examples[index]

    def __repr__(self):
        captions = sum(len(example["captions"]) for example in self)
        return f"<CocoExamples: {len(self)} images, {captions} captions>"


def coco_json(annotations, images, max_captions=None, seed=1):
    """Reads a captions file in the COCO format.

    The file is a JSON object with `"images"`, a list of objects with `"id"` and `"file_name"`, and
    `"annotations"`, a list of objects with `"image_id"` and `"caption"`. Other keys are ignored. A
    photograph is looked for, but not opened.

    Args:
        annotations: Path of the JSON file.
        images: Path of the folder that the file names are relative to. A name that leads out of
            it is refused, since a captions file may come from a stranger; a link that lies in
            the folder is followed, since its owner put it there.
        max_captions: Optional positive int. Takes this many captions of the whole file, drawn at
            random without replacement, and the images that still have any. As in a draw from all
            captions, an image may keep only some of its own. Defaults to all; a number above the
            file's gives all as well. The draw is that of the 2018 notebook, caption by caption:
            `sklearn.utils.shuffle(captions, random_state=seed)[:max_captions]` (scikit-learn
            itself isn't needed); 30,000 of captions_train2014.json with the seed 1 are the
            notebook's.
        seed: Non-negative int below 2**32, seeds that draw.

    Returns:
        A sequence, in the file's order of images, of dicts:

        - `"image_id"`: the file's id, an int or a str.
        - `"image"`: str, the path of the image.
        - `"captions"`: list of str, all (chosen) captions of the image, in the file's order.

        Images for which the file has no caption are left out; the sequence's `skipped_images`
        is their number.

    Raises:
        FileNotFoundError: If `annotations`, `images` or the file of an image doesn't exist.
        ValueError: If the file isn't JSON or isn't COCO captions, an id appears twice, an
            annotation's image isn't listed, a caption is blank, a file name leads out of the
            folder, or there is no caption at all.

    Example:
    ```python
    from keras_showattend.datasets import coco_json

    examples = coco_json("annotations/captions_train2014.json", "train2014", max_captions=30_000)
    examples[0]["captions"]  # list of str
    ```
    """
    if max_captions is not None:
        max_captions = check_positive_integer("max_captions", max_captions)
    seed = check_draw_seed(seed)
    annotations, images = os.fspath(annotations), os.fspath(images)
    if not os.path.isfile(annotations):
        raise FileNotFoundError(f"`annotations` must be an existing JSON file. Received: annotations={annotations!r}.")
    if not os.path.isdir(images):
        raise FileNotFoundError(f"`images` must be an existing folder. Received: images={images!r}.")

    content = _load_json(annotations)
    rule = f"`annotations` must be a COCO captions file. Received: {annotations!r}, "
    paths = _image_paths(check_entries(content, "images", {"id": (int, str), "file_name": (str,)}, rule), images)
    captions = _captions(
        check_entries(content, "annotations", {"image_id": (int, str), "caption": (str,)}, rule), paths
    )
    if not captions:
        raise ValueError(
            "`annotations` must hold at least one caption. "
            f"Received: {annotations!r} with {len(paths)} images and no captions."
        )
    captioned = {image_id for image_id, _ in captions}
    if max_captions is not None:
        captions = [captions[i] for i in draw_captions(len(captions), max_captions, seed)]
    return CocoExamples(_group(captions, paths), skipped_images=len(paths) - len(captioned))


def _load_json(path):
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        # Broken JSON, bytes that are no UTF-8, or lists in lists in lists.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`annotations` must be a JSON file. Received: {path!r}, which isn't: {error}") from error


def _image_paths(entries, folder):
    """Returns a dict from image id to path, in the file's order."""
    paths = {}
    for entry in entries:
        image_id, name = entry["id"], entry["file_name"]
        if image_id in paths:
            raise ValueError(
                f"The ids of images must be unique. Received: id={image_id!r} for both "
                f"{os.path.basename(paths[image_id])!r} and {name!r}."
            )
        # Without its ".." parts, which are taken out here and not by the file system, the name
        # means the same wherever links lead.
        relative = os.path.normpath(name)
        if os.path.isabs(relative) or os.path.splitdrive(relative)[0] or relative.split(os.sep)[0] == os.pardir:
            raise ValueError(
                "The file name of an image must stay inside the folder `images`. "
                f"Received: file_name={name!r} (image id {image_id!r}) and images={folder!r}."
            )
        paths[image_id] = os.path.join(folder, relative)
    return paths


def _captions(entries, paths):
    """Returns a list of (image id, caption), in the file's order."""
    captions = []
    for number, entry in enumerate(entries):
        image_id, caption = entry["image_id"], entry["caption"]
        if image_id not in paths:
            raise ValueError(
                'The image of an annotation must be in the list "images". '
                f"Received: image_id={image_id!r} in annotation {number}, which isn't."
            )
        if not caption.strip():
            raise ValueError(
                f"A caption must not be blank. Received: {caption!r} in annotation {number} (image id {image_id!r})."
            )
        captions.append((image_id, caption))
    return captions


def _group(captions, paths):
    """Returns an example for each image that has captions, in the order of `paths`."""
    by_image = {}
    for image_id, caption in captions:
        by_image.setdefault(image_id, []).append(caption)
    examples = []
    for image_id, path in paths.items():
        if image_id not in by_image:
            continue
        if not os.path.isfile(path):
            raise FileNotFoundError(
                "The file of every image with captions must exist. "
                f"Received: {path!r} (image id {image_id!r}), which doesn't."
            )
        examples.append({"image_id": image_id, "image": path, "captions": by_image[image_id]})
    return examples
