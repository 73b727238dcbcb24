"""Filling a feature store: with what it lacks, and with what of it is damaged."""

import collections
import contextlib
import itertools
import math
import time

import keras
import numpy as np

from keras_showattend.features import disk
from keras_showattend.features.extraction import Extraction
from keras_showattend.features.manifest import FORMAT, is_image_id, recover_manifest, write_manifest
from keras_showattend.features.shards import NewShard, damaged_files, numpy_dtype, open_features, read_captions
from keras_showattend.version import __version__


class StoreBuilder:
    """One run of `FeatureStore.build`, which documents the arguments.

    A shard belongs to the store when the manifest lists it, and the manifest is replaced, in one
    step, only when both files of the shard are on the disk. So a run may end at any moment, and
    the next one goes on after the last listed shard.
    """

    def __init__(self, folder, extractor, batch_size, shard_size, dtype, on_error, verbose):
        for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {name}={value!r} (type {type(value).__name__})."
                )
        if on_error not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip'. Received: on_error={on_error!r}.")
        self.folder = folder
        self.extractor = extractor
        self.batch_size = batch_size
        self.shard_size = shard_size
        self.dtype = numpy_dtype(dtype)
        self.on_error = on_error
        self.verbose = verbose
        self.image_shape = (extractor.locations, extractor.width)

    def run(self, examples):
        """Adds the examples that the store lacks, those of its damaged shards among them.

        Args:
            examples: Sequence or iterable of examples.

        Returns:
            The ids of the examples that the store holds now, in the order of the examples.
        """
        with disk.naming_a_full_disk(self.folder):
            disk.prepare_folder(self.folder)
            with disk.locked(self.folder):
                disk.remove_partial(self.folder)
                return self._run(examples)

    def _run(self, examples):
        self.manifest = recover_manifest(self.folder) or new_manifest(self.extractor, self.dtype.name)
        check_same(self.folder, self.manifest, self.extractor.fingerprint(), self.dtype.name)
        self.skipped = {entry["image_id"]: entry["reason"] for entry in self.manifest["skipped"]}
        self.damaged = self._damaged_shards()
        self.captions = {}
        for number, shard in enumerate(self.manifest["shards"]):
            if number not in self.damaged:
                open_features(self.folder, number, self.manifest)
                self.captions.update(read_captions(self.folder, number, shard["images"]))

        order = []
        new, total = self._new_examples(examples, order), None
        if isinstance(examples, (list, tuple)):
            # A mistake in the last example shows before the first hour of work.
            new = list(new)
            total = len(new)
        elif hasattr(examples, "__len__"):
            total = max(0, len(examples) - len(self.captions))
        if total != 0:
            self._extract(new, total)
        else:
            collections.deque(new, maxlen=0)
        if not order:
            raise ValueError("`examples` must hold at least one image. Received: none.")
        for number in self.damaged.copy():
            # Its images were empty, or are not among the examples any more.
            self._list(number, NewShard(self.folder, number, self.dtype, self.image_shape).finish())
        self._write_manifest()
        present = [image_id for image_id in order if image_id not in self.skipped]
        if not present:
            raise ValueError(
                f"None of the {len(order)} images could be read. The first reason: {self.skipped[order[0]]}"
            )
        return present

    def _damaged_shards(self):
        """Numbers of the shards that have other bytes than were written, ascending."""
        damaged = set()
        for number, shard in enumerate(self.manifest["shards"]):
            if wrong := damaged_files(self.folder, number, shard):
                damaged.add(number)
                if self.verbose:
                    named = ", ".join(f"{name} ({what})" for name, what in wrong.items())
                    print(f"Computing shard {number} of {self.folder} again: {named}.")
        return damaged

    def _new_examples(self, examples, order):
        """Checks the examples, notes their ids in `order`, and yields those to be computed."""
        seen, again = set(), []
        for position, example in enumerate(examples):
            image_id, captions = _check_example(example, position)
            if image_id in seen:
                raise ValueError(f"Each `image_id` may occur once in `examples`. Received: {image_id!r} twice.")
            stored = self.captions.get(image_id, captions)
            if stored != captions:
                raise ValueError(
                    f"The captions of image_id={image_id!r} differ from those in the store at "
                    f"{self.folder!r}: build the store in another folder. "
                    f"Received: {captions}, stored: {stored}."
                )
            seen.add(image_id)
            order.append(image_id)
            if image_id in self.skipped:
                again.append((image_id, example["image"], captions))
            elif image_id not in self.captions:
                yield image_id, example["image"], captions
        # Images that were skipped before come last, so that the shards are those of a build without interruption.
        yield from (example for example in again if self.on_error == "raise" or self._can_be_read(example[1]))

    def _can_be_read(self, image):
        with contextlib.suppress(OSError, ValueError):
            self.extractor.load_image(image)
            return True
        return False

    def _extract(self, new, total):
        image_bytes = math.prod(self.image_shape) * self.dtype.itemsize
        disk.check_room(self.folder, (total or 1) * image_bytes)
        if self.verbose:
            size = f"{image_bytes / 1e3:,.1f} kB each" if total is None else f"{total * image_bytes / 1e6:,.1f} MB"
            print(f"Storing the features of {total or 'the'} images in {self.folder}: {size}")
        progress = _Progress(total, self.verbose)
        extraction = Extraction(
            self.folder, self.extractor, self.batch_size, self.dtype, self.on_error, progress.images_done
        )
        shards = self.manifest["shards"]
        slots = itertools.chain(
            [(number, shards[number]["images"]) for number in sorted(self.damaged) if shards[number]["images"]],
            zip(itertools.count(len(shards)), itertools.repeat(self.shard_size)),
        )
        with contextlib.closing(extraction.write_shards(new, slots)) as finished:
            for shard in finished:
                for image_id in shard.image_ids:
                    self.skipped.pop(image_id, None)
                self.skipped.update(shard.skipped)
                self._list(shard.number, shard.entry)
        progress.end()

    def _list(self, number, entry):
        """Makes a shard part of the store."""
        self.manifest["shards"][number : number + 1] = [entry]
        self.damaged.discard(number)
        self._write_manifest()

    def _write_manifest(self):
        self.manifest["skipped"] = [{"image_id": key, "reason": reason} for key, reason in self.skipped.items()]
        write_manifest(self.folder, self.manifest)


class _Progress:
    """One bar, with the images of a second and the time that is left."""

    def __init__(self, total, verbose):
        self._bar = keras.utils.Progbar(total, unit_name="image", verbose=verbose, stateful_metrics=["images/s"])
        self._start = time.perf_counter()
        self._done = 0

    def images_done(self, count):
        self._done += count
        rate = self._done / (time.perf_counter() - self._start)
        self._bar.update(self._done, [("images/s", rate)], finalize=False)

    def end(self):
        if self._done:
            self._bar.update(self._done, finalize=True)


def new_manifest(extractor, dtype):
    """The manifest of a store without images."""
    return {
        "format": FORMAT,
        "library_version": __version__,
        "extractor": extractor.fingerprint(),
        "dtype": dtype,
        "grid": list(extractor.grid),
        "locations": extractor.locations,
        "width": extractor.width,
        "shards": [],
        "skipped": [],
    }


def check_same(folder, manifest, fingerprint, dtype):
    """Checks that a store holds features of an extractor, in a dtype.

    Raises:
        ValueError: If they are of another.
    """
    if manifest["extractor"] != fingerprint:
        raise ValueError(
            f"The store at {folder!r} holds features of another extractor: build in another folder, "
            f"or delete that one.\nReceived: {fingerprint}\nStored:   {manifest['extractor']}"
        )
    if manifest["dtype"] != dtype:
        raise ValueError(
            f"The store at {folder!r} has another dtype: build in another folder, or delete that "
            f"one. Received: dtype={dtype!r}, stored: {manifest['dtype']!r}."
        )


def _check_example(example, position):
    """Id and captions of an example, as JSON will give them back."""
    if not isinstance(example, dict) or not {"image_id", "image", "captions"} <= set(example):
        raise ValueError(
            "Each of `examples` must be a dict with `image_id`, `image` and `captions`. "
            f"Received at position {position}: "
            f"{sorted(example) if isinstance(example, dict) else type(example).__name__}."
        )
    image_id, captions = example["image_id"], example["captions"]
    if isinstance(image_id, np.integer):
        image_id = int(image_id)
    if not is_image_id(image_id):
        raise ValueError(
            "`image_id` must be an integer or a string. Received at position "
            f"{position}: image_id={image_id!r} (type {type(image_id).__name__})."
        )
    is_list = isinstance(captions, (list, tuple, np.ndarray))
    if not is_list or not all(isinstance(text, str) for text in captions):
        raise ValueError(
            f"`captions` must be a list of strings. Received: captions={captions!r} of image_id={image_id!r}."
        )
    captions = [str(text) for text in captions]
    if not captions or not all(text.strip() for text in captions):
        raise ValueError(
            "Each image must have at least one caption, and none of them blank. "
            f"Received: captions={captions} of image_id={image_id!r}."
        )
    return image_id, captions
