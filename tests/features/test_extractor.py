import functools
import json
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_showattend.features import FeatureExtractor, patches, read_image
from keras_showattend.features.backbones import Backbone, find_backbone
from keras_showattend.features.resizing import resize, resize_one

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"


def photographs(n=2, height=40, width=56):
    return np.random.default_rng(3).integers(0, 256, (n, height, width, 3)).astype("uint8")


def small_model(size=32, width=5):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(width, 8, strides=8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )


def to_numpy(tensor):
    return ops.convert_to_numpy(tensor)


class TestModel:
    def test_shapes_grid_and_values(self):
        model = small_model()
        extractor = FeatureExtractor(model)
        assert extractor.image_size == (32, 32)
        assert extractor.grid == (4, 4)
        assert (extractor.locations, extractor.width) == (16, 5)
        images = photographs(3, 32, 32)
        features = to_numpy(extractor(images))
        expected = to_numpy(model(images.astype("float32"), training=False))
        # Row by row: location 5 is row 1, column 1.
        np.testing.assert_allclose(features[:, 5], expected[:, 1, 1], atol=1e-4)

    def test_any_size_any_dtype(self):
        extractor = FeatureExtractor(small_model())
        images = photographs()
        as_bytes = to_numpy(extractor(images))
        assert as_bytes.shape == (2, 16, 5)
        for dtype in ("float32", "float64"):
            np.testing.assert_allclose(to_numpy(extractor(images.astype(dtype))), as_bytes)

    def test_load_image_equals_the_call(self):
        extractor = FeatureExtractor(small_model())
        image = photographs(1)[0]
        loaded = extractor.load_image(image)
        assert loaded.shape == (32, 32, 3)
        assert loaded.dtype == np.float32
        expected = to_numpy(extractor(image[None]))
        np.testing.assert_allclose(to_numpy(extractor(loaded[None])), expected, atol=1e-4 * np.abs(expected).max())

    def test_frozen_until_asked_and_always_in_inference_mode(self):
        class Parent(keras.Model):
            def __init__(self, extractor):
                super().__init__()
                self.extractor = extractor

            def call(self, images, training=None):
                return self.extractor(images)

        extractor = FeatureExtractor(small_model())
        parent = Parent(extractor)
        images = photographs()
        before = to_numpy(parent(images, training=False))
        assert not extractor.trainable
        assert parent.trainable_variables == []
        np.testing.assert_array_equal(to_numpy(parent(images, training=True)), before)
        extractor.trainable = True
        # The kernel and bias of the convolution, the scale and offset of the normalization.
        assert len(parent.trainable_variables) == 4
        np.testing.assert_array_equal(to_numpy(parent(images, training=True)), before)

    def test_symbolic_call(self):
        extractor = FeatureExtractor(small_model())
        output = extractor(keras.Input((None, None, 3), dtype="uint8"))
        assert output.shape == (None, 16, 5)
        assert output.dtype == "float32"

    def test_rank_three_output(self):
        tall = keras.Sequential([keras.Input((64, 32, 3)), keras.layers.Conv2D(4, 16, 16)])
        tokens = keras.Sequential([*tall.layers, keras.layers.Reshape((8, 4))])
        assert FeatureExtractor(tokens, image_size=(64, 32)).grid == (4, 2)
        seven = keras.Sequential([keras.Input((4, 7, 3)), keras.layers.Reshape((7, 12))])
        assert FeatureExtractor(seven).grid == (1, 7)

    def test_subclassed_model_is_built(self):
        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.conv = keras.layers.Conv2D(3, 4, 4)

            def call(self, images):
                return self.conv(images)

        assert FeatureExtractor(Own(), image_size=16).grid == (4, 4)
        with pytest.raises(ValueError, match="`image_size` must be given"):
            FeatureExtractor(Own())

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_mixed_precision(self, policy):
        keras.config.set_dtype_policy(policy)
        model = small_model()
        low = FeatureExtractor(model)
        assert keras.backend.standardize_dtype(low(photographs()).dtype) == low.compute_dtype
        keras.config.set_dtype_policy("float32")
        exact = FeatureExtractor(small_model())
        exact.backbone.set_weights(model.get_weights())
        wanted = to_numpy(exact(photographs()))
        got = to_numpy(ops.cast(low(photographs()), "float32"))
        assert np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()

    def test_fingerprint_tells_weights_and_architectures_apart_but_not_names(self):
        model = small_model()
        twin = small_model()
        twin.set_weights(model.get_weights())
        fingerprint = FeatureExtractor(model).fingerprint()
        assert json.loads(json.dumps(fingerprint)) == fingerprint
        assert FeatureExtractor(twin).fingerprint() == fingerprint
        # Nor what is trained: the features are the same.
        assert FeatureExtractor(twin, trainable=True).fingerprint() == fingerprint
        thawed = FeatureExtractor(twin)
        thawed.trainable = True
        assert thawed.fingerprint() == fingerprint
        twin.set_weights([weight + 1 for weight in model.get_weights()])
        assert FeatureExtractor(twin).fingerprint() != fingerprint
        pools = [
            keras.Sequential([keras.Input((8, 8, 3)), pool(4)])
            for pool in (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
        ]
        first, second = (FeatureExtractor(pool).fingerprint() for pool in pools)
        assert first != second


class TestPatches:
    def test_defaults(self):
        extractor = FeatureExtractor("patches")
        assert extractor.image_size == (128, 128)
        assert extractor.grid == (8, 8)
        features = to_numpy(extractor(photographs()))
        assert features.shape == (2, 64, patches.WIDTH) == (2, 64, 184)
        assert extractor.weights == []

    def test_equals_a_loop_over_blocks_and_pixels(self):
        images = photographs(2, 48, 32).astype("float32")
        extractor = FeatureExtractor("patches", image_size=(48, 32))
        assert extractor.grid == (3, 2)
        pixels = images.astype("float64") / 127.5 - 1
        blocks = np.zeros((2, 6, 4, 11))
        for row, column in np.ndindex(6, 4):
            for y, x in np.ndindex(8, 8):
                y, x = 8 * row + y, 8 * column + x
                blocks[:, row, column, :3] += pixels[:, y, x] / 64
                down = pixels[:, min(y + 1, 47), x] - pixels[:, max(y - 1, 0), x]
                across = pixels[:, y, min(x + 1, 31)] - pixels[:, y, max(x - 1, 0)]
                # One complex number for the three colours, its angle twice the edge's.
                gradient = np.sum((across + 1j * down) ** 2, axis=-1)
                for b in range(8):
                    along = np.real(gradient * np.exp(-2j * np.pi * b / 8))
                    blocks[:, row, column, 3 + b] += np.maximum(along, 0) / np.sqrt(np.abs(gradient) + 1e-12) / 64
        blocks[..., 3:] = np.sqrt(blocks[..., 3:] + 1e-6)
        expected = np.zeros((2, 6, patches.WIDTH))
        for row, column in np.ndindex(3, 2):
            rows = np.clip(np.arange(2 * row - 1, 2 * row + 3), 0, 5)
            columns = np.clip(np.arange(2 * column - 1, 2 * column + 3), 0, 3)
            window = blocks[:, rows][:, :, columns].reshape(2, -1)
            y, x = ((row + 0.5) / 3 - 0.5) * np.pi, ((column + 0.5) / 2 - 0.5) * np.pi
            place = [f(k * angle) for angle in (y, x) for k in (1, 2) for f in (np.sin, np.cos)]
            expected[:, row * 2 + column] = np.concatenate([window, np.tile(place, (2, 1))], axis=-1)
        np.testing.assert_allclose(to_numpy(extractor(images)), expected, atol=1e-4)

    def test_a_location_sees_its_surroundings_only(self):
        # By hand: the cell of row 0, column 1 spans pixels 16..31 and its window 8..39, so a dot at (4, 36), in the
        # block of pixels 32..39, shows in columns 1, 2 and no other, and in row 0 alone.
        image = np.zeros((1, 128, 128, 3), "uint8")
        extractor = FeatureExtractor("patches")
        black = to_numpy(extractor(image))[0]
        image[0, 4, 36] = 255
        seen = (to_numpy(extractor(image))[0] != black).any(axis=1).reshape(8, 8)
        assert set(zip(*np.nonzero(seen), strict=True)) == {(0, 1), (0, 2)}

    def test_compiled(self):
        model = keras.Sequential([keras.Input((40, 56, 3)), FeatureExtractor("patches")])
        model.compile(jit_compile=keras.backend.backend() != "torch")
        images = photographs()
        np.testing.assert_allclose(model.predict(images, verbose=0), to_numpy(model.layers[0](images)), atol=1e-5)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"`image_size` must be a multiple of 16"):
            FeatureExtractor("patches", image_size=100)
        with pytest.raises(ValueError, match="has no weights to load"):
            FeatureExtractor("patches", weights="some.weights.h5")


class TestNamed:
    def test_names_in_any_spelling(self):
        assert find_backbone("inception_v3") == ("InceptionV3", 299)
        assert find_backbone("Inception-V3") == ("InceptionV3", 299)
        assert find_backbone("efficientnet_b0") == ("EfficientNetB0", 224)
        assert find_backbone("resnet50") == ("ResNet50", 224)
        assert find_backbone("vgg16") == ("VGG16", 224)
        assert find_backbone("mobilenet_v3_small") == ("MobileNetV3Small", 224)

    def test_mobilenet_with_its_preprocessing_saves_without_its_weights_file(self, tmp_path, monkeypatch):
        source = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
        path = tmp_path / "source.weights.h5"
        source.save_weights(path)
        extractor = FeatureExtractor("mobilenet_v2", weights=path, image_size=32)
        assert extractor.grid == (1, 1)
        images = photographs(2, 32, 32)
        model = keras.Sequential([keras.Input((None, None, 3)), extractor])
        features = model.predict_on_batch(images)
        expected = source.predict_on_batch(images / 127.5 - 1).reshape(2, 1, 1280)
        np.testing.assert_allclose(features, expected, atol=1e-4)

        model.save(tmp_path / "model.keras")
        path.unlink()

        @functools.wraps(keras.applications.MobileNetV2)
        def forbidden(*args, **kwargs):
            raise AssertionError("loading must not fetch weights")

        monkeypatch.setattr(keras.utils, "get_file", forbidden)
        monkeypatch.setattr(keras.applications, "MobileNetV2", forbidden)
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict_on_batch(images), features)
        assert loaded.layers[-1].fingerprint() == extractor.fingerprint()
        assert loaded.layers[-1].get_config()["weights"] is None
        assert loaded.trainable_variables == []

    @pytest.mark.parametrize("name", ["VGG16", "DenseNet121", "EfficientNetB0"])
    def test_each_application_brings_its_preprocessing(self, name):
        # The real networks are too large to run here: only the pixels that reach them matter.
        model = small_model()
        images = photographs(1, 32, 32).astype("float32")
        pixels = {
            "VGG16": images[..., ::-1] - [103.939, 116.779, 123.68],
            "DenseNet121": (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
            "EfficientNetB0": images,
        }[name]
        given = ops.convert_to_tensor(images)
        features = to_numpy(FeatureExtractor(Backbone(name, model))(given))
        np.testing.assert_array_equal(to_numpy(given), images)  # Not preprocessed in place.
        expected = to_numpy(model(pixels.astype("float32"), training=False)).reshape(1, 16, 5)
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-3)

    def test_no_network(self, monkeypatch):
        def fetch(*args, **kwargs):
            raise Exception("URL fetch failure on https://example.org: None -- unknown host")

        monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", fetch)
        with pytest.raises(OSError, match=r"(?s)MobileNetV2.*URL fetch.*weights=PATH.*'patches'"):
            FeatureExtractor("mobilenet_v2")

    def test_errors(self, tmp_path):
        with pytest.raises(ValueError, match=r"inceptoin.*Did you mean 'InceptionV3'"):
            FeatureExtractor("inceptoin_v3")
        with pytest.raises(FileNotFoundError, match=r"nowhere\.h5.*MobileNetV2"):
            FeatureExtractor("mobilenet_v2", weights="/nowhere.h5", image_size=32)
        with pytest.raises(ValueError, match=r"MobileNetV2.*image_size=\(8, 8\).*at least 32"):
            FeatureExtractor("mobilenet_v2", weights=None, image_size=8)
        other = tmp_path / "other.weights.h5"
        small_model().save_weights(other)
        with pytest.raises(ValueError, match=r"other\.weights\.h5.*does not fit.*MobileNetV2"):
            FeatureExtractor("mobilenet_v2", weights=other, image_size=32)


@pytest.mark.parametrize("before", [(61, 40), (20, 93), (8, 8), (1, 1)])
def test_resize_is_the_operation_of_keras(before):
    images = photographs(2, *before)
    for size in ((32, 32), (24, 40)):
        resized = to_numpy(resize(images, size))
        assert resized.dtype == np.float32
        expected = ops.image.resize(images.astype("float32"), size, interpolation="bilinear", antialias=True)
        np.testing.assert_allclose(resized, to_numpy(expected), atol=2e-3)
        alone = resize_one(images[0], size)
        assert alone.dtype == np.float32
        np.testing.assert_allclose(alone, to_numpy(expected)[0], atol=2e-3)


def test_argument_errors():
    model = small_model()
    with pytest.raises(ValueError, match="Received: backbone of type int"):
        FeatureExtractor(3)
    with pytest.raises(ValueError, match=r"Received: weights=7 \(type int\)"):
        FeatureExtractor(model, weights=7)
    for size in (-3, 0, 2.5, True, (3,), (4, "x")):
        with pytest.raises(ValueError, match="`image_size` must be a positive integer"):
            FeatureExtractor(model, image_size=size)
    with pytest.raises(ValueError, match=r"must take images of shape \(N, 16, 16, 3\)"):
        FeatureExtractor(model, image_size=16)
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match=r"must return one tensor.*\(None, 192\)"):
        FeatureExtractor(flat)
    with pytest.raises(ValueError, match=r"`images` must be of shape \(N, H, W, 3\)"):
        FeatureExtractor(model)(np.zeros((4, 4, 3)))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the photographs and weights in ../shared")
def test_real_photograph_and_weights():
    weights = SHARED / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"
    extractor = FeatureExtractor("mobilenet_v2", weights=weights)
    path = sorted((SHARED / "flickr8k" / "images").glob("*.jpg"))[0]
    pixels = read_image(path)
    features = to_numpy(extractor(pixels[None]))
    assert features.shape == (1, 49, 1280)
    expected = to_numpy(extractor.backbone(pixels[None] / 127.5 - 1))
    np.testing.assert_allclose(features, expected.reshape(1, 49, 1280), atol=1e-3)
