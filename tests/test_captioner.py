"""Training a captioner and writing captions with it."""

import os
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest
from keras import ops

import keras_showattend
from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy, Perplexity

BACKEND = keras.backend.backend()
N, G, T, L, D, E, U, V = 4, 2, 6, 4, 5, 3, 6, 9
JIT = [False] if BACKEND == "torch" else [False, True]


def make(dropout=0.0, **kwargs):
    encoder = FeatureEncoder(E, dropout=dropout)
    return Captioner(encoder, AttentionGRUDecoder(V, 4, U, attention_units=7, dropout=dropout), **kwargs)


def make_built(seed=5, **kwargs):
    captioner = make(**kwargs)
    captioner.build([(None, L, D), (None, None)])
    # The weights of a new decoder are small: larger ones give attention and captions that differ. They are NumPy's, so
    # that every backend, on every machine, decodes the same captions.
    generator = np.random.default_rng(seed)
    captioner.set_weights([(w.ndim > 1) * generator.normal(0, 0.8, w.shape) for w in captioner.get_weights()])
    return captioner


def features(n=N, seed=0, locations=(L,)):
    return np.random.default_rng(seed).normal(size=(n, *locations, D)).astype("float32")


def captions(*shape, seed=0):
    """Token ids `(..., T)`: start, words, end, and padding behind it; every length from 2 to T occurs."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(4, V, shape).astype("int32")
    flat = tokens.reshape(-1, shape[-1])
    flat[:, 0] = 2
    for i, row in enumerate(flat):
        end = 1 + (i + seed) % (shape[-1] - 1)
        row[end] = 3
        row[end + 1 :] = 0
    return tokens


def tokens_of(n=N, grouped=False, t=T, seed=0):
    return captions(n, G, t, seed=seed) if grouped else captions(n, t, seed=seed)


def numpy_loss(captioner, x, y, sample_weight=None, label_smoothing=0.0):
    """The mean over real tokens of -log p, from the logits."""
    logits = ops.convert_to_numpy(captioner([x, y[..., :-1]])).astype("float64")
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = y[..., 1:]
    nll = -np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    nll = (1 - label_smoothing) * nll - label_smoothing * logp.mean(-1)
    weights = (targets != 0).astype("float64")
    if sample_weight is not None:
        weights *= sample_weight.reshape(*sample_weight.shape, *[1] * (targets.ndim - sample_weight.ndim))
    return (nll * weights).sum() / weights.sum()


def dataset(pairs):
    """Batches of unequal T, in the form that each backend takes."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def spec(i):
            return tf.TensorSpec((None,) * pairs[0][i].ndim, pairs[0][i].dtype)

        # The width is known, as from a store.
        width = tf.TensorSpec((*(None,) * (pairs[0][0].ndim - 1), pairs[0][0].shape[-1]), "float32")
        signature = (width, *(spec(i) for i in range(1, len(pairs[0]))))
        return tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=signature)

    class Pairs(keras.utils.PyDataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, index):
            return pairs[index]

    return Pairs()


class TestRawArrays:
    @pytest.mark.parametrize("grouped", [False, True])
    def test_every_way_to_train_and_measure(self, grouped):
        x, y = features(), tokens_of(grouped=grouped)
        captioner = make(dropout=0.2, max_length=5)
        captioner.compile(optimizer=keras.optimizers.Adam(0.01))
        history = captioner.fit(x, y, batch_size=2, epochs=2, validation_data=(x, y), verbose=0).history
        assert sorted(history) == ["loss", "val_loss"]
        assert np.isfinite(history["loss"]).all()
        expected = numpy_loss(captioner, x, y)
        np.testing.assert_allclose(history["val_loss"][-1], expected, rtol=1e-5)
        np.testing.assert_allclose(captioner.evaluate(x, y, verbose=0), expected, rtol=1e-5)
        np.testing.assert_allclose(captioner.test_on_batch(x, y), expected, rtol=1e-5)
        before = captioner.get_weights()
        captioner.train_on_batch(x, y)
        assert any((a != b).any() for a, b in zip(before, captioner.get_weights(), strict=True))
        assert captioner.predict(x, verbose=0).shape == (N, 5)

    def test_the_first_call_may_be_any_of_them(self):
        x, y = features(), tokens_of()
        for method in ("train_on_batch", "test_on_batch", "evaluate"):
            captioner = make()
            captioner.compile(optimizer="sgd")
            assert np.isfinite(getattr(captioner, method)(x, y))
            assert captioner.built

    def test_train_on_batch_reports_the_loss_before_the_step(self):
        x, y = features(), tokens_of(grouped=True)
        captioner = make_built()
        captioner.compile(optimizer="sgd")
        expected = numpy_loss(captioner, x, y)
        np.testing.assert_allclose(captioner.train_on_batch(x, y), expected, rtol=1e-5)

    @pytest.mark.parametrize("y_type", ["int64", "uint8"])
    def test_any_integer_type(self, y_type):
        x, y = features(), tokens_of()
        captioner = make_built()
        captioner.compile()
        expected = numpy_loss(captioner, x, y)
        np.testing.assert_allclose(captioner.test_on_batch(x, y.astype(y_type)), expected, rtol=1e-5)

    def test_lists_of_ids(self):
        x, y = features(), tokens_of()
        captioner = make_built()
        captioner.compile()
        expected = numpy_loss(captioner, x, y)
        np.testing.assert_allclose(captioner.evaluate(x, y.tolist(), verbose=0), expected, rtol=1e-5)
        np.testing.assert_allclose(captioner.test_on_batch(x, y.tolist()), expected, rtol=1e-5)

    def test_validation_split(self):
        captioner = make()
        captioner.compile()
        history = captioner.fit(features(), tokens_of(), validation_split=0.5, verbose=0).history
        expected = numpy_loss(captioner, features()[2:], tokens_of()[2:])
        np.testing.assert_allclose(history["val_loss"], [expected], rtol=1e-5)


class TestUnequalLengths:
    @pytest.mark.parametrize("grouped", [False, True])
    # Op by op, JAX would compile every operation for every length.
    @pytest.mark.parametrize("jit", [True] if BACKEND == "jax" else JIT)
    def test_fit_and_evaluate(self, grouped, jit):
        pairs = [(features(2, s), tokens_of(2, grouped, t, s)) for s, t in enumerate((4, 6, 3))]
        captioner = make()
        captioner.compile(optimizer="adam", jit_compile=jit)
        history = captioner.fit(dataset(pairs), epochs=2, validation_data=dataset(pairs), verbose=0).history
        assert np.isfinite(history["loss"]).all()
        found = captioner.evaluate(dataset(pairs), verbose=0)
        np.testing.assert_allclose(found, history["val_loss"][-1], rtol=1e-6)
        # One big batch, padded to the longest, has the same loss: tokens count, not rows nor batches.
        x = np.concatenate([x for x, _ in pairs])
        y = np.concatenate([np.pad(y, [*[(0, 0)] * (y.ndim - 1), (0, 6 - y.shape[-1])]) for _, y in pairs])
        np.testing.assert_allclose(found, captioner.test_on_batch(x, y), rtol=1e-6)
        np.testing.assert_allclose(found, numpy_loss(captioner, x, y), rtol=1e-6)

    def test_weights_in_the_data_set(self):
        weights = np.array([0.5, 2.0], "float32")
        triples = [(features(2, s), tokens_of(2, True, t, s), weights) for s, t in enumerate((4, 6))]
        captioner = make_built()
        captioner.compile()
        found = captioner.evaluate(dataset(triples), verbose=0)
        x = np.concatenate([x for x, *_ in triples])
        y = np.concatenate([np.pad(y, [(0, 0), (0, 0), (0, 6 - y.shape[-1])]) for _, y, _ in triples])
        expected = numpy_loss(captioner, x, y, np.tile(weights, 2))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert abs(expected - numpy_loss(captioner, x, y)) > 1e-4
        captioner.fit(dataset(triples), verbose=0)

    def test_unequal_batches_of_arrays_weigh_by_tokens(self):
        x, y = features(5), captions(5, T)
        captioner = make_built()
        captioner.compile()
        found = captioner.evaluate(x, y, batch_size=2, verbose=0)
        np.testing.assert_allclose(found, captioner.test_on_batch(x, y), rtol=1e-6)


class TestSampleWeight:
    @pytest.mark.parametrize("shape", [(N,), (N, G)])
    def test_spreads_over_the_tokens(self, shape):
        x, y = features(), tokens_of(grouped=True)
        weights = np.random.default_rng(1).uniform(0.1, 3, shape).astype("float32")
        captioner = make_built()
        captioner.compile(optimizer="sgd")
        expected = numpy_loss(captioner, x, y, weights)
        assert abs(expected - numpy_loss(captioner, x, y)) > 1e-3
        np.testing.assert_allclose(captioner.test_on_batch(x, y, sample_weight=weights), expected, rtol=1e-5)
        found = captioner.evaluate(x, y, sample_weight=weights, batch_size=3, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        found = captioner.fit(x, y, sample_weight=weights, batch_size=N, verbose=0).history["loss"]
        np.testing.assert_allclose(found, [expected], rtol=1e-5)
        validation = (x, y, weights)
        found = captioner.fit(x, y, validation_data=validation, verbose=0).history["val_loss"]
        np.testing.assert_allclose(found, [numpy_loss(captioner, x, y, weights)], rtol=1e-5)

    def test_weight_zero_equals_leaving_out(self):
        x, y = features(), tokens_of()
        first, second = make_built(), make_built()
        second.set_weights(first.get_weights())
        for captioner in (first, second):
            captioner.compile(optimizer=keras.optimizers.SGD(0.5))
        first.train_on_batch(x, y, sample_weight=np.array([1, 1, 0, 1], "float32"))
        second.train_on_batch(x[[0, 1, 3]], y[[0, 1, 3]])
        for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)

    def test_filler_captions_weigh_nothing(self):
        x, y = features(), tokens_of(grouped=True)
        filled = np.concatenate([y, np.zeros((N, 3, T), "int32")], axis=1)
        first, second = make_built(attention_penalty=0.5), make_built(attention_penalty=0.5)
        second.set_weights(first.get_weights())
        for captioner in (first, second):
            captioner.compile(optimizer=keras.optimizers.SGD(0.5))
        loss = first.train_on_batch(x, y)
        np.testing.assert_allclose(second.train_on_batch(x, filled), loss, rtol=1e-6)
        for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


class TestCompile:
    @pytest.mark.parametrize("jit", JIT)
    def test_steps_on_two_batch_sizes(self, jit):
        captioner = make(dropout=0.1)
        captioner.compile(optimizer=keras.optimizers.Adam(0.02), jit_compile=jit)
        x, y = features(5), captions(5, G, T)
        history = captioner.fit(x, y, batch_size=3, epochs=8, verbose=0).history["loss"]
        assert history[-1] < history[0]
        expected = numpy_loss(captioner, x, y)
        np.testing.assert_allclose(captioner.evaluate(x, y, batch_size=3, verbose=0), expected, rtol=1e-5)

    def test_steps_without_a_graph(self):
        captioner = make_built()
        captioner.compile(optimizer="sgd", run_eagerly=True)
        x, y = features(), tokens_of()
        expected = numpy_loss(captioner, x, y)
        np.testing.assert_allclose(captioner.train_on_batch(x, y), expected, rtol=1e-5)

    def test_the_default_loss(self):
        captioner = make_built()
        captioner.compile()
        assert isinstance(captioner.loss, MaskedSparseCategoricalCrossentropy)

    def test_own_loss(self):
        x, y = features(), tokens_of(grouped=True)
        captioner = make_built()
        captioner.compile(loss=MaskedSparseCategoricalCrossentropy(label_smoothing=0.2))
        expected = numpy_loss(captioner, x, y, label_smoothing=0.2)
        assert abs(expected - numpy_loss(captioner, x, y)) > 1e-3
        np.testing.assert_allclose(captioner.test_on_batch(x, y), expected, rtol=1e-5)

    def test_metrics(self):
        x, y = features(), tokens_of(grouped=True)
        weights = np.array([3.0, 0.2, 1.0, 0.0], "float32")
        captioner = make_built()
        captioner.compile(metrics=[MaskedAccuracy()], weighted_metrics=[Perplexity(), MaskedAccuracy(name="weighted")])
        found = captioner.evaluate(x, y, sample_weight=weights, batch_size=3, verbose=0, return_dict=True)
        assert sorted(found) == ["loss", "masked_accuracy", "perplexity", "weighted"]
        np.testing.assert_allclose(found["perplexity"], np.exp(found["loss"]), rtol=1e-5)
        right = ops.convert_to_numpy(captioner([x, y[..., :-1]])).argmax(-1) == y[..., 1:]
        real = y[..., 1:] != 0
        np.testing.assert_allclose(found["masked_accuracy"], right[real].mean(), rtol=1e-5)
        weight = real * weights[:, None, None]
        np.testing.assert_allclose(found["weighted"], (right * weight).sum() / weight.sum(), rtol=1e-5)
        history = captioner.fit(x, y, validation_data=(x, y), verbose=0).history
        assert set(history) == {*found, *(f"val_{name}" for name in found)}


def test_learns_four_captions_by_heart():
    x = features()
    y = np.array([[2, 4, 5, 6, 3, 0], [2, 8, 3, 0, 0, 0], [2, 4, 4, 7, 8, 3], [2, 6, 5, 3, 0, 0]], "int32")
    captioner = make(max_length=5)
    captioner.compile(optimizer=keras.optimizers.Adam(0.05))
    losses = captioner.fit(x, y, epochs=60, verbose=0).history["loss"]
    assert losses[0] > 1.5
    assert losses[-1] < 0.05
    np.testing.assert_array_equal(captioner.generate(x).tokens, y[:, 1:])


class TestKindsOfInput:
    def test_images_with_a_feature_extractor(self):
        images = np.random.default_rng(0).integers(0, 256, (N, 40, 48, 3)).astype("uint8")
        extractor = FeatureExtractor("patches", image_size=32)
        captioner = make(feature_extractor=extractor, max_length=4)
        assert captioner.grid == (2, 2)
        captioner.compile()
        captioner.fit(images, tokens_of(), verbose=0)
        ready = ops.convert_to_numpy(extractor(images))
        from_images, from_features = captioner.generate(images), captioner.generate(ready)
        assert from_images.attention.shape == (N, 4, 4)
        np.testing.assert_array_equal(from_images.tokens, from_features.tokens)
        np.testing.assert_allclose(from_images.scores, from_features.scores, rtol=1e-5)
        np.testing.assert_array_equal(captioner.predict(images, verbose=0), from_images.tokens)
        loss = captioner.evaluate(images, tokens_of(), verbose=0)
        np.testing.assert_allclose(loss, captioner.evaluate(ready, tokens_of(), verbose=0), rtol=1e-5)

    def test_grid_features(self):
        grid, y = features(locations=(2, 2)), tokens_of()
        captioner = make_built(grid=(2, 2))
        captioner.compile(optimizer="sgd")
        captioner.fit(grid, y, verbose=0)
        flat = grid.reshape(N, 4, D)
        loss = captioner.evaluate(flat, y, verbose=0)
        np.testing.assert_allclose(captioner.evaluate(grid, y, verbose=0), loss, rtol=1e-6)
        np.testing.assert_array_equal(captioner.generate(grid).tokens, captioner.generate(flat).tokens)

    def test_another_number_of_locations(self):
        captioner = make_built()
        assert captioner.generate(features(2, locations=(7,)), max_length=3).attention.shape == (2, 3, 7)


@pytest.mark.parametrize("target", [1.0, 0.25, "T/L"])
@pytest.mark.parametrize("grouped", [False, True])
def test_attention_penalty(target, grouped):
    x, y = features(), tokens_of(grouped=grouped)
    captioner = make_built(attention_penalty=0.7, attention_target=target)
    captioner.compile(optimizer="sgd")
    encoded = captioner.encoder(x)
    _, weights = captioner.decoder(y[..., :-1], encoded, return_attention_scores=True)
    penalties = []
    for caption, attention in zip(y.reshape(-1, T), ops.convert_to_numpy(weights).reshape(-1, T - 1, L), strict=True):
        # A caption of k + 1 ids has k steps; those behind read the end or padding.
        steps = (caption != 0).sum() - 1
        goal = steps / L if target == "T/L" else target
        penalties.append(((goal - attention[:steps].sum(0)) ** 2).sum())
    expected = numpy_loss(captioner, x, y) + 0.7 * np.mean(penalties)
    np.testing.assert_allclose(captioner.test_on_batch(x, y), expected, rtol=1e-5)
    np.testing.assert_allclose(captioner.train_on_batch(x, y), expected, rtol=1e-5)


def test_attention_penalty_spreads_the_attention():
    x, y = features(), tokens_of()
    captioner = make(attention_penalty=5.0, attention_target="T/L")
    captioner.compile(optimizer=keras.optimizers.Adam(0.02))
    first, *_, last = captioner.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert last < first


class TestGenerate:
    def test_equals_a_loop_over_the_decoder_step(self):
        captioner, x = make_built(), features(6)
        found = captioner.generate(x, max_length=8)
        encoded = captioner.encoder(x)
        memory = captioner.decoder.prepare(encoded)
        state = captioner.decoder.initial_state(6)
        token, ended, scores = np.full(6, 2, "int32"), np.zeros(6, bool), np.zeros(6)
        for t in range(8):
            logits, state, weights = captioner.decoder.step(token, state, memory)
            logits = ops.convert_to_numpy(logits).astype("float64")
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            token = np.argmax(np.where(np.arange(V) < 3, -np.inf, logp), -1).astype("int32")
            np.testing.assert_array_equal(found.tokens[:, t], np.where(ended, 0, token))
            attention = np.where(ended[:, None], 0, ops.convert_to_numpy(weights))
            np.testing.assert_allclose(found.attention[:, t], attention, atol=1e-6)
            scores += np.where(ended, 0, logp[np.arange(6), token])
            ended |= token == 3
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-6)

    def test_scores_are_log_probabilities_by_teacher_forcing(self):
        captioner, x = make_built(), features(6)
        tokens, scores, *_ = captioner.generate(x, max_length=7)
        inputs = np.concatenate([np.full((6, 1), 2), tokens[:, :-1]], axis=1).astype("int32")
        logp = ops.convert_to_numpy(ops.log_softmax(captioner([x, inputs])))
        chosen = np.take_along_axis(logp, tokens[..., None], -1)[..., 0]
        np.testing.assert_allclose(scores, (chosen * (tokens != 0)).sum(-1), rtol=1e-5, atol=1e-6)

    def test_what_it_returns(self):
        captioner, x = make_built(max_length=9), features(8)
        # The end gets likely enough for some captions to end, and not for all.
        kernel, bias = captioner.decoder.vocabulary.get_weights()
        bias[3] += 1.0
        captioner.decoder.vocabulary.set_weights([kernel, bias])
        found = captioner.generate(x)
        assert type(found).__name__ == "Generation"
        assert found._fields == ("tokens", "scores", "attention", "texts")
        assert found.tokens.dtype == np.int32
        assert found.tokens.shape == (8, 9)
        assert found.scores.shape == (8,)
        assert found.attention.shape == (8, 9, L)
        assert found.texts is None
        lengths = []
        for tokens, attention in zip(found.tokens, found.attention, strict=True):
            length = list(tokens).index(3) + 1 if 3 in tokens else 9
            assert not np.isin(tokens[:length], (0, 1, 2)).any()
            assert not tokens[length:].any()
            np.testing.assert_allclose(attention[:length].sum(-1), 1, rtol=1e-5)
            assert not attention[length:].any()
            lengths.append(length)
        assert min(lengths) < max(lengths)

    def test_never_special_words_even_when_likely(self):
        captioner = make_built()
        kernel, bias = captioner.decoder.vocabulary.get_weights()
        bias[:3] = 100.0
        captioner.decoder.vocabulary.set_weights([kernel, bias])
        found = captioner.generate(features(), max_length=1)
        assert not np.isin(found.tokens, (0, 1, 2)).any()
        assert (found.scores < -40).all()

    @pytest.mark.parametrize("max_length", [1, 4, 11])
    def test_length_is_max_length(self, max_length):
        captioner = make_built(max_length=max_length)
        assert captioner.generate(features()).tokens.shape == (N, max_length)
        assert captioner.predict(features(), verbose=0).shape == (N, max_length)
        assert captioner.generate(features(), max_length=3).tokens.shape == (N, 3)

    def test_predict_gives_the_tokens(self):
        captioner, x = make_built(), features(5)
        tokens = captioner.generate(x).tokens
        np.testing.assert_array_equal(captioner.predict(x, batch_size=2, verbose=0), tokens)
        np.testing.assert_array_equal(captioner.predict_on_batch(x), tokens)

    def test_batch_size(self):
        captioner, x = make_built(), features(7)
        whole = captioner.generate(x)
        for batch_size in (1, 3, 50):
            parts = captioner.generate(x, batch_size=batch_size)
            np.testing.assert_array_equal(parts.tokens, whole.tokens)
            np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-5)
            np.testing.assert_allclose(parts.attention, whole.attention, atol=1e-5)

    def test_new_weights_are_used(self):
        captioner, other, x = make_built(), make_built(seed=6), features(6)
        old = captioner.generate(x)
        captioner.predict(x, verbose=0)
        captioner.set_weights(other.get_weights())
        new = captioner.generate(x)
        assert (new.tokens != old.tokens).any()
        np.testing.assert_array_equal(new.tokens, other.generate(x).tokens)
        np.testing.assert_array_equal(captioner.predict(x, verbose=0), new.tokens)

    def test_training_changes_what_it_writes(self):
        captioner, x = make_built(), features()
        captioner.compile(optimizer=keras.optimizers.Adam(0.1))
        old = captioner.generate(x).scores
        captioner.fit(x, tokens_of(), verbose=0)
        assert (captioner.generate(x).scores != old).all()

    def test_no_dropout_in_captions(self):
        captioner, x = make(dropout=0.5), features()
        captioner.build([(None, L, D), (None, None)])
        first, second = captioner.generate(x), captioner.generate(x)
        np.testing.assert_array_equal(first.scores, second.scores)

    def test_lists_and_tensors(self):
        captioner, x = make_built(), features()
        tokens = captioner.generate(x).tokens
        np.testing.assert_array_equal(captioner.generate(list(x)).tokens, tokens)
        np.testing.assert_array_equal(captioner.generate(ops.convert_to_tensor(x)).tokens, tokens)

    def test_texts(self):
        tokenizer = CaptionTokenizer.fit(["a b c d"])
        captioner, x = make_built(tokenizer=tokenizer), features()
        # Word 8 is the decoder's and not the tokenizer's.
        kernel, bias = captioner.decoder.vocabulary.get_weights()
        bias[8] = -50.0
        captioner.decoder.vocabulary.set_weights([kernel, bias])
        found = captioner.generate(x)
        assert found.texts == tokenizer.decode(found.tokens)
        assert set("".join(found.texts)) <= set("abcd ")


def test_caption(tmp_path):
    tokenizer = CaptionTokenizer.fit(["a b c d e"])
    captioner = make(tokenizer=tokenizer, feature_extractor=FeatureExtractor("patches", image_size=32))
    captioner.build([(None, 32, 32, 3), (None, None)])
    captioner.set_weights([w * 3 for w in captioner.get_weights()])
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32 + 8 * i, 40, 3)).astype("uint8") for i in range(3)]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        PIL.Image.fromarray(image).save(path)
    texts = captioner.caption(images)
    assert [type(text) for text in texts] == [str] * 3
    assert captioner.caption(paths) == texts
    assert captioner.caption([str(path) for path in paths], batch_size=2) == texts
    assert captioner.caption([paths[0].read_bytes(), images[1], paths[2]]) == texts
    assert captioner.caption(np.stack([images[0]] * 2)) == [texts[0]] * 2
    assert all(len(text.split()) <= 2 for text in captioner.caption(paths, max_length=2))
    loaded = np.stack([captioner.feature_extractor.load_image(path) for path in paths])
    assert captioner.generate(loaded).texts == texts


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    plain = make_built()
    x, y = features(), tokens_of(grouped=True)
    keras.config.set_dtype_policy(policy)
    captioner = make_built(attention_penalty=0.0)
    captioner.set_weights(plain.get_weights())
    captioner.compile(optimizer=keras.optimizers.Adam(0.02))
    np.testing.assert_allclose(captioner.test_on_batch(x, y), numpy_loss(plain, x, y), rtol=0.02)
    losses = captioner.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert {str(w.dtype) for w in captioner.get_weights()} == {"float32"}
    found = captioner.generate(x, max_length=4)
    assert found.scores.dtype == np.float32
    assert np.isfinite(found.scores).all()
    np.testing.assert_array_equal(captioner.predict(x, verbose=0)[:, :4], found.tokens)
    lengths = (found.tokens != 0).sum(-1)
    np.testing.assert_allclose(found.attention.astype("float32").sum((1, 2)), lengths, rtol=0.02)


TWO_DEVICES = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, keras_showattend
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

def train(strategy, weights=None):
    with strategy.scope():
        captioner = keras_showattend.Captioner(FeatureEncoder(3), AttentionGRUDecoder(9, 4, 6))
        captioner.compile(optimizer=keras.optimizers.SGD(0.5), jit_compile=False)
        captioner.build([(None, 4, 5), (None, None)])
        weights = weights or captioner.get_weights()
        captioner.set_weights(weights)
    x = np.random.default_rng(0).normal(size=(4, 4, 5)).astype("float32")
    y = np.array([[2, 4, 5, 3], [2, 8, 6, 3], [2, 4, 7, 3], [2, 5, 5, 3]])
    losses = captioner.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    return losses, captioner.get_weights(), weights

one = train(tf.distribute.get_strategy())
two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), one[2])
assert one[0][-1] < one[0][0]
np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
for a, b in zip(one[1], two[1]):
    np.testing.assert_allclose(a, b, atol=1e-5)
print("equal")
"""


@pytest.mark.skipif(BACKEND != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_two_devices_equal_one():
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-3000:]


def test_public_names():
    assert keras_showattend.Captioner is Captioner
