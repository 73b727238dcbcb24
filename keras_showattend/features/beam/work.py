"""What of a build by Beam is not part of the store yet: files by which its processes tell each other."""

import hashlib
import itertools
import json
import re
from typing import NamedTuple

from keras_showattend.features.beam.folders import WORK
from keras_showattend.features.shards import captions_name, features_name

_WEIGHTS = "weights.npz"
# What a failure is raised as again, the most special first.
_FAILURES = {kind.__name__: kind for kind in (FileNotFoundError, OSError, ValueError)}


class PlannedShard(NamedTuple):
    """A shard that a store shall have."""

    digest: str
    """Of its examples, the extractor and the dtype."""
    images: int


class Work:
    """The folder `beam` in the folder of a store.

    It holds the weights of the extractor and, for each shard, its examples, and what came of them: when that file is
    there, both files of the shard are in their places. Only a result of the same examples, extractor and dtype counts.

    Args:
        folder: The store's folder, from `open_folder`.
        fingerprint: Of the extractor.
        dtype: Name of the dtype on disk.
    """

    def __init__(self, folder, fingerprint, dtype):
        self._store = folder
        self._folder = folder.subfolder(WORK)
        self._identity = json.dumps([fingerprint, dtype], sort_keys=True).encode()

    def scratch(self):
        """Makes a folder for files that are to be moved to the store's; a context."""
        return self._folder.scratch()

    def remove(self):
        """Removes it all."""
        self._folder.remove()

    def write_weights(self, content):
        """Writes the file of the extractor's weights."""
        self._folder.write(_WEIGHTS, content)

    def read_weights(self):
        """The content of the file of the extractor's weights."""
        (content,) = self._folder.read([_WEIGHTS])
        return content

    def write_examples(self, examples, numbers, size):
        """Cuts examples into shards, and writes a file for each.

        Args:
            examples: Iterable of `(image_id, path, captions)`.
            numbers: Iterable of the shards' numbers.
            size: Examples in each shard.

        Returns:
            `{number: PlannedShard}`.
        """
        shards = {}
        names = ("image_id", "image", "captions")
        lines = (json.dumps(dict(zip(names, example, strict=True))) + "\n" for example in examples)
        for number in numbers:
            shard = list(itertools.islice(lines, size))
            if not shard:
                break
            content = "".join(shard).encode()
            self._folder.write(_name("examples", number, "jsonl"), content)
            shards[number] = PlannedShard(self._digest(content), len(shard))
        return shards

    def read_examples(self, number):
        """A shard's `[(image_id, path, captions)]`, and their digest."""
        (content,) = self._folder.read([_name("examples", number, "jsonl")])
        return [tuple(json.loads(line).values()) for line in content.splitlines()], self._digest(content)

    def write_result(self, number, digest, written):
        """Says that a shard is finished; `written` is what `Extraction.write_shards` gave."""
        result = {
            "digest": digest,
            "entry": written.entry,
            "image_ids": written.image_ids,
            "skipped": [{"image_id": key, "reason": reason} for key, reason in written.skipped.items()],
        }
        self._folder.write(_name("shard", number), json.dumps(result).encode())

    def finished(self, shards, on_error):
        """The results of the shards that are finished.

        Args:
            shards: What `write_examples` returned.
            on_error: "raise" if a shard that lacks an image does not count.

        Returns:
            `{number: result}`, in the order of `shards`.
        """
        left, sizes = self._folder.sizes(), self._store.sizes()
        numbers = [number for number in shards if _name("shard", number) in left]
        contents = self._folder.read([_name("shard", number) for number in numbers])
        results = ((number, json.loads(content)) for number, content in zip(numbers, contents, strict=True))
        return {
            number: result
            for number, result in results
            if result["digest"] == shards[number].digest
            and not other_sizes(number, result["entry"], sizes)
            and (on_error == "skip" or not result["skipped"])
        }

    def write_failure(self, number, run, error):
        """Keeps why a shard could not be computed: runners wrap what is raised, each in errors of its own."""
        kind = next(name for name, kind in _FAILURES.items() if isinstance(error, kind))
        self._folder.write(_name(f"failure-{run}", number), json.dumps([kind, str(error)]).encode())

    def failure(self, run):
        """The error of the first shard that failed in a run, None if there is none."""
        names = sorted(name for name in self._folder.sizes() if re.match(rf"failure-{run}-", name))
        for content in self._folder.read(names[:1]):
            kind, message = json.loads(content)
            return _FAILURES[kind](message)
        return None

    def _digest(self, content):
        return hashlib.sha256(self._identity + b"\n" + content).hexdigest()


def other_sizes(number, entry, sizes):
    """Names of a shard's files that are missing, or have another size than its entry in the manifest says.

    Args:
        number: The shard's number.
        entry: Its entry.
        sizes: `{name: bytes}` of the files in the store's folder.
    """
    files = ((features_name(number), entry["features"]), (captions_name(number), entry["captions"]))
    return [name for name, expected in files if sizes.get(name) != expected["bytes"]]


def _name(kind, number, ending="json"):
    return f"{kind}-{number:05d}.{ending}"
