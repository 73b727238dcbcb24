"""What the features take on disk, and how fast an epoch of them is read."""

import collections
import os

import keras
from comparators import notebook_features
from contenders import GROUPED, SINGLE
from harness.sweeps import batch_shape
from harness.timing import Contender

from pipeline.measuring import measure_those_that_run, part_result, require_tensorflow, timing_row

STORE, NOTEBOOK_FILES = "the store", "the notebook's .npy files"
NOTEBOOK, TFRECORD, LIMIT = "the notebook's pipeline", "TFRecord", "the files alone, one after another"
_BUFFER_BYTES = 2**20


def measure_size(synthetic):
    """Bytes on disk for each image: of the whole store, and of the notebook's files.

    Args:
        synthetic: `SyntheticFeatures`.

    Returns:
        `(result, failures)`: a dict of `part_result`, and an empty dict.
    """
    found = {STORE: files_of(synthetic.store), NOTEBOOK_FILES: synthetic.notebook_files}
    rows = [
        {
            "name": name,
            "figure": sum(map(os.path.getsize, files)) / synthetic.images,
            "lowest": None,
            "highest": None,
        }
        for name, files in found.items()
    ]
    return part_result("bytes/image", NOTEBOOK_FILES, rows, images=synthetic.images, dtype=synthetic.dtype), {}


def measure_reading(synthetic, images, scratch, repetitions):
    """Captions a second of an epoch, features and tokens.

    Args:
        synthetic: `SyntheticFeatures`.
        images: Int, how many of its images are read.
        scratch: Folder that may be written in.
        repetitions: Int.

    Returns:
        `(result, failures)`: a dict of `part_result`, and a dict of messages by name.
    """
    timings, failures = measure_those_that_run(reading_contenders(synthetic, images, scratch), repetitions)
    rows = [timing_row(timing) for timing in timings.values()]
    sizes = synthetic.sizes
    result = part_result(
        "captions/s",
        NOTEBOOK,
        rows,
        images=images,
        captions=images * sizes.captions_per_image,
        dtype=synthetic.dtype,
        captions_in_batch={GROUPED: _images_in_batch(sizes) * sizes.captions_per_image, NOTEBOOK: sizes.batch_size},
    )
    limit = timings[LIMIT].captions_per_second if LIMIT in timings else None
    for row in result["contenders"]:
        row["share_of_limit"] = row["figure"] / limit if limit else None
    return result, failures


def reading_contenders(synthetic, images, scratch):
    """A dict from each name to a function that makes its `Contender`; arguments as in `measure_reading`."""
    store = synthetic.store.subset(synthetic.store.image_ids[:images])
    makers = {
        GROUPED: lambda: our_batches(synthetic, store, together=True),
        SINGLE: lambda: our_batches(synthetic, store, together=False),
        NOTEBOOK: lambda: notebook_batches(synthetic, store),
        TFRECORD: lambda: tfrecord_batches(synthetic, store, os.path.join(scratch, "tfrecord")),
    }
    captions = images * synthetic.sizes.captions_per_image

    def reader(name, make):
        def contender():
            dataset = make()
            # A queue without room: every batch is delivered, none is kept.
            return Contender(name, [lambda: collections.deque(one_epoch(dataset), maxlen=0)], [1 / captions])

        return contender

    makers = {name: reader(name, make) for name, make in makers.items()}
    return {**makers, LIMIT: lambda: _limit(synthetic)}


def our_batches(synthetic, store, together):
    """Ours: the captions of an image together, or one caption at a time."""
    if together:
        return store.batches(synthetic.tokenizer, _images_in_batch(synthetic.sizes))
    return store.batches(synthetic.tokenizer, synthetic.sizes.batch_size, captions_per_image=1)


def notebook_batches(synthetic, store):
    """The notebook's: a file is loaded for each caption."""
    require_tensorflow()
    count = synthetic.sizes.captions_per_image
    file_of = dict(zip(synthetic.store.image_ids, synthetic.notebook_files, strict=True))
    files = [file_of[image_id] for image_id in store.image_ids for _ in range(count)]
    tokens = synthetic.tokens(store.image_ids)
    tokens = tokens.reshape(-1, tokens.shape[-1])
    return notebook_features.batches(files, tokens, synthetic.sizes.batch_size)


def tfrecord_batches(synthetic, store, folder):
    """TFRecord: the captions of an image together."""
    require_tensorflow()
    from comparators import tfrecord

    tokens = synthetic.tokens(store.image_ids)
    features = (array for chunk in synthetic.feature_chunks(store.image_ids) for array in chunk)
    os.makedirs(folder)
    files = tfrecord.write(folder, zip(features, tokens, strict=True))
    return tfrecord.batches(files, (store.locations, store.width), tokens.shape[1:], _images_in_batch(synthetic.sizes))


def one_epoch(dataset):
    """The batches of the next epoch of what `FeatureStore.batches` gives on any backend, or of a `tf.data.Dataset`."""
    if not isinstance(dataset, keras.utils.PyDataset):
        yield from dataset
        return
    for index in range(len(dataset)):
        yield dataset[index]
    dataset.on_epoch_end()


def files_of(store):
    """The paths of all files of a `FeatureStore`."""
    return [os.path.join(folder, name) for folder, _, names in os.walk(store.path) for name in sorted(names)]


def _limit(synthetic):
    """What reading can't be faster than: the bytes of the store's files, from the page cache into a buffer."""
    files = files_of(synthetic.store)
    buffer = bytearray(_BUFFER_BYTES)

    def read():
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    return Contender(LIMIT, [read], [1 / (synthetic.images * synthetic.sizes.captions_per_image)])


def _images_in_batch(sizes):
    return batch_shape(sizes, sizes.captions_per_image)[0]
