"""BLEU: the n-grams of a caption that its references have too."""

import collections

import numpy as np

from keras_showattend.evaluation.scores import Scores
from keras_showattend.evaluation.tokenization import tokenize as coco_words
from keras_showattend.evaluation.tokenized import tokenize_pairs

_MAX_N = 4


def bleu(captions, references, tokenize=coco_words):
    """BLEU-1 to BLEU-4, each with the score of every image.

        BLEU-n = exp(min(0, 1 - r / c)) (p_1 ... p_n)^(1/n)
    with p_k the share of the captions' k-grams that a reference of the image has, each counted at most as often as in
    the reference that has it most often; c the number of words in the captions, and r in the references nearest in
    length to each caption, the shorter of two. Counts and lengths are summed over all images: the score of the whole
    is not the mean of the images' scores.

    Captions without a 4-gram in common with their references get a tiny BLEU-4 rather than 0, since 1e-15 is added to
    each count found and 1e-9 to each count sought: figures are those of pycocoevalcap 1.2, `Bleu(4)`.

    Args:
        captions: `{image_id: str}`, or a list of str. An empty caption scores 0.
        references: `{image_id: list of str}`, or a list of lists of str in the order of `captions`.
        tokenize: Function from a caption to its words; `str.split` for captions that are tokenized already.

    Returns:
        A dict of `Scores` under "bleu1" to "bleu4".

    Raises:
        ValueError: If the arguments are not as described, or a reference has no words.

    Example:
    >>> from keras_showattend.evaluation import bleu
    >>> scores = bleu({7: "a dog runs"}, {7: ["a dog sleeps", "the dog runs fast"]})
    >>> round(scores["bleu2"].score, 4)
    1.0

    Reference: Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation".
    """
    return bleu_of(tokenize_pairs(captions, references, tokenize))


def bleu_of(tokenized):
    """As `bleu`, of `Tokenized`."""
    # For each image the k-grams found, those sought, the words of the caption and of the nearest reference.
    counts = np.array([_count(*pair) for pair in zip(tokenized.captions, tokenized.references, strict=True)])
    together, each = _combine(counts.sum(axis=0)), _combine(counts)
    return {
        f"bleu{n + 1}": Scores(float(together[n]), dict(zip(tokenized.image_ids, map(float, each[:, n]), strict=True)))
        for n in range(_MAX_N)
    }


def _count(caption, references):
    found, sought = [], []
    for n in range(1, _MAX_N + 1):
        grams = collections.Counter(zip(*(caption[i:] for i in range(n)), strict=False))
        most = collections.Counter()
        for reference in references:
            most |= collections.Counter(zip(*(reference[i:] for i in range(n)), strict=False))
        found.append((grams & most).total())
        sought.append(grams.total())
    nearest = min((abs(len(reference) - len(caption)), len(reference)) for reference in references)[1]
    return [*found, *sought, len(caption), nearest]


def _combine(counts):
    """Counts `(..., 10)` to BLEU-1 to BLEU-4, `(..., 4)`."""
    found, sought = counts[..., :_MAX_N], counts[..., _MAX_N : 2 * _MAX_N]
    words, nearest = counts[..., -2, None], counts[..., -1, None]
    precision = (found + 1e-15) / (sought + 1e-9)
    geometric_mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, _MAX_N + 1))
    ratio = (words + 1e-15) / (nearest + 1e-9)
    return geometric_mean * np.exp(np.minimum(0, 1 - 1 / ratio))
