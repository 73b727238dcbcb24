"""What a feature store says about itself on disk, written atomically and trusted by nobody."""

import contextlib
import hashlib
import json
import math
import os

from keras_showattend.atomic_writing import replacing
from keras_showattend.version import __version__

FORMAT = "keras_showattend feature store 1"
MANIFEST = "manifest.json"
# A build goes on from it where the manifest itself is damaged.
COPY = "manifest-copy.json"
# bfloat16 is no dtype of the .npy format: its 16 bits are stored as integers.
DISK_DTYPES = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}

_MAX_MANIFEST_BYTES = 64 * 2**20
_NUMBERS = ("grid", "locations", "width", "shards", "skipped")


class DamagedStoreError(ValueError):
    """A file of a store is missing, or is not what the manifest says it is."""


def write_manifest(folder, manifest):
    """Writes a manifest, with its own checksum, and its copy in place of those before.

    Files that have the same bytes already stay as they are.
    """
    content = _render(manifest)
    for name in (MANIFEST, COPY):
        path = os.path.join(folder, name)
        if _content(path) != content:
            with replacing(path) as file:
                file.write(content)


def read_manifest(folder, name=MANIFEST):
    """Reads the manifest of a store and checks every value in it.

    Args:
        folder: Path of the store.
        name: `MANIFEST` or `COPY`.

    Returns:
        The manifest, a dict.

    Raises:
        FileNotFoundError: If there is no manifest.
        ValueError: If it is damaged, or is not one of this format; of a newer one, both versions are named.
    """
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no feature store at {str(folder)!r}: no {name}.")
    if os.path.getsize(path) > _MAX_MANIFEST_BYTES:
        raise DamagedStoreError(f"{path} is too large for a manifest.")
    with open(path, "rb") as file:
        content = file.read()
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is damaged: {error}.") from error
    if isinstance(manifest, dict):
        _refuse_newer(manifest, path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedStoreError(f"{path} is not the manifest of a {FORMAT!r}.")
    manifest.pop("sha256", None)
    if _render(manifest) != content:
        raise DamagedStoreError(f"{path} is damaged: its own checksum does not match.")
    _check(manifest, path)
    return manifest


def _refuse_newer(manifest, path):
    """Raise a ValueError, which is no sign of damage, for a manifest that a newer version of the package wrote."""
    name, _, number = str(manifest.get("format")).rpartition(" ")
    ours, _, known = FORMAT.rpartition(" ")
    if name == ours and number.isdecimal() and int(number) > int(known):
        raise ValueError(
            f"{path} was written by keras_showattend {manifest.get('library_version')}, in the store's format "
            f"{number}. This is keras_showattend {__version__}, which reads formats up to {known}: install a newer "
            "one, or build in another folder."
        )


def recover_manifest(folder):
    """Reads the manifest, or its copy where the manifest is damaged or gone.

    Returns:
        The manifest, or None where there is neither.

    Raises:
        ValueError: If both are damaged.
    """
    try:
        return read_manifest(folder)
    except (FileNotFoundError, DamagedStoreError) as error:
        try:
            return read_manifest(folder, COPY)
        except FileNotFoundError:
            if isinstance(error, FileNotFoundError):
                return None
            raise error from None
        except DamagedStoreError as copy_error:
            raise DamagedStoreError(
                f"Neither the manifest nor its copy can be read: {error} {copy_error} Build in another folder, or "
                "delete that one."
            ) from error


def _content(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return None


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
            and _is_size(shard.get("images"))
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
