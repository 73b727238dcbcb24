"""Damage is found and named, and a build repairs what is damaged and nothing else."""

import os
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_stores import PixelExtractor, build, contents, features_of, make_examples, shard_files

from keras_showattend.features import FeatureStore

MANIFESTS = ("manifest.json", "manifest-copy.json")
FILES = (*MANIFESTS, *shard_files(0), *shard_files(1), *shard_files(2))
# Shards of four; the second holds no image.
BROKEN = {1, 4, 5, 6, 7}
IN_SHARD = {0: [0, 2, 3], 1: [], 2: [8, 9]}


def examples_of_whole():
    examples = make_examples(10)
    for number in BROKEN:
        examples[number]["image"] = b"no picture"
    return examples


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "whole"
    build(folder, examples_of_whole(), on_error="skip")
    return folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Where copies to be damaged go."""
    return tmp_path_factory.mktemp("copies")


def shard_of(name):
    """The number of the shard that a file belongs to, None for the manifests."""
    return None if name in MANIFESTS else int(re.search(r"\d+", name)[0])


def identities(folder, names):
    """What changes when a file is written again."""
    stats = {name: os.stat(folder / name) for name in names}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def check_repair(whole, folder, names, damage):
    """Damages some files of a copy of a store; checks that they are named, and that a build repairs them alone."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    store = FeatureStore.open(folder)
    store.verify()
    for name in names:
        damage(folder / name)
    with pytest.raises(ValueError, match="is damaged") as caught:
        store.verify()
    for name in FILES:
        assert (name in str(caught.value)) == (name in names)
    # A store opened now either refuses, naming a file, or finds the same.
    with pytest.raises((ValueError, FileNotFoundError), match="|".join(map(re.escape, names))):
        FeatureStore.open(folder).verify()

    shards = {shard_of(name) for name in names} - {None}
    others = [name for name in FILES if name not in names and shard_of(name) not in shards]
    before = identities(folder, others)
    extractor = PixelExtractor()
    repaired = build(folder, examples_of_whole(), extractor, on_error="skip")
    assert contents(folder) == contents(whole)
    assert identities(folder, others) == before
    loaded = sorted(number for number in extractor.loaded if number is not None)
    assert loaded == sorted(number for shard in shards for number in IN_SHARD[shard])
    repaired.verify()


def flip(position, bit):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[position] ^= 1 << bit
        path.write_bytes(content)

    return damage


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def lengthen(path):
    with open(path, "ab") as file:
        file.write(b"\n")


DAMAGES = {
    "first byte": flip(0, 0),
    "in the middle of the header": flip(50, 3),
    "middle": lambda path: flip(path.stat().st_size // 2, 5)(path),
    "last byte": flip(-1, 7),
    "truncated": truncate,
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lengthen,
    "missing": os.remove,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", [*MANIFESTS, *shard_files(0), *shard_files(2)])
def test_one_damaged_file(whole, copies, name, damage):
    check_repair(whole, copies / "store", [name], damage)


@pytest.mark.parametrize("name", shard_files(1))
@pytest.mark.parametrize("damage", [lengthen, os.remove])
def test_a_damaged_shard_without_images(whole, copies, name, damage):
    check_repair(whole, copies / "store", [name], damage)


def test_each_bit_of_a_header(whole, copies):
    """What reads a broken header must not fail in a way of its own."""
    folder = copies / "header"
    shutil.copytree(whole, folder)
    path = folder / shard_files(0)[0]
    content = path.read_bytes()
    for position in range(content.index(b"\n") + 1):
        for bit in range(8):
            flip(position, bit)(path)
            with pytest.raises(ValueError, match=path.name):
                FeatureStore.open(folder).verify()
            path.write_bytes(content)


@settings(max_examples=40)
@given(data=st.data())
def test_any_flipped_bit(whole, copies, data):
    name = data.draw(st.sampled_from([name for name in FILES if (whole / name).stat().st_size]))
    position = data.draw(st.integers(0, (whole / name).stat().st_size - 1))
    check_repair(whole, copies / "store", [name], flip(position, data.draw(st.integers(0, 7))))


@settings(max_examples=25)
@given(data=st.data())
def test_several_damaged_files(whole, copies, data):
    names = data.draw(st.lists(st.sampled_from(FILES), min_size=2, unique=True))
    if set(names) >= set(MANIFESTS):
        names.remove("manifest.json")
    check_repair(whole, copies / "store", names, data.draw(st.sampled_from([os.remove, lengthen])))


@pytest.mark.parametrize("damages", [(truncate, truncate), (os.remove, truncate), (truncate, os.remove)])
def test_both_manifests_damaged(whole, tmp_path, damages):
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    for name, damage in zip(MANIFESTS, damages, strict=True):
        damage(folder / name)
    before = contents(folder)
    extractor = PixelExtractor()
    with pytest.raises(ValueError, match=r"manifest\.json"):
        build(folder, examples_of_whole(), extractor, on_error="skip")
    assert contents(folder) == before
    assert not extractor.loaded


def test_both_manifests_gone(whole, tmp_path):
    """As after a build that was killed early: everything is computed again."""
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    for name in (*MANIFESTS, ".lock"):
        (folder / name).unlink()
    build(folder, examples_of_whole(), on_error="skip")
    assert contents(folder) == contents(whole)


def test_a_copy_of_an_older_manifest(whole, tmp_path):
    """As after a build that was killed between the two."""
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    build(tmp_path / "older", examples_of_whole()[:4], on_error="skip")
    shutil.copy(tmp_path / "older" / "manifest.json", folder / "manifest-copy.json")
    with pytest.raises(ValueError, match=r"damaged: manifest-copy\.json"):
        FeatureStore.open(folder).verify()
    truncate(folder / "manifest.json")
    before = identities(folder, shard_files(0))
    build(folder, examples_of_whole(), on_error="skip")
    assert contents(folder) == contents(whole)
    assert identities(folder, shard_files(0)) == before


def test_a_skipped_image_that_has_been_repaired_since(whole, tmp_path):
    """It is added, and does not push the others of its damaged shard out of place."""
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    truncate(folder / shard_files(0)[0])
    examples = make_examples(10)
    store = build(folder, examples, on_error="skip")
    assert store.image_ids == list(range(10))
    assert not store.skipped
    np.testing.assert_array_equal(store.features(store.image_ids), features_of(examples))
    for name in shard_files(0):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    FeatureStore.open(folder).verify()


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {0, 2}, {0, 1, 2, 3}])
def test_an_extended_store(tmp_path, lost):
    """Its shards begin where the builds that added to it did."""
    whole, folder = tmp_path / "whole", tmp_path / "store"
    for images in (3, 9, 10):
        build(whole, make_examples(images))
    shutil.copytree(whole, folder)
    in_shard = [[0, 1, 2], [3, 4, 5, 6], [7, 8], [9]]
    for shard in lost:
        # Nothing is left that says which images it held.
        (folder / shard_files(shard)[1]).unlink()
    extractor = PixelExtractor()
    build(folder, make_examples(10), extractor)
    assert sorted(extractor.loaded) == [number for shard in sorted(lost) for number in in_shard[shard]]
    assert contents(folder) == contents(whole)


@settings(max_examples=40)
@given(
    order=st.permutations(range(12)),
    count=st.integers(1, 12),
    damaged=st.lists(st.sampled_from([name for shard in range(3) for name in shard_files(shard)]), unique=True),
)
def test_repaired_with_other_examples(tmp_path_factory, order, count, damaged):
    """Whichever examples a damaged store is built with, each image has its own features and captions."""
    folder = tmp_path_factory.mktemp("store")
    build(folder, make_examples(10))
    for name in damaged:
        truncate(folder / name)
    others = [name for s in range(3) if not {*shard_files(s)} & {*damaged} for name in shard_files(s)]
    before = identities(folder, others)

    examples = make_examples(12)
    given_ids = order[:count]
    store = build(folder, [examples[i] for i in given_ids])
    assert store.image_ids == given_ids
    everything = FeatureStore.open(folder)
    everything.verify()
    assert set(given_ids) <= set(everything.image_ids)
    everything_given = [examples[i] for i in everything.image_ids]
    np.testing.assert_array_equal(everything.features(everything.image_ids), features_of(everything_given))
    assert [everything.captions(i) for i in everything.image_ids] == [e["captions"] for e in everything_given]
    assert identities(folder, others) == before
