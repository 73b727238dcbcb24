"""The package works on a machine that has only keras, numpy, pillow and one backend that is not TensorFlow."""

import importlib.util
import os
import subprocess
import sys

import pytest

BLOCKER = """
import sys
from importlib.machinery import PathFinder

class WithoutSome(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [WithoutSome if finder is PathFinder else finder for finder in sys.meta_path]
try:
    import sklearn
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("nothing is hidden")
"""

TRAIN = """
import numpy as np
import keras
import keras_showattend
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

assert keras.backend.backend() != "tensorflow"
captioner = keras_showattend.Captioner(FeatureEncoder(3), AttentionGRUDecoder(9, 4, 6), max_length=5)
captioner.compile(optimizer="adam", weighted_metrics=[keras_showattend.metrics.Perplexity()])
x, y = np.ones((2, 4, 5), "float32"), np.array([[2, 4, 5, 3], [2, 6, 3, 0]])
loss, perplexity = captioner.train_on_batch(x, y)
assert np.isfinite(loss) and perplexity > 1
assert captioner.generate(x).tokens.shape == (2, 5)

from keras_showattend.datasets import shape_scenes

scene = shape_scenes.draw_scene(np.random.default_rng(0))
assert scene.image.dtype == "uint8" and scene.image.shape[-1] == 3
assert len(scene.captions) == 5
"""

FINISH = """
blocked = {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"} & set(sys.modules)
assert not blocked, blocked
print("all well")
"""

BACKENDS = [name for name in ("jax", "torch") if importlib.util.find_spec(name)]


def run(code, backend):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "all well", done.stderr[-3000:]


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_and_drawing_without_tensorflow(backend):
    run(BLOCKER + TRAIN + FINISH, backend)


IMPORT = """
import sys
import keras

# Keras looks for some packages itself.
before = set(sys.modules)
import keras_showattend

loaded = {name.split(".")[0] for name in set(sys.modules) - before}
assert not loaded & {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"}, loaded
print("all well")
"""


def test_importing_loads_nothing_that_is_not_needed():
    run(IMPORT, BACKENDS[0])
