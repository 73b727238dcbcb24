"""Many images at once: captions that have ended leave, and the captions are those that few images get."""

import keras
import numpy as np
import pytest

from keras_showattend import Captioner
from keras_showattend.decoding import BeamSearch, Greedy, Sampling
from keras_showattend.generation import generate_together
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

BACKEND = keras.backend.backend()
N, L, D, V, T = 21, 3, 5, 9, 8
WAYS = {
    "greedy": Greedy(min_length=1, forbidden_last=[5]),
    "beam with penalties": BeamSearch(4, length_penalty="average", coverage_penalty=0.1, no_repeat_ngram=2, n_best=3),
    "sampling": Sampling(0.7, top_k=5, top_p=0.9, seed=2, min_length=3),
}


def make(seed=7, units=6, **options):
    captioner = Captioner(FeatureEncoder(3), AttentionGRUDecoder(V, 4, units, attention_units=7, **options))
    captioner.build([(None, L, D), (None, None)])
    generator = np.random.default_rng(seed)
    captioner.set_weights([(w.ndim > 1) * generator.normal(0, 1.2, w.shape) for w in captioner.get_weights()])
    return captioner


@pytest.fixture(scope="module")
def captioner():
    return make()


def features(n=N):
    return np.random.default_rng(0).normal(size=(n, L, D)).astype("float32")


def assert_equal(found, expected, tolerance=1e-5):
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.attention, expected.attention, atol=tolerance)


@pytest.mark.parametrize("way", WAYS)
def test_equals_few_at_a_time(captioner, way):
    x = features()
    found = captioner.generate(x, WAYS[way], max_length=T)
    assert_equal(found, captioner.generate(x, WAYS[way], max_length=T, batch_size=7))
    # Some end early, so that others are left.
    ends = (found.tokens.reshape(-1, T) == 3).argmax(axis=1)
    assert len(set(ends)) > 2


def test_the_gate_and_the_first_state_of_an_image():
    captioner, x = make(context_gate=True, state_initializer="mean_feature"), features()
    found, expected = (captioner.generate(x, BeamSearch(2), max_length=T, batch_size=size) for size in (None, 7))
    assert_equal(found, expected)


def test_captioners_of_other_widths_one_after_the_other_and_together():
    def of(embed_dim, vocab_size=V):
        captioner = Captioner(FeatureEncoder(embed_dim), AttentionGRUDecoder(vocab_size, embed_dim + 1, embed_dim + 2))
        captioner.build([(None, L, D), (None, None)])
        return captioner

    captioners, x = [of(3), of(5), of(4)], features()
    for one in (*captioners, of(3, V + 1), of(3, V + 2)):
        assert_equal(one.generate(x, "greedy", max_length=T), one.generate(x, "greedy", max_length=T, batch_size=7))
    found, expected = (generate_together(captioners, x, BeamSearch(2), max_length=T, batch_size=n) for n in (None, 7))
    assert_equal(found, expected)


def test_a_decoder_that_is_derived_says_for_itself_that_its_memory_has_rows():
    class Warmer(AttentionGRUDecoder):
        def prepare(self, features, features_mask=None):
            return super().prepare(features, features_mask) | {"temperature": keras.ops.convert_to_tensor(2.0)}

        def step(self, token, state, memory):
            logits, *rest = super().step(token, state, memory)
            return logits / memory["temperature"], *rest

    captioner = Captioner(FeatureEncoder(3), Warmer(V, 4, 6))
    captioner.build([(None, L, D), (None, None)])
    found, expected = (captioner.generate(features(), max_length=T, batch_size=n) for n in (None, 7))
    assert_equal(found, expected)


def test_batches_of_other_sizes(captioner):
    x = features(40)
    whole = captioner.generate(x, "greedy", max_length=T)
    # 17 and 17 and 6; 39 and 1
    for size in (17, 39):
        assert_equal(captioner.generate(x, "greedy", max_length=T, batch_size=size), whole)


def test_several_captioners(captioner):
    pair, x = [captioner, make(seed=6, units=8)], features()
    found, expected = (generate_together(pair, x, BeamSearch(2), max_length=T, batch_size=size) for size in (None, 7))
    assert_equal(found, expected)


def test_new_weights_are_used():
    captioner, other, x = make(), make(seed=6), features()
    captioner.generate(x, "greedy", max_length=T)
    captioner.set_weights(other.get_weights())
    assert_equal(captioner.generate(x, "greedy", max_length=T), other.generate(x, "greedy", max_length=T))


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    captioner, x = make(), features()
    found, few = (captioner.generate(x, BeamSearch(2), max_length=T, batch_size=size) for size in (None, 7))
    assert found.scores.dtype == np.float32
    # Kernels of other sizes round otherwise: a caption may be another one of nearly the same probability.
    same = (found.tokens == few.tokens).all(axis=1)
    assert same.mean() > 0.7
    np.testing.assert_allclose(found.scores[same], few.scores[same], atol=0.5)


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX they stay")
@pytest.mark.parametrize("leaves", [True, False])
def test_who_leaves(monkeypatch, leaves):
    captioner, seen = make(), []
    step = captioner.decoder.step

    def counting(token, state, memory):
        if BACKEND == "tensorflow":
            import tensorflow as tf

            shape = token.shape
            [token] = tf.numpy_function(lambda t: (seen.append(len(t)), t)[1], [token], [tf.int32])
            token.set_shape(shape)
        else:
            seen.append(len(token))
        return step(token, state, memory)

    monkeypatch.setattr(captioner.decoder, "step", counting)
    # A decoder that does not say that its memory has a row for each image.
    monkeypatch.setattr(AttentionGRUDecoder, "memory_has_rows", leaves)
    captioner.generate(features(40), "greedy", max_length=T)
    assert seen[0] == 40
    assert seen == sorted(seen, reverse=True)
    assert (min(seen) <= 16) == leaves


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow's graphs")
def test_one_trace_for_a_small_rest(monkeypatch):
    captioner, traced = make(), []
    step = captioner.decoder.step
    monkeypatch.setattr(captioner.decoder, "step", lambda *a, **k: traced.append(1) or step(*a, **k))
    x = features(35)
    captioner.generate(x, max_length=T, batch_size=16)  # 16, 16 and 3: the last makes the number of rows unknown
    once = len(traced)
    captioner.generate(x, max_length=T, batch_size=20)
    captioner.generate(x, max_length=T)
    assert len(traced) == once
