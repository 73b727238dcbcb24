import keras
import numpy as np
import pytest

from keras_showattend.layers.projection import Projection
from keras_showattend.layers.vocabulary_layer import VocabularyLayer


@pytest.mark.parametrize("layer", [Projection, VocabularyLayer])
def test_a_model_of_it_is_saved_and_loaded(layer, tmp_path):
    model = keras.Sequential([keras.Input((3, 4)), layer(5, activation="relu")])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    assert type(loaded.layers[-1]) is layer
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(x)), keras.ops.convert_to_numpy(model(x)))


def test_quantizing_takes_what_keras_passes():
    layer = Projection(5)
    layer.build((None, 4))
    layer.quantize("int8", type_check=True)
    assert layer.quantization_mode == "int8"
