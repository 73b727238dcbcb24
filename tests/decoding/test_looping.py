"""Sequences that have ended leave a search, and nothing else changes."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from writers import BACKEND, END, START, as_numpy, log_softmax

from keras_showattend.decoding import BeamSearch, Greedy, Sampling

V, L, T = 7, 3, 9
WAYS = {
    "greedy": Greedy(),
    "greedy with rules": Greedy(min_length=2, no_repeat_ngram=2, forbidden_last=[4]),
    "beam": BeamSearch(3),
    "beam with penalties": BeamSearch(4, length_penalty="average", coverage_penalty=0.1, n_best=3),
    "wide beam": BeamSearch(12, no_repeat_ngram=1),
    "sampling": Sampling(seed=1),
    "sampling with options": Sampling(0.7, top_k=5, top_p=0.9, seed=2, min_length=3),
}
ENDS = {
    "one by one": np.arange(21) % T,
    "some never": np.where(np.arange(21) % 3, 99, np.arange(21) // 3),
    "none": np.full(21, 99),
    "all at once": np.full(21, 4),
    "all at the first step": np.zeros(21),
    "half at once": np.repeat([99, 2], 16),
    "all but the last": np.repeat([3, 99], [39, 1]),
    "one row": np.array([5]),
    "one row that never ends": np.array([99]),
    "just enough for a power of two": np.repeat([1, 99], [1, 16]),
}


def model(ends):
    """State and memory, in NumPy: each row has tables of its own and ends at a given step."""
    rng, rows = np.random.default_rng(0), len(ends)
    # A state of several leaves: one counts the steps, one holds what was said.
    state = {"t": np.zeros((rows, 1), "int32"), "rest": (np.zeros((rows, V), "float32"),)}
    memory = {
        "ends": np.asarray(ends, "int32")[:, None],
        "tables": [rng.normal(0, 2, (rows, V, V)).astype("float32")],
        "glances": rng.normal(0, 2, (rows, V, L)).astype("float32"),
    }
    return state, memory


def step(token, state, memory):
    group = ops.shape(token)[0] // ops.shape(memory["ends"])[0]
    ends, tables, glances = (
        ops.repeat(x, group, axis=0) for x in (memory["ends"], memory["tables"][0], memory["glances"])
    )
    t, (said,) = state["t"], state["rest"]
    row, glance = (ops.take_along_axis(x, token[:, None, None], axis=1)[:, 0] for x in (tables, glances))
    # The end is nearly certain at its step, and nearly impossible before.
    end = ops.one_hot(ops.full_like(token, END), V) * ops.where(t == ends, 30.0, -30.0)
    state = {"t": t + 1, "rest": (said + ops.one_hot(token, V),)}
    return row - 0.1 * said + end, state, ops.softmax(glance)


def search(decoding, leaving, step=step):
    """A function of state, memory and random numbers."""

    def decode(state, memory, *drawn):
        rows = ops.shape(memory["ends"])[0]
        if leaving:
            return decoding.decode(step, state, rows, T, *drawn, memory=memory)
        return decoding.decode(lambda token, state: step(token, state, memory), state, rows, T, *drawn)

    return decode


@functools.cache
def program(way, leaving):
    """The search; on TensorFlow one graph for any number of rows."""
    decode = search(WAYS[way], leaving)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        arrays = (*model([1]), *WAYS[way].draw(1, T))
        signature = keras.tree.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), arrays)
        decode = tf.function(decode, autograph=False, input_signature=signature)
    return decode


def run(way, leaving, ends):
    drawn = WAYS[way].draw(len(ends), T)
    return as_numpy(program(way, leaving)(*as_tensors(model(ends)), *as_tensors(drawn)))


def as_tensors(nest):
    return keras.tree.map_structure(ops.convert_to_tensor, nest)


def assert_equal(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("way", ["greedy", "beam"])
def test_changes_nothing_wherever_they_end(way, ends):
    found, expected = (run(way, leaving, ENDS[ends]) for leaving in (True, False))
    assert_equal(found, expected)
    assert (found[0] == END).any(axis=1).tolist() == [end < T for end in ENDS[ends]]


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("greedy", "beam")])
def test_changes_nothing_whatever_the_options(way):
    found, expected = (run(way, leaving, ENDS["one by one"]) for leaving in (True, False))
    assert_equal(found, expected)
    assert len({tuple(caption) for caption in found[0].reshape(-1, T)}) > 5


def test_each_row_has_its_own_memory():
    """Against a loop in NumPy that knows nothing of other rows."""
    ends = ENDS["one by one"]
    _, memory = model(ends)
    tokens, scores, attention = run("greedy", True, ends)
    for row, end in enumerate(ends):
        said, last, score = np.zeros(V), START, 0.0
        for t in range(end + 1):
            logits = memory["tables"][0][row, last] - 0.1 * said
            logits[END] += 30 if t == end else -30
            glance = np.exp(log_softmax(memory["glances"][row, last]))
            np.testing.assert_allclose(attention[row, t], glance, rtol=1e-4)
            said[last] += 1
            log_probabilities = log_softmax(logits)
            last = 3 + int(np.argmax(log_probabilities[3:]))
            assert tokens[row, t] == last
            score += log_probabilities[last]
        assert last == END
        assert not tokens[row, end + 1 :].any()
        assert not attention[row, end + 1 :].any()
        np.testing.assert_allclose(scores[row], score, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX they stay")
def test_a_step_sees_fewer_and_fewer():
    seen = []

    def counting(token, state, memory):
        seen.append(len(token))
        return step(token, state, memory)

    def rows_of_steps(way, ends):
        seen.clear()
        search(WAYS[way], True, counting)(*as_tensors(model(ENDS[ends])))
        return seen

    # Three end at each of the first three steps, two at each other.
    assert rows_of_steps("greedy", "one by one") == [21, 21, 16, 16, 16, 8, 8, 8, 8]
    assert rows_of_steps("greedy", "half at once") == [32, 32, 32, 16, 16, 16, 16, 16, 16]
    assert rows_of_steps("greedy", "just enough for a power of two") == [17, 17, 16, 16, 16, 16, 16, 16, 16]
    assert rows_of_steps("greedy", "all but the last") == [40, 40, 40, 40, 8, 8, 8, 8, 8]
    assert rows_of_steps("greedy", "all at once") == [21] * 5
    assert rows_of_steps("beam", "half at once") == [32, 96, 96, *[48] * 6]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has shapes that become unknown")
def test_a_graph_that_knows_its_number_of_rows():
    import tensorflow as tf

    arrays = as_tensors(model(ENDS["one by one"]))
    found = as_numpy(tf.function(lambda: search(WAYS["greedy"], True)(*arrays), autograph=False)())
    assert_equal(found, run("greedy", False, ENDS["one by one"]))


def test_max_length_one():
    state, memory = as_tensors(model(ENDS["one by one"]))
    found = Greedy().decode(step, state, 21, 1, memory=memory)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(found.tokens)[:, 0], run("greedy", False, np.arange(21) % T)[0][:, 0]
    )


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX none leaves")
@pytest.mark.parametrize(("name", "shape"), [("memory", ()), ("memory", (5, 2)), ("state", (5, 2))])
def test_what_has_no_row_for_each(name, shape):
    state, memory = model(ENDS["one by one"])
    {"state": state, "memory": memory}[name]["other"] = np.zeros(shape, "float32")

    def passing(token, state, memory):
        logits, new, attention = step(token, state, memory)
        return logits, {**state, **new}, attention

    received = rf"Received: a leaf of the shape \({str(shape)[1:-1]}\)"
    with pytest.raises(ValueError, match=rf"`{name}` must consist of tensors with a row for every .* {received}"):
        search(Greedy(), True, passing)(as_tensors(state), as_tensors(memory))
