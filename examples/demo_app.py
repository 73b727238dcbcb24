"""A page where visitors caption their own photographs and see where the model looked at each word.

    pip install 'keras-showattend[demo]'
    python examples/demo_app.py runs/shapes/captioner.keras

Then open http://127.0.0.1:7860. `--host 0.0.0.0` lets other machines in. No network is needed, and nothing is sent to
anyone. An uploaded file is deleted as soon as it is read; a small copy of the photograph stays in memory for five
minutes, so that it can be captioned again with another beam width. One caption is written at a time; visitors wait in
a queue, and those whom it can't hold are asked to come back.
"""

import argparse
import contextlib
import dataclasses
import html
import io
import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
from caption_images import load_captioner
from PIL import Image, UnidentifiedImageError

from keras_showattend.decoding import BeamSearch
from keras_showattend.features import read_image
from keras_showattend.visualization import attention_page

# Pillow opens many more formats, some of which run other programs: visitors get only these.
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 10 * 2**20
# What telephones take; decoded, 150 MB.
MAX_PIXELS = 50_000_000
# Enough for the page, and little to keep.
SHOWN_SIDE = 512
MAX_WIDTH = 10
WAITING = 100
REMEMBERED_SECONDS = 300
# Of the frame of the result: its own script may run, and nothing else that a page could do.
FRAME = 'sandbox="allow-scripts" style="width: 100%; height: 44rem; border: 0"'


class RefusedError(ValueError):
    """What the visitor gave can't be captioned; the message is a sentence for the visitor."""


@dataclasses.dataclass(frozen=True)
class Photograph:
    """What is kept of an upload: `inputs`, float32 as the model takes it, and `shown`, uint8, both `(H, W, 3)`."""

    inputs: np.ndarray
    shown: np.ndarray


@dataclasses.dataclass(frozen=True)
class Captions:
    """K captions, the best first, their log-probabilities, and the HTML page that shows their attention."""

    texts: list
    scores: list
    page: str


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .keras file of a Captioner")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=7860)
    return parser.parse_args(arguments)


def read_photograph(captioner, data):
    """The photograph in the bytes of an image file, or a `RefusedError` that tells the visitor what is wrong."""
    if not data:
        raise RefusedError("There is no photograph yet: drop a JPEG, PNG or WebP file first.")
    if len(data) > MAX_BYTES:
        raise RefusedError(f"The file is larger than {MAX_BYTES // 2**20} MB. Please send a smaller one.")
    try:
        # Reads the header only: what the file would unpack to is known before it is unpacked.
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            too_large = image.width * image.height > MAX_PIXELS
        pixels = None if too_large else read_image(data)
    except Image.DecompressionBombError:
        # Pillow has a bound of its own, far above.
        too_large = True
    except UnidentifiedImageError as error:
        raise RefusedError("This file is not a photograph that can be read: JPEG, PNG and WebP can.") from error
    # Pillow answers a broken header with more than one kind of error.
    except Exception as error:
        raise RefusedError("This picture is damaged and can't be read. Please try another file.") from error
    if too_large:
        raise RefusedError(
            f"The picture has more than {MAX_PIXELS // 10**6} million pixels. Please send a smaller one."
        )
    shown = Image.fromarray(pixels)
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return Photograph(captioner.feature_extractor.load_image(pixels), np.asarray(shown))


def write_captions(captioner, photograph, beam_width=3, alternatives=3):
    """Captions of a `Photograph`, at most `alternatives` and at most `beam_width`."""
    if photograph is None:
        raise RefusedError("There is no photograph yet: drop a JPEG, PNG or WebP file first.")
    for name, value in (("beam width", beam_width), ("number of captions", alternatives)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_WIDTH:
            raise RefusedError(f"The {name} must be a whole number from 1 to {MAX_WIDTH}.")
    # All beams are asked for, whatever is shown: a search is compiled once for each width.
    generation = captioner.generate(photograph.inputs[None], BeamSearch(beam_width, n_best=beam_width))
    # With one caption there is no axis of captions.
    texts = [generation.texts[0]] if beam_width == 1 else generation.texts[0]
    scores = generation.scores.reshape(beam_width)
    attention = generation.attention.reshape(beam_width, *generation.attention.shape[-2:])
    # A search that found fewer captions fills up with minus infinity.
    count = min(alternatives, max(1, int(np.isfinite(scores).sum())))
    texts, scores = texts[:count], scores[:count].tolist()
    page = attention_page(None, [photograph.shown], [texts], [attention[:count]], captioner.grid, [scores])
    return Captions(texts, scores, page)


def make_app(captioner):
    """The Gradio app, not yet launched."""
    # Before Gradio is imported: it reads the switch then.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    def answer(photograph, beam_width, alternatives):
        # In a frame neither page's style reaches into the other.
        page = html.escape(write_captions(captioner, photograph, beam_width, alternatives).page)
        return f'<iframe title="Caption and attention" {FRAME} srcdoc="{page}"></iframe>'

    def on_upload(path, beam_width, alternatives):
        """Also empties the drop area, whether or not there is a caption: the file is gone from the disk by then."""
        photograph = None
        try:
            photograph = read_photograph(captioner, _read_and_delete(path) if path else b"")
            return photograph, None, answer(photograph, beam_width, alternatives)
        except RefusedError as error:
            return photograph, None, _sentence(error)

    def on_again(photograph, beam_width, alternatives):
        try:
            return answer(photograph, beam_width, alternatives)
        except RefusedError as error:
            return _sentence(error)

    with gr.Blocks(title="Show, attend and tell", analytics_enabled=False, delete_cache=(60, 600)) as app:
        gr.Markdown(
            "# Show, attend and tell\n"
            "Drop a photograph: the model writes a caption, and each word shows where it looked. The file is deleted "
            f"as soon as it is read; a small copy is forgotten after {REMEMBERED_SECONDS // 60} minutes."
        )
        photograph = gr.State(time_to_live=REMEMBERED_SECONDS)
        with gr.Row():
            file = gr.File(label=f"Photograph: JPEG, PNG or WebP, up to {MAX_BYTES // 2**20} MB", height=140, scale=2)
            with gr.Column(scale=1, min_width=240):
                beam_width = gr.Slider(1, MAX_WIDTH, value=3, step=1, precision=0, label="Beam width")
                alternatives = gr.Slider(1, MAX_WIDTH, value=3, step=1, precision=0, label="Captions to show, at most")
                again = gr.Button("Caption again")
        result = gr.HTML()
        # One at a time, reading included: the memory that visitors take together does not grow with their number.
        one = {"concurrency_limit": 1, "concurrency_id": "model"}
        settings = [beam_width, alternatives]
        file.upload(on_upload, [file, *settings], [photograph, file, result], api_name="upload", **one)
        again.click(on_again, [photograph, *settings], result, api_name="again", **one)
    return app.queue(max_size=WAITING)


def _sentence(error):
    return f'<p role="alert">{html.escape(str(error))}</p>'


def _read_and_delete(path):
    try:
        with open(path, "rb") as file:
            # One byte more tells that it is too large.
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        # Gradio names files after their content: whoever sent the same one was a moment faster.
        raise RefusedError("Somebody sent the same file at the same time. Please drop it again.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def launch(app, host, port, **options):
    """Starts the server; `options` go to Gradio's `launch`."""
    import gradio as gr

    return app.launch(
        server_name=host,
        server_port=port,
        share=False,
        # Gradio's own refusal is terser than ours: it only bounds what reaches the disk.
        max_file_size=2 * MAX_BYTES,
        # As many visitors as are remembered at once.
        state_session_capacity=2 * WAITING,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        # The visitor's own fonts: the standard ones would be fetched from another server.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        **options,
    )


def main(arguments=None):
    options = parse_arguments(arguments)
    captioner = load_captioner(options.model)
    # The first visitor need not wait for the compiler.
    blank = np.zeros((*captioner.feature_extractor.image_size, 3), "uint8")
    write_captions(captioner, Photograph(captioner.feature_extractor.load_image(blank), blank))
    # Ends as Control-C does, so that the folder below is removed then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="uploads-") as folder:
        # What a visitor uploads and never has captioned goes with the process, if not before.
        os.environ["GRADIO_TEMP_DIR"] = folder
        launch(make_app(captioner), options.host, options.port)


if __name__ == "__main__":
    main()
