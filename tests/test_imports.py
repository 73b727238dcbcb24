"""The package works on a machine that has only keras, numpy, pillow and one backend that is not TensorFlow."""

import importlib.util
import os
import subprocess
import sys

import pytest

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocker())
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
scene = shape_scenes.SceneGenerator(seed=0)[0] if hasattr(shape_scenes, "SceneGenerator") else None
"""

FINISH = """
blocked = {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"} & set(sys.modules)
assert not blocked, blocked
print("all well")
"""
