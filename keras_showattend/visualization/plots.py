"""Figures for papers and notebooks: where the model looked at each word, how training went.

Nothing here touches pyplot: a figure belongs to the caller, opens no window, needs no display, and
is gone when its last reference is. matplotlib is imported when a figure is drawn.
"""

import math
import textwrap

import numpy as np

from keras_showattend.validation import check_positive_integer
from keras_showattend.visualization.arguments import checked_items, checked_maps, checked_photograph

# Lengths are inches. Panels are placed by sums and not by matplotlib's layout engines, which take
# seconds over a hundred panels; text is wrapped to the width of its panel, so nothing overlaps.
_MARGIN = 0.15
_GAP = 0.12
_BAR_WIDTH = 0.8
# Long enough for its label, short enough to be taken in at a glance.
_SHORTEST_BAR, _LONGEST_BAR = 1.1, 4.0
# Blue and vermilion of Okabe and Ito's palette, which colour-blind readers tell apart.
_TRAINING, _VALIDATION = "#0072B2", "#D55E00"


def plot_attention(image, words, attention, grid=None, columns=6):
    """Draws a photograph, then once a word the photograph under that word's attention map.

    All maps share one colour scale, from zero to the largest weight in the figure, so that an even
    map looks even.

    Args:
        image: The photograph, `(H, W, 3)`: integers 0..255, or floats 0..1 or 0..255 (the largest
            value tells which); or the path or the bytes of an image file.
        words: List of T str, or one str, which is split on white space.
        attention: Float, `(T, L)` or `(T, rows, columns)`, array or tensor: the attention weights
            of each word over the locations, row-major. Rows beyond the words are left out.
        grid: Optional (rows, columns) of the L locations; by default the square that L makes.
        columns: Positive int, the number of panels side by side.

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig(path)` writes it.

    Raises:
        ValueError: An argument breaks its rule.
        OSError: The image file can't be opened.

    Example:
    ```python
    image = np.random.default_rng(0).random((60, 80, 3))
    weights = np.random.default_rng(1).dirichlet(np.ones(64), size=3)
    figure = keras_showattend.visualization.plot_attention(image, "a red dog", weights)
    figure.savefig("attention.png")
    ```
    """
    words = _checked_words(words)
    check_positive_integer("columns", columns)
    photograph = checked_photograph(image, "image")
    maps = checked_maps(attention, len(words), grid, "attention")

    columns = min(columns, len(words) + 1)
    cell = _Cell(photograph, words, width=1.7, text_size=11)
    rows = math.ceil((len(words) + 1) / columns)
    height = max(rows * cell.pitch - _GAP, cell.title_height + _SHORTEST_BAR)
    figure = _new_figure(columns * (cell.width + _GAP) + _BAR_WIDTH, height)
    scale = _colour_scale(maps)
    axes = _add_panel(figure, _MARGIN, _MARGIN + cell.title_height, cell.width, cell.height)
    axes.imshow(photograph)
    cell.draw_words(figure, maps, scale, _MARGIN, _MARGIN, columns, first=1)
    _add_colour_bar(figure, scale, cell.title_height, height)
    return figure


def plot_captions(images, captions, attention, references=None, grid=None):
    """Draws samples below one another: photograph, captions, and the attention at every word.

    One colour scale serves the whole figure, as in `plot_attention`.

    Args:
        images: N photographs, each as in `plot_attention`.
        captions: List of N str, the predicted captions. An empty one is shown as such.
        attention: N arrays or tensors as in `plot_attention`, or one of them all, such as the
            `(N, T, L)` of `generate`. Rows beyond a caption's words are left out.
        references: Optional list of N lists of str, the true captions; the first of each is shown.
        grid: Optional (rows, columns) of the L locations; by default the square that L makes.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: An argument breaks its rule.
        OSError: An image file can't be opened.

    Example:
    ```python
    images = np.random.default_rng(0).random((2, 60, 80, 3))
    weights = np.random.default_rng(1).dirichlet(np.ones(64), size=(2, 5))
    figure = keras_showattend.visualization.plot_captions(
        images, ["a red dog", "two cats on a sofa"], weights, [["the dog"], ["cats sit"]]
    )
    ```
    """
    captions = checked_items("captions", captions)
    images = checked_items("images", images, len(captions))
    attention = checked_items("attention", attention, len(captions))
    if references is None:
        references = [[]] * len(captions)
    references = checked_items("references", references, len(captions))

    samples = []
    for index, (caption, true_captions) in enumerate(zip(captions, references, strict=True)):
        if not isinstance(caption, str):
            raise ValueError(
                "`captions` must be a list of str. "
                f"Received: {caption!r} (type {type(caption).__name__}) at index {index}."
            )
        if isinstance(true_captions, str):
            raise ValueError(
                "`references` must hold a list of str for each image. "
                f"Received: {true_captions!r} (type str) at index {index}."
            )
        words = caption.split()
        photograph = checked_photograph(images[index], f"images[{index}]")
        maps = checked_maps(attention[index], len(words), grid, f"attention[{index}]")
        lines = [("true", true_caption) for true_caption in list(true_captions)[:1]]
        lines.append(("predicted", " ".join(words) or "(no words)"))
        samples.append((photograph, words, maps, lines))

    # Never so few columns that the captions above them would become a narrow strip.
    columns = min(max(4, *(len(words) for _, words, _, _ in samples)), 8)
    photograph_width, cell_width, text_size = 2.3, 1.15, 10
    right = _MARGIN + photograph_width + 2 * _GAP
    text_width = columns * (cell_width + _GAP) - 0.85

    blocks, height = [], 0.0
    for photograph, words, maps, lines in samples:
        cell = _Cell(photograph, words, width=cell_width, text_size=9)
        lines = [(label, _wrapped(text, text_width, text_size)) for label, text in lines]
        text_height = sum(_text_height(text, text_size) for _, text in lines)
        words_height = math.ceil(len(words) / columns) * cell.pitch
        photograph_height = _panel_height(photograph, photograph_width)
        blocks.append((height, cell, maps, lines, text_height, photograph_height))
        height += max(photograph_height, text_height + words_height) + 2 * _GAP
    bar_top = blocks[0][4]
    height = max(height - 2 * _GAP, bar_top + _SHORTEST_BAR)

    scale = _colour_scale([one for _, _, maps, _ in samples for one in maps])
    figure = _new_figure(right - _MARGIN + columns * (cell_width + _GAP) + _BAR_WIDTH, height)
    for top, cell, maps, lines, text_height, photograph_height in blocks:
        top += _MARGIN
        axes = _add_panel(figure, _MARGIN, top, photograph_width, photograph_height)
        axes.imshow(cell.photograph)
        line_top = top
        for label, text in lines:
            _add_text(figure, right, line_top, label, size=text_size, color="0.45")
            _add_text(figure, right + 0.85, line_top, text, size=text_size)
            line_top += _text_height(text, text_size)
        cell.draw_words(figure, maps, scale, right, top + text_height, columns)
    _add_colour_bar(figure, scale, bar_top, height)
    return figure


def plot_history(history):
    """Draws the loss of each epoch, and every other figure that training kept, and the best epoch.

    The best epoch is that of the lowest `val_loss`, or of the lowest `loss` without validation.

    Args:
        history: Dict of str to lists of one number an epoch, the `history` of what `fit` returns:
            `loss`, perhaps `val_loss`, and others, each with or without its `val_` counterpart.

    Returns:
        A `matplotlib.figure.Figure`, one panel for the loss and one for each other figure.

    Raises:
        ValueError: `history` isn't such a dict, or its lists differ in length.

    Example:
    ```python
    figure = keras_showattend.visualization.plot_history(
        {"loss": [3.1, 2.2, 1.9], "val_loss": [2.8, 2.4, 2.5]}
    )
    ```
    """
    from matplotlib.ticker import MaxNLocator

    curves = _checked_history(history)
    deciding = curves["val_loss" if "val_loss" in curves else "loss"]
    finite = np.isfinite(deciding)
    best = int(np.argmin(np.where(finite, deciding, np.inf))) if finite.any() else None
    names = list(dict.fromkeys(name.removeprefix("val_") for name in curves))
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = _new_figure(4.6 * columns, 3.3 * rows, layout="constrained")
    epochs = np.arange(1, len(deciding) + 1)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        for key, label, colour, line in (
            (name, "training", _TRAINING, "-o"),
            (f"val_{name}", "validation", _VALIDATION, "--s"),
        ):
            if key in curves:
                # Squares and dashes tell the curves apart in grey print as well.
                axes.plot(epochs, curves[key], line, color=colour, markersize=4, label=label)
        if best is not None:
            label = f"best epoch: {best + 1}"
            if name == "loss":
                label += f" ({deciding[best]:.4g})"
            axes.axvline(best + 1, color="0.35", linestyle=":", label=label)
        axes.set(title=name.replace("_", " "), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    return figure


class _Cell:
    """The panel of a word: its size, and the drawing of many in lines of `columns`."""

    def __init__(self, photograph, words, width, text_size):
        self.photograph = photograph
        self.text_size = text_size
        self.titles = [_wrapped(word, width, text_size) for word in words]
        self.title_height = max((_text_height(t, text_size) for t in self.titles), default=0.0)
        self.width = width
        self.height = _panel_height(photograph, width)
        self.pitch = self.title_height + self.height + _GAP
        # Grey and paler, so that the only colour in the panel is the attention.
        self.background = 0.25 + 0.75 * photograph.mean(axis=-1) / 255

    def draw_words(self, figure, maps, scale, left, top, columns, first=0):
        """Draws one panel a word, from the place `first` on; (left, top) is where place 0 is."""
        height, width = self.background.shape
        for place, (title, weights) in enumerate(zip(self.titles, maps, strict=True), first):
            row, column = divmod(place, columns)
            axes = _add_panel(
                figure,
                left + column * (self.width + _GAP),
                top + row * self.pitch + self.title_height,
                self.width,
                self.height,
            )
            axes.imshow(self.background, cmap="gray", vmin=0, vmax=1)
            axes.imshow(
                weights,
                norm=scale.norm,
                cmap=scale.cmap,
                interpolation="bicubic",
                # The grid of locations covers the whole photograph, whatever its shape.
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )
            axes.set_title(title, fontsize=self.text_size, pad=4, parse_math=False)


def _new_figure(width, height, **kwargs):
    from matplotlib.figure import Figure

    return Figure(figsize=(width + 2 * _MARGIN, height + 2 * _MARGIN), dpi=120, **kwargs)


def _add_panel(figure, left, top, width, height):
    """Adds axes without frame, at inches from the top left corner of the figure."""
    total_width, total_height = figure.get_size_inches()
    bottom = total_height - top - height
    axes = figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))
    axes.set_axis_off()
    return axes


def _add_text(figure, left, top, text, **kwargs):
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, va="top", parse_math=False, **kwargs)


def _colour_scale(maps):
    """Returns the mapping from weights to colours: transparent at zero, yellow at the largest."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    largest = max((float(weights.max()) for weights in maps), default=0.0)
    colours = colormaps["plasma"](np.linspace(0.1, 0.95, 256))
    colours[:, 3] = 0.9 * np.linspace(0, 1, 256) ** 0.7
    # All weights zero, as behind the end of a caption, are drawn as nothing.
    return ScalarMappable(Normalize(0.0, largest or 1.0), ListedColormap(colours))


def _add_colour_bar(figure, scale, top, bottom):
    """Adds the bar at the right edge, between two heights measured inside the margin."""
    left = figure.get_size_inches()[0] - _BAR_WIDTH
    axes = _add_panel(figure, left, _MARGIN + top, 0.13, min(bottom - top, _LONGEST_BAR))
    axes.set_axis_on()
    bar = figure.colorbar(scale, cax=axes)
    bar.set_label("attention weight", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_edgecolor("0.7")


def _panel_height(photograph, width):
    # A tall photograph becomes narrower than its panel rather than the panel endless.
    return width * min(photograph.shape[0] / photograph.shape[1], 1.4)


def _wrapped(text, width, size):
    return textwrap.fill(text, max(1, int(width * 72 / (0.62 * size))))


def _text_height(text, size):
    return (text.count("\n") + 1) * 1.3 * size / 72 + 0.06


def _checked_words(words):
    if isinstance(words, str):
        words = words.split()
    words = checked_items("words", words)
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise ValueError(
                f"`words` must be a list of str. Received: {word!r} (type {type(word).__name__}) at index {index}."
            )
    return words


def _checked_history(history):
    """Returns float arrays of one length, the loss first."""
    if not isinstance(history, dict) or "loss" not in history:
        received = sorted(history) if isinstance(history, dict) else type(history).__name__
        raise ValueError(
            f"`history` must be a dict with the key 'loss', such as `fit(...).history`. Received: {received}."
        )
    shape = np.shape(history["loss"])
    for name, values in history.items():
        if np.shape(values) != shape or len(shape) != 1 or 0 in shape:
            raise ValueError(
                "`history` must hold one number an epoch under each key. "
                f"Received: shape {np.shape(values)} under {name!r}, {shape} under 'loss'."
            )
    names = sorted(history, key=lambda name: name.removeprefix("val_") != "loss")
    return {name: np.asarray(history[name], dtype="float64") for name in names}
