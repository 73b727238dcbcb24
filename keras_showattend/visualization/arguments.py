"""What the pictures and the page have in common: their arguments, checked and as NumPy arrays."""

import math
import os

import keras
import numpy as np

from keras_showattend.features import read_image

# A panel can't show more pixels than this; they would only cost time and memory, once a word.
LONGEST_SIDE = 512


def checked_photograph(image, name):
    """Returns uint8 `(H, W, 3)` with at most `LONGEST_SIDE` pixels a side."""
    from PIL import Image

    is_file = isinstance(image, str | os.PathLike | bytes)
    picture = Image.fromarray(read_image(image) if is_file else _pixels(image, name))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _pixels(image, name):
    image = _to_numpy(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(
            f"`{name}` must have the shape (H, W, 3) or be an image file. Received: shape {image.shape}, "
            f"dtype {image.dtype}."
        )
    if image.dtype == np.uint8:
        return image
    integers = np.issubdtype(image.dtype, np.integer)
    image = image.astype("float32")
    # The hundredth of slack is what a bicubic resizing may overshoot by.
    smallest, largest = image.min(), image.max()
    top = 1.0 if largest <= 1.01 and not integers else 255.0
    if not (smallest >= -0.01 * top and largest <= 1.01 * top):
        raise ValueError(f"`{name}` must hold values in 0..1 or 0..255. Received: {smallest} to {largest}.")
    return np.rint(np.clip(image / top, 0, 1) * 255).astype("uint8")


def checked_maps(attention, count, grid, name):
    """Returns float `(count, rows, columns)`."""
    weights = _to_numpy(attention)
    if weights.ndim not in (2, 3) or 0 in weights.shape[1:]:
        raise ValueError(f"`{name}` must have the shape (T, L) or (T, rows, columns). Received: shape {weights.shape}.")
    if len(weights) < count:
        raise ValueError(f"`{name}` must have a row for each of the {count} words. Received: shape {weights.shape}.")
    # bfloat16 and float16 widen exactly.
    weights = weights[:count].astype("float32")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        worst = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        raise ValueError(f"`{name}` must be finite and not negative. Received: {worst}.")
    return weights.reshape(count, *_checked_grid(grid, weights.shape[1:], name))


def _checked_grid(grid, shape, name):
    """Returns (rows, columns) for maps of the given shape: (L,) or already (rows, columns)."""
    if grid is None:
        side = math.isqrt(shape[0])
        if len(shape) == 1 and side * side != shape[0]:
            raise ValueError(
                "`grid` must be given as (rows, columns) where the number of locations is no "
                f"square. Received: grid=None, `{name}` with {shape[0]} locations."
            )
        return (side, side) if len(shape) == 1 else shape
    integers = np.shape(grid) == (2,) and all(isinstance(side, int | np.integer) for side in grid)
    if not integers or min(grid) < 1 or math.prod(grid) != math.prod(shape):
        raise ValueError(
            f"`grid` must be (rows, columns) whose product is the number of locations of `{name}`, "
            f"{math.prod(shape)}. Received: grid={grid}."
        )
    if len(shape) == 2 and tuple(grid) != shape:
        raise ValueError(f"`grid` must agree with `{name}`, whose grid is {shape}. Received: grid={grid}.")
    return grid


def checked_items(name, value, count=None):
    """Returns the items of a list, array or tensor; `count` is how many there must be."""
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, str | dict) or not np.iterable(value):
        raise ValueError(f"`{name}` must be a list. Received: {name}={value!r} (type {type(value).__name__}).")
    items = list(value)
    if not items:
        raise ValueError(f"`{name}` must not be empty. Received: {name}={value!r}.")
    if count is not None and len(items) != count:
        raise ValueError(f"`{name}` must have one item for each of the {count} captions. Received: {len(items)} items.")
    return items


def _to_numpy(value):
    return keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else np.asarray(value)
