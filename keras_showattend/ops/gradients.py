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
        A function of the same tensors.
    """

    def run(*tensors):
        output, gradient = function(*tensors)

        def of_upstream(*args, upstream=None):
            # torch hands the upstream gradient over by keyword, the others by position.
            return gradient(args[0] if upstream is None else upstream)

        return output, of_upstream

    return keras.ops.custom_gradient(run)
