"""Parts of a TensorFlow graph that become kernels, and nothing on other backends."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_showattend.ops.fusing import fused, fusing

BACKEND = keras.backend.backend()


@fused
def power(x, exponent, offset=None):
    power = ops.exp(exponent * ops.log(x))
    return (power if offset is None else power + offset), x


def test_the_same_numbers():
    x = ops.convert_to_tensor([1.0, 2.0, 3.0])
    plain = power(x, 2, None)
    with fusing():
        within = power(x, 2, None)
        other = power(x, 2, ops.ones(()))
    np.testing.assert_allclose(ops.convert_to_numpy(plain[0]), [1, 4, 9], rtol=1e-5)
    for one, two in zip(plain, within, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(two), ops.convert_to_numpy(one), rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(other[0]), [2, 5, 10], rtol=1e-5)
    assert power.__name__ == "power"


@fused
def flat(x):
    return ops.reshape(x, (-1, x.shape[-1] * x.shape[-2]))


def test_widths_stay_known_whatever_came_before():
    with fusing():
        for width in (2, 3, 4, 5):
            assert tuple(flat(ops.zeros((6, width, width + 1))).shape) == (6, width * (width + 1))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="other backends compile all or nothing")
class TestOnTensorFlow:
    def kernels(self, function):
        """How many calls of functions that XLA must compile the function's graph has."""
        import tensorflow as tf

        graph = tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec((None,))).graph
        return sum(
            "_XlaMustCompile" in node.node_def.attr and node.get_attr("_XlaMustCompile")
            for node in graph.get_operations()
        )

    def test_only_inside(self):
        def within(x):
            with fusing():
                return power(power(x, 2, None)[0], 3, None)

        def around(x):
            with fusing():
                x = x + 1
            return power(x, 2, None)

        def raising(x):
            with pytest.raises(ZeroDivisionError), fusing():
                raise ZeroDivisionError
            return power(x, 2, None)

        assert self.kernels(within) == 2
        assert self.kernels(around) == 0
        assert self.kernels(raising) == 0

    def test_not_where_there_is_a_gpu(self, monkeypatch):
        import tensorflow as tf

        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] if kind == "GPU" else [])

        def within(x):
            with fusing():
                return power(x, 2, None)

        assert self.kernels(within) == 0
