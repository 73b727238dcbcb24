import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_showattend.features import FeatureExtractor, FeatureStore, disk
from keras_showattend.features import manifest as files

IMAGES = np.random.default_rng(5).integers(0, 256, (11, 20, 24, 3)).astype("uint8")


def make_extractor(width=3, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(width, 8, 8)])
    return FeatureExtractor(model)


def make_examples(n=11):
    return [{"image_id": i * 10, "image": IMAGES[i], "captions": [f"caption {i}", f"other {i}"]} for i in range(n)]


def build(path, examples=None, extractor=None, **options):
    options = {"batch_size": 2, "shard_size": 4, "verbose": 0, **options}
    examples = make_examples() if examples is None else examples
    return FeatureStore.build(path, examples, extractor or make_extractor(), **options)


def contents(path):
    return {file.name: file.read_bytes() for file in sorted(pathlib.Path(path).iterdir())}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_ids_and_captions(tmp_path, dtype):
    extractor = make_extractor()
    store = build(tmp_path / "store", extractor=extractor, dtype=dtype)
    assert len(store) == 11
    assert store.image_ids == [i * 10 for i in range(11)]
    assert (store.grid, store.locations, store.width) == ((2, 2), 4, 3)
    assert store.captions(30) == ["caption 3", "other 3"]
    assert 30 in store
    assert 31 not in store
    assert "images=11" in repr(store)
    # Across shards, out of order and twice.
    features = store.features([100, 0, 50, 100])
    assert features.shape == (4, 4, 3)
    assert features.dtype == store.dtype
    assert store.dtype.name == dtype
    expected = ops.convert_to_numpy(extractor(IMAGES[[10, 0, 5, 10]]))
    tolerance = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-5}[dtype]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features.astype("float32"), expected, atol=tolerance * scale)
    assert store.features([]).shape == (0, 4, 3)
    store.verify()
    opened = FeatureStore.open(tmp_path / "store")
    np.testing.assert_array_equal(opened.features([100, 0, 50, 100]), features)


def test_paths_bytes_and_iterables(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(IMAGES[0]).save(path)
    sources = {"array": IMAGES[0], "path": path, "bytes": path.read_bytes()}
    examples = ({"image_id": k, "image": v, "captions": ["one"]} for k, v in sources.items())
    store = build(tmp_path / "store", examples)
    features = store.features(["array", "path", "bytes"])
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])


def test_progress_is_shown(tmp_path, capsys):
    build(tmp_path / "store", verbose=1)
    output = capsys.readouterr().out
    assert "features of 11 images" in output
    assert "11/11" in output


class CountingExtractor:
    """Passes everything on, and counts the images that were loaded; may break at one of them."""

    def __init__(self, extractor, break_at=None):
        self.extractor = extractor
        self.loaded = 0
        self.break_at = break_at

    def __getattr__(self, name):
        return getattr(self.extractor, name)

    def __call__(self, images):
        return self.extractor(images)

    def load_image(self, image):
        self.loaded += 1
        if self.break_at is not None and np.array_equal(image, IMAGES[self.break_at]):
            raise RuntimeError("the power went out")
        return self.extractor.load_image(image)


def test_second_build_runs_nothing(tmp_path):
    build(tmp_path / "store")
    before = contents(tmp_path / "store")
    counting = CountingExtractor(make_extractor())
    store = build(tmp_path / "store", extractor=counting)
    assert counting.loaded == 0
    assert len(store) == 11
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize("as_iterable", [False, True])
def test_interrupted_build_goes_on_to_the_same_bytes(tmp_path, as_iterable):
    build(tmp_path / "whole")
    examples = make_examples()
    with pytest.raises(RuntimeError, match="power"):
        build(tmp_path / "store", examples, CountingExtractor(make_extractor(), break_at=9))
    half = FeatureStore.open(tmp_path / "store")
    assert 4 <= len(half) < 11
    counting = CountingExtractor(make_extractor())
    build(tmp_path / "store", iter(examples) if as_iterable else examples, counting)
    assert counting.loaded == 11 - len(half)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_new_images_extend_and_fewer_give_a_view(tmp_path):
    first = build(tmp_path / "store", make_examples(6))
    features = first.features(first.image_ids)
    counting = CountingExtractor(make_extractor())
    store = build(tmp_path / "store", make_examples(9), counting)
    assert counting.loaded == 3
    assert len(store) == 9
    np.testing.assert_array_equal(store.features(first.image_ids), features)
    view = build(tmp_path / "store", make_examples(9)[::-2])
    assert view.image_ids == [80, 60, 40, 20, 0]
    with pytest.raises(ValueError, match=r"image_id=10 .*not in the feature store"):
        view.features([10])
    assert len(FeatureStore.open(tmp_path / "store")) == 9


class Sized:
    """Examples that are read as they are asked for, as those of a prepared data set."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __iter__(self):
        return iter(self.examples)


@pytest.mark.parametrize("kind", [list, iter, Sized])
def test_other_images_extend_and_the_first_ones_stay(tmp_path, kind):
    build(tmp_path / "store", kind(make_examples(8)))
    store = build(tmp_path / "store", kind(make_examples(11)[8:]))
    assert store.image_ids == [80, 90, 100]
    assert FeatureStore.open(tmp_path / "store").image_ids == [i * 10 for i in range(11)]


def test_subset(tmp_path):
    store = build(tmp_path / "store")
    view = store.subset([70, 20])
    assert view.image_ids == [70, 20]
    np.testing.assert_array_equal(view.features([20]), store.features([20]))
    with pytest.raises(ValueError, match="image_id=5"):
        store.subset([5])
    with pytest.raises(ValueError, match="must not hold an id twice"):
        store.subset([70, 70])


def test_any_str_is_a_caption(tmp_path):
    # Half of a surrogate pair, as broken JSON can hold, has no UTF-8 form.
    captions = ["a \ud83d dog", "\U0001f415 \\ud83d", "une \u00e9t\u00e9"]
    examples = [{**example, "captions": captions} for example in make_examples()[:2]]
    build(tmp_path / "store", examples)
    store = FeatureStore.open(tmp_path / "store")
    store.verify()
    assert store.captions(store.image_ids[1]) == captions


def test_other_extractor_dtype_or_captions_are_refused(tmp_path):
    build(tmp_path / "store")
    before = contents(tmp_path / "store")
    other = make_extractor(seed=1)
    with pytest.raises(ValueError, match="another extractor") as caught:
        build(tmp_path / "store", extractor=other)
    for extractor in (other, make_extractor()):
        assert extractor.fingerprint()["weights_sha256"] in str(caught.value)
    with pytest.raises(ValueError, match=r"dtype='float32', stored: 'float16'"):
        build(tmp_path / "store", dtype="float32")
    examples = make_examples()
    examples[2]["captions"] = ["corrected"]
    with pytest.raises(ValueError, match=r"captions of image_id=20 differ.*corrected.*caption 2"):
        build(tmp_path / "store", examples)
    assert contents(tmp_path / "store") == before


class TestBrokenImages:
    def examples(self, tmp_path):
        examples = make_examples(6)
        examples[1]["image"] = tmp_path / "missing.jpg"
        examples[3]["image"] = b"no picture"
        return examples

    def test_raise_names_them(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"image_id=10 .*missing\.jpg.*on_error='skip'"):
            build(tmp_path / "store", self.examples(tmp_path))
        with pytest.raises(ValueError, match=r"image_id=30 can't be read"):
            build(tmp_path / "store", self.examples(tmp_path)[2:])

    def test_skip_notes_them(self, tmp_path):
        store = build(tmp_path / "store", self.examples(tmp_path), on_error="skip")
        assert store.image_ids == [0, 20, 40, 50]
        assert set(store.skipped) == {10, 30}
        assert "missing.jpg" in store.skipped[10]
        before = contents(tmp_path / "store")
        again = build(tmp_path / "store", self.examples(tmp_path), on_error="skip")
        assert again.image_ids == store.image_ids
        assert contents(tmp_path / "store") == before

    def test_repaired_image_is_added(self, tmp_path):
        build(tmp_path / "store", self.examples(tmp_path), on_error="skip")
        Image.fromarray(IMAGES[1]).save(tmp_path / "missing.jpg")
        store = build(tmp_path / "store", self.examples(tmp_path), on_error="skip")
        assert store.image_ids == [0, 10, 20, 40, 50]
        assert set(store.skipped) == {30}

    def test_nothing_but_broken_images(self, tmp_path):
        examples = [{"image_id": 1, "image": b"", "captions": ["x"]}]
        with pytest.raises(ValueError, match=r"None of the 1 images could be read.*image_id=1"):
            build(tmp_path / "store", examples, on_error="skip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captions": []}, "at least one caption.*image_id=20"),
        ({"captions": ["fine", "  "]}, "none of them blank.*image_id=20"),
        ({"captions": "a word"}, "`captions` must be a list of strings.*image_id=20"),
        ({"captions": [3]}, "`captions` must be a list of strings.*image_id=20"),
        ({"captions": None}, "`captions` must be a list of strings.*image_id=20"),
        ({"image_id": 10}, "Received: 10 twice"),
        ({"image_id": 2.5}, r"`image_id` must be an integer or a string.*2\.5 \(type float\)"),
    ],
)
def test_wrong_examples_are_found_before_the_first_batch(tmp_path, change, message):
    examples = make_examples(4)
    examples[2].update(change)
    counting = CountingExtractor(make_extractor())
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "store", examples, counting)
    assert counting.loaded == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"shard_size": 2.0}, r"`shard_size` must be .* Received: shard_size=2.0 \(type float\)"),
        ({"dtype": "int8"}, r"`dtype` must be one of .* Received: dtype='int8'"),
        ({"on_error": "ignore"}, "`on_error` must be 'raise' or 'skip'"),
        ({"examples": []}, "`examples` must hold at least one image"),
        ({"examples": iter(())}, "`examples` must hold at least one image"),
        ({"examples": [{"image_id": 1}]}, r"must be a dict with .* Received at position 0"),
        ({"examples": ["a.jpg"]}, "must be a dict with .* Received at position 0: str"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "store", **options)


def test_numpy_ids(tmp_path):
    examples = make_examples(2)
    examples[1]["image_id"] = np.int64(7)
    store = build(tmp_path / "store", examples)
    assert store.image_ids == [0, 7]
    assert store.features([np.int64(7)]).shape == (1, 4, 3)


def test_overflowing_features_name_the_image(tmp_path):
    extractor = make_extractor()
    extractor.backbone.set_weights([weight + 1e6 for weight in extractor.backbone.get_weights()])
    with pytest.raises(ValueError, match="image_id=0 are not finite in float16"):
        build(tmp_path / "store", extractor=extractor)
    build(tmp_path / "store", extractor=extractor, dtype="bfloat16")


def test_folder_and_disk(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"can't be written at .*file"):
        build(tmp_path / "file" / "store")
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    counting = CountingExtractor(make_extractor())
    with pytest.raises(OSError, match=r"The features need .* GB"):
        build(tmp_path / "store", extractor=counting)
    assert counting.loaded == 0


def test_missing_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no feature store at .*nothing"):
        FeatureStore.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["features-00001.npy", "captions-00002.jsonl", "manifest.json"])
def test_a_flipped_byte_is_found_and_named(tmp_path, name):
    store = build(tmp_path / "store")
    path = tmp_path / "store" / name
    content = path.read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ValueError, match=name):
            store.verify()
    path.write_bytes(content)
    store.verify()


def test_missing_and_truncated_files_are_named(tmp_path):
    store = build(tmp_path / "store")
    os.truncate(tmp_path / "store" / "features-00000.npy", 130)
    (tmp_path / "store" / "captions-00001.jsonl").unlink()
    with pytest.raises(ValueError, match=r"features-00000\.npy.*captions-00001\.jsonl \(missing\)"):
        store.verify()
    with pytest.raises(ValueError, match=r"features-00000\.npy has 130 bytes; the manifest says"):
        FeatureStore.open(tmp_path / "store")


def hostile(folder, change):
    """Applies a change to a manifest and signs it, as its own author would."""
    manifest = files.read_manifest(folder)
    change(manifest)
    files.write_manifest(folder, manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(width=2**40), "does not hold the array"),
        (lambda m: m.update(width=2**60), "`width` must be a positive integer"),
        (lambda m: m.update(width="3"), "`width` must be a positive integer"),
        (lambda m: m.update(locations=5), "`locations` must be the product"),
        (lambda m: m.update(grid=[2, True]), "`grid` must be two positive integers"),
        (lambda m: m.update(dtype="object"), "`dtype` must be one of"),
        (lambda m: m.update(dtype=["float16"]), "`dtype` must be one of"),
        (lambda m: m.update(format="other"), "is not the manifest of"),
        (lambda m: m.pop("shards"), "it must hold"),
        (lambda m: m.update(shards={}), "`shards` must be a list"),
        (lambda m: m.update(extractor=None), "`extractor` must be an object"),
        (lambda m: m.update(skipped=["../../x"]), "each of `skipped`"),
        (lambda m: m["shards"][0].update(images=-4), "each of `shards`"),
        (lambda m: m["shards"][0].update(features="/etc/passwd"), "each of `shards`"),
        (lambda m: m["shards"][0].update(images=3), "does not hold the array"),
        (lambda m: m["shards"].append(m["shards"][0]), r"features-00003\.npy is missing"),
    ],
)
def test_hostile_manifests_are_refused(tmp_path, change, message):
    build(tmp_path / "store")
    hostile(tmp_path / "store", change)
    with pytest.raises(ValueError, match=message):
        FeatureStore.open(tmp_path / "store")


def test_pickles_and_wrong_captions_are_refused(tmp_path):
    folder = tmp_path / "store"
    build(folder)

    def replace(number, kind, name, content):
        (folder / name).write_bytes(content)
        hostile(folder, lambda m: m["shards"][number].update({kind: disk.describe(folder / name)}))

    original = (folder / "features-00000.npy").read_bytes()
    np.save(folder / "features-00000.npy", np.array([{}] * 4), allow_pickle=True)
    replace(0, "features", "features-00000.npy", (folder / "features-00000.npy").read_bytes())
    with pytest.raises(ValueError, match="does not hold the array"):
        FeatureStore.open(folder)
    replace(0, "features", "features-00000.npy", original)
    lines = (folder / "captions-00000.jsonl").read_text().splitlines()
    for wrong, message in (
        ([*lines[:3], '{"image_id": 1}'], "each line must be an image's captions"),
        (lines[:3], "3 lines for 4 images"),
        ([*lines[:3], "{"], "is damaged"),
        ([*lines[:3], json.dumps({"image_id": 100, "captions": ["x"]})], "image_id=100 twice"),
    ):
        replace(0, "captions", "captions-00000.jsonl", "\n".join(wrong).encode())
        with pytest.raises(ValueError, match=message):
            FeatureStore.open(folder)


def test_images_lost_with_a_damaged_shard_are_counted(tmp_path, capsys):
    build(tmp_path / "store")
    os.truncate(tmp_path / "store" / "features-00000.npy", 130)
    build(tmp_path / "store", make_examples()[8:], verbose=1)
    assert "Shard 0 is empty now: its 4 images are not among the examples." in capsys.readouterr().out
    assert FeatureStore.open(tmp_path / "store").image_ids == [i * 10 for i in range(4, 11)]
