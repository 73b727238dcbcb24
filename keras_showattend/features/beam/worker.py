"""What a worker of a Beam pipeline does: one shard of a feature store at a time, with a backbone loaded once."""

import importlib
import io
import json
import os
import threading

import keras
import numpy as np

from keras_showattend.features.beam.folders import is_url, open_folder, read_url
from keras_showattend.features.beam.work import Work
from keras_showattend.features.extraction import Extraction
from keras_showattend.features.shards import captions_name, features_name, numpy_dtype

# A process computes one shard at a time: for that one the backbone takes all of its processors and memory.
_lock = threading.Lock()
_loaded = {}


def compute_shard(number, job):
    """Computes a shard and puts its files in their places.

    Args:
        number: The shard's number.
        job: JSON of a dict of `path`, the store's folder; `run`, a name of this run of the pipeline; `backend`,
            Keras's; `extractor`, from `pack_extractor`; `fingerprint`, of the extractor; `batch_size`, `dtype` and
            `on_error`, as in `Extraction`.

    Raises:
        RuntimeError: If this process can't give the features of that extractor.
        ValueError: If an image can't be read, or features are not finite in the dtype.
        OSError: If a file can't be read or written.
    """
    job = json.loads(job)
    folder = open_folder(job["path"])
    work = Work(folder, job["fingerprint"], job["dtype"])
    try:
        examples, digest = work.read_examples(number)
        with _lock, work.scratch() as scratch:
            (written,) = _load(job, work).write_shards(scratch, examples, [(number, len(examples))])
            for name in (features_name(number), captions_name(number)):
                folder.move(os.path.join(scratch, name), name)
    except (OSError, ValueError) as error:
        work.write_failure(number, job["run"], error)
        raise
    work.write_result(number, digest, written)


def unload():
    """Frees the memory of the backbone that this process has loaded."""
    with _lock:
        _loaded.clear()


def pack_extractor(extractor):
    """An extractor as a description that JSON can hold, and the content of a file of its weights."""
    config = keras.saving.serialize_keras_object(extractor)
    file = io.BytesIO()
    np.savez(file, *(keras.ops.convert_to_numpy(weight) for weight in extractor.weights))
    return {"config": config, "modules": sorted(set(_modules(config)))}, file.getvalue()


def unpack_extractor(description, weights):
    """The inverse of `pack_extractor`."""
    for name in description["modules"]:
        # Keras finds a class of the user's own only where its module has been imported.
        importlib.import_module(name)
    extractor = keras.saving.deserialize_keras_object(description["config"])
    with np.load(io.BytesIO(weights)) as arrays:
        for index, weight in enumerate(extractor.weights):
            dtype = numpy_dtype("bfloat16") if weight.dtype == "bfloat16" else np.dtype(weight.dtype)
            # NumPy's files keep the bytes of a bfloat16, not its name.
            weight.assign(arrays[f"arr_{index}"].view(dtype))
    return extractor


def load_pixels(extractor, image):
    """`extractor.load_image`, of a URL too."""
    if not (isinstance(image, str) and is_url(image)):
        return extractor.load_image(image)
    content = read_url(image)
    try:
        return extractor.load_image(content)
    except ValueError as error:
        raise ValueError(f"{image!r}: {error}") from error


def _modules(config):
    """The modules of the registered classes in a config, without Keras's own."""
    if isinstance(config, dict):
        module = config.get("module")
        if config.get("registered_name") and module and module.partition(".")[0] != "keras":
            yield module
        config = config.values()
    elif not isinstance(config, (list, tuple)):
        return
    for part in config:
        yield from _modules(part)


def _load(job, work):
    """The job's extraction; it is made where this process has none or another one."""
    backend = keras.backend.backend()
    if backend != job["backend"]:
        raise RuntimeError(
            "The workers must run Keras on the backend of the process that starts them: set KERAS_BACKEND="
            f"{job['backend']} in their environment. Received: {backend!r} on this worker."
        )
    identity = json.dumps([job[name] for name in ("fingerprint", "batch_size", "dtype", "on_error")])
    if identity not in _loaded:
        # Never two backbones in the memory, not even while the second one is loaded.
        _loaded.clear()
        weights = work.read_weights()
        try:
            extractor = unpack_extractor(job["extractor"], weights)
        except Exception as error:
            raise RuntimeError(
                "The extractor can't be rebuilt on this worker. A class of your own must be registered with "
                "keras.saving.register_keras_serializable, in a module that the workers can import. "
                f"{type(error).__name__}: {error}"
            ) from error
        if (fingerprint := extractor.fingerprint()) != job["fingerprint"]:
            raise RuntimeError(
                "The extractor is another one on this worker; Keras may have another version there.\n"
                f"Received: {fingerprint}\nExpected: {job['fingerprint']}"
            )
        _loaded[identity] = Extraction(
            extractor,
            job["batch_size"],
            numpy_dtype(job["dtype"]),
            job["on_error"],
            on_images=_count_images,
            load_image=lambda image: load_pixels(extractor, image),
        )
    return _loaded[identity]


def _count_images(count):
    from apache_beam.metrics import Metrics

    # Runners show it while the pipeline runs.
    Metrics.counter("keras_showattend", "images").inc(count)
