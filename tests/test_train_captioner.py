"""What `examples/train_captioner.py` decides by itself; its other runs are the continuous integration's."""

import json

import keras
import numpy as np
import pytest
from example_scripts import example_script
from PIL import Image

import keras_showattend
from keras_showattend.datasets import shape_scenes
from keras_showattend.decoding import BeamSearch
from keras_showattend.evaluation import read_results
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.reranking import NeighborConsensus, pool_candidates

script = example_script("train_captioner")


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a dog left of a cat", "a dog right of a cat"),
        ("Left, then RIGHT.", "right, then left."),
        ("a bright, leftover light", "a bright, leftover light"),
    ],
)
def test_sides_change_in_a_mirrored_caption(script, caption, mirrored):
    assert script.swap_sides(caption) == mirrored


def test_flags_win_over_the_recipe_and_the_recipe_over_the_data_set(script):
    options = script.parse_arguments(["--output", "o", "--recipe", "best", "--epochs", "2", "--no-context-gate"])
    assert (options.epochs, options.context_gate) == (2, False)
    assert (options.dropout, options.monitor) == (0.5, "val_cider_d")  # the recipe's
    assert options.backbone == "patches"  # the data set's


def test_without_a_recipe_the_data_set_decides(script):
    options = script.parse_arguments(["--output", "o"])
    assert (options.epochs, options.dropout, options.self_critical_epochs) == (4, 0.0, 0)


def test_what_tells_the_best_epoch_must_be_measured_in_both_trainings(script, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--output", "o", "--self-critical-epochs", "3"])
    assert "--self-critical-epochs needs --monitor val_cider_d" in capsys.readouterr().err


def test_averages_of_one_training_do_not_reach_into_the_next(script, tmp_path):
    # A callback that swaps averages in and out, used again, would begin by swapping in averages that are still zeros.
    flags = "--recipe best --epochs 1 --self-critical-epochs 1 --self-critical-learning-rate 0"
    sizes = "--units 8 --attention-units 8 --embed-dim 8"
    options = script.parse_arguments(["--output", str(tmp_path), *flags.split(), *sizes.split()])
    scenes = [{**scene, "image_id": i} for i, scene in enumerate(shape_scenes.load_scenes(count=8))]
    extractor = FeatureExtractor("patches")
    store = FeatureStore.build(tmp_path / "store", scenes, extractor, verbose=0)
    texts = [text for scene in scenes for text in scene["captions"]]
    tokenizer = keras_showattend.CaptionTokenizer.fit(texts)
    captioner = script.build_captioner(options, extractor, tokenizer, 8, 1)
    script.train(captioner, store.batches(tokenizer, 8, seed=0), None, [], 1, options)
    trained = captioner.get_weights()
    script.train_self_critically(captioner, store, [], 0, options)
    assert any(np.abs(weights).max() > 0 for weights in trained)
    for weights, still in zip(trained, captioner.get_weights(), strict=True):
        np.testing.assert_allclose(still, weights, rtol=1e-6)


def test_mirrored_images_stand_behind_the_others_and_are_computed_once(script, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    examples = [{"image_id": i, "image": image, "captions": [f"a dog left of {i}"]} for i, image in enumerate(images)]
    extractor = FeatureExtractor("patches", weights=None, image_size=32)
    store = FeatureStore.build(tmp_path / "train", examples, extractor, verbose=0).subset([0, 2])
    both = script.add_mirrored(store, {"train": examples}, extractor)
    assert both.image_ids == [0, 2, "mirrored-0", "mirrored-2"]
    assert both.captions("mirrored-2") == ["a dog right of 2"]
    np.testing.assert_array_equal(both.features([0, 2]), store.features([0, 2]))
    mirrored = [{**example, "image": example["image"][:, ::-1]} for example in examples]
    expected = FeatureStore.build(tmp_path / "mirrored", mirrored, extractor, verbose=0).features([0, 2])
    np.testing.assert_array_equal(both.features(["mirrored-0", "mirrored-2"]), expected)
    monkeypatch.setattr(script, "read_image", None)  # nothing is read again
    assert script.add_mirrored(store, {"train": examples}, extractor).image_ids == both.image_ids


def write_photographs(tmp_path):
    """Two splits of four photographs, and the flags that name them."""
    colors = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "white": (250, 250, 250)}
    for split in ("train", "dev"):
        for image_id, color in enumerate(colors.values()):
            Image.new("RGB", (32, 32), color).save(tmp_path / f"{split}{image_id}.png")
        annotations = {
            "images": [{"id": f"{split}{i}", "file_name": f"{split}{i}.png"} for i in range(len(colors))],
            "annotations": [{"image_id": f"{split}{i}", "caption": f"a {name} one"} for i, name in enumerate(colors)],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(annotations))
    return f"--annotations {tmp_path}/train.json --validation-annotations {tmp_path}/dev.json --images {tmp_path}"


def test_two_captioners_of_photographs_write_the_captions_that_their_neighbors_agree_with(script, tmp_path):
    data = write_photographs(tmp_path)
    sizes = "--backbone patches --units 4 --attention-units 4 --embed-dim 4 --batch-size 2 --beam 2"
    short = "--epochs 1 --self-critical-epochs 1 --self-critical-batch-size 4"
    output = tmp_path / "run"
    script.main(f"--output {output} --recipe best --dataset coco-json {data} {sizes} {short}".split())

    captioners = [keras.models.load_model(output / name) for name in ("captioner.keras", "captioner_2.keras")]
    first, second = (captioner.get_weights() for captioner in captioners)
    assert any(np.abs(one - other).max() > 0.01 for one, other in zip(first, second, strict=True))
    stores = [FeatureStore.open(output / "features" / name) for name in ("train", "validation")]
    features = stores[1].features(stores[1].image_ids)
    search = BeamSearch(width=2, length_penalty="average", n_best=2)
    pooled = pool_candidates([captioner.generate(features, search) for captioner in captioners])
    expected = NeighborConsensus(stores[0]).rerank(pooled, features).texts
    assert list(read_results(output / "results.json").values()) == expected
    for name in ("history.png", "history_2.png", "self_critical_2.png", "captions.png", "metrics.json"):
        assert (output / name).exists()


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("--captioners", "0", "at least 1"),
        ("--epochs", "0", "at least 1"),
        ("--beam", "0", "at least 1"),
        ("--samples", "1", "at least 2"),
        ("--self-critical-epochs", "-1", "at least 0"),
        ("--self-critical-batch-size", "0", "at least 1"),
        ("--self-critical-learning-rate", "nan", "a finite number >= 0"),
        ("--learning-rate", "inf", "a finite number >= 0"),
    ],
)
def test_numbers_are_checked(script, capsys, flag, value, rule):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--output", "o", "--recipe", "best", flag, value])
    assert f"{flag} must be {rule}. Received: {value}." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("split", "flags", "refused"), [("train", "--recipe best", True), ("dev", "", True), ("train", "", False)]
)
def test_captions_that_nothing_can_be_scored_against_are_found_before_the_training(
    script, tmp_path, monkeypatch, split, flags, refused
):
    class Trained(Exception):
        pass

    def train_one(*args):
        raise Trained

    monkeypatch.setattr(script, "train_one", train_one)
    data = write_photographs(tmp_path)
    annotations = json.loads((tmp_path / f"{split}.json").read_text())
    annotations["annotations"][2]["caption"] = "\N{DOG FACE}"
    (tmp_path / f"{split}.json").write_text(json.dumps(annotations))
    message = f"must have words. Received: '\N{DOG FACE}' for image_id='{split}2'"
    error, match = (ValueError, message) if refused else (Trained, None)
    with pytest.raises(error, match=match):
        script.main(f"--output {tmp_path}/run --dataset coco-json --backbone patches {data} {flags}".split())
