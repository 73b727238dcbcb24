import keras
import pytest

from keras_showattend.ops.gradients import custom_gradient


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others have second derivatives")
def test_torch_refuses_what_would_be_a_wrong_second_derivative():
    import torch

    @custom_gradient
    def cubed(x):
        square = x * x
        return square * x, lambda upstream: 3 * square * upstream

    x = torch.tensor(2.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(cubed(x), x)
    assert float(gradient) == 12
    with pytest.raises(RuntimeError, match=r"create_graph must be False .* Received: create_graph=True"):
        torch.autograd.grad(cubed(x), x, create_graph=True)
