"""Masks, ranks, sizes and dtypes that do not fit: the error of any layer, loss and metric names the argument."""

import inspect

import hypothesis
import keras
import numpy as np
import pytest
from example_scripts import example_script
from hypothesis import strategies as st

from keras_showattend.layers import AttentionGRUDecoder, BahdanauAttention, FeatureEncoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy, Perplexity

B, T, L, Q, D, U, V = 2, 3, 4, 6, 5, 7, 9
cells = example_script("attention_cell")


def floats(*shape):
    return np.ones(shape, "float32")


def metric(make):
    return lambda: make().update_state


# What makes it, and arguments that fit.
CALLED = {
    "encoder": (lambda: FeatureEncoder(3), {"features": floats(B, L, D)}),
    "attention": (
        lambda: BahdanauAttention(U),
        {
            "query": floats(B, T, Q),
            "value": floats(B, L, D),
            "key": floats(B, L, Q),
            "value_mask": np.ones((B, L), "bool"),
        },
    ),
    "decoder": (
        lambda: AttentionGRUDecoder(V, 4, U),
        {
            "tokens": np.ones((B, T), "int32"),
            "features": floats(B, L, D),
            "features_mask": np.ones((B, L), "bool"),
            "initial_state": floats(B, U),
        },
    ),
    "loss": (
        MaskedSparseCategoricalCrossentropy,
        {"y_true": np.ones((B, T), "int32"), "y_pred": floats(B, T, V), "sample_weight": floats(B)},
    ),
    "accuracy": (
        metric(MaskedAccuracy),
        {"y_true": np.ones((B, T), "int32"), "y_pred": floats(B, T, V), "sample_weight": floats(B)},
    ),
    "perplexity": (
        metric(Perplexity),
        {"y_true": np.ones((B, T), "int32"), "y_pred": floats(B, T, V), "sample_weight": floats(B)},
    ),
}

# Axes whose size is the argument's own: nothing else has it, or it may be 1 and be spread.
FREE = {
    "encoder": {"features": (0, 1)},
    "attention": {"query": (1,), "value": (2,)},
    "decoder": {"tokens": (1,)},
    "loss": {"y_pred": (2,)},
    "accuracy": {"y_pred": (2,)},
    "perplexity": {"y_pred": (2,)},
}


@st.composite
def mistakes(draw):
    """One argument of another rank, or with one axis of another size: the case, the name, and the wrong array."""
    case = draw(st.sampled_from(sorted(CALLED)))
    name = draw(st.sampled_from(sorted(CALLED[case][1])))
    array = CALLED[case][1][name]
    fixed = [axis for axis in range(array.ndim) if axis not in FREE[case].get(name, ())]
    kind = draw(st.sampled_from(["longer axis", "two axes more", "one axis less"]))
    if kind == "one axis less" and array.ndim > 2:
        return case, name, array[..., 0, 0]
    if kind == "longer axis" and fixed:
        return case, name, np.repeat(array, 2, axis=draw(st.sampled_from(fixed)))
    return case, name, array[..., None, None]


@pytest.fixture(scope="module")
def called():
    """Every layer, loss and metric, built by arguments that fit."""
    made = {}
    for case, (make, arguments) in CALLED.items():
        made[case] = make()
        made[case](**arguments)
    return made


@hypothesis.given(mistake=mistakes())
@hypothesis.settings(max_examples=60)
def test_a_wrong_shape_is_refused_by_name(called, mistake):
    case, name, wrong = mistake
    arguments = {**CALLED[case][1], name: wrong}
    with pytest.raises(ValueError, match=rf"`{name}`|{name}\.shape=|tokens\.shape=") as error:
        called[case](**arguments)
    shape = str(wrong.shape).replace("(", r"\(").replace(")", r"\)")
    error.match(rf"Received:.*shape={shape}")


DTYPES = {
    "floats for tokens": ("decoder", "tokens", floats(B, T), r"`tokens` must be integers\..*float32"),
    "bools for tokens": ("decoder", "tokens", np.ones((B, T), "bool"), r"`tokens` must be integers\..*bool"),
    "ids for logits": ("perplexity", "y_pred", np.ones((B, T, V), "int32"), r"`y_pred` must be floats\..*int32"),
    "ids for scores": ("accuracy", "y_pred", np.ones((B, T, V), "int32"), r"`y_pred` must be floats\..*int32"),
}


@pytest.mark.parametrize("case", DTYPES)
def test_a_wrong_dtype_is_refused_by_name(called, case):
    kind, name, wrong, message = DTYPES[case]
    with pytest.raises(ValueError, match=message):
        called[kind](**{**CALLED[kind][1], name: wrong})


def test_integers_for_features_are_numbers(called):
    x = np.arange(B * L * D).reshape(B, L, D)
    for case, name in (("encoder", "features"), ("attention", "value"), ("decoder", "features")):
        arguments = CALLED[case][1]
        found, expected = (called[case](**{**arguments, name: x.astype(dtype)}) for dtype in ("int32", "float32"))
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (found, expected)), rtol=1e-5)


def test_masks_of_ones_and_zeros_are_masks(called):
    mask = np.array([[1, 0, 1, 1], [0, 1, 0, 1]])
    for case, name in (("attention", "value_mask"), ("decoder", "features_mask")):
        found, expected = (
            keras.ops.convert_to_numpy(called[case](**{**CALLED[case][1], name: mask.astype(dtype)}))
            for dtype in ("int32", "bool")
        )
        np.testing.assert_array_equal(found, expected)


CELL = {
    "sequence": (floats(B, T), r"`sequence` must have rank 3\. Received: sequence\.shape=\(2, 3\)"),
    "memory": (floats(B, L), r"`memory` must have rank 3\. Received: memory\.shape=\(2, 4\)"),
    "sequence_mask": (np.ones((B, T, 1), "bool"), r"`sequence_mask` must have rank 2\. .*\(2, 3, 1\)"),
    "memory_mask": (np.ones((B, T), "bool"), r"`memory_mask` must have the shape \(B, L\) of `memory`\. .*\(2, 3\)"),
}


@pytest.mark.parametrize("name", CELL)
def test_the_cell_of_the_example(cells, name):
    rnn = cells.AttentiveRNN(keras.layers.GRUCell(U), 8)
    arguments = {"sequence": floats(B, T, Q), "memory": floats(B, L, D)}
    rnn(**arguments)
    wrong, message = CELL[name]
    with pytest.raises(ValueError, match=message):
        rnn(**{**arguments, name: wrong})


def test_the_table_has_every_argument_of_a_call():
    for layer in (FeatureEncoder(3), BahdanauAttention(U), AttentionGRUDecoder(V, 4, U)):
        ((_, arguments),) = (CALLED[case] for case in CALLED if isinstance(CALLED[case][0](), type(layer)))
        options = {"training", "return_state", "return_attention_scores", "return_hidden", "projected_key"}
        assert set(arguments) == set(inspect.signature(layer.call).parameters) - options
