"""Training ends at the same loss on every backend."""

import keras
import numpy as np

from keras_showattend import Captioner
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

# As JAX and torch have it, to six digits.
LOSS_AFTER_50_STEPS = 2.058912


def test_the_loss_after_50_steps():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(6, 5, 8)).astype("float32")
    tokens = generator.integers(4, 20, (6, 2, 7)).astype("int32")
    tokens[..., 0], tokens[..., -1] = 2, 3
    tokens[::2, 1, 4:] = [3, 0, 0]
    captioner = Captioner(FeatureEncoder(6), AttentionGRUDecoder(20, 5, 10, attention_units=7), attention_penalty=0.1)
    captioner.build([features.shape, tokens.shape])
    # NumPy's weights, as every backend draws others.
    captioner.set_weights([generator.normal(0, 0.3, w.shape) for w in captioner.get_weights()])
    captioner.compile(keras.optimizers.Adam(0.005))
    history = captioner.fit(features, tokens, batch_size=6, epochs=50, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"][-1], LOSS_AFTER_50_STEPS, rtol=1e-4)
