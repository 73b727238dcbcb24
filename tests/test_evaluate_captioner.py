"""The example that measures a saved captioner."""

import json

import keras
import numpy as np
import pytest
from example_scripts import example_script
from PIL import Image

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.decoding import BeamSearch
from keras_showattend.evaluation import evaluate_captions, read_results
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.generation import generate_together
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

CAPTIONS = {3: ["A red picture.", "all red"], 8: ["A blue picture."], 5: ["something black"]}


script = example_script("evaluate_captioner")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a captioner, photographs and their captions."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = CaptionTokenizer.fit([text for texts in CAPTIONS.values() for text in texts])
    captioner = Captioner(
        FeatureEncoder(4),
        AttentionGRUDecoder(tokenizer.vocabulary_size, 4, 8),
        tokenizer=tokenizer,
        feature_extractor=FeatureExtractor("patches", image_size=32),
        max_length=5,
    )
    captioner.build([(None, 32, 32, 3), (None, None)])
    captioner.save(folder / "captioner.keras")
    for image_id in CAPTIONS:
        Image.new("RGB", (40, 30), (image_id * 20, 0, 0)).save(folder / f"{image_id}.png")
    (folder / "4.png").write_bytes(b"no image")
    texts = {**CAPTIONS, 4: ["lost"]}
    annotations = {
        "images": [{"id": image_id, "file_name": f"{image_id}.png"} for image_id in texts],
        "annotations": [{"image_id": image_id, "caption": text} for image_id in texts for text in texts[image_id]],
    }
    (folder / "captions.json").write_text(json.dumps(annotations))
    return folder


def run(script, model, *arguments):
    files = ["--annotations", str(model / "captions.json"), "--images", str(model)]
    script.main([str(model / "captioner.keras"), *files, *arguments])


def test_everything_is_written(script, model, capsys):
    run(script, model)
    output = model / "evaluation"
    captions = read_results(output / "results.json")
    assert list(captions) == [3, 8, 5]
    metrics = json.loads((output / "metrics.json").read_text())
    figures = evaluate_captions(captions, CAPTIONS)
    assert {name: metrics[name] for name in figures} == figures
    assert (metrics["images"], metrics["left_out"], metrics["decoding"]) == (3, 1, "greedy")
    for name in ("best", "worst"):
        assert min(Image.open(output / f"{name}.png").size) > 100
    printed = capsys.readouterr().out
    assert "4.png" in printed
    assert f"BLEU-1   {100 * figures['bleu1']:6.1f}" in printed
    # The captions are those of the captioner itself.
    captioner = keras.models.load_model(model / "captioner.keras")
    assert captioner.caption([str(model / f"{image_id}.png") for image_id in captions]) == list(captions.values())


def test_beam_search_of_the_first_images_with_other_weights(script, model, tmp_path):
    captioner = keras.models.load_model(model / "captioner.keras")
    for weight in captioner.decoder.trainable_variables:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    captioner.save_weights(tmp_path / "other.weights.h5")
    options = ["--beam", "2", "--max-images", "2", "--batch-size", "1", "--output", str(tmp_path / "out")]
    run(script, model, *options, "--weights", str(tmp_path / "other.weights.h5"))
    captions = read_results(tmp_path / "out" / "results.json")
    paths = [str(model / f"{image_id}.png") for image_id in (3, 8)]
    expected = captioner.caption(paths, decoding=BeamSearch(width=2))
    assert captions == dict(zip((3, 8), expected, strict=True))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["decoding"] == "beam search of width 2"


def test_best_and_worst_are_the_ends_of_the_ranking(script, model, monkeypatch, tmp_path):
    scores = {3: 1.0, 8: 3.0, 5: 2.0}
    monkeypatch.setattr(script, "SAMPLES", 2)
    monkeypatch.setattr(script.CiderD, "scores", lambda self, captions: scores)
    drawn = {}
    monkeypatch.setattr(script, "write_picture", lambda path, *rest: drawn.update({path.name: rest[-1]}))
    run(script, model, "--output", str(tmp_path))
    assert drawn == {"best.png": [8, 5], "worst.png": [3, 5]}


@pytest.mark.parametrize("option", ["--beam", "--max-images", "--batch-size"])
def test_numbers_are_checked(script, model, capsys, option):
    with pytest.raises(SystemExit):
        run(script, model, option, "0")
    assert f"{option} must be at least 1. Received: 0." in capsys.readouterr().err


def test_a_length_penalty_is_of_a_beam(script, model, capsys):
    with pytest.raises(SystemExit):
        run(script, model, "--length-penalty", "average")
    assert "--length-penalty is of a beam search: it needs --beam." in capsys.readouterr().err


def test_no_model(script, model, tmp_path):
    with pytest.raises(SystemExit, match="There is no file"):
        script.main([str(tmp_path / "nothing.keras"), "--annotations", "a.json", "--images", "."])


def test_the_consensus_of_stored_images_chooses_among_the_captions_of_a_beam(script, model, tmp_path, monkeypatch):
    run(script, model, "--output", str(tmp_path / "first"))
    asked = []

    class Second:
        """Takes the second caption of each image, where those of images like it would decide."""

        def __init__(self, store):
            asked.append(store.image_ids)

        def rerank(self, generation, features):
            asked.append(features.shape[0])
            texts = [captions[1] for captions in generation.texts]
            return generation._replace(texts=texts, attention=generation.attention[:, 1])

    monkeypatch.setattr(script, "NeighborConsensus", Second)
    store = str(tmp_path / "first" / "features")
    run(script, model, "--output", str(tmp_path), "--beam", "2", "--consensus", store, "--length-penalty", "average")
    assert asked == [[3, 8, 5], 3, 3, 3]  # the captions, and two pictures of all three images
    captioner = keras.models.load_model(model / "captioner.keras")
    features = FeatureStore.open(store).features([3, 8, 5])
    search = BeamSearch(width=2, length_penalty="average", n_best=2)
    expected = [captions[1] for captions in captioner.generate(features, decoding=search).texts]
    assert list(read_results(tmp_path / "results.json").values()) == expected
    assert json.loads((tmp_path / "metrics.json").read_text())["decoding"] == "beam search of width 2 and consensus"


def test_two_captioners(script, model, tmp_path, monkeypatch):
    run(script, model, "--output", str(tmp_path / "first"))
    store = FeatureStore.open(tmp_path / "first" / "features")
    features = store.features(store.image_ids)
    first, second = (keras.models.load_model(model / "captioner.keras") for _ in range(2))
    # One likes a word, the other is sure of a second one.
    for captioner, word, sure in ((first, 4, 3.0), (second, 5, 20.0)):
        bias = captioner.decoder.vocabulary.bias
        bias.assign(sure * np.eye(bias.shape[0])[word])
        captioner.save(tmp_path / f"{word}.keras")
    files = ["--annotations", str(model / "captions.json"), "--images", str(model), "--output", str(tmp_path)]
    arguments = [str(tmp_path / "4.keras"), "--others", str(tmp_path / "5.keras"), "--beam", "2", *files]

    script.main(arguments)
    expected = generate_together([first, second], features, BeamSearch(width=2)).texts
    assert expected != first.generate(features, BeamSearch(width=2)).texts
    assert list(read_results(tmp_path / "results.json").values()) == expected
    decoding = json.loads((tmp_path / "metrics.json").read_text())["decoding"]
    assert decoding == "2 captioners, beam search of width 2"

    class Last:
        """Takes the last candidate of each image, where those of images like it would decide."""

        def __init__(self, store):
            pass

        def rerank(self, generation, features):
            texts = [captions[-1] for captions in generation.texts]
            return generation._replace(texts=texts, attention=generation.attention[:, -1])

    monkeypatch.setattr(script, "NeighborConsensus", Last)
    script.main([*arguments, "--consensus", str(store.path)])
    expected = [captions[1] for captions in second.generate(features, BeamSearch(width=2, n_best=2)).texts]
    assert list(read_results(tmp_path / "results.json").values()) == expected


def test_a_consensus_needs_several_captions(script, model, capsys):
    for arguments in ([], ["--beam", "1"]):
        with pytest.raises(SystemExit):
            run(script, model, "--consensus", str(model), *arguments)
        assert "--beam must be at least 2" in capsys.readouterr().err
