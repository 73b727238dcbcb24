import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numerics import MODES, TIGHT, as_tensor, value_and_gradients

from keras_showattend.ops.accelerator import on_accelerator
from keras_showattend.ops.projection import project, weight_gradient

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graphs")


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=10)
@given(
    leading=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    biased=st.booleans(),
)
def test_values_and_gradients_of_any_shape(mode, leading, widths, biased):
    # Kernels that widen and kernels that narrow: the gradient's product has another order.
    x, kernel, upstream = drawn(*leading, widths[0]), drawn(*widths), drawn(*leading, widths[1])
    bias = [drawn(widths[1])] if biased else []

    def loss(x, kernel, *bias):
        return ops.sum(project(x, kernel, *bias) * as_tensor(upstream))

    value, gradients = value_and_gradients(loss, [x, kernel, *bias], mode)
    rows, d = x.reshape(-1, widths[0]), upstream.reshape(-1, widths[1])
    np.testing.assert_allclose(value, ((rows @ kernel + sum(bias)) * d).sum(), rtol=TIGHT, atol=100 * TIGHT)
    expected = [(d @ kernel.T).reshape(x.shape), rows.T @ d, d.sum(0)]
    for gradient, wanted in zip(gradients, [*expected[:2], *expected[2:] * biased], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=TIGHT, atol=10 * TIGHT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("widths", [(2, 5), (5, 2), (3, 3)])
def test_the_product_that_is_a_kernels_gradient_has_one_itself(mode, widths):
    x, d, upstream = drawn(7, widths[0]), drawn(7, widths[1]), drawn(*widths)

    def loss(x, d):
        return ops.sum(weight_gradient(x, d) * as_tensor(upstream))

    value, (of_x, of_d) = value_and_gradients(loss, [x, d], mode)
    np.testing.assert_allclose(value, (x.T @ d * upstream).sum(), rtol=TIGHT, atol=10 * TIGHT)
    np.testing.assert_allclose(of_x, d @ upstream.T, rtol=TIGHT, atol=10 * TIGHT)
    np.testing.assert_allclose(of_d, x @ upstream, rtol=TIGHT, atol=10 * TIGHT)


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_stays_what_it_is(mode):
    x, kernel = drawn(2, 3), drawn(3, 5)
    half = [ops.convert_to_numpy(ops.cast(array, "bfloat16")) for array in (x, kernel)]
    _, gradients = value_and_gradients(lambda *arrays: ops.sum(project(*arrays)), half, mode)
    for gradient, expected in zip(gradients, [np.ones((2, 5)) @ kernel.T, x.T @ np.ones((2, 5))], strict=True):
        assert gradient.dtype.name == "bfloat16"
        np.testing.assert_allclose(gradient.astype("float64"), expected, rtol=0.05, atol=0.05)


def xla_products(function, *arrays):
    """The matrix products of the program that XLA makes of a function, as its text has them."""
    if keras.backend.backend() == "jax":
        import jax

        program = jax.jit(function).lower(*arrays).compile().as_text()
    else:
        import tensorflow as tf

        compiled = tf.function(function, autograph=False, jit_compile=True)
        program = compiled.experimental_get_compiler_ir(*map(as_tensor, arrays))(stage="optimized_hlo")
    return [line for line in program.splitlines() if " dot(" in line]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="no XLA")
@pytest.mark.skipif(on_accelerator(), reason="there it does not matter how they lie")
@pytest.mark.parametrize("widths", [(16, 48), (48, 16)])
@pytest.mark.parametrize("of_project", [False, pytest.param(True, marks=on_tensorflow)])
def test_xla_multiplies_factors_that_lie_as_they_are_multiplied(widths, of_project):
    x, kernel, d = (drawn(*shape).astype("float32") for shape in ((32, widths[0]), widths, (32, widths[1])))

    def gradient_of_kernel(x, kernel, d):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(project(x, kernel) * d)
        return tape.gradient(loss, kernel)

    if of_project:
        (product,) = xla_products(gradient_of_kernel, x, kernel, d)
    else:
        (product,) = xla_products(weight_gradient, x, d)
    assert "lhs_contracting_dims={1}, rhs_contracting_dims={0}" in product


@pytest.mark.parametrize("widths", [(2, 5), (5, 2)])
def test_an_accelerator_computes_the_same(monkeypatch, widths):
    monkeypatch.setattr("keras_showattend.ops.projection.on_accelerator", lambda: True)
    x, d = drawn(7, widths[0]), drawn(7, widths[1])
    found = ops.convert_to_numpy(weight_gradient(as_tensor(x), as_tensor(d)))
    np.testing.assert_allclose(found, x.T @ d, rtol=TIGHT, atol=10 * TIGHT)


@on_tensorflow
def test_xla_takes_a_width_that_is_known_only_when_it_runs():
    import tensorflow as tf

    x, kernel = drawn(2, 3, 4), drawn(4, 5)

    @tf.function(input_signature=[tf.TensorSpec((None, 3, None), "float64")], autograph=False, jit_compile=True)
    def projected(x):
        return project(x, kernel)

    np.testing.assert_allclose(projected(x), x @ kernel, rtol=1e-10)


@on_tensorflow
@pytest.mark.parametrize("widths", [(2, 5), (5, 2)])
def test_gradients_of_gradients_forward_and_backward(widths):
    import tensorflow as tf

    x, kernel, direction = (tf.constant(drawn(*shape)) for shape in ((7, widths[0]), widths, widths))

    def gradient(kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum(project(x, kernel) ** 3)
        return tape.gradient(loss, kernel)

    @tf.function(autograph=False, jit_compile=True)
    def forward_over_reverse():
        with tf.autodiff.ForwardAccumulator(kernel, direction) as accumulator:
            of_kernel = gradient(kernel)
        return accumulator.jvp(of_kernel)

    @tf.function(autograph=False, jit_compile=True)
    def reverse_over_reverse():
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            along = tf.reduce_sum(gradient(kernel) * direction)
        return tape.gradient(along, kernel)

    expected = x.numpy().T @ (6 * (x.numpy() @ kernel.numpy()) * (x.numpy() @ direction.numpy()))
    for second in (forward_over_reverse, reverse_over_reverse):
        np.testing.assert_allclose(second(), expected, rtol=1e-9)


@on_tensorflow
def test_a_gradient_traced_for_xla_runs_without_it():
    import tensorflow as tf

    @tf.function(autograph=False)
    def gradient(x, d):
        return weight_gradient(x, d)

    x, d = drawn(6, 4), drawn(6, 2)
    compiled = tf.function(lambda *arrays: gradient(*arrays), autograph=False, jit_compile=True)
    for run in (compiled, gradient):
        np.testing.assert_allclose(run(x, d), x.T @ d, rtol=1e-10)
    assert gradient.experimental_get_tracing_count() == 1, "not the case that this test is about"
