"""What a feature store says about itself on disk, written atomically and trusted by nobody."""

import contextlib
import hashlib
import io
import json
import math
import os

import numpy as np

FORMAT = "keras_showattend feature store 1"
MANIFEST = "manifest.json"

# bfloat16 is no dtype of the .npy format: its 16 bits are stored as integers.
DISK_DTYPES = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}

_MAX_MANIFEST_BYTES = 64 * 2**20
_NUMBERS = ("grid", "locations", "width", "shards", "skipped")


class DamagedStoreError(ValueError):
    """A file of a store is missing, or is not what the manifest says it is."""


def features_name(shard):
    """File name of a shard's features: derived from its number, never read from a manifest."""
    return f"features-{shard:05d}.npy"


def captions_name(shard):
    """File name of a shard's ids and captions, one JSON object a line."""
    return f"captions-{shard:05d}.jsonl"


@contextlib.contextmanager
def replacing(path):
    """Opens a binary file that takes the place of `path` when all of it is on the disk.

    Whoever reads `path` sees the old file or the whole new one, whatever happens in between.
    """
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise
    if os.name == "posix":  # Elsewhere a folder can't be opened, and need not be.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def describe(path):
    """Size and checksum of a file, as the manifest keeps them."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": os.path.getsize(path), "sha256": digest}


def write_manifest(folder, manifest):
    """Writes a manifest, with its own checksum, in place of the one before."""
    with replacing(os.path.join(folder, MANIFEST)) as file:
        file.write(_render(manifest))


def read_manifest(folder):
    """Reads the manifest of a store and checks every value in it.

    Args:
        folder: Path of the store.

    Returns:
        The manifest, a dict.

    Raises:
        FileNotFoundError: If there is no manifest.
        ValueError: If it is damaged, or is not one of this format.
    """
    path = os.path.join(folder, MANIFEST)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no feature store at {str(folder)!r}: no {MANIFEST}.")
    if os.path.getsize(path) > _MAX_MANIFEST_BYTES:
        raise DamagedStoreError(f"{path} is too large for a manifest.")
    with open(path, "rb") as file:
        content = file.read()
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is damaged: {error}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedStoreError(f"{path} is not the manifest of a {FORMAT!r}.")
    manifest.pop("sha256", None)
    if _render(manifest) != content:
        raise DamagedStoreError(f"{path} is damaged: its own checksum does not match.")
    _check(manifest, path)
    return manifest


def _render(manifest):
    """The one text of a manifest, so that any changed byte shows."""
    body = json.dumps(manifest, indent=1, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1, sort_keys=True).encode()


def _check(manifest, path):
    def rule(holds, text):
        if not holds:
            raise DamagedStoreError(f"{path} is not a valid manifest: {text}.")

    rule(manifest.get("dtype") in list(DISK_DTYPES), f"`dtype` must be one of {list(DISK_DTYPES)}")
    rule(isinstance(manifest.get("extractor"), dict), "`extractor` must be an object")
    rule(all(name in manifest for name in _NUMBERS), f"it must hold {', '.join(_NUMBERS)}")
    grid = manifest["grid"]
    rule(
        isinstance(grid, list) and len(grid) == 2 and all(_is_size(side, 1) for side in grid),
        "`grid` must be two positive integers",
    )
    rule(_is_size(manifest["width"], 1), "`width` must be a positive integer")
    rule(
        _is_size(manifest["locations"], 1) and manifest["locations"] == math.prod(grid),
        "`locations` must be the product of `grid`",
    )
    rule(isinstance(manifest["skipped"], list), "`skipped` must be a list")
    for entry in manifest["skipped"]:
        rule(
            isinstance(entry, dict) and is_image_id(entry.get("image_id")) and isinstance(entry.get("reason"), str),
            "each of `skipped` must hold an `image_id` and a `reason`",
        )
    rule(isinstance(manifest["shards"], list), "`shards` must be a list")
    for shard in manifest["shards"]:
        rule(
            isinstance(shard, dict)
            and _is_size(shard.get("images"), 1)
            and all(_is_description(shard.get(kind)) for kind in ("features", "captions")),
            "each of `shards` must hold `images`, and `bytes` and `sha256` of its two files",
        )


def is_image_id(value):
    """Whether a value may name an image: JSON and every platform must keep it as it is."""
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool))


def _is_size(value, least=0):
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**53


def _is_description(value):
    return (
        isinstance(value, dict)
        and _is_size(value.get("bytes"))
        and isinstance(value.get("sha256"), str)
        and len(value["sha256"]) == 64
    )


def open_shard(folder, number, manifest):
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
        except (ValueError, SyntaxError) as error:
            raise DamagedStoreError(f"{path} is damaged: {error}.") from error
        offset = file.tell()
    expected_bytes = offset + math.prod(shape) * dtype.itemsize
    if found != (shape, False, dtype) or shard["features"]["bytes"] != expected_bytes:
        raise DamagedStoreError(
            f"{path} does not hold the array that the manifest tells of: shape {shape}, "
            f"dtype {dtype}. Received: shape {found[0]}, dtype {found[2]}."
        )
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


def npy_header(shape, dtype):
    """The header of a .npy file; its length does not depend on the number of images."""
    file = io.BytesIO()
    fields = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue()


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
