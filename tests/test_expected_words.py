"""The words that an image's captions are expected to have, against the regression written as loops."""

import collections
import itertools
import math

import numpy as np
import pytest

from keras_showattend import expected_words
from keras_showattend.expected_words import ExpectedWords

CAPTIONS = [
    ["a dog runs", "the dog runs on grass"],
    ["a cat sleeps"],
    ["two birds fly", "birds in the sky", "two birds"],
    ["a man rides a horse"],
]
CANDIDATES = [["a dog runs", "birds fly", ""], ["a cat", "nothing known here", "a man on grass"]]


def directions(count, seed):
    x = np.random.default_rng(seed).normal(size=(count, 5)).astype("float32")
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def terms(captions):
    found = collections.Counter()
    for caption in captions:
        words = caption.split()
        found.update(words)
        found.update(f"{one} {other}" for one, other in itertools.pairwise(words))
    return found


def by_hand(stored, captions, asked, candidates):
    counts = [terms(texts) for texts in captions]
    vocabulary = sorted(set().union(*counts))
    idf = {t: math.log((1 + len(counts)) / (1 + sum(t in c for c in counts))) + 1 for t in vocabulary}

    def vector(count):
        v = np.array([count[t] * idf[t] for t in vocabulary])
        return v / (np.linalg.norm(v) or 1)

    vectors = np.array([vector(c) for c in counts])
    mean = vectors.mean(axis=0)
    kernel = np.array([[math.exp(2 * (a @ b - 1)) for b in stored] for a in stored.astype("float64")])
    found = np.zeros((len(asked), len(candidates[0])))
    for n, x in enumerate(asked.astype("float64")):
        k = np.array([math.exp(2 * (x @ b - 1)) for b in stored])
        shares = np.linalg.solve(kernel + 0.3 * np.eye(len(kernel)), k)
        expected = sum(a * (v - mean) for a, v in zip(shares, vectors, strict=True))
        for j, caption in enumerate(candidates[n]):
            w = vector(terms([caption])) - mean
            if not set(terms([caption])).isdisjoint(vocabulary):
                found[n, j] = w @ expected / np.linalg.norm(w) / np.linalg.norm(expected)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_regression(seed):
    stored, asked = directions(4, seed), directions(2, seed + 10)
    found = ExpectedWords(stored, CAPTIONS).agreement(asked, CANDIDATES)
    np.testing.assert_allclose(found, by_hand(stored, CAPTIONS, asked, CANDIDATES), atol=1e-5)


def test_an_image_like_a_stored_one_expects_its_words():
    stored = np.eye(4, 5, dtype="float32")
    texts = [[texts[0] for texts in CAPTIONS]] * 4
    assert ExpectedWords(stored, CAPTIONS).agreement(stored, texts).argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("captions", [[["a dog"]], [["a dog", "a cat"]] * 7])
def test_where_nothing_tells_captions_apart_nothing_is_expected(captions):
    found = ExpectedWords(np.repeat(directions(1, 0), len(captions), axis=0), captions)
    assert not found.agreement(directions(2, 1), CANDIDATES).any()


def test_of_many_images_so_many_are_drawn(monkeypatch):
    monkeypatch.setattr(expected_words, "_MOST_IMAGES", 3)
    stored, asked = directions(4, 0), directions(2, 1)
    found = ExpectedWords(stored, CAPTIONS).agreement(asked, CANDIDATES)
    three = [
        by_hand(np.delete(stored, left, axis=0), np.delete(np.array(CAPTIONS, object), left), asked, CANDIDATES)
        for left in range(4)
    ]
    assert min(np.abs(found - one).max() for one in three) < 1e-5


def test_captions_without_any_word():
    with pytest.raises(ValueError, match="`captions` must have words"):
        ExpectedWords(directions(2, 0), [[""], ["."]])
