"""A page for the browser on which words show where the model looked, in one file that needs no other."""

import base64
import dataclasses
import hashlib
import html
import io
import math
import os
import re

import numpy as np

from keras_showattend.atomic_writing import replacing
from keras_showattend.visualization.arguments import checked_items, checked_maps, checked_photograph
from keras_showattend.visualization.page_assets import SCRIPT, STYLE

# The largest weight of a page is this number in the page, so rounding moves no weight by more than 1/2000 of it.
_STEPS = 1000
# HTML can't hold these: file names that are no UTF-8 have half surrogates, and browsers drop or replace NUL.
_NOT_IN_HTML = re.compile("[\0\ud800-\udfff]")


def attention_page(
    path, images, texts, attention, grid=None, scores=None, references=None, title="Where the model looked"
):
    """Makes an HTML page on which pointing at a word shows where the model looked when it wrote it.

    The map lies over the photograph as long as the pointer or the keyboard's focus is on the word, and stays after a
    click or a tap. One file holds all, photographs included; it loads nothing, stores nothing, and needs neither a
    network nor matplotlib. All maps of the page share one colour scale, from zero to its largest weight.

    The page's maps are whole numbers from 0 to 1000, `round(1000 a / a_max)` of the weights a and the largest of the
    page a_max: a weight that is read from the page is at most `a_max / 2000` off.

    Args:
        path: Str or path-like of the file to write, in a folder that exists; it takes its place when it is whole. None
            writes no file.
        images: N photographs, each as in `plot_attention`. Those given as paths are shown with their file name.
        texts: List of N captions, each a str, or a list of K str, the best first, of which the reader may choose: the
            `texts` of `generate`. An empty one is shown as such.
        attention: N arrays or tensors, each `(T, L)` or `(T, rows, columns)`, with K of them where a caption has K
            str, or one array of all, such as the `(N, T, L)` or `(N, K, T, L)` of `generate`. Rows beyond a caption's
            words are left out.
        grid: Optional (rows, columns) of the L locations; by default the square that L makes.
        scores: Optional list or array of N numbers, or K numbers each where a caption has K str: `(N,)` or `(N, K)`.
        references: Optional list of N lists of str, the true captions.
        title: Str, the heading.

    Returns:
        Str, the page, whether or not it was written too.

    Raises:
        ValueError: An argument breaks its rule.
        OSError: An image can't be opened or the page can't be written.

    Example:
    ```python
    images = np.random.default_rng(0).random((1, 60, 80, 3))
    weights = np.random.default_rng(1).dirichlet(np.ones(64), size=(1, 2, 5))
    keras_showattend.visualization.attention_page(
        "page.html", images, [["a red dog", "the dog"]], weights, scores=[[-2.1, -3.4]], references=[["the dog sits"]]
    )
    ```
    """
    if path is not None and not isinstance(path, str | os.PathLike):
        raise ValueError(f"`path` must be a path or None. Received: path={path!r} (type {type(path).__name__}).")
    if not isinstance(title, str):
        raise ValueError(f"`title` must be a str. Received: title={title!r} (type {type(title).__name__}).")
    samples = _checked_samples(images, texts, attention, grid, scores, references)
    largest = max((float(c.maps.max()) for s in samples for c in s.captions if c.words), default=0.0)
    page = _page(title, samples, largest)
    if path is not None:
        with replacing(path) as file:
            file.write(page.encode())
    return page


@dataclasses.dataclass(frozen=True)
class _Caption:
    words: list
    maps: np.ndarray  # (words, rows, columns)
    score: float | None

    @property
    def text(self):
        return " ".join(self.words) or "(no words)"


@dataclasses.dataclass(frozen=True)
class _Sample:
    photograph: np.ndarray
    name: str
    captions: list
    references: list


def _checked_samples(images, texts, attention, grid, scores, references):
    texts = checked_items("texts", texts)
    images = checked_items("images", images, len(texts))
    attention = checked_items("attention", attention, len(texts))
    if scores is not None:
        scores = checked_items("scores", scores, len(texts))
    references = checked_items("references", [[]] * len(texts) if references is None else references, len(texts))

    samples = []
    for index, (image, text, lines) in enumerate(zip(images, texts, references, strict=True)):
        maps, values = attention[index], None if scores is None else scores[index]
        if isinstance(text, str):
            captions = [_checked_caption(text, maps, values, grid, f"[{index}]")]
        else:
            text = checked_items(f"texts[{index}]", text)
            maps = checked_items(f"attention[{index}]", maps, len(text))
            values = [None] * len(text) if values is None else checked_items(f"scores[{index}]", values, len(text))
            captions = [
                _checked_caption(one, maps[rank], values[rank], grid, f"[{index}][{rank}]")
                for rank, one in enumerate(text)
            ]
        if isinstance(lines, str) or not np.iterable(lines) or not all(isinstance(line, str) for line in lines):
            raise ValueError(
                "`references` must hold a list of str for each image. "
                f"Received: {lines!r} (type {type(lines).__name__}) at index {index}."
            )
        name = os.path.basename(os.fsdecode(image)) if isinstance(image, str | os.PathLike) else ""
        samples.append(_Sample(checked_photograph(image, f"images[{index}]"), name, captions, list(lines)))
    return samples


def _checked_caption(text, attention, score, grid, place):
    if not isinstance(text, str):
        raise ValueError(
            f"`texts` must be a list of str, or of lists of str. Received: texts{place}={text!r} "
            f"(type {type(text).__name__})."
        )
    words = text.split()
    maps = checked_maps(attention, len(words), grid, f"attention{place}")
    return _Caption(words, maps, None if score is None else _checked_score(score, place))


def _checked_score(score, place):
    try:
        number = math.nan if isinstance(score, str) else float(score)
    except (TypeError, ValueError):
        number = math.nan
    # Minus infinity may pass: a search gives it where there is no further caption.
    if math.isnan(number):
        raise ValueError(
            f"`scores` must hold a number for each caption. Received: scores{place}={score!r} "
            f"(type {type(score).__name__})."
        )
    return number


def _page(title, samples, largest):
    # Only this script and this style may run, and nothing may be loaded: a second wall behind the escaping.
    policy = f"default-src 'none'; img-src data:; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_escaped(title)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{_escaped(title)}</h1>",
        '<p class="help">Point at a word, or move to it with the Tab key, to see where the model looked when it wrote '
        "it. A click or a tap keeps the map; Escape takes it away.</p>",
        "<noscript><p>The maps need JavaScript, which is off. The captions do not.</p></noscript>",
        f'<p class="scale">Attention weight <span>0</span><canvas width="256" height="1" role="img" '
        f'aria-label="Colours from 0 to {largest:.3g}"></canvas><span>{largest:.3g}</span></p>',
        *(_section(index, sample, largest) for index, sample in enumerate(samples)),
        f"</main><script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(index, sample, largest):
    height, width = sample.photograph.shape[:2]
    first = sample.captions[0]
    parts = [
        '<section class="sample">',
        f'<div class="picture"><img src="{_data_address(sample.photograph)}" width="{width}" height="{height}" '
        f'alt="{_escaped(first.text)}"><canvas width="{width}" height="{height}" aria-hidden="true"></canvas></div>',
        '<div class="text">',
    ]
    if sample.name:
        parts.append(f"<h2>{_escaped(sample.name)}</h2>")
    parts += [_caption(caption, largest) for caption in sample.captions]
    # Said to those who can't see the map, and shown to those who want its numbers.
    parts.append('<p class="where" role="status"></p>')
    if len(sample.captions) > 1:
        parts.append("<fieldset><legend>Captions, the best first</legend>")
        parts += [
            f'<label><input type="radio" name="caption-{index}" value="{rank}"{" checked" * (rank == 0)}>'
            f'<span class="choice" dir="auto">{_escaped(caption.text)}</span>{_score(caption)}</label>'
            for rank, caption in enumerate(sample.captions)
        ]
        parts.append("</fieldset>")
    elif first.score is not None:
        parts.append(f"<p>Score{_score(first)}</p>")
    if sample.references:
        lines = "".join(f'<li dir="auto">{_escaped(line)}</li>' for line in sample.references)
        parts.append(f"<h3>Captions by people</h3><ul>{lines}</ul>")
    return "\n".join([*parts, "</div></section>"])


def _caption(caption, largest):
    rows, columns = caption.maps.shape[1:]
    words = [
        f'<button type="button" class="word" aria-pressed="false" data-where="{_where(weights)}" '
        f'data-weights="{_whole_numbers(weights, largest)}">{_escaped(word)}</button>'
        for word, weights in zip(caption.words, caption.maps, strict=True)
    ]
    inside = "\n".join(words) or caption.text
    return f'<p class="caption" dir="auto" data-rows="{rows}" data-columns="{columns}">{inside}</p>'


def _where(weights):
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    rows, columns = weights.shape
    return (
        f"largest weight {weights[row, column]:.3g} of {weights.sum():.3g}, in row {row + 1} of {rows}, "
        f"column {column + 1} of {columns}"
    )


def _whole_numbers(weights, largest):
    # In float64, where the product of a weight and the steps can't round across a half.
    shares = weights.astype("float64") / largest if largest else weights
    return " ".join(str(round(share)) for share in (shares * _STEPS).ravel().tolist())


def _score(caption):
    return "" if caption.score is None else f' <span class="score">{caption.score:.2f}</span>'


def _data_address(photograph):
    """The pixels as a JPEG file, or as PNG where that is shorter, as it is for drawings."""
    from PIL import Image

    files = {}
    for kind, options in (("jpeg", {"quality": 90}), ("png", {"optimize": True})):
        buffer = io.BytesIO()
        Image.fromarray(photograph).save(buffer, kind, **options)
        files[kind] = buffer.getvalue()
    kind = min(files, key=lambda kind: len(files[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(files[kind]).decode()}"


def _escaped(text):
    return html.escape(_NOT_IN_HTML.sub("\ufffd", " ".join(text.split())))


def _hash(source):
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
