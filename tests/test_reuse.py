"""The layers in models of other people: as the README builds them, saved here, loaded elsewhere."""

import importlib
import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from example_scripts import EXAMPLES, example_script
from numerics import assert_close, numpy
from reference import randomize

from keras_showattend import Captioner
from keras_showattend.layers import AttentionGRUDecoder, BahdanauAttention, FeatureEncoder

BACKEND = keras.backend.backend()
OTHERS = [name for name in ("tensorflow", "jax", "torch") if name != BACKEND and importlib.util.find_spec(name)]

WORDS = np.array([[3, 1, 4, 0, 0], [2, 5, 0, 0, 0], [7, 6, 5, 4, 3]], "int32")
TOKENS = np.array([[2, 4, 5, 3], [2, 6, 3, 0], [2, 7, 4, 5]], "int32")
FRAMES = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("float32") * (WORDS != 0)[..., None]
FEATURES = np.random.default_rng(1).normal(size=(3, 4, 5)).astype("float32")


cells = example_script("attention_cell")


def embedded_words():
    words = keras.Input((None,), dtype="int32")
    return words, keras.layers.Embedding(8, 6, mask_zero=True)(words)


def classifier():
    """One query looks at all words."""
    words, embedded = embedded_words()
    query = keras.layers.GlobalAveragePooling1D()(embedded)
    context, weights = BahdanauAttention(7)(query, embedded, return_attention_scores=True)
    return keras.Model(words, [keras.layers.Dense(2)(context), weights])


def tagger():
    """Every word is a query, and looks at frames of which some are masked."""
    words, embedded = embedded_words()
    frames = keras.Input((None, 6))
    seen, weights = BahdanauAttention(7)(embedded, keras.layers.Masking()(frames), return_attention_scores=True)
    return keras.Model([words, frames], [keras.layers.Dense(2)(seen), weights])


def translator():
    words, embedded = embedded_words()
    encoded = keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True))(embedded)
    tokens = keras.Input((None,), dtype="int32")
    outputs = AttentionGRUDecoder(9, embed_dim=4, units=6)(tokens, encoded, return_attention_scores=True)
    return keras.Model([words, tokens], outputs)


def recurrent(cells):
    """An attentive LSTM inside `keras.layers.RNN`."""
    words, embedded = embedded_words()
    frames = keras.Input((None, 6))
    states = cells.AttentiveRNN(keras.layers.LSTMCell(7), 8)(embedded, keras.layers.Masking()(frames))
    return keras.Model([words, frames], states)


def captioner():
    model = Captioner(FeatureEncoder(4), AttentionGRUDecoder(9, 4, 6))
    model.build([(None, 4, 5), (None, None)])
    return model


INPUTS = {
    "classifier": WORDS,
    "tagger": [WORDS, FRAMES],
    "translator": [WORDS, TOKENS],
    "recurrent": [WORDS, FRAMES],
    "captioner": [FEATURES, TOKENS],
}

ELSEWHERE = """
import sys
import attention_cell, keras, keras_showattend, numpy as np
folder = sys.argv[1]
inputs = np.load(f"{folder}/inputs.npz")
outputs = {}
for name in sys.argv[2:]:
    x = [inputs[key] for key in inputs.files if key.startswith(name)]
    model = keras.models.load_model(f"{folder}/{name}.keras")
    for i, output in enumerate(keras.tree.flatten(model(x if len(x) > 1 else x[0]))):
        outputs[f"{name}{i}"] = keras.ops.convert_to_numpy(output)
np.savez(f"{folder}/{keras.backend.backend()}.npz", **outputs)
"""


@pytest.fixture(scope="module")
def saved(cells, tmp_path_factory):
    """A folder with every model and its inputs, and what they give here."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(3)
    models = {
        "classifier": classifier(),
        "tagger": tagger(),
        "translator": translator(),
        "recurrent": recurrent(cells),
        "captioner": captioner(),
    }
    arrays, outputs = {}, {}
    for name, model in models.items():
        x = INPUTS[name]
        model.save(folder / f"{name}.keras")
        arrays |= {f"{name}{i}": part for i, part in enumerate(x if isinstance(x, list) else [x])}
        outputs |= {f"{name}{i}": numpy(part) for i, part in enumerate(keras.tree.flatten(model(x)))}
    np.savez(folder / "inputs.npz", **arrays)
    return folder, outputs


@pytest.mark.parametrize("backend", OTHERS)
def test_saved_here_the_same_on_another_backend(saved, backend):
    folder, outputs = saved
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), *INPUTS],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / f"{backend}.npz") as found:
        assert sorted(found.files) == sorted(outputs)
        for name, expected in outputs.items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", INPUTS)
def test_saved_and_loaded_here(saved, name):
    folder, outputs = saved
    model = keras.models.load_model(folder / f"{name}.keras")
    for i, output in enumerate(keras.tree.flatten(model(INPUTS[name]))):
        np.testing.assert_array_equal(numpy(output), outputs[f"{name}{i}"])


# ---------------------------------------------------------------------------------- what masks do in these models


def test_a_classifier_reads_words_and_no_padding():
    model = classifier()
    logits, weights = model.predict(WORDS, verbose=0)
    assert np.all(weights[WORDS == 0] == 0)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert_close(model(WORDS[:1, :3]), (logits[:1], weights[:1, :3]))


def test_many_queries_at_once_equal_one_after_the_other():
    frames, seen = keras.Input((None, 6)), keras.Input((None, 6))
    layer = BahdanauAttention(7)
    many = keras.Model([seen, frames], layer(seen, keras.layers.Masking()(frames)))
    one = keras.Input((6,))
    single = keras.Model([one, frames], layer(one, keras.layers.Masking()(frames)))
    queries = np.random.default_rng(2).normal(size=(3, 11, 6)).astype("float32")
    contexts = many.predict([queries, FRAMES], verbose=0)
    assert contexts.shape == (3, 11, 6)
    for t in range(11):
        assert_close(single.predict([queries[:, t], FRAMES], verbose=0), contexts[:, t])


@pytest.mark.parametrize("make", [tagger, translator])
def test_masked_frames_and_words_count_nothing(make):
    model = make()
    x = INPUTS[make.__name__]
    outputs, weights = model.predict(x, verbose=0)
    assert np.all(weights[0, :, 3:] == 0)
    assert np.all(weights[0, :3, :3] > 0)
    cut = [x[0][:1], x[1][:1, :3]] if make is tagger else [x[0][:1, :3], x[1][:1]]
    assert_close(model(cut), (outputs[:1], weights[:1, ..., :3]))


@pytest.mark.parametrize("make", [classifier, tagger, translator])
def test_every_weight_learns(make):
    model = make()
    before = model.get_weights()
    x, rng = INPUTS[make.__name__], np.random.default_rng(0)
    shapes = [part.shape for part in numpy(keras.tree.flatten(model(x)))]
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, [rng.normal(size=shape).astype("float32") for shape in shapes], verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        # A bias of the keys and one of the queries move alike, but they do move.
        assert np.abs(weight.numpy() - old).max() > 1e-9, weight.path


# --------------------------------------------------------------------------- examples/attention_cell.py


def test_an_attentive_gru_is_the_decoder(cells):
    decoder = AttentionGRUDecoder(9, embed_dim=4, units=6, attention_units=7)
    decoder.build((None, None), (None, None, 5))
    randomize(decoder)
    rnn = cells.AttentiveRNN(keras.layers.GRUCell(6), 7)
    rnn.build((None, None, 4), (None, None, 5))
    rnn.rnn.cell.cell.set_weights(decoder.gru.get_weights())
    rnn.rnn.cell.attention.set_weights(decoder.attention.get_weights())
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]], "bool")
    states = rnn(decoder.embedding(TOKENS), FEATURES, memory_mask=mask)
    assert_close(decoder.vocabulary(decoder.hidden(states)), decoder(TOKENS, FEATURES, features_mask=mask))


@pytest.mark.parametrize("name", ["GRUCell", "LSTMCell", "SimpleRNNCell"])
def test_any_cell_attends_and_keeps_its_state_over_masked_steps(cells, name):
    rnn = cells.AttentiveRNN(getattr(keras.layers, name)(7), 8)
    sequence, memory = keras.Input((None, 6)), keras.Input((None, 6))
    masking = keras.layers.Masking()
    model = keras.Model([sequence, memory], rnn(masking(sequence), masking(memory)))
    x = np.random.default_rng(1).normal(size=(3, 4, 6)).astype("float32")
    x[:, 2:] = 0
    states = model.predict([x, FRAMES], verbose=0)
    assert states.shape == (3, 4, 7)
    assert_close(states[:, 3], states[:, 1])
    assert_close(model([x[:1, :2], FRAMES[:1, :3]]), states[:1, :2])
    before = rnn.get_weights()
    # As Keras chooses on a GPU.
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=BACKEND != "torch")
    model.fit([x, FRAMES], states + 1, verbose=0)
    for weight, old in zip(rnn.weights, before, strict=True):
        assert np.abs(weight.numpy() - old).max() > 0, weight.path
