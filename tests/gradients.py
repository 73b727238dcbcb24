"""Values and gradients of one function on whichever backend runs, in each of its ways of running."""

import keras
import numpy as np
from keras import ops

from keras_showattend.ops import at_least_float32

MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["eager", "jit"], "torch": ["eager"]}[keras.backend.backend()]


def value_and_gradients(function, arrays, mode="eager"):
    """The scalar `function(*tensors)`, and its gradient with respect to every one of the `arrays`."""
    tensors = [as_tensor(x) for x in arrays]
    value, gradients = _WAYS[keras.backend.backend()](function, tensors, mode)
    return float(ops.convert_to_numpy(value)), [ops.convert_to_numpy(g) for g in gradients]


def as_tensor(x):
    """A tensor of the array's own dtype; by itself Keras makes float32 of float64 on torch."""
    return ops.convert_to_tensor(x, dtype=keras.backend.standardize_dtype(x.dtype))


def _tensorflow(function, tensors, mode):
    import tensorflow as tf

    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return value, tape.gradient(value, tensors, unconnected_gradients="zero")

    if mode != "eager":
        run = tf.function(run, autograph=False, jit_compile=mode == "xla")
    return run(*tensors)


def _jax(function, tensors, mode):
    import jax

    run = jax.value_and_grad(function, argnums=tuple(range(len(tensors))))
    return (jax.jit(run) if mode == "jit" else run)(*tensors)


def _torch(function, tensors, mode):
    import torch

    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    value = function(*tensors)
    return value.detach(), torch.autograd.grad(value, tensors, materialize_grads=True, allow_unused=True)


_WAYS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def layer_loss(layer, *inputs, **kwargs):
    """A scalar function of all of the layer's trainable weights: a mixture of its outputs."""
    fixed = [v.value for v in layer.non_trainable_variables]

    def loss(*weights):
        result, _ = layer.stateless_call(list(weights), fixed, *inputs, **kwargs)
        return mixture(result)

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
    return ops.sin(1.7 * ops.cast(ops.arange(1, size + 1), "float32"))


def assert_gradients_match_differences(function, arrays, step=1e-5, tolerance=1e-6):
    """Compare the slope along a random direction of each of the float64 `arrays` with a central difference."""
    rng = np.random.default_rng(5)
    _, gradients = value_and_gradients(function, arrays)
    for i, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        assert gradient.dtype == np.float64
        direction = rng.normal(size=x.shape)
        ends = []
        for sign in (1, -1):
            moved = [*arrays[:i], x + sign * step * direction, *arrays[i + 1 :]]
            ends.append(float(_detached(function(*map(as_tensor, moved)))))
        difference = (ends[0] - ends[1]) / (2 * step)
        slope = np.sum(gradient * direction)
        np.testing.assert_allclose(slope, difference, rtol=tolerance, atol=tolerance, err_msg=f"array {i}")


def _detached(x):
    return x.detach() if keras.backend.backend() == "torch" else x
