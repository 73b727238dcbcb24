"""ROUGE-L: the longest common subsequence of a caption and its references."""

from keras_showattend.evaluation.scores import mean_scores
from keras_showattend.evaluation.tokenization import tokenize as coco_words
from keras_showattend.evaluation.tokenized import tokenize_pairs

_BETA = 1.2


def rouge_l(captions, references, tokenize=coco_words):
    """ROUGE-L, the mean over images.

        F = (1 + b^2) P R / (R + b^2 P),  b = 1.2
    with P the longest common subsequence over the words of the caption, R the same over those of the reference, each
    the largest over the image's references. Figures are those of pycocoevalcap 1.2, `Rouge`.

    Args:
        captions: `{image_id: str}`, or a list of str. An empty caption scores 0.
        references: `{image_id: list of str}`, or a list of lists of str in the order of `captions`.
        tokenize: Function from a caption to its words; `str.split` for captions that are tokenized already.

    Returns:
        `Scores`.

    Raises:
        ValueError: If the arguments are not as described, or a reference has no words.

    Example:
    >>> from keras_showattend.evaluation import rouge_l
    >>> round(rouge_l(["a dog runs"], [["a big dog runs fast", "a cat"]]).score, 4)
    0.7176

    Reference: Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
    """
    return rouge_l_of(tokenize_pairs(captions, references, tokenize))


def rouge_l_of(tokenized):
    """As `rouge_l`, of `Tokenized`."""
    pairs = zip(tokenized.captions, tokenized.references, strict=True)
    return mean_scores(tokenized.image_ids, [_f_measure(*pair) for pair in pairs])


def _f_measure(caption, references):
    if not caption:
        return 0.0
    common = [_longest_common_subsequence(caption, reference) for reference in references]
    precision = max(common) / len(caption)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common_subsequence(first, second):
    # A row of the usual table as the bits of one number, 0 where the length grows by one (Hyyro 2004,
    # "Bit-parallel LCS-length computation revisited"): a word of `second` costs four operations.
    places = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    everywhere = (1 << len(first)) - 1
    row = everywhere
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & everywhere
    return len(first) - row.bit_count()
