"""Values and gradients of one function on whichever backend runs, in each of its ways of running; comparisons."""

import functools

import keras
import numpy as np
from keras import ops

from keras_showattend.ops import at_least_float32

# JAX op by op would compile every one of them for every shape.
MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["jit"], "torch": ["eager"]}[keras.backend.backend()]
# Keras makes float32 of many float64 results on JAX and torch, whatever the policy says.
FLOAT64_WORKS = keras.backend.result_type("float64") == "float64"
TIGHT = 1e-10 if FLOAT64_WORKS else 2e-5


def value_and_gradients(function, arrays, mode=MODES[0]):
    """The scalar `function(*tensors)`, and its gradient with respect to every one of the `arrays`."""
    value, gradients = _prepared(function, mode)(*map(as_tensor, arrays))
    return float(value), [ops.convert_to_numpy(g) for g in gradients]


# Compiled once for those who run the same function several times.
@functools.lru_cache(maxsize=4)
def _prepared(function, mode):
    return _WAYS[keras.backend.backend()](function, mode)


def as_tensor(x):
    """A tensor of the array's own dtype; by itself Keras makes float32 of float64 on torch."""
    return ops.convert_to_tensor(x, dtype=keras.backend.standardize_dtype(x.dtype))


def _tensorflow(function, mode):
    import tensorflow as tf

    run = _differentiated(function)
    return run if mode == "eager" else tf.function(run, autograph=False, jit_compile=mode == "xla")


def _jax(function, mode):
    import jax

    return jax.jit(_differentiated(function))


def _torch(function, mode):
    import torch

    def run(*tensors):
        tensors = [x.detach().clone().requires_grad_() for x in tensors]
        value = function(*tensors)
        return value.detach(), torch.autograd.grad(value, tensors, materialize_grads=True, allow_unused=True)

    return run


_WAYS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def gradients_mixed(function):
    """A scalar function of the same tensors, of whose gradient all second derivatives of `function` are part."""
    run = _differentiated(function)
    return lambda *tensors: mixture(run(*tensors)[1])


def _differentiated(function):
    """The function with its gradients, on TensorFlow and JAX, where they can be differentiated again."""
    if keras.backend.backend() == "jax":
        import jax

        return lambda *tensors: jax.value_and_grad(function, argnums=tuple(range(len(tensors))))(*tensors)
    import tensorflow as tf

    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return value, tape.gradient(value, tensors, unconnected_gradients="zero")

    return run


def layer_loss(layer, *inputs, **kwargs):
    """A scalar function of all of the layer's trainable weights: a mixture of its outputs."""

    def loss(*weights):
        # Not `stateless_call`, which leaves out what `__call__` does around `call`: casts and masks.
        with keras.StatelessScope(list(zip(layer.trainable_variables, weights, strict=True))):
            return mixture(layer(*inputs, **kwargs))

    return loss


def mixture(outputs):
    """A linear combination of all entries of one tensor or several, no two counting alike, so that none can hide."""
    total = 0.0
    for x in keras.tree.flatten(outputs):
        x = at_least_float32(ops.reshape(x, (-1,)))
        total = total + ops.sum(x * ops.cast(mixing_factors(ops.shape(x)[0]), x.dtype))
    return total


def mixing_factors(size):
    """What `mixture` multiplies the entries of a tensor of this size with."""
    return ops.sin(1.7 * ops.cast(ops.arange(1, size + 1), "float64"))


def numpy(x):
    """The tensors of any nest as arrays."""
    return keras.tree.map_structure(ops.convert_to_numpy, x)


def assert_close(actual, expected, atol=1e-5):
    """Compare tensors, or tuples or lists of them, with arrays."""
    if isinstance(actual, tuple | list):
        for x, wanted in zip(actual, expected, strict=True):
            assert_close(x, wanted, atol)
    else:
        np.testing.assert_allclose(numpy(actual), numpy(expected), atol=atol, rtol=0)


def assert_gradients_match_differences(function, arrays, mode=MODES[:2][-1]):
    """Compare the slope along a random direction of each of the float64 `arrays` with a central difference."""
    step, tolerance = (1e-5, 1e-6) if FLOAT64_WORKS else (1e-2, 2e-2)
    rng = np.random.default_rng(5)
    _, gradients = value_and_gradients(function, arrays, mode)
    for i, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        assert gradient.dtype == np.float64
        direction = rng.normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            moved = [*arrays[:i], x + sign * step * direction, *arrays[i + 1 :]]
            ends.append(value_and_gradients(function, moved, mode)[0])
        difference = (ends[0] - ends[1]) / (2 * step)
        slope = np.sum(gradient * direction)
        scale = max(1.0, np.linalg.norm(gradient))
        np.testing.assert_allclose(slope, difference, atol=tolerance * scale, rtol=0, err_msg=f"array {i}")
