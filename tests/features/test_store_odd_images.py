"""Image files that are not plain RGB photographs, on their way through a store."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pixel_stores import SIDE, build, contents, make_example

from keras_showattend.features import FeatureStore

SHAPE = (SIDE, SIDE)
RGB = make_example(1)["image"]
GREY = RGB[..., 0]


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate by 270 degrees to see it upright.
    return encoded(Image.fromarray(RGB), exif=exif)


def transparent():
    # The upper half is opaque, the lower one invisible.
    opacity = np.zeros((*SHAPE, 1), "uint8")
    opacity[: SIDE // 2] = 255
    return encoded(Image.fromarray(np.concatenate([RGB, opacity], axis=-1)))


def animated(file_format):
    frames = [Image.fromarray(np.full((*SHAPE, 3), value, "uint8")) for value in (7, 200)]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)


def on_white():
    pixels = RGB.copy()
    pixels[SIDE // 2 :] = 255
    return pixels


WIDE = (GREY.astype("uint16") * 257).astype("uint16")
ODD = {
    "grey": (encoded(Image.fromarray(GREY)), np.stack([GREY] * 3, -1)),
    "one bit": (encoded(Image.fromarray(GREY > 99)), np.stack([(GREY > 99) * 255] * 3, -1)),
    "RGBA": (transparent(), on_white()),
    "CMYK": (encoded(Image.new("CMYK", SHAPE, (0, 255, 255, 0)), "TIFF"), np.full((*SHAPE, 3), (255, 0, 0))),
    "16 bits": (encoded(Image.fromarray(WIDE)), np.stack([GREY] * 3, -1)),
    "turned": (turned(), np.rot90(RGB, -1)),
    "animated GIF": (animated("GIF"), np.full((*SHAPE, 3), 7)),
    "animated PNG": (animated("PNG"), np.full((*SHAPE, 3), 7)),
}


def png_header(width, height):
    """A PNG file that says how large it is, and has nothing of it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BROKEN = {
    "bomb.png": (png_header(100_000, 100_000), "100000 x 100000|decompression bomb"),
    "cut.png": (encoded(Image.fromarray(np.tile(RGB, (20, 20, 1))))[:200], "can't be read"),
    "empty.jpg": (b"", "can't be read"),
    "text.jpg": (b"no picture", "can't be read"),
}


@pytest.mark.parametrize("as_path", [True, False])
def test_modes_and_formats(tmp_path, as_path):
    examples, expected = [], []
    for name, (content, pixels) in ODD.items():
        image = content
        if as_path:
            image = tmp_path / name
            image.write_bytes(content)
        examples.append({"image_id": name, "image": image, "captions": [name]})
        expected.append(pixels.reshape(-1, 3))
    store = build(tmp_path / "store", examples)
    assert store.image_ids == list(ODD)
    assert not store.skipped
    for name, pixels in zip(ODD, expected, strict=True):
        np.testing.assert_array_equal(store.features([name])[0], pixels, err_msg=name)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_end_a_build_that_names_them(tmp_path, name):
    content, reason = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    examples = [make_example(0), {"image_id": "broken", "image": tmp_path / name, "captions": ["x"]}]
    with pytest.raises(ValueError, match=rf"image_id='broken' .*{name}.*({reason}).*on_error='skip'"):
        build(tmp_path / "store", examples)


def test_broken_files_are_skipped_with_their_reasons(tmp_path):
    examples = []
    for number, (name, (content, _)) in enumerate(BROKEN.items()):
        (tmp_path / name).write_bytes(content)
        examples += [make_example(number), {"image_id": name, "image": tmp_path / name, "captions": ["x"]}]
    examples += [{"image_id": "gone", "image": tmp_path / "gone.png", "captions": ["x"]}, make_example(9)]
    built = build(tmp_path / "store", examples, on_error="skip")
    for store in (built, FeatureStore.open(tmp_path / "store")):
        assert store.image_ids == [0, 1, 2, 3, 9]
        assert list(store.skipped) == [*BROKEN, "gone"]
        assert "gone.png" in store.skipped["gone"]
        for name in BROKEN:
            assert name in store.skipped[name]
        with pytest.raises(ValueError, match=r"image_id='bomb.png' .*not in the feature store"):
            store.features(["bomb.png"])
    before = contents(tmp_path / "store")
    build(tmp_path / "store", examples, on_error="skip")
    assert contents(tmp_path / "store") == before


def test_a_shard_of_nothing_but_broken_files(tmp_path):
    """It is a shard like any other, so that those behind it are the same whatever can be read."""
    examples = [make_example(number) for number in range(10)]
    for number in range(4, 8):
        examples[number]["image"] = png_header(100_000, 100_000)
    store = build(tmp_path / "store", examples, on_error="skip")
    assert store.image_ids == [0, 1, 2, 3, 8, 9]
    assert set(store.skipped) == {4, 5, 6, 7}
    store.verify()
    build(tmp_path / "whole", [make_example(number) for number in range(10)])
    for name in ("features-00002.npy", "captions-00002.jsonl"):
        assert (tmp_path / "store" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
