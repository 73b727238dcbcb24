"""From examples to shards: images are decoded, and files written, while the backbone runs."""

import collections
import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import keras
import numpy as np

from keras_showattend.features.shards import NewShard

# Batches that wait to be written: a few, lest they fill the memory where the disk is slow.
_UNWRITTEN = 2


class Written(NamedTuple):
    """What came of one shard's examples."""

    number: int
    entry: dict
    """For the manifest; the files are on the disk."""
    image_ids: list
    skipped: dict
    """`{image_id: reason}` of the examples whose images could not be read."""


class _Example(NamedTuple):
    image_id: int | str
    image: object
    captions: list


class _Batch(NamedTuple):
    number: int
    examples: list
    pixels: object
    """float32 `(batch_size, height, width, 3)`, zeros behind the examples; None at the end of a shard."""
    skipped: dict
    """At the end of a shard, as in `Written`."""


class Extraction:
    """Computes features and writes them.

    Args:
        extractor: A `FeatureExtractor`.
        batch_size: Int, images in each run of the backbone.
        dtype: NumPy dtype of the features on disk.
        on_error: What an image that can't be read does, "raise" or "skip".
        on_images: Function that is told the number of images of each batch when they are computed.
        load_image: Function from the image of an example to its pixels. Default: `extractor.load_image`.
    """

    def __init__(self, extractor, batch_size, dtype, on_error, on_images=lambda count: None, load_image=None):
        self.batch_size = batch_size
        self.dtype = np.dtype(dtype)
        self.on_error = on_error
        self.on_images = on_images
        self.load_image = load_image or extractor.load_image
        self.image_shape = (extractor.locations, extractor.width)
        self.model = _compiled(extractor)

    def write_shards(self, folder, examples, slots):
        """Fills one shard after another until the examples end.

        Args:
            folder: Path of the folder for the shards' files.
            examples: Iterable of `(image_id, image, captions)`.
            slots: Iterable of `(number, size)`: the shard `number` gets the next `size` examples.

        Yields:
            A `Written` for each slot that got examples, in order. A shard is yielded some time after the next one
            is begun.

        Raises:
            ValueError: If features are not finite in the dtype, or an image can't be read and must be.
            FileNotFoundError: If there is no image file at a path, and it must be read.
            OSError: If a file can't be written.
        """
        failure, shard = None, None
        image_ids, unwritten, unfinished = [], collections.deque(), collections.deque()
        batches = _one_ahead(self._batches(self._load(examples), slots))
        with ThreadPoolExecutor(1) as writer:
            try:
                for batch in batches:
                    shard = shard or NewShard(folder, batch.number, self.dtype, self.image_shape)
                    if batch.pixels is not None:
                        features = self._features(batch)
                        ids, captions = zip(*((e.image_id, e.captions) for e in batch.examples), strict=True)
                        unwritten.append(writer.submit(shard.append, ids, captions, features))
                        image_ids += ids
                        self.on_images(len(ids))
                    else:
                        unfinished.append((batch.number, writer.submit(shard.finish), image_ids, batch.skipped))
                        shard, image_ids = None, []
                    while len(unwritten) > _UNWRITTEN:
                        unwritten.popleft().result()
                    while unfinished and unfinished[0][1].done():
                        yield _written(*unfinished.popleft())
            except (Exception, KeyboardInterrupt) as error:
                # The shards before are whole, and work that must not be lost.
                failure = error
            finally:
                batches.close()
                if shard:
                    writer.submit(shard.abandon)
            while unfinished:
                yield _written(*unfinished.popleft())
        if failure:
            raise failure

    def _batches(self, loaded, slots):
        try:
            for number, size in slots:
                skipped = {}
                readable = self._readable(itertools.islice(loaded, size), skipped)
                read = False
                while items := list(itertools.islice(readable, self.batch_size)):
                    examples, pixels = zip(*items, strict=True)
                    # Filled up, so that every batch has one shape, compiled once.
                    stacked = np.zeros((self.batch_size, *pixels[0].shape), "float32")
                    stacked[: len(pixels)] = pixels
                    yield _Batch(number, list(examples), stacked, {})
                    read = True
                if not read and not skipped:
                    return
                yield _Batch(number, [], None, skipped)
        finally:
            loaded.close()

    def _readable(self, loaded, skipped):
        """Pairs of an example and its pixels; the others are noted in `skipped`, or end it all."""
        for example, future in loaded:
            try:
                yield example, future.result()
            except (OSError, ValueError) as error:
                reason = f"The image of image_id={example.image_id!r} can't be read: {error}"
                if self.on_error == "raise":
                    # FileNotFoundError and ValueError stay what they are.
                    raise type(error)(f"{reason} Leave it out with on_error='skip'.") from error
                skipped[example.image_id] = reason

    def _load(self, examples):
        """Pairs of an example and the future of its pixels, decoded in a few threads two batches ahead."""
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        waiting = collections.deque()
        examples = map(_Example._make, examples)
        try:
            while True:
                for example in itertools.islice(examples, 2 * self.batch_size - len(waiting)):
                    waiting.append((example, pool.submit(self.load_image, example.image)))
                if not waiting:
                    return
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)

    def _features(self, batch):
        """Features `(n, L, D)` of a batch, in the dtype on disk."""
        features = np.asarray(self.model.predict_on_batch(batch.pixels))[: len(batch.examples)]
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(features.astype(self.dtype))
        finite = np.isfinite(features).all(axis=(1, 2))
        if not finite.all():
            raise ValueError(
                f"The features of image_id={batch.examples[int(np.argmin(finite))].image_id!r} are not finite in "
                f"{self.dtype.name}. If they are finite in float32, pass dtype='bfloat16' or dtype='float32'."
            )
        return features


@functools.lru_cache(maxsize=1)
def _compiled(extractor):
    """The extractor as a model; the last one is kept, as compiling a large backbone takes seconds."""
    return _Inference(extractor)


class _Inference(keras.Model):
    """The extractor as a model: `predict_on_batch` compiles it on every backend."""

    def __init__(self, extractor):
        super().__init__(name="inference", autocast=False)
        self.extractor = extractor
        self.built = True

    def call(self, images):
        return self.extractor(images)


def _written(number, finishing, image_ids, skipped):
    return Written(number, finishing.result(), image_ids, skipped)


def _one_ahead(generator):
    """The items of a generator, each computed in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, generator, None)
        try:
            while (item := following.result()) is not None:
                following = thread.submit(next, generator, None)
                yield item
        finally:
            thread.submit(generator.close)
