"""Which words the captions of an image will have, told from the captions of images like it."""

import itertools

import numpy as np

from keras_showattend.evaluation import tokenize

# How fast the say of a stored image falls with its distance, and how much of what the captions have by chance is
# smoothed away. Both were chosen on Flickr8k's dev split, where half of either changes CIDEr-D by less than 0.004.
_SHARPNESS = 2.0
_RIDGE = 0.3
# The most frequent; of Flickr8k's nearly all that occur at least four times.
_TERMS = 10_000
# The kernel of so many images takes 400 MB, and its factor some ten seconds.
_MOST_IMAGES = 10_000


class ExpectedWords:
    """The words, and pairs of words, that the captions of an image will have, by kernel ridge regression.

        w(x) = m + sum_i a_i (w_i - m),   a = (K + r 1)^-1 k(x),   k(x)_i = exp(s (cos(x, x_i) - 1)),   K_ij = k(x_j)_i
    over images i with the vectors w_i of their captions: tf-idf of words and pairs of words, of length 1, and their
    mean m. Where the nearest neighbors of an image count alike, here every image counts by how alike it is, and
    those that are alike share what they say.

    Args:
        directions: Float32, `(M, D)`, features of the images, rows of length 1. Of more than 10,000 images, so many are
            drawn.
        captions: For each image a list of str.

    Raises:
        ValueError: If no caption has a word.

    Reference: Saunders, Gammerman, Vovk 1998, "Ridge regression learning algorithm in dual variables".
    """

    def __init__(self, directions, captions):
        # Imported here: whoever reranks nothing need not have it.
        from scipy.linalg import cho_factor
        from sklearn.feature_extraction.text import TfidfVectorizer

        if len(captions) > _MOST_IMAGES:
            drawn = np.sort(np.random.default_rng(0).choice(len(captions), _MOST_IMAGES, replace=False))
            directions, captions = directions[drawn], [captions[place] for place in drawn]
        self._vectorizer = TfidfVectorizer(analyzer=_words_and_pairs, max_features=_TERMS, dtype=np.float32)
        if not any(map(_words_and_pairs, captions)):
            raise ValueError(
                f"`captions` must have words. Received: captions={captions[:3]!r} and {len(captions)} in all."
            )
        self._vectors = self._vectorizer.fit_transform(captions)
        self._mean = np.asarray(self._vectors.mean(axis=0)).ravel()
        self._directions = directions
        kernel = self._similarity(directions)
        kernel[np.diag_indices(len(kernel))] += _RIDGE
        # Symmetric; only the order of its transpose is overwritten, and not copied.
        self._factor = cho_factor(kernel.T, overwrite_a=True)

    def agreement(self, directions, candidates):
        """How well captions fit: the cosines of their vectors with the expected ones, without the mean.

        Args:
            directions: Float32, `(N, D)`, as those of the stored images.
            candidates: N lists of K str.

        Returns:
            Float64, `(N, K)`; 0 for a caption without a known word, and where nothing tells the stored captions apart.
        """
        from scipy.linalg import cho_solve

        shares = cho_solve(self._factor, self._similarity(directions).T).T
        expected = self._vectors.T.dot(shares.T).T - shares.sum(axis=1, keepdims=True) * self._mean
        vectors = self._vectorizer.transform([[caption] for captions in candidates for caption in captions])
        # A caption's vector has few numbers that are not 0: sums are taken of these.
        sizes = np.diff(vectors.indptr)
        rows, terms, values = np.repeat(np.arange(len(sizes)), sizes), vectors.indices, vectors.data

        def sums(x):
            return np.bincount(rows, x, minlength=len(sizes)).reshape(len(expected), -1)

        images = rows // (len(sizes) // len(expected))
        products = sums(values * expected[images, terms]) - (expected @ self._mean)[:, None]
        squares = sums(values * values) - 2 * sums(values * self._mean[terms]) + self._mean @ self._mean
        lengths = np.sqrt(np.maximum(squares, 0)) * np.linalg.norm(expected, axis=1)[:, None]
        # Less is what rounding leaves of captions that are all the same.
        told = (sizes.reshape(lengths.shape) > 0) & (lengths > 1e-6)
        return np.divide(products, lengths, out=np.zeros_like(products), where=told)

    def _similarity(self, directions):
        """The rows k of as many images, `(N, M)`."""
        similarity = directions @ self._directions.T
        similarity -= 1
        similarity *= _SHARPNESS
        return np.exp(similarity, out=similarity)


def _words_and_pairs(captions):
    """Of each caption by itself: no pair spans two."""
    terms = []
    for caption in captions:
        words = tokenize(caption)
        terms += words
        terms += map(" ".join, itertools.pairwise(words))
    return terms
