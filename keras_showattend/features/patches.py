"""Features of plain pixels: what a window around each location looks like, without any weights."""

import numpy as np
from keras import ops

# All in pixels of the resized image. The window is wider than the cell so that one location can
# take in a whole small object whose centre lies in its cell.
DEFAULT_IMAGE_SIZE = 128
CELL = 16
WINDOW = 48
POOL = 4

WIDTH = 3 * (WINDOW // POOL) ** 2


def patch_grid(image_size):
    """The grid of cells that covers an image.

    Args:
        image_size: `(height, width)` in pixels.

    Returns:
        `(rows, columns)`.

    Raises:
        ValueError: If a side is not a positive multiple of `CELL`.
    """
    if any(side < CELL or side % CELL for side in image_size):
        raise ValueError(
            f"`image_size` must be a multiple of {CELL} pixels, the side of a cell, for "
            f"backbone='patches'. Received: image_size={tuple(image_size)}."
        )
    return tuple(side // CELL for side in image_size)


def patch_features(images):
    """Cuts the window around each cell out of the images, at a lower resolution.

    Windows that reach over the border repeat the pixels of the edge.

    Args:
        images: Float tensor `(N, H, W, 3)`, values 0 to 255, H and W static multiples of `CELL`.

    Returns:
        Float tensor `(N, L, WIDTH)`, values -1 to 1, the cells row by row.
    """
    grid = patch_grid(images.shape[1:3])
    # (N, H, W, 3) -> (N, H / POOL, W / POOL, 3)
    pixels = ops.average_pool(images, POOL, strides=POOL, data_format="channels_last")
    pixels = pixels / 127.5 - 1.0
    # -> (N, rows, window, columns, window, 3): clipped positions are what repeats the edge
    for axis, cells in ((1, grid[0]), (3, grid[1])):
        pixels = ops.take(pixels, _window_positions(cells), axis=axis)
    pixels = ops.transpose(pixels, (0, 1, 3, 2, 4, 5))
    return ops.reshape(pixels, (-1, grid[0] * grid[1], WIDTH))


def _window_positions(cells):
    """Positions `(cells, WINDOW // POOL)` of each cell's window along one pooled axis."""
    cell, window = CELL // POOL, WINDOW // POOL
    starts = cell * np.arange(cells)[:, None] - (window - cell) // 2
    return np.clip(starts + np.arange(window), 0, cell * cells - 1).astype("int32")
