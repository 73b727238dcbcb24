"""Beam search against plain Python loops over the same small models."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from writers import (
    BACKEND,
    END,
    PADDING,
    START,
    Writer,
    as_numpy,
    beam_loop,
    chain,
    compiled,
    constant,
    steps_of,
)

from keras_showattend.decoding import BeamSearch, beam_search, greedy_search

V, T, L, B = 5, 3, 3, 2

RULES = st.fixed_dictionaries(
    {},
    optional={
        "min_length": st.integers(0, T),
        "no_repeat_ngram": st.sampled_from([0, 1, 2, T + 1]),
        "banned": st.sets(st.integers(0, V - 1), max_size=3).map(sorted),
        "forbidden_last": st.sampled_from([[], [START, 4], [1, 2], [END, 4]]),
    },
)
PENALTIES = st.fixed_dictionaries(
    {},
    optional={
        "length_penalty": st.sampled_from([0.0, 0.6, 1, -0.5, "average"]),
        "coverage_penalty": st.sampled_from([0.0, 0.2]),
    },
)


def assert_equals(found, expected, n_best, length=T):
    """Compare what decoding returned with lists of hypotheses, one list a row; what is missing is empty."""
    tokens, scores, attention = as_numpy(found)
    assert tokens.shape == (len(expected), n_best, length)
    assert tokens.dtype == np.int32
    for row, hypotheses in enumerate(expected):
        for place in range(n_best):
            if place < len(hypotheses):
                wanted = hypotheses[place]
                np.testing.assert_array_equal(tokens[row, place], wanted.padded(length))
                np.testing.assert_allclose(scores[row, place], wanted.score, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(attention[row, place], wanted.padded_attention(length, L), atol=1e-5)
            else:
                assert scores[row, place] == -np.inf
                assert not tokens[row, place].any()
                assert not attention[row, place].any()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), width=st.sampled_from([2, 6]), rules=RULES, penalties=PENALTIES)
def test_equals_a_loop(seed, width, rules, penalties):
    writer = Writer(seed, V, L, rows=B)
    found = beam_search(writer.step, writer.state(), B, T, width=width, n_best=width, **rules, **penalties)
    assert_equals(found, [beam_loop(writer, row, T, width, penalties, **rules) for row in range(B)], width)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), rules=RULES, penalties=PENALTIES)
def test_a_width_of_all_sequences_finds_the_best_of_all(seed, rules, penalties):
    writer = Writer(seed, V, L, rows=B)
    found = beam_search(writer.step, writer.state(), B, T, width=V**T, n_best=9, **rules, **penalties)
    assert_equals(found, [beam_loop(writer, row, T, None, penalties, **rules)[:9] for row in range(B)], 9)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), rules=RULES, penalties=PENALTIES)
def test_width_1_is_greedy(seed, rules, penalties):
    writer = Writer(seed, V, L, rows=B)
    found = beam_search(writer.step, writer.state(), B, T, width=1, **rules, **penalties)
    expected = greedy_search(writer.step, writer.state(), B, T, **rules)
    for part, wanted in zip(as_numpy(found), as_numpy(expected), strict=True):
        np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 3},
        {"width": 9, "n_best": 4, "length_penalty": "average", "no_repeat_ngram": 1, "min_length": 2},
        {"width": 2, "length_penalty": 0.7, "coverage_penalty": 0.3, "forbidden_last": [2, 4], "no_repeat_ngram": 2},
    ],
)
def test_compiled(options):
    writer = Writer(3, V, L, rows=B)

    def search(state):
        return tuple(beam_search(writer.step, state, B, 5, **options))

    tokens, scores, attention = as_numpy(compiled(search)(writer.state()))
    rules = {k: v for k, v in options.items() if k in ("no_repeat_ngram", "min_length", "forbidden_last")}
    penalties = {k: v for k, v in options.items() if k.endswith("penalty")}
    n_best = options.get("n_best", 1)
    expected = [beam_loop(writer, row, 5, options["width"], penalties, **rules)[:n_best] for row in range(B)]
    shape = (B, n_best)
    found = tokens.reshape(*shape, 5), scores.reshape(shape), attention.reshape(*shape, 5, L)
    assert_equals(found, expected, n_best, length=5)
    assert tokens.ndim == (2 if n_best == 1 else 3)


def test_a_case_by_hand():
    # After the start, 4 has 0.6 and 5 has 0.4; after 4 the end has 0.4, after 5 it has 0.9.
    table = np.full((1, 6, 6), 1e-9, "float32")
    table[0, 2, [4, 5]] = 0.6, 0.4
    table[0, 4, [3, 4, 5]] = 0.4, 0.3, 0.3
    table[0, 5, 3] = 1 - 0.1
    table[0, 5, 4] = 0.1
    step, state = chain(np.log(table))
    tokens, scores, attention = as_numpy(beam_search(step, state, 1, 3, width=2, n_best=2))
    np.testing.assert_array_equal(tokens, [[[5, 3, 0], [4, 3, 0]]])
    np.testing.assert_allclose(np.exp(scores), [[0.36, 0.24]], rtol=1e-4)
    assert attention is None
    np.testing.assert_array_equal(as_numpy(greedy_search(step, state, 1, 3))[0], [[4, 3, 0]])


class TestPenalties:
    """Two captions end: [3] with the probability 0.3, and [4, 4, 3] with 0.7 x 1 x 0.36 = 0.252."""

    def search(self, **options):
        chances = np.full((3, 5), 1e-9, "float32")
        chances[0, [3, 4]] = 0.3, 0.7
        chances[1, 4] = 1
        chances[2, [3, 4]] = 0.36, 0.64
        table = ops.convert_to_tensor(np.log(chances))

        def step(token, count):
            # The first step looks at location 0, the others at 1.
            attention = ops.cast(ops.concatenate([count == 0, count > 0], axis=1), "float32") * 0.5
            return ops.take(table, count[:, 0], axis=0), count + 1, attention

        tokens, scores, _ = as_numpy(beam_search(step, ops.zeros((1, 1), "int32"), 1, 3, width=6, n_best=2, **options))
        return tokens[0].tolist(), scores[0]

    SHORT, LONG = [3, 0, 0], [4, 4, 3]

    def test_none(self):
        tokens, scores = self.search()
        assert tokens == [self.SHORT, self.LONG]
        np.testing.assert_allclose(np.exp(scores), [0.3, 0.252], rtol=1e-5)

    def test_length(self):
        # log 0.3 = -1.204, and log 0.252 = -1.378 over (8/6)^alpha: equal at alpha = 0.47.
        assert self.search(length_penalty=0.45)[0] == [self.SHORT, self.LONG]
        tokens, scores = self.search(length_penalty=0.5)
        assert tokens == [self.LONG, self.SHORT]
        # The scores are those of the captions, without the penalty.
        np.testing.assert_allclose(np.exp(scores), [0.252, 0.3], rtol=1e-5)

    def test_average(self):
        # -1.204 against -1.378 / 3
        tokens, scores = self.search(length_penalty="average")
        assert tokens == [self.LONG, self.SHORT]
        np.testing.assert_allclose(np.exp(scores), [0.252, 0.3], rtol=1e-5)

    def test_coverage(self):
        # The short caption covers 0.5 and nothing at all, the long one 0.5 and 1: -1.204 + beta (log 0.5 + log 1e-30)
        # against -1.378 + beta log 0.5.
        assert self.search(coverage_penalty=0.002)[0] == [self.SHORT, self.LONG]
        assert self.search(coverage_penalty=0.003)[0] == [self.LONG, self.SHORT]


class TestTies:
    def test_all_tokens_alike(self):
        step, state = constant(2, [0.2] * 5)
        tokens, scores, _ = as_numpy(beam_search(step, state, 2, 3, width=4, n_best=4))
        # [3] is ahead of all that goes on; of the others, the first words in the order of their ids.
        np.testing.assert_array_equal(tokens, [[[3, 0, 0], [4, 3, 0], [4, 4, 3], [4, 4, 4]]] * 2)
        np.testing.assert_allclose(scores, np.log(0.2) * np.array([[1, 2, 3, 3]] * 2), rtol=1e-5)

    def test_nothing_ends(self):
        step, state = constant(1, [0.1] * 10)
        tokens, *_ = as_numpy(beam_search(step, state, 1, 2, width=5, n_best=5, banned=[0, 1, 2, 3, 4]))
        np.testing.assert_array_equal(tokens, [[[5, 5], [5, 6], [5, 7], [5, 8], [5, 9]]])

    @pytest.mark.parametrize("width", [1, 2, 3, 8])
    def test_some_tokens_alike(self, width):
        # 5 and 7 are the most probable, then 4 and 6; every order of the two words of one kind ties with others.
        step, state = constant(1, np.array([1, 1, 1, 1, 8, 16, 8, 16]) / 52)
        tokens, *_ = as_numpy(beam_search(step, state, 1, 2, width=width, n_best=width, banned=[0, 1, 2, 3]))
        best = [[5, 5], [5, 7], [7, 5], [7, 7], [5, 4], [5, 6], [7, 4], [7, 6]]
        if width == 8:
            np.testing.assert_array_equal(tokens[0], best)
        else:
            np.testing.assert_array_equal(tokens.reshape(-1, 2), best[:width])


class TestStopping:
    def test_when_all_beams_have_ended(self):
        # Of width 2, [3] and [4, 3] are left after two steps.
        step, state = constant(3, [1e-9, 1e-9, 1e-9, 0.6, 0.4])
        (tokens, *_), steps = steps_of(beam_search, step, state, 3, 30, width=2, n_best=2)
        assert steps == 2
        assert tokens.shape == (3, 2, 30)
        np.testing.assert_array_equal(tokens[:, :, :3], [[[3, 0, 0], [4, 3, 0]]] * 3)
        assert not tokens[:, :, 3:].any()

    def test_goes_on_for_one_beam_of_one_sequence(self):
        tables = np.log(np.tile(np.array([1e-9, 1e-9, 1e-9, 0.9, 0.1], "float32"), (2, 5, 1)))
        tables[1] = np.log(np.array([1e-9, 1e-9, 1e-9, 0.01, 0.99], "float32"))
        step, state = chain(tables)
        _, steps = steps_of(beam_search, step, state, 2, 9, width=2)
        assert steps == 9

    def test_max_length_1(self):
        writer = Writer(5, V, L, rows=B)
        (tokens, scores, attention), steps = steps_of(beam_search, writer.step, writer.state(), B, 1, width=2, n_best=2)
        assert steps == 1
        expected = [beam_loop(writer, row, 1, 2) for row in range(B)]
        assert_equals((tokens, scores, attention), expected, 2, length=1)

    def test_nothing_has_ended(self):
        writer = Writer(6, V, L, rows=B)
        found = beam_search(writer.step, writer.state(), B, T, width=3, n_best=3, banned=[0, 1, END])
        assert_equals(found, [beam_loop(writer, row, T, 3, banned=[0, 1, END]) for row in range(B)], 3)
        assert np.isin(as_numpy(found)[0], (2, 4)).all()

    def test_one_that_ended_beats_a_better_one_that_did_not(self):
        step, state = constant(1, [1e-9, 1e-9, 1e-9, 0.1, 0.9])
        tokens, scores, _ = as_numpy(beam_search(step, state, 1, 2, width=3, n_best=3))
        np.testing.assert_array_equal(tokens, [[[3, 0], [4, 3], [4, 4]]])
        np.testing.assert_allclose(np.exp(scores), [[0.1, 0.09, 0.81]], rtol=1e-5)

    def test_no_token_is_allowed(self):
        # No word twice, and the end only after three: both words are said, and no third is there.
        writer = Writer(7, V, L, rows=B)
        rules = {"no_repeat_ngram": 1, "min_length": 3, "banned": (0, 1)}
        found = beam_search(writer.step, writer.state(), B, 5, width=4, n_best=4, **rules)
        assert_equals(found, [beam_loop(writer, row, 5, 4, **rules) for row in range(B)], 4, length=5)
        assert (as_numpy(found)[0] == PADDING).any()


def test_more_beams_than_sequences():
    step, state = constant(1, [1e-9, 1e-9, 1e-9, 0.25, 0.75])
    tokens, scores, _ = as_numpy(beam_search(step, state, 1, 2, width=8, n_best=5))
    np.testing.assert_array_equal(tokens, [[[3, 0], [4, 3], [4, 4], [0, 0], [0, 0]]])
    np.testing.assert_allclose(np.exp(scores), [[0.25, 0.1875, 0.5625, 0, 0]], rtol=1e-5)


def test_n_best_are_different_and_sorted():
    writer = Writer(8, 9, L, rows=3)
    found = beam_search(writer.step, writer.state(), 3, 6, width=6, n_best=6, length_penalty="average")
    tokens, scores, _ = as_numpy(found)
    for row in range(3):
        assert len({tuple(caption) for caption in tokens[row]}) == 6
        ended = (tokens[row] == END).any(axis=-1)
        averages = scores[row] / (tokens[row] != PADDING).sum(axis=-1)
        assert (np.diff(ended.astype(int)) <= 0).all()
        for group in (ended, ~ended):
            assert (np.diff(averages[group]) <= 0).all()


def test_n_best_does_not_change_the_search():
    writer = Writer(9, V, L, rows=B)
    one = as_numpy(beam_search(writer.step, writer.state(), B, T, width=4))
    all_four = as_numpy(beam_search(writer.step, writer.state(), B, T, width=4, n_best=4))
    for part, parts in zip(one, all_four, strict=True):
        np.testing.assert_array_equal(part, parts[:, 0])


def test_other_special_ids():
    # 5 starts, 4 ends, 1 pads: after 5 comes 3, after it the end or 3 again.
    table = np.full((1, 6, 6), 1e-9, "float32")
    table[0, 5, 3] = 1
    table[0, 3, [3, 4]] = 0.4, 0.6
    step, state = chain(np.log(table))
    found = beam_search(step, state, 1, 4, start_id=5, end_id=4, padding_id=1, width=2, n_best=2, banned=())
    np.testing.assert_array_equal(as_numpy(found)[0], [[[3, 4, 1, 1], [3, 3, 4, 1]]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    writer = Writer(10, V, L, rows=B)

    def step(token, state):
        logits, state, attention = writer.step(token, state)
        return ops.cast(ops.round(logits * 4), dtype), state, ops.cast(attention, dtype)

    found = beam_search(step, writer.state(), B, T, width=2, coverage_penalty=0.1, length_penalty=0.5)
    assert keras.backend.standardize_dtype(found.scores.dtype) == "float32"
    assert keras.backend.standardize_dtype(found.attention.dtype) == dtype
    assert np.isfinite(as_numpy(found)[1]).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has batches of unknown size")
def test_batch_of_unknown_size():
    import tensorflow as tf

    writer = Writer(11, V, L, rows=3)

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def search(first):
        state = {"h": first, "rest": (tf.zeros_like(first[:, :1]),)}
        return tuple(beam_search(writer.step, state, tf.shape(first)[0], T, width=4, n_best=2, no_repeat_ngram=2))

    for rows in (1, 3):
        expected = [beam_loop(writer, row, T, 4, no_repeat_ngram=2)[:2] for row in range(rows)]
        assert_equals(search(writer.first[:rows]), expected, 2)


def test_a_state_without_rows():
    step, state = constant(1, [0.2] * 5)
    with pytest.raises(ValueError, match=r"`state` must consist of tensors with a row .* without rows"):
        beam_search(step, (state, ops.zeros(())), 1, 2)
    with pytest.raises(ValueError, match=r"`state` must consist of tensors .* a leaf of type int without rows"):
        beam_search(step, (state, 0), 1, 2)


def test_coverage_needs_attention():
    writer = Writer(12, V, L, rows=B)
    with pytest.raises(ValueError, match=r"`coverage_penalty` needs a `step` that returns attention\. .*penalty=0\.2"):
        beam_search(writer.without_attention, writer.state(), B, T, coverage_penalty=0.2)


OPTIONS = {
    "width 0": ({"width": 0}, r"`width` must be an integer of at least 1\. Received: width=0 \(type int\)"),
    "width 2.0": ({"width": 2.0}, r"`width` must be an integer of at least 1\. Received: width=2\.0 \(type float\)"),
    "width True": ({"width": True}, r"`width` must be an integer of at least 1\. Received: width=True"),
    "n_best 0": ({"n_best": 0}, r"`n_best` must be an integer of at least 1\. Received: n_best=0"),
    "n_best 6": ({"n_best": 6}, r"`n_best` must not be greater than `width`\. Received: n_best=6, width=5\."),
    "length NaN": ({"length_penalty": float("nan")}, r'`length_penalty` must be a finite number or "average"\. .*nan'),
    "length inf": ({"length_penalty": float("inf")}, r"`length_penalty` must be a finite number .*length_penalty=inf"),
    "length str": ({"length_penalty": "mean"}, r'`length_penalty` must be a finite number or "average"\. .*\'mean\''),
    "length True": ({"length_penalty": True}, r"`length_penalty` must be a finite number .*length_penalty=True"),
    "length None": ({"length_penalty": None}, r"`length_penalty` must be a finite number .*NoneType"),
    "coverage": ({"coverage_penalty": -0.1}, r"`coverage_penalty` must be a finite number >= 0\. .*-0\.1"),
    "coverage NaN": ({"coverage_penalty": float("nan")}, r"`coverage_penalty` must be a finite number >= 0\. .*nan"),
    "coverage str": ({"coverage_penalty": "0.2"}, r"`coverage_penalty` must be a finite number >= 0\. .*type str"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        BeamSearch(**options)


def test_options_are_values():
    assert BeamSearch(4, banned=[0, 1]) == BeamSearch(width=np.int64(4), banned=(0, 1), length_penalty=0)
    assert len({BeamSearch(4), BeamSearch(4), BeamSearch(4, length_penalty="average")}) == 2
    with pytest.raises(AttributeError):
        BeamSearch().width = 3
    with pytest.raises(TypeError, match="widht"):
        beam_search(None, (), 1, 2, widht=3)


@pytest.mark.parametrize("max_length", [0, -1, 2.0, True, None])
def test_max_length_must_be_a_positive_integer(max_length):
    step, state = constant(1, [0.2] * 5)
    with pytest.raises(ValueError, match=f"`max_length` must be a positive integer. Received: max_length={max_length}"):
        beam_search(step, state, 1, max_length)
