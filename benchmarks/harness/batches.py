"""Batches like those of a real epoch: caption lengths drawn one by one, gathered in buckets."""

from typing import NamedTuple

import numpy as np

from keras_showattend.features.batches import choose_bucket_lengths

_START, _END, _FIRST_WORD = 2, 3, 4
_IMAGES = 24_000
_SHORTEST = 10  # tokens; hardly a caption of COCO has fewer than eight words


class Bucket(NamedTuple):
    """One of the shapes that an epoch takes."""

    length: int  # T, tokens of every caption in it, padding included
    share: float  # of the epoch's captions
    tokens: np.ndarray  # int32, a batch of it: (N, T) or (N, G, T)


def draw_lengths(sizes, count, generator):
    """Tokens of each caption: a negative binomial above the shortest, the shape of COCO's histogram."""
    shortest = min(_SHORTEST, int(sizes.mean_length) - 1)
    excess = sizes.mean_length - shortest
    lengths = shortest + generator.negative_binomial(excess, 0.5, count)
    return np.minimum(lengths, sizes.longest)


def epoch_buckets(sizes, captions_per_image, seed=0):
    """The buckets of an epoch, with a batch of `sizes.batch_size` captions (to the next image) for each.

    Captions of an image stay together, so that its longest decides the bucket of all of them.

    Args:
        sizes: `Sizes`.
        captions_per_image: Int G, or None for one caption an example, in a batch `(N, T)`.
        seed: Int.
    """
    generator = np.random.default_rng(seed)
    group = captions_per_image or 1
    # One by one, the captions of all images are as many examples.
    examples = _IMAGES * sizes.captions_per_image // group
    lengths = draw_lengths(sizes, examples * group, generator).reshape(examples, group)
    # Some caption of the data set is the longest.
    lengths[0, 0] = sizes.longest
    longest = lengths.max(axis=1)
    rows = -(-sizes.batch_size // group)
    edges = choose_bucket_lengths(longest, rows)
    bucket_of = np.searchsorted(edges, longest)
    buckets = []
    for index, edge in enumerate(edges):
        members = np.flatnonzero(bucket_of == index)
        chosen = lengths[generator.choice(members, rows)]
        tokens = write_tokens(chosen, int(edge), sizes.vocabulary, generator)
        if captions_per_image is None:
            tokens = tokens[:, 0]
        buckets.append(Bucket(int(edge), len(members) / examples, tokens))
    return buckets


def padded_batch(sizes, seed=0):
    """One bucket of all captions, padded to the longest of the data set, as the notebook did."""
    generator = np.random.default_rng(seed)
    lengths = draw_lengths(sizes, sizes.batch_size, generator)
    return [Bucket(sizes.longest, 1.0, write_tokens(lengths, sizes.longest, sizes.vocabulary, generator))]


def write_tokens(lengths, width, vocabulary, generator):
    """Random captions `(..., width)` with these numbers of tokens: start, words, end, padding."""
    tokens = generator.integers(_FIRST_WORD, vocabulary, (*lengths.shape, width)).astype("int32")
    place = np.arange(width)
    last = lengths[..., None] - 1
    tokens = np.where(place == last, _END, np.where(place > last, 0, tokens))
    tokens[..., 0] = _START
    return tokens.astype("int32")


def lost_to_padding(buckets):
    """The share of an epoch's steps that read or predict nothing but padding."""
    steps = sum(bucket.share * (bucket.length - 1) for bucket in buckets)
    real = sum(bucket.share * np.mean((bucket.tokens[..., 1:] != 0).sum(-1)) for bucket in buckets)
    return 1 - real / steps


def features_of(sizes, images, seed=0):
    """Random features `(N, L, D)`, positive as behind a ReLU; after some images they repeat."""
    generator = np.random.default_rng(seed)
    # Drawing features for thousands of images would take longer than training on them.
    features = generator.standard_normal((min(images, 64), sizes.locations, sizes.feature_width), dtype="float32")
    return np.resize(np.abs(features), (images, sizes.locations, sizes.feature_width))
