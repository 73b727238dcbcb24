"""Filling a feature store: decode, run the backbone, write shard after shard."""

import collections
import itertools
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_showattend.features import manifest as files
from keras_showattend.version import __version__


class StoreBuilder:
    """One run of `FeatureStore.build`, which documents the arguments.

    A shard belongs to the store when the manifest lists it, and the manifest is replaced, in one
    step, only when both files of the shard are on the disk. So a run may end at any moment, and
    the next one goes on after the last listed shard.
    """

    def __init__(self, folder, extractor, batch_size, shard_size, dtype, on_error, verbose, captions):
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
        self.on_error = on_error
        self.verbose = verbose
        self.dtype = np.dtype(dtype)
        self.image_shape = (extractor.locations, extractor.width)
        self.image_bytes = math.prod(self.image_shape) * self.dtype.itemsize
        self.captions = captions

    def run(self, examples, manifest):
        """Adds the examples that the store lacks.

        Args:
            examples: Sequence or iterable of examples.
            manifest: Manifest of the store as it is now; extended in place.

        Returns:
            The ids of the examples that the store holds now, in the order of the examples.
        """
        self.manifest = manifest
        self.skipped = {entry["image_id"]: entry["reason"] for entry in manifest["skipped"]}
        order = []
        new, total = self._new_examples(examples, order), None
        if isinstance(examples, (list, tuple)):
            # A mistake in the last example shows before the first hour of work.
            new = list(new)
            total = len(new)
        elif hasattr(examples, "__len__") and not self.captions:
            total = len(examples)
        if total != 0:
            self._extract(new, total)
        if not order:
            raise ValueError("`examples` must hold at least one image. Received: none.")
        present = [image_id for image_id in order if image_id not in self.skipped]
        if not present:
            raise ValueError(
                f"None of the {len(order)} images could be read. The first reason: {self.skipped[order[0]]}"
            )
        return present

    def _new_examples(self, examples, order):
        """Checks the examples, notes their ids in `order`, and yields those to be computed."""
        seen = set()
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
            if image_id not in self.captions:
                yield image_id, example["image"], captions

    def _extract(self, new, total):
        check_disk(self.folder, (total or 1) * self.image_bytes)
        if self.verbose and total:
            size = total * self.image_bytes / 1e6
            print(f"Storing the features of {total} images in {self.folder}: {size:,.1f} MB")
        self.progress = keras.utils.Progbar(total, unit_name="image", verbose=self.verbose)
        self.done = 0
        self.model = _Inference(self.extractor)
        loaded = self._load(new)
        try:
            while True:
                shard = itertools.islice(loaded, self.shard_size)
                first = next(shard, None)
                if first is None:
                    break
                self._write_shard(itertools.chain([first], shard))
                self._write_manifest()
        finally:
            loaded.close()
        if self._skipped_list() != self.manifest["skipped"]:
            self._write_manifest()
        if self.done:
            self.progress.update(self.done, finalize=True)

    def _load(self, new):
        """Decodes in a few threads, two batches ahead, so that the backbone need not wait."""
        pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        waiting = collections.deque()
        new = iter(new)
        try:
            while True:
                missing = 2 * self.batch_size - len(waiting)
                for image_id, image, captions in itertools.islice(new, missing):
                    future = pool.submit(self.extractor.load_image, image)
                    waiting.append((image_id, captions, future))
                if not waiting:
                    return
                image_id, captions, future = waiting.popleft()
                # An image that was skipped before is tried again.
                self.skipped.pop(image_id, None)
                try:
                    pixels = future.result()
                except (OSError, ValueError) as error:
                    reason = f"The image of image_id={image_id!r} can't be read: {error}"
                    if self.on_error == "raise":
                        # FileNotFoundError and ValueError stay what they are.
                        raise type(error)(f"{reason} Leave it out with on_error='skip'.") from error
                    self.skipped[image_id] = reason
                    continue
                yield image_id, captions, pixels
        finally:
            pool.shutdown(cancel_futures=True)

    def _write_shard(self, loaded):
        number = len(self.manifest["shards"])
        features_path = os.path.join(self.folder, files.features_name(number))
        captions_path = os.path.join(self.folder, files.captions_name(number))
        disk_dtype = files.DISK_DTYPES[self.dtype.name]
        lines = []
        with files.replacing(features_path) as file:
            # The number of images is known at the end: the header is written twice.
            file.write(files.npy_header((self.shard_size, *self.image_shape), disk_dtype))
            while batch := list(itertools.islice(loaded, self.batch_size)):
                ids, captions, pixels = zip(*batch, strict=True)
                features = self._features(ids, pixels)
                file.write(features.view(disk_dtype).data)
                for image_id, texts in zip(ids, captions, strict=True):
                    line = {"image_id": image_id, "captions": texts}
                    lines.append(json.dumps(line, ensure_ascii=False))
                self.done += len(batch)
                self.progress.update(self.done, finalize=False)
            file.seek(0)
            file.write(files.npy_header((len(lines), *self.image_shape), disk_dtype))
        with files.replacing(captions_path) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        self.manifest["shards"].append(
            {
                "images": len(lines),
                "features": files.describe(features_path),
                "captions": files.describe(captions_path),
            }
        )

    def _features(self, ids, pixels):
        """Features `(n, L, D)` of a batch, in the store's dtype."""
        # The last batch of a shard is filled up: one shape, compiled once.
        images = np.zeros((self.batch_size, *pixels[0].shape), "float32")
        images[: len(pixels)] = pixels
        features = np.asarray(self.model.predict_on_batch(images))[: len(pixels)]
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(features.astype(self.dtype))
        finite = np.isfinite(features).all(axis=(1, 2))
        if not finite.all():
            raise ValueError(
                f"The features of image_id={ids[int(np.argmin(finite))]!r} are not finite in "
                f"{self.dtype.name}. If they are finite in float32, pass dtype='bfloat16' or "
                "dtype='float32'."
            )
        return features

    def _skipped_list(self):
        return [{"image_id": key, "reason": reason} for key, reason in self.skipped.items()]

    def _write_manifest(self):
        self.manifest["skipped"] = self._skipped_list()
        files.write_manifest(self.folder, self.manifest)


class _Inference(keras.Model):
    """The extractor as a model: `predict_on_batch` compiles it on every backend."""

    def __init__(self, extractor):
        super().__init__(name="inference", autocast=False)
        self.extractor = extractor
        self.built = True

    def call(self, images):
        return self.extractor(images)


def new_manifest(extractor, dtype):
    """The manifest of a store without images."""
    return {
        "format": files.FORMAT,
        "library_version": __version__,
        "extractor": extractor.fingerprint(),
        "dtype": dtype,
        "grid": list(extractor.grid),
        "locations": extractor.locations,
        "width": extractor.width,
        "shards": [],
        "skipped": [],
    }


def prepare_folder(folder):
    """Makes the folder, and proves that files can be written there.

    Raises:
        OSError: If they can't.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"The feature store can't be written at {folder!r}: {error}") from error


def check_disk(folder, needed):
    """Checks that a number of bytes fits on the disk of a folder.

    Raises:
        OSError: If it does not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"The features need {needed / 1e9:,.2f} GB at {folder!r}, where {free / 1e9:,.2f} GB are free.")


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
    if not files.is_image_id(image_id):
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
