"""Measures where the attention of a caption falls: does "a small red circle" look at the circle?"""

import dataclasses

import numpy as np

from keras_showattend.datasets.shape_scenes.drawing import COLORS, SHAPES, SIZES
from keras_showattend.validation import check_positive_integer


@dataclasses.dataclass(frozen=True)
class Phrase:
    """The words `start` to `stop` of a caption, half-open, that name one object.

    Attributes:
        start: int, the index of the first word, the article where there is one.
        stop: int, one past the index of the shape's word.
        size: str, a key of `SIZES`, or None where the caption states no size.
        color: str, a key of `COLORS`.
        shape: str, one of `SHAPES`.
    """

    start: int
    stop: int
    size: str | None
    color: str
    shape: str


@dataclasses.dataclass(frozen=True)
class PointingReport:
    """What `pointing_report` found. A share of nothing is 0, so that the figures stay numbers.

    Attributes:
        phrases: int, how many objects the captions mention.
        named_correctly: float, the share of the phrases whose colour and shape are those of an
            object in the picture.
        size_correctly: float, of the correctly named phrases that state a size, the share that
            state the object's.
        pointed_inside: float, the share of the correctly named phrases whose attention is highest
            inside the object's box.
        chance: float, what pointing at random locations would give for `pointed_inside`.
    """

    phrases: int
    named_correctly: float
    size_correctly: float
    pointed_inside: float
    chance: float


def find_phrases(words):
    """Finds the phrases of the form `[a] [small|large] COLOUR SHAPE`.

    Args:
        words: list of str, the words of one caption.

    Returns:
        list of `Phrase`, in the order of the words. A colour without a shape right after it, or a
        shape without a colour right before it, is no phrase.

    Example:
    ```python
    from keras_showattend.datasets import shape_scenes

    shape_scenes.find_phrases("there is a small red circle".split())
    # [Phrase(start=2, stop=6, size="small", color="red", shape="circle")]
    ```
    """
    phrases = []
    for i in range(len(words) - 1):
        color, shape = words[i], words[i + 1]
        if color not in COLORS or shape not in SHAPES:
            continue
        start = i
        size = words[start - 1] if start > 0 and words[start - 1] in SIZES else None
        if size is not None:
            start -= 1
        if start > 0 and words[start - 1] == "a":
            start -= 1
        phrases.append(Phrase(start=start, stop=i + 2, size=size, color=color, shape=shape))
    return phrases


def pointing_report(captions, attention, examples, grid):
    """Says how often captions name what is in the picture, and look at it while they do.

    For each phrase the attention is summed over its words, the article included. It points inside
    where the location with the highest sum has its centre in the object's box; the grid is laid
    over the whole picture. A phrase whose words have no attention at all points nowhere.

    Where the locations are larger than the objects, a box may hold no centre. Pointing inside it
    is impossible then, and `chance` counts 0 for it.

    Args:
        captions: N captions, each a str or a list of words.
        attention: Float, `(N, T, L)`: `attention[n, t]` are the weights at word `t` of caption
            `n`, the locations in row-major order. T is at least the number of words.
        examples: N examples of `load_scenes`, of which `"image"` and `"objects"` are read.
        grid: `(rows, columns)`, two positive ints whose product is L.

    Returns:
        A `PointingReport`.

    Raises:
        ValueError: If the arguments differ in N, `attention` isn't of rank 3 or isn't finite, a
            caption has more than T words, or `grid` isn't two positive ints with the product L.

    Example:
    ```python
    import numpy as np
    from keras_showattend.datasets import shape_scenes

    scenes = shape_scenes.load_scenes("validation", count=4)
    captions = [scene["captions"][0] for scene in scenes]
    attention = np.full((4, 20, 64), 1 / 64)
    shape_scenes.pointing_report(captions, attention, scenes, grid=(8, 8)).named_correctly  # 1.0
    ```
    """
    attention, grid = _check_arguments(captions, attention, examples, grid)
    count, sizes_right, inside, chances = 0, [], [], []
    for caption, weights, example in zip(captions, attention, examples, strict=True):
        words = _words(caption)
        if len(words) > len(weights):
            raise ValueError(
                "`attention` must have a row for each word of a caption. "
                f"Received: {len(weights)} rows for the {len(words)} words of {' '.join(words)!r}."
            )
        objects = {(item["color"], item["shape"]): item for item in example["objects"]}
        for phrase in find_phrases(words):
            count += 1
            item = objects.get((phrase.color, phrase.shape))
            if item is None:
                continue
            if phrase.size is not None:
                sizes_right.append(phrase.size == item["size"])
            hits = _locations_inside(item["box"], np.shape(example["image"])[:2], grid)
            looked_at = weights[phrase.start : phrase.stop].sum(axis=0)
            inside.append(bool(looked_at.any()) and bool(hits[looked_at.argmax()]))
            chances.append(hits.mean())
    return PointingReport(
        phrases=count,
        named_correctly=len(inside) / count if count else 0.0,
        size_correctly=_mean(sizes_right),
        pointed_inside=_mean(inside),
        chance=_mean(chances),
    )


def _check_arguments(captions, attention, examples, grid):
    attention = np.asarray(attention)
    if attention.ndim != 3:
        raise ValueError(
            f"`attention` must be of shape (captions, words, locations). Received: attention.shape={attention.shape}."
        )
    # Half precision would tie or lose small weights when they are summed.
    attention = attention.astype(np.float64)
    if not np.isfinite(attention).all():
        raise ValueError("`attention` must be finite. Received: NaN or infinity in it.")
    if not len(captions) == len(attention) == len(examples):
        raise ValueError(
            "`captions`, `attention` and `examples` must have the same length. "
            f"Received: {len(captions)}, {len(attention)} and {len(examples)}."
        )
    if len(grid) != 2:
        raise ValueError(f"`grid` must be (rows, columns). Received: grid={grid!r}.")
    grid = tuple(check_positive_integer("grid", side) for side in grid)
    if grid[0] * grid[1] != attention.shape[-1]:
        raise ValueError(
            "`grid` must have as many locations as `attention`. "
            f"Received: grid={grid} and attention.shape={attention.shape}."
        )
    return attention, grid


def _words(caption):
    return caption.split() if isinstance(caption, str) else list(caption)


def _locations_inside(box, image_size, grid):
    """Whether the centre of each location lies in the box; bool, `(L,)`."""
    y_min, x_min, y_max, x_max = box
    # Centres in pixels, where pixel i spans i to i + 1.
    y, x = ((np.arange(count) + 0.5) * length / count for count, length in zip(grid, image_size, strict=True))
    return np.logical_and.outer((y_min <= y) & (y < y_max), (x_min <= x) & (x < x_max)).ravel()


def _mean(values):
    return float(np.mean(values)) if values else 0.0
