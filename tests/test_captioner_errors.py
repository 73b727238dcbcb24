"""What does not fit is refused before anything runs, by an error that names the argument, the rule and the value."""

import re

import keras
import numpy as np
import pytest

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

N, L, D, V = 3, 4, 5, 9
X = np.ones((N, L, D), "float32")
Y = np.array([[2, 4, 5, 3], [2, 6, 3, 0], [2, 8, 8, 3]])
WORDS = CaptionTokenizer.fit(["a b c d e"])


def make(**kwargs):
    return Captioner(FeatureEncoder(3), AttentionGRUDecoder(V, 4, 6), **kwargs)


@pytest.fixture(scope="module")
def built():
    captioner = make()
    captioner.compile()
    captioner.build([(None, L, D), (None, None)])
    return captioner


def with_images():
    captioner = make(feature_extractor=FeatureExtractor("patches", image_size=32), tokenizer=WORDS)
    captioner.build([(None, 32, 32, 3), (None, None)])
    return captioner


def changed(value):
    y = Y.copy()
    y[1, 1] = value
    return y


def no_start():
    y = Y.copy()
    y[2, 0] = 4
    return y


BATCHES = {
    "x of rank 2": (X[:, 0], Y, None, "`x` must be features .* Received: x.shape=(3, 5)."),
    "x of rank 5": (X[..., None, None], Y, None, "`x` must be features .* Received: x.shape=(3, 4, 5, 1, 1)."),
    "x of another width": (X[..., :4], Y, None, "`x` must have the feature width 5 .* Received: x.shape=(3, 4, 4)."),
    "grid of another width": (X[:, None, :, :2], Y, None, "`x` must have the feature width 5 .* x.shape=(3, 1, 4, 2)."),
    "y of rank 1": (X, Y[0], None, "`y` must be token ids of the shape .* Received: y.shape=(4,)."),
    "y of rank 4": (X, Y[:, None, None], None, "`y` must be token ids of the shape .* y.shape=(3, 1, 1, 4)."),
    "one token": (X, Y[:, :1], None, "`y` must have at least two tokens .* Received: y.shape=(3, 1)."),
    "id too large": (X, changed(9), None, "`y` must hold ids from 0 to vocab_size - 1 = 8. Received: ids from 0 to 9."),
    "id below 0": (X, changed(-2), None, "`y` must hold ids from 0 to vocab_size - 1 = 8. .* ids from -2 to 8."),
    "no start": (X, no_start(), None, "Every caption in `y` must begin with the start id 2. .* begins with 4"),
    "no start in a group": (X, no_start()[:, None], None, "Every caption in `y` must begin with the start id 2."),
    "padding in front": (X, changed(4)[:, ::-1], None, "must begin with the start id 2. .* begins with 3"),
    "padding alone": (X, 0 * Y, None, "`y` must have a caption that is not empty. Received: padding only."),
    "ids as floats": (X, Y.astype("float32"), None, "`y` must be integer token ids. Received: y.dtype=float32."),
    "ids as words": (X, [["a", "b"]] * N, None, "`y` must hold numbers. Received: y.dtype=<U1."),
    "captions of unequal length": (X, [[2, 3], [2, 4, 3], [2, 3]], None, "`y` must be an array, its rows of one shape"),
    "no rows": (X[:0], Y[:0], None, "`x` and `y` must not be empty. Received: x.shape=(0, 4, 5), y.shape=(0, 4)."),
    "no captions": (X, Y[:, None][:, :0], None, "`x` and `y` must not be empty. .* y.shape=(3, 0, 4)."),
    "other rows": (X, Y[:2], None, "must have the same number of rows. .* x.shape=(3, 4, 5), y.shape=(2, 4)."),
    "a list in a list": ([X], Y, None, "same number of rows. Received: x.shape=(1, 3, 4, 5), y.shape=(3, 4)."),
    "x of two parts": ([X, X[:, 0]], Y, None, "`x` must be an array, its rows of one shape"),
    "x as dict": ({"x": X}, Y, None, "`x` must be an array. Received: x of type dict."),
    "y as str": (X, "a b c", None, "`y` must be an array. Received: y of type str."),
    "a weight a token": (X, Y, np.ones((N, 4)), "`sample_weight` must be one .* sample_weight.shape=(3, 4), y.shape="),
    "one weight": (X, Y, np.array(2.0), "`sample_weight` must be one number a caption, .* sample_weight.shape=(),"),
    "other weights": (X, Y, np.ones(2), "`sample_weight` must be one number a caption, .* sample_weight.shape=(2,),"),
    "other groups": (
        X,
        Y[:, None],
        np.ones((N, 2)),
        "`sample_weight` must be .* sample_weight.shape=(3, 2), y.shape=(3, 1, 4).",
    ),
}


def pattern(message):
    """A regular expression of a message in which only ` .* ` stands for anything."""
    return " .* ".join(re.escape(part) for part in message.split(" .* "))


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch", "validation_data"])
@pytest.mark.parametrize("case", BATCHES)
def test_batches(built, method, case):
    x, y, sample_weight, message = BATCHES[case]
    before = built.get_weights()
    if method == "validation_data":
        with pytest.raises(ValueError, match=pattern(message)):
            built.fit(X, Y, validation_data=(x, y, sample_weight), verbose=0)
    else:
        with pytest.raises(ValueError, match=pattern(message)):
            getattr(built, method)(x, y, sample_weight=sample_weight)
    for a, b in zip(before, built.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_no_y(method):
    captioner = make()
    captioner.compile()
    with pytest.raises(ValueError, match=r"need `y`, the token ids .* Received: y=None\."):
        getattr(captioner, method)(X)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, 0], Y, r"`x` must be features .* Received: x.shape="),
        (X, Y[:, :1], r"`y` must have at least two tokens .* Received: y.shape="),
        (X, Y[:, None, None], r"`y` must be token ids of the shape .* Received: y.shape="),
    ],
)
def test_data_sets_are_checked_by_their_shapes(x, y, message):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x, y

    captioner = make()
    captioner.compile()
    with pytest.raises(ValueError, match=message):
        captioner.fit(Batches(), verbose=0)


GENERATE = {
    "rank": ({"x": X[0]}, "`x` must be features .* Received: x.shape=(4, 5)."),
    "width": ({"x": X[..., :2]}, "`x` must have the feature width 5 .* Received: x.shape=(3, 4, 2)."),
    "no images": ({"x": X[:0]}, "`x` must not be empty. Received: x.shape=(0, 4, 5)."),
    "an empty list": ({"x": []}, "`x` must be features .* Received: x.shape=(0,)."),
    "a path": ({"x": "photo.jpg"}, "`x` must be an array. Received: x of type str."),
    "none": ({"x": None}, "`x` must be an array. Received: x of type NoneType."),
    "max_length 0": ({"max_length": 0}, "`max_length` must be a positive integer. Received: max_length=0 (type int)."),
    "max_length 2.5": ({"max_length": 2.5}, "`max_length` must be a positive integer. Received: max_length=2.5"),
    "batch_size": ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
    "decoding": ({"decoding": "luck"}, "`decoding` must be "),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate(built, case):
    arguments, message = GENERATE[case]
    with pytest.raises(ValueError, match=pattern(message)):
        built.generate(**{"x": X, **arguments})


def test_unknown_decoding_shows_the_value(built):
    with pytest.raises(ValueError, match=r"`decoding` must be .* Received: decoding='luck'"):
        built.generate(X, decoding="luck")


@pytest.mark.parametrize("method", ["generate", "predict"])
def test_captions_of_an_unbuilt_captioner(method):
    with pytest.raises(ValueError, match=r"once it is built: call `fit`, .* Received: built=False\."):
        getattr(make(), method)(X)


def test_predict(built):
    with pytest.raises(ValueError, match=r"`x` must have the feature width 5 .* x.shape=\(3, 4, 2\)"):
        built.predict(X[..., :2], verbose=0)


def test_images_need_three_channels():
    captioner = with_images()
    images = np.ones((2, 32, 32, 4), "uint8")
    with pytest.raises(ValueError, match=r"`x`, images, must have three channels, .* x.shape=\(2, 32, 32, 4\)"):
        captioner.generate(images)


def test_a_call_without_tokens(built):
    with pytest.raises(ValueError, match=r"takes the pair \[features, tokens\]; .* Received: "):
        built(X)


class TestCaption:
    @pytest.mark.parametrize("parts", [{}, {"tokenizer": WORDS}])
    def test_needs_the_parts(self, parts):
        with pytest.raises(
            ValueError, match=r"`caption` needs the parts .* Received: feature_extractor=None, tokenizer="
        ):
            make(**parts).caption(["photo.jpg"])

    @pytest.mark.parametrize("images", ["photo.jpg", b"bytes", None, 3])
    def test_images_must_be_a_list(self, images):
        message = f"`images` must be a list of images. Received: a {type(images).__name__}."
        with pytest.raises(ValueError, match=re.escape(message)):
            with_images().caption(images)

    def test_no_images(self):
        with pytest.raises(ValueError, match=r"`images` must not be empty. Received: 0 images"):
            with_images().caption([])

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
            with_images().caption([tmp_path / "nowhere.png"])

    def test_a_broken_file(self, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"\x89PNG and then nothing")
        with pytest.raises(ValueError, match=r"broken\.png"):
            with_images().caption([str(tmp_path / "broken.png")])

    def test_batch_size(self):
        with pytest.raises(ValueError, match=r"`batch_size` must be a positive integer. Received: batch_size=0"):
            with_images().caption([np.ones((32, 32, 3), "uint8")], batch_size=0)


CONSTRUCTOR = {
    "too many words": (
        {"tokenizer": CaptionTokenizer.fit(["a b c d e f"])},
        "`tokenizer` must not have more words than .* Received: 10 words, decoder.vocab_size=9.",
    ),
    "grid of three": ({"grid": (1, 2, 3)}, "`grid` must be (rows, columns). Received: grid=(1, 2, 3)."),
    "grid of one": ({"grid": 4}, "`grid` must be (rows, columns). Received: grid=4."),
    "grid of str": ({"grid": "22"}, "`grid` must be (rows, columns). Received: grid='22'."),
    "no columns": ({"grid": (2, 0)}, "`grid` must be a positive integer. Received: grid=0 (type int)."),
    "max_length": ({"max_length": 0}, "`max_length` must be a positive integer. Received: max_length=0 (type int)."),
    "penalty": (
        {"attention_penalty": -1},
        "`attention_penalty` must be a finite number >= 0. Received: attention_penalty=-1 (type int).",
    ),
    "target": ({"attention_target": "L/T"}, "`attention_target` must be .* Received: attention_target='L/T'"),
}


@pytest.mark.parametrize("case", CONSTRUCTOR)
def test_constructor(case):
    arguments, message = CONSTRUCTOR[case]
    with pytest.raises(ValueError, match=pattern(message)):
        make(**arguments)
