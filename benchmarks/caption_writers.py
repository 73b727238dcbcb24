"""The ways to write captions that the benchmark of decoding compares, and a captioner whose captions end like COCO's.

Captions of random weights never end, or all at once. So the features themselves tell the captioner here how long an
image's caption is: its weights are random but for two units of the state, a channel of the encoder and what leads to
the end id. Every location of an image has the same number in the first channel, which goes through encoder, attention
and GRU and stands in one of the two units at every step; the other is a clock; and where the clock passes the number,
the end id becomes by far the most probable. This costs no operation that a trained captioner of these sizes would not
have, and all beams of an image end at the same step.
"""

import keras
import numpy as np
from harness.batches import draw_lengths, features_of
from keras import ops

from keras_showattend import Captioner
from keras_showattend.decoding import BeamSearch
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.token_ids import END

NOTEBOOK, PYTHON_BEAM = "notebook's evaluate", "Python beam 5"
GREEDY = "ours, greedy"
OURS = {GREEDY: "greedy", **{f"ours, beam {width}": BeamSearch(width=width) for width in (3, 5, 10)}}
NAMES = (NOTEBOOK, PYTHON_BEAM, *OURS)
WIDTH = 5  # of the Python beam

_SURE = 60.0  # how far the end's logit lies above or below 0; those of the words lie within a quarter of it
_CLOCK, _NUMBER = 0, 1  # units of the state


def width_of(name):
    """How many captions of an image a contender follows at once."""
    if name == PYTHON_BEAM:
        return WIDTH
    return getattr(OURS.get(name), "width", 1)


def writer(name, captioner, batch_size, max_length):
    """A function from features `(N, L, D)` to ids, int32 `(N, max_length)`, 0 after the end.

    Args:
        name: One of `NAMES`.
        captioner: Of `ending_captioner`.
        batch_size: Int, how many images ours takes at a time; the others take one.
        max_length: Int.

    Raises:
        ImportError: For the notebook's, if the backend is not TensorFlow.
    """
    if name in OURS:
        return lambda features: captioner.generate(features, OURS[name], max_length, batch_size).tokens
    if name == PYTHON_BEAM:
        from comparators.python_beam import beam_caption

        return lambda features: _padded([beam_caption(captioner, x, WIDTH, max_length) for x in features], max_length)
    if keras.backend.backend() != "tensorflow":
        raise ImportError("the notebook's loop needs KERAS_BACKEND=tensorflow")
    from comparators.notebook_evaluate import evaluate, notebook_layers

    layers = notebook_layers(captioner)
    return lambda features: _padded([evaluate(*layers, x, max_length) for x in features], max_length)


def _padded(captions, max_length):
    tokens = np.zeros((len(captions), max_length), "int32")
    for row, (ids, _) in zip(tokens, captions, strict=True):
        row[: len(ids)] = ids
    return tokens


def draw_caption_lengths(sizes, images, seed=0):
    """Ids to write for each image, the end id counted, the start id not: as long as COCO's captions."""
    return draw_lengths(sizes, images, np.random.default_rng(seed)) - 1


def features_of_lengths(sizes, lengths):
    """Features `(N, L, D)` for whose images `ending_captioner` writes so many ids."""
    features = features_of(sizes, len(lengths))
    # Half-way between the clock's last two positions.
    passed = (_clock(lengths - 1, sizes) + _clock(lengths, sizes)) / 2
    features[..., 0] = np.arctanh(passed)[:, None]
    return features


def ending_captioner(sizes, seed=0):
    """A built `Captioner` with random weights, the same for the same seed, whose captions end as the features say.

    Args:
        sizes: `Sizes`, of at least two units; no caption has more tokens than `sizes.longest`, the start id counted.
        seed: Int.
    """
    captioner = Captioner(
        FeatureEncoder(sizes.embed_dim), AttentionGRUDecoder(sizes.vocabulary, sizes.embed_dim, sizes.units)
    )
    captioner.build([(None, None, sizes.feature_width), (None, None)])
    generator = np.random.default_rng(seed)
    captioner.set_weights([_random(w.shape, generator) for w in captioner.get_weights()])
    embeddings, score = captioner.decoder.embedding.embeddings, captioner.decoder.attention.score_kernel
    embeddings.assign(generator.normal(0, 1, embeddings.shape))
    score.assign(4 * _array(score))  # attention that looks somewhere
    _end_by_the_clock(captioner, sizes)
    return captioner


def _end_by_the_clock(captioner, sizes):
    """Let the captions end where `features_of_lengths` says."""
    decoder, units = captioner.decoder, sizes.units
    kernel, bias = _array(captioner.encoder.projection.kernel), _array(captioner.encoder.projection.bias)
    kernel[:, 0] = bias[0] = 0
    kernel[0, 0] = 1
    _assign(captioner.encoder.projection, kernel=kernel, bias=bias)

    kernel, recurrent, bias = (_array(w) for w in (decoder.gru.kernel, decoder.gru.recurrent_kernel, decoder.gru.bias))
    update, candidate = 0, 2 * units  # where these gates' columns begin
    for unit in (_CLOCK, _NUMBER):
        for column in (update + unit, candidate + unit):
            kernel[:, column] = recurrent[:, column] = bias[:, column] = 0
    # h <- z h + (1 - z): `_clock`
    bias[0, update + _CLOCK] = np.log(_pace(sizes) / (1 - _pace(sizes)))
    bias[0, candidate + _CLOCK] = _SURE
    # h <- tanh(the first channel of the context)
    bias[0, update + _NUMBER] = -_SURE
    kernel[0, candidate + _NUMBER] = 1
    _assign(decoder.gru, kernel=kernel, recurrent_kernel=recurrent, bias=bias)

    kernel, bias = _array(decoder.hidden.kernel), _array(decoder.hidden.bias)
    kernel[:, 0] = bias[0] = 0
    kernel[[_CLOCK, _NUMBER], 0] = 1, -1
    _assign(decoder.hidden, kernel=kernel, bias=bias)

    kernel, bias = _array(decoder.vocabulary.kernel), _array(decoder.vocabulary.bias)
    kernel[0] = kernel[:, END] = 0
    last_tick = np.diff(_clock(np.array([sizes.longest - 2, sizes.longest - 1]), sizes))[0]
    kernel[0, END] = 2 * _SURE / last_tick
    bias[:END] = -_SURE  # padding, unknown and start, which no trained captioner writes
    _assign(decoder.vocabulary, kernel=kernel, bias=bias)


def operations_of_image(sizes, ids, width):
    """The least floating-point operations of a caption of so many ids, `width` beams from the second on.

    Every product is counted once: encoder and keys for the image; queries, scores, context, gates and the two layers of
    the logits for each id and beam. tanh, softmax and all else count as nothing.
    """
    s = sizes
    image = s.locations * s.feature_width * s.embed_dim + s.locations * s.embed_dim * s.units
    attention = s.units * s.units + s.locations * s.units + s.locations * s.embed_dim
    gates = 3 * s.units * (s.embed_dim + s.embed_dim + s.units)  # token, context and state
    logits = s.units * s.units + s.units * s.vocabulary
    return 2 * (image + (1 + (ids - 1) * width) * (attention + gates + logits))


def bytes_of_decoding(sizes, images, batch_size, width, models):
    """An estimate of the memory that captions take, float32.

    Args:
        sizes: `Sizes`.
        images: Int, whose features are held.
        batch_size: Int, how many are captioned at a time.
        width: Int, beams.
        models: Int, captioners and the notebook's layers.
    """
    s = sizes
    of_image = s.locations * (2 * s.feature_width + 3 * s.embed_dim + 3 * s.units)
    of_beam = s.locations * (2 * s.units + 3 * s.longest) + 6 * s.vocabulary + 20 * s.units
    return 4 * (
        images * s.locations * s.feature_width + batch_size * (of_image + width * of_beam) + models * s.parameters()
    )


def _pace(sizes):
    """The share that is left of the clock's way at each step: that with the longest last step."""
    return 1 - 1 / sizes.longest


def _clock(steps, sizes):
    return 1 - _pace(sizes) ** steps


def _random(shape, generator):
    """Kernels twice as large as keeps a vector's size, so that captions depend on image and words; small biases."""
    return generator.normal(0, 2 / np.sqrt(shape[0]) if len(shape) > 1 else 0.1, shape)


def _array(weight):
    return np.array(ops.convert_to_numpy(weight))


def _assign(layer, **weights):
    for name, value in weights.items():
        getattr(layer, name).assign(value)
