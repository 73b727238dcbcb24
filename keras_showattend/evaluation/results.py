"""Captions in files, in the results format of COCO: a JSON list of `{"image_id", "caption"}`."""

import json
import os

import numpy as np

from keras_showattend.atomic_writing import replacing


def write_results(path, captions):
    """Writes captions as COCO's evaluation server and its tools read them.

    The file is written beside and then renamed: it is the old one or the whole new one.

    Args:
        path: Path of the JSON file; its folder must exist.
        captions: `{image_id: str}`. Ids are int or str, and stay so.

    Raises:
        ValueError: If `captions` is not such a dict, or is empty.
        OSError: If the file can't be written.

    Example:
    ```python
    from keras_showattend.evaluation import read_results, write_results

    write_results("results.json", {9: "a dog runs"})
    read_results("results.json")  # {9: "a dog runs"}
    ```
    """
    if not isinstance(captions, dict) or not captions:
        received = "an empty dict" if isinstance(captions, dict) else f"captions of type {type(captions).__name__}"
        raise ValueError(f"`captions` must be a dict of image ids to captions. Received: {received}.")
    entries = [
        {"image_id": int(image_id) if isinstance(image_id, np.integer) else image_id, "caption": caption}
        for image_id, caption in captions.items()
    ]
    for entry in entries:
        _check_entry(entry, "Each image id of `captions` must be an int or a str, and each caption a str. Received: ")
    with replacing(path) as file:
        file.write(json.dumps(entries, indent=1).encode())


def read_results(path):
    """Reads captions that `write_results` or another program wrote.

    Args:
        path: Path of the JSON file.

    Returns:
        `{image_id: str}`, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file isn't JSON or isn't a list of such entries, or an image occurs twice.
    """
    path = os.fspath(path)
    with open(path, encoding="utf-8") as file:
        try:
            entries = json.load(file)
        except ValueError as error:  # Broken JSON, or bytes that are no UTF-8.
            raise ValueError(f"`path` must be a JSON file. Received: {path!r}, which isn't: {error}") from error
    rule = f'`path` must be a JSON list of objects with "image_id" and "caption". Received: {path!r}, '
    if not isinstance(entries, list):
        raise ValueError(f"{rule}whose top level is no list (type {type(entries).__name__}).")
    captions = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "caption"} <= set(entry):
            raise ValueError(f"{rule}whose entry {number} is {entry!r:.100}.")
        _check_entry(entry, f"{rule}whose entry {number} is ")
        if entry["image_id"] in captions:
            raise ValueError(f"{rule}where image_id={entry['image_id']!r} occurs twice, the second time as {number}.")
        captions[entry["image_id"]] = entry["caption"]
    return captions


def _check_entry(entry, rule):
    # Not isinstance: JSON's true is no integer.
    if type(entry["image_id"]) not in (int, str) or not isinstance(entry["caption"], str):
        raise ValueError(f"{rule}{entry!r:.100}.")
