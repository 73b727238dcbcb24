"""What a sampled caption is worth: its CIDEr-D, with BLEU-4 if wanted, against the references of its image."""

import numpy as np

from keras_showattend.evaluation import CiderD, bleu, tokenize
from keras_showattend.evaluation.tokenized import by_id, reference_words
from keras_showattend.token_ids import END
from keras_showattend.tokenizer import SPECIAL_WORDS
from keras_showattend.validation import check_not_negative

END_WORD = SPECIAL_WORDS[END]


class CaptionReward:
    """CIDEr-D, and BLEU-4 if wanted, of several captions an image, the end of a caption counting as a word.

        reward = cider_d CIDEr-D(caption) + bleu4 BLEU-4(caption)

    The figures are those of `keras_showattend.evaluation`, of the captions' words with `<end>` behind them. References
    all have it; captions that stopped because they were long enough don't. Without it a caption that breaks off, such
    as "a man in a", would lose nothing: its n-grams are all in the references, and the model learns to break off.
    `<end>` alone is in every image's references and so worth nothing; what precedes it is not. An empty caption gets 0.

    CIDEr-D is from 0 to 10, BLEU-4 from 0 to 1, of one caption at a time. BLEU-4 counts the references anew at every
    call, CIDEr-D has counted them.

    Args:
        references: `{image_id: list of str}`, or a list of lists of str, whose positions are the ids: all that tell
            how rare an n-gram is, at least two images.
        cider_d: Number >= 0, weight of CIDEr-D.
        bleu4: Number >= 0, weight of BLEU-4.

    Call arguments:
        captions: A list of N lists of G str, words parted by spaces, `<end>` the last where the caption ended.
        image_ids: The N images.

    Returns:
        Array `(N, G)`, float64.

    Raises:
        ValueError: If the references are not as described or one has no words, there is one image only and CIDEr-D
            counts, a weight is not a number >= 0, or both are 0; and for captions of an image without references, or
            where images have different numbers of captions.

    Example:
    >>> from keras_showattend.self_critical import CaptionReward
    >>> reward = CaptionReward({1: ["A dog runs."], 2: ["A cat sleeps."]})
    >>> reward([["a dog runs <end>", "a dog runs", "a cat sleeps <end>"]], [1]).round(2).tolist()
    [[10.0, 6.22, 0.0]]

    Reference: Rennie et al. 2017, arXiv 1612.00563; CIDEr-D is from Vedantam et al. 2015, arXiv 1411.5726.
    """

    def __init__(self, references, cider_d=1.0, bleu4=0.0):
        self._cider_d_weight = check_not_negative("cider_d", cider_d)
        self._bleu4_weight = check_not_negative("bleu4", bleu4)
        if not cider_d and not bleu4:
            raise ValueError(f"`cider_d` or `bleu4` must be above 0. Received: cider_d={cider_d!r}, bleu4={bleu4!r}.")
        references = by_id("references", references)
        if cider_d and len(references) < 2:
            raise ValueError(
                "`references` must be of at least two images: with one, no n-gram is rarer than another and every "
                f"CIDEr-D is 0. Received: {len(references)}."
            )
        self._references = {
            image_id: [_joined(words, True) for words in reference_words("references", image_id, captions, tokenize)]
            for image_id, captions in references.items()
        }
        self._cider_d = CiderD(self._references, tokenize=str.split)

    def __call__(self, captions, image_ids):
        sizes = {len(group) for group in captions}
        if len(sizes) > 1:
            raise ValueError(
                f"`captions` must have as many captions of every image. Received: from {min(sizes)} to {max(sizes)}."
            )
        flat = [caption for group in captions for caption in group]
        owners = [image_id for image_id, group in zip(image_ids, captions, strict=True) for _ in group]
        # Even where it counts nothing, it finds out whether the images have references.
        rewards = self._cider_d_weight * self._cider_d.rewards(flat, owners)
        if self._bleu4_weight:
            references = [self._references[image_id] for image_id in owners]
            scores = bleu(flat, references, tokenize=str.split)["bleu4"].per_image
            rewards += self._bleu4_weight * np.array([scores[i] for i in range(len(flat))])
        return rewards.reshape(len(captions), -1)


def sampled_words(tokenizer, tokens):
    """The words of sampled captions, as rewards get them.

    Args:
        tokenizer: `CaptionTokenizer`.
        tokens: Int array `(N, G, T)`.

    Returns:
        N lists of G str: what `evaluation.tokenize` makes of the text, parted by spaces, `<end>` behind captions with
        the end id.
    """
    texts = tokenizer.decode(tokens.reshape(-1, tokens.shape[-1]))
    ended = (tokens == END).any(axis=-1).flat
    captions = [_joined(tokenize(text), end) for text, end in zip(texts, ended, strict=True)]
    group = tokens.shape[1]
    return [captions[i : i + group] for i in range(0, len(captions), group)]


def _joined(words, ended):
    return " ".join([*words, END_WORD] if ended else words)
