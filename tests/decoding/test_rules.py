"""What all ways of decoding have in common: the rules for the next token."""

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from writers import BACKEND, END, PADDING, START, Writer, allowed_ids, as_numpy, beam_loop, chain, constant, steps_of

from keras_showattend.decoding import BeamSearch, Greedy, Sampling, beam_search, greedy_search, sample

V, T, B = 6, 6, 2
SEARCHES = {"greedy": greedy_search, "beam": beam_search, "sample": sample}
CLASSES = {"greedy": Greedy, "beam": BeamSearch, "sample": Sampling}


def run(name, step, *args, **options):
    if name == "sample":
        options = {"seed": 3, **options}
    return as_numpy(SEARCHES[name](step, *args, **options))


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    min_length=st.integers(0, T),
    no_repeat_ngram=st.sampled_from([0, 1, 2]),
    banned=st.sets(st.integers(0, V - 1), max_size=V - 2).map(sorted),
    forbidden_last=st.sampled_from([[], [4, 1], [START, 5]]),
)
def test_captions_keep_the_rules(name, seed, **rules):
    writer = Writer(seed, V, rows=B)
    tokens, scores, attention = run(name, writer.step, writer.state(), B, T, **rules)
    for row in range(B):
        said, logp = [], 0.0
        while len(said) < T and (not said or said[-1] != END):
            allowed = allowed_ids(V, said, **rules)
            if not allowed:
                break
            token = int(tokens[row, len(said)])
            assert token in allowed
            # The score is the model's own log-probability, whatever the rules.
            logp += writer.read(row, said)[0][token]
            said.append(token)
        np.testing.assert_array_equal(tokens[row, len(said) :], PADDING)
        np.testing.assert_array_equal(attention[row, len(said) :], 0)
        assert (attention[row, : len(said)].sum(-1) > 0.99).all()
        np.testing.assert_allclose(scores[row], logp, rtol=1e-4, atol=1e-5)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    min_length=st.integers(0, T),
    no_repeat_ngram=st.sampled_from([0, 1, 2]),
    banned=st.sets(st.integers(0, V - 1), max_size=V - 2).map(sorted),
    forbidden_last=st.sampled_from([[], [4, 1], [START, 5]]),
)
def test_greedy_takes_the_best_that_is_allowed(seed, **rules):
    writer = Writer(seed, V, rows=B)
    tokens, scores, _ = run("greedy", writer.step, writer.state(), B, T, **rules)
    for row in range(B):
        (best,) = beam_loop(writer, row, T, 1, **rules)
        np.testing.assert_array_equal(tokens[row], best.padded(T))
        np.testing.assert_allclose(scores[row], best.score, rtol=1e-5, atol=1e-6)


def table(default=1e-9, **rows):
    """Log-probabilities `(B, V, V)` of the tokens after each token: `after_4={5: 0.7}`."""
    chances = np.full((V, V), default, "float32")
    for name, entries in rows.items():
        for token, chance in entries.items():
            chances[int(name.removeprefix("after_")), token] = chance
    return np.log(np.tile(chances, (B, 1, 1)))


@pytest.mark.parametrize("name", SEARCHES)
class TestOneRule:
    """Models that are all but certain, so that every search and every draw finds the same."""

    def search(self, name, model, **options):
        step, state = model
        return run(name, step, state, B, T, **options)

    def test_min_length(self, name):
        model = constant(B, [1e-6, 1e-6, 1e-6, 1, 1e-6, 1e-6])
        for min_length in (0, 2, T):
            tokens, scores, _ = self.search(name, model, min_length=min_length)
            # So many words, and then the end where there is room for it.
            assert ((tokens != PADDING).sum(-1) == min(min_length + 1, T)).all()
            assert (tokens[:, :min_length] > END).all()
            assert (tokens[:, min_length:][:, :1] == END).all()
            np.testing.assert_allclose(scores, min_length * np.log(1e-6), rtol=1e-3, atol=1e-3)

    def test_no_repeat_ngram(self, name):
        # Without the rule, 4 and 5 in turn.
        model = chain(table(after_2={4: 1, END: 1e-3}, after_4={5: 1, END: 1e-3}, after_5={4: 1, END: 1e-3}))
        expected = {
            0: [4, 5, 4, 5, 4, 5],
            1: [4, 5, END, 0, 0, 0],
            2: [4, 5, 4, END, 0, 0],
            3: [4, 5, 4, 5, END, 0],
            T + 1: [4, 5, 4, 5, 4, 5],
        }
        options = {"width": 1} if name == "beam" else {}
        for n, caption in expected.items():
            tokens, *_ = self.search(name, model, no_repeat_ngram=n, **options)
            np.testing.assert_array_equal(tokens, [caption] * B)

    def test_forbidden_last(self, name):
        # The end is certain after 4, and after 5 but for a little.
        model = chain(table(after_2={4: 1}, after_4={END: 1, 5: 1e-5}, after_5={END: 1, 5: 1e-5}))
        for words, caption in [((), [4, 3, 0, 0, 0, 0]), ([4], [4, 5, 3, 0, 0, 0]), ([2, 4, 5], [4, 5, 5, 5, 5, 5])]:
            tokens, *_ = self.search(name, model, forbidden_last=words)
            np.testing.assert_array_equal(tokens, [caption] * B)

    def test_an_empty_caption_is_one_that_ends_with_the_start(self, name):
        model = chain(table(after_2={END: 1, 4: 1e-5}, after_4={END: 1}))
        np.testing.assert_array_equal(self.search(name, model)[0], [[3, 0, 0, 0, 0, 0]] * B)
        tokens, *_ = self.search(name, model, forbidden_last=[START])
        np.testing.assert_array_equal(tokens, [[4, 3, 0, 0, 0, 0]] * B)

    def test_bans_do_not_renormalise(self, name):
        model = constant(B, [1e-6, 1e-6, 1e-6, 0.01, 0.99, 1e-6])
        tokens, scores, _ = self.search(name, model, banned=[0, 1, 2, 4, 5])
        np.testing.assert_array_equal(tokens, [[3, 0, 0, 0, 0, 0]] * B)
        np.testing.assert_allclose(scores, np.log([0.01, 0.01]), rtol=1e-3)

    def test_nothing_ends(self, name):
        tokens, scores, _ = self.search(name, constant(B, [1 / 6] * 6), banned=[0, 1, 2, END, 5])
        np.testing.assert_array_equal(tokens, [[4] * T] * B)
        np.testing.assert_allclose(scores, T * np.log([1 / 6] * B), rtol=1e-5)

    def test_no_token_is_left(self, name):
        # One word, once, and no end before two.
        step, state = constant(B, [1 / 6] * 6)
        options = {"no_repeat_ngram": 1, "min_length": 2, "banned": [0, 1, 2, 5]}

        def search(step):
            return SEARCHES[name](step, state, B, T, **options)

        (tokens, scores, _), steps = steps_of(search, step)
        np.testing.assert_array_equal(tokens, [[4, *[PADDING] * (T - 1)]] * B)
        np.testing.assert_allclose(scores, np.log([1 / 6] * B), rtol=1e-5)
        # Then there is nothing left to do either.
        assert steps == 2

    def test_no_token_from_the_start(self, name):
        writer = Writer(0, V, rows=B)
        tokens, scores, attention = self.search(
            name, (writer.step, writer.state()), min_length=1, banned=[0, 1, 2, 4, 5]
        )
        assert not tokens.any()
        assert not attention.any()
        np.testing.assert_array_equal(scores, 0)

    def test_a_model_that_forbids_tokens_itself(self, name):
        logits = ops.convert_to_tensor(np.array([[0, 0, 0, -np.inf, 1, -np.inf]] * B, "float32"))
        tokens, scores, _ = self.search(name, (lambda token, state: (state, state), logits))
        np.testing.assert_array_equal(tokens, [[4] * T] * B)
        np.testing.assert_allclose(scores, T * (1 - np.log(3 + np.e)), rtol=1e-5)

    def test_a_state_of_a_tuple_and_no_attention(self, name):
        # A language model of Keras's own parts, made without a thought of this package.
        embedding, cell, head = keras.layers.Embedding(V, 4), keras.layers.GRUCell(5), keras.layers.Dense(V)

        def step(token, state):
            hidden, (h,) = cell(embedding(token), state)
            return head(hidden), (h,)

        def start():
            return (ops.convert_to_tensor(np.random.default_rng(0).normal(size=(B, 5)).astype("float32")),)

        step(ops.zeros((B,), "int32"), start())
        tokens, scores, attention = self.search(name, (step, start()))
        assert attention is None
        state, token, total, ended = start(), np.full(B, START, "int32"), np.zeros(B), np.zeros(B, bool)
        for t in range(T):
            logits, state = step(ops.convert_to_tensor(token), state)
            logp = ops.convert_to_numpy(ops.log_softmax(logits))
            token = tokens[:, t]
            total += np.where(ended, 0, logp[np.arange(B), token])
            ended |= token == END
        np.testing.assert_allclose(scores, total, rtol=1e-5)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": -1}, r"`min_length` must be an integer of at least 0\. Received: min_length=-1 \(type int\)"),
        ({"min_length": 1.0}, r"`min_length` must be an integer of at least 0\. Received: min_length=1\.0"),
        ({"min_length": True}, r"`min_length` must be an integer of at least 0\. Received: min_length=True"),
        ({"no_repeat_ngram": -2}, r"`no_repeat_ngram` must be an integer of at least 0\. .*no_repeat_ngram=-2"),
        ({"no_repeat_ngram": None}, r"`no_repeat_ngram` must be an integer of at least 0\. .*NoneType"),
        ({"banned": 3}, r"`banned` must be a list of ids\. Received: banned=3 \(type int\)"),
        ({"banned": "ab"}, r"`banned` must be a list of ids\. Received: banned='ab'"),
        ({"banned": [1, -1]}, r"`banned` must hold ids, integers of at least 0\. Received: id=-1"),
        ({"banned": ["a"]}, r"`banned` must hold ids, integers of at least 0\. Received: id='a' \(type str\)"),
        ({"forbidden_last": [True]}, r"`forbidden_last` must hold ids, integers of at least 0\. Received: id=True"),
        ({"forbidden_last": [2.0]}, r"`forbidden_last` must hold ids, integers of at least 0\. Received: id=2\.0"),
    ],
)
def test_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        CLASSES[name](**options)


@pytest.mark.parametrize("name", SEARCHES)
def test_what_only_a_search_can_tell(name):
    step, state = constant(1, [0.2] * 5)
    with pytest.raises(ValueError, match=r"`min_length` must not be greater than `max_length`\. .*min_length=4,"):
        run(name, step, state, 1, 3, min_length=4)
    with pytest.raises(ValueError, match=r"`banned` must leave at least one of the 5 ids .*banned=\[0, 1, 2, 3, 4\]"):
        run(name, step, state, 1, 3, banned=range(5))
    with pytest.raises(ValueError, match=r"`banned` must hold ids below the vocabulary size 5\. .*banned=\[0, 5\]"):
        run(name, step, state, 1, 3, banned=[0, 5])
    with pytest.raises(ValueError, match=r"`forbidden_last` must hold ids below the vocabulary size 5\. .*\[9\]"):
        run(name, step, state, 1, 3, forbidden_last=[9])
    with pytest.raises(ValueError, match=r"`max_length` must be a positive integer\. Received: max_length=0"):
        run(name, step, state, 1, 0)


@pytest.mark.parametrize("name", CLASSES)
def test_options_are_values(name):
    kind = CLASSES[name]
    assert kind(banned=[np.int64(4)]) == kind(banned=(4,))
    assert hash(kind(forbidden_last=range(2))) == hash(kind(forbidden_last=[0, 1]))
    assert kind(min_length=1) != kind()
    assert kind().banned == (0, 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().min_length = 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has axes of unknown size")
def test_the_vocabulary_must_be_known():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((2, None))], autograph=False)
    def search(logits):
        return greedy_search(lambda token, state: (state, state), logits, 2, 3).tokens

    with pytest.raises(ValueError, match=r"`step` must return logits whose last axis is known\. .*=None"):
        search(tf.zeros((2, 5)))
