"""CIDEr-D: how far a caption says what its references agree on, rare n-grams counting most."""

from keras_showattend.evaluation.consensus import Consensus
from keras_showattend.evaluation.scores import mean_scores
from keras_showattend.evaluation.tokenization import tokenize as coco_words
from keras_showattend.evaluation.tokenized import by_id, reference_words, tokenize_pairs, words_of


class CiderD:
    """CIDEr-D against references that are counted once: for figures, and as a reward in training.

        score = 10 mean_n mean_r [sum_w min(g(w), g_r(w)) g_r(w)] / (|g| |g_r|) exp(-(l - l_r)^2 / (2 * 6^2))
        g(w) = (how often w occurs) log(images / images whose references have w)
    over the n-grams w of n = 1, 2, 3, 4 words and the references r of the image; l and l_r are the lengths. Figures are
    those of pycocoevalcap 1.2, `Cider`, which is CIDEr-D. The score is 10 where all references are the caption itself
    and it has four words or more. What is rare, only several images tell: with one alone, every score is 0.

    Args:
        references: `{image_id: list of str}`, or a list of lists of str, whose positions are the ids.
        corpus: Optional other references, in the same form, that tell how rare an n-gram is, such as those of the
            training images.
        tokenize: Function from a caption to its words; `str.split` for captions that are tokenized already.

    Raises:
        ValueError: If the arguments are not as described, or a reference has no words.

    Example:
    >>> from keras_showattend.evaluation import CiderD
    >>> cider_d = CiderD({1: ["a dog runs fast", "the dog runs"], 2: ["a cat sleeps"]})
    >>> {image_id: round(score, 2) for image_id, score in cider_d.scores({1: "a dog runs", 2: "a dog"}).items()}
    {1: 4.53, 2: 0.0}
    >>> cider_d.rewards(["a dog runs", "the dog runs"], [1, 1]).shape  # two captions of one image
    (2,)

    Reference: Vedantam et al. 2015, arXiv 1411.5726; as a reward, Rennie et al. 2017, arXiv 1612.00563.
    """

    def __init__(self, references, corpus=None, tokenize=coco_words):
        words = _all_words("references", references, tokenize)
        self._tokenize = tokenize
        self._place = {image_id: place for place, image_id in enumerate(words)}
        documents = None if corpus is None else list(_all_words("corpus", corpus, tokenize).values())
        self._consensus = Consensus(list(words.values()), documents)

    def scores(self, captions):
        """The scores of captions, one an image.

        Args:
            captions: `{image_id: str}` of some or all of the images, or a list of str. An empty caption scores 0.

        Returns:
            `{image_id: float}`.

        Raises:
            ValueError: If an image has no references, or a caption is no str.
        """
        captions = by_id("captions", captions)
        return dict(zip(captions, self.rewards(list(captions.values()), list(captions)).tolist(), strict=True))

    def rewards(self, captions, image_ids):
        """The scores of captions, any number an image, as self-critical training samples them.

        Args:
            captions: List of str.
            image_ids: The image of each caption, a list of the same length.

        Returns:
            Array `(N,)`, float64.

        Raises:
            ValueError: If the lists differ in length, an image has no references, or a caption is no str.
        """
        if isinstance(captions, str) or len(captions) != len(image_ids):
            received = repr(captions) if isinstance(captions, str) else f"{len(captions)} captions"
            raise ValueError(
                "`captions` must be a list of one str for each of `image_ids`. Received: "
                f"{received}, {len(image_ids)} image ids."
            )
        for image_id in image_ids:
            if image_id not in self._place:
                raise ValueError(f"The image of each caption must have references. Received: image_id={image_id!r}.")
        pairs = zip(captions, image_ids, strict=True)
        words = [words_of("captions", image_id, caption, self._tokenize) for caption, image_id in pairs]
        return self._consensus.scores(words, [self._place[image_id] for image_id in image_ids])


def cider_d(captions, references, corpus=None, tokenize=coco_words):
    """CIDEr-D, the mean over images; see `CiderD`.

    Args:
        captions: `{image_id: str}`, or a list of str. An empty caption scores 0.
        references: `{image_id: list of str}`, or a list of lists of str in the order of `captions`.
        corpus: As in `CiderD`.
        tokenize: As in `CiderD`.

    Returns:
        `Scores`.

    Raises:
        ValueError: If the arguments are not as described, or a reference has no words.
    """
    documents = None if corpus is None else list(_all_words("corpus", corpus, tokenize).values())
    return cider_d_of(tokenize_pairs(captions, references, tokenize), documents)


def cider_d_of(tokenized, documents=None):
    """As `cider_d`, of `Tokenized`."""
    values = Consensus(tokenized.references, documents).scores(tokenized.captions, range(len(tokenized.image_ids)))
    return mean_scores(tokenized.image_ids, values)


def _all_words(name, references, tokenize):
    references = by_id(name, references)
    if not references:
        raise ValueError(f"`{name}` must hold at least one image. Received: none.")
    return {image_id: reference_words(name, image_id, captions, tokenize) for image_id, captions in references.items()}
