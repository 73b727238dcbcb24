"""The sizes of a benchmark: flags, and what they will need of memory."""

import os
from typing import NamedTuple

import numpy as np

_FLOAT = 4  # bytes


class Sizes(NamedTuple):
    """The shapes of a training step; the defaults are those of the 2018 notebook on COCO."""

    batch_size: int = 64  # captions in a batch
    locations: int = 64  # L, an 8 x 8 grid
    feature_width: int = 2048  # D
    embed_dim: int = 256  # E
    units: int = 512  # U, also the width of the scoring space
    vocabulary: int = 5001  # V
    captions_per_image: int = 5  # G, where the captions of an image stand together
    mean_length: float = 12.5  # tokens of a caption, start and end included
    longest: int = 51  # tokens of the data set's longest caption

    def parameters(self):
        """The number of trainable numbers."""
        e, u, v = self.embed_dim, self.units, self.vocabulary
        encoder = self.feature_width * e + e
        attention = e * u + u + u * u + u + u + 1
        gru = (2 * e + u) * 3 * u + 6 * u
        return encoder + v * e + attention + gru + u * u + u + u * v + v

    def bytes_of_step(self, images, captions, length, keeps_hidden):
        """An estimate of the memory of one training step, float32.

        Args:
            images: Int, rows of features.
            captions: Int, captions in the batch.
            length: Int, tokens of a caption.
            keeps_hidden: Whether every step's tanh `(captions, L, U)` is kept for the backward pass.
        """
        features = images * self.locations * (self.feature_width + 3 * self.embed_dim + 3 * self.units)
        per_token = 4 * self.vocabulary + 30 * self.units + 4 * self.locations
        hidden = self.locations * self.units * (2 * length if keeps_hidden else 3)
        numbers = features + captions * (length * per_token + hidden) + 5 * self.parameters()
        return _FLOAT * numbers


def add_size_flags(parser, **defaults):
    """Give an `argparse` parser one flag for each size."""
    for name, default in Sizes(**defaults)._asdict().items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, help="default %(default)s")


def sizes_from(parser, arguments):
    """The `Sizes` of parsed flags; ends the program with a clear message where one makes no sense."""
    sizes = Sizes(**{name: getattr(arguments, name) for name in Sizes._fields})
    for name, value in sizes._asdict().items():
        if not (np.isfinite(value) and value >= 1):
            parser.error(f"--{name.replace('_', '-')} must be at least 1. Received: {value}.")
    if not 4 <= sizes.mean_length <= sizes.longest:
        parser.error(
            "--mean-length must lie between 4 and --longest. "
            f"Received: --mean-length {sizes.mean_length} --longest {sizes.longest}."
        )
    if sizes.vocabulary < 5:
        parser.error(
            f"--vocabulary must leave room for a word beside the four special ones. Received: {sizes.vocabulary}."
        )
    return sizes


def available_bytes():
    """Memory that is free for a program, or None where the system doesn't tell."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def refuse_what_does_not_fit(parser, needed, what):
    """End the program before anything is allocated where `needed` bytes are more than there are."""
    free = available_bytes()
    if free is not None and needed > free:
        parser.error(
            f"{what} would need about {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. "
            "Make --batch-size, --locations, --units or --vocabulary smaller."
        )
