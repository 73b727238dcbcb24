"""Captions from one captioner or several: the batches, the compiled search, and the texts."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from keras import backend, ops

from keras_showattend.captioner_inputs import as_array
from keras_showattend.decoding import Decoding, Greedy, compile_decoding, ensemble
from keras_showattend.ops.fusing import fusing
from keras_showattend.validation import check_positive_integer

# From so many images on, captions that have ended leave the search, and on TensorFlow XLA compiles parts of it for each
# number of those that are left: a third of a second and more for a number that is new. Many images save it again,
# single ones never would.
_MANY = 16


class Generation(NamedTuple):
    """What `Captioner.generate` returns, for N images, captions of T = `max_length` ids and L locations.

    With `BeamSearch(n_best=K)`, K > 1, an axis K follows N, the best caption first, and `texts` holds N lists of K str.

    Attributes:
        tokens: Int32 array, `(N, T)`, no start id, the end id kept, 0 after it.
        scores: Float32 array, `(N,)`, the captions' own log-probabilities, natural logarithms.
        attention: Array, `(N, T, L)`, where the model looked before it chose each token, zero after the end; None where
            the decoder gives none.
        texts: List of N str where there is a tokenizer, None elsewhere.
    """

    tokens: np.ndarray
    scores: np.ndarray
    attention: np.ndarray | None
    texts: list | None


def generate_together(captioners, x, decoding="greedy", max_length=None, batch_size=None):
    """Write a caption for every image with several captioners at once.

    At every step the captioners' probabilities are averaged, and so is their attention; the scores are
    log-probabilities of that average. The captioners may differ in everything but the vocabulary and the number of
    locations.

    Args:
        captioners: List of built `Captioner`s that share a vocabulary.
        x: As in `Captioner.generate`: images where every captioner has a feature extractor, or features that serve all.
        decoding: As in `Captioner.generate`.
        max_length: Positive int, the most tokens to write, the end id included; None takes the first captioner's.
        batch_size: Optional positive int, how many images to decode at a time; None decodes all at once.

    Returns:
        `Generation(tokens, scores, attention, texts)`, numpy arrays and a list of str.

    Raises:
        ValueError: If there is no captioner or one is not built, if vocabularies or the numbers of locations differ,
            if `x` does not fit, or `decoding` is not known.

    Example:
    >>> import keras_showattend, numpy as np
    >>> def make():
    ...     captioner = keras_showattend.Captioner(
    ...         keras_showattend.layers.FeatureEncoder(embed_dim=16),
    ...         keras_showattend.layers.AttentionGRUDecoder(vocab_size=9, embed_dim=8, units=16),
    ...     )
    ...     captioner.build([(None, 49, 32), (None, None)])
    ...     return captioner
    >>> features = np.ones((4, 49, 32), "float32")
    >>> search = keras_showattend.decoding.BeamSearch(width=3)
    >>> keras_showattend.generation.generate_together([make(), make()], features, search, max_length=6).tokens.shape
    (4, 6)
    """
    captioners = _checked_captioners(captioners)
    decoding = checked_decoding(decoding)
    x = as_array("x", x)
    for captioner in captioners:
        captioner.check_inference(x)
    count = x.shape[0]
    if count == 0:
        raise ValueError(f"`x` must not be empty. Received: x.shape={tuple(x.shape)}.")
    batch_size = count if batch_size is None else check_positive_integer("batch_size", batch_size)
    batches = (x[i : i + batch_size] for i in range(0, count, batch_size))
    parts = list(generate_batches(captioners, batches, count, decoding, max_length))
    tokens, scores, attention = (
        None if part[0] is None else np.concatenate(part) for part in list(zip(*parts, strict=True))[:3]
    )
    texts = None if parts[0].texts is None else [text for part in parts for text in part.texts]
    return Generation(tokens, scores, attention, texts)


def caption_images(captioner, images, decoding="greedy", max_length=None, batch_size=64):
    """Captions for photographs, which are read and decoded `batch_size` at a time: see `Captioner.caption`."""
    if captioner.feature_extractor is None or captioner.tokenizer is None:
        raise ValueError(
            "`caption` needs the parts `feature_extractor` and `tokenizer`. Received: "
            f"feature_extractor={captioner.feature_extractor}, tokenizer={captioner.tokenizer}."
        )
    if isinstance(images, str | bytes) or not hasattr(images, "__len__"):
        raise ValueError(f"`images` must be a list of images. Received: a {type(images).__name__}.")
    if len(images) == 0:
        raise ValueError("`images` must not be empty. Received: 0 images.")
    decoding = checked_decoding(decoding)
    check_positive_integer("batch_size", batch_size)
    captioner.check_inference()
    batches = (
        np.stack([captioner.feature_extractor.load_image(i) for i in images[start : start + batch_size]])
        for start in range(0, len(images), batch_size)
    )
    parts = generate_batches((captioner,), batches, len(images), decoding, max_length)
    return [text for part in parts for text in part.texts]


def generate_batches(captioners, batches, count, decoding, max_length=None):
    """The `Generation` of each batch.

    Args:
        captioners: Tuple of built captioners.
        batches: Iterable of features or images, `count` rows in all.
        count: Int.
        decoding: `Decoding`.
        max_length: Positive int, or None for the first captioner's.

    Yields:
        `Generation`.
    """
    max_length = check_positive_integer("max_length", captioners[0].max_length if max_length is None else max_length)
    tokenizer = next((c.tokenizer for c in captioners if c.tokenizer is not None), None)
    decoding = words_only(decoding, captioners[0].decoder, tokenizer)
    # For all batches at once, so that their size does not change what is drawn.
    drawn = decoding.draw(count, max_length)
    start, run = 0, None
    for x in batches:
        if run is None:
            # The last batch, be it small, goes through what is compiled for the first.
            run = _compiled(captioners, decoding.program, max_length, len(x.shape), len(x) >= _MANY)
        decoded = run(x, *(numbers[start : start + len(x)] for numbers in drawn))
        start += len(x)
        tokens, scores, attention = (None if part is None else ops.convert_to_numpy(part) for part in decoded)
        yield Generation(tokens, scores, attention, None if tokenizer is None else _texts(tokenizer, tokens))


def checked_decoding(decoding):
    """The `Decoding` that the argument names or is."""
    if decoding == "greedy":
        return Greedy()
    if not isinstance(decoding, Decoding) or type(decoding) is Decoding:
        raise ValueError(
            '`decoding` must be "greedy", or a Greedy, a BeamSearch or a Sampling of `keras_showattend.decoding`. '
            f"Received: decoding={decoding!r}."
        )
    return decoding


def words_only(decoding, decoder, tokenizer):
    """The `Decoding`, with a ban of the ids for which a tokenizer, where there is one, has no word.

    A decoder may have a larger vocabulary than the tokenizer: rounded up, or with room for more.
    """
    wordless = () if tokenizer is None else range(len(tokenizer.vocabulary), decoder.vocab_size)
    return dataclasses.replace(decoding, banned=(*decoding.banned, *wordless)) if wordless else decoding


def _checked_captioners(captioners):
    if not isinstance(captioners, list | tuple):
        raise ValueError(f"`captioners` must be a list of captioners. Received: a {type(captioners).__name__}.")
    captioners = tuple(captioners)
    if not captioners:
        raise ValueError("`captioners` must hold at least one captioner. Received: none.")
    sizes = [captioner.decoder.vocab_size for captioner in captioners]
    if len(set(sizes)) > 1:
        raise ValueError(f"`captioners` must share a vocabulary. Received: vocabularies of {sizes} words.")
    vocabularies = [c.tokenizer.vocabulary for c in captioners if c.tokenizer is not None]
    if any(words != vocabularies[0] for words in vocabularies):
        raise ValueError(
            "`captioners` must share a vocabulary. Received: tokenizers whose words differ, of "
            f"{[len(words) for words in vocabularies]} words."
        )
    return captioners


def _compiled(captioners, decoding, max_length, rank, many):
    """The search as a function of x and of what `decoding` draws, compiled once and kept by the first captioner."""
    # A class says it for itself: one that is derived may add to the memory what has no rows. On JAX none leaves.
    leave = backend.backend() != "jax" and all(vars(type(c.decoder)).get("memory_has_rows") for c in captioners)
    many = many and leave
    functions = captioners[0]._compiled_searches
    variables = [v for c in captioners for v in (*c.trainable_variables, *c.non_trainable_variables)]
    ids = frozenset(map(id, variables))
    # Quantization and LoRA give a layer other variables, of which what is compiled knows nothing.
    key = (captioners[1:], decoding, max_length, rank, many, ids)
    if key not in functions:
        # What is compiled for variables that were replaced would keep them alive.
        for other in [other for other in functions if other[0] == key[0] and other[-1] != ids]:
            del functions[other]
        search = _search_many if many else _search
        compiled = compile_decoding(functools.partial(search, captioners, decoding, max_length), variables)
        # Kept, or other variables might get their ids.
        functions[key] = lambda *arrays, kept=variables: compiled(*arrays)
    return functions[key]


def _search(captioners, decoding, max_length, x, *drawn):
    steps, states = zip(*(captioner.start_decoding(x) for captioner in captioners), strict=True)
    step, state = (steps[0], states[0]) if len(steps) == 1 else (ensemble(steps), list(states))
    return decoding.decode(step, state, ops.shape(x)[0], max_length, *drawn)


def _search_many(captioners, decoding, max_length, x, *drawn):
    """As `_search`; captions that have ended leave, with their image's memory."""
    memories, states = zip(*(captioner.memory_and_state(x) for captioner in captioners), strict=True)

    def step(token, states, memories):
        steps = [functools.partial(c.decoder.step, memory=m) for c, m in zip(captioners, memories, strict=True)]
        if len(steps) > 1:
            return ensemble(steps)(token, states)
        logits, state, *attention = steps[0](token, states[0])
        return logits, [state], *attention

    with fusing():
        return decoding.decode(step, list(states), ops.shape(x)[0], max_length, *drawn, memory=list(memories))


def _texts(tokenizer, tokens):
    texts = tokenizer.decode(tokens.reshape(-1, tokens.shape[-1]))
    if tokens.ndim == 2:
        return texts
    best = tokens.shape[1]
    return [texts[i : i + best] for i in range(0, len(texts), best)]
