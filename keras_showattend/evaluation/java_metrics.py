"""METEOR and SPICE, by the Java programs that pycocoevalcap brings."""

import importlib
import shutil
import subprocess

from keras_showattend.evaluation.scores import Scores, mean_scores
from keras_showattend.evaluation.tokenization import tokenize as coco_words
from keras_showattend.evaluation.tokenized import tokenize_pairs


def meteor(captions, references, tokenize=coco_words):
    """METEOR 1.5: captions aligned with references by words, stems, synonyms and paraphrases.

    Needs the extra `[metrics]` and Java. Java takes seconds to start, up to 2 GB of memory, and then about 20 ms a
    caption. The score of the whole is not the mean of the images' scores.

    Args:
        captions: `{image_id: str}`, or a list of str. An empty caption scores 0.
        references: `{image_id: list of str}`, or a list of lists of str in the order of `captions`.
        tokenize: Function from a caption to its words; `str.split` for captions that are tokenized already.

    Returns:
        `Scores`.

    Raises:
        ValueError: If the arguments are not as described, or a reference has no words.
        ImportError: Without the extra `[metrics]`.
        OSError: Without Java, or if it fails.

    Reference: Denkowski and Lavie 2014, "Meteor universal".
    """
    tokenized = tokenize_pairs(captions, references, tokenize)
    scorer = _scorer("METEOR", "pycocoevalcap.meteor.meteor", "Meteor")
    try:
        score, per_image = scorer().compute_score(*_as_pycocoevalcap_takes_it(tokenized))
    except (OSError, ValueError) as error:
        raise OSError(f"METEOR's Java program ended early; it asks for 2 GB of memory: {error}") from error
    return Scores(float(score), dict(zip(tokenized.image_ids, map(float, per_image), strict=True)))


def spice(captions, references, tokenize=coco_words):
    """SPICE: the objects, attributes and relations that captions have in common with references, F1.

    Needs the extra `[metrics]`, Java with 8 GB of memory and, at its first call, the internet: pycocoevalcap then
    downloads the parser of Stanford CoreNLP into its own folder.

    Args:
        captions: `{image_id: str}`, or a list of str.
        references: `{image_id: list of str}`, or a list of lists of str in the order of `captions`.
        tokenize: Function from a caption to its words; `str.split` for captions that are tokenized already.

    Returns:
        `Scores`.

    Raises:
        ValueError: If the arguments are not as described, or a reference has no words.
        ImportError: Without the extra `[metrics]`.
        OSError: Without Java, if the parser can't be downloaded, or if Java fails.

    Reference: Anderson et al. 2016, arXiv 1607.08822.
    """
    tokenized = tokenize_pairs(captions, references, tokenize)
    scorer = _scorer("SPICE", "pycocoevalcap.spice.spice", "Spice")
    try:
        scorer = scorer()
    except OSError as error:
        raise OSError(
            "SPICE needs the parser of Stanford CoreNLP 3.6.0, which pycocoevalcap downloads from nlp.stanford.edu "
            f"when SPICE is first used; that failed: {error}"
        ) from error
    try:
        _, per_image = scorer.compute_score(*_as_pycocoevalcap_takes_it(tokenized))
    except (OSError, subprocess.CalledProcessError) as error:
        raise OSError(f"SPICE's Java program failed; it asks for 8 GB of memory: {error}") from error
    return mean_scores(tokenized.image_ids, [scores["All"]["f"] for scores in per_image])


def _scorer(metric, module, name):
    try:
        scorer = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ImportError(
            f"{metric} needs pycocoevalcap: install keras-showattend with the extra `[metrics]`, or pip install "
            f"pycocoevalcap. ({error})"
        ) from error
    if shutil.which("java") is None:
        raise OSError(f"{metric} needs Java, and there is no program `java` on the PATH.")
    return scorer


def _as_pycocoevalcap_takes_it(tokenized):
    """References and captions by number: it sorts ids, and hands them on as JSON."""
    references = {i: [_line(words) for words in group] for i, group in enumerate(tokenized.references)}
    return references, {i: [_line(words)] for i, words in enumerate(tokenized.captions)}


def _line(words):
    # METEOR's own separator: a word that holds it would shift all that follows.
    return " ".join(word for word in words if "|||" not in word)
