import gc
import io
import itertools
import os
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
from PIL import Image

from keras_showattend.visualization import plot_attention, plot_captions, plot_history

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype="uint8")
GREY = 0.25 + 0.75 * IMAGE.mean(axis=-1) / 255


def weights(*shape):
    return RNG.dirichlet(np.ones(shape[-1]), size=shape[:-1]).astype("float32")


def word_panels(figure):
    """The panels that hold a photograph and a map; those of photographs alone hold one image."""
    return [axes for axes in figure.axes if len(axes.images) == 2]


def photographs(figure):
    return [axes.images[0] for axes in figure.axes if len(axes.images) == 1]


def colour_bar(figure):
    (bar,) = [axes for axes in figure.axes if axes.get_ylabel() == "attention weight"]
    return bar


def assert_no_overlap(figure):
    """Draws the figure; every text must be inside it and none may touch another, or a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [axes.title for axes in figure.axes] + list(figure.texts)
    bar = colour_bar(figure)
    low, high = bar.get_ylim()
    ticks = zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
    texts += [bar.yaxis.label, *(label for tick, label in ticks if low <= tick <= high)]
    boxes = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()}
    pictures = [axes.get_window_extent() for axes in figure.axes if axes.images]
    for (name, box), (other_name, other) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(other), (name, other_name)
    for name, box in boxes.items():
        assert figure.bbox.containsx(box.x0), name
        assert figure.bbox.containsx(box.x1), name
        assert figure.bbox.containsy(box.y0), name
        assert figure.bbox.containsy(box.y1), name
        assert not any(box.overlaps(picture) for picture in pictures), name
    for picture, other in itertools.combinations(pictures, 2):
        assert not picture.overlaps(other)


# ----------------------------------------------------------------------------- plot_attention


def test_one_panel_for_the_photograph_and_one_a_word():
    attention = weights(3, 16)
    figure = plot_attention(IMAGE, ["a", "red", "dog"], attention)
    np.testing.assert_array_equal(photographs(figure)[0].get_array(), IMAGE)
    panels = word_panels(figure)
    assert [panel.get_title() for panel in panels] == ["a", "red", "dog"]
    for panel, row in zip(panels, attention, strict=True):
        photograph, overlay = panel.images
        np.testing.assert_allclose(photograph.get_array(), GREY, rtol=1e-6)
        # Location 5 of a 4 x 4 grid is row 1, column 1: row-major.
        np.testing.assert_array_equal(overlay.get_array(), row.reshape(4, 4))
        assert overlay.get_interpolation() == "bicubic"
        assert overlay.get_extent() == [-0.5, 59.5, 39.5, -0.5]
        assert panel.get_xlim() == (-0.5, 59.5)
        assert panel.get_ylim() == (39.5, -0.5)


def test_one_colour_scale_from_zero_to_the_largest_weight():
    attention = weights(3, 16)
    figure = plot_attention(IMAGE, "a red dog", attention)
    overlays = [panel.images[1] for panel in word_panels(figure)]
    assert {overlay.get_clim() for overlay in overlays} == {(0.0, float(attention.max()))}
    assert colour_bar(figure).get_ylim() == pytest.approx((0.0, float(attention.max())))


def test_even_attention_has_one_colour_in_every_place():
    peaked = np.eye(4, dtype="float32")[:1]
    figure = plot_attention(IMAGE, "dog even", np.concatenate([peaked, np.full((1, 4), 0.25)]))
    overlay = word_panels(figure)[1].images[1]
    colours = overlay.to_rgba(overlay.get_array()).reshape(-1, 4)
    assert len(np.unique(colours, axis=0)) == 1
    assert overlay.norm(0.25) == 0.25


def test_no_weight_is_transparent_and_more_weight_covers_more():
    overlay = word_panels(plot_attention(IMAGE, "dog", weights(1, 4)))[0].images[1]
    opacity = overlay.cmap(np.linspace(0, 1, 20))[:, 3]
    assert opacity[0] == 0
    assert (np.diff(opacity) > 0).all()
    blank = word_panels(plot_attention(IMAGE, "dog", np.zeros((1, 4))))[0].images[1]
    assert blank.get_clim() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "grid", "expected"),
    [
        ((1, 1), None, (1, 1)),
        ((1, 49), None, (7, 7)),
        ((1, 45), (5, 9), (5, 9)),
        ((1, 45), [9, 5], (9, 5)),
        ((1, 16), (np.int64(2), 8), (2, 8)),
        ((1, 3, 5), None, (3, 5)),
        ((1, 3, 5), (3, 5), (3, 5)),
    ],
)
def test_grids(shape, grid, expected):
    figure = plot_attention(IMAGE, "dog", weights(*shape), grid=grid)
    assert word_panels(figure)[0].images[1].get_array().shape == expected


def test_rows_beyond_the_words_are_left_out():
    attention = weights(5, 16)
    attention[3] = 1.0
    attention[4] = np.nan
    figure = plot_attention(IMAGE, "a red dog", attention)
    assert len(word_panels(figure)) == 3
    assert word_panels(figure)[0].images[1].get_clim()[1] < 1.0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_of_the_backend(dtype):
    tensor = keras.ops.convert_to_tensor(weights(2, 16), dtype=dtype)
    figure = plot_attention(keras.ops.convert_to_tensor(IMAGE), "a dog", tensor)
    np.testing.assert_array_equal(photographs(figure)[0].get_array(), IMAGE)
    assert len(word_panels(figure)) == 2


@pytest.mark.parametrize(
    "image",
    [
        IMAGE.astype("int64"),
        IMAGE.astype("float32"),
        IMAGE / 255,
        (IMAGE / 255).astype("float32").clip(0, None) * 1.00001,
        IMAGE.tolist(),
    ],
)
def test_ranges_of_the_photograph(image):
    figure = plot_attention(image, "dog", weights(1, 4))
    np.testing.assert_array_equal(photographs(figure)[0].get_array(), IMAGE)


def test_dark_integers_stay_dark():
    figure = plot_attention(np.ones((4, 6, 3), "int32"), "dog", weights(1, 4))
    assert (photographs(figure)[0].get_array() == 1).all()


def test_image_files(tmp_path):
    upright = Image.fromarray(IMAGE)
    exif = upright.getexif()
    exif[0x0112] = 6  # The camera was held on its side.
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    for image in (path, str(path), path.read_bytes()):
        figure = plot_attention(image, "dog", weights(1, 4))
        np.testing.assert_array_equal(photographs(figure)[0].get_array(), IMAGE)
    upright.convert("CMYK").save(tmp_path / "print.jpg")
    upright.convert("LA").save(tmp_path / "grey.png")
    for name in ("print.jpg", "grey.png"):
        figure = plot_attention(tmp_path / name, "dog", weights(1, 4))
        assert photographs(figure)[0].get_array().shape == IMAGE.shape


def test_large_photographs_are_shrunk():
    figure = plot_attention(np.zeros((1000, 2000, 3), "uint8"), "dog", weights(1, 4))
    assert photographs(figure)[0].get_array().shape == (256, 512, 3)
    assert word_panels(figure)[0].images[1].get_extent() == [-0.5, 511.5, 255.5, -0.5]


@pytest.mark.parametrize("columns", [1, 3, 6, 40])
@pytest.mark.parametrize("size", [(40, 60), (10, 100), (100, 10)])
def test_nothing_overlaps(columns, size):
    words = [
        "a",
        "counterrevolutionaries",
        "WWWWWWWWW",
        "x_1$^2$",
        "dog",
        "gypsy",
        "MMMMMMMMMMMMMM",
    ]
    image = np.zeros((*size, 3), "uint8")
    assert_no_overlap(plot_attention(image, words, weights(7, 16), columns=columns))


def test_columns_and_many_words():
    def width(count, columns):
        figure = plot_attention(IMAGE, ["dog"] * count, weights(count, 4), columns=columns)
        assert len(word_panels(figure)) == count
        return len({round(axes.get_position().x0, 6) for axes in figure.axes if axes.images})

    assert width(2, 6) == 3
    assert width(30, 6) == 6
    assert width(1, 1) == 1


def test_words_are_no_formulas():
    figure = plot_attention(IMAGE, ["$x_", "$a$"], weights(2, 4))
    assert not any(panel.title.get_parse_math() for panel in word_panels(figure))
    figure.savefig(io.BytesIO())


def test_needs_no_display_and_leaves_pyplot_alone():
    code = (
        "import io, numpy as np\n"
        "import keras_showattend.visualization as v\n"
        "image, maps = np.zeros((4, 6, 3)), np.full((2, 4), 0.25)\n"
        "for figure in (v.plot_attention(image, 'a dog', maps),\n"
        "               v.plot_captions([image], ['a dog'], [maps]),\n"
        "               v.plot_history({'loss': [1.0, 0.5]})):\n"
        "    figure.savefig(io.BytesIO())\n"
        "from matplotlib import pyplot\n"
        "assert not pyplot.get_fignums()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_imports_without_matplotlib_and_tensorflow():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['tensorflow'] = None\n"
        "import keras_showattend.visualization"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_dropped_figure_is_gone():
    figure = weakref.ref(plot_attention(IMAGE, "dog", weights(1, 4)))
    gc.collect()
    assert figure() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": []}, r"`words` must not be empty. Received: words=\[\]"),
        ({"words": "  "}, r"`words` must not be empty"),
        ({"words": None}, r"`words` must be a list. Received: words=None \(type NoneType\)"),
        (
            {"words": ["a", 3]},
            r"`words` must be a list of str. Received: 3 \(type int\) at index 1",
        ),
        ({"words": "a red dog"}, r"row for each of the 3 words. Received: shape \(2, 16\)"),
        ({"attention": np.ones(16)}, r"`attention` must have the shape \(T, L\) .* shape \(16,\)"),
        ({"attention": np.ones((1, 2, 3, 4))}, r"Received: shape \(1, 2, 3, 4\)"),
        ({"attention": np.ones((2, 0))}, r"Received: shape \(2, 0\)"),
        ({"attention": None}, r"`attention` must have the shape .* shape \(\)"),
        ({"attention": np.full((2, 4), np.nan)}, r"must be finite and not negative. Received: nan"),
        ({"attention": np.full((2, 4), np.inf)}, r"must be finite and not negative. Received: inf"),
        ({"attention": np.full((2, 4), -1.5)}, r"finite and not negative. Received: -1.5"),
        ({"attention": weights(2, 45)}, r"`grid` must be given .*`attention` with 45 locations"),
        ({"grid": (5, 3)}, r"number of locations of `attention`, 16. Received: grid=\(5, 3\)"),
        ({"grid": 4}, r"`grid` must be \(rows, columns\).* Received: grid=4"),
        ({"grid": (-4, -4)}, r"Received: grid=\(-4, -4\)"),
        ({"grid": (4.0, 4.0)}, r"Received: grid=\(4.0, 4.0\)"),
        ({"grid": (16,)}, r"Received: grid=\(16,\)"),
        (
            {"attention": weights(2, 2, 8), "grid": (4, 4)},
            r"agree with `attention`, whose grid is \(2, 8\). Received: grid=\(4, 4\)",
        ),
        ({"columns": 0}, r"`columns` must be a positive integer. Received: columns=0 \(type int\)"),
        ({"columns": None}, r"`columns` must be .* Received: columns=None"),
        ({"columns": True}, r"`columns` must be .* Received: columns=True"),
        ({"image": IMAGE[..., 0]}, r"`image` must have the shape \(H, W, 3\) .*shape \(40, 60\)"),
        ({"image": IMAGE[..., :1]}, r"shape \(40, 60, 1\), dtype uint8"),
        ({"image": IMAGE[:0]}, r"shape \(0, 60, 3\)"),
        ({"image": None}, r"`image` must have the shape .* shape \(\)"),
        ({"image": IMAGE / 127.5 - 1}, r"values in 0..1 or 0..255. Received: -1.0 to 1.0"),
        ({"image": IMAGE * 2.0}, r"values in 0..1 or 0..255. Received: 0.0 to 510.0"),
        ({"image": np.full((2, 2, 3), np.nan)}, r"0..255. Received: nan to nan"),
    ],
)
def test_plot_attention_errors(arguments, message):
    arguments = {"image": IMAGE, "words": "a dog", "attention": weights(2, 16)} | arguments
    with pytest.raises(ValueError, match=message):
        plot_attention(**arguments)


def test_bad_image_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        plot_attention(tmp_path / "missing.jpg", "dog", weights(1, 4))
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg' can't be read as an image"):
        plot_attention(text, "dog", weights(1, 4))
    for suffix in ("jpg", "png"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(IMAGE).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"cut\.{suffix}' can't be read as an image"):
            plot_attention(str(path), "dog", weights(1, 4))


# ----------------------------------------------------------------------------- plot_captions


def test_a_row_of_panels_for_each_sample():
    attention = weights(3, 9, 16)
    images = [IMAGE, IMAGE[::-1], IMAGE[:20]]
    captions = ["a dog", "", "a very red and large dog"]
    figure = plot_captions(images, captions, attention, [["True one.", "unseen"], [], ["True two."]])
    titles = [panel.get_title() for panel in word_panels(figure)]
    assert titles == " ".join(captions).split()
    assert [text.get_text() for text in figure.texts] == [
        *("true", "True one.", "predicted", "a dog"),
        *("predicted", "(no words)"),
        *("true", "True two.", "predicted", "a very red and large dog"),
    ]
    for shown, image in zip(photographs(figure), images, strict=True):
        np.testing.assert_array_equal(shown.get_array(), image)
    maps = [panel.images[1].get_array() for panel in word_panels(figure)]
    np.testing.assert_array_equal(maps[2], attention[2, 0].reshape(4, 4))
    used = max(attention[0, :2].max(), attention[2, :6].max())
    assert {p.images[1].get_clim() for p in word_panels(figure)} == {(0.0, float(used))}
    assert_no_overlap(figure)


def test_captions_of_lists_and_tensors():
    maps = [weights(3, 4), keras.ops.convert_to_tensor(weights(2, 3, 5))]
    assert len(word_panels(plot_captions([IMAGE] * 2, ["dog", "a dog"], maps))) == 3
    tensor = keras.ops.convert_to_tensor(weights(2, 3, 6))
    images = keras.ops.convert_to_tensor(np.stack([IMAGE, IMAGE]))
    figure = plot_captions(images, ("dog", "a dog"), tensor, grid=(2, 3))
    assert word_panels(figure)[0].images[1].get_array().shape == (2, 3)


@pytest.mark.parametrize("size", [(40, 60), (10, 100), (100, 10)])
@pytest.mark.parametrize("captions", [[""], ["dog"], ["a dog " * 14, "MMMMMMMMMMMMMMMMMM"]])
def test_long_and_short_captions_stay_readable(size, captions):
    image = np.zeros((*size, 3), "uint8")
    references = [["A reference that goes on, and on, and on. " * 6, "Another."]] * len(captions)
    figure = plot_captions([image] * len(captions), captions, weights(len(captions), 28, 16), references)
    assert_no_overlap(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": "a dog"}, r"`captions` must be a list. Received: captions='a dog'"),
        ({"captions": []}, r"`captions` must not be empty"),
        ({"captions": ["a dog", None]}, r"list of str. Received: None .*at index 1"),
        ({"images": [IMAGE]}, r"`images` must have one item .* 2 captions. Received: 1 items"),
        ({"images": "photo.jpg"}, r"`images` must be a list. Received: images='photo.jpg'"),
        ({"images": [IMAGE, IMAGE[0]]}, r"`images\[1\]` must have the shape \(H, W, 3\)"),
        ({"attention": weights(3, 2, 16)}, r"`attention` must have one item .* Received: 3 items"),
        ({"attention": weights(2, 1, 16)}, r"`attention\[1\]` must have a row for each of the 2"),
        ({"attention": weights(2, 2, 15)}, r"`grid` must be .* `attention\[0\]` with 15 locations"),
        (
            {"references": ["x", "y"]},
            r"`references` must hold a list .* 'x' \(type str\) at index 0",
        ),
        ({"references": [["x"]]}, r"`references` must have one item .* Received: 1 items"),
        ({"references": "x"}, r"`references` must be a list"),
    ],
)
def test_plot_captions_errors(arguments, message):
    defaults = {"images": [IMAGE] * 2, "captions": ["dog", "a dog"], "attention": weights(2, 2, 16)}
    with pytest.raises(ValueError, match=message):
        plot_captions(**(defaults | arguments))


# ----------------------------------------------------------------------------- plot_history


def test_history_draws_each_curve_and_the_best_epoch():
    history = {
        "accuracy": [0.1, 0.2, 0.3],
        "loss": [3.0, 2.0, 1.0],
        "val_accuracy": [0.1, 0.15, 0.2],
        "val_loss": [2.5, 2.25, 2.4],
        "val_cider_d": [0.0, 0.1, 0.2],
    }
    figure = plot_history(history)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy", "cider d"]
    labels = [[line.get_label() for line in axes.lines] for axes in figure.axes]
    assert labels == [
        ["training", "validation", "best epoch: 2 (2.25)"],
        ["training", "validation", "best epoch: 2"],
        ["validation", "best epoch: 2"],
    ]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_xydata()[:, 1], history["val_loss"])
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_xydata()[:, 0], [1, 2, 3])


def test_history_without_validation_and_with_one_epoch():
    (axes,) = plot_history({"loss": [1.5]}).axes
    assert [line.get_label() for line in axes.lines] == ["training", "best epoch: 1 (1.5)"]


def test_history_of_a_diverged_run():
    (axes,) = plot_history({"loss": [2.0, np.nan, np.inf]}).axes
    assert axes.lines[-1].get_label() == "best epoch: 1 (2)"
    (axes,) = plot_history({"loss": [np.nan, np.nan]}).axes
    assert [line.get_label() for line in axes.lines] == ["training"]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (None, r"`history` must be a dict with the key 'loss'.* Received: NoneType"),
        ({"val_loss": [1.0]}, r"Received: \['val_loss'\]"),
        ({"loss": []}, r"one number an epoch .*Received: shape \(0,\) under 'loss'"),
        ({"loss": 3.0}, r"Received: shape \(\) under 'loss'"),
        ({"loss": [1, 2], "val_loss": [1]}, r"shape \(1,\) under 'val_loss', \(2,\) under 'loss'"),
    ],
)
def test_plot_history_errors(history, message):
    with pytest.raises(ValueError, match=message):
        plot_history(history)
