"""A store from a stranger: whatever it says, nothing is written elsewhere, allocated in advance or executed."""

import copy
import math
import pathlib
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_stores import build, contents, features_of, make_examples, shard_files

from keras_showattend.features import FeatureStore, disk
from keras_showattend.features.manifest import read_manifest, write_manifest

IMAGES = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store, and with files around it that are none of its business."""
    place = tmp_path_factory.mktemp("hostile")
    (place / "inner").mkdir()
    for name in ("sentinel", "inner/sentinel", "features-00000.npy", "inner/captions-00000.jsonl"):
        (place / name).write_text("mine")
    build(place / "whole", make_examples(IMAGES))
    return place


def surroundings(place):
    """Everything around the store."""
    inside = place / "inner" / "store"
    files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and inside not in path.parents}
    return {**files, **{path: None for path in place.rglob("*") if path.is_dir() and inside not in path.parents}}


def paths_of(value, path=()):
    """The keys that lead to each value inside a JSON value, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths_of(inner, (*path, key))


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


SCALARS = st.one_of(
    st.sampled_from([2**31 - 1, 2**31, 2**40, 2**53 - 1, 2**63, 2**64, 10**300, 0, -1, -(2**63), 1, 3]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 0.5, True, False, None]),
    st.sampled_from(["../../sentinel", "../sentinel", "/etc/passwd", "", "float16", "float32", "|O", "a\0b", "\ud800"]),
    st.integers(),
    st.text(max_size=10),
)
HOSTILE = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
        max_leaves=6,
    ),
    st.sampled_from([nested(300), [0] * 1000, {"image_id": [], "reason": "x"}, {"bytes": 2**50, "sha256": "0" * 64}]),
).map(copy.deepcopy)  # What is drawn twice would be changed twice.


@st.composite
def mutations(draw, manifest):
    """A manifest with up to three of its values changed, taken away, moved or added."""
    manifest = copy.deepcopy(manifest)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths_of(manifest))))
        parent = manifest
        for key in path[:-1]:
            parent = parent[key]
        kind = draw(st.sampled_from(["change", "change", "change", "remove", "add", "repeat", "swap"]))
        if kind == "change":
            parent[path[-1]] = draw(HOSTILE)
        elif kind == "remove":
            del parent[path[-1]]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["path", "file", "offset", "__class__", "allow_pickle"]))] = draw(HOSTILE)
        elif kind == "repeat" and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent))
        elif kind == "swap" and isinstance(parent, list):
            parent.reverse()
        if not list(paths_of(manifest)):
            break
    return manifest


def put_store(place, manifest):
    """A copy of the store with another manifest, signed; None if no file can say that."""
    folder = place / "inner" / "store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "whole", folder)
    try:
        write_manifest(folder, manifest)
    except (TypeError, ValueError):
        return None
    return folder


def attempts(folder):
    """Everything that a user does with a store."""

    def use_opened():
        store = FeatureStore.open(folder)
        store.verify()
        repr(store)
        return store.features(store.image_ids[:2]), [store.captions(i) for i in store.image_ids]

    return [
        use_opened,
        lambda: build(folder, make_examples(IMAGES)),
        lambda: build(folder, make_examples(IMAGES + 3), on_error="skip"),
        use_opened,
    ]


def check_harmless(place, folder):
    before = surroundings(place)
    for attempt in attempts(folder):
        tracemalloc.start()
        try:
            attempt()
        except (ValueError, OSError):
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 64e6
    assert surroundings(place) == before
    assert {path.parent for path in folder.rglob("*")} <= {folder}


@settings(max_examples=100)
@given(data=st.data())
def test_any_manifest_is_harmless(place, data):
    folder = put_store(place, data.draw(mutations(read_manifest(place / "whole"))))
    if folder:
        check_harmless(place, folder)


def many_locations(manifest):
    manifest.update(locations=2**50, grid=[2**25, 2**25])


def many_images(manifest):
    manifest["shards"][0]["images"] = 2**50


def many_of_nothing(manifest):
    manifest["shards"][0]["images"] = 0
    manifest.update(width=2**52)


def endless_captions(manifest):
    manifest["shards"][0]["captions"]["bytes"] = 2**52


def many_shards(manifest):
    manifest["shards"] = manifest["shards"] * 20


def many_skipped(manifest):
    manifest["skipped"] = [{"image_id": i, "reason": ""} for i in range(2_000)]


@pytest.mark.parametrize(
    "change", [many_locations, many_images, many_of_nothing, endless_captions, many_shards, many_skipped]
)
def test_promises_of_much_are_harmless(place, change):
    manifest = read_manifest(place / "whole")
    change(manifest)
    check_harmless(place, put_store(place, manifest))


def test_an_unchanged_store_goes_through_the_same_attempts(place):
    """What the other tests forgive would hide here that nothing works at all."""
    folder = put_store(place, read_manifest(place / "whole"))
    for attempt in attempts(folder):
        attempt()
    assert len(FeatureStore.open(folder)) == IMAGES + 3
    check_harmless(place, folder)


@pytest.mark.parametrize("depth", [700, 900, 950, 990, 3_000, 20_000, 1_000_000])
def test_nesting_of_any_depth_is_harmless(place, depth):
    """Reading nested JSON and writing it again have limits of their own."""
    folder = put_store(place, read_manifest(place / "whole"))
    path = folder / "manifest.json"
    content = path.read_text()
    for nest in ("[" * depth + "]" * depth, '{"a":' * depth + "0" + "}" * depth):
        path.write_text(content.replace("{", '{"nested": ' + nest + ",", 1))
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            FeatureStore.open(folder)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("dtype", ["float16", "|O", "object"])
def test_pickles_are_not_unpickled(place, tmp_path, dtype):
    manifest = read_manifest(place / "whole")
    folder = put_store(place, manifest)
    path = folder / shard_files(0)[0]
    images = manifest["shards"][0]["images"]
    bombs = np.full((images, manifest["locations"], manifest["width"]), Bomb(tmp_path / "exploded"), dtype="object")
    np.save(path, bombs, allow_pickle=True)
    np.load(path, allow_pickle=True)
    (tmp_path / "exploded").unlink()  # So it does go off.

    # Checksums and sizes are as they should be: the stranger wrote them.
    manifest["shards"][0]["features"] = disk.describe(path)
    manifest["dtype"] = dtype
    write_manifest(folder, manifest)
    with pytest.raises(ValueError, match=r"dtype|does not hold the array"):
        FeatureStore.open(folder)
    with pytest.raises(ValueError, match=r"dtype|does not hold the array"):
        build(folder, make_examples(IMAGES))
    check_harmless(place, folder)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"image_id": ' + "9" * 5000 + ', "captions": ["x"]}',
        '{"image_id": 1e999, "captions": ["x"]}',
        '{"image_id": NaN, "captions": ["x"]}',
        '{"image_id": true, "captions": ["x"]}',
        '{"image_id": 0, "captions": ["\\ud800"]}',
        '{"image_id": "../../sentinel", "captions": []}',
        '{"image_id": 0, "captions": [[]]}',
        '{"image_id": 0, "image_id": {}, "captions": ["x"]}',
        "null",
        "\0",
        "\ufeff{}",
    ],
)
def test_captions_of_a_stranger_are_harmless(place, line):
    manifest = read_manifest(place / "whole")
    folder = put_store(place, manifest)
    path = folder / shard_files(1)[1]
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([line, *lines[1:]]), encoding="utf-8")
    manifest["shards"][1]["captions"] = disk.describe(path)
    write_manifest(folder, manifest)
    check_harmless(place, folder)


def test_links_out_of_the_folder_are_not_written_through(place, tmp_path):
    """A file of the store that is a link is replaced, not followed, when it must be repaired."""
    folder = put_store(place, read_manifest(place / "whole"))
    whole = contents(folder)
    for name in ("manifest-copy.json", *shard_files(0), ".lock"):
        (tmp_path / name).write_bytes(b"mine")
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / name)
        (folder / f"{name}.partial").symlink_to(tmp_path / name)
    store = build(folder, make_examples(IMAGES))
    np.testing.assert_array_equal(store.features(store.image_ids), features_of(make_examples(IMAGES)))
    assert set(contents(tmp_path).values()) == {b"mine"}
    repaired = contents(folder)
    assert repaired.pop(".lock") == b"mine"
    whole.pop(".lock")
    assert repaired == whole
