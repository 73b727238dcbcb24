"""Gradients written by hand, and work that none is taken of."""

import contextlib

import keras


def without_gradients():
    """A context in which torch keeps nothing for gradients; the other backends record none outside a training step."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def custom_gradient(function):
    """`keras.ops.custom_gradient`, called alike on all backends.

    Args:
        function: Function of tensors that returns its output and a function of one argument, the upstream gradient,
            that returns the gradients of the tensors.

    Returns:
        A function of the same tensors. Its gradient can be differentiated again but on torch.

    Raises:
        RuntimeError: On torch, where a gradient is taken with `create_graph=True`.
    """

    def run(*tensors):
        output, gradient = function(*tensors)

        def of_upstream(*args, upstream=None):
            _refuse_to_be_recorded()
            # torch hands the upstream gradient over by keyword, the others by position.
            return gradient(args[0] if upstream is None else upstream)

        return output, of_upstream

    return keras.ops.custom_gradient(run)


def _refuse_to_be_recorded():
    if keras.backend.backend() != "torch":
        return
    import torch

    # What the forward pass left to the gradient is a constant there: a second derivative would be wrong.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph must be False on torch: keras_showattend's gradients are written by hand, and torch can't "
            "differentiate them again. TensorFlow and JAX can. Received: create_graph=True."
        )
