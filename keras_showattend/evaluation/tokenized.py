"""What is compared, checked and split into words: a caption and its references for every image."""

from typing import NamedTuple

from keras_showattend.evaluation.tokenization import tokenize as coco_words


class Tokenized(NamedTuple):
    """Captions and references of N images, each caption a list of str."""

    image_ids: list
    captions: list  # N captions
    references: list  # N lists of captions


def tokenize_pairs(captions, references, tokenize=coco_words):
    """Checks captions and references and splits them.

    Args:
        captions: `{image_id: str}`, or a list of str.
        references: `{image_id: list of str}` of the same images, or a list of lists of str in the same order.
        tokenize: Function from a str to a list of str.

    Returns:
        `Tokenized`, in the order of `captions`; the ids of lists are their positions.

    Raises:
        ValueError: If an argument is not as described, captions and references are not of the same images, an image
            has no reference, or a reference has no words.
    """
    captions = by_id("captions", captions)
    references = by_id("references", references)
    if not captions:
        raise ValueError("`captions` must hold at least one caption. Received: none.")
    _check_same_images(captions, references)
    return Tokenized(
        list(captions),
        [words_of("captions", image_id, caption, tokenize) for image_id, caption in captions.items()],
        [reference_words("references", image_id, references[image_id], tokenize) for image_id in captions],
    )


def by_id(name, value):
    """A dict by image id; a list gets its positions for ids."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    raise ValueError(f"`{name}` must be a dict by image id or a list. Received: {name} of type {type(value).__name__}.")


def words_of(name, image_id, caption, tokenize):
    """The words of one caption."""
    if not isinstance(caption, str):
        raise ValueError(
            f"Each of `{name}` must be a str. Received: {caption!r:.100} (type {type(caption).__name__}) for "
            f"image_id={image_id!r}."
        )
    return tokenize(caption)


def reference_words(name, image_id, captions, tokenize):
    """The words of each reference of one image: at least one reference, none without words."""
    if not isinstance(captions, list | tuple) or not captions:
        raise ValueError(
            f"`{name}` must hold a list of at least one str for each image. Received: {captions!r:.100} for "
            f"image_id={image_id!r}."
        )
    words = [words_of(name, image_id, caption, tokenize) for caption in captions]
    if not all(words):
        empty = captions[next(i for i, caption in enumerate(words) if not caption)]
        raise ValueError(f"Each of `{name}` must have words. Received: {empty!r} for image_id={image_id!r}.")
    return words


def _check_same_images(captions, references):
    without_reference = [image_id for image_id in captions if image_id not in references]
    without_caption = [image_id for image_id in references if image_id not in captions]
    if without_reference or without_caption:
        raise ValueError(
            "`captions` and `references` must be of the same images. Received: "
            f"{_counted(without_reference)} without references, {_counted(without_caption)} without a caption."
        )


def _counted(image_ids):
    named = f" (the first: {', '.join(map(repr, image_ids[:3]))})" if image_ids else ""
    return f"{len(image_ids)} image{'' if len(image_ids) == 1 else 's'}{named}"
