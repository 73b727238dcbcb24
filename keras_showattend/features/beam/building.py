"""`build_store`: what is to be computed, and what came of it."""

import contextlib
import itertools
import logging
import os
import tempfile
import uuid

import keras

from keras_showattend.atomic_writing import remove_partial
from keras_showattend.features import disk
from keras_showattend.features.beam.folders import is_url, open_folder
from keras_showattend.features.beam.pipeline import run_pipeline
from keras_showattend.features.beam.work import Work, other_sizes
from keras_showattend.features.beam.worker import load_pixels, pack_extractor, unload
from keras_showattend.features.extractor import FeatureExtractor
from keras_showattend.features.listing import Listing
from keras_showattend.features.manifest import COPY, MANIFEST, DamagedStoreError
from keras_showattend.features.selection import check_options, readable, select_new
from keras_showattend.features.shards import captions_name, numpy_dtype, read_captions
from keras_showattend.features.store import FeatureStore

_logger = logging.getLogger(__name__)


def build_store(
    path,
    examples,
    extractor,
    batch_size=64,
    shard_size=1024,
    dtype="float16",
    on_error="raise",
    pipeline_options=None,
):
    """Builds a feature store as `FeatureStore.build` does, by a pipeline of Apache Beam.

    The files are those of the local build: the same names and, from machines of the same type, the same bytes. One
    element of the pipeline is one shard. What is not finished lies in the folder `beam` inside the store's, with the
    examples and the extractor's weights, so that the pipeline itself stays small. A build that was interrupted or has
    failed goes on where it stopped when it is started again: finished shards are kept. A pipeline that still runs when
    the process that started it has ended (Dataflow's do) must end, or be cancelled, before that.

    A store that has a damaged file, by its size or, for the captions, by its bytes, is refused: `FeatureStore.build`
    repairs it.

    Args:
        path: Folder of the store: a path that means the same to every worker, or a URL of one of Beam's file systems,
            as in "gs://bucket/features". It must not be built in from elsewhere at the same time, which is only
            noticed where it is a path.
        examples: As in `FeatureStore.build`, but each `image` is a path or URL that every worker can open. Relative
            paths are made absolute.
        extractor: A `FeatureExtractor`. Classes of your own in its backbone must be registered with Keras, in a
            module that the workers can import.
        batch_size: As in `FeatureStore.build`.
        shard_size: As in `FeatureStore.build`.
        dtype: As in `FeatureStore.build`.
        on_error: As in `FeatureStore.build`.
        pipeline_options: `apache_beam.options.pipeline_options.PipelineOptions`, which name the runner. Default: this
            process alone.

    Returns:
        The store, with the images of `examples` in their order; None where `path` is a URL: a store is opened from a
        disk, so copy the folder there first.

    Raises:
        ImportError: If Apache Beam isn't installed.
        ValueError: As in `FeatureStore.build`, and if an image is no path or URL, or the store is damaged.
        FileNotFoundError: If there is no image file at a path.
        OSError: As in `FeatureStore.build`.
        RuntimeError: If the workers can't rebuild the extractor, or the pipeline ends without all shards.

    Example (not run in the tests, since it needs Beam):
    ```py
    from apache_beam.options.pipeline_options import PipelineOptions
    from keras_showattend.datasets import coco_json
    from keras_showattend.features import FeatureExtractor
    from keras_showattend.features.beam import build_store

    examples = coco_json("annotations/captions_train2014.json", "train2014")
    options = PipelineOptions(
        ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=4"]
    )
    store = build_store("features", examples, FeatureExtractor("inception_v3"), pipeline_options=options)
    ```
    """
    try:
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError("`build_store` needs Apache Beam: pip install 'keras-showattend[beam]'.") from error

    check_options(batch_size, shard_size, on_error)
    if not isinstance(extractor, FeatureExtractor):
        raise ValueError(f"`extractor` must be a FeatureExtractor. Received: {type(extractor).__name__}.")
    if pipeline_options is None:
        # Without arguments, PipelineOptions would read those of the program.
        pipeline_options = PipelineOptions(["--runner=FnApiRunner"])
    elif not isinstance(pipeline_options, PipelineOptions):
        raise ValueError(
            f"`pipeline_options` must be Beam's PipelineOptions or None. Received: {type(pipeline_options).__name__}."
        )
    FileSystems.set_options(pipeline_options)
    builder = _Builder(os.fspath(path), extractor, batch_size, shard_size, dtype, on_error, pipeline_options)
    order = builder.run(examples)
    return None if builder.folder.is_remote else FeatureStore.open(path).subset(order)


class _Builder:
    """One run of `build_store`, in the process that starts the pipeline."""

    def __init__(self, path, extractor, batch_size, shard_size, dtype, on_error, pipeline_options):
        self.path = path
        self.folder = open_folder(path)
        self.extractor = extractor
        self.fingerprint = extractor.fingerprint()
        self.batch_size = batch_size
        self.shard_size = shard_size
        self.dtype = numpy_dtype(dtype)
        self.work = Work(self.folder, self.fingerprint, self.dtype.name)
        self.on_error = on_error
        self.pipeline_options = pipeline_options

    def run(self, examples):
        """Adds the examples that the store lacks.

        Args:
            examples: Iterable of examples.

        Returns:
            The ids of the examples that the store holds now, in the order of the examples.
        """
        if self.folder.is_remote:
            with tempfile.TemporaryDirectory() as here:
                return self._run(examples, here)
        with disk.naming_a_full_disk(self.path):
            disk.prepare_folder(self.path)
            with disk.locked(self.path):
                remove_partial(self.path)
                return self._run(examples, self.path)

    def _run(self, examples, here):
        """Does it; the manifest and the captions are read and written in the folder `here`."""
        captions = self._read_store(here)
        order = []
        new = select_new(examples, self.path, captions, self.listing.skipped, self._try_again, order)
        numbers = itertools.count(len(self.listing.shards))
        shards = self.work.write_examples(self._with_paths(new), numbers, self.shard_size)
        finished = self.work.finished(shards, self.on_error)
        pending = {number: shard for number, shard in shards.items() if number not in finished}
        _logger.info("%s: %d new shards, %d of them to be computed.", self.path, len(shards), len(pending))
        failure = None
        if pending:
            try:
                self._compute(pending)
            except Exception as error:
                failure = error
            finished = self.work.finished(shards, self.on_error)
        missing = [number for number in shards if number not in finished]
        # What lies behind a shard that is missing waits in the work folder.
        whole = list(itertools.takewhile(finished.__contains__, shards))
        for number in whole:
            result = finished[number]
            skipped = {entry["image_id"]: entry["reason"] for entry in result["skipped"]}
            self.listing.put(number, result["entry"], result["image_ids"], skipped)
        if whole or not missing:
            self._write_manifest(here)
        if missing:
            raise failure or RuntimeError(
                f"The pipeline ended without {len(missing)} of {len(shards)} shards, the first one {missing[0]}. The "
                "others are kept: build again."
            )
        self.work.remove()
        return readable(order, self.listing.skipped)

    def _read_store(self, here):
        """Reads what the store holds; returns the captions by id."""
        sizes = self.folder.sizes()
        self._fetch(here, [name for name in (MANIFEST, COPY) if name in sizes])
        self.listing = Listing(here, self.extractor, self.fingerprint, self.dtype.name, self.path)
        shards = list(enumerate(self.listing.shards))
        damaged = [name for number, entry in shards for name in other_sizes(number, entry, sizes)]
        if not damaged:
            self._fetch(here, [captions_name(number) for number, _ in shards])
            damaged = [
                captions_name(number)
                for number, entry in shards
                if disk.describe(os.path.join(here, captions_name(number))) != entry["captions"]
            ]
        if damaged:
            raise DamagedStoreError(
                f"The feature store at {self.path!r} is damaged: {', '.join(damaged)}. FeatureStore.build computes "
                "what is damaged again."
            )
        captions = {}
        for number, entry in shards:
            captions.update(read_captions(here, number, entry["images"]))
        return captions

    def _fetch(self, here, names):
        if self.folder.is_remote:
            for name, content in zip(names, self.folder.read(names), strict=True):
                with open(os.path.join(here, name), "wb") as file:
                    file.write(content)

    def _try_again(self, image):
        if self.on_error == "raise":
            return True
        with contextlib.suppress(OSError, ValueError):
            load_pixels(self.extractor, image)
            return True
        return False

    def _with_paths(self, new):
        """The examples, each with a path or URL that means the same everywhere."""
        for image_id, image, captions in new:
            if not isinstance(image, (str, os.PathLike)):
                raise ValueError(
                    "Each `image` must be a path or URL that every worker can open. Received: "
                    f"image of type {type(image).__name__} of image_id={image_id!r}. FeatureStore.build takes it."
                )
            image = os.fspath(image)
            yield image_id, image if is_url(image) else os.path.abspath(image), captions

    def _compute(self, shards):
        """Runs the pipeline for some shards."""
        if not self.folder.is_remote:
            image_bytes = self.extractor.locations * self.extractor.width * self.dtype.itemsize
            disk.check_room(self.path, sum(shard.images for shard in shards.values()) * image_bytes)
        extractor, weights = pack_extractor(self.extractor)
        self.work.write_weights(weights)
        job = {
            "path": self.folder.path,
            "run": uuid.uuid4().hex,
            "backend": keras.backend.backend(),
            "extractor": extractor,
            "fingerprint": self.fingerprint,
            "batch_size": self.batch_size,
            "dtype": self.dtype.name,
            "on_error": self.on_error,
        }
        try:
            run_pipeline(list(shards), job, self.pipeline_options)
        except Exception as error:
            if failure := self.work.failure(job["run"]):
                raise failure from error
            raise
        finally:
            unload()

    def _write_manifest(self, here):
        self.listing.write()
        if self.folder.is_remote:
            for name in (MANIFEST, COPY):
                with open(os.path.join(here, name), "rb") as file:
                    self.folder.write(name, file.read())
