"""A disk that runs full ends a build with a plain message; what was finished is kept, and the rest can be added."""

import builtins
import contextlib
import errno
import io
import itertools
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from pixel_stores import PixelExtractor, build, contents, features_of, make_example, make_examples, number_of

from keras_showattend.features import FeatureStore

IMAGES = 10


def check_message(folder, error):
    assert error.errno in (errno.ENOSPC, errno.EDQUOT)
    assert re.search(rf"{re.escape(str(folder))}.* is full.*finished shards are kept", str(error))


def count_kept(folder, examples):
    """How many images a folder still holds, having checked that they are the first ones and as they should be."""
    try:
        store = FeatureStore.open(folder)
    except FileNotFoundError:
        return 0
    first = examples[: len(store)]
    assert store.image_ids == [example["image_id"] for example in first]
    np.testing.assert_array_equal(store.features(store.image_ids), features_of(first))
    return len(store)


class LimitedFile(io.FileIO):
    """A file on a disk that has room for a number of bytes, shared by all."""

    room = None

    def write(self, content):
        size = memoryview(content).nbytes
        LimitedFile.room -= size
        if LimitedFile.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)
        return super().write(content)


@pytest.fixture
def limited_disk(monkeypatch):
    """Sets the room that is left, to files written from then on."""
    original = builtins.open

    def limited(file, mode="r", *args, **options):
        if LimitedFile.room is not None and "w" in mode and "b" in mode:
            return io.BufferedWriter(LimitedFile(file, mode))
        return original(file, mode, *args, **options)

    def set_room(room):
        LimitedFile.room = room

    monkeypatch.setattr(builtins, "open", limited)
    yield set_room
    LimitedFile.room = None


def test_wherever_the_room_ends(tmp_path, limited_disk):
    whole, folder = tmp_path / "whole", tmp_path / "store"
    examples = make_examples(IMAGES)
    build(whole, examples)
    expected = contents(whole)
    kept = []
    for room in itertools.count(0, 307):
        shutil.rmtree(folder, ignore_errors=True)
        limited_disk(room)
        try:
            build(folder, examples)
        except OSError as error:
            check_message(folder, error)
            kept.append(count_kept(folder, examples))
        else:
            break
        limited_disk(None)
        extractor = PixelExtractor()
        build(folder, examples, extractor)
        assert sorted(extractor.loaded) == list(range(kept[-1], IMAGES))
        assert contents(folder) == expected, f"room for {room} bytes"
    # The manifest is written for each shard, so that more is needed than is there in the end.
    assert room >= sum(map(len, expected.values()))
    assert {0, 4, 8} <= set(kept)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_says_so_late(tmp_path, monkeypatch, code):
    """Where blocks are allocated behind the writer's back, only fsync tells."""
    examples = make_examples(IMAGES)
    flushed = []

    def full(file):
        flushed.append(file)
        if len(flushed) > 10:
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="is full") as caught:
            build(tmp_path / "store", examples)
    check_message(tmp_path / "store", caught.value)
    assert caught.value.errno == code
    count_kept(tmp_path / "store", examples)
    assert not list((tmp_path / "store").glob("*.partial"))
    build(tmp_path / "store", examples)
    build(tmp_path / "whole", examples)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_repair_that_meets_a_full_disk_loses_no_other_shard(tmp_path, limited_disk):
    whole, folder = tmp_path / "whole", tmp_path / "store"
    examples = make_examples(IMAGES)
    build(whole, examples)
    shutil.copytree(whole, folder)
    os.truncate(folder / "features-00001.npy", 60)
    limited_disk(100)
    with pytest.raises(OSError, match="is full"):
        build(folder, examples)
    limited_disk(None)
    extractor = PixelExtractor()
    build(folder, examples, extractor)
    assert sorted(extractor.loaded) == [4, 5, 6, 7]
    assert contents(folder) == contents(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    # Lazily: a store that a test holds has its files mapped.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_another_program_fills_a_real_disk(small_disk, tmp_path):
    side, folder = 32, small_disk / "store"
    examples = [make_example(number, side) for number in range(24)]

    def fill(image):
        if number_of(image) == 14:
            with open(small_disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))

    with pytest.raises(OSError, match="is full") as caught:
        build(folder, examples, PixelExtractor(side, fill))
    check_message(folder, caught.value)
    assert count_kept(folder, examples) <= 12
    with pytest.raises(OSError, match=r"is full|The features need"):
        build(folder, examples, PixelExtractor(side))
    kept = count_kept(folder, examples)
    (small_disk / "filler").unlink()
    extractor = PixelExtractor(side)
    build(folder, examples, extractor)
    assert sorted(extractor.loaded) == list(range(kept, 24))
    build(tmp_path / "whole", examples, PixelExtractor(side))
    assert contents(folder) == contents(tmp_path / "whole")


def test_features_that_no_estimate_announced_fill_a_real_disk(small_disk, tmp_path):
    side, folder = 32, small_disk / "store"
    many = (make_example(number, side) for number in range(10**6))
    with pytest.raises(OSError, match="is full") as caught:
        build(folder, many, PixelExtractor(side))
    examples = [make_example(number, side) for number in range(200)]
    check_message(folder, caught.value)
    # 6 kB an image: all but the last shards fit.
    assert 100 <= count_kept(folder, examples) <= 170
    assert FeatureStore.open(folder).features([0]).shape == (1, side * side, 3)
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    build(folder, examples, PixelExtractor(side))
    build(tmp_path / "whole", examples, PixelExtractor(side))
    assert contents(folder) == contents(tmp_path / "whole")
