"""What a captioner takes: features or images, token ids and weights; and the errors where they do not fit."""

import keras
import numpy as np
from keras import ops

from keras_showattend.token_ids import PADDING, START
from keras_showattend.validation import shapes_agree


def as_array(name, value):
    """The argument as an array: lists become one, tensors pass."""
    if hasattr(value, "shape"):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{name}` must be an array. Received: {name} of type {type(value).__name__}.")
    try:
        array = np.asarray([ops.convert_to_numpy(v) if ops.is_tensor(v) else v for v in value])
    except ValueError:
        raise ValueError(
            f"`{name}` must be an array, its rows of one shape (pad captions with 0). "
            f"Received: a {type(value).__name__} of {len(value)} that differ."
        ) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers. Received: {name}.dtype={array.dtype}.")
    return array


def check_x(x, takes_images, width):
    """Check features or images by their shape; `width` is the captioner's feature width, None before it is built."""
    shape = tuple(x.shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            "`x` must be features (N, L, D) or (N, H, W, D), or images (N, H, W, 3) where there is a feature "
            f"extractor. Received: x.shape={shape}."
        )
    if len(shape) == 4 and takes_images:
        if shape[-1] != 3:
            raise ValueError(f"`x`, images, must have three channels, (N, H, W, 3). Received: x.shape={shape}.")
    elif width not in (None, shape[-1]):
        raise ValueError(
            f"`x` must have the feature width {width} that the captioner was built with. Received: x.shape={shape}."
        )


def check_targets(y, sample_weight):
    """Check token ids and weights by their shapes, which may be known in part."""
    if y is None:
        raise ValueError("Training and evaluation need `y`, the token ids with start and end. Received: y=None.")
    shape = tuple(y.shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"`y` must be token ids of the shape (N, T) or (N, G, T). Received: y.shape={shape}.")
    if shape[-1] is not None and shape[-1] < 2:
        raise ValueError(
            f"`y` must have at least two tokens a caption, the start and what follows. Received: y.shape={shape}."
        )
    if sample_weight is None:
        return
    weights = tuple(sample_weight.shape)
    if not (1 <= len(weights) < len(shape) and shapes_agree(weights, shape)):
        raise ValueError(
            "`sample_weight` must be one number a caption, (N,) or (N, G). Received: "
            f"sample_weight.shape={weights}, y.shape={shape}."
        )


def check_tokens(x, y, vocab_size):
    """Check what only values tell, of a whole array of token ids."""
    tokens = ops.convert_to_numpy(y)
    if x.shape[0] == 0 or tokens.size == 0:
        raise ValueError(f"`x` and `y` must not be empty. Received: x.shape={tuple(x.shape)}, y.shape={tokens.shape}.")
    if x.shape[0] != tokens.shape[0]:
        raise ValueError(
            "`x` and `y` must have the same number of rows. Received: "
            f"x.shape={tuple(x.shape)}, y.shape={tokens.shape}."
        )
    if not keras.backend.is_int_dtype(tokens.dtype):
        raise ValueError(f"`y` must be integer token ids. Received: y.dtype={tokens.dtype}.")
    low, high = tokens.min(), tokens.max()
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"`y` must hold ids from 0 to vocab_size - 1 = {vocab_size - 1}. Received: ids from {low} to {high}."
        )
    first = tokens[..., 0]
    # A caption that is padding all over fills up a group and weighs nothing.
    wrong = (first != START) & (tokens != PADDING).any(axis=-1)
    if wrong.any():
        raise ValueError(
            f"Every caption in `y` must begin with the start id {START}. Received: a caption that begins "
            f"with {first[wrong][0]}, the first of {int(wrong.sum())}."
        )
    if not (tokens != PADDING).any():
        raise ValueError("`y` must have a caption that is not empty. Received: padding only.")
