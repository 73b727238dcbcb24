"""What the recurrence does differently on a GPU or TPU, tested on the CPU: the same figures."""

import contextlib
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_showattend.layers import AttentionGRUDecoder
from keras_showattend.ops import additive_attention
from keras_showattend.ops.accelerator import on_accelerator, on_jax_accelerator
from keras_showattend.ops.scan import scan


@pytest.fixture
def as_if_on_a_gpu(monkeypatch):
    # The package's names of these modules are those of their functions.
    for name in ("ops.additive_attention", "ops.scan", "layers.vocabulary_layer"):
        monkeypatch.setattr(sys.modules[f"keras_showattend.{name}"], "on_jax_accelerator", lambda: True)


def test_the_processors_of_the_tests_are_no_accelerators():
    if keras.backend.backend() == "torch":
        import torch

        found = torch.accelerator.is_available()
    else:
        found = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    if found:
        pytest.skip("there is one")
    assert not on_accelerator()
    assert not on_jax_accelerator()


@pytest.mark.parametrize("name", ["GPU", "TPU"])
def test_an_accelerator_is_seen(monkeypatch, name):
    backend, scope = keras.backend.backend(), contextlib.nullcontext()
    if backend == "tensorflow":
        import tensorflow as tf

        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] if kind == name else [])
    elif backend == "jax":
        monkeypatch.setattr("jax.default_backend", name.lower)
    else:
        # A device that every torch has, and that is no processor.
        scope = keras.device("meta:0")
    with scope:
        assert on_accelerator()
        assert on_jax_accelerator() == (backend == "jax")


def test_scores_as_sums_give_the_weights_of_scores_as_products(as_if_on_a_gpu):
    generator = np.random.default_rng(0)
    query, keys, kernel = (generator.normal(size=size).astype("float32") for size in ((2, 3, 5), (2, 7, 5), (5, 1)))
    scores = np.tanh(query[:, :, None] + keys[:, None]) @ kernel[:, 0]
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    weights = additive_attention(*(ops.convert_to_tensor(x) for x in (query, keys, kernel)))
    np.testing.assert_allclose(ops.convert_to_numpy(weights), expected, rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_unrolled_loops_take_every_step_once(as_if_on_a_gpu, length, reverse):
    x = np.arange(1.0, length + 1, dtype="float32")

    def step(carry, x):
        return (2 * carry[0] + x[0],), (carry[0] - x[0],)

    (last,), (rows,) = scan(step, (ops.zeros(()),), (ops.convert_to_tensor(x),), reverse=reverse)
    carry, expected = 0.0, np.zeros(length)
    for t in reversed(range(length)) if reverse else range(length):
        expected[t] = carry - x[t]
        carry = 2 * carry + x[t]
    assert float(last) == carry
    np.testing.assert_array_equal(ops.convert_to_numpy(rows), expected)


@pytest.mark.parametrize("words", [7, 8, 9])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_padded_vocabulary_layer_gives_the_same_logits(monkeypatch, words, policy):
    decoder = AttentionGRUDecoder(words, 4, 5, dtype=policy)
    tokens, features = np.ones((2, 3), "int32"), np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    expected = ops.convert_to_numpy(decoder(tokens, features))
    padded = []
    layer = sys.modules["keras_showattend.layers.vocabulary_layer"]
    monkeypatch.setattr(layer, "on_jax_accelerator", lambda: padded.append(True) or True)
    logits = ops.convert_to_numpy(decoder(tokens, features))
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert bool(padded) == (words != 8)


def test_a_padded_vocabulary_layer_takes_lora_and_int8(as_if_on_a_gpu):
    decoder = AttentionGRUDecoder(9, 4, 5)
    tokens, features = np.ones((2, 3), "int32"), np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    plain = ops.convert_to_numpy(decoder(tokens, features))
    decoder.vocabulary.quantize("int8")
    assert decoder.vocabulary.quantization_mode == "int8"
    np.testing.assert_allclose(ops.convert_to_numpy(decoder(tokens, features)), plain, atol=0.05)
    decoder = AttentionGRUDecoder(9, 4, 5)
    plain = ops.convert_to_numpy(decoder(tokens, features))
    decoder.vocabulary.enable_lora(2)
    change = np.ones((2, 9), "float32")
    decoder.vocabulary.lora_kernel_b.assign(change)
    hidden = ops.convert_to_numpy(decoder.hidden(ops.ones((1, 5))))
    expected = hidden @ ops.convert_to_numpy(decoder.vocabulary.kernel) + ops.convert_to_numpy(decoder.vocabulary.bias)
    np.testing.assert_allclose(ops.convert_to_numpy(decoder.vocabulary(hidden)), expected, rtol=1e-5)
    assert np.abs(ops.convert_to_numpy(decoder(tokens, features)) - plain).max() > 1e-3
