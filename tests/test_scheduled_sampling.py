"""Scheduled sampling: what is drawn, what it replaces, and what is trained."""

import keras
import numpy as np
import pytest
from keras import ops
from numerics import value_and_gradients

from keras_showattend import Captioner
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.scheduled_sampling import mix_predictions

BACKEND = keras.backend.backend()
N, G, T, L, D, V = 4, 2, 6, 4, 5, 9
# Float32 keeps it below 1, and no number drawn in a test lies above.
ALWAYS = 1 - 1e-7
# Keras's Dropout draws from torch's own generator there, which no file holds.
DROPOUT = 0.0 if BACKEND == "torch" else 0.3

# Where a test needs no compiled step: a few batches take less time than tracing one.
EAGER = {"run_eagerly": BACKEND == "tensorflow"}


def make(dropout=0.0, **kwargs):
    return Captioner(FeatureEncoder(3, dropout=dropout), AttentionGRUDecoder(V, 4, 6, dropout=dropout), **kwargs)


def make_decided(**kwargs):
    """A captioner that is all but certain of each next token, which depends on those before it."""
    captioner = make(**kwargs)
    captioner.build([(None, L, D), (None, None)])
    generator = np.random.default_rng(5)
    captioner.set_weights([generator.normal(0, 0.8, w.shape) for w in captioner.get_weights()])
    kernel, bias = captioner.decoder.vocabulary.get_weights()
    captioner.decoder.vocabulary.set_weights([4000 * kernel, bias])
    return captioner


def features(n=N):
    return np.random.default_rng(0).normal(size=(n, L, D)).astype("float32")


def captions(*shape):
    """Token ids `(..., T)` of different lengths, and a caption of padding alone where there are groups."""
    tokens = np.random.default_rng(1).integers(4, V, shape).astype("int32")
    tokens[..., 0], tokens[..., -1] = 2, 3
    tokens[1, ..., 3], tokens[1, ..., 4:] = 3, 0
    if len(shape) == 3:
        tokens[2, 1] = 0
    return tokens


def mixed_by_hand(captioner, x, tokens):
    """The inputs of the second pass where every word is replaced by the best one predicted from the true tokens."""
    logits = ops.convert_to_numpy(captioner([x, tokens]))
    best = 4 + np.argmax(logits[..., 4:], axis=-1)
    ranked = np.sort(logits[..., 4:], axis=-1)
    expected = tokens.copy()
    for *row, t in np.ndindex(tokens.shape):
        if t > 0 and tokens[*row, t] > 3:
            expected[*row, t] = best[*row, t - 1]
            # All but certain indeed: the draw is known.
            assert ranked[*row, t - 1, -1] - ranked[*row, t - 1, -2] > 20
    assert (expected != tokens).sum() > 3
    return expected


def loss_of(captioner, x, inputs, targets):
    if not captioner.compiled:
        captioner.compile("sgd")
    return float(captioner.compute_loss(x, targets, captioner([x, inputs]), training=False))


class TestMixPredictions:
    def mix(self, tokens, logits, probability, seed=0):
        generator = keras.random.SeedGenerator(seed)
        return ops.convert_to_numpy(mix_predictions(np.asarray(tokens), logits, probability, generator))

    def test_by_hand(self):
        # Word t + 4 is predicted after step t, so that step t reads word t + 3 instead, but for the start, the end
        # and padding; the unknown word 1 is replaced like any other.
        tokens = [[2, 8, 8, 8, 8], [2, 8, 1, 3, 0], [0, 0, 0, 0, 0]]
        logits = 1000 * np.broadcast_to(np.eye(5, 9, 4), (3, 5, 9)).astype("float32")
        mixed = self.mix(tokens, logits, ALWAYS)
        np.testing.assert_array_equal(mixed, [[2, 4, 5, 6, 7], [2, 4, 5, 3, 0], [0, 0, 0, 0, 0]])
        np.testing.assert_array_equal(self.mix(tokens, logits, 0.0), tokens)

    @pytest.mark.parametrize(("shape", "dtype"), [((7, 1), "int32"), ((3, 2, 5), "int64")])
    def test_shapes_and_dtypes(self, shape, dtype):
        tokens = ops.convert_to_tensor(np.full(shape, 4, dtype), dtype=dtype)
        mixed = mix_predictions(tokens, np.zeros((*shape, V), "float32"), 0.5, keras.random.SeedGenerator(0))
        assert tuple(mixed.shape) == shape
        assert keras.backend.standardize_dtype(mixed.dtype) == keras.backend.standardize_dtype(tokens.dtype)

    def test_words_are_drawn_by_their_probabilities_and_special_tokens_never(self):
        probabilities = np.array([0.05, 0.1, 0.2, 0.25, 0.4])
        # However likely the four are.
        logits = np.concatenate([[5, 9, 9, 9], 3 + np.log(probabilities)]).astype("float32")
        count = 20_000
        mixed = self.mix(np.full((count // 4, 5), 8), np.broadcast_to(logits, (count // 4, 5, 9)), ALWAYS)
        assert (mixed[:, 0] == 8).all()
        observed = np.bincount(mixed[:, 1:].ravel(), minlength=9)
        assert observed[:4].sum() == 0
        expected = count * probabilities
        # Four degrees of freedom: once in 100,000 seeds.
        assert ((observed[4:] - expected) ** 2 / expected).sum() < 28.5

    def test_each_draw_is_its_own(self):
        mixed = self.mix(np.full((2000, 3), 8), np.zeros((2000, 3, 6), "float32"), ALWAYS)
        # Neighbours of the same step and of the same caption agree half of the time, as coins do.
        assert 0.45 < (mixed[1:, 1] == mixed[:-1, 1]).mean() < 0.55
        assert 0.45 < (mixed[:, 1] == mixed[:, 2]).mean() < 0.55

    @pytest.mark.parametrize("probability", [0.1, 0.75])
    def test_share(self, probability):
        tokens = np.full((2000, 11), 8)
        logits = 1000 * np.broadcast_to(np.eye(9)[5], (2000, 11, 9)).astype("float32")
        replaced = self.mix(tokens, logits, probability)[:, 1:] == 5
        # Five standard deviations, and at all steps alike.
        assert abs(replaced.mean() - probability) < 5 * np.sqrt(probability * (1 - probability) / replaced.size)
        assert np.abs(replaced.mean(axis=0) - probability).max() < 0.06

    def test_the_next_call_draws_others_and_the_seed_decides(self):
        tokens, logits = np.full((4, 8), 8), np.zeros((4, 8, 99), "float32")
        generator = keras.random.SeedGenerator(3)
        first, second = (ops.convert_to_numpy(mix_predictions(tokens, logits, 0.9, generator)) for _ in range(2))
        assert (first != second).any()
        np.testing.assert_array_equal(self.mix(tokens, logits, 0.9, seed=3), first)


class TestTraining:
    @pytest.mark.parametrize(("shape", "jit_compile"), [((N, T), False), ((N, G, T), BACKEND != "torch")])
    def test_the_second_pass_reads_the_draws_and_alone_is_trained(self, shape, jit_compile):
        x, y = features(), captions(*shape)
        captioner = make_decided(scheduled_sampling=ALWAYS)
        inputs, targets = y[..., :-1], y[..., 1:]
        mixed = mixed_by_hand(captioner, x, inputs)
        plain = make_decided()
        plain.set_weights(captioner.get_weights())
        expected = loss_of(plain, x, mixed, targets)
        assert abs(expected - loss_of(plain, x, inputs, targets)) > 0.1

        def loss(*weights):
            with keras.StatelessScope(list(zip(plain.trainable_variables, weights, strict=True))):
                return plain.loss(targets, plain([x, mixed], training=True))

        before = captioner.get_weights()
        _, gradients = value_and_gradients(loss, before)
        captioner.compile(keras.optimizers.SGD(1e-4), jit_compile=jit_compile)
        np.testing.assert_allclose(captioner.train_on_batch(x, y), expected, rtol=1e-5)
        for old, new, gradient in zip(before, captioner.get_weights(), gradients, strict=True):
            np.testing.assert_allclose(new, old - 1e-4 * gradient, rtol=1e-5, atol=1e-6 * np.abs(old).max())

    def test_the_penalty_is_that_of_the_second_pass(self):
        x, y = features(), captions(N, G, T)
        captioner = make_decided(scheduled_sampling=ALWAYS, attention_penalty=0.7)
        mixed = mixed_by_hand(captioner, x, y[..., :-1])
        plain = make_decided(attention_penalty=0.7)
        plain.set_weights(captioner.get_weights())
        captioner.compile("sgd")
        expected = loss_of(plain, x, mixed, y[..., 1:])
        np.testing.assert_allclose(captioner.train_on_batch(x, y), expected, rtol=1e-5)

    def test_only_while_training(self):
        x, y = features(), captions(N, G, T)
        captioner, plain = make_decided(scheduled_sampling=ALWAYS), make_decided()
        for model in (captioner, plain):
            model.compile("sgd", **EAGER)
        state = ops.convert_to_numpy(captioner._sampling_seed.state)
        assert captioner.evaluate(x, y, verbose=0) == plain.evaluate(x, y, verbose=0)
        assert captioner.test_on_batch(x, y) == plain.test_on_batch(x, y)
        np.testing.assert_array_equal(captioner.generate(x).tokens, plain.generate(x).tokens)
        np.testing.assert_array_equal(ops.convert_to_numpy(captioner._sampling_seed.state), state)

    @pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
    def test_everything_together(self, policy):
        """In float16 with an optimizer that scales the loss around the one whose iterations count."""
        keras.config.set_dtype_policy(policy)
        x, y = features(), captions(N, G, T)
        schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 12, 0.5)
        captioner = make(dropout=0.2, attention_penalty=0.1, scheduled_sampling=schedule)
        captioner.compile(keras.optimizers.Adam(0.02))
        losses = captioner.fit(x, y, batch_size=2, epochs=12, validation_data=(x, y), verbose=0).history["loss"]
        assert np.isfinite(losses).all()
        assert min(losses[-3:]) < losses[0]

    def test_images(self):
        images = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3)).astype("uint8")
        backbone = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(D, 4, 4)])
        captioner = make(scheduled_sampling=0.5, feature_extractor=FeatureExtractor(backbone))
        captioner.compile("sgd", **EAGER)
        assert np.isfinite(captioner.fit(images, captions(N, T), verbose=0).history["loss"]).all()


class TestSchedule:
    def test_follows_the_iterations_and_the_saved_ones(self, tmp_path):
        x, y = features(), captions(N, T)
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, ALWAYS])
        captioner = make_decided(scheduled_sampling=schedule)
        # Nothing moves but the iterations.
        captioner.compile(keras.optimizers.SGD(0.0))
        true = loss_of(captioner, x, y[..., :-1], y[..., 1:])
        mixed = loss_of(captioner, x, mixed_by_hand(captioner, x, y[..., :-1]), y[..., 1:])
        losses = [float(captioner.train_on_batch(x, y)) for _ in range(3)]
        np.testing.assert_allclose(losses, [true, true, mixed], rtol=1e-5)
        captioner.save(tmp_path / "c.keras")
        loaded = keras.models.load_model(tmp_path / "c.keras")
        assert loaded.scheduled_sampling.get_config() == schedule.get_config()
        np.testing.assert_allclose(loaded.train_on_batch(x, y), mixed, rtol=1e-5)


class Counting(AttentionGRUDecoder):
    """A decoder that counts its passes."""

    passes = 0

    def call(self, *args, **kwargs):
        self.passes += 1
        return super().call(*args, **kwargs)


class TestWithout:
    def trained(self, **kwargs):
        keras.utils.set_random_seed(3)
        captioner = make(dropout=0.3, **kwargs)
        captioner.compile(keras.optimizers.Adam(0.02), **EAGER)
        return captioner, captioner.fit(features(), captions(N, T), batch_size=2, epochs=2, verbose=0).history["loss"]

    def test_zero_is_no_option(self):
        (with_zero, losses), (without, expected) = self.trained(scheduled_sampling=0.0), self.trained()
        assert losses == expected
        for a, b in zip(with_zero.get_weights(), without.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_only_a_captioner_that_samples_has_a_state_for_it(self):
        counts = {}
        for options in ((), (("scheduled_sampling", 0.0),), (("scheduled_sampling", 0.5),)):
            captioner = make(dropout=0.3, **dict(options))
            captioner.build([(None, L, D), (None, None)])
            counts[options] = len(captioner.variables), len(captioner._random_states())
        plain, zero, half = counts.values()
        assert zero == plain == (half[0] - 1, half[1] - 1)

    @pytest.mark.skipif(BACKEND == "jax", reason="op by op, every one of them would be compiled")
    @pytest.mark.parametrize(("probability", "passes"), [(0.0, 1), (0.5, 2)])
    def test_a_first_pass_only_where_it_is_needed(self, probability, passes):
        decoder = Counting(V, 4, 6)
        captioner = Captioner(FeatureEncoder(3), decoder, scheduled_sampling=probability)
        captioner.build([(None, L, D), (None, None)])
        captioner.compile("sgd", run_eagerly=True)
        # The first batch builds, symbolically on torch.
        captioner.train_on_batch(features(), captions(N, T))
        decoder.passes = 0
        captioner.train_on_batch(features(), captions(N, T))
        assert decoder.passes == passes


class TestRandomNumbers:
    def history(self, captioner):
        return captioner.fit(features(), captions(N, T), batch_size=2, epochs=2, verbose=0, shuffle=False).history

    def make(self, **kwargs):
        captioner = make(dropout=DROPOUT, scheduled_sampling=0.5, **kwargs)
        captioner.compile(keras.optimizers.Adam(0.02), **EAGER)
        return captioner

    def test_set_random_seed_decides_them(self):
        states = []
        for seed in (3, 3, 4):
            keras.utils.set_random_seed(seed)
            states.append(tuple(ops.convert_to_numpy(make(scheduled_sampling=0.5)._sampling_seed.state)))
        assert states[0] == states[1] != states[2]

    def test_each_batch_draws_others(self):
        captioner = make_decided(scheduled_sampling=0.5)
        captioner.compile(keras.optimizers.SGD(0.0), **EAGER)
        losses = [float(captioner.train_on_batch(features(), captions(N, T))) for _ in range(5)]
        assert len(set(losses)) > 1

    def test_a_saved_captioner_goes_on_with_the_next_ones(self, tmp_path):
        captioner = self.make()
        self.history(captioner)
        captioner.save(tmp_path / "c.keras")
        loaded = keras.models.load_model(tmp_path / "c.keras")
        assert loaded.scheduled_sampling == 0.5
        assert self.history(loaded) == self.history(captioner)
        for a, b in zip(captioner.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("first", [0.0, 0.5])
    def test_weights_go_between_captioners_with_and_without(self, tmp_path, first):
        source, target = (make(dropout=0.3, scheduled_sampling=probability) for probability in (first, 0.5 - first))
        for captioner in (source, target):
            captioner.build([(None, L, D), (None, None)])
        source.save_weights(tmp_path / "c.weights.h5")
        target.load_weights(tmp_path / "c.weights.h5")
        for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        # The dropout layers' random numbers too, which both have.
        shared = set(source._random_states()) & set(target._random_states())
        assert shared == {str(i) for i in range(len(shared))} != set()
        for name in shared:
            a, b = (ops.convert_to_numpy(captioner._random_states()[name]) for captioner in (source, target))
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, 2, float("nan"), True, None, "0.5", lambda step: 0.5])
def test_values_that_are_no_probability(value):
    with pytest.raises(ValueError, match=r"`scheduled_sampling` must be a number in \[0, 1\).*Received: scheduled_sam"):
        make(scheduled_sampling=value)


@pytest.mark.parametrize("value", [0, np.float32(0.25), np.float64(0.25), np.int64(0)])
def test_numbers_of_any_kind_are_a_probability(value):
    probability = make(scheduled_sampling=value).scheduled_sampling
    assert probability == value
    assert type(probability) is float


def test_a_vocabulary_without_words():
    decoder = AttentionGRUDecoder(4, 4, 6)
    with pytest.raises(ValueError, match=r"`scheduled_sampling` draws words, ids above 3.*vocab_size=4"):
        Captioner(FeatureEncoder(3), decoder, scheduled_sampling=0.5)
    Captioner(FeatureEncoder(3), AttentionGRUDecoder(4, 4, 6))
