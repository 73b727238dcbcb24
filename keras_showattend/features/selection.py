"""Which of the examples a feature store lacks, each of them checked."""

import numpy as np

from keras_showattend.features.manifest import is_image_id
from keras_showattend.validation import check_positive_integer


def check_options(batch_size, shard_size, on_error):
    """Raises a ValueError unless the options of a build are what `FeatureStore.build` documents."""
    check_positive_integer("batch_size", batch_size)
    check_positive_integer("shard_size", shard_size)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"`on_error` must be 'raise' or 'skip'. Received: on_error={on_error!r}.")


def select_new(examples, folder, stored, skipped, try_again, order):
    """Checks the examples and gives those that a store lacks.

    Args:
        examples: Iterable of examples.
        folder: Path of the store, for messages.
        stored: `{image_id: captions}` of the images in the store.
        skipped: Ids of the images that could not be read before.
        try_again: Function of such an image: whether it is to be computed now.
        order: List that gets the ids of all examples.

    Yields:
        `(image_id, image, captions)`.

    Raises:
        ValueError: If there is no example, one is not as `FeatureStore.build` describes it, an id occurs twice, or
            the store holds other captions.
    """
    seen, again = set(), []
    for position, example in enumerate(examples):
        image_id, captions = _check_example(example, position)
        if image_id in seen:
            raise ValueError(f"Each `image_id` may occur once in `examples`. Received: {image_id!r} twice.")
        if stored.get(image_id, captions) != captions:
            raise ValueError(
                f"The captions of image_id={image_id!r} differ from those in the store at "
                f"{folder!r}: build the store in another folder. "
                f"Received: {captions}, stored: {stored[image_id]}."
            )
        seen.add(image_id)
        order.append(image_id)
        if image_id in skipped:
            again.append((image_id, example["image"], captions))
        elif image_id not in stored:
            yield image_id, example["image"], captions
    if not order:
        raise ValueError("`examples` must hold at least one image. Received: none.")
    # Images that were skipped before come last, so that the shards are those of a build without interruption.
    yield from (example for example in again if try_again(example[1]))


def readable(order, skipped):
    """The ids of `order` without those in `skipped`, which maps them to reasons.

    Raises:
        ValueError: If there is none.
    """
    present = [image_id for image_id in order if image_id not in skipped]
    if not present:
        raise ValueError(f"None of the {len(order)} images could be read. The first reason: {skipped[order[0]]}")
    return present


def _check_example(example, position):
    """Id and captions of an example, as JSON will give them back."""
    if not isinstance(example, dict) or not {"image_id", "image", "captions"} <= set(example):
        raise ValueError(
            "Each of `examples` must be a dict with `image_id`, `image` and `captions`. "
            f"Received at position {position}: "
            f"{sorted(example) if isinstance(example, dict) else type(example).__name__}."
        )
    image_id, captions = example["image_id"], example["captions"]
    if isinstance(image_id, np.integer):
        image_id = int(image_id)
    if not is_image_id(image_id):
        raise ValueError(
            "`image_id` must be an integer or a string. Received at position "
            f"{position}: image_id={image_id!r} (type {type(image_id).__name__})."
        )
    is_list = isinstance(captions, (list, tuple, np.ndarray))
    if not is_list or not all(isinstance(text, str) for text in captions):
        raise ValueError(
            f"`captions` must be a list of strings. Received: captions={captions!r} of image_id={image_id!r}."
        )
    captions = [str(text) for text in captions]
    if not captions or not all(text.strip() for text in captions):
        raise ValueError(
            "Each image must have at least one caption, and none of them blank. "
            f"Received: captions={captions} of image_id={image_id!r}."
        )
    return image_id, captions
