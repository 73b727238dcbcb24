"""Images a second from JPEG files to features on disk, beside the backbone alone."""

import os
import shutil

import keras
import numpy as np
from comparators import notebook_features
from harness.timing import Contender

from keras_showattend.features import FeatureStore
from keras_showattend.features.backbones import Backbone, find_backbone
from pipeline.measuring import measure_those_that_run, part_result, require_tensorflow, timing_row

BARE, BUILD, NOTEBOOK = "bare backbone, images in memory", "FeatureStore.build", "the notebook's extraction"


def measure_extraction(extractor, backbone, examples, scratch, batch_size, dtype, repetitions):
    """Measure the part.

    Args:
        extractor: A `FeatureExtractor`.
        backbone: The name that it was made with.
        examples: List of examples, images as paths.
        scratch: Folder that may be written in.
        batch_size: Int, images in a run of the backbone; the notebook has its own.
        dtype: Of the store.
        repetitions: Int.

    Returns:
        `(result, failures)`: a dict of `part_result`, and a dict of messages by name.
    """
    model, preprocess = network(extractor, backbone)
    timings, failures = measure_those_that_run(
        {
            BARE: lambda: _bare(extractor, model, preprocess, examples, batch_size),
            BUILD: lambda: _build(extractor, examples, os.path.join(scratch, "store"), batch_size, dtype),
            NOTEBOOK: lambda: _notebook(extractor, model, preprocess, examples, os.path.join(scratch, "notebook")),
        },
        repetitions,
    )
    rows = [timing_row(timing) for timing in timings.values()]
    result = part_result("images/s", BARE, rows, images=len(examples), batch_size=batch_size, dtype=dtype)
    result["build"] = _beyond_the_start(timings, len(examples), min(batch_size, len(examples)))
    return result, failures


def network(extractor, backbone):
    """What an extractor runs after resizing: the model, and the preprocessing before it.

    Args:
        extractor: A `FeatureExtractor`.
        backbone: The name that it was made with.
    """
    if extractor.backbone is None:
        # "patches" has no network: the extractor itself takes its place.
        model = keras.Sequential([keras.Input((*extractor.image_size, 3)), extractor])
        return model, lambda images: images
    name, _ = find_backbone(backbone)
    return extractor.backbone, Backbone(name, extractor.backbone).preprocess


def _bare(extractor, model, preprocess, examples, batch_size):
    images = np.empty((len(examples), *extractor.image_size, 3), "float32")
    for index, example in enumerate(examples):
        images[index] = extractor.load_image(example["image"])
    images = preprocess(images)
    return Contender(BARE, [lambda: model.predict(images, batch_size=batch_size, verbose=0)], [1 / len(examples)])


def _build(extractor, examples, folder, batch_size, dtype):
    def build(some):
        shutil.rmtree(folder, ignore_errors=True)
        FeatureStore.build(folder, some, extractor, batch_size=batch_size, dtype=dtype, verbose=0)

    # The first batch tells what a build takes to start; in the rate, all of it counts.
    steps = [lambda: build(examples[:batch_size]), lambda: build(examples)]
    return Contender(BUILD, steps, [0, 1 / len(examples)])


def _notebook(extractor, model, preprocess, examples, folder):
    require_tensorflow()
    paths = [example["image"] for example in examples]

    def extract():
        # Like a build, into an empty folder.
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        notebook_features.extract(paths, model, preprocess, extractor.image_size, folder)

    return Contender(NOTEBOOK, [extract], [1 / len(paths)])


def _beyond_the_start(timings, images, first):
    """What a build takes for its first batch, and its rate from there on."""
    if BUILD not in timings or first == images:
        return None
    start, whole = timings[BUILD].step_seconds
    bare = timings[BARE].captions_per_second if BARE in timings else None
    rate = (images - first) / (whole - start)
    return {
        "first_batch_seconds": start,
        "images_per_second_after_it": rate,
        "ratio_after_it": rate / bare if bare else None,
    }
