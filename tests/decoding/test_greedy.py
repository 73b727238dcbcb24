"""Greedy decoding against a numpy loop, with models that are tables of numbers."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from writers import BACKEND, END, PADDING, START, as_numpy, chain, compiled, log_softmax, steps_of

from keras_showattend.decoding import greedy_search

B, T, V, L = 3, 6, 7, 2


def greedy_loop(tables, max_length, end=END, start=START, padding=PADDING, banned=(0, 1, 2)):
    """One sequence a table: the logits after a token are the table's row of it."""
    tokens = np.full((len(tables), max_length), padding)
    scores = np.zeros(len(tables))
    for row, table in enumerate(tables):
        token = start
        for t in range(max_length):
            logp = log_softmax(table[token])
            token = int(np.argmax(np.where(np.isin(range(len(logp)), banned), -np.inf, logp)))
            scores[row] += logp[token]
            tokens[row, t] = token
            if token == end:
                break
    return tokens, scores


def random_tables(seed, rows=B):
    return np.random.default_rng(seed).normal(size=(rows, V, V)).astype("float32")


@compiled
def search_chain(tables):
    step, state = chain(tables)
    decoded = greedy_search(step, state, batch_size=B, max_length=T)
    return decoded.tokens, decoded.scores


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), whole=st.booleans(), ending=st.floats(-3, 3, width=16))
def test_equals_a_numpy_loop(seed, whole, ending):
    tables = random_tables(seed) * 2
    if whole:
        tables = np.round(tables)  # many ties: the lower id wins
    tables[..., END] += np.float32(round(ending) if whole else ending)
    tokens, scores = as_numpy(search_chain(ops.convert_to_tensor(tables)))
    expected_tokens, expected_scores = greedy_loop(tables, T)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_a_case_by_hand():
    # After the start (2), token 4 has 3/6 of the probability; after 4, the end (3) has 2/4.
    table = np.zeros((1, 5, 5), "float32")
    table[0, 2] = np.log([1, 1, 1e-6, 1, 3])
    table[0, 4] = np.log([1e-6, 1e-6, 1, 2, 1])
    step, state = chain(table)
    tokens, scores, attention = as_numpy(greedy_search(step, state, batch_size=1, max_length=4))
    np.testing.assert_array_equal(tokens, [[4, 3, 0, 0]])
    np.testing.assert_allclose(scores, [np.log(3 / 6) + np.log(2 / 4)], rtol=1e-5)
    assert attention is None


def test_ties_go_to_the_lower_id():
    step, state = chain(np.zeros((1, 6, 6), "float32"))
    tokens, *_ = as_numpy(greedy_search(step, state, 1, 2, end_id=5, banned=(0, 1, 2)))
    np.testing.assert_array_equal(tokens, [[3, 3]])


def test_bans_take_no_part_and_do_not_renormalise():
    tables = random_tables(1)
    tables[..., 4] = 30.0  # what would always be chosen
    for banned in ((0, 1, 2, 4), (4,), [4, 6]):
        step, state = chain(tables)
        tokens, scores, _ = as_numpy(greedy_search(step, state, B, T, banned=banned))
        expected_tokens, expected_scores = greedy_loop(tables, T, banned=banned)
        np.testing.assert_array_equal(tokens, expected_tokens)
        # Every token chosen is improbable, as the banned one keeps its share.
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
        assert (scores < -20).all()


def test_nothing_banned():
    tables = random_tables(2)
    step, state = chain(tables)
    tokens, scores, _ = as_numpy(greedy_search(step, state, B, T, banned=()))
    expected_tokens, expected_scores = greedy_loop(tables, T, banned=())
    assert np.isin(expected_tokens, (1, 2)).any()
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_other_special_ids():
    tables = random_tables(3)
    tables[..., 5] += 1.0
    ids = {"start": 6, "end": 5, "padding": 1, "banned": (1, 6)}
    step, state = chain(tables)
    found = greedy_search(step, state, B, T, start_id=6, end_id=5, padding_id=1, banned=(1, 6))
    expected_tokens, expected_scores = greedy_loop(tables, T, **ids)
    assert (expected_tokens == 1).any()
    np.testing.assert_array_equal(as_numpy(found)[0], expected_tokens)
    np.testing.assert_allclose(as_numpy(found)[1], expected_scores, rtol=1e-5)


def scripted(ends):
    """Row i says 4 until it says the end at step `ends[i]`; the state is a nest and attention tells the step."""
    ends = np.asarray(ends, "int32")

    def step(token, state):
        t, (untouched, words) = state["t"], state["rest"]
        say_end = t == ends[:, None]
        logits = ops.where(say_end, ops.one_hot([END], V) * 5.0, ops.one_hot([4], V) * 5.0)
        attention = ops.cast(ops.concatenate([t + 1, ops.broadcast_to(token[:, None], t.shape)], axis=1), "float32")
        return logits, {"t": t + 1, "rest": (untouched, words + ops.cast(token[:, None], "float32"))}, attention

    rows = len(ends)
    state = {"t": ops.zeros((rows, 1), "int32"), "rest": (ops.ones((rows, 2, 3)), ops.zeros((rows, 1)))}
    return step, state


def test_nested_state_and_attention():
    step, state = scripted([1, 3, 99])
    tokens, scores, attention = as_numpy(greedy_search(step, state, 3, 5))
    np.testing.assert_array_equal(tokens, [[4, 3, 0, 0, 0], [4, 4, 4, 3, 0], [4, 4, 4, 4, 4]])
    # The attention of step t is (t + 1, the token read), that of the end id's step among them.
    np.testing.assert_array_equal(attention[0], [[1, 2], [2, 4], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(attention[1], [[1, 2], [2, 4], [3, 4], [4, 4], [0, 0]])
    np.testing.assert_array_equal(attention[2], [[1, 2], [2, 4], [3, 4], [4, 4], [5, 4]])
    each = 5 - np.log(np.exp(5) + V - 1)
    np.testing.assert_allclose(scores, each * np.array([2, 4, 5]), rtol=1e-5)


def test_stops_when_all_have_ended():
    def search(ends, max_length):
        step, state = scripted(ends)
        (tokens, *_), steps = steps_of(greedy_search, step, state, 2, max_length)
        return tokens.shape, steps

    assert search([1, 3], 40) == ((2, 40), 4)
    assert search([0, 0], 40) == ((2, 40), 1)
    assert search([99, 0], 7) == ((2, 7), 7)


def test_max_length_one():
    tables = random_tables(4)
    step, state = chain(tables)
    tokens, scores, _ = as_numpy(greedy_search(step, state, B, 1))
    expected_tokens, expected_scores = greedy_loop(tables, 1)
    assert tokens.shape == (B, 1)
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    step, state = scripted([0, 1])
    assert as_numpy(greedy_search(step, state, 2, 1))[2].shape == (2, 1, L)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_give_float32_scores(dtype):
    tables = np.round(random_tables(5) * 4)  # whole numbers, exact in half precision

    def step(token, state):
        logits = ops.take_along_axis(state, token[:, None, None], axis=1)[:, 0]
        return ops.cast(logits, dtype), state, ops.ones((B, L), dtype=dtype)

    decoded = greedy_search(step, ops.convert_to_tensor(tables), B, T)
    expected_tokens, expected_scores = greedy_loop(tables, T)
    assert keras.backend.standardize_dtype(decoded.scores.dtype) == "float32"
    assert keras.backend.standardize_dtype(decoded.attention.dtype) == dtype
    np.testing.assert_array_equal(as_numpy(decoded)[0], expected_tokens)
    np.testing.assert_allclose(as_numpy(decoded)[1], expected_scores, rtol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled on torch")
def test_compiled_equals_eager():
    def search(batch_size):
        step, state = scripted([1, 3, 99])
        return tuple(greedy_search(step, state, batch_size, 5))

    for eager, fast in zip(search(3), compiled(lambda: search(3))(), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(fast), ops.convert_to_numpy(eager), rtol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has batches of unknown size")
def test_batch_of_unknown_size():
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, V, V))])
    def search(tables):
        step, state = chain(tables)
        return greedy_search(step, state, tf.shape(tables)[0], T).tokens

    for rows in (1, 4):
        tables = random_tables(6, rows)
        np.testing.assert_array_equal(search(tables), greedy_loop(tables, T)[0])


@pytest.mark.parametrize("max_length", [0, -1, 2.0, True, None])
def test_max_length_must_be_a_positive_integer(max_length):
    step, state = chain(random_tables(7))
    with pytest.raises(ValueError, match=f"`max_length` must be a positive integer. Received: max_length={max_length}"):
        greedy_search(step, state, B, max_length)
