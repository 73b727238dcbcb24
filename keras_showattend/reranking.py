"""Of several captions of an image, the one that captions of similar images agree with."""

import numpy as np

from keras_showattend.evaluation import CiderD
from keras_showattend.expected_words import ExpectedWords
from keras_showattend.generation import Generation
from keras_showattend.validation import check_not_negative, check_positive_integer

# Images whose features, or whose candidates' scores, are in memory at a time.
_CHUNK = 128


class NeighborConsensus:
    """Picks one caption of each image's candidates, with the help of the captions of similar images.

        choice = argmax_c log p(c) / |c| + weight mean_j CIDEr-D(c, captions of neighbor j)
                                         + word_weight cos(w(c) - m, w(x) - m)
    over the candidates c of an image x and its m neighbors j: the stored images whose mean features have the largest
    cosine with the image's, both after subtraction of the store's mean. |c| counts the tokens of a caption, its end
    included. A captioner knows what captions of its training images have in common; the neighbors know what people said
    of images like this one. w(c) are the words and pairs of words of a caption, tf-idf, of length 1, m is their mean
    over the stored images, and w(x) what a kernel ridge regression on all stored images (of more than 10,000, so many
    that are drawn) expects the image's captions to have.

    Images of the store itself find their own captions: figures measured on them mean nothing.

    Args:
        store: `FeatureStore` of the training images with their captions, of the features that the captioner was
            trained on; or any object with `image_ids`, `features(image_ids)`, an array `(N, L, D)`, and
            `captions(image_id)`, a list of str.
        neighbors: Positive int m; all images where the store has fewer.
        weight: Number >= 0, what a point of CIDEr-D, from 0 to 10, counts against a nat per token.
        word_weight: Number >= 0, what a cosine of 1 counts against a nat per token. 0 leaves the regression out.

    Raises:
        ValueError: If an argument is not as described, or a stored caption has no words.
        ImportError: If there is a `word_weight` and no scikit-learn.

    Example:
    >>> import numpy as np
    >>> from keras_showattend.generation import Generation
    >>> from keras_showattend.reranking import NeighborConsensus
    >>> class Store:
    ...     image_ids = [1, 2, 3]
    ...     def features(self, image_ids):
    ...         return np.eye(3)[[i - 1 for i in image_ids]][:, None]
    ...     def captions(self, image_id):
    ...         return [["a dog runs on grass"], ["a cat sleeps on a bed"], ["two birds fly"]][image_id - 1]
    >>> consensus = NeighborConsensus(Store(), neighbors=1)
    >>> image = np.array([[[0.9, 0.1, 0.0]]])  # like the first of the store
    >>> two = Generation(
    ...     tokens=np.array([[[4, 5, 3], [4, 6, 3]]]),
    ...     scores=np.array([[-2.0, -2.4]]),
    ...     attention=None,
    ...     texts=[["a cat", "a dog runs"]],
    ... )
    >>> consensus.rerank(two, image).texts
    ['a dog runs']

    Reference: consensus reranking is of Mao et al. 2015, arXiv 1412.6632, section 8, and Devlin et al. 2015,
    arXiv 1505.04467, who rank the neighbors' own captions.
    """

    def __init__(self, store, neighbors=30, weight=3.0, word_weight=4.0):
        image_ids = list(store.image_ids)
        check_positive_integer("neighbors", neighbors)
        # A small store has fewer.
        self.neighbors = min(neighbors, len(image_ids))
        self.weight = check_not_negative("weight", weight)
        self.word_weight = check_not_negative("word_weight", word_weight)
        self._image_ids = image_ids
        captions = {image_id: store.captions(image_id) for image_id in image_ids}
        self._cider_d = CiderD(captions)
        means = np.concatenate(
            [_means("store", store.features(image_ids[i : i + _CHUNK])) for i in range(0, len(image_ids), _CHUNK)]
        )
        self._center = means.mean(axis=0)
        self._directions = _directions(means - self._center)
        self._words = ExpectedWords(self._directions, list(captions.values())) if self.word_weight else None

    def nearest(self, features):
        """The ids of the most similar stored images, the most similar first.

        Args:
            features: Float, `(N, L, D)`.

        Returns:
            N lists of m image ids.

        Raises:
            ValueError: If `features` has another rank or width.
        """
        return self._nearest(self._directions_of(features))

    def _nearest(self, directions):
        similarity = directions @ self._directions.T
        # Stable, so that images alike in all keep the store's order.
        places = np.argsort(-similarity, axis=1, kind="stable")[:, : self.neighbors]
        return [[self._image_ids[place] for place in row] for row in places]

    def rerank(self, generation, features):
        """The best of each image's candidates.

        Args:
            generation: `Generation` of several captions an image, as `generate` with `BeamSearch(n_best=K)` returns it.
            features: Float, `(N, L, D)`, of the same images.

        Returns:
            `Generation` of one caption an image.

        Raises:
            ValueError: If `generation` has no texts or no axis K, or `features` does not fit.
        """
        tokens, scores = generation.tokens, generation.scores
        _check_candidates("generation", generation)
        if len(features) != len(tokens):
            raise ValueError(
                f"`features` must be of the {len(tokens)} images of `generation`. "
                f"Received: features.shape={tuple(features.shape)}."
            )
        chunks = range(0, len(tokens), _CHUNK)
        agreement = np.concatenate(
            [self._agreement(generation.texts[i : i + _CHUNK], features[i : i + _CHUNK]) for i in chunks]
        )
        lengths = np.maximum(np.count_nonzero(tokens, axis=-1), 1)
        best = np.argmax(scores / lengths + agreement, axis=1)
        rows = np.arange(len(best))
        attention = generation.attention
        return Generation(
            tokens[rows, best],
            scores[rows, best],
            None if attention is None else attention[rows, best],
            [texts[place] for texts, place in zip(generation.texts, best, strict=True)],
        )

    def _agreement(self, texts, features):
        """What the stored images add to the score of every candidate, `(N, K)`."""
        directions = self._directions_of(features)
        pairs = [
            (caption, neighbor)
            for captions, neighbors in zip(texts, self._nearest(directions), strict=True)
            for caption in captions
            for neighbor in neighbors
        ]
        captions, neighbors = zip(*pairs, strict=True)
        rewards = self._cider_d.rewards(captions, neighbors).reshape(len(texts), -1, self.neighbors)
        agreement = self.weight * rewards.mean(axis=-1)
        if self._words:
            agreement = agreement + self.word_weight * self._words.agreement(directions, texts)
        return agreement

    def _directions_of(self, features):
        means = _means("features", features)
        if means.shape[1] != len(self._center):
            raise ValueError(
                f"`features` must have the width of the store's, {len(self._center)}. "
                f"Received: features.shape={tuple(features.shape)}."
            )
        return _directions(means - self._center)


def pool_candidates(generations):
    """The candidates of several captioners, or of several searches, as one `Generation`.

    Captioners that were trained from different seeds find different captions, and a reranking has more to choose from.
    They need not share anything but the images: scores are compared as each captioner gave them.

    Args:
        generations: List of `Generation`s of several captions an image, all of the same images.

    Returns:
        `Generation` of all candidates of each image, those of the first captioner first, the shorter ones padded with
        zeros. Attention is None unless all have it, over the same locations.

    Raises:
        ValueError: If there is no `Generation`, or one has other images, no texts or no axis K.

    Example:
    >>> import numpy as np
    >>> from keras_showattend.generation import Generation
    >>> from keras_showattend.reranking import pool_candidates
    >>> first = Generation(np.array([[[4, 5, 3]]]), np.array([[-2.0]]), None, [["a dog"]])
    >>> second = Generation(np.array([[[4, 3], [6, 3]]]), np.array([[-1.0, -3.0]]), None, [["a", "cat"]])
    >>> pool_candidates([first, second]).texts
    [['a dog', 'a', 'cat']]
    """
    if not generations:
        raise ValueError("`generations` must hold at least one. Received: none.")
    for generation in generations:
        _check_candidates("generations", generation)
    counts = [len(generation.tokens) for generation in generations]
    if len(set(counts)) > 1:
        raise ValueError(f"`generations` must be of the same images. Received: {counts} images.")
    attention = [generation.attention for generation in generations]
    same = all(x is not None and x.shape[-1] == attention[0].shape[-1] for x in attention)
    return Generation(
        _join([generation.tokens for generation in generations]),
        np.concatenate([generation.scores for generation in generations], axis=1),
        _join(attention) if same else None,
        [
            [text for captions in texts for text in captions]
            for texts in zip(*(one.texts for one in generations), strict=True)
        ],
    )


def _check_candidates(name, generation):
    if generation.tokens.ndim != 3 or generation.texts is None:
        received = f"tokens.shape={generation.tokens.shape}" + (", texts=None" if generation.texts is None else "")
        raise ValueError(
            f"`{name}` must have texts and several captions an image, tokens (N, K, T): decode with "
            f"BeamSearch(n_best=K) and a tokenizer. Received: {received}."
        )


def _join(arrays):
    """Arrays `(N, K, T, ...)` of different K and T, one after the other along K."""
    longest = max(x.shape[2] for x in arrays)
    padding = [(0, 0)] * arrays[0].ndim
    padded = [np.pad(x, [*padding[:2], (0, longest - x.shape[2]), *padding[3:]]) for x in arrays]
    return np.concatenate(padded, axis=1)


def _means(name, features):
    """The mean over the locations, `(N, L, D)` to `(N, D)`, float32."""
    features = np.asarray(features)
    if features.ndim != 3:
        raise ValueError(f"`{name}` must have features (N, L, D). Received: features.shape={features.shape}.")
    return features.astype("float32").mean(axis=1)


def _directions(vectors):
    """Vectors of length 1; those of length 0 stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
