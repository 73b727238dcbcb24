import os
import pathlib

import keras
import numpy as np
import pytest

pytest.importorskip("apache_beam")

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image
from reporting_layers import REPORT, Reporting, reported
from shelf import Shelf

from keras_showattend.features import FeatureExtractor, FeatureStore, disk
from keras_showattend.features.beam import building, pipeline, worker

# What Beam's DirectRunner comes to; that one would first look for a program on the web.
RUNNER = "--runner=FnApiRunner"


def make_extractor(seed=0, layers=()):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.Conv2D(3, 8, 8)])
    return FeatureExtractor(model)


@pytest.fixture
def examples(tmp_path):
    """Eleven examples: three shards of `build_options`."""
    images = np.random.default_rng(5).integers(0, 256, (11, 20, 24, 3)).astype("uint8")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return [
        {"image_id": 10 * number, "image": folder / f"{number}.png", "captions": [f"Bär {number}\u2028", "other"]}
        for number in range(len(images))
    ]


@pytest.fixture
def loaded(monkeypatch):
    """Names of the image files that were loaded by workers in this process."""
    names = []

    def watched(extractor, image):
        names.append(pathlib.Path(image).name)
        return load(extractor, image)

    load = worker.load_pixels
    monkeypatch.setattr(worker, "load_pixels", watched)
    return names


def build(path, examples, extractor=None, **options):
    options = {"batch_size": 2, "shard_size": 4, **options}
    return building.build_store(path, examples, extractor or make_extractor(), **options)


def build_locally(path, examples, extractor=None, **options):
    options = {"batch_size": 2, "shard_size": 4, "verbose": 0, **options}
    return FeatureStore.build(path, examples, extractor or make_extractor(), **options)


def contents(path):
    return {file.name: file.read_bytes() for file in sorted(pathlib.Path(path).iterdir())}


def replace_pipeline(monkeypatch, function):
    """Runs `function(numbers, job, run)` instead, where `run(numbers, job)` runs the pipeline."""
    run = building.run_pipeline
    monkeypatch.setattr(
        building,
        "run_pipeline",
        lambda numbers, job, options: function(numbers, job, lambda numbers, job: run(numbers, job, options)),
    )


@pytest.mark.parametrize(
    ("dtype", "flags"),
    [("float16", None), ("bfloat16", [RUNNER]), ("float32", ["--runner=DirectRunner", "--prism_location=none"])],
)
def test_equals_the_local_build(tmp_path, monkeypatch, examples, dtype, flags):
    build_locally(tmp_path / "local", examples, dtype=dtype)
    options = flags and PipelineOptions(flags)
    # Neither the program's own arguments nor the current folder mean anything to a worker.
    monkeypatch.setattr("sys.argv", ["program", "--runner=DataflowRunner"])
    monkeypatch.chdir(tmp_path)
    store = build("beam", examples[::-1], dtype=dtype, pipeline_options=options)
    assert store.image_ids == [10 * number for number in range(11)][::-1]
    store.verify()
    build_locally(tmp_path / "reversed", examples[::-1], dtype=dtype)
    assert contents(tmp_path / "beam") == contents(tmp_path / "reversed")
    relative = [{**example, "image": os.path.relpath(example["image"])} for example in examples]
    build(tmp_path / "relative", iter(relative), dtype=dtype, pipeline_options=options)
    assert contents(tmp_path / "relative") == contents(tmp_path / "local")


def test_two_processes_load_the_backbone_once_each(tmp_path, monkeypatch, examples):
    extractor = make_extractor(layers=[Reporting()])
    build_locally(tmp_path / "local", examples, extractor, shard_size=2)
    monkeypatch.setenv(REPORT, str(tmp_path / "report"))
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parent), prepend=os.pathsep)
    # As on another machine.
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    options = PipelineOptions([RUNNER, "--direct_running_mode=multi_processing", "--direct_num_workers=2"])
    build(tmp_path / "beam", examples, extractor, shard_size=2, pipeline_options=options)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    processes = reported()
    assert len(processes) == len(set(processes)) == 2
    assert os.getpid() not in processes


def test_one_process_loads_the_backbone_once_a_build(tmp_path, monkeypatch, examples):
    monkeypatch.setenv(REPORT, str(tmp_path / "report"))
    extractor = make_extractor(layers=[Reporting()])
    options = PipelineOptions([RUNNER, "--direct_running_mode=multi_threading", "--direct_num_workers=3"])
    build(tmp_path / "store", examples, extractor, pipeline_options=options)
    assert reported() == [os.getpid()]
    build(tmp_path / "other", examples, extractor, pipeline_options=options)
    assert reported() == [os.getpid()] * 2
    # Nothing stays in the memory of the process that builds.
    assert not worker._loaded


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_of_low_precision(tmp_path, policy):
    layer = keras.layers.Conv2D(3, 8, 8, dtype=policy)
    extractor = FeatureExtractor(keras.Sequential([keras.Input((16, 16, 3)), layer]))
    rebuilt = worker.unpack_extractor(*worker.pack_extractor(extractor))
    assert keras.backend.standardize_dtype(rebuilt.weights[0].dtype) == policy
    assert rebuilt.fingerprint() == extractor.fingerprint()


class TestGoingOn:
    def test_a_failure_keeps_what_is_finished(self, tmp_path, monkeypatch, examples, loaded):
        build_locally(tmp_path / "local", examples)

        def lose_the_second(numbers, job, run):
            run([number for number in numbers if number != 1], job)
            raise RuntimeError("a machine was lost")

        with monkeypatch.context() as patch:
            replace_pipeline(patch, lose_the_second)
            with pytest.raises(RuntimeError, match="a machine was lost"):
                build(tmp_path / "store", examples)
        # The first shard is in the store; the third one waits.
        assert FeatureStore.open(tmp_path / "store").image_ids == [0, 10, 20, 30]
        del loaded[:]
        store = build(tmp_path / "store", examples)
        assert sorted(loaded) == ["4.png", "5.png", "6.png", "7.png"]
        assert len(store) == 11
        assert contents(tmp_path / "store") == contents(tmp_path / "local")

    def test_a_pipeline_that_ends_early(self, tmp_path, monkeypatch, examples):
        replace_pipeline(monkeypatch, lambda numbers, job, run: run(numbers[1:], job))
        with pytest.raises(RuntimeError, match=r"without 1 of 3 shards, the first one 0\. .*build again"):
            build(tmp_path / "store", examples)
        with pytest.raises(FileNotFoundError, match="no feature store"):
            FeatureStore.open(tmp_path / "store")

    @pytest.fixture
    def stopped(self, tmp_path, monkeypatch, examples):
        """A folder whose build was stopped when the pipeline had ended."""

        def stop(numbers, job, run):
            run(numbers, job)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            replace_pipeline(patch, stop)
            with pytest.raises(KeyboardInterrupt):
                build(tmp_path / "store", examples)
        return tmp_path / "store"

    def test_nothing_is_computed_twice(self, tmp_path, examples, stopped, loaded):
        build(stopped, examples)
        assert not loaded
        build_locally(tmp_path / "local", examples)
        assert contents(stopped) == contents(tmp_path / "local")

    def test_only_results_of_the_same_examples_count(self, tmp_path, examples, stopped, loaded):
        examples[5]["captions"] = ["something else"]
        build(stopped, examples)
        assert sorted(loaded) == ["4.png", "5.png", "6.png", "7.png"]
        build_locally(tmp_path / "local", examples)
        assert contents(stopped) == contents(tmp_path / "local")

    @pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"extractor": make_extractor(seed=1)}])
    def test_only_results_of_the_same_features_count(self, tmp_path, examples, stopped, loaded, options):
        build(stopped, examples, **options)
        assert len(loaded) == 11
        build_locally(tmp_path / "local", examples, **options)
        assert contents(stopped) == contents(tmp_path / "local")

    def test_only_results_with_their_files_count(self, examples, stopped, loaded):
        (stopped / "captions-00002.jsonl").unlink()
        build(stopped, examples)
        assert sorted(loaded) == ["10.png", "8.png", "9.png"]


class TestExistingStore:
    def test_new_images_extend_it(self, tmp_path, examples, loaded):
        for name, first in (("local", build_locally), ("mixed", build_locally), ("beam", build)):
            first(tmp_path / name, examples[:6])
        build_locally(tmp_path / "local", examples)
        del loaded[:]
        for name in ("mixed", "beam"):
            store = build(tmp_path / name, examples[:2] + examples[4:])
            assert store.image_ids == [0, 10, *range(40, 110, 10)]
        assert sorted(loaded) == sorted(2 * [f"{number}.png" for number in range(6, 11)])
        for name in ("mixed", "beam"):
            assert contents(tmp_path / name) == contents(tmp_path / "local")

    def test_no_pipeline_for_nothing(self, tmp_path, monkeypatch, examples):
        build_locally(tmp_path / "store", examples)
        before = contents(tmp_path / "store")
        monkeypatch.setattr(building, "run_pipeline", None)
        assert len(build(tmp_path / "store", examples)) == 11
        assert contents(tmp_path / "store") == before

    def test_images_that_are_in_it_need_no_path(self, tmp_path, examples):
        build_locally(tmp_path / "store", examples[:4])
        arrays = [{**example, "image": np.zeros((2, 2, 3), "uint8")} for example in examples[:4]]
        assert len(build(tmp_path / "store", arrays + examples[4:])) == 11

    def test_a_damaged_one_is_refused(self, tmp_path, examples):
        build_locally(tmp_path / "store", examples)
        (tmp_path / "store" / "features-00001.npy").write_bytes(b"short")
        (tmp_path / "store" / "captions-00002.jsonl").unlink()
        with pytest.raises(ValueError, match=r"damaged: features-00001.npy, captions-00002.jsonl\. FeatureStore.build"):
            build(tmp_path / "store", examples)

    def test_captions_are_compared_byte_by_byte(self, tmp_path, examples):
        build_locally(tmp_path / "store", examples)
        path = tmp_path / "store" / "captions-00001.jsonl"
        path.write_bytes(path.read_bytes().replace(b"other", b"0ther"))
        with pytest.raises(ValueError, match=r"damaged: captions-00001\.jsonl"):
            build(tmp_path / "store", examples)

    def test_another_extractor_is_refused(self, tmp_path, examples):
        build_locally(tmp_path / "store", examples)
        with pytest.raises(ValueError, match="holds features of another extractor"):
            build(tmp_path / "store", examples, make_extractor(seed=1))

    def test_other_captions_are_refused(self, tmp_path, examples):
        build_locally(tmp_path / "store", examples)
        examples[3]["captions"] = ["something else"]
        with pytest.raises(ValueError, match="captions of image_id=30 differ"):
            build(tmp_path / "store", examples)

    def test_one_builder_at_a_time(self, tmp_path, examples):
        build_locally(tmp_path / "store", examples[:1])
        with disk.locked(tmp_path / "store"), pytest.raises(OSError, match="another build at work"):
            build(tmp_path / "store", examples)


class TestUnreadableImages:
    @pytest.fixture
    def broken(self, examples):
        """The examples, with an image that is none and one that is missing."""
        examples[1]["image"].write_bytes(b"no image")
        examples[6]["image"].unlink()
        return examples

    def test_are_named(self, tmp_path, monkeypatch, broken):
        def wrap(numbers, job, run):
            try:
                run(numbers, job)
            except Exception:
                raise RuntimeError("what a runner makes of it") from None

        replace_pipeline(monkeypatch, wrap)
        with pytest.raises(ValueError, match=r"image_id=10 .*1\.png.*format is unknown.*on_error='skip'"):
            build(tmp_path / "store", broken)
        # The second one stops the rest only.
        with pytest.raises(FileNotFoundError, match=r"image_id=60 .*6\.png.*on_error='skip'"):
            build(tmp_path / "store", broken[2:])

    def test_are_skipped(self, tmp_path, broken):
        store = build(tmp_path / "store", broken, on_error="skip")
        build_locally(tmp_path / "local", broken, on_error="skip")
        assert list(store.skipped) == [10, 60]
        assert store.image_ids == [0, 20, 30, 40, 50, 70, 80, 90, 100]
        assert contents(tmp_path / "store") == contents(tmp_path / "local")

    def test_come_last_when_they_can_be_read(self, tmp_path, broken):
        for name, function in (("store", build), ("local", build_locally)):
            function(tmp_path / name, broken, on_error="skip")
        Image.new("RGB", (30, 20)).save(broken[6]["image"])
        for name, function in (("store", build), ("local", build_locally)):
            store = function(tmp_path / name, broken, on_error="skip")
            assert list(store.skipped) == [10]
            assert FeatureStore.open(tmp_path / name).image_ids[-1] == 60
        assert contents(tmp_path / "store") == contents(tmp_path / "local")

    def test_a_result_without_them_does_not_count_where_they_must_be_read(self, tmp_path, monkeypatch, broken, loaded):
        def stop(numbers, job, run):
            run(numbers, job)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            replace_pipeline(patch, stop)
            with pytest.raises(KeyboardInterrupt):
                build(tmp_path / "store", broken, on_error="skip")
        for number in (1, 6):
            Image.new("RGB", (30, 20)).save(broken[number]["image"])
        del loaded[:]
        build(tmp_path / "store", broken)
        assert len(loaded) == 8
        build_locally(tmp_path / "local", broken)
        assert contents(tmp_path / "store") == contents(tmp_path / "local")

    def test_there_must_be_another_one(self, tmp_path, broken):
        with pytest.raises(ValueError, match=r"None of the 1 images could be read.*image_id=10"):
            build(tmp_path / "store", broken[1:2], on_error="skip")

    def test_features_that_overflow_are_named(self, tmp_path, examples):
        extractor = FeatureExtractor(
            keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Rescaling(1e4), keras.layers.AveragePooling2D(8)])
        )
        with pytest.raises(ValueError, match=r"image_id=0 are not finite in float16"):
            build(tmp_path / "store", examples, extractor)


class TestUrls:
    @pytest.fixture
    def shelf(self, tmp_path, monkeypatch):
        folder = tmp_path / "shelf"
        folder.mkdir()
        monkeypatch.setattr(Shelf, "root", str(folder))
        return folder

    @pytest.mark.parametrize("has_dirs", [True, False])
    def test_of_the_store(self, tmp_path, monkeypatch, examples, shelf, has_dirs):
        # A bucket has no folders: it lists the files whose names begin so, of which there may be none.
        monkeypatch.setattr(Shelf, "has_dirs", lambda self: has_dirs)
        build_locally(tmp_path / "local", examples[:6])
        build_locally(tmp_path / "local", examples)
        assert build("shelf://stores/mine/", examples[:6]) is None
        assert build("shelf://stores/mine", examples) is None
        assert build("shelf://stores/mine", examples) is None
        expected = contents(tmp_path / "local")
        del expected[".lock"]
        assert contents(shelf / "stores" / "mine") == expected

    def test_of_a_store_that_goes_on(self, tmp_path, monkeypatch, examples, shelf, loaded):
        with monkeypatch.context() as patch:
            replace_pipeline(patch, lambda numbers, job, run: run(numbers[1:], job))
            with pytest.raises(RuntimeError, match="without 1 of 3 shards"):
                build("shelf://store", examples)
        del loaded[:]
        build("shelf://store", examples)
        assert len(loaded) == 4
        assert len(FeatureStore.open(shelf / "store")) == 11

    def test_of_a_damaged_store(self, examples, shelf):
        build("shelf://store", examples)
        (shelf / "store" / "features-00001.npy").unlink()
        with pytest.raises(ValueError, match=r"damaged: features-00001\.npy"):
            build("shelf://store", examples)

    def test_of_images(self, tmp_path, examples, shelf):
        for example in examples:
            (shelf / example["image"].name).write_bytes(example["image"].read_bytes())
        (shelf / "3.png").write_bytes(b"no image")
        (shelf / "4.png").unlink()
        urls = [{**example, "image": f"shelf://{example['image'].name}"} for example in examples]
        build(tmp_path / "store", [example for example in urls if example["image_id"] not in (30, 40)])
        whole = [example for example in examples if example["image_id"] not in (30, 40)]
        build_locally(tmp_path / "local", whole)
        assert contents(tmp_path / "store") == contents(tmp_path / "local")
        with pytest.raises(ValueError, match=r"image_id=30 .*'shelf://3.png': .*format is unknown"):
            build(tmp_path / "store", urls)
        store = build(tmp_path / "store", urls, on_error="skip")
        assert list(store.skipped) == [30, 40]

    def test_without_a_file_system(self, examples):
        with pytest.raises(ValueError, match="nosuch://store"):
            build("nosuch://store", examples)

    def test_wildcards(self, examples):
        with pytest.raises(ValueError, match=r"`path` must not hold wildcards.*shelf://st\*re"):
            build("shelf://st*re", examples)

    def test_a_listing_that_fails_is_no_empty_store(self, monkeypatch, examples, shelf):
        build("shelf://store", examples)

        def fail(self, path):
            raise BeamIOError("List operation failed", {path: "no permission"})

        monkeypatch.setattr(Shelf, "_list", fail)
        with pytest.raises(BeamIOError, match="no permission"):
            build("shelf://store", examples)


class TestWorkers:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"backend": "other"}, "set KERAS_BACKEND=other in their environment"),
            ({"fingerprint": {"backbone": "other"}}, "another one on this worker; Keras may have another version"),
        ],
    )
    def test_give_other_features(self, tmp_path, monkeypatch, examples, change, message):
        replace_pipeline(monkeypatch, lambda numbers, job, run: run(numbers, {**job, **change}))
        with pytest.raises(RuntimeError, match=message):
            build(tmp_path / "store", examples)

    def test_do_not_know_a_class(self, tmp_path, examples):
        class Unregistered(keras.layers.Layer):
            def call(self, x):
                return x

        with pytest.raises(RuntimeError, match=r"(?s)can't be rebuilt.*register_keras_serializable.*Unregistered"):
            build(tmp_path / "store", examples, make_extractor(layers=[Unregistered()]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"shard_size": True}, "`shard_size` must be a positive integer"),
        ({"dtype": "float64"}, "`dtype` must be one of"),
        ({"on_error": "ignore"}, "`on_error` must be 'raise' or 'skip'"),
        ({"extractor": "patches"}, "`extractor` must be a FeatureExtractor. Received: str"),
        ({"pipeline_options": [RUNNER]}, "`pipeline_options` must be Beam's PipelineOptions or None. Received: list"),
        ({"examples": []}, "`examples` must hold at least one image"),
        ({"examples": [{"image_id": 1}]}, "must be a dict with `image_id`, `image` and `captions`"),
    ],
)
def test_wrong_arguments(tmp_path, examples, change, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "store", **{"examples": examples, **change})


@pytest.mark.parametrize("image", [b"bytes of a file", np.zeros((2, 2, 3), "uint8")])
def test_images_must_be_paths(tmp_path, examples, image):
    examples[7]["image"] = image
    with pytest.raises(ValueError, match=rf"must be a path or URL .* type {type(image).__name__} of image_id=70"):
        build(tmp_path / "store", examples)


def test_a_pipeline_of_many_shards_is_small():

    assert pipeline._ranges([3, 4, 5, 9, 11, 12]) == [(3, 6), (9, 10), (11, 13)]
    assert pipeline._ranges(range(400_000)) == [(0, 400_000)]
