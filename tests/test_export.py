"""An exported captioner answers as the captioner does, in a process that knows neither Keras nor this package."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from PIL import Image

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.datasets import shape_scenes
from keras_showattend.decoding import BeamSearch, Greedy, Sampling
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")
V, L, D, T = 30, 4, 5, 6


def make(extractor=None, tokenizer=True, x_shape=(None, L, D), grid=None, words=V - 4, **options):
    captioner = Captioner(
        FeatureEncoder(7),
        AttentionGRUDecoder(V, 8, 9, **options),
        tokenizer=CaptionTokenizer.fit([" ".join(f"wörd{i}" for i in range(words))]) if tokenizer else None,
        feature_extractor=extractor,
        grid=grid,
        max_length=T,
    )
    captioner.build([x_shape, (None, None)])
    # Large enough that captions differ, and end.
    rng = np.random.default_rng(3)
    for layer in (captioner.encoder, captioner.decoder):
        layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return captioner


def cnn():
    layers = keras.layers
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 64), layers.Conv2D(D, 16, strides=16)])
    return FeatureExtractor(model)


def encoded(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photographs():
    """JPEG files of several sizes, some of them grey."""
    rng = np.random.default_rng(0)
    sides = [(32, 32), (48, 64), (90, 61), (20, 33)]
    images = [Image.fromarray(shape_scenes.draw_scene(rng).image).resize(s) for s in sides * 2]
    return [encoded(image.convert("L") if i % 3 == 2 else image) for i, image in enumerate(images)]


def words(texts):
    return np.char.decode(texts.numpy().astype("S"), "utf-8").tolist()


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def captioner():
    return make(cnn(), x_shape=(None, 32, 32, 3))


@pytest.fixture(scope="module")
def served(tf, captioner, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "served"
    captioner.export(path, verbose=False)
    return tf.saved_model.load(str(path))


def assert_same(found, generation):
    np.testing.assert_array_equal(found["tokens"], generation.tokens)
    np.testing.assert_allclose(found["scores"], generation.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["attention"], generation.attention, atol=1e-4)
    if generation.texts is not None:
        assert words(found["texts"]) == generation.texts


def generated(captioner, files, **options):
    return captioner.generate(np.stack([captioner.feature_extractor.load_image(f) for f in files]), **options)


ELSEWHERE = """
import sys

# Importing them is an error from here on.
sys.modules.update(dict.fromkeys(["keras", "keras_showattend", "PIL"]))
import numpy as np
import tensorflow as tf

path, out, *files = sys.argv[1:]
served = tf.saved_model.load(path)
found = served.serve(tf.constant([open(file, "rb").read() for file in files]))
np.savez(out, **{name: part.numpy().astype("S") if name == "texts" else part for name, part in found.items()})
"""


@on_tensorflow
@pytest.mark.parametrize("kind", ["patches", "cnn"])
def test_in_a_process_without_keras(tf, tmp_path, kind):
    extractor = FeatureExtractor("patches", image_size=32) if kind == "patches" else cnn()
    captioner = make(extractor, x_shape=(None, 32, 32, 3))
    search = BeamSearch(3, n_best=2) if kind == "patches" else "greedy"
    files = photographs()
    paths = [tmp_path / f"{i}.jpg" for i in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    captioner.export(tmp_path / "served", decoding=search, verbose=False)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "served", tmp_path / "out.npz", *paths],
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "out.npz")
    assert_same({name: tf.constant(found[name]) for name in found}, generated(captioner, files, decoding=search))
    texts = captioner.caption(paths, decoding=search)
    assert words(tf.constant(found["texts"])) == texts
    assert len(set(map(str, texts))) > 3


@on_tensorflow
class TestSavedModel:
    def test_batches_of_any_size(self, captioner, served):
        files = photographs()
        for n in (1, 3, 8):
            assert_same(served.serve(files[:n]), generated(captioner, files[:n]))

    def test_signature(self, tf, captioner, served):
        signature = served.signatures["serving_default"]
        assert signature.structured_input_signature[1]["images"] == tf.TensorSpec((None,), tf.string, name="images")
        shapes = {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in signature.structured_outputs.items()}
        assert shapes == {
            "tokens": ("int32", [None, T]),
            "scores": ("float32", [None]),
            "attention": ("float32", [None, T, L]),
            "texts": ("string", [None]),
        }
        files = photographs()[:2]
        assert_same(signature(images=tf.constant(files)), generated(captioner, files))

    @pytest.mark.parametrize(
        "decoding",
        [
            Greedy(min_length=3, no_repeat_ngram=1),
            # Captions with unknown words, and with start and padding ids inside.
            Greedy(banned=()),
            BeamSearch(4, length_penalty="average"),
            BeamSearch(3, n_best=3),
            Sampling(top_k=5, seed=2),
        ],
        ids=str,
    )
    def test_decodings(self, tf, tmp_path, decoding):
        captioner, x = make(), np.random.default_rng(0).normal(size=(9, L, D)).astype("float32")
        captioner.export(tmp_path / "served", decoding=decoding, max_length=5, verbose=False)
        served = tf.saved_model.load(str(tmp_path / "served"))
        found = served.serve(x)
        generation = captioner.generate(x, decoding, max_length=5)
        assert_same(found, generation)
        assert len(set(map(str, generation.texts))) > 3

    def test_features_without_tokenizer(self, tf, tmp_path):
        captioner = make(tokenizer=False)
        captioner.export(str(tmp_path / "served"), verbose=False)
        served = tf.saved_model.load(str(tmp_path / "served"))
        for locations in (L, 7):
            x = np.random.default_rng(0).normal(size=(3, locations, D)).astype("float32")
            found = served.serve(x)
            assert set(found) == {"tokens", "scores", "attention"}
            assert_same(found, captioner.generate(x))

    def test_pixels_by_input_signature(self, tf, tmp_path, captioner):
        spec = keras.InputSpec(dtype="uint8", shape=(None, None, None, 3), name="pixels")
        captioner.export(tmp_path / "served", input_signature=[spec], verbose=False)
        images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3)).astype("uint8")
        served = tf.saved_model.load(str(tmp_path / "served"))
        found = served.serve(images)
        assert_same(found, captioner.generate(images))

    def test_half_precision(self, tf, tmp_path):
        keras.config.set_dtype_policy("mixed_bfloat16")
        captioner, x = make(), np.random.default_rng(0).normal(size=(3, L, D)).astype("float32")
        captioner.export(tmp_path / "served", verbose=False)
        served = tf.saved_model.load(str(tmp_path / "served"))
        found = served.serve(x)
        assert words(found["texts"]) == captioner.generate(x).texts

    def test_many_calls_at_once(self, captioner, served):
        files = photographs()
        texts = captioner.caption(files)
        places = [(i % 7, i % 7 + 1 + i % 2) for i in range(100)]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda place: words(served.serve(files[slice(*place)])["texts"]), places))
        assert found == [texts[slice(*place)] for place in places]


def pictures():
    """Files of one image, in which nothing is symmetrical, by what is special about them."""
    image = Image.fromarray(shape_scenes.draw_scene(np.random.default_rng(5)).image).resize((70, 45))
    rgba = image.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(image.size))
    files = {
        "progressive": encoded(image, progressive=True),
        "no subsampling": encoded(image, subsampling=0),
        "CMYK": encoded(image.convert("CMYK")),
        "PNG": encoded(image, "PNG"),
        "grey PNG": encoded(image.convert("L"), "PNG"),
        "palette PNG": encoded(image.convert("P"), "PNG"),
        "transparent PNG": encoded(rgba, "PNG"),
    }
    for orientation in range(1, 9):
        for byte_order in (b"II", b"MM"):
            exif = Image.Exif()
            exif[0x010F], exif[0x0112] = "a camera", orientation
            exif.endian = "<" if byte_order == b"II" else ">"
            files[f"EXIF {orientation} {byte_order.decode()}"] = encoded(
                image, exif=exif, icc_profile=b"\x12\x01" * 999
            )
    return files


@pytest.fixture(scope="module")
def pixels(tf):
    from keras_showattend.export import _read_images

    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda files: _read_images(files, (32, 32)), input_signature=signature, autograph=False)


@on_tensorflow
class TestFiles:
    @pytest.mark.parametrize("kind", list(pictures()))
    def test_read_as_the_extractor_reads_them(self, pixels, kind):
        file = pictures()[kind]
        expected = FeatureExtractor("patches", image_size=32).load_image(file)
        # Pillow rounds blended pixels in its own way.
        np.testing.assert_allclose(pixels([file])[0], expected, atol=1.0 if "transparent" in kind else 0.005)

    def test_photographs_of_many_sizes(self, pixels):
        files = photographs()
        expected = [FeatureExtractor("patches", image_size=32).load_image(file) for file in files]
        np.testing.assert_allclose(pixels(files), expected, atol=0.005)

    def test_what_is_no_image(self, tf, served):
        files = photographs()
        for bad in (b"", b"no image", encoded(Image.new("RGB", (8, 8)), "GIF")):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"must hold the bytes of JPEG or PNG.*\[1 3\]"):
                served.serve([files[0], bad, files[1], bad])
        for broken in (files[0][:300], files[0][:20], b"\xff\xd8\xff", encoded(Image.new("L", (8, 8)), "PNG")[:-20]):
            with pytest.raises(tf.errors.InvalidArgumentError):
                served.serve([files[0], broken])
        assert served.serve(files[:1])["tokens"].shape == (1, T)

    def test_too_many_pixels(self, tf, served):
        # Files of a few bytes that promise a gigapixel: changed where the sides stand.
        png = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
        png[16:24] = (32768).to_bytes(4, "big") * 2
        jpeg = bytearray(encoded(Image.new("L", (8, 8))))
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = (32768).to_bytes(2, "big") * 2
        for file in (png, jpeg):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"at most 89478485 pixels.*\[1\] \[32768 32768\]"):
                served.serve([photographs()[0], bytes(file)])

    def test_no_images(self, tf, served):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`images` must not be empty"):
            served.serve(tf.constant([], tf.string))


@on_tensorflow
@pytest.mark.parametrize("constants", [True, False])
def test_weights_of_the_backbone_are_constants_where_there_is_room(tf, captioner, tmp_path, monkeypatch, constants):
    if not constants:
        monkeypatch.setattr("keras_showattend.export._MOST_CONSTANTS", 0)
    captioner.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    held = {tuple(shape) for _, shape in tf.train.list_variables(str(tmp_path / "served" / "variables" / "variables"))}
    kernels = [tuple(w.shape) for w in captioner.feature_extractor.weights if len(w.shape) == 4]
    assert kernels
    assert all((shape in held) is not constants for shape in kernels)
    assert words(served.serve(tf.constant(photographs()))["texts"]) == captioner.caption(photographs())


@on_tensorflow
class TestWriting:
    def test_an_earlier_export_is_replaced(self, tf, tmp_path):
        captioner, x = make(tokenizer=False), np.ones((2, L, D), "float32")
        captioner.export(tmp_path / "new folder" / "served", verbose=False)
        captioner.export(tmp_path / "new folder" / "served", max_length=3, verbose=False)
        assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["served"]
        served = tf.saved_model.load(str(tmp_path / "new folder" / "served"))
        assert served.serve(x)["tokens"].shape == (2, 3)

    @pytest.mark.parametrize("theirs", ["thesis.tex", "saved_model.pb"])
    def test_nothing_of_others_is_removed(self, tmp_path, theirs):
        captioner, folder = make(tokenizer=False), tmp_path / "project"
        folder.mkdir()
        (folder / theirs).write_text("years of work")
        for _ in range(2):
            with pytest.raises(FileExistsError, match="`filepath` must be a new path, or an export"):
                captioner.export(folder, verbose=False)
        assert (folder / theirs).read_text() == "years of work"

    def test_an_export_with_files_of_others_is_not_replaced(self, tmp_path):
        captioner, folder = make(tokenizer=False), tmp_path / "served"
        captioner.export(folder, verbose=False)
        (folder / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match=r"nothing but an export.*\['notes.txt'\]"):
            captioner.export(folder, verbose=False)
        assert (folder / "notes.txt").read_text() == "mine"

    def test_a_crash_leaves_what_was_there(self, tf, tmp_path, monkeypatch):
        captioner, x = make(tokenizer=False), np.ones((2, L, D), "float32")
        captioner.export(tmp_path / "served", verbose=False)

        def crash(trackable, path, **kwargs):
            with open(os.path.join(path, "saved_model.pb"), "wb") as file:
                file.write(b"half")
            raise OSError("the disk is full")

        monkeypatch.setattr(tf.saved_model, "save", crash)
        for name in ("served", "other"):
            with pytest.raises(OSError, match="the disk is full"):
                captioner.export(tmp_path / name, verbose=False)
        assert [path.name for path in tmp_path.iterdir()] == ["served"]
        served = tf.saved_model.load(str(tmp_path / "served"))
        assert served.serve(x)["tokens"].shape == (2, T)

    def test_nothing_else_is_replaced(self, tmp_path):
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters" / "a.txt").write_text("dear")
        for path in (tmp_path / "letters", tmp_path / "letters" / "a.txt"):
            with pytest.raises(FileExistsError, match="`filepath` must be a new path, or an export to replace"):
                make().export(path)
        assert (tmp_path / "letters" / "a.txt").read_text() == "dear"

    @pytest.mark.parametrize(("verbose", "says"), [(None, True), (True, True), (False, False)])
    def test_verbose(self, tmp_path, capsys, verbose, says):
        make(tokenizer=False).export(tmp_path / "served", verbose=verbose)
        assert (f"Saved artifact at '{tmp_path / 'served'}'." in capsys.readouterr().out) is says


class PlainEncoder(keras.layers.Layer):
    def call(self, features, training=None):
        return features

    def compute_output_shape(self, shape):
        return shape


@on_tensorflow
class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"format": "savedmodel"}, r'`format` must be "tf_saved_model", "onnx" or "litert"\. .*\'savedmodel\''),
            ({"decoding": "beam"}, r'`decoding` must be "greedy"'),
            ({"max_length": 0}, "`max_length` must be a positive integer"),
            ({"decoding": Greedy(min_length=9)}, "`min_length` must not be greater than `max_length`"),
            ({"opset_version": 3}, "takes no other arguments. Received: opset_version"),
            ({"format": "onnx", "max_length": 3}, "`decoding` and `max_length` are for"),
            ({"format": "litert", "decoding": BeamSearch(2)}, "`decoding` and `max_length` are for"),
            ({"input_signature": 3}, "`input_signature` must be the shape and dtype of one tensor.*=3"),
            ({"input_signature": keras.InputSpec(dtype="string", shape=(None,))}, "`input_signature` may be strings"),
            ({"input_signature": keras.InputSpec(dtype="float32", shape=(None, L, 2))}, "feature width 5"),
            ({"format": "litert"}, r"no unknown size .* the shape \(None, None, 5\)"),
            (
                {"format": "litert", "input_signature": keras.InputSpec(dtype="float32", shape=(4, L, D))},
                r"must have one row .* the shape \(4, 4, 5\)\.",
            ),
        ],
    )
    def test_arguments(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            make().export(tmp_path / "served", **options)
        assert not list(tmp_path.iterdir())

    def test_unbuilt(self, tmp_path):
        captioner = Captioner(FeatureEncoder(7), AttentionGRUDecoder(V, 8, 9))
        with pytest.raises(ValueError, match="once it is built"):
            captioner.export(tmp_path / "served")

    def test_an_encoder_of_unknown_width(self, tmp_path):
        captioner = Captioner(PlainEncoder(), AttentionGRUDecoder(V, 8, 9))
        captioner.build([(None, L, D), (None, None)])
        with pytest.raises(ValueError, match="`input_signature` must be given"):
            captioner.export(tmp_path / "served")
        spec = keras.InputSpec(dtype="float32", shape=(None, L, D))
        captioner.export(tmp_path / "served", input_signature=spec, verbose=False)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="about the other backends")
def test_other_backends(tmp_path):
    with pytest.raises(ValueError, match=r"`export` needs the TensorFlow backend\..*KERAS_BACKEND=tensorflow"):
        make().export(tmp_path / "served")


# Single steps: ONNX and LiteRT.


def onnx_runner(path):
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(names, session.run(names, inputs), strict=True))


def litert_runner(path):
    tf = pytest.importorskip("tensorflow")
    return tf.lite.Interpreter(model_path=path).get_signature_runner("serving_default")


def follow(encode, step, x, captions=1):
    """Greedy decoding by exported steps, as their README tells it: tokens, scores and attention."""
    memory = encode(**x)
    state = {name: np.repeat(memory.pop(name), captions, 0) for name in list(memory) if name.startswith("state")}
    token = np.full(len(state["state"]), 2, "int32")
    ended, scores, tokens, attention = token < 0, 0.0, [], []
    for _ in range(T):
        found = step(token=token, **state, **memory)
        state = {name.removeprefix("next_"): part for name, part in found.items() if name.startswith("next_")}
        logits = found["logits"].astype("float64")
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        token = np.where(ended, 0, logits[:, 3:].argmax(-1) + 3).astype("int32")
        scores = scores + np.where(ended, 0, logits[np.arange(len(token)), token])
        tokens.append(token)
        attention.append(found["attention"] * ~ended[:, None])
        ended = ended | (token == 3)
    return np.stack(tokens, 1), scores, np.stack(attention, 1)


@on_tensorflow
def test_ids_without_a_word_are_not_written(tf, tmp_path):
    captioner = make(grid=(2, 2), words=9)
    x = np.random.default_rng(0).normal(size=(5, L, D)).astype("float32")
    captioner.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert_same(served.serve(x), captioner.generate(x))
    captioner.export(tmp_path / "steps", format="litert", verbose=False)
    readme = " ".join((tmp_path / "steps" / "README.md").read_text(encoding="utf-8").split())
    assert "0 to 2 left out and all from 13 on, which have no word, until that is the end." in readme


@on_tensorflow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("format", ["onnx", "litert"])
class TestSteps:
    def steps(self, captioner, folder, format, **options):
        if format == "onnx":
            pytest.importorskip("tf2onnx")
        captioner.export(folder, format=format, verbose=False, **options)
        runner, ending = (onnx_runner, "onnx") if format == "onnx" else (litert_runner, "tflite")
        return [runner(str(folder / f"{name}.{ending}")) for name in ("encoder", "step")]

    def batches(self, count, format):
        """All images, and the first; for LiteRT one at a time."""
        return [slice(i, i + 1) for i in range(count)] if format == "litert" else [slice(None), slice(1)]

    @pytest.mark.parametrize("options", [{}, {"context_gate": True, "state_initializer": "mean_feature"}], ids=str)
    def test_features(self, tmp_path, format, options):
        captioner = make(grid=(2, 2), **options)
        runners = self.steps(captioner, tmp_path / "steps", format)
        x = np.random.default_rng(0).normal(size=(5, L, D)).astype("float32")
        generation = captioner.generate(x)
        for rows in self.batches(5, format):
            # One caption an image, and two.
            for captions in (1, 2):
                tokens, scores, attention = follow(*runners, {"features": x[rows]}, captions)
                np.testing.assert_array_equal(tokens, np.repeat(generation.tokens[rows], captions, 0))
                wanted = [np.repeat(part[rows], captions, 0) for part in (generation.scores, generation.attention)]
                np.testing.assert_allclose(scores, wanted[0], rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(attention, wanted[1], atol=1e-4)
        written = (tmp_path / "steps" / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
        assert written == captioner.tokenizer.vocabulary
        readme = (tmp_path / "steps" / "README.md").read_text(encoding="utf-8")
        assert f"`features` of the shape ({1 if format == 'litert' else None}, 4, 5), float32" in readme
        assert "vocabulary.txt" in readme

    def test_images(self, tmp_path, captioner, format):
        runners = self.steps(captioner, tmp_path / "steps", format)
        x = np.stack([captioner.feature_extractor.load_image(file) for file in photographs()])
        wanted = captioner.generate(x).tokens
        for rows in self.batches(len(x), format):
            tokens, _, _ = follow(*runners, {"images": x[rows]})
            np.testing.assert_array_equal(tokens, wanted[rows])


@on_tensorflow
def test_litert_in_many_interpreters(tmp_path):
    """Where sizes are not constants in the graph, LiteRT's memory plan fails in some interpreters, not in all."""
    captioner = make(grid=(2, 2), context_gate=True)
    captioner.export(tmp_path / "steps", format="litert", verbose=False)
    x = np.random.default_rng(0).normal(size=(1, L, D)).astype("float32")
    wanted = captioner.generate(x).tokens
    for _ in range(30):
        runners = [litert_runner(str(tmp_path / "steps" / f"{name}.tflite")) for name in ("encoder", "step")]
        for captions in (1, 5):
            tokens, _, _ = follow(*runners, {"features": x}, captions)
            np.testing.assert_array_equal(tokens, np.repeat(wanted, captions, 0))
