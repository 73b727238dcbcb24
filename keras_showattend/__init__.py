"""Image captioning with visual attention, and its layers, for Keras 3."""

import importlib

from keras_showattend import callbacks as callbacks
from keras_showattend import decoding as decoding
from keras_showattend import evaluation as evaluation
from keras_showattend import features as features
from keras_showattend import layers as layers
from keras_showattend import losses as losses
from keras_showattend import metrics as metrics
from keras_showattend import reranking as reranking
from keras_showattend import self_critical as self_critical
from keras_showattend import visualization as visualization
from keras_showattend.captioner import Captioner as Captioner
from keras_showattend.tokenizer import CaptionTokenizer as CaptionTokenizer
from keras_showattend.version import __version__ as __version__


def __getattr__(name):
    # Touching the data sets may register their TFDS builders, which takes a second: only when asked for.
    if name == "datasets":
        return importlib.import_module("keras_showattend.datasets")
    raise AttributeError(f"module 'keras_showattend' has no attribute {name!r}")
