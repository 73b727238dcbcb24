"""Caption your own photographs with a saved captioner, and draw where it looked at each word.

    python examples/caption_images.py runs/shapes/captioner.keras photograph.jpg https://example.org/other.png

For each image a line is printed, and a picture NAME-attention.png is written into the output folder.
"""

import argparse
import collections
import urllib.parse
from pathlib import Path

import keras

import keras_showattend
from keras_showattend.features import read_image


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .keras file of a Captioner")
    parser.add_argument("images", nargs="+", help="paths or http(s) addresses of JPEG or PNG files")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for the pictures")
    parser.add_argument("--max-length", type=int, help="the most words to write")
    return parser.parse_args(arguments)


def load_captioner(path):
    """Load a captioner that can caption photographs, or say what the file is instead."""
    if not path.is_file():
        raise SystemExit(f"There is no file {path}.")
    try:
        captioner = keras.models.load_model(path)
    except (TypeError, ValueError, OSError) as error:
        raise SystemExit(f"{path} is not a captioner of keras_showattend: {error}") from error
    if not isinstance(captioner, keras_showattend.Captioner):
        raise SystemExit(f"{path} holds a {type(captioner).__name__}, not a captioner of keras_showattend.")
    if captioner.feature_extractor is None or captioner.tokenizer is None:
        raise SystemExit(f"{path} was saved without a feature extractor or without a tokenizer, so it takes no images.")
    return captioner


def fetch(image):
    """The path of an image; one on the web is downloaded once, into Keras's cache."""
    address = urllib.parse.urlparse(image)
    if address.scheme not in ("http", "https"):
        return image
    return keras.utils.get_file(origin=image, cache_subdir="images")


def caption(captioner, image, max_length=None):
    """One photograph: its caption, and the figure of what was looked at."""
    pixels = read_image(fetch(image))
    generation = captioner.generate(captioner.feature_extractor.load_image(pixels)[None], max_length=max_length)
    words = generation.texts[0].split()
    attention = generation.attention[0][: len(words)]
    if not words:
        return "", None
    return generation.texts[0], keras_showattend.visualization.plot_attention(
        pixels, words, attention, grid=captioner.grid
    )


def main(arguments=None):
    options = parse_arguments(arguments)
    captioner = load_captioner(options.model)
    options.output.mkdir(parents=True, exist_ok=True)
    failed, names = 0, collections.Counter()
    for image in options.images:
        try:
            text, figure = caption(captioner, image, options.max_length)
        except (OSError, ValueError) as error:
            # One broken file does not take the others along.
            print(f"{image}: {error}")
            failed += 1
            continue
        print(f"{image}: {text or '(no words)'}")
        if figure is not None:
            name = Path(urllib.parse.urlparse(image).path).stem
            names[name] += 1
            # Two files of one name, from two folders, get a picture each.
            name = name if names[name] == 1 else f"{name}-{names[name]}"
            figure.savefig(options.output / f"{name}-attention.png")
    if failed:
        raise SystemExit(f"{failed} of {len(options.images)} images could not be captioned.")


if __name__ == "__main__":
    main()
