"""Captions measured at the end of an epoch: what the logs hold, what is written, and what a failure does."""

import importlib.util
import warnings

import keras
import numpy as np
import pytest
from PIL import Image

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.callbacks import CaptionMetrics
from keras_showattend.decoding import BeamSearch, Sampling
from keras_showattend.evaluation import METRICS, CiderD, evaluate_captions
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.generation import Generation
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

TEXTS = ["a red dog runs fast", "a blue cat sleeps here", "the green bird flies up"]
REFERENCES = {image_id: [text, f"{text} again"] for image_id, text in zip((30, 10, 20), TEXTS, strict=True)}
X = np.repeat(np.eye(3, dtype="float32")[:, None], 4, axis=1)
WORDS = CaptionTokenizer.fit(TEXTS)
KEYS = [f"val_{name}" for name in METRICS]
FAILED = dict.fromkeys(KEYS, float("-inf"))


def make():
    captioner = Captioner(
        FeatureEncoder(8), AttentionGRUDecoder(WORDS.vocabulary_size, 8, 16), tokenizer=WORDS, max_length=7
    )
    captioner.compile(keras.optimizers.Adam(0.1))
    return captioner


class Recorder(keras.callbacks.Callback):
    """Keeps the logs of every epoch, and what the captioner says then."""

    def __init__(self):
        super().__init__()
        self.logs, self.figures = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        captions = dict(zip(REFERENCES, self.model.generate(X).texts, strict=True))
        self.figures.append(evaluate_captions(captions, REFERENCES))


def test_later_callbacks_and_the_history_have_the_figures(tmp_path):
    captioner, recorder = make(), Recorder()
    path = str(tmp_path / "best-{val_cider_d:.3f}.keras")
    stop = keras.callbacks.EarlyStopping("val_cider_d", mode="max", patience=2)
    history = captioner.fit(
        X,
        WORDS.encode(TEXTS),
        epochs=40,
        verbose=0,
        callbacks=[
            CaptionMetrics(X, REFERENCES),
            recorder,
            keras.callbacks.ModelCheckpoint(path, "val_cider_d", mode="max", save_best_only=True),
            stop,
        ],
    ).history
    assert [{key: logs[key] for key in KEYS} for logs in recorder.logs] == [
        {f"val_{name}": value for name, value in figures.items()} for figures in recorder.figures
    ]
    values = history["val_cider_d"]
    assert values == [figures["cider_d"] for figures in recorder.figures]
    assert max(values) > values[0]
    # It was over two epochs after the last improvement, whose file is the best.
    assert len(values) < 40
    assert max(values) == values[-3]
    best = max(tmp_path.iterdir(), key=lambda file: float(file.stem.removeprefix("best-")))
    assert best.name == f"best-{max(values):.3f}.keras"
    captions = dict(zip(REFERENCES, keras.models.load_model(best).generate(X).texts, strict=True))
    assert evaluate_captions(captions, REFERENCES)["cider_d"] == pytest.approx(max(values))


class Speaker:
    """What the callback needs of a captioner, with captions to choose."""

    built = True
    grid = (2, 2)
    tokenizer = WORDS
    feature_extractor = None

    def __init__(self):
        self.texts = list(TEXTS)
        self.calls = []

    def generate(self, x, decoding):
        self.calls.append((x, decoding))
        if isinstance(self.texts, Exception):
            raise self.texts
        # The rows of X are unit vectors: which one they are is where the one is.
        places = np.asarray(x)[:, 0].argmax(axis=-1)
        attention = np.full((len(x), 7, 4), 0.25, "float32")
        return Generation(None, None, attention, [self.texts[place] for place in places])


def started(speaker, *args, **kwargs):
    callback = CaptionMetrics(*args, **kwargs)
    callback.set_model(speaker)
    callback.on_train_begin()
    return callback


def end_of_epoch(callback, epoch):
    logs = {"loss": 1.0}
    callback.on_epoch_end(epoch, logs)
    assert logs.pop("loss") == 1.0
    return logs


def figures(texts, references=REFERENCES, prefix="val_"):
    scores = evaluate_captions(dict(zip(references, texts, strict=True)), references)
    return {prefix + name: value for name, value in scores.items()}


def test_only_some_epochs():
    speaker = Speaker()
    callback = started(speaker, X, REFERENCES, every=2, prefix="beam_")
    before = len(speaker.calls)
    logs = [end_of_epoch(callback, 0)]
    assert len(speaker.calls) == before
    logs.append(end_of_epoch(callback, 1))
    first, speaker.texts = figures(TEXTS, prefix="beam_"), ["a dog"] * 3
    logs += [end_of_epoch(callback, epoch) for epoch in (2, 3, 4)]
    second = figures(["a dog"] * 3, prefix="beam_")
    assert first != second
    assert logs == [dict.fromkeys(first, float("-inf")), first, first, second, second]


def test_batches_and_decoding_reach_the_captioner():
    speaker, search = Speaker(), BeamSearch(width=2)
    callback = started(speaker, X, list(REFERENCES.values()), decoding=search, batch_size=2)
    speaker.calls.clear()
    assert end_of_epoch(callback, 0) == figures(TEXTS)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in speaker.calls]), X)
    assert [len(x) for x, _ in speaker.calls] == [2, 1]
    assert all(decoding is search for _, decoding in speaker.calls)


def test_batches_draw_numbers_of_their_own():
    speaker = Speaker()
    callback = started(speaker, X, REFERENCES, decoding=Sampling(seed=2**32 - 1), batch_size=2)
    speaker.calls.clear()
    end_of_epoch(callback, 0)
    end_of_epoch(callback, 1)
    assert [decoding.seed for _, decoding in speaker.calls] == [2**32 - 1, 1] * 2


def test_features_can_not_tell_what_a_backbone_in_training_sees():
    captioner = Captioner(
        FeatureEncoder(8),
        AttentionGRUDecoder(WORDS.vocabulary_size, 8, 16),
        tokenizer=WORDS,
        feature_extractor=FeatureExtractor(
            keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(3, 2, 2)]), trainable=True
        ),
    )
    captioner.compile("sgd")
    with pytest.raises(ValueError, match=r"`x` must be images \(N, H, W, 3\) to train"):
        captioner.fit(np.zeros((3, 4, 4, 3)), WORDS.encode(TEXTS), verbose=0, callbacks=[CaptionMetrics(X, REFERENCES)])


def test_a_failure_is_a_warning_and_no_improvement():
    speaker = Speaker()
    callback = started(speaker, X, REFERENCES)
    stop = keras.callbacks.EarlyStopping("val_cider_d", mode="max", patience=3)
    stop.set_model(keras.Sequential())
    stop.on_train_begin()
    good = figures(TEXTS)
    seen = []
    for epoch, texts in enumerate([OSError("broken"), ["a dog"] * 3, MemoryError("full"), TEXTS, ValueError("odd")]):
        speaker.texts = texts
        if isinstance(texts, Exception):
            with pytest.warns(UserWarning, match=f"Epoch {epoch + 1}: the captions were not measured. .*: {texts}"):
                seen.append(end_of_epoch(callback, epoch))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                seen.append(end_of_epoch(callback, epoch))
        stop.on_epoch_end(epoch, seen[-1])
    assert seen == [FAILED, figures(["a dog"] * 3), FAILED, good, FAILED]
    # A failure in the first epoch doesn't become the best that nothing is better than.
    assert (stop.best, stop.wait) == (good["val_cider_d"], 1)


def test_what_can_not_work_fails_before_the_first_epoch():
    captioner, recorder = make(), Recorder()
    with pytest.raises(ValueError, match=r"`x` must have the feature width [23] that the captioner was built with"):
        captioner.fit(X, WORDS.encode(TEXTS), verbose=0, callbacks=[CaptionMetrics(X[..., :2], REFERENCES), recorder])
    assert recorder.logs == []
    silent = Captioner(FeatureEncoder(8), AttentionGRUDecoder(9, 8, 16))
    silent.compile()
    with pytest.raises(ValueError, match=r"needs a Captioner with a `tokenizer`, .* Received: a Captioner without."):
        silent.fit(X, WORDS.encode(TEXTS) % 9, verbose=0, callbacks=[CaptionMetrics(X, REFERENCES)])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    images = [np.full((32, 32, 3), 80 * i, "uint8") for i in range(3)]
    examples = [
        {"image_id": image_id, "image": image, "captions": REFERENCES[image_id]}
        for image_id, image in zip(REFERENCES, images, strict=True)
    ]
    extractor = FeatureExtractor("patches", image_size=32)
    return FeatureStore.build(tmp_path_factory.mktemp("store"), examples, extractor, verbose=0)


def test_a_store_is_read_in_batches(store, monkeypatch):
    asked = []
    features = store.features
    monkeypatch.setattr(store, "features", lambda image_ids: asked.append(list(image_ids)) or features(image_ids))
    speaker = Speaker()
    speaker.texts = ["a dog"] * store.width
    callback = started(speaker, store, batch_size=2)
    assert end_of_epoch(callback, 0) == figures(["a dog"] * 3)
    assert asked[1:] == [[30, 10], [20]]
    assert speaker.calls[-1][0].dtype == "float16"
    # Other references, more of them and in another order.
    others = {image_id: [f"some {image_id}", "a dog"] for image_id in (10, 20, 30, 40)}
    expected = figures(["a dog"] * 3, {image_id: others[image_id] for image_id in (30, 10, 20)})
    assert end_of_epoch(started(speaker, store, others), 0) == expected


def test_samples_are_written(tmp_path):
    images = {image_id: np.full((20, 30, 3), 100, "uint8") for image_id in REFERENCES}
    speaker = Speaker()
    speaker.texts[2] = ""
    callback = started(speaker, X, REFERENCES, folder=tmp_path / "run", images=images, samples=2, batch_size=1)
    end_of_epoch(callback, 4)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "captions-epoch-005.png",
        "captions-epoch-005.txt",
    ]
    heading, *samples = (tmp_path / "run" / "captions-epoch-005.txt").read_text().strip().split("\n\n")
    assert heading.startswith("Epoch 5: val_bleu1 0.")
    assert samples[1].splitlines() == [
        "20 (CIDEr-D 0.00)",
        "    predicted  (no words)",
        "    true       the green bird flies up",
        "    true       the green bird flies up again",
    ]
    score = CiderD(REFERENCES).scores({30: TEXTS[0]})[30]
    assert samples[0].splitlines()[:2] == [f"30 (CIDEr-D {score:.2f})", "    predicted  a red dog runs fast"]
    assert len(samples) == 2
    width, height = Image.open(tmp_path / "run" / "captions-epoch-005.png").size
    assert min(width, height) > 100


def test_photographs_of_the_samples_are_drawn(tmp_path, monkeypatch):
    drawn = []

    class Figure:
        def savefig(self, path):
            drawn.append(path.name)

    def plot(images, captions, attention, references, grid):
        drawn.append((images, captions, np.shape(attention), references, grid))
        return Figure()

    monkeypatch.setattr("keras_showattend.callbacks.plot_captions", plot)
    images = ["first.jpg", "second.jpg", "third.jpg"]
    callback = started(Speaker(), X, REFERENCES, folder=tmp_path, images=images, samples=2, batch_size=2)
    end_of_epoch(callback, 0)
    references = [REFERENCES[30], REFERENCES[20]]
    assert drawn == [
        (["first.jpg", "third.jpg"], [TEXTS[0], TEXTS[2]], (2, 7, 4), references, (2, 2)),
        "captions-epoch-001.png",
    ]


def test_a_broken_photograph_costs_the_picture_only(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    callback = started(Speaker(), X, REFERENCES, folder=tmp_path / "run", images=[path] * 3)
    with pytest.warns(UserWarning, match="Epoch 1: samples of the captions were not written. .*broken.jpg"):
        assert end_of_epoch(callback, 0) == figures(TEXTS)


def test_event_files(tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    images = [np.full((20, 30, 3), 100, "uint8")] * 3
    callback = started(Speaker(), X, REFERENCES, tensorboard=tmp_path, images=images, samples=1)
    for epoch in range(2):
        end_of_epoch(callback, epoch)
    callback.on_train_end()
    events = EventAccumulator(str(tmp_path / "captions"))
    events.Reload()
    points = events.Tensors("epoch_cider_d")
    assert [point.step for point in points] == [0, 1]
    value = figures(TEXTS)["val_cider_d"]
    assert float(make_ndarray(points[0].tensor_proto)) == pytest.approx(value, rel=1e-6)
    assert b"a red dog runs fast" in make_ndarray(events.Tensors("captions")[0].tensor_proto).item(0)


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("tensorboard", {"tensorboard": "runs"}, "needs TensorFlow and tensorboard. Not installed here: tensorboard;"),
        ("tensorflow", {"tensorboard": "runs"}, "needs TensorFlow and tensorboard. Not installed here: tensorflow"),
        ("matplotlib", {"folder": "{}", "images": [0, 0, 0]}, "`images` need matplotlib, which can't be imported here"),
    ],
)
def test_what_is_missing_is_named(tmp_path, monkeypatch, missing, arguments, message):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=message):
        CaptionMetrics(X, REFERENCES, **arguments)


WRONG = {
    "x": ({"x": "features"}, "`x` must be an array. Received: x of type str."),
    "references missing": ({"references": None}, "a dict or list with the captions of each row of `x`. .*NoneType"),
    "too few references": ({"references": {1: ["a"]}}, r"each row of `x`. Received: references=1, x.shape=\(3, 4, 3\)"),
    "a reference without words": ({"references": [["a"], ["b"], ["."]]}, "must have words. Received: '.* image_id=2."),
    "decoding": ({"decoding": "beam"}, "`decoding` must be .* Received: decoding='beam'"),
    "several captions": ({"decoding": BeamSearch(width=3, n_best=2)}, "`decoding` must give one caption an image."),
    "every": ({"every": 0}, "`every` must be a positive integer. Received: every=0"),
    "batch_size": ({"batch_size": 2.0}, "`batch_size` must be a positive integer. Received: batch_size=2.0"),
    "samples": ({"samples": 0}, "`samples` must be a positive integer. Received: samples=0"),
    "prefix": ({"prefix": None}, "`prefix` must be a str. Received: prefix=None"),
    "images without a folder": ({"images": ["a.jpg"] * 3}, "`images` need a `folder` or `tensorboard` .*: neither."),
    "too few images": (
        {"images": ["a"], "folder": "run"},
        "one image for each row of `x`. Received: 1 images for 3 rows",
    ),
    "images of other ids": ({"images": {30: "a"}, "folder": "run"}, "the image of each id. .* image_id=10"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_errors(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        CaptionMetrics(**{"x": X, "references": REFERENCES, **arguments})


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([["a"]] * 3, "`references` of a FeatureStore must be a dict by image id, or None .* type list."),
        ({30: ["a"]}, "must hold every image of the store. Received: none for image_id=10, the first of 2."),
    ],
)
def test_references_that_do_not_fit_a_store(store, references, message):
    with pytest.raises(ValueError, match=message):
        CaptionMetrics(store, references)
