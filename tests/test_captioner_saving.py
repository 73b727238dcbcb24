"""One file holds a captioner: what it knows, how it looks, and where its training stood."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import Perplexity

BACKEND = keras.backend.backend()
N, L, D, V = 6, 4, 5, 9
# Keras's Dropout draws from torch's own generator there, which no file holds.
DROPOUT = 0.0 if BACKEND == "torch" else 0.3


def make(cls=Captioner, dropout=0.0, **kwargs):
    return cls(FeatureEncoder(3, dropout=dropout), AttentionGRUDecoder(V, 4, 6, dropout=dropout), **kwargs)


def make_built(cls=Captioner, **kwargs):
    captioner = make(cls, **kwargs)
    captioner.build([(None, L, D), (None, None)])
    captioner.set_weights([w * 3 for w in captioner.get_weights()])
    return captioner


def features(n=N):
    return np.random.default_rng(0).normal(size=(n, L, D)).astype("float32")


def tokens():
    y = np.random.default_rng(1).integers(4, V, (N, 2, 5)).astype("int32")
    y[..., 0], y[..., -1] = 2, 3
    y[0, :, 3:] = [3, 0]
    return y


def assert_same_captions(a, b):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.attention, b.attention)
    assert a.texts == b.texts


def test_a_built_captioner_comes_back(tmp_path):
    captioner = make_built(max_length=7)
    captioner.save(tmp_path / "c.keras")
    loaded = keras.models.load_model(tmp_path / "c.keras")
    assert type(loaded) is Captioner
    assert_same_captions(loaded.generate(features()), captioner.generate(features()))
    names = [(w.name, tuple(w.shape)) for w in captioner.weights]
    assert [(w.name, tuple(w.shape)) for w in loaded.weights] == names


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_training_goes_on_as_if_never_stopped(tmp_path, penalty):
    x, y = features(), tokens()
    captioner = make(dropout=DROPOUT, attention_penalty=penalty)
    captioner.compile(
        optimizer=keras.optimizers.Adam(0.02, clipnorm=1.0),
        loss=MaskedSparseCategoricalCrossentropy(label_smoothing=0.1),
        weighted_metrics=[Perplexity()],
    )
    captioner.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    captioner.save(tmp_path / "c.keras")
    loaded = keras.models.load_model(tmp_path / "c.keras")
    assert int(loaded.optimizer.iterations) == 6
    assert loaded.loss.label_smoothing == 0.1
    never, again = (
        model.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0).history for model in (captioner, loaded)
    )
    assert set(never) == {"loss", "perplexity"}
    assert never == again
    for a, b in zip(captioner.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert captioner.evaluate(x, y, verbose=0) == loaded.evaluate(x, y, verbose=0)


def test_without_compile_arguments(tmp_path):
    captioner = make_built()
    captioner.compile(optimizer="sgd")
    captioner.save(tmp_path / "c.keras")
    loaded = keras.models.load_model(tmp_path / "c.keras", compile=False)
    assert not loaded.compiled
    loaded.compile(optimizer="sgd")
    assert loaded.evaluate(features(), tokens(), verbose=0) == captioner.evaluate(features(), tokens(), verbose=0)


def test_weights_alone(tmp_path):
    captioner, other = make_built(), make_built()
    captioner.save_weights(tmp_path / "c.weights.h5")
    other.load_weights(tmp_path / "c.weights.h5")
    assert_same_captions(other.generate(features()), captioner.generate(features()))


def with_everything(**kwargs):
    return make_built(
        tokenizer=CaptionTokenizer.fit(["a réd circle don't"], max_vocabulary=V),
        feature_extractor=FeatureExtractor("patches", image_size=32),
        max_length=5,
        attention_penalty=0.25,
        attention_target="T/L",
        name="everything",
        **kwargs,
    )


def flat_config(captioner):
    """The config, in which the parts stand with theirs: what Keras writes around it depends on what is built."""
    parts = ("encoder", "decoder", "tokenizer", "feature_extractor")
    return {**captioner.get_config(), **{part: getattr(captioner, part).get_config() for part in parts}}


def test_config_round_trip():
    # Built on features of another width than the extractor's: a config holds no weights.
    captioner = with_everything()
    config = json.loads(json.dumps(captioner.get_config()))
    again = Captioner.from_config(config)
    assert flat_config(again) == flat_config(captioner)
    assert again.name == "everything"
    assert again.tokenizer.vocabulary == captioner.tokenizer.vocabulary
    assert again.feature_extractor.grid == (2, 2)
    assert again.grid == (2, 2)
    assert again.max_length == 5
    assert (again.attention_penalty, again.attention_target) == (0.25, "T/L")
    assert again.decoder.units == captioner.decoder.units
    assert Captioner.from_config(make(grid=[3, 5]).get_config()).grid == (3, 5)


def test_the_file_holds_everything(tmp_path):
    captioner = with_everything()
    captioner.save(tmp_path / "c.keras")
    with zipfile.ZipFile(tmp_path / "c.keras") as archive:
        config = json.loads(archive.read("config.json"))["config"]
    assert config["tokenizer"]["config"]["vocabulary"] == captioner.tokenizer.vocabulary
    assert config["grid"] == [2, 2]
    assert config["feature_extractor"]["config"]["backbone"] == "patches"
    loaded = keras.models.load_model(tmp_path / "c.keras")
    assert loaded.grid == (2, 2)
    assert loaded.tokenizer.vocabulary == captioner.tokenizer.vocabulary
    assert flat_config(loaded) == flat_config(captioner)


def test_the_backbone_comes_from_the_file_alone(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("loading must not read another file")

    def backbone():
        return keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(D, 8, strides=8)])

    backbone().save_weights(tmp_path / "b.weights.h5")
    extractor = FeatureExtractor(backbone(), weights=tmp_path / "b.weights.h5")
    captioner = make(feature_extractor=extractor, tokenizer=CaptionTokenizer.fit(["a b c d e"]))
    captioner.build([(None, 16, 16, 3), (None, None)])
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    captioner.save(tmp_path / "c.keras")
    (tmp_path / "b.weights.h5").unlink()
    monkeypatch.setattr(keras.utils, "get_file", forbidden)
    monkeypatch.setattr("socket.socket.connect", forbidden)
    loaded = keras.models.load_model(tmp_path / "c.keras")
    assert loaded.grid == (2, 2)
    assert_same_captions(loaded.generate(images), captioner.generate(images))
    assert loaded.caption(images) == captioner.caption(images)


@keras.saving.register_keras_serializable(package="tests")
class Shouting(Captioner):
    """A subclass with an argument of its own."""

    def __init__(self, *args, marks=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.marks = marks

    def generate(self, *args, **kwargs):
        found = super().generate(*args, **kwargs)
        return found._replace(texts=["!" * self.marks] * len(found.tokens))

    def get_config(self):
        return {**super().get_config(), "marks": self.marks}


def test_a_subclass(tmp_path):
    captioner = make_built(Shouting, marks=3)
    captioner.compile(optimizer="sgd")
    captioner.fit(features(), tokens(), verbose=0)
    captioner.save(tmp_path / "c.keras")
    loaded = keras.models.load_model(tmp_path / "c.keras")
    assert type(loaded) is Shouting
    assert loaded.generate(features()).texts == ["!!!"] * N
    assert_same_captions(loaded.generate(features()), captioner.generate(features()))


ELSEWHERE = """
import sys
import keras, numpy as np
import keras_showattend
path, x, out = sys.argv[1:]
captioner = keras.models.load_model(path)
x = np.load(x)
found = captioner.generate(x)
y = np.array([[2, 4, 5, 3]] * len(x))
np.savez(out, *found[:3], texts=found.texts, logits=keras.ops.convert_to_numpy(captioner([x, y])),
         loss=captioner.evaluate(x, y, verbose=0), backend=keras.backend.backend())
captioner.train_on_batch(x, y)
"""

OTHERS = [name for name in ("jax", "torch") if BACKEND == "tensorflow" and importlib.util.find_spec(name)]


@pytest.mark.parametrize("backend", [BACKEND, *OTHERS])
def test_in_a_new_process(tmp_path, backend):
    captioner = make_built(tokenizer=CaptionTokenizer.fit(["a b c d e"]), max_length=6)
    captioner.compile(optimizer="adam")
    x, y = features(), np.array([[2, 4, 5, 3]] * N)
    captioner.fit(x, y, verbose=0)
    captioner.save(tmp_path / "c.keras")
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / name) for name in ("c.keras", "x.npy", "out.npz")]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *paths],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, here = np.load(tmp_path / "out.npz"), captioner.generate(x)
    assert str(found["backend"]) == backend
    np.testing.assert_array_equal(found["arr_0"], here.tokens)
    assert list(found["texts"]) == here.texts
    tolerance = {"rtol": 0, "atol": 0} if backend == BACKEND else {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(found["arr_1"], here.scores, **tolerance)
    np.testing.assert_allclose(found["arr_2"], here.attention, **tolerance)
    np.testing.assert_allclose(found["logits"], keras.ops.convert_to_numpy(captioner([x, y])), **tolerance)
    np.testing.assert_allclose(found["loss"], captioner.evaluate(x, y, verbose=0), **tolerance)
