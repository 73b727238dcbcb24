"""The choice among candidates, against its formula written as loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_showattend.evaluation import CiderD
from keras_showattend.expected_words import ExpectedWords
from keras_showattend.generation import Generation
from keras_showattend.reranking import NeighborConsensus, pool_candidates

CAPTIONS = {
    "b": ["a dog runs on grass", "the dog runs"],
    "a": ["a cat sleeps on a bed"],
    "d": ["two birds fly", "birds in the sky"],
    "c": ["a man rides a horse", "a horse and a man"],
}
D, T, L = 3, 5, 2
TEXTS = st.sampled_from(["a dog runs", "birds in the sky", "a cat", "", "a man rides"])


class Store:
    def __init__(self, seed=0):
        self.image_ids = list(CAPTIONS)
        self.x = np.random.default_rng(seed).normal(size=(len(CAPTIONS), L, D)).astype("float16")

    def features(self, image_ids):
        return self.x[[self.image_ids.index(i) for i in image_ids]]

    def captions(self, image_id):
        return CAPTIONS[image_id]


def candidates(texts, seed=0):
    random = np.random.default_rng(seed)
    count, width = len(texts), len(texts[0])
    lengths = random.integers(1, T + 1, (count, width))
    tokens = np.where(np.arange(T) < lengths[..., None], random.integers(3, 9, (count, width, T)), 0)
    return Generation(tokens, -random.uniform(0, 5, (count, width)), random.uniform(size=(count, width, T, L)), texts)


def by_hand(generation, features, store, neighbors, weight, word_weight):
    """The place of each image's best caption."""
    cider = CiderD(CAPTIONS)
    means = {i: store.features([i])[0].astype("float64").mean(0) for i in store.image_ids}
    center = np.mean(list(means.values()), axis=0)
    stored = np.array(list(means.values())) - center
    asked = features.mean(axis=1) - center
    stored, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (stored, asked))
    words = ExpectedWords(stored, list(CAPTIONS.values())).agreement(asked, generation.texts)
    chosen = []
    for n, image in enumerate(features):
        mean = image.mean(0) - center

        def cosine(image_id, mean=mean):
            other = means[image_id] - center
            return mean @ other / np.linalg.norm(mean) / np.linalg.norm(other)

        near = sorted(store.image_ids, key=cosine, reverse=True)[:neighbors]
        totals = []
        for k, text in enumerate(generation.texts[n]):
            agreement = np.mean([cider.rewards([text], [image_id])[0] for image_id in near])
            length = np.count_nonzero(generation.tokens[n, k])
            totals.append(generation.scores[n, k] / length + weight * agreement + word_weight * words[n, k])
        chosen.append(int(np.argmax(totals)))
    return chosen


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.lists(TEXTS, min_size=3, max_size=3), min_size=1, max_size=3),
    neighbors=st.integers(1, 6),
    weight=st.floats(0, 4),
    word_weight=st.just(0.0) | st.floats(0.1, 8),
    seed=st.integers(0, 99),
)
def test_the_formula(texts, neighbors, weight, word_weight, seed):
    store, generation = Store(seed), candidates(texts, seed)
    features = np.random.default_rng(seed + 1).normal(size=(len(texts), L, D))
    chosen = by_hand(generation, features, store, neighbors, weight, word_weight)
    best = NeighborConsensus(store, neighbors, weight, word_weight).rerank(generation, features)
    for n, place in enumerate(chosen):
        # Candidates of one text and one length may tie.
        assert best.texts[n] == texts[n][place]
        np.testing.assert_array_equal(best.tokens[n], generation.tokens[n, place])
        np.testing.assert_array_equal(best.scores[n], generation.scores[n, place])
        np.testing.assert_array_equal(best.attention[n], generation.attention[n, place])


def test_the_nearest_come_first_and_many_images_take_several_passes():
    store = Store()
    consensus = NeighborConsensus(store, neighbors=2)
    nearest = consensus.nearest(np.repeat(store.features(["d", "a"]), 100, axis=0))
    assert [row[0] for row in nearest] == ["d"] * 100 + ["a"] * 100
    texts = [["a dog runs", "two birds fly"]] * 200
    generation = candidates(texts)._replace(scores=np.zeros((200, 2)))
    features = np.repeat(store.features(["d", "b"]), 100, axis=0)
    best = NeighborConsensus(store, neighbors=1).rerank(generation, features)
    assert best.texts == ["two birds fly"] * 100 + ["a dog runs"] * 100


def test_a_decoder_without_attention():
    generation = candidates([["a dog", "a cat"]])._replace(attention=None)
    assert NeighborConsensus(Store(), 1).rerank(generation, np.ones((1, L, D))).attention is None


def test_an_image_like_the_mean_of_all_has_neighbors_too():
    store = Store()
    mean = store.x.astype("float64").mean(axis=(0, 1), keepdims=True)
    consensus = NeighborConsensus(store, 3)
    assert len(consensus.nearest(mean)[0]) == 3
    assert consensus.rerank(candidates([["a dog", "a dog runs"]]), mean).texts[0] in ("a dog", "a dog runs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbors": 0}, "`neighbors` must be a positive"),
        ({"weight": -1.0}, "`weight`"),
        ({"weight": float("nan")}, "`weight`"),
        ({"word_weight": -1.0}, "`word_weight`"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        NeighborConsensus(Store(), **arguments)


def test_wrong_features_and_generations():
    consensus, generation = NeighborConsensus(Store(), 2), candidates([["a dog", "a cat"]])
    with pytest.raises(ValueError, match=r"`features` must have the width of the store's, 3.*\(1, 2, 4\)"):
        consensus.rerank(generation, np.ones((1, L, 4)))
    with pytest.raises(ValueError, match=r"`features` must have features \(N, L, D\).*\(1, 3\)"):
        consensus.nearest(np.ones((1, D)))
    with pytest.raises(ValueError, match=r"`features` must be of the 1 images.*\(2, 2, 3\)"):
        consensus.rerank(generation, np.ones((2, L, D)))
    with pytest.raises(ValueError, match=r"several captions an image.*tokens.shape=\(1, 5\)"):
        consensus.rerank(generation._replace(tokens=generation.tokens[:, 0]), np.ones((1, L, D)))
    with pytest.raises(ValueError, match="texts=None"):
        consensus.rerank(generation._replace(texts=None), np.ones((1, L, D)))


def test_candidates_of_two_captioners_are_pooled():
    first, second = candidates([["a dog", "a cat"], ["a", "b"]]), candidates([["birds"], ["a man"]], seed=1)
    # Another captioner writes longer captions.
    second = second._replace(tokens=np.pad(second.tokens, [(0, 0), (0, 0), (0, 2)], constant_values=7))
    second = second._replace(attention=np.pad(second.attention, [(0, 0), (0, 0), (0, 2), (0, 0)]))
    pooled = pool_candidates([first, second])
    assert pooled.texts == [["a dog", "a cat", "birds"], ["a", "b", "a man"]]
    np.testing.assert_array_equal(pooled.tokens[:, :2, :T], first.tokens)
    assert not pooled.tokens[:, :2, T:].any()
    np.testing.assert_array_equal(pooled.tokens[:, 2:], second.tokens)
    np.testing.assert_array_equal(pooled.scores, np.concatenate([first.scores, second.scores], axis=1))
    np.testing.assert_array_equal(pooled.attention[:, 2:], second.attention)
    features = Store().features(["b", "a"])
    assert NeighborConsensus(Store(), 1).rerank(pooled, features).attention.shape == (2, T + 2, L)


@pytest.mark.parametrize("attention", [None, np.ones((1, 2, T, L + 1))])
def test_pooled_attention_needs_the_same_locations(attention):
    first = candidates([["a dog", "a cat"]])
    assert pool_candidates([first, first._replace(attention=attention)]).attention is None
    assert pool_candidates([first]).attention is not None


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([], "`generations` must hold at least one"),
        ([candidates([["a"], ["b"]]), candidates([["a"]])], r"of the same images. Received: \[2, 1\]"),
        ([candidates([["a"]])._replace(texts=None)], "`generations` must have texts.*texts=None"),
        ([candidates([["a"]])._replace(tokens=np.ones((1, 3)))], r"`generations` must have texts.*\(1, 3\)"),
    ],
)
def test_what_cannot_be_pooled(others, message):
    with pytest.raises(ValueError, match=message):
        pool_candidates(others)
