"""Several steps as one: the mean of their probabilities."""

import keras
import numpy as np
import pytest
from keras import ops
from writers import Writer, as_numpy, compiled, constant, log_softmax

from keras_showattend.decoding import beam_search, ensemble, greedy_search, sample

V, L, B, T = 6, 3, 2, 4


def two():
    return Writer(0, V, L, width=4, rows=B), Writer(1, V, L, width=5, rows=B)


class Together:
    """What `beam_loop` and the tests read: the writers' mean, by NumPy."""

    def __init__(self, *writers):
        self.writers = writers

    def read(self, row, tokens):
        logp, attention = zip(*(writer.read(row, tokens) for writer in self.writers), strict=True)
        return np.log(np.mean(np.exp(logp), axis=0)), np.mean(attention, axis=0)


def test_is_the_mean_of_the_probabilities():
    writers = two()
    step = ensemble([writer.step for writer in writers])
    token = ops.convert_to_tensor([2, 2], dtype="int32")
    logits, states, attention = step(token, [writer.state() for writer in writers])
    assert isinstance(states, list)
    assert [sorted(state) for state in states] == [["h", "rest"]] * 2
    for row in range(B):
        expected, seen = Together(*writers).read(row, [])
        np.testing.assert_allclose(ops.convert_to_numpy(logits)[row], expected, rtol=1e-5)
        np.testing.assert_allclose(ops.convert_to_numpy(attention)[row], seen, rtol=1e-5)


@pytest.mark.parametrize("search", [greedy_search, beam_search, sample])
def test_serves_every_search(search):
    writers = two()
    together = Together(*writers)

    def run(states):
        options = {"seed": 1} if search is sample else {}
        return tuple(search(ensemble([w.step for w in writers]), states, B, T, **options))

    tokens, scores, attention = as_numpy(compiled(run)([writer.state() for writer in writers]))
    for row in range(B):
        said = [int(i) for i in tokens[row] if i]
        logp = [together.read(row, said[:t])[0][said[t]] for t in range(len(said))]
        np.testing.assert_allclose(scores[row], sum(logp), rtol=1e-4)
        seen = [together.read(row, said[:t])[1] for t in range(len(said))]
        np.testing.assert_allclose(attention[row, : len(said)], seen, atol=1e-5)


def test_equal_steps_are_one_of_them():
    writer = Writer(2, V, L, rows=B)
    found = greedy_search(ensemble([writer.step] * 3), [writer.state()] * 3, B, T)
    expected = as_numpy(greedy_search(writer.step, writer.state(), B, T))
    np.testing.assert_array_equal(as_numpy(found)[0], expected[0])
    np.testing.assert_allclose(as_numpy(found)[1], expected[1], rtol=1e-5)
    np.testing.assert_allclose(as_numpy(found)[2], expected[2], rtol=1e-5)


def test_probabilities_too_small_for_float32_count():
    # Each step alone gives the word e^-200, and one that is certain carries the mean.
    low, high = np.array([[0.0, -200.0, -300.0]], "float32"), np.array([[-200.0, 0.0, -300.0]], "float32")
    step = ensemble([lambda token, state, x=x: (ops.convert_to_tensor(x), state) for x in (low, high)])
    logits, *_ = step(None, [(), ()])
    expected = [log_softmax(low[0]), log_softmax(high[0])]
    expected = np.logaddexp(*np.array(expected, "float64")) - np.log(2)
    np.testing.assert_allclose(ops.convert_to_numpy(logits)[0], expected, rtol=1e-5)


def test_steps_without_attention():
    writers = two()
    states = [writer.state() for writer in writers]
    none = ensemble([writer.without_attention for writer in writers])
    assert greedy_search(none, states, B, T).attention is None
    one = ensemble([writers[0].step, writers[1].without_attention])
    token = ops.convert_to_tensor([2, 2], dtype="int32")
    expected = writers[0].step(token, states[0])[2]
    np.testing.assert_allclose(ops.convert_to_numpy(one(token, states)[2]), ops.convert_to_numpy(expected), rtol=1e-6)


def test_half_precision_steps_are_averaged_in_float32():
    _, state = constant(1, [0.5, 0.25, 0.25])
    half = ensemble([lambda token, state: (ops.cast(state, "bfloat16"), state)] * 2)
    logits, _ = half(None, [state, state])
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_errors():
    with pytest.raises(ValueError, match=r"`steps` must hold at least one step\. Received: steps=\[\]"):
        ensemble([])
    a, b = Writer(0, V, L, rows=B), Writer(0, V + 1, L, rows=B)
    with pytest.raises(ValueError, match=r"The logits of all `steps` must have the same last axis\. .* \[6, 7\]"):
        greedy_search(ensemble([a.step, b.step]), [a.state(), b.state()], B, T)
    c = Writer(0, V, L + 1, rows=B)
    with pytest.raises(ValueError, match=r"The attention of all `steps` must have the same last axis\. .* \[3, 4\]"):
        greedy_search(ensemble([a.step, c.step]), [a.state(), c.state()], B, T)
