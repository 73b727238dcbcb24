"""How varied captions are, and how many of them are new."""

import numpy as np

from keras_showattend.evaluation.tokenization import tokenize as coco_words
from keras_showattend.evaluation.tokenized import by_id, words_of
from keras_showattend.validation import check_positive_integer


def distinct_n(captions, n, tokenize=coco_words):
    """The share of all n-grams of the captions that are different ones; 0 where no caption has n words.

    It falls as captions become more, so compare it between sets of one size only.

    Args:
        captions: `{image_id: str}`, or a list of str.
        n: Positive int.
        tokenize: Function from a caption to its words.

    Returns:
        A float from 0 to 1.

    Raises:
        ValueError: If the arguments are not as described.

    Example:
    >>> from keras_showattend.evaluation import distinct_n
    >>> distinct_n(["a dog runs", "a dog sleeps"], 2)
    0.75

    Reference: Li et al. 2016, arXiv 1510.03055, who divide by the number of words.
    """
    check_positive_integer("n", n)
    return _distinct(_split("captions", captions, tokenize), n)


def diversity(captions, training_captions=None, tokenize=coco_words):
    """Figures that BLEU and CIDEr don't see: a captioner may score well with few, often repeated sentences.

    Args:
        captions: `{image_id: str}`, or a list of str.
        training_captions: Optional, the captions of the training images: a list of str, or a dict or list of lists of
            str.
        tokenize: Function from a caption to its words. Captions with the same words are the same.

    Returns:
        A dict: `vocabulary`, int, how many different words the captions use; `mean_length`, in words; `distinct_1` and
        `distinct_2`, see `distinct_n`; `unique`, the share of captions that differ from all before them; and, with
        `training_captions`, `novel`, the share of captions that are not among them.

    Raises:
        ValueError: If the arguments are not as described.

    Example:
    >>> from keras_showattend.evaluation import diversity
    >>> figures = diversity(["a dog", "a dog", "two cats", "a cat"], training_captions=["A dog."])
    >>> figures["vocabulary"], figures["unique"], figures["novel"]
    (5, 0.75, 0.5)
    """
    words = _split("captions", captions, tokenize)
    figures = {
        "vocabulary": len({word for caption in words for word in caption}),
        "mean_length": float(np.mean([len(caption) for caption in words])),
        "distinct_1": _distinct(words, 1),
        "distinct_2": _distinct(words, 2),
        "unique": len({tuple(caption) for caption in words}) / len(words),
    }
    if training_captions is not None:
        groups = by_id("training_captions", training_captions).values()
        flat = [caption for group in groups for caption in (group if isinstance(group, list | tuple) else [group])]
        known = {tuple(caption) for caption in _split("training_captions", flat, tokenize)}
        figures["novel"] = float(np.mean([tuple(caption) not in known for caption in words]))
    return figures


def _distinct(words, n):
    grams = [gram for caption in words for gram in zip(*(caption[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / max(len(grams), 1)


def _split(name, captions, tokenize):
    captions = by_id(name, captions)
    if not captions:
        raise ValueError(f"`{name}` must hold at least one caption. Received: none.")
    return [words_of(name, image_id, caption, tokenize) for image_id, caption in captions.items()]
