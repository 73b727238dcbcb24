"""What a build needs beside the disk: memory for a few batches, and the backbone's time alone."""

import contextlib
import importlib.util
import os
import threading

import pytest
from killable_builds import KillableBuilds
from pixel_stores import PixelExtractor, build, make_examples, number_of

BATCH = 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process can't be forked here")
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="Keras's NumPy backend needs JAX")
def test_memory_does_not_grow_with_the_images(tmp_path):
    side = 64
    peaks = {}
    with contextlib.closing(KillableBuilds()) as builds:
        for images in (400, 4000):
            folder = tmp_path / str(images)
            builds.start(folder, images, side=side, as_iterator=True, batch_size=16, shard_size=256)
            ended = builds.finish()
            assert ended["exit"] == 0
            assert len(ended["loaded"]) == images
            peaks[images] = ended["peak"]
    features = 3600 * side * side * 3 * 2
    assert (tmp_path / "4000" / "features-00015.npy").exists()
    # 88 MB of features, 44 MB of images and 177 MB of pixels between the two, and 1 MB of captions.
    assert features > 80e6
    assert peaks[4000] - peaks[400] < 25e6


class Meeting(PixelExtractor):
    """Lets the backbone wait for a later image to be loaded, and that image for the backbone."""

    def __init__(self):
        super().__init__()
        self.model_runs = threading.Event()
        self.later_is_loaded = threading.Event()
        self.both_at_once = []

    def load_image(self, image):
        # The first image that the first batch does not need.
        if number_of(image) != BATCH:
            return super().load_image(image)
        self.both_at_once.append(self.model_runs.wait(60))
        pixels = super().load_image(image)
        self.later_is_loaded.set()
        return pixels

    def __call__(self, images):
        if not self.model_runs.is_set():
            self.model_runs.set()
            self.both_at_once.append(self.later_is_loaded.wait(60))
        return super().__call__(images)


def test_images_are_loaded_while_the_backbone_runs(tmp_path):
    extractor = Meeting()
    build(tmp_path / "store", make_examples(6 * BATCH), extractor, batch_size=BATCH, shard_size=3 * BATCH)
    assert extractor.both_at_once == [True, True]


def test_no_more_than_a_few_batches_are_loaded_ahead(tmp_path):
    """Else a fast disk and a slow backbone would fill the memory with pixels."""
    waiting = threading.Event()
    ahead = []

    class Slow(PixelExtractor):
        def __call__(self, images):
            if not ahead:
                waiting.wait(0.5)
                ahead.append(len(self.loaded))
            return super().__call__(images)

    def examples():
        yield from make_examples(50 * BATCH)

    build(tmp_path / "store", examples(), Slow(), batch_size=BATCH, shard_size=5 * BATCH)
    assert ahead[0] <= 6 * BATCH
