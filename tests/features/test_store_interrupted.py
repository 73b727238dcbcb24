"""A build may end at any moment: nothing finished is lost, and what comes out in the end is always the same."""

import importlib.util
import os
import random
import shutil
import threading
import time

import numpy as np
import pytest
from killable_builds import KillableBuilds
from pixel_stores import PixelExtractor, build, contents, features_of, make_examples, shard_files

from keras_showattend.features import FeatureStore

SHARD = 4
KILLED = -9

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a process can't be forked here"),
    pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="Keras's NumPy backend needs JAX"),
]


@pytest.fixture(scope="module")
def builds():
    builds = KillableBuilds()
    yield builds
    builds.close()


def finished_images(folder, examples):
    """Ids of the images in finished shards, having checked that they are the first and have their own features."""
    try:
        store = FeatureStore.open(folder)
    except FileNotFoundError:
        return []
    readable = [example for example in examples if example["image_id"] not in store.skipped]
    first = readable[: len(store)]
    assert store.image_ids == [example["image_id"] for example in first]
    assert [store.captions(i) for i in store.image_ids] == [example["captions"] for example in first]
    if first:
        np.testing.assert_array_equal(store.features(store.image_ids), features_of(first))
    return store.image_ids


def test_killed_at_random_moments(builds, tmp_path):
    images = 60 * SHARD
    examples = make_examples(images)
    start = time.monotonic()
    builds.start(tmp_path / "whole", images)
    assert builds.finish()["exit"] == 0
    pace = (time.monotonic() - start) / 60

    randomness = random.Random(0)
    counts = []
    for _ in range(20):
        before = finished_images(tmp_path / "store", examples)
        # After so many images no more can be loaded, so that the last kill comes before the end on any machine.
        builds.start(tmp_path / "store", images, stop_after=randomness.randrange(6 * SHARD))
        time.sleep(randomness.uniform(0, 3 * pace))
        ended = builds.kill()
        assert ended["exit"] == KILLED
        assert not set(ended["loaded"]) & set(before)
        counts.append(len(finished_images(tmp_path / "store", examples)))
    assert counts == sorted(counts)
    assert len(set(counts)) >= 5
    assert counts[-1] < images
    assert all(count % SHARD == 0 for count in counts)

    builds.start(tmp_path / "store", images)
    ended = builds.finish()
    assert ended["exit"] == 0
    assert sorted(ended["loaded"]) == list(range(counts[-1], images))
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@pytest.mark.parametrize("before", ["nothing", "fewer images", "damage"])
def test_killed_at_each_change_of_a_file(builds, tmp_path, before):
    whole, prepared, folder = tmp_path / "whole", tmp_path / "prepared", tmp_path / "store"
    images, broken = SHARD + 2, [2]
    examples = make_examples(images)
    if before == "fewer images":
        builds.start(prepared, SHARD - 1, broken=broken)
        assert builds.finish()["exit"] == 0
        shutil.copytree(prepared, whole)
    builds.start(whole, images, broken=broken)
    assert builds.finish()["exit"] == 0
    expected = contents(whole)
    if before == "damage":
        shutil.copytree(whole, prepared)
        os.truncate(prepared / shard_files(0)[0], 100)
        (prepared / shard_files(1)[1]).unlink()

    counts = set()
    for change in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        if prepared.exists():
            shutil.copytree(prepared, folder)
        builds.start(folder, images, broken=broken, die_at=change)
        if builds.finish()["exit"] != KILLED:
            break
        if before != "damage":
            counts.add(len(finished_images(folder, examples)))
        builds.start(folder, images, broken=broken)
        assert builds.finish()["exit"] == 0
        assert contents(folder) == expected, f"killed before change {change}"
    assert change > 15
    assert len(counts) == {"nothing": 3, "fewer images": 2, "damage": 0}[before]
    # The first one that was not killed went through to the end.
    assert contents(folder) == expected


def test_what_a_killed_build_left_is_removed(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "store"
    build(whole, make_examples(6))
    build(folder, make_examples(6))
    for name in ("manifest.json", "manifest-copy.json", *shard_files(0), *shard_files(7)):
        (folder / f"{name}.partial").write_bytes(b"half")
    build(folder, make_examples(6))
    assert contents(folder) == contents(whole)


def test_shards_that_no_manifest_lists_are_written_again(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "store"
    build(whole, make_examples(6))
    folder.mkdir()
    for name in (*shard_files(0), *shard_files(1)):
        (folder / name).write_bytes(b"finished, says nobody")
    build(folder, make_examples(6))
    assert contents(folder) == contents(whole)


class TestTwoBuilders:
    @pytest.fixture
    def folder(self, builds, tmp_path):
        """A folder in which another process is at work for as long as it lives."""
        builds.start(tmp_path / "store", 8, stop_after=5)
        # A second build that waited would end, as if it had been let in, instead of blocking the tests.
        timer = threading.Timer(60, builds.close)
        timer.start()
        yield tmp_path / "store"
        timer.cancel()

    def test_the_second_is_refused_until_the_first_is_dead(self, builds, folder, tmp_path):
        extractor = PixelExtractor()
        with pytest.raises(OSError, match="another build") as caught:
            build(folder, make_examples(8), extractor)
        assert str(folder) in str(caught.value)
        assert not extractor.loaded
        finished_images(folder, make_examples(8))
        assert builds.kill()["exit"] == KILLED
        assert build(folder, make_examples(8)).image_ids == list(range(8))
        build(tmp_path / "whole", make_examples(8))
        assert contents(folder) == contents(tmp_path / "whole")

    def test_the_lock_of_a_finished_or_failed_build_is_free(self, builds, folder):
        builds.kill()

        def fail(image):
            raise RuntimeError("the power went out")

        with pytest.raises(RuntimeError, match="power"):
            build(folder, make_examples(8), PixelExtractor(on_load=fail))
        build(folder, make_examples(8))
        assert (folder / ".lock").read_bytes() == b""
        assert len(build(folder, make_examples(8))) == 8

    def test_threads_of_one_process_are_two_builders(self, tmp_path):
        messages = []

        def build_too(image):
            with pytest.raises(OSError, match="another build") as caught:
                build(tmp_path / "store", make_examples(3))
            messages.append(str(caught.value))

        build(tmp_path / "store", make_examples(3), PixelExtractor(on_load=build_too))
        assert len(messages) == 3
