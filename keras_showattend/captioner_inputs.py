"""What a `Captioner` takes: features or images, token ids and weights; and the errors where they do not fit."""

import keras
import numpy as np
from keras import ops

from keras_showattend.token_ids import PADDING, START
from keras_showattend.validation import check_positive_integer, shapes_agree


def teacher_forcing(captioner, data):
    """What Keras trains on, of what a data set or `fit` gives.

        (x, y) to ((x, y without its last token), y without its first)

    Args:
        captioner: `Captioner`.
        data: A batch: (x, y) or (x, y, sample_weight), as `Captioner.fit` documents them.

    Returns:
        `((x, inputs), targets, sample_weight)`.

    Raises:
        ValueError: If a shape does not fit.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    check_x(captioner, x)
    _check_targets(y, sample_weight)
    inputs, targets = y[..., :-1], y[..., 1:]
    return (x, inputs), targets, sample_weight


def checked_arrays(captioner, x, y, sample_weight):
    """Whole arrays of a training or an evaluation, lists made arrays.

    Args:
        captioner: `Captioner` with a decoder of V words.
        x: Features or images, an array or a list.
        y: Token ids, an array or a list.
        sample_weight: Array, list or None.

    Returns:
        `(x, y, sample_weight)`.

    Raises:
        ValueError: If a shape does not fit, or `y` does not hold captions that begin with the start, of ids below V.
    """
    x, y = as_array("x", x), as_array("y", y)
    sample_weight = None if sample_weight is None else as_array("sample_weight", sample_weight)
    check_x(captioner, x)
    _check_targets(y, sample_weight)
    _check_tokens(x, y, captioner.decoder.vocab_size)
    return x, y, sample_weight


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


def check_x(captioner, x):
    """Raise a ValueError unless `x` is features or images, by its shape, that the captioner takes."""
    shape, width = tuple(x.shape), captioner.feature_width
    if len(shape) not in (3, 4):
        raise ValueError(
            "`x` must be features (N, L, D) or (N, H, W, D), or images (N, H, W, 3) where there is a feature "
            f"extractor. Received: x.shape={shape}."
        )
    if captioner.takes_images(shape):
        if shape[-1] != 3:
            raise ValueError(f"`x`, images, must have three channels, (N, H, W, 3). Received: x.shape={shape}.")
    elif width not in (None, shape[-1]):
        raise ValueError(
            f"`x` must have the feature width {width} that the captioner was built with. Received: x.shape={shape}."
        )


def check_backbone_is_reached(captioner, x):
    """Raise a ValueError if the captioner's feature extractor is to be trained, by an `x` that is no image."""
    extractor = captioner.feature_extractor
    if extractor is not None and extractor.trainable_variables and not captioner.takes_images(x.shape):
        raise ValueError(
            "`x` must be images (N, H, W, 3) to train a captioner whose `feature_extractor` is trainable: features "
            "reach none of its weights, and are not those of its weights once these change. Received: x.shape="
            f"{tuple(x.shape)}; set `captioner.feature_extractor.trainable = False` to train the rest alone."
        )


def _check_targets(y, sample_weight):
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


def _check_tokens(x, y, vocab_size):
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


def refuse_class_weight(class_weight):
    """Raise a ValueError unless it is None: Keras would take the position of a caption's largest id for its class."""
    if class_weight is not None:
        raise ValueError(
            "`class_weight` has no meaning for captions: give `sample_weight`, one number a caption. "
            f"Received: class_weight={class_weight!r}."
        )


def checked_grid(grid, feature_extractor):
    """The argument `grid` as a tuple; that of the feature extractor, where there is one, for None."""
    if grid is None:
        return None if feature_extractor is None else tuple(feature_extractor.grid)
    if not isinstance(grid, list | tuple) or len(grid) != 2:
        raise ValueError(f"`grid` must be (rows, columns). Received: grid={grid!r}.")
    return (check_positive_integer("grid", grid[0]), check_positive_integer("grid", grid[1]))
