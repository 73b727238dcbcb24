"""The two files of a shard: features as a .npy array, ids and captions as JSON lines; read as from a stranger."""

import contextlib
import json
import math
import os
import tokenize

import ml_dtypes
import numpy as np

from keras_showattend.atomic_writing import replacing
from keras_showattend.features.disk import describe
from keras_showattend.features.manifest import DISK_DTYPES, DamagedStoreError, is_image_id


def numpy_dtype(name):
    """The NumPy dtype of features.

    Raises:
        ValueError: If a store can't have it.
    """
    if name not in DISK_DTYPES:
        raise ValueError(f"`dtype` must be one of {list(DISK_DTYPES)}. Received: dtype={name!r}.")
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def features_name(number):
    """File name of a shard's features: derived from its number, never read from a manifest."""
    return f"features-{number:05d}.npy"


def captions_name(number):
    """File name of a shard's ids and captions, one JSON object a line."""
    return f"captions-{number:05d}.jsonl"


class NewShard:
    """A shard that is being written; nothing of it is seen before `finish`.

    Args:
        folder: Path of the store.
        number: The shard's number.
        dtype: NumPy dtype of the features, one of `DISK_DTYPES`.
        image_shape: `(L, D)`.
    """

    def __init__(self, folder, number, dtype, image_shape):
        self._paths = [os.path.join(folder, name) for name in (features_name(number), captions_name(number))]
        self._dtype = DISK_DTYPES[dtype.name]
        self._image_shape = tuple(image_shape)
        self._lines = []
        self._opened = contextlib.ExitStack()
        self._file = self._opened.enter_context(replacing(self._paths[0]))
        self._write_header()

    def append(self, image_ids, captions, features):
        """Adds n images: their ids, their captions, and their features, a contiguous `(n, L, D)`."""
        self._file.write(features.view(self._dtype).data)
        for image_id, texts in zip(image_ids, captions, strict=True):
            self._lines.append(json.dumps({"image_id": image_id, "captions": texts}, ensure_ascii=False))

    def finish(self):
        """Puts both files in their places; returns the shard's entry in the manifest."""
        with self._opened:
            # Only now is the number of images known.
            self._file.seek(0)
            self._write_header()
        with replacing(self._paths[1]) as file:
            # Half of a surrogate pair has no UTF-8 form, but one in JSON: the very escape that it is replaced by here.
            file.write("".join(f"{line}\n" for line in self._lines).encode(errors="backslashreplace"))
        features, captions = map(describe, self._paths)
        return {"images": len(self._lines), "features": features, "captions": captions}

    def abandon(self):
        """Removes what was written."""
        with contextlib.suppress(_AbandonedError), self._opened:
            raise _AbandonedError

    def _write_header(self):
        """The header of a .npy file, whose length does not depend on the number of images."""
        fields = {"descr": self._dtype, "fortran_order": False, "shape": (len(self._lines), *self._image_shape)}
        np.lib.format.write_array_header_1_0(self._file, fields)


class _AbandonedError(Exception):
    """Tells `replacing` that the file shall not take its place."""


def damaged_files(folder, number, shard):
    """What is wrong with the files of a shard.

    Args:
        folder: Path of the store.
        number: The shard's number.
        shard: Its entry in the manifest.

    Returns:
        `{file name: what is wrong}`, empty for a whole shard.
    """
    damaged = {}
    for name, expected in ((features_name(number), shard["features"]), (captions_name(number), shard["captions"])):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            damaged[name] = "missing"
        elif describe(path) != expected:
            damaged[name] = "other bytes than were written"
    return damaged


def open_features(folder, number, manifest):
    """Checks a shard's files against the manifest and maps its features into memory.

    Sizes, shape and dtype are compared before anything is mapped or allocated; nothing is ever
    unpickled.

    Args:
        folder: Path of the store.
        number: The shard's number.
        manifest: What `read_manifest` returned.

    Returns:
        Read-only array `(images, L, D)` in the disk's dtype.

    Raises:
        ValueError: If a file is missing, or its size, shape or dtype is another.
    """
    shard = manifest["shards"][number]
    for kind, name in (("features", features_name(number)), ("captions", captions_name(number))):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            raise DamagedStoreError(f"{path} is missing.")
        size, expected = os.path.getsize(path), shard[kind]["bytes"]
        if size != expected:
            raise DamagedStoreError(f"{path} has {size} bytes; the manifest says {expected}.")
    path = os.path.join(folder, features_name(number))
    shape = (shard["images"], manifest["locations"], manifest["width"])
    dtype = np.dtype(DISK_DTYPES[manifest["dtype"]])
    with open(path, "rb") as file:
        try:
            np.lib.format.read_magic(file)
            found = np.lib.format.read_array_header_1_0(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise DamagedStoreError(f"{path} is damaged: {error}.") from error
        offset = file.tell()
    expected_bytes = offset + math.prod(shape) * dtype.itemsize
    if found != (shape, False, dtype) or shard["features"]["bytes"] != expected_bytes:
        raise DamagedStoreError(
            f"{path} does not hold the array that the manifest tells of: shape {shape}, "
            f"dtype {dtype}. Received: shape {found[0]}, dtype {found[2]}."
        )
    if shard["images"] == 0:  # Nothing can't be mapped.
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


def read_captions(folder, number, images):
    """Reads a shard's ids and captions.

    Args:
        folder: Path of the store.
        number: The shard's number.
        images: How many images the manifest says it has.

    Returns:
        List of pairs of an image id and its captions.

    Raises:
        ValueError: If the file is damaged.
    """
    path = os.path.join(folder, captions_name(number))
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            records = [json.loads(line) for line in file]
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is damaged: {error}.") from error
    for record in records:
        if not (
            isinstance(record, dict)
            and is_image_id(record.get("image_id"))
            and isinstance(record.get("captions"), list)
            and all(isinstance(text, str) for text in record["captions"])
        ):
            raise DamagedStoreError(f"{path} is damaged: each line must be an image's captions.")
    if len(records) != images:
        raise DamagedStoreError(f"{path} has {len(records)} lines for {images} images.")
    return [(record["image_id"], record["captions"]) for record in records]
