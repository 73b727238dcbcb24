"""The ways in which a captioner writes captions, one captioner alone and several together."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_showattend
from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.decoding import BeamSearch, Decoding, Greedy, Sampling, beam_search, greedy_search
from keras_showattend.features import FeatureExtractor
from keras_showattend.generation import generate_together
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

N, L, D, V, T = 4, 3, 5, 9, 6
WORDS = CaptionTokenizer.fit(["a b c d e"])
WAYS = {
    "greedy": "greedy",
    "greedy with rules": Greedy(min_length=2, no_repeat_ngram=1),
    "beam": BeamSearch(3),
    "beam with penalties": BeamSearch(4, length_penalty="average", coverage_penalty=0.1, no_repeat_ngram=2, n_best=3),
    "sampling": Sampling(seed=1),
    "sampling with options": Sampling(0.7, top_k=5, top_p=0.9, seed=2, min_length=3),
}


def make(seed=7, units=6, features_width=D, **kwargs):
    captioner = Captioner(FeatureEncoder(3), AttentionGRUDecoder(V, 4, units, attention_units=7), **kwargs)
    shape = (None, L, features_width) if "feature_extractor" not in kwargs else (None, 32, 32, 3)
    captioner.build([shape, (None, None)])
    # Weights larger than those of a new decoder give captions that differ, and some that end. They are NumPy's, so that
    # every backend decodes the same.
    generator = np.random.default_rng(seed)
    captioner.set_weights([(w.ndim > 1) * generator.normal(0, 1.2, w.shape) for w in captioner.get_weights()])
    return captioner


@pytest.fixture(scope="module")
def captioner():
    return make()


def features(n=N, seed=0):
    return np.random.default_rng(seed).normal(size=(n, L, D)).astype("float32")


def teacher_forcing(captioner, x, tokens):
    """Log-probabilities `(N, K, T, V)` and attention `(N, K, T, L)` of each next token, for tokens `(N, K, T)`."""
    inputs = np.concatenate([np.full_like(tokens[..., :1], 2), tokens[..., :-1]], axis=-1)
    logits, attention = captioner.decoder(inputs, captioner.encoder(x), return_attention_scores=True)
    return ops.convert_to_numpy(ops.log_softmax(logits)), ops.convert_to_numpy(attention)


def assert_scores_by(log_probabilities, tokens, scores, atol=1e-5):
    chosen = np.take_along_axis(log_probabilities, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores, (chosen * (tokens != 0)).sum(-1), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("way", WAYS)
def test_scores_and_attention_are_those_of_teacher_forcing(captioner, way):
    x = features()
    found = captioner.generate(x, WAYS[way], max_length=T)
    tokens, scores, attention = (part if "penalties" in way else part[:, None] for part in found[:3])
    assert tokens.shape == (N, 3 if "penalties" in way else 1, T)
    assert tokens.dtype == np.int32
    assert scores.dtype == np.float32
    log_probabilities, weights = teacher_forcing(captioner, x, tokens)
    assert_scores_by(log_probabilities, tokens, scores)
    np.testing.assert_allclose(attention, weights * (tokens != 0)[..., None], atol=1e-5)
    # The captions are not all alike.
    assert len({tuple(caption) for caption in tokens.reshape(-1, T)}) > 1


def test_compiled_equals_the_search_itself(captioner):
    x, options = features(), WAYS["beam with penalties"]
    found = captioner.generate(x, options, max_length=T)
    step, state = captioner.start_decoding(ops.convert_to_tensor(x))
    expected = options.decode(step, state, N, T)
    np.testing.assert_array_equal(found.tokens, ops.convert_to_numpy(expected.tokens))
    np.testing.assert_allclose(found.scores, ops.convert_to_numpy(expected.scores), rtol=1e-5)
    np.testing.assert_allclose(found.attention, ops.convert_to_numpy(expected.attention), atol=1e-5)


def test_greedy_in_three_ways(captioner):
    x = features()
    expected = captioner.generate(x, max_length=T)
    for decoding in (Greedy(), BeamSearch(width=1)):
        found = captioner.generate(x, decoding, max_length=T)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
        np.testing.assert_allclose(found.attention, expected.attention, atol=1e-6)


def test_a_wide_beam_finds_no_worse_captions(captioner):
    x = features(16)
    greedy, beam = (captioner.generate(x, way, max_length=T) for way in ("greedy", BeamSearch(40)))
    both_end = (greedy.tokens == 3).any(-1) & (beam.tokens == 3).any(-1)
    assert both_end.sum() > 4
    assert (beam.scores >= greedy.scores - 1e-5)[both_end].all()
    assert (beam.scores > greedy.scores + 1e-3)[both_end].any()


def test_beams_share_the_memory_of_their_image(captioner, monkeypatch):
    seen, step = [], captioner.decoder.step

    def spy(token, state, memory):
        seen.append((token.shape[0], {x.shape[0] for x in keras.tree.flatten(memory)}))
        return step(token, state, memory)

    monkeypatch.setattr(captioner.decoder, "step", spy)
    memory_step, state = captioner.start_decoding(ops.convert_to_tensor(features()))
    beam_search(memory_step, state, N, 3, width=2)
    assert seen[0] == (N, {N})
    assert seen[1] == (2 * N, {N})


class TestWhatItReturns:
    def test_n_best(self):
        captioner = make(tokenizer=WORDS)
        found = captioner.generate(features(), BeamSearch(4, n_best=3), max_length=T)
        assert found.tokens.shape == (N, 3, T)
        assert found.scores.shape == (N, 3)
        assert found.attention.shape == (N, 3, T, L)
        assert [len(texts) for texts in found.texts] == [3] * N
        assert found.texts == [WORDS.decode(tokens) for tokens in found.tokens]
        best = captioner.generate(features(), BeamSearch(4), max_length=T)
        assert best.tokens.shape == (N, T)
        np.testing.assert_array_equal(best.tokens, found.tokens[:, 0])
        assert best.texts == [texts[0] for texts in found.texts]

    @pytest.mark.parametrize("way", ["beam with penalties", "sampling with options"])
    def test_batches_change_nothing(self, captioner, way):
        x = features()
        whole = captioner.generate(x, WAYS[way], max_length=T)
        parts = captioner.generate(x, WAYS[way], max_length=T, batch_size=2)
        np.testing.assert_array_equal(parts.tokens, whole.tokens)
        np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-4)
        np.testing.assert_allclose(parts.attention, whole.attention, atol=1e-5)

    def test_half_precision(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        captioner = make()
        found = captioner.generate(features(), BeamSearch(2, coverage_penalty=0.1), max_length=T)
        assert found.scores.dtype == np.float32
        log_probabilities, _ = teacher_forcing(captioner, features(), found.tokens[:, None])
        assert_scores_by(log_probabilities, found.tokens[:, None], found.scores[:, None], atol=0.1)


class TestSampling:
    def test_seeds(self, captioner):
        x = features()
        first, again, other = (captioner.generate(x, Sampling(seed=s), max_length=T).tokens for s in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_no_seed(self, captioner):
        x = features()
        keras.utils.set_random_seed(3)
        first, second = (captioner.generate(x, Sampling(), max_length=T).tokens for _ in range(2))
        assert (first != second).any()
        keras.utils.set_random_seed(3)
        np.testing.assert_array_equal(captioner.generate(x, Sampling(), max_length=T).tokens, first)

    def test_images_draw_different_numbers(self, captioner):
        x = np.repeat(features(1), 12, axis=0)
        assert len({tuple(caption) for caption in captioner.generate(x, Sampling(seed=1), max_length=T).tokens}) > 4

    def test_near_greedy(self, captioner):
        x = features()
        found = captioner.generate(x, Sampling(temperature=1e-4, seed=1), max_length=T)
        np.testing.assert_array_equal(found.tokens, captioner.generate(x, max_length=T).tokens)


@pytest.mark.parametrize("way", WAYS)
def test_ids_without_a_word_are_not_written(way):
    captioner = make(tokenizer=CaptionTokenizer.fit(["a b"]))
    anything, found = make().generate(features(), WAYS[way]), captioner.generate(features(), WAYS[way])
    assert anything.tokens.max() > 5 >= found.tokens.max()
    assert np.shape(found.texts) == found.scores.shape
    if way == "greedy":
        np.testing.assert_array_equal(captioner.predict(features(), verbose=0), found.tokens)
    # Their share is not renormalised away.
    if found.tokens.ndim == 2:
        log_probabilities, _ = teacher_forcing(captioner, features(), found.tokens[:, None])
        assert_scores_by(log_probabilities[:, 0], found.tokens, found.scores)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="nothing is compiled on torch")
def test_compiles_once_for_equal_options(monkeypatch):
    captioner, x = make(), features()
    traced, step = [], captioner.decoder.step
    monkeypatch.setattr(captioner.decoder, "step", lambda *args: traced.append(1) or step(*args))

    def traces(*args, **kwargs):
        before = len(traced)
        captioner.generate(x, *args, **kwargs)
        return len(traced) > before

    assert traces(BeamSearch(2, banned=[0, 1, 2]), max_length=4)
    assert not traces(BeamSearch(width=2), max_length=4)
    assert traces(BeamSearch(2), max_length=5)
    assert traces(Sampling(seed=1), max_length=4)
    assert not traces(Sampling(seed=2), max_length=4)
    assert not traces(Sampling(), max_length=4)
    assert traces(Sampling(0.5), max_length=4)
    assert traces("greedy", max_length=4)
    assert not traces(Greedy(), max_length=4)


def test_new_weights_are_used():
    captioner, other, x = make(), make(seed=6), features()
    old = captioner.generate(x, BeamSearch(2), max_length=T)
    captioner.set_weights(other.get_weights())
    new = captioner.generate(x, BeamSearch(2), max_length=T)
    assert (new.tokens != old.tokens).any()
    np.testing.assert_array_equal(new.tokens, other.generate(x, BeamSearch(2), max_length=T).tokens)


def test_a_search_leaves_no_trace_in_the_file(tmp_path):
    captioner, x = make(tokenizer=WORDS), features()
    config = captioner.get_config()
    expected = captioner.generate(x, BeamSearch(3, n_best=2), max_length=T)
    captioner.generate(x, Sampling(seed=1), max_length=T)
    assert captioner.get_config() == config
    captioner.save(tmp_path / "captioner.keras")
    loaded = keras.models.load_model(tmp_path / "captioner.keras")
    found = loaded.generate(x, BeamSearch(3, n_best=2), max_length=T)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    assert found.texts == expected.texts
    assert len(loaded.weights) == len(captioner.weights)


class TestCaption:
    def images(self, n=4):
        return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3)).astype("uint8")

    def captioner(self):
        return make(tokenizer=WORDS, feature_extractor=FeatureExtractor("patches", image_size=32), max_length=5)

    def test_equals_generate(self):
        captioner, images = self.captioner(), self.images()
        for decoding in (BeamSearch(3, n_best=2), Sampling(seed=1)):
            found = captioner.caption(images, decoding, batch_size=2)
            assert found == captioner.generate(images, decoding).texts
            assert len(found) == 4

    def test_unknown_decoding(self):
        with pytest.raises(ValueError, match=r'`decoding` must be "greedy", or a Greedy, .* Received: decoding=7'):
            self.captioner().caption(self.images(), 7)


@keras.saving.register_keras_serializable(package="tests")
class Bigrams(keras.layers.Layer):
    """A decoder of its own kind: no attention, and a state that is a tuple."""

    vocab_size = V

    def build(self, tokens_shape, features_shape):
        self.table = self.add_weight(shape=(V, V), initializer="random_normal", name="table")
        self.glance = self.add_weight(shape=(features_shape[-1], V), initializer="random_normal", name="glance")

    def prepare(self, features):
        return ops.matmul(ops.mean(features, axis=1), self.glance)

    def initial_state(self, batch_size):
        return (ops.zeros((batch_size, V)),)

    def step(self, token, state, memory):
        # Several captions share the row of their image.
        rows = ops.repeat(memory, token.shape[0] // memory.shape[0], axis=0)
        (said,) = state
        logits = 40 * ops.take(ops.convert_to_tensor(self.table), token, axis=0) + 9 * rows - said
        return logits, (said + ops.one_hot(token, V),)

    def call(self, tokens, features, training=None):
        return ops.take(ops.convert_to_tensor(self.table), tokens, axis=0)


@pytest.mark.parametrize("way", ["greedy", "beam with penalties", "sampling"])
def test_a_decoder_without_attention(way):
    captioner = Captioner(FeatureEncoder(3), Bigrams(), tokenizer=WORDS)
    captioner.build([(None, L, D), (None, None)])
    decoding = WAYS[way]
    if "penalties" in way:
        decoding = BeamSearch(4, length_penalty="average", n_best=3)
        with pytest.raises(ValueError, match=r"`coverage_penalty` needs a `step` that returns attention"):
            captioner.generate(features(), WAYS[way], max_length=T)
    found = captioner.generate(features(), decoding, max_length=T)
    assert found.attention is None
    assert found.tokens.shape == ((N, 3, T) if "penalties" in way else (N, T))
    assert len(found.texts) == N
    assert np.isfinite(found.scores).all()


class TestTogether:
    def test_equal_captioners_are_one(self, captioner):
        x = features()
        expected = captioner.generate(x, BeamSearch(3), max_length=T)
        found = generate_together([captioner, captioner], x, BeamSearch(3), max_length=T)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
        np.testing.assert_allclose(found.attention, expected.attention, atol=1e-5)

    @pytest.mark.parametrize("way", ["greedy", "beam with penalties", "sampling with options"])
    def test_scores_are_those_of_the_mean_probabilities(self, captioner, way):
        other, x = make(seed=6, units=8), features()
        found = generate_together([captioner, other], x, WAYS[way], max_length=T, batch_size=2)
        tokens, scores, attention = (part if "penalties" in way else part[:, None] for part in found[:3])
        (first, weights), (second, others) = (teacher_forcing(one, x, tokens) for one in (captioner, other))
        assert_scores_by(np.logaddexp(first, second) - np.log(2), tokens, scores)
        np.testing.assert_allclose(attention, (weights + others) / 2 * (tokens != 0)[..., None], atol=1e-5)

    def test_the_second_counts(self, captioner):
        other, x = make(seed=6), features()
        before = generate_together([captioner, other], x, max_length=T)
        assert (before.scores != captioner.generate(x, max_length=T).scores).any()
        # New weights of either are seen.
        other.set_weights(captioner.get_weights())
        after = generate_together([captioner, other], x, max_length=T)
        np.testing.assert_allclose(after.scores, captioner.generate(x, max_length=T).scores, rtol=1e-4)

    def test_texts_and_length(self):
        first, second = make(max_length=4, tokenizer=WORDS), make(seed=6)
        found = generate_together((first, second), features())
        assert found.tokens.shape == (N, 4)
        assert found.texts == WORDS.decode(found.tokens)
        # A tokenizer that only another has serves too.
        assert generate_together([second, first], features(), max_length=4).texts == found.texts

    def test_a_list_it_must_be(self, captioner):
        with pytest.raises(ValueError, match=r"`captioners` must be a list of captioners\. Received: a Captioner"):
            generate_together(captioner, features())

    def test_images_through_each_ones_extractor(self):
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
        first, second = (make(seed, feature_extractor=FeatureExtractor("patches", image_size=32)) for seed in (5, 6))
        found = generate_together([first, second], images, max_length=3)
        ready = ops.convert_to_numpy(first.feature_extractor(images))
        expected = generate_together([first, second], ready, max_length=3)
        np.testing.assert_array_equal(found.tokens, expected.tokens)

    def test_errors(self, captioner):
        x = features()
        with pytest.raises(ValueError, match=r"`captioners` must hold at least one captioner\. Received: none"):
            generate_together([], x)
        small = Captioner(FeatureEncoder(3), AttentionGRUDecoder(V - 1, 4, 6))
        with pytest.raises(ValueError, match=r"`captioners` must share a vocabulary\. .* of \[9, 8\] words"):
            generate_together([captioner, small], x)
        with pytest.raises(ValueError, match=r"`captioners` must share a vocabulary\. .*words differ, of \[9, 7\]"):
            generate_together([make(tokenizer=WORDS), make(tokenizer=CaptionTokenizer.fit(["x y z"]))], x)
        with pytest.raises(ValueError, match=r"once it is built: call `fit`, .* Received: built=False\."):
            generate_together([captioner, Captioner(FeatureEncoder(3), AttentionGRUDecoder(V, 4, 6))], x)
        with pytest.raises(ValueError, match=r"`x` must have the feature width 7 .* x.shape=\(4, 3, 5\)"):
            generate_together([captioner, make(features_width=7)], x)
        with pytest.raises(ValueError, match=r"`decoding` must be .* Received: decoding='luck'"):
            generate_together([captioner], x, "luck")


class TestErrors:
    @pytest.mark.parametrize("decoding", [BeamSearch, "beam", {"width": 3}, None, 5, greedy_search, Decoding()])
    def test_what_is_no_way_of_decoding(self, captioner, decoding):
        with pytest.raises(ValueError, match=r'`decoding` must be "greedy", or a Greedy, a BeamSearch or a Sampling'):
            captioner.generate(features(), decoding)

    def test_rules_that_do_not_fit_the_captioner(self, captioner):
        with pytest.raises(ValueError, match=r"`min_length` must not be greater than `max_length`\. .*min_length=7"):
            captioner.generate(features(), Greedy(min_length=7), max_length=T)
        with pytest.raises(ValueError, match=r"`forbidden_last` must hold ids below the vocabulary size 9\."):
            captioner.generate(features(), Sampling(forbidden_last=[4, 9]), max_length=T)
        with pytest.raises(ValueError, match=r"`banned` must leave at least one of the 9 ids"):
            captioner.generate(features(), BeamSearch(banned=range(V)), max_length=T)

    def test_start_decoding(self, captioner):
        with pytest.raises(ValueError, match=r"`x` must have the feature width 5 "):
            captioner.start_decoding(features()[..., :2])


def test_public_names():
    rooms = keras_showattend.decoding
    assert rooms.BeamSearch is BeamSearch
    assert keras_showattend.generation.generate_together is generate_together
