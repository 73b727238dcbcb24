"""Beam search as a user would write it around `captioner.start_decoding`: lists of captions, and NumPy.

One image at a time, op by op: the captions of the image that have not ended are a batch for the decoder, all else is
Python.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_showattend.ops import without_gradients
from keras_showattend.token_ids import END, START


class _Caption(NamedTuple):
    ids: list
    score: float
    attention: list  # (L,) for each id
    row: int  # of the decoder's batch that it grew from

    @property
    def ended(self):
        return self.ids[-1:] == [END]


def beam_caption(captioner, features, width, max_length):
    """The caption of one image.

    Args:
        captioner: Built `Captioner`.
        features: Float array `(L, D)`.
        width: Int, how many captions are followed.
        max_length: Int, the most ids to write.

    Returns:
        A list of ids, the end id kept, and the attention at each of them, `(ids, L)`.
    """
    with without_gradients():
        step, state = captioner.start_decoding(ops.convert_to_tensor(features[None]))
        captions = [_Caption([], 0.0, [], 0)]
        for _ in range(max_length):
            growing = [caption for caption in captions if not caption.ended]
            if not growing:
                break
            last = np.array([caption.ids[-1] if caption.ids else START for caption in growing], "int32")
            state = ops.take(state, np.array([caption.row for caption in growing], "int32"), axis=0)
            logits, state, weights = step(last, state)
            chances, weights = _log_softmax(ops.convert_to_numpy(logits)), ops.convert_to_numpy(weights)
            longer = [caption for caption in captions if caption.ended]
            for row, caption in enumerate(growing):
                count = min(width, chances.shape[1])
                for word in np.argpartition(chances[row], -count)[-count:]:
                    longer.append(
                        _Caption(
                            [*caption.ids, int(word)],
                            caption.score + float(chances[row, word]),
                            [*caption.attention, weights[row]],
                            row,
                        )
                    )
            captions = sorted(longer, key=lambda caption: caption.score, reverse=True)[:width]
    best = max(captions, key=lambda caption: (caption.ended, caption.score))
    return best.ids, np.stack(best.attention)


def _log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
