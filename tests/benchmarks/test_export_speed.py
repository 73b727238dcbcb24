"""The benchmark of exports runs, refuses and leaves what it says; how fast anything is, no test asks."""

import json
import sys

import export_speed
import keras
import pytest
from pipeline.photographs import draw_photographs

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["export_speed.py", *map(str, flags)])
    export_speed.main()


@on_tensorflow
def test_a_tiny_run(monkeypatch, tmp_path, capsys):
    captioner = Captioner(
        FeatureEncoder(4),
        AttentionGRUDecoder(9, 4, 6),
        tokenizer=CaptionTokenizer.fit(["a b c d e"]),
        feature_extractor=FeatureExtractor("patches", image_size=32),
        max_length=3,
    )
    captioner.build([(None, 32, 32, 3), (None, None)])
    captioner.save(tmp_path / "c.keras")
    (tmp_path / "photographs").mkdir()
    draw_photographs(tmp_path / "photographs", 2)
    flags = ["--model", tmp_path / "c.keras", "--photographs", tmp_path / "photographs", "--output", tmp_path / "out"]
    run(monkeypatch, *flags, "--images", 3, "--repetitions", 1)
    result = json.loads((tmp_path / "out" / "export_speed.json").read_text())
    assert [row["name"] for row in result["contenders"]] == [export_speed.CAPTION, export_speed.EXPORTED]
    assert (result["images"], result["same_captions"], result["failures"]) == (3, 3, {})
    assert "3 of 3 captions are the same." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "0"], "--images and --repetitions must be at least 1"),
        pytest.param(["--photographs", "."], "must be a folder with JPEG files. Received: .", marks=on_tensorflow),
    ],
)
def test_refusals(monkeypatch, tmp_path, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_speed, "_captioner", lambda parser, path: None)
    with pytest.raises(SystemExit):
        run(monkeypatch, *flags)
    assert message in capsys.readouterr().err
