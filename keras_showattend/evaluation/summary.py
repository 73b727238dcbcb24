"""The figures that papers report, at once."""

from keras_showattend.evaluation.bleu import bleu_of
from keras_showattend.evaluation.cider import cider_d_of
from keras_showattend.evaluation.rouge import rouge_l_of
from keras_showattend.evaluation.tokenization import tokenize as coco_words
from keras_showattend.evaluation.tokenized import tokenize_pairs

METRICS = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")


def evaluate_captions(captions, references, tokenize=coco_words):
    """BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D of captions against references.

    Args:
        captions: `{image_id: str}`, or a list of str. An empty caption scores 0 and stays in the mean.
        references: `{image_id: list of str}` of the same images, or a list of lists of str in the order of `captions`.
        tokenize: Function from a caption to its words; `str.split` for captions that are tokenized already.

    Returns:
        A dict of floats: `bleu1`, `bleu2`, `bleu3`, `bleu4` and `rouge_l` from 0 to 1, `cider_d` from 0 to 10. Papers
        print them times 100.

    Raises:
        ValueError: If the arguments are not as described, captions and references are not of the same images, or a
            reference has no words. The message names the image.

    Example:
    >>> from keras_showattend.evaluation import evaluate_captions
    >>> figures = evaluate_captions(
    ...     {1: "a dog runs through snow", 2: "two cats"},
    ...     {1: ["A dog runs through the snow.", "The dog runs."], 2: ["Two cats sleep.", "Cats on a sofa."]},
    ... )
    >>> {name: round(value, 3) for name, value in figures.items()}
    {'bleu1': 0.751, 'bleu2': 0.672, 'bleu3': 0.609, 'bleu4': 0.54, 'rouge_l': 0.833, 'cider_d': 3.303}
    """
    tokenized = tokenize_pairs(captions, references, tokenize)
    figures = {name: scores.score for name, scores in bleu_of(tokenized).items()}
    return {**figures, "rouge_l": rouge_l_of(tokenized).score, "cider_d": cider_d_of(tokenized).score}
