"""Features that need no weights: the colours, the edges and the place of a window around each location.

    edges: a_b = sqrt(mean over a block of |g| max(0, cos(2 (angle(g) - b pi / 8)))),  b = 0 ... 7

with g the brightest-changing direction of the three colours (Di Zenzo's structure tensor), so that a shape is told by
its outline whatever its colour, in the spirit of the histograms of oriented gradients of Dalal and Triggs 2005.
"""

import numpy as np
from keras import ops

# All in pixels of the resized image. The window is wider than the cell, so that a location sees how its cell goes on;
# much wider, and the attention needs no longer rest on an object to know it.
DEFAULT_IMAGE_SIZE = 128
CELL = 16
WINDOW = 32
BLOCK = 8
ORIENTATIONS = 8
PLACE_WAVES = (1, 2)

DESCRIPTION = f"cell {CELL}, window {WINDOW}, block {BLOCK}, {ORIENTATIONS} directions, waves {PLACE_WAVES}"
WIDTH = (WINDOW // BLOCK) ** 2 * (3 + ORIENTATIONS) + 4 * len(PLACE_WAVES)


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
    """Describes the window around each cell of the images.

    Windows that reach over the border repeat the blocks of the edge.

    Args:
        images: Float tensor `(N, H, W, 3)`, values 0 to 255, H and W static multiples of `CELL`.

    Returns:
        Float tensor `(N, L, WIDTH)`, the cells row by row: for each block of the window its mean colour, -1 to 1, and
        its edges in `ORIENTATIONS` directions, 0 or more; then sines and cosines of the cell's place.
    """
    grid = patch_grid(images.shape[1:3])
    pixels = images / 127.5 - 1.0
    # (N, H / BLOCK, W / BLOCK, 3 + ORIENTATIONS)
    blocks = ops.concatenate([_block_means(pixels), ops.sqrt(_block_means(_edges(pixels)) + 1e-6)], axis=-1)
    # -> (N, rows, window, columns, window, ...): clipped positions are what repeats the edge
    for axis, cells in ((1, grid[0]), (3, grid[1])):
        blocks = ops.take(blocks, _window_positions(cells), axis=axis)
    blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
    locations = grid[0] * grid[1]
    windows = ops.reshape(blocks, (-1, locations, WIDTH - 4 * len(PLACE_WAVES)))
    places = ops.cast(ops.convert_to_tensor(_places(grid)), windows.dtype)[None]
    places = ops.broadcast_to(places, (ops.shape(windows)[0], *places.shape[1:]))
    return ops.concatenate([windows, places], axis=-1)


def _block_means(x):
    return ops.average_pool(x, BLOCK, strides=BLOCK, data_format="channels_last")


def _edges(pixels):
    """Strength of the edges at every pixel in each direction, `(N, H, W, ORIENTATIONS)`."""
    padded = ops.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    # |g|^2 times cosine and sine of twice the angle, summed over the colours: opposite edges are alike.
    cosine = ops.sum(across * across - down * down, axis=-1, keepdims=True)
    sine = ops.sum(2.0 * across * down, axis=-1, keepdims=True)
    strength = ops.sqrt(ops.sqrt(cosine * cosine + sine * sine) + 1e-12)
    angles = np.arange(ORIENTATIONS, dtype="float32") * (2 * np.pi / ORIENTATIONS)
    # As tensors: torch warns of products with NumPy's arrays.
    directions = ops.convert_to_tensor(np.stack([np.cos(angles), np.sin(angles)]), dtype=cosine.dtype)
    return ops.relu(cosine * directions[0] + sine * directions[1]) / strength


def _window_positions(cells):
    """Positions `(cells, WINDOW // BLOCK)` of each cell's window along one axis of blocks."""
    cell, window = CELL // BLOCK, WINDOW // BLOCK
    starts = cell * np.arange(cells)[:, None] - (window - cell) // 2
    return np.clip(starts + np.arange(window), 0, cell * cells - 1).astype("int32")


def _places(grid):
    """Sines and cosines of each cell's row and column, `(L, 4 * len(PLACE_WAVES))`."""
    # Without them, nothing in the features says what is above what.
    axes = [(np.arange(cells) + 0.5) / cells * np.pi - np.pi / 2 for cells in grid]
    rows, columns = np.meshgrid(*axes, indexing="ij")
    waves = [f(k * x) for x in (rows, columns) for k in PLACE_WAVES for f in (np.sin, np.cos)]
    return np.stack(waves, axis=-1).reshape(-1, 4 * len(PLACE_WAVES)).astype("float32")
