"""Filling a feature store: with what it lacks, and with what of it is damaged."""

import collections.abc
import contextlib
import itertools
import math
import time

import keras

from keras_showattend.atomic_writing import remove_partial
from keras_showattend.features import disk
from keras_showattend.features.extraction import Extraction
from keras_showattend.features.listing import Listing
from keras_showattend.features.selection import check_options, readable, select_new
from keras_showattend.features.shards import NewShard, damaged_files, numpy_dtype, open_features, read_captions


class StoreBuilder:
    """One run of `FeatureStore.build`, which documents the arguments.

    A shard belongs to the store when the manifest lists it, and the manifest is replaced, in one
    step, only when both files of the shard are on the disk. So a run may end at any moment, and
    the next one goes on after the last listed shard.
    """

    def __init__(self, folder, extractor, batch_size, shard_size, dtype, on_error, verbose):
        check_options(batch_size, shard_size, on_error)
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
                remove_partial(self.folder)
                return self._run(examples)

    def _run(self, examples):
        self.listing = Listing(self.folder, self.extractor, self.extractor.fingerprint(), self.dtype.name)
        self.damaged = self._damaged_shards()
        self.captions = {}
        for number, shard in enumerate(self.listing.shards):
            if number not in self.damaged:
                open_features(self.folder, number, self.listing.manifest)
                self.captions.update(read_captions(self.folder, number, shard["images"]))

        order = []
        new = select_new(examples, self.folder, self.captions, self.listing.skipped, self._try_again, order)
        total = None
        if isinstance(examples, collections.abc.Sequence):
            # A mistake in the last example shows before the first hour of work.
            new = list(new)
            total = len(new)
        elif hasattr(examples, "__len__") and not self.captions:
            total = len(examples)
        new = iter(new)
        first = next(new, None)
        if first is not None:
            self._extract(itertools.chain([first], new), total)
        for number in self.damaged.copy():
            lost = self.listing.shards[number]["images"]
            if lost and self.verbose:
                print(f"Shard {number} is empty now: its {lost} images are not among the examples.")
            self.listing.put(number, NewShard(self.folder, number, self.dtype, self.image_shape).finish())
        self.listing.write()
        return readable(order, self.listing.skipped)

    def _damaged_shards(self):
        """Numbers of the shards that have other bytes than were written, ascending."""
        damaged = set()
        for number, shard in enumerate(self.listing.shards):
            if wrong := damaged_files(self.folder, number, shard):
                damaged.add(number)
                if self.verbose:
                    named = ", ".join(f"{name} ({what})" for name, what in wrong.items())
                    print(f"Computing shard {number} of {self.folder} again: {named}.")
        return damaged

    def _try_again(self, image):
        return self.on_error == "raise" or self._can_be_read(image)

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
        extraction = Extraction(self.extractor, self.batch_size, self.dtype, self.on_error, progress.images_done)
        shards = self.listing.shards
        slots = itertools.chain(
            [(number, shards[number]["images"]) for number in sorted(self.damaged) if shards[number]["images"]],
            zip(itertools.count(len(shards)), itertools.repeat(self.shard_size)),
        )
        with contextlib.closing(extraction.write_shards(self.folder, new, slots)) as finished:
            for shard in finished:
                self.listing.put(shard.number, shard.entry, shard.image_ids, shard.skipped)
                self.damaged.discard(shard.number)
                self.listing.write()
        progress.end()


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
