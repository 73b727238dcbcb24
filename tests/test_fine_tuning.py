"""Training the backbone with the captioner, from images."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from numerics import FLOAT64_WORKS, assert_gradients_match_differences, layer_loss, mixture, value_and_gradients

from keras_showattend import Captioner
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

N, T, D, V = 4, 5, 5, 9
SIDE = 8
# A few batches take less time than tracing a step of them.
EAGER = {"run_eagerly": keras.backend.backend() == "tensorflow"}


def make_backbone():
    backbone = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Conv2D(4, 2, 2, activation="tanh", name="first"),
            keras.layers.BatchNormalization(name="normalization"),
            keras.layers.Dropout(0.5),
            keras.layers.Conv2D(D, 2, 2, name="second"),
        ]
    )
    # Statistics that no batch has, and a scale other than 1.
    normalization = backbone.get_layer("normalization")
    normalization.set_weights([np.linspace(0.5 + i, 1.5 + i, 4) for i in range(4)])
    return backbone


def make():
    captioner = Captioner(
        FeatureEncoder(3), AttentionGRUDecoder(V, 4, 6), feature_extractor=FeatureExtractor(make_backbone())
    )
    captioner.build([(None, SIDE, SIDE, 3), (None, None)])
    return captioner


def images(n=N, side=SIDE):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype("uint8")


def tokens(n=N):
    y = np.random.default_rng(1).integers(4, V, (n, T)).astype("int32")
    y[:, 0], y[:, -1] = 2, 3
    y[0, 3:] = [3, 0]
    return y


def thaw(captioner, optimizer="sgd"):
    captioner.feature_extractor.trainable = True
    captioner.compile(keras.optimizers.get(optimizer), **EAGER)
    return captioner


def moved(layer, train):
    """For each weight of the layer, by name, whether `train()` changes it at all."""
    before = layer.get_weights()
    train()
    after = layer.get_weights()
    names = [f"{w.path.split('/')[-2]}/{w.name}" for w in layer.weights]
    return {name: (a != b).any() for name, a, b in zip(names, before, after, strict=True)}


STATISTICS = {"normalization/moving_mean", "normalization/moving_variance"}


class TestTraining:
    def test_frozen_unless_asked(self):
        captioner = make()
        captioner.compile(keras.optimizers.Adam(0.1))
        backbone = captioner.feature_extractor.backbone
        assert captioner.feature_extractor.trainable_variables == []
        assert not any(moved(backbone, lambda: captioner.fit(images(), tokens(), epochs=2, verbose=0)).values())

    def test_every_weight_moves_but_the_statistics(self):
        captioner = thaw(make(), keras.optimizers.Adam(0.1))
        y = np.repeat(tokens()[:, None], 2, axis=1)
        found = moved(captioner, lambda: captioner.fit(images(), y, batch_size=2, verbose=0))
        assert {name for name, has_moved in found.items() if not has_moved} == STATISTICS

    def test_the_step_is_that_of_a_plain_model(self):
        """Of bytes, and of another size than the backbone's."""
        captioner = thaw(make(), keras.optimizers.SGD(1.0))
        x, y, backbone = images(side=11), tokens(), captioner.feature_extractor.backbone
        pixels = ops.convert_to_numpy(ops.image.resize(x.astype("float32"), (SIDE, SIDE), antialias=True))

        def loss(*weights):
            with keras.StatelessScope(list(zip(captioner.trainable_variables, weights, strict=True))):
                features = ops.reshape(backbone(pixels, training=False), (N, 4, D))
                logits = captioner.decoder(y[:, :-1], captioner.encoder(features))
                return captioner.loss(y[:, 1:], logits)

        before = [ops.convert_to_numpy(v) for v in captioner.trainable_variables]
        value, gradients = value_and_gradients(loss, before)
        np.testing.assert_allclose(captioner.train_on_batch(x, y), value, rtol=1e-5)
        for variable, old, gradient in zip(captioner.trainable_variables, before, gradients, strict=True):
            assert np.abs(gradient).max() > 0 or "attention/query_bias" in variable.path
            np.testing.assert_allclose(ops.convert_to_numpy(variable), old - gradient, rtol=1e-4, atol=1e-6)

    @pytest.mark.skipif(not FLOAT64_WORKS, reason="differences need float64")
    def test_the_gradient_of_the_features_is_that_of_differences(self):
        keras.config.set_dtype_policy("float64")
        extractor = FeatureExtractor(make_backbone(), trainable=True)
        arrays = [ops.convert_to_numpy(v) for v in extractor.trainable_variables]
        assert len(arrays) == 6
        assert_gradients_match_differences(layer_loss(extractor, images(2, side=11)), arrays)

    def test_some_layers_only(self):
        captioner = make()
        captioner.feature_extractor.trainable = True
        captioner.feature_extractor.backbone.get_layer("first").trainable = False
        captioner.compile("sgd")
        found = moved(captioner.feature_extractor, lambda: captioner.fit(images(), tokens(), verbose=0))
        kept = {name for name, has_moved in found.items() if not has_moved}
        assert kept == STATISTICS | {"first/kernel", "first/bias"}

    def test_frozen_again(self):
        captioner = thaw(make(), keras.optimizers.Adam(0.1))
        captioner.fit(images(), tokens(), verbose=0)
        captioner.feature_extractor.trainable = False
        captioner.compile(keras.optimizers.Adam(0.1))
        found = moved(captioner, lambda: captioner.fit(images(), tokens(), verbose=0))
        backbone = {f"{w.path.split('/')[-2]}/{w.name}" for w in captioner.feature_extractor.weights}
        assert {name for name, has_moved in found.items() if not has_moved} == backbone

    def test_captions_are_those_of_the_new_weights(self):
        captioner = thaw(make(), keras.optimizers.Adam(0.1))
        x = images()
        old = captioner.generate(x)
        captioner.fit(x, tokens(), epochs=3, verbose=0)
        new = captioner.generate(x)
        assert (new.scores != old.scores).all()
        # One that never had others.
        other = make()
        other.set_weights(captioner.get_weights())
        expected = other.generate(x)
        np.testing.assert_array_equal(new.tokens, expected.tokens)
        np.testing.assert_allclose(new.scores, expected.scores, rtol=1e-5)

    def test_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_float16")
        captioner = thaw(make(), keras.optimizers.Adam(0.05))
        losses = captioner.fit(images(), tokens(), epochs=8, verbose=0).history["loss"]
        assert losses[-1] < losses[0]

    def test_pixels_are_not_rounded_before_they_are_preprocessed(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        captioner, seen = make(), []
        call = captioner.feature_extractor.call
        captioner.feature_extractor.call = lambda x: seen.append(keras.backend.standardize_dtype(x.dtype)) or call(x)
        captioner([images().astype("float32") + 0.3, tokens()])
        assert seen == ["float32"]

    def test_features_do_not_train_a_backbone(self):
        captioner = thaw(make())
        features = np.zeros((N, 4, D), "float32")
        with pytest.raises(ValueError, match=r"`x` must be images \(N, H, W, 3\) to train.*x\.shape=\(.*4, 5\)"):
            captioner.fit(features, tokens(), verbose=0)
        # And no harm is done: on JAX, what fails within `fit` costs the weights.
        assert np.isfinite(captioner.evaluate(features, tokens(), verbose=0))


class TestSaving:
    def test_training_goes_on(self, tmp_path):
        captioner = thaw(make(), keras.optimizers.Adam(0.05))
        captioner.fit(images(), tokens(), verbose=0)
        captioner.save(tmp_path / "c.keras")
        loaded = keras.models.load_model(tmp_path / "c.keras")
        assert loaded.feature_extractor.trainable
        never, again = (
            model.fit(images(), tokens(), epochs=2, verbose=0, shuffle=False).history for model in (captioner, loaded)
        )
        assert never == again
        for a, b in zip(captioner.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_what_is_frozen_comes_back(self):
        extractor = FeatureExtractor(make_backbone(), trainable=True)
        extractor.backbone.get_layer("first").trainable = False
        for trainable in (True, False):
            if not trainable:
                extractor.trainable = False
            config = json.loads(json.dumps(keras.saving.serialize_keras_object(extractor)))
            again = keras.saving.deserialize_keras_object(config)
            assert again.trainable == trainable
            names = [[v.name for v in e.trainable_variables] for e in (extractor, again)]
            assert names[0] == names[1]
            assert len(names[0]) == (4 if trainable else 0)

    def test_a_store_of_other_weights_is_refused(self, tmp_path):
        captioner = make()
        extractor = captioner.feature_extractor
        examples = [{"image_id": i, "image": image, "captions": ["a"]} for i, image in enumerate(images())]
        store = FeatureStore.build(tmp_path / "store", examples, extractor, dtype="float32", verbose=0)
        old = store.features([0, 1])
        thaw(captioner, keras.optimizers.Adam(0.1))
        # Nothing has changed yet.
        FeatureStore.build(tmp_path / "store", examples, extractor, dtype="float32", verbose=0)
        captioner.fit(images(), tokens(), verbose=0)
        with pytest.raises(ValueError, match="holds features of another extractor"):
            FeatureStore.build(tmp_path / "store", examples, extractor, dtype="float32", verbose=0)
        # Another store is of the new weights, not of those compiled for the first.
        new = FeatureStore.build(tmp_path / "new", examples, extractor, dtype="float32", verbose=0).features([0, 1])
        assert (new != old).any()
        np.testing.assert_allclose(new, ops.convert_to_numpy(extractor(images()[:2])), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="XLA takes a minute to compile it")
def test_mobilenet():
    """Gradients are those of the application's own layers, after its own preprocessing, in inference mode."""
    extractor = FeatureExtractor("mobilenet_v2", weights=None, image_size=32, trainable=True)
    pixels, variables = images(2, side=32), extractor.trainable_variables

    def slope(features):
        def function(*weights):
            with keras.StatelessScope(list(zip(variables, weights, strict=True))):
                return mixture(features())

        return value_and_gradients(function, [ops.convert_to_numpy(v) for v in variables])[1]

    found = slope(lambda: extractor(pixels))
    plain = slope(lambda: extractor.backbone(pixels / np.float32(127.5) - 1, training=False))
    assert len(found) == 156  # 52 kernels, and as many scales and offsets; the statistics are not trained.
    for gradient, expected, variable in zip(found, plain, variables, strict=True):
        largest = np.abs(expected).max()
        assert largest > 0
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-3 * largest, err_msg=variable.path)
