"""Attention beside Keras's own, and weights of other people's layers in it."""

import keras
import numpy as np
import pytest
from keras import ops
from numerics import assert_close, numpy
from reference import named_weights, randomize

from keras_showattend.layers import BahdanauAttention

B, T, L, D = 2, 3, 4, 5


def arrays(query_width=D):
    rng = np.random.default_rng(0)
    query, value = rng.normal(size=(B, T, query_width)), rng.normal(size=(B, L, D))
    return query.astype("float32"), value.astype("float32"), np.array([[1, 0, 1, 1], [0, 1, 1, 0]], "bool")


# -------------------------------------------------------------------- keras.layers.AdditiveAttention


@pytest.mark.parametrize("masked", [False, True])
def test_without_projections_it_is_keras_additive_attention(masked):
    query, value, mask = arrays()
    mask = mask if masked else None
    theirs = keras.layers.AdditiveAttention()
    theirs.build([query.shape, value.shape])
    randomize(theirs)
    ours = BahdanauAttention(D, use_bias=False)
    ours.build(query.shape, value.shape)
    # In the order of `ours.weights`: query_kernel, key_kernel, score_kernel.
    ours.set_weights([np.eye(D), np.eye(D), theirs.get_weights()[0][:, None]])
    expected = theirs([query, value], mask=[None, mask], return_attention_scores=True)
    assert_close(ours(query, value, value_mask=mask, return_attention_scores=True), expected)


def test_keras_additive_attention_learns_no_projection():
    theirs, ours = keras.layers.AdditiveAttention(), BahdanauAttention(7)
    theirs.build([(B, T, D), (B, L, D)])
    ours.build((B, T, D), (B, L, D))
    assert [w.name for w in theirs.weights] == ["scale"]
    names = ["query_kernel", "key_kernel", "query_bias", "key_bias", "score_kernel"]
    assert [w.name for w in ours.weights] == names


def test_queries_of_another_width_than_the_keys():
    query, value, _ = arrays(query_width=9)
    # The type of the error is the backend's: nothing checks it before the sum.
    with pytest.raises(Exception, match=r"(?i)shape|size|dimension|broadcast"):
        keras.layers.AdditiveAttention()([query, value])
    assert BahdanauAttention(7)(query, value).shape == (B, T, D)


def test_one_query_of_rank_2():
    query, value, _ = arrays()
    # Keras takes the batch for the queries of one example: every row looks at every other's.
    assert keras.layers.AdditiveAttention()([query[:, 0], value]).shape == (B, B, D)
    assert BahdanauAttention(7)(query[:, 0], value).shape == (B, D)


def test_a_row_without_anything_to_attend_to():
    query, value, mask = arrays()
    mask[1] = False
    theirs = keras.layers.AdditiveAttention()
    _, weights = theirs([query, value], mask=[None, mask], return_attention_scores=True)
    np.testing.assert_allclose(numpy(weights)[1], 1 / L, atol=1e-6)  # the mean of what is masked
    context, weights = BahdanauAttention(7)(query, value, value_mask=mask, return_attention_scores=True)
    assert np.all(numpy(weights)[1] == 0)
    assert np.all(numpy(context)[1] == 0)


# --------------------------------------------------------- the three Dense layers of the 2018 notebook


class NotebookAttention(keras.layers.Layer):
    """`V(tanh(W1(features) + W2(hidden)))`, a softmax over the locations: the notebook's formula."""

    def __init__(self, units):
        super().__init__()
        self.W1 = keras.layers.Dense(units)
        self.W2 = keras.layers.Dense(units)
        self.V = keras.layers.Dense(1)

    def call(self, features, hidden):
        score = self.V(ops.tanh(self.W1(features) + self.W2(hidden)[:, None]))
        weights = ops.softmax(score, axis=1)
        return ops.sum(weights * features, axis=1), weights[..., 0]


def from_notebook(W1, W2, V):
    """Weights of `BahdanauAttention` from the notebook's three layers.

    V's bias is left out: it adds the same to all scores, and a softmax does not see that.
    """
    (key_kernel, key_bias), (query_kernel, query_bias) = W1.get_weights(), W2.get_weights()
    return [query_kernel, key_kernel, query_bias, key_bias, V.get_weights()[0]]


def to_notebook(weights, W1, W2, V):
    """The other way round; V's bias, which counts nothing, becomes 0."""
    query_kernel, key_kernel, query_bias, key_bias, score_kernel = weights
    W1.set_weights([key_kernel, key_bias])
    W2.set_weights([query_kernel, query_bias])
    V.set_weights([score_kernel, np.zeros(1)])


def test_the_weights_of_the_notebook():
    query, features, _ = arrays(query_width=9)
    hidden = query[:, 0]
    notebook, ours = NotebookAttention(7), BahdanauAttention(7)
    notebook(features, hidden)
    randomize(notebook)
    ours.build(hidden.shape, features.shape)
    ours.set_weights(from_notebook(notebook.W1, notebook.W2, notebook.V))
    assert_close(ours(hidden, features, return_attention_scores=True), notebook(features, hidden))

    randomize(ours, seed=1)
    to_notebook(ours.get_weights(), notebook.W1, notebook.W2, notebook.V)
    assert_close(notebook(features, hidden), ours(hidden, features, return_attention_scores=True))
    assert list(named_weights(ours)) == [w.name for w in ours.weights]
