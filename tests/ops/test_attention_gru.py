import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import (
    MODES,
    TIGHT,
    as_tensor,
    assert_gradients_match_differences,
    gradients_mixed,
    mixture,
    value_and_gradients,
)
from reference import attention_gru as naive_attention_gru

from keras_showattend.ops import (
    AttentionGRUWeights,
    ContextGate,
    additive_attention,
    attention_gru,
    attention_gru_step,
)


class Case:
    """Random float64 arrays for the recurrence; with the defaults no two sizes are equal."""

    def __init__(
        self,
        images=2,
        captions=3,
        steps=4,
        locations=5,
        units=7,
        scoring=8,
        width=9,
        masked=True,
        gated=False,
        seed=0,
    ):
        rng = np.random.default_rng(seed)
        batch = images * captions
        self.inputs = rng.normal(size=(steps, batch, 3 * units))
        self.state = rng.normal(size=(batch, units))
        self.keys = rng.normal(size=(images, locations, scoring))
        self.features = rng.normal(size=(images, locations, width))
        self.mask = rng.random((images, locations)) < 0.6 if masked else None
        self.weights = AttentionGRUWeights(
            query_kernel=rng.normal(size=(units, scoring)),
            query_bias=rng.normal(size=(scoring,)),
            score_kernel=rng.normal(size=(scoring, 1)),
            context_kernel=rng.normal(size=(width, 3 * units)) / 3,
            recurrent_kernel=rng.normal(size=(units, 3 * units)) / 3,
            recurrent_bias=rng.normal(size=(3 * units,)),
        )
        self.gate = ContextGate(rng.normal(size=(units, 1)), rng.normal(size=(1,))) if gated else None

    @property
    def arrays(self):
        return [self.inputs, self.state, self.keys, self.features, *self.weights, *(self.gate or ())]

    @property
    def names(self):
        gate = [f"gate's {name}" for name in ContextGate._fields] if self.gate else []
        return ["inputs", "state", "keys", "features", *AttentionGRUWeights._fields, *gate]

    @property
    def expected(self):
        return naive_attention_gru(
            self.inputs, self.state, self.keys, self.features, self.mask, self.weights, self.gate
        )

    def cast(self, dtype):
        return [ops.cast(x, dtype) for x in self.arrays]

    def fused(self, inputs, state, keys, features, *parameters, return_attention=True):
        weights, gate = self.parted(parameters)
        return attention_gru(
            inputs, state, keys, features, self.mask, weights, return_attention=return_attention, gate=gate
        )

    def parted(self, parameters):
        count = len(AttentionGRUWeights._fields)
        return AttentionGRUWeights(*parameters[:count]), ContextGate(*parameters[count:]) if self.gate else None

    def fused_mixture(self, *arrays):
        return mixture(self.fused(*arrays))

    def loop_mixture(self, *arrays):
        return mixture(self.loop(*arrays))

    def loop(self, inputs, state, keys, features, *parameters):
        """The same, as the plain Python loop over the step, whose gradient is the backend's own."""
        weights, gate = self.parted(parameters)
        states, attention = [], []
        for t in range(inputs.shape[0]):
            state, row = attention_gru_step(inputs[t], state, keys, features, self.mask, weights, gate=gate)
            states.append(state)
            attention.append(row)
        return ops.stack(states), ops.stack(attention)


CASES = {
    "grouped and masked": {},
    "one caption an image": {"captions": 1},
    "no mask": {"masked": False},
    "one step": {"steps": 1},
    "one of everything": dict.fromkeys(["images", "captions", "steps", "locations", "units", "scoring", "width"], 1),
    "gated": {"gated": True},
    "many locations and steps": {"locations": 19, "steps": 7},
}
COMPILED = ("grouped and masked", "no mask", "gated")


def assert_gradients_equal(case, loss, plain, mode=MODES[0], tolerance=TIGHT):
    value, gradients = value_and_gradients(loss, case.arrays, mode)
    expected_value, expected = value_and_gradients(plain, case.arrays)
    np.testing.assert_allclose(value, expected_value, rtol=tolerance, atol=tolerance)
    for name, gradient, wanted in zip(case.names, gradients, expected, strict=True):
        assert gradient.shape == wanted.shape, name
        assert gradient.dtype == np.float64, name
        np.testing.assert_allclose(gradient, wanted, rtol=tolerance, atol=tolerance, err_msg=name)


# ------------------------------------------------------------------------------------- the step


def test_additive_attention_worked_by_hand():
    # One query 0 and the keys 0 and atanh(1/2), v = 2 log 3: the scores are 0 and log 3, the weights 1/4 and 3/4.
    arrays = [[[[0.0]]], [[[0.0], [np.arctanh(0.5)]]], [[2 * np.log(3.0)]]]
    weights = additive_attention(*(ops.convert_to_tensor(x, "float32") for x in arrays))
    np.testing.assert_allclose(ops.convert_to_numpy(weights), [[[0.25, 0.75]]], rtol=1e-6)


def test_step_worked_by_hand():
    # One unit, one location: the attention is 1 and the context the feature, 2. The gates get 2 * (0, 0, 0.5) from it
    # and nothing else, so z = r = s(0) = 1/2 and n = tanh(1); h' = 1/2 * 3 + 1/2 tanh(1).
    kernels = {"query_kernel": np.zeros((1, 1)), "query_bias": np.zeros(1), "score_kernel": np.zeros((1, 1))}
    kernels |= {"recurrent_kernel": np.zeros((1, 3)), "recurrent_bias": np.zeros(3)}
    weights = AttentionGRUWeights(context_kernel=np.array([[0.0, 0.0, 0.5]]), **kernels)
    weights = AttentionGRUWeights(*map(ops.convert_to_tensor, weights))
    arrays = [np.zeros((1, 3)), np.array([[3.0]]), np.zeros((1, 1, 1)), np.array([[[2.0]]])]
    state, attention = attention_gru_step(*map(ops.convert_to_tensor, arrays), None, weights)
    np.testing.assert_allclose(ops.convert_to_numpy(state), [[1.5 + np.tanh(1) / 2]], rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(attention), [[1.0]])
    # The gate s(3 * log(3) / 3) = 3/4 leaves 3/2 of the context, and n = tanh(3/4).
    gate = ContextGate(*map(ops.convert_to_tensor, (np.array([[np.log(3) / 3]]), np.zeros(1))))
    state, attention = attention_gru_step(*map(ops.convert_to_tensor, arrays), None, weights, gate=gate)
    np.testing.assert_allclose(ops.convert_to_numpy(state), [[1.5 + np.tanh(0.75) / 2]], rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(attention), [[1.0]])


# ------------------------------------------------------------------------------- the recurrence


@settings(max_examples=4 if keras.backend.backend() == "jax" else 40, deadline=None)
@given(
    images=st.integers(1, 3),
    captions=st.integers(1, 3),
    steps=st.integers(1, 4),
    locations=st.integers(1, 12),
    units=st.integers(1, 4),
    scoring=st.integers(1, 4),
    width=st.integers(1, 4),
    masked=st.booleans(),
    gated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_reference_and_the_loops_gradient(**sizes):
    case = Case(**sizes)
    states, attention = case.fused(*map(as_tensor, case.arrays))
    expected = case.expected
    np.testing.assert_allclose(ops.convert_to_numpy(states), expected[0], atol=TIGHT)
    np.testing.assert_allclose(ops.convert_to_numpy(attention), expected[1], atol=TIGHT)
    assert_gradients_equal(case, case.fused_mixture, case.loop_mixture)


# XLA compiles for seconds, so for some cases only.
@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in CASES for mode in MODES if mode != "xla" or name in COMPILED],
)
def test_gradient_equals_that_of_the_loop(name, mode):
    case = Case(**CASES[name])
    assert_gradients_equal(case, case.fused_mixture, case.loop_mixture, mode)


@pytest.mark.parametrize(("mode", "gated"), [*((mode, False) for mode in MODES), (MODES[0], True)])
def test_gradient_without_the_attention_equals_that_of_the_loop(mode, gated):
    case = Case(gated=gated)

    def fused(*arrays):
        states, attention = case.fused(*arrays, return_attention=False)
        assert attention is None
        return mixture(states)

    assert_gradients_equal(case, fused, lambda *x: mixture(case.loop(*x)[0]), mode)


@pytest.mark.parametrize("gated", [False, True])
def test_gradient_through_the_attention_alone(gated):
    case = Case(gated=gated)
    assert_gradients_equal(case, lambda *x: mixture(case.fused(*x)[1]), lambda *x: mixture(case.loop(*x)[1]))


def test_gradient_of_the_last_state_alone():
    case = Case()
    assert_gradients_equal(case, lambda *x: mixture(case.fused(*x)[0][-1]), lambda *x: mixture(case.loop(*x)[0][-1]))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="refused there")
@pytest.mark.parametrize("mode", MODES)
def test_gradient_of_the_gradient_equals_that_of_the_loop(mode):
    case = Case(steps=3)
    fused, loop = gradients_mixed(case.fused_mixture), gradients_mixed(case.loop_mixture)
    assert_gradients_equal(case, fused, loop, mode, tolerance=10 * TIGHT)


@pytest.mark.parametrize("gated", [False, True])
def test_gradient_equals_finite_differences(gated):
    case = Case(units=2, scoring=3, width=4, gated=gated)
    assert_gradients_match_differences(case.fused_mixture, case.arrays)


@pytest.mark.parametrize("gated", [False, True])
def test_an_image_with_nothing_to_attend_to(gated):
    case = Case(gated=gated)
    case.mask = np.array([[True] * 5, [False] * 5])
    assert_gradients_equal(case, case.fused_mixture, case.loop_mixture)
    _, gradients = value_and_gradients(case.fused_mixture, case.arrays)
    d_keys, d_features = gradients[2:4]
    np.testing.assert_array_equal(d_keys[1], 0)
    np.testing.assert_array_equal(d_features[1], 0)
    assert np.abs(d_features[0]).min() > 0
    _, attention = case.fused(*map(as_tensor, case.arrays))
    np.testing.assert_array_equal(ops.convert_to_numpy(attention)[:, 3:], 0)


def test_an_open_gate_is_none_and_a_shut_one_hides_the_features():
    open_, shut, plain = Case(gated=True), Case(gated=True), Case()
    open_.gate = ContextGate(np.zeros((7, 1)), np.array([800.0]))
    shut.gate = ContextGate(np.zeros((7, 1)), np.array([-800.0]))
    for x, wanted in zip(open_.fused(*open_.cast("float32")), plain.fused(*plain.cast("float32")), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(x), ops.convert_to_numpy(wanted), atol=1e-6)
    _, gradients = value_and_gradients(shut.fused_mixture, shut.arrays)
    named = dict(zip(shut.names, gradients, strict=True))
    # The attention still looks at the keys; the features reach nothing.
    for name in ("features", "context_kernel", "gate's kernel", "gate's bias"):
        np.testing.assert_array_equal(named[name], 0)
    assert np.abs(named["keys"]).max() > 0
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_masked_locations_change_nothing():
    case, other = Case(), Case()
    other.keys = np.where(case.mask[..., None], case.keys, 50.0)
    other.features = np.where(case.mask[..., None], case.features, -1e3)
    value, gradients = value_and_gradients(case.fused_mixture, case.arrays)
    other_value, other_gradients = value_and_gradients(case.fused_mixture, other.arrays)
    np.testing.assert_allclose(other_value, value, rtol=TIGHT)
    for gradient, wanted in zip(other_gradients, gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=TIGHT)


def test_grouped_captions_equal_repeated_features():
    case, repeated = Case(), Case()
    for name in ("keys", "features", "mask"):
        setattr(repeated, name, np.repeat(getattr(case, name), 3, axis=0))
    value, gradients = value_and_gradients(case.fused_mixture, case.arrays)
    one_by_one, wanted = value_and_gradients(repeated.fused_mixture, repeated.arrays)
    np.testing.assert_allclose(value, one_by_one, rtol=TIGHT)
    for i in (2, 3):
        # Of the keys and features, an image's gradient is the sum over its captions.
        wanted[i] = wanted[i].reshape(2, 3, *wanted[i].shape[1:]).sum(1)
    for gradient, one in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, one, atol=TIGHT)


@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_keys_far_beyond_the_range_of_tanh(scale):
    # exp(2k) of such keys leaves float32; the weights are still those of tanh, and the gradient is finite.
    case = Case()
    case.keys *= scale
    arrays = case.cast("float32")
    found = case.fused(*arrays)
    for x, wanted in zip(found, case.expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(x), wanted, atol=2e-6)
    _, gradients = value_and_gradients(case.fused_mixture, case.arrays)
    _, wanted = value_and_gradients(case.loop_mixture, case.arrays)
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, expected, rtol=TIGHT, atol=TIGHT)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "gated"), [("bfloat16", 0.05, False), ("float16", 0.01, True), ("float32", 1e-5, True)]
)
def test_lower_precision_stays_close(dtype, tolerance, gated):
    case = Case(images=1, captions=2, steps=3, gated=gated)

    def loss(*arrays):
        states, attention = case.fused(*arrays)
        return mixture((ops.cast(states, "float32"), ops.cast(attention, "float32")))

    states, attention = case.fused(*case.cast(dtype))
    assert ops.dtype(states) == ops.dtype(attention) == dtype
    for x, wanted in zip((states, attention), case.expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(x, "float32")), wanted, atol=tolerance)
    _, gradients = value_and_gradients(loss, case.cast(dtype))
    _, expected = value_and_gradients(case.loop_mixture, case.arrays)
    for gradient, wanted in zip(gradients, expected, strict=True):
        error = np.abs(gradient.astype("float64") - wanted).max()
        assert error <= 3 * tolerance * max(1.0, np.abs(wanted).max())
