"""Draws scenes of coloured shapes; needs NumPy alone."""

import dataclasses
import functools
import itertools
import math

import numpy as np

from keras_showattend.datasets.shape_scenes import wording

# The side of the square picture, in pixels, as are all lengths below.
IMAGE_SIZE = 128
# How many objects a scene may hold, each count equally likely.
OBJECT_COUNTS = (1, 2, 3)
SHAPES = ("circle", "square", "triangle", "star")
COLORS = {
    "red": (214, 40, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 215),
    "yellow": (245, 205, 30),
    "purple": (150, 55, 180),
    "black": (30, 30, 34),
}
# The smallest and the largest side of an object's box. The gap between the two ranges keeps the
# words honest: no object is in doubt.
SIZES = {"small": (24, 28), "large": (44, 50)}
# Free pixels between an object and the next one or the picture's edge.
MARGIN = 4
# How much further apart two centres are along one axis than along the other, so that "above" and
# "to the left of" are never a matter of taste.
CLARITY = 6
# Each channel of a colour moves by up to this much from object to object.
COLOR_VARIATION = 14
# The background: its grey level, the strength of its soft clouds and their number along a side.
BACKGROUND_LEVEL = (200, 232)
CLOUD_STRENGTH = 7.0
CLOUDS = 5
# Standard deviation of the noise on every channel of every pixel.
NOISE = 3.0
# Antialiasing: samples along each side of a pixel.
SUPERSAMPLING = 4


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        shape: str, one of `SHAPES`.
        color: str, a key of `COLORS`.
        size: str, a key of `SIZES`.
        box: `(y_min, x_min, y_max, x_max)`, four ints in pixels from the top left corner. It is
            half-open, `image[y_min:y_max, x_min:x_max]`, and tight: the object covers a part of
            the box's first and last row and column, and of no pixel outside.
    """

    shape: str
    color: str
    size: str
    box: tuple[int, int, int, int]

    @property
    def phrase(self):
        """The words that name the object, such as "a small red circle"."""
        return f"a {self.size} {self.color} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture, what is said about it and what is in it.

    Attributes:
        image: uint8, `(IMAGE_SIZE, IMAGE_SIZE, 3)`, RGB.
        captions: list of five differently worded str, lowercase and without punctuation.
        objects: list of one to three `SceneObject`, in the order of their centres' `y + x`. No two
            have the same shape and colour, so a phrase names one object.
    """

    image: np.ndarray
    captions: list[str]
    objects: list[SceneObject]


def draw_scene(rng):
    """Draws a random scene and words its captions.

    Args:
        rng: `numpy.random.Generator`, the only source of chance: equal states give equal scenes.

    Returns:
        A `Scene`.

    Example:
    ```python
    import numpy as np
    from keras_showattend.datasets import shape_scenes

    scene = shape_scenes.draw_scene(np.random.default_rng(0))
    scene.image.shape  # (128, 128, 3)
    scene.captions[0]  # such as "a small red circle above a large blue square"
    ```
    """
    objects = _choose_objects(rng)
    image = _background(rng)
    for item in objects:
        variation = rng.integers(-COLOR_VARIATION, COLOR_VARIATION, size=3, endpoint=True)
        paint(image, item, np.asarray(COLORS[item.color]) + variation)
    image += NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(image=image, captions=wording.write_captions(rng, objects), objects=objects)


def paint(image, item, color):
    """Paints one object into `image`, in place.

    Args:
        image: float, `(height, width, 3)`.
        item: `SceneObject`; its `shape` and `box` say what and where.
        color: Three numbers from 0 to 255.
    """
    top, left, bottom, right = item.box
    # (side, side, 1), so that it spreads over the three channels.
    opacity = coverage(item.shape, bottom - top)[:, :, None]
    patch = image[top:bottom, left:right]
    patch += opacity * (color - patch)


@functools.cache
def coverage(shape, side):
    """The share of each pixel that a shape covers when it fills a square box.

    It is computed from inequalities rather than by a drawing library, whose next version may
    round an edge in another way: the same seed is to give the same pixels for years.

    Args:
        shape: str, one of `SHAPES`.
        side: int, the box's side in pixels.

    Returns:
        float64, `(side, side)`, from 0 to 1. Read-only, because it is kept for the next object.
    """
    samples = side * SUPERSAMPLING
    # The centres of the samples, the box being the unit square.
    position = (np.arange(samples) + 0.5) / samples
    inside = _INSIDE[shape](position[:, None], position[None, :])
    grid = np.broadcast_to(inside, (samples, samples)).reshape(side, SUPERSAMPLING, side, SUPERSAMPLING)
    share = grid.mean(axis=(1, 3))
    share.flags.writeable = False
    return share


def _in_circle(y, x):
    return (y - 0.5) ** 2 + (x - 0.5) ** 2 <= 0.25


def _in_square(y, x):
    return np.ones(np.broadcast_shapes(y.shape, x.shape), bool)


def _in_triangle(y, x):
    return y >= 2 * np.abs(x - 0.5)


def _in_star(y, x):
    # A pentagram of radius 1 whose upper tip touches the top, stretched to fill the unit square:
    # its width is 2 cos 18 and its height 1 + cos 36 degrees.
    x = (x - 0.5) * 2 * math.cos(math.pi / 10)
    y = y * (1 + math.cos(math.pi / 5)) - 1
    # Five lines bound it; a point of the star is on the inner side of at least four of them.
    distance = math.cos(2 * math.pi / 5)
    sides_held = 0
    for k in range(5):
        angle = -math.pi / 2 + 2 * math.pi * k / 5
        sides_held = sides_held + (x * math.cos(angle) + y * math.sin(angle) <= distance)
    return sides_held >= 4


_INSIDE = {
    "circle": _in_circle,
    "square": _in_square,
    "triangle": _in_triangle,
    "star": _in_star,
}


def _choose_objects(rng):
    """Chooses what is in the scene and where."""
    count = rng.choice(OBJECT_COUNTS)
    kinds = list(itertools.product(COLORS, SHAPES))
    chosen = [kinds[i] for i in rng.choice(len(kinds), size=count, replace=False)]
    sizes = [str(size) for size in rng.choice(list(SIZES), size=count)]
    sides = [int(rng.integers(*SIZES[size], endpoint=True)) for size in sizes]
    boxes = _place(rng, sides)
    objects = [
        SceneObject(shape=shape, color=color, size=size, box=box)
        for (color, shape), size, box in zip(chosen, sizes, boxes, strict=True)
    ]
    # Of two objects, the upper or the left one has the smaller y + x: the dominant axis decides
    # the sign of the sum. So three objects, too, have one order that agrees with every relation.
    return sorted(objects, key=lambda item: sum(item.box))


def _place(rng, sides):
    """Draws boxes of the given sides until they keep apart and stand in clear relations."""
    while True:
        boxes = []
        for side in sides:
            last = IMAGE_SIZE - MARGIN - side
            top, left = (int(c) for c in rng.integers(MARGIN, last, size=2, endpoint=True))
            boxes.append((top, left, top + side, left + side))
        if all(_well_placed(a, b) for a, b in itertools.combinations(boxes, 2)):
            return boxes


def _well_placed(first, second):
    # The gap along an axis is negative where the boxes overlap on it.
    gap_y = max(first[0], second[0]) - min(first[2], second[2])
    gap_x = max(first[1], second[1]) - min(first[3], second[3])
    down, right = wording.offset(first, second)
    return max(gap_y, gap_x) >= MARGIN and abs(abs(down) - abs(right)) >= CLARITY


def _background(rng):
    """A light grey ground with soft clouds; float64, `(IMAGE_SIZE, IMAGE_SIZE, 3)`."""
    level = rng.uniform(*BACKGROUND_LEVEL)
    knots = rng.standard_normal((CLOUDS + 1, CLOUDS + 1))
    stretch = _interpolation()
    grey = level + CLOUD_STRENGTH * (stretch @ knots @ stretch.T)
    return np.repeat(grey[:, :, None], 3, axis=2)


@functools.cache
def _interpolation():
    """The matrix, `(IMAGE_SIZE, CLOUDS + 1)`, that interpolates linearly between the knots."""
    position = np.linspace(0, CLOUDS, IMAGE_SIZE)
    matrix = np.clip(1 - np.abs(position[:, None] - np.arange(CLOUDS + 1)), 0, 1)
    matrix.flags.writeable = False
    return matrix
