"""The features' benchmark runs, and what it compares does the same work; how fast anything is, no test asks."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import feature_pipeline
import keras
import numpy as np
import pytest
from contenders import GROUPED, SINGLE
from harness.sizes import Sizes
from harness.timing import Timing
from pipeline import extraction, reading, training
from pipeline.goals import GOALS, Goal, goals_of
from pipeline.measuring import part_result
from pipeline.photographs import draw_photographs, find_photographs
from pipeline.synthetic import SyntheticFeatures

from keras_showattend.features import FeatureExtractor, FeatureStore, read_image

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# One image to train on: one shape, compiled once.
TINY = shlex.split("""
    --images 3 --image-batch-size 2 --backbone patches --image-size 16 --read-images 5 --train-images 1
    --repetitions 1 --batch-size 4 --locations 4 --feature-width 8 --embed-dim 5 --units 6 --vocabulary 20
    --captions-per-image 2 --mean-length 4 --longest 4
""")
SIZES = Sizes(
    batch_size=3, locations=4, feature_width=8, vocabulary=20, captions_per_image=2, mean_length=5.0, longest=7
)
IMAGES = 7
KEYS = "machine sizes repetitions jit_compile extraction size read training goals failures"


@pytest.fixture
def synthetic(tmp_path):
    return SyntheticFeatures(str(tmp_path), SIZES, IMAGES, "float16")


def test_a_tiny_run_leaves_json_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    # From a folder beside which there are no photographs.
    here = tmp_path / "below" / "here"
    here.mkdir(parents=True)
    output = tmp_path / "output"
    command = [sys.executable, feature_pipeline.__file__, *TINY, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    # Nothing that was written meanwhile is left.
    assert sorted(file.name for file in output.iterdir()) == ["feature_pipeline.json", "feature_pipeline.png"]
    result = json.loads((output / "feature_pipeline.json").read_text())
    assert list(result) == KEYS.split()
    assert {"processor", "backend", "devices", "versions", "date"} <= set(result["machine"])
    assert result["sizes"]["units"] == 6
    left_out = [f"extraction: {extraction.NOTEBOOK}", f"read: {reading.NOTEBOOK}", f"read: {reading.TFRECORD}"]
    assert result["failures"] == ({} if ON_TENSORFLOW else dict.fromkeys(left_out, "needs KERAS_BACKEND=tensorflow"))
    for name in result["failures"]:
        assert f"Not measured: {name}: needs KERAS_BACKEND=tensorflow" in done.stdout
    check_parts(result)
    assert [goal["part"] for goal in result["goals"]] == ["extraction", "size", "read", "training"]
    for goal in result["goals"]:
        measured = ON_TENSORFLOW or goal["part"] != "read"
        assert (goal["ratio"] is not None) == (goal["reached"] is not None) == measured
        assert goal["sentence"] in done.stdout
    assert "3 JPEG files are drawn instead." in done.stdout
    assert f"| extraction: {extraction.BUILD}" in done.stdout
    assert f"{extraction.BUILD}: {result['extraction']['build']['first_batch_seconds']:.2f} s for" in done.stdout
    assert "of the rate of the files alone" in done.stdout


def check_parts(result):
    names = {
        "extraction": [extraction.BARE, extraction.BUILD, extraction.NOTEBOOK],
        "size": [reading.STORE, reading.NOTEBOOK_FILES],
        "read": [GROUPED, SINGLE, reading.NOTEBOOK, reading.TFRECORD, reading.LIMIT],
        "training": [training.FROM_STORE, training.FROM_MEMORY],
    }
    units = {"extraction": "images/s", "size": "bytes/image", "read": "captions/s", "training": "s/epoch"}
    for part, rows in names.items():
        found = result[part]
        measured = [name for name in rows if f"{part}: {name}" not in result["failures"]]
        assert [row["name"] for row in found["contenders"]] == measured
        assert found["unit"] == units[part]
        figures = {row["name"]: row["figure"] for row in found["contenders"]}
        for row in found["contenders"]:
            assert row["figure"] > 0
            base = figures.get(found["reference"])
            assert row["ratio"] == (pytest.approx(row["figure"] / base) if base else None)
            if part != "size":
                assert row["lowest"] <= row["figure"] <= row["highest"]
    about = result["extraction"]
    assert (about["photographs"], about["images"], about["batch_size"]) == ("drawn", 3, 2)
    assert (about["backbone"], about["weights"], about["image_size"]) == ("patches", None, [16, 16])
    assert set(about["build"]) == {"first_batch_seconds", "images_per_second_after_it", "ratio_after_it"}
    assert (result["read"]["images"], result["read"]["captions"]) == (5, 10)
    assert (result["training"]["images"], result["training"]["captions"]) == (1, 2)


def captions_with_features(batches):
    """Every caption of an epoch with the features that came with it, in an order of their own."""
    found = []
    for features, tokens in batches:
        features, tokens = np.asarray(features).astype("float32"), np.asarray(tokens)
        tokens = tokens.reshape(len(features), -1, tokens.shape[-1])
        for array, group in zip(features, tokens, strict=True):
            assert array.shape == (SIZES.locations, SIZES.feature_width)
            found += [(tuple(caption[caption != 0].tolist()), array.tobytes()) for caption in group]
    return sorted(found)


@pytest.fixture
def expected(synthetic):
    store = synthetic.store
    return sorted(
        (tuple(ids[ids != 0].tolist()), store.features([image_id])[0].astype("float32").tobytes())
        for image_id in store.image_ids
        for ids in synthetic.tokenizer.encode(store.captions(image_id))
    )


@pytest.mark.parametrize("name", [GROUPED, SINGLE, reading.NOTEBOOK, reading.TFRECORD])
def test_every_reader_delivers_the_same_features_and_captions(name, synthetic, expected, tmp_path):
    if name in (reading.NOTEBOOK, reading.TFRECORD) and not ON_TENSORFLOW:
        pytest.skip("its pipeline is TensorFlow's")
    dataset = {
        GROUPED: lambda: reading.our_batches(synthetic, synthetic.store, together=True),
        SINGLE: lambda: reading.our_batches(synthetic, synthetic.store, together=False),
        reading.NOTEBOOK: lambda: reading.notebook_batches(synthetic, synthetic.store),
        reading.TFRECORD: lambda: reading.tfrecord_batches(synthetic, synthetic.store, str(tmp_path / "tfrecord")),
    }[name]()
    assert len(expected) == IMAGES * 2
    assert len(set(expected)) > IMAGES
    for _ in range(2):  # every epoch
        assert captions_with_features(reading.one_epoch(dataset)) == expected
    shapes = [np.asarray(tokens).shape for _, tokens in reading.one_epoch(dataset)]
    if name in (SINGLE, reading.NOTEBOOK):
        # Batches of three captions.
        assert all(shape[0] <= 3 for shape in shapes)
        assert max(shape[0] for shape in shapes) == 3
    else:
        # Three captions are two images of two.
        assert all(shape[0] <= 2 and shape[1] == 2 for shape in shapes)


def test_records_are_spread_over_the_files(tmp_path):
    pytest.importorskip("tensorflow")
    from comparators import tfrecord

    images = [(np.full((2, 3), index, "float16"), np.ones((2, 4), "int32")) for index in range(4)]
    one, other = map(Path, tfrecord.write(str(tmp_path), images, shards=2))
    assert one.stat().st_size == other.stat().st_size > 2 * (2 * 2 * 3 + 4 * 2 * 4)


def test_a_part_of_the_images_is_read_with_its_own_captions(synthetic, expected, tmp_path):
    if not ON_TENSORFLOW:
        pytest.skip("the notebook's pipeline is TensorFlow's")
    some = synthetic.store.subset([5, 2])
    ours = captions_with_features(reading.one_epoch(reading.our_batches(synthetic, some, together=True)))
    assert len(ours) == 4
    assert set(ours) < set(expected)
    assert captions_with_features(reading.notebook_batches(synthetic, some)) == ours
    assert captions_with_features(reading.tfrecord_batches(synthetic, some, str(tmp_path / "tfrecord"))) == ours


def test_synthetic_captions_have_the_sizes_asked_for(synthetic):
    tokens = synthetic.tokens(synthetic.store.image_ids)
    assert tokens.shape == (IMAGES, 2, 7)
    lengths = (tokens != 0).sum(-1)
    assert lengths.min() >= 3
    assert lengths.max() == 7
    assert tokens.max() < 20
    features = synthetic.store.features(synthetic.store.image_ids).astype("float32")
    assert features.min() == 0 < features.max()
    # No two images are alike.
    assert len({array.tobytes() for array in features}) == IMAGES


def test_sizes_are_those_of_the_files(synthetic):
    result, failures = reading.measure_size(synthetic)
    store, notebook = result["contenders"]
    assert failures == {}
    # 4 x 8 numbers of 4 bytes behind a header of 128.
    assert notebook["figure"] == 128 + 4 * 4 * 8
    folder = Path(synthetic.store.path)
    assert {file.name for file in folder.iterdir()} >= {"manifest.json"}
    assert store["figure"] * IMAGES == sum(file.stat().st_size for file in folder.iterdir())
    # At least the features in float16 and something that tells the captions.
    assert store["figure"] > 2 * 4 * 8
    assert store["ratio"] == store["figure"] / notebook["figure"]


@pytest.fixture
def png_photographs(tmp_path):
    """Of the size that the backbone sees, and without loss: what decodes them doesn't matter."""
    from PIL import Image

    examples = []
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype="uint8")):
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).save(path)
        examples.append({"image_id": index, "image": str(path), "captions": ["noise"]})
    return examples


@pytest.mark.parametrize("backbone", ["vgg16", "patches"])
def test_every_extraction_computes_the_same_features(backbone, png_photographs, tmp_path):
    extractor = FeatureExtractor(backbone, weights=None, image_size=32)
    store = FeatureStore.build(tmp_path / "store", png_photographs, extractor, batch_size=2, dtype="float32", verbose=0)
    ours = store.features(store.image_ids)
    model, preprocess = extraction.network(extractor, backbone)
    bare = extraction._bare(extractor, model, preprocess, png_photographs, batch_size=2)
    (predict,) = bare.steps
    close = {"atol": 1e-4 * np.abs(ours).max()}
    assert np.ptp(ours, axis=0).max() > 100 * close["atol"]
    np.testing.assert_allclose(predict().reshape(ours.shape), ours, **close)
    if ON_TENSORFLOW:
        folder = tmp_path / "notebook"
        notebook = extraction._notebook(extractor, model, preprocess, png_photographs, str(folder))
        for step in notebook.steps * 2:  # what a repetition wrote doesn't stop the next
            step()
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == [f"{index:06d}.npy" for index in range(5)]
        loaded = np.stack([np.load(file) for file in files])
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded, ours, **close)


def test_a_build_of_every_repetition_starts_anew(png_photographs, tmp_path, monkeypatch):
    extractor = FeatureExtractor("patches", image_size=16)
    built = []
    monkeypatch.setattr(
        extraction.FeatureStore,
        "build",
        lambda folder, examples, *arguments, **options: (
            built.append((tmp_path / "store").exists()) or (tmp_path / "store").mkdir()
        ),
    )
    contender = extraction._build(extractor, png_photographs, str(tmp_path / "store"), 2, "float16")
    for step in contender.steps * 2:
        step()
    assert built == [False] * 4
    # The first batch alone counts for nothing in the rate.
    assert contender.seconds_weights == [0, 1 / 5]


def test_the_rate_after_a_builds_start():
    build = Timing(extraction.BUILD, 8.0, 8.0, 8.0, [2.0, 5.0], [3.0, 6.0], "")
    bare = Timing(extraction.BARE, 12.5, 12.0, 13.0, [3.2], [4.0], "")
    # 10 images in 2 s, 40 in 5 s: the 30 after the first took 3 s.
    assert extraction._beyond_the_start({extraction.BARE: bare, extraction.BUILD: build}, 40, 10) == {
        "first_batch_seconds": 2.0,
        "images_per_second_after_it": 10.0,
        "ratio_after_it": 0.8,
    }
    assert extraction._beyond_the_start({extraction.BUILD: build}, 40, 10)["ratio_after_it"] is None
    assert extraction._beyond_the_start({extraction.BUILD: build}, 10, 10) is None


def test_batches_in_memory_are_those_of_the_store(synthetic):
    def batches():
        return training.batches_of_store(synthetic, synthetic.store)

    held = training.held_in_memory(batches())
    assert sum(len(features) for features, _ in held) == IMAGES
    in_memory = training.batches_in_memory(held, range(len(held)))
    for ours, theirs in zip(reading.one_epoch(batches()), reading.one_epoch(in_memory), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    if ON_TENSORFLOW:
        # The same signature: one model takes both without tracing anew.
        assert in_memory.element_spec == batches().element_spec
        assert len(in_memory) == len(batches())


def test_goals():
    def results(ratio):
        rows = [{"name": "reference", "figure": 10.0}, {"name": "ours", "figure": 10.0 * ratio}]
        return part_result("images/s", "reference", rows)

    least, most = Goal("a", "ours", 0.9, at_least=True), Goal("b", "ours", 0.51, at_least=False)
    for goal, ratio, reached in ((least, 0.93, True), (least, 0.88, False), (most, 0.5, True), (most, 0.52, False)):
        found = goal.of(results(ratio))
        assert found["reached"] is reached
        assert found["ratio"] == pytest.approx(ratio)
    assert least.of(results(0.93))["sentence"] == (
        "Goal, a: ours, in images/s, at least 0.9 times reference: 0.93, reached."
    )
    alone = least.of(part_result("images/s", "reference", [{"name": "ours", "figure": 9.0}]))
    assert (alone["ratio"], alone["reached"]) == (None, None)
    assert alone["sentence"].endswith(": not measured.")
    assert goals_of(dict.fromkeys(goal.part for goal in GOALS)) == []


def test_a_comparator_that_fails_does_not_take_the_run_down(monkeypatch, tmp_path, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("no memory\nand a long story")

    monkeypatch.setattr(reading, "our_batches", fail)
    monkeypatch.setattr(feature_pipeline, "measure_size", fail)
    monkeypatch.setattr(feature_pipeline, "_draw", lambda *arguments: [])
    feature_pipeline.main([*TINY, "--only", "size", "read", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "feature_pipeline.json").read_text())
    failed = {f"read: {GROUPED}", f"read: {SINGLE}", "size"}
    others = set() if ON_TENSORFLOW else {f"read: {reading.NOTEBOOK}", f"read: {reading.TFRECORD}"}
    assert set(result["failures"]) == failed | others
    assert {result["failures"][name] for name in failed} == {"RuntimeError: no memory"}
    assert result["size"] is result["extraction"] is result["training"] is None
    assert result["read"]["contenders"][-1]["name"] == reading.LIMIT
    (goal,) = result["goals"]
    assert (goal["part"], goal["reached"]) == ("read", None)
    assert "Not measured: size: RuntimeError: no memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repetitions", "0"], "--repetitions must be at least 1. Received: 0."),
        (["--read-images", "-2"], "--read-images must be at least 1. Received: -2."),
        (["--image-batch-size", "0"], "--image-batch-size must be at least 1. Received: 0."),
        (["--units", "0"], "--units must be at least 1. Received: 0."),
        (["--only", "speed"], "invalid choice: 'speed'"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--backbone", "mobilnet"], "`backbone` must be 'patches', a keras.Model or the name"),
        (["--image-folder", "nowhere", "--annotations", "none.json"], "`annotations` must be an existing JSON file."),
        (["--only", "read", "--read-images", str(10**13)], "GiB are free"),
        (["--only", "size", "--read-images", str(10**13)], "GiB of disk"),
        (["--only", "training", "--batch-size", str(10**10)], "Training would need about"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        feature_pipeline.main([*TINY, *flags])
    assert message in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feature_pipeline, "FeatureExtractor", None)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match="2"):
        feature_pipeline.main([*TINY, "--output", str(file / "below")])
    printed = capsys.readouterr()
    assert "--output must be a folder that can be written to." in printed.err
    assert printed.out == ""


def test_drawn_photographs_are_different_jpeg_files(tmp_path):
    from PIL import Image

    examples = draw_photographs(str(tmp_path), 2)
    one, other = (read_image(example["image"]) for example in examples)
    assert one.shape == other.shape == (375, 500, 3)
    assert (one != other).any()
    # Neighbours differ little: a file of noise would take longer to decode than a photograph.
    assert np.abs(np.diff(one.astype(int), axis=1)).mean() < 10
    with Image.open(examples[0]["image"]) as image:
        assert image.format == "JPEG"


def test_photographs_of_several_annotations(tmp_path, monkeypatch):
    examples = draw_photographs(str(tmp_path), 3)
    for name, numbers in (("a", [1, 0]), ("b", [0, 2])):
        images = [{"id": number, "file_name": f"{number:06d}.jpg"} for number in numbers]
        captions = [{"image_id": number, "caption": f"of {name}"} for number in numbers]
        (tmp_path / f"{name}.json").write_text(json.dumps({"images": images, "annotations": captions}))
    found = find_photographs(str(tmp_path), [str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert [(e["image_id"], e["captions"]) for e in found] == [(1, ["of a"]), (0, ["of a"]), (2, ["of b"])]
    assert found[0]["image"] == examples[1]["image"]
    with pytest.raises(FileNotFoundError, match="`images` must be an existing folder"):
        find_photographs(str(tmp_path / "nowhere"), [str(tmp_path / "a.json")])
    below = tmp_path / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert find_photographs() is None
