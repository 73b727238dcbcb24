"""The arithmetic of CIDEr-D over arrays: words in, scores out."""

from typing import NamedTuple

import numpy as np

_MAX_N = 4
# The standard deviation, in words, of the penalty for another length.
_SIGMA = 6.0
# Two numbers of half the bits make one key.
_HALF = 32
_LOWER = (1 << _HALF) - 1


class _Text(NamedTuple):
    """Captions as the ids of their words, one behind the other."""

    words: np.ndarray
    lengths: np.ndarray


class _Vectors(NamedTuple):
    """The weights of the n-grams of captions, for one n, ascending by caption and n-gram."""

    keys: np.ndarray  # caption and n-gram in one number
    weights: np.ndarray
    norms: np.ndarray  # one a caption


class Consensus:
    """References whose n-grams are found, counted and weighted once; `CiderD` tells the formula.

    Args:
        references: For each image, a list of captions, each a list of str.
        documents: The same of the images that tell how rare an n-gram is; None takes the references.
    """

    def __init__(self, references, documents=None):
        groups = [*references, *(documents or [])]
        captions = [caption for group in groups for caption in group]
        self._words = {}
        for caption in captions:
            for word in caption:
                self._words.setdefault(word, len(self._words))
        self._count = np.array([len(group) for group in references])
        self._first = np.cumsum(self._count) - self._count
        first_document = len(references) if documents else 0
        self._documents = len(groups) - first_document
        group_of_caption = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self._learn(self._encode(captions), group_of_caption - first_document)

    def scores(self, captions, images):
        """CIDEr-D of captions.

        Args:
            captions: List of lists of str.
            images: For each caption, the place of its image among the references.

        Returns:
            Array `(N,)`, float64.
        """
        text, images = self._encode(captions), np.asarray(images, "int64")
        count = self._count[images]
        # An entry for each pair of a caption and a reference.
        caption, place = _spread(count)
        reference = self._first[images][caption] + place
        first_pair = np.cumsum(count) - count

        total = np.zeros(len(caption))
        levels = zip(self._find_grams(text), self._rarity, self._vectors, strict=True)
        for (captions_of_grams, grams), rarity, theirs in levels:
            ours = _weigh(captions_of_grams, grams, rarity, len(images))
            owner, gram = ours.keys >> _HALF, ours.keys & _LOWER
            # An n-gram that no reference has counts in the norm only.
            known = np.flatnonzero(gram < len(rarity) - 1)
            entry, place = _spread(count[owner[known]])
            entry = known[entry]
            pair = first_pair[owner[entry]] + place
            found, at = _search(theirs.keys, reference[pair] << _HALF | gram[entry])
            weight, their_weight = ours.weights[entry[found]], theirs.weights[at[found]]
            common = np.bincount(pair[found], np.minimum(weight, their_weight) * their_weight, minlength=len(total))
            norm = ours.norms[caption] * theirs.norms[reference]
            total += np.divide(common, norm, out=np.zeros_like(norm), where=norm > 0)
        distance = text.lengths[caption] - self._reference_lengths[reference]
        total *= np.exp(-(distance**2) / (2 * _SIGMA**2))
        return 10 / _MAX_N * np.bincount(caption, total, minlength=len(images)) / count

    def _learn(self, text, document):
        """Finds the n-grams of all captions, their rarity in the documents, and the vectors of the references."""
        references = self._count.sum()
        self._reference_lengths = text.lengths[:references]
        # For n = 2, 3, 4: every n-gram as the id of its beginning and its last word, in one number, ascending. Its id
        # is its place.
        self._known = []
        self._rarity = []
        self._vectors = []
        for captions, grams in self._find_grams(text, learn=True):
            size = len(self._known[-1]) if self._known else len(self._words)
            # Negative are references that are no documents.
            counted = document[captions] >= 0
            occurrences = np.unique(document[captions[counted]] << _HALF | grams[counted])
            images = np.bincount(occurrences & _LOWER, minlength=size)
            # The place behind the last is that of n-grams which no reference has.
            rarity = np.log(self._documents) - np.log(np.maximum(np.append(images, 0), 1))
            mine = captions < references
            self._rarity.append(rarity)
            self._vectors.append(_weigh(captions[mine], grams[mine], rarity, references))

    def _encode(self, captions):
        """The ids of words; those that are not known follow the others."""
        known, new = self._words, {}
        ids = [
            known[word] if word in known else new.setdefault(word, len(known) + len(new))
            for caption in captions
            for word in caption
        ]
        return _Text(np.array(ids, "int64"), np.array([len(caption) for caption in captions], "int64"))

    def _find_grams(self, text, learn=False):
        """Yields, for n = 1, 2, 3, 4, the caption and the id of every n-gram; unknown ids follow the others."""
        captions = np.repeat(np.arange(len(text.lengths)), text.lengths)
        ends = np.cumsum(text.lengths)[captions]
        starts, ids = np.arange(len(text.words)), text.words
        yield captions, ids
        for n in range(2, _MAX_N + 1):
            inside = starts + n <= ends[starts]
            starts, ids = starts[inside], ids[inside]
            keys = ids << _HALF | text.words[starts + n - 1]
            if learn:
                self._known.append(np.unique(keys))
            known = self._known[n - 2]
            found, ids = _search(known, keys)
            ids[~found] = len(known) + np.unique(keys[~found], return_inverse=True)[1]
            yield captions[starts], ids


def _weigh(captions, grams, rarity, count):
    """The vectors of `count` captions from all their n-grams."""
    keys, occurrences = np.unique(captions << _HALF | grams, return_counts=True)
    weights = occurrences * rarity[np.minimum(keys & _LOWER, len(rarity) - 1)]
    norms = np.sqrt(np.bincount(keys >> _HALF, weights**2, minlength=count))
    return _Vectors(keys, weights, norms)


def _spread(counts):
    """For counts such as [2, 0, 3], the owners [0, 0, 2, 2, 2] and their places [0, 1, 0, 1, 2]."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


def _search(ascending, wanted):
    """Which of the wanted numbers are among the ascending ones, and where."""
    if not len(ascending):
        return np.zeros(len(wanted), bool), np.zeros(len(wanted), "int64")
    places = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return ascending[places] == wanted, places
