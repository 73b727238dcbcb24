"""Training without logits is training with them."""

import keras
import numpy as np
import pytest

from keras_showattend import Captioner
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.logitless import can_be_logitless, is_logitless
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy, Perplexity

N, G, T, L, D, V = 6, 3, 9, 4, 5, 12
JIT = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[keras.backend.backend()]


class WithLogits(Captioner):
    """A captioner that makes them, since a subclass may read them in `compute_loss`."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        assert y_pred.shape[-1] == V
        return super().compute_loss(x, y, y_pred, sample_weight, training)


class Telling(Captioner):
    """A captioner that tells, of every step that was traced or run, whether it did without them."""

    did_without = ()

    def get_metrics_result(self):
        self.did_without = (*self.did_without, is_logitless())
        return super().get_metrics_result()


def batch():
    random = np.random.default_rng(0)
    tokens = random.integers(4, V, (N, G, T)).astype("int32")
    tokens[..., 0] = 2
    lengths = random.integers(2, T + 1, (N, G, 1))
    places = np.arange(T)
    tokens = np.where(places == lengths - 1, 3, np.where(places < lengths, tokens, 0)).astype("int32")
    # An image without captions.
    tokens[-1] = 0
    return random.normal(size=(N, L, D)).astype("float32"), tokens


def trained(kind, jit_compile=False, policy="float32", decoder=None, loss=None, **options):
    """A captioner after some steps, and what `fit` reported."""
    keras.utils.set_random_seed(1)
    captioner = kind(FeatureEncoder(6, dtype=policy), decoder or AttentionGRUDecoder(V, 4, 6, dtype=policy), **options)
    captioner.compile(
        keras.optimizers.SGD(0.5),
        loss=loss or MaskedSparseCategoricalCrossentropy(label_smoothing=0.1),
        weighted_metrics=[MaskedAccuracy(), Perplexity()],
        jit_compile=jit_compile,
    )
    x, y = batch()
    weight = np.linspace(0.0, 2.0, N, dtype="float32")
    history = captioner.fit(x, y, sample_weight=weight, batch_size=4, epochs=2, shuffle=False, verbose=0).history
    # One caption an image, and shorter.
    on_batch = captioner.train_on_batch(x, y[:, 0, : T - 3], return_dict=True)
    return captioner, {**history, **{f"on_batch_{name}": value for name, value in on_batch.items()}}


@pytest.mark.parametrize("jit_compile", JIT)
@pytest.mark.parametrize("options", [{}, {"attention_penalty": 0.3}, {"policy": "mixed_float16"}], ids=str)
def test_same_training(options, jit_compile):
    captioner, found = trained(Telling, jit_compile, **options)
    assert True in captioner.did_without
    with_logits, wanted = trained(WithLogits, jit_compile, **options)
    half = "policy" in options
    assert found.keys() == wanted.keys() >= {"loss", "masked_accuracy", "perplexity", "on_batch_loss"}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-1 if half else 1e-5, err_msg=name)
    for one, other in zip(captioner.get_weights(), with_logits.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3 if half else 1e-5)


def test_evaluation_and_calls_make_logits():
    captioner, _ = trained(Telling)
    captioner.did_without = ()
    x, y = batch()
    captioner.evaluate(x, y, verbose=0)
    assert set(captioner.did_without) == {False}
    assert captioner([x, y[..., :-1]]).shape == (N, G, T - 1, V)


class OtherDecoder(AttentionGRUDecoder):
    """A decoder that knows nothing of hidden states to return."""

    def call(self, tokens, features, training=None):
        return super().call(tokens, features, training=training)


def test_other_decoders_make_logits():
    captioner, _ = trained(Telling, decoder=OtherDecoder(V, 4, 6))
    assert True not in captioner.did_without


def test_other_vocabulary_layers_make_logits():
    decoder = AttentionGRUDecoder(V, 4, 6)
    decoder.vocabulary = keras.layers.Dense(V, use_bias=False)
    captioner, _ = trained(Telling, decoder=decoder)
    assert True not in captioner.did_without


def test_quantized_vocabulary_layers_make_logits():
    captioner, _ = trained(Telling)
    assert can_be_logitless(captioner)
    captioner.quantize("int8")
    assert not can_be_logitless(captioner)


@pytest.mark.parametrize("part", ["decoder", "vocabulary"])
def test_what_regularizes_logits_gets_them(part):
    decoder = AttentionGRUDecoder(V, 4, 6)
    (decoder if part == "decoder" else decoder.vocabulary).activity_regularizer = keras.regularizers.L2(1.0)
    captioner, _ = trained(Telling, decoder=decoder)
    assert True not in captioner.did_without


def test_a_method_set_on_a_captioner_gets_logits():
    captioner, _ = trained(Telling)
    inherited, widths = captioner.compute_loss, []

    def compute_loss(x, y, y_pred, *args, **kwargs):
        widths.append(y_pred.shape[-1])
        return inherited(x, y, y_pred, *args, **kwargs)

    captioner.compute_loss = compute_loss
    captioner.compile("sgd", weighted_metrics=[Perplexity()])
    captioner.fit(*batch(), verbose=0)
    assert set(widths) == {V}


def test_metrics_compiled_before_still_count():
    captioner, _ = trained(Telling)
    # Keras keeps the metrics of the compilation before.
    captioner.compile("sgd")
    x, y = batch()
    found = captioner.fit(x, y, batch_size=len(x), verbose=0).history
    wanted, _ = trained(Telling)
    wanted.compile("sgd", weighted_metrics=[MaskedAccuracy(), Perplexity()])
    wanted = wanted.fit(x, y, batch_size=len(x), verbose=0).history
    assert found["perplexity"][0] > 1.5
    np.testing.assert_allclose(found["perplexity"], wanted["perplexity"], rtol=1e-5)


READERS = {
    "loss": lambda: {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
    "metrics": lambda: {"metrics": [MaskedAccuracy()]},
    "weighted_metrics": lambda: {"weighted_metrics": [Perplexity(), keras.metrics.SparseCategoricalAccuracy()]},
    "names": lambda: {"weighted_metrics": ["accuracy"]},
    "loss_weights": lambda: {"loss_weights": 0.5},
}


@pytest.mark.parametrize("reader", READERS)
def test_what_reads_logits_gets_them(reader):
    captioner = Telling(FeatureEncoder(6), AttentionGRUDecoder(V, 4, 6))
    captioner.compile("sgd", **READERS[reader]())
    captioner.fit(*batch(), verbose=0)
    assert set(captioner.did_without) == {False}


def test_low_rank_kernels_learn():
    weights = []
    for kind in (Telling, WithLogits):
        captioner, _ = trained(kind)
        keras.utils.set_random_seed(2)
        captioner.decoder.vocabulary.enable_lora(2)
        captioner.compile(keras.optimizers.SGD(0.5))
        captioner.fit(*batch(), epochs=2, shuffle=False, verbose=0)
        layer = captioner.decoder.vocabulary
        weights.append([np.array(w) for w in (layer.lora_kernel_a, layer.lora_kernel_b)])
    # It begins at zero.
    assert np.abs(weights[0][1]).max() > 1e-3
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
