import io

import numpy as np
import pytest
from PIL import Image

from keras_showattend.features import images, read_image

GRADIENT = np.arange(6 * 8 * 3, dtype="uint8").reshape(6, 8, 3)


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_png_is_exact_from_path_and_bytes(tmp_path):
    content = encoded(Image.fromarray(GRADIENT))
    path = tmp_path / "gradient.png"
    path.write_bytes(content)
    for source in (content, path, str(path), GRADIENT):
        pixels = read_image(source)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, GRADIENT)


def test_jpeg_is_close():
    smooth = np.full((16, 24, 3), (200, 40, 90), "uint8")
    pixels = read_image(encoded(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1)])
def test_grey_arrays_and_files_fill_three_channels(shape):
    grey = GRADIENT[..., 0]
    np.testing.assert_array_equal(read_image(grey.reshape(shape)), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(grey))), np.stack([grey] * 3, -1))


def test_transparency_is_laid_on_white():
    rgba = np.zeros((2, 2, 4), "uint8")
    rgba[0, :, 3] = 255  # An opaque black row above an invisible black one.
    expected = np.zeros((2, 2, 3), "uint8")
    expected[1] = 255
    picture = Image.fromarray(rgba)
    for source in (rgba, encoded(picture), encoded(picture.convert("LA"))):
        np.testing.assert_array_equal(read_image(source), expected)


def test_palette_with_a_transparent_colour():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    opaque = read_image(encoded(palette))
    np.testing.assert_array_equal(opaque, [[[10, 20, 30], [40, 50, 60]]])
    transparent = read_image(encoded(palette, transparency=1))
    np.testing.assert_array_equal(transparent, [[[10, 20, 30], [255, 255, 255]]])


def test_cmyk_jpeg():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = read_image(encoded(red, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 6


def test_sixteen_bits_are_scaled_not_clipped():
    wide = np.array([[0, 257 * 5, 32768, 65535]], "uint16")
    pixels = read_image(encoded(Image.fromarray(wide)))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 5, 128, 255])


def test_exif_orientation_is_applied():
    picture = Image.fromarray(GRADIENT)
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: rotate by 270 degrees to see it upright.
    pixels = read_image(encoded(picture, "PNG", exif=exif))
    np.testing.assert_array_equal(pixels, np.rot90(GRADIENT, -1))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    pixels = read_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(pixels[0, 0], (255, 0, 0))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")


def test_truncated_text_and_folder_are_named(tmp_path):
    content = encoded(Image.fromarray(np.tile(GRADIENT, (20, 20, 1))), "JPEG")
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("half.jpg", "words.png", "empty.png"):
        with pytest.raises(ValueError, match=f"{name}.*can't be read as an image"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="must name a file"):
        read_image(tmp_path)


def test_decompression_bombs_are_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 47)
    with pytest.raises(ValueError, match=r"8 x 6 pixels.*decompression bomb"):
        read_image(encoded(Image.fromarray(GRADIENT)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), "float32"),
        np.zeros((4, 4, 2), "uint8"),
        np.zeros((4,), "uint8"),
        np.zeros((0, 4, 3), "uint8"),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"`image` must be a uint8 array.*Received: shape="):
        read_image(array)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="Received: image of type list"):
        read_image([1, 2])
    image = Image.fromarray(np.zeros((2, 2), "float32"), "F")
    with pytest.raises(ValueError, match="unknown range"):
        read_image(encoded(image, "TIFF"))
