"""Sweeps: one size at a time takes other values, the others keep those of the base."""

import argparse

import numpy as np

from harness.batches import Bucket, write_tokens

# Fields of `Sizes`.
LABELS = {
    "batch_size": "B, captions",
    "longest": "T, tokens",
    "locations": "L, locations",
    "units": "U, units",
    "vocabulary": "V, vocabulary",
}
SYMBOLS = {field: label[0] for field, label in LABELS.items()}
_FLAGS = {
    "batch_size": "--sweep-batches",
    "longest": "--sweep-lengths",
    "locations": "--sweep-locations",
    "units": "--sweep-units",
    "vocabulary": "--sweep-vocabularies",
}
_LEAST = {"longest": 2, "vocabulary": 5}  # 1 for the others


def add_sweep_flags(parser, **defaults):
    """Give an `argparse` parser a flag for the sweep of each field of `Sizes` that `defaults` gives values of."""
    for field, values in defaults.items():
        parser.add_argument(
            _FLAGS[field],
            type=_at_least(_LEAST.get(field, 1)),
            nargs="*",
            dest=f"sweep_{field}",
            default=values,
            metavar=SYMBOLS[field],
            help=f"none leaves this sweep out (default {' '.join(map(str, values))})",
        )


def sweeps_from(arguments, base):
    """`{field: [Sizes, ...]}` of parsed flags, in ascending order, without the sweeps that have no values."""
    sweeps = {}
    for field in SYMBOLS:
        values = sorted(set(getattr(arguments, f"sweep_{field}", ())))
        if values:
            sweeps[field] = [full_captions(base._replace(**{field: value})) for value in values]
    return sweeps


def full_captions(sizes):
    """`sizes` for captions that are all as long as the longest."""
    return sizes._replace(mean_length=float(sizes.longest))


def full_batch(sizes, captions_per_image=None, seed=0):
    """A batch of captions that all have `sizes.longest` tokens: no step of it is padding.

    Args:
        sizes: `Sizes`.
        captions_per_image: Int G for a batch `(N, G, T)` of `sizes.batch_size` captions to the next image; None
            for `(N, T)`.
        seed: Int.

    Returns:
        A `Bucket`.
    """
    shape = batch_shape(sizes, captions_per_image)
    generator = np.random.default_rng(seed)
    lengths = np.full(shape, sizes.longest)
    return Bucket(sizes.longest, 1.0, write_tokens(lengths, sizes.longest, sizes.vocabulary, generator))


def batch_shape(sizes, captions_per_image=None):
    """`(N, G)`, or `(N,)` where `captions_per_image` is None."""
    if captions_per_image is None:
        return (sizes.batch_size,)
    return (-(-sizes.batch_size // captions_per_image), captions_per_image)


def _at_least(least):
    def parse(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}. Received: {value}.")
        return value

    parse.__name__ = "int"  # argparse names it where the text is no number
    return parse
