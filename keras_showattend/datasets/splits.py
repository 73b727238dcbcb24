"""Splits by image: the captions of one image are all on one side."""

import collections.abc
import itertools
import math

import numpy as np

from keras_showattend.datasets.seeds import check_seed


def split_by_image(image_ids, fractions=None, seed=0):
    """Splits captions, or examples, so that no image is in two splits.

    scikit-learn's `GroupShuffleSplit` draws the images. A split's share is counted in images, not
    in captions, and each split gets at least one.

    Args:
        image_ids: Sequence of N image ids (int or str), one for each caption, an id as often as
            the image has captions; or N examples with an `"image_id"`.
        fractions: dict from each split's name to its share of the images, between 0 and 1, adding
            up to 1. Defaults to `{"train": 0.8, "validation": 0.2}`.
        seed: Non-negative int; equal seeds give equal splits.

    Returns:
        dict from each split's name to an int64 array of indices into `image_ids`, ascending. Each
        index is in one of them.

    Raises:
        ValueError: If there are fewer than two splits, a fraction lies outside (0, 1), they don't
            add up to 1, or there are fewer images than splits.
        ImportError: If scikit-learn isn't installed.

    Example:
    ```python
    from keras_showattend.datasets import split_by_image

    # Two captions of image 7, two of image 8, one of image 9.
    splits = split_by_image([7, 7, 8, 8, 9], {"train": 0.7, "validation": 0.3})
    splits["train"]  # four or three captions, of two images
    ```
    """
    from sklearn.model_selection import GroupShuffleSplit

    fractions = {"train": 0.8, "validation": 0.2} if fractions is None else dict(fractions)
    seed = check_seed(seed)
    _check_fractions(fractions)
    image_ids = [_image_id(item) for item in image_ids]
    # A number for each image, in the order of appearance: ids need not be comparable.
    numbers = {}
    groups = np.array([numbers.setdefault(image_id, len(numbers)) for image_id in image_ids])
    if len(numbers) < len(fractions):
        raise ValueError(
            "`image_ids` must hold at least one image for each split. "
            f"Received: {len(numbers)} images for the {len(fractions)} splits {list(fractions)}."
        )

    splits = {}
    rest = np.arange(len(image_ids))
    names = list(fractions)
    images_wanted = _counts(list(fractions.values()), len(numbers))
    for position, name in enumerate(names[:-1]):
        splitter = GroupShuffleSplit(
            n_splits=1,
            train_size=images_wanted[position],
            test_size=sum(images_wanted[position + 1 :]),
            random_state=seed,
        )
        chosen, others = next(splitter.split(rest, groups=groups[rest]))
        splits[name], rest = np.sort(rest[chosen]), np.sort(rest[others])
    splits[names[-1]] = rest

    for first, second in itertools.combinations(splits.values(), 2):
        check_disjoint([image_ids[i] for i in first], [image_ids[i] for i in second])
    return splits


def check_disjoint(train_ids, validation_ids):
    """Raises if two splits share an image.

    Args:
        train_ids: Image ids (int or str), repeats allowed, or examples with an `"image_id"`.
        validation_ids: Likewise.

    Raises:
        ValueError: If an image is in both; the message gives their number and a few of them.

    Example:
    ```python
    from keras_showattend.datasets import check_disjoint

    check_disjoint([1, 1, 2], [3])  # Nothing happens.
    ```
    """
    validation_ids = {_image_id(item) for item in validation_ids}
    # A dict keeps the order and drops the repeats.
    train_ids = dict.fromkeys(_image_id(item) for item in train_ids)
    shared = [image_id for image_id in train_ids if image_id in validation_ids]
    if shared:
        shown = ", ".join(repr(image_id) for image_id in shared[:5])
        raise ValueError(
            "`train_ids` and `validation_ids` must share no image. "
            f"Received: {len(shared)} of the {len(train_ids)} training images are in both: "
            f"{shown}{', ...' if len(shared) > 5 else ''}."
        )


def _image_id(item):
    image_id = item["image_id"] if isinstance(item, collections.abc.Mapping) else item
    # NumPy's own scalars would show as np.int64(7) in a message.
    return image_id.item() if isinstance(image_id, np.generic) else image_id


def _check_fractions(fractions):
    if len(fractions) < 2:
        raise ValueError(f"`fractions` must name at least two splits. Received: fractions={fractions}.")
    # The negation refuses NaN, too.
    if not all(0 < fraction < 1 for fraction in fractions.values()):
        raise ValueError(f"`fractions` must lie between 0 and 1, both excluded. Received: fractions={fractions}.")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise ValueError(
            f"`fractions` must add up to 1. Received: fractions={fractions}, whose sum is {sum(fractions.values()):g}."
        )


def _counts(fractions, total):
    """How many of `total` images each split gets: rounded, at least 1, and `total` together."""
    wanted = np.array(fractions) * total
    counts = np.maximum(1, np.floor(wanted).astype(int))
    while counts.sum() != total:
        # The split furthest below its share gives or takes an image; one image is never taken.
        step = 1 if counts.sum() < total else -1
        distance = np.where((step < 0) & (counts == 1), -np.inf, step * (wanted - counts))
        counts[distance.argmax()] += step
    return counts.tolist()
