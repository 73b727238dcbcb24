"""Reading one image, whatever its file format or colour mode, as RGB pixels."""

import io
import os

import numpy as np

# A file above this is refused before it is decoded: 256 MB of RGB pixels, a decompression bomb
# rather than a photograph. It is the size at which Pillow itself begins to warn.
MAX_PIXELS = 89_478_485


def read_image(image):
    """Reads one image as RGB pixels.

    JPEG and PNG files (and what else Pillow opens) in grey, palette, CMYK or 16-bit modes become
    8-bit RGB. Transparent pixels are laid on white, photographs are turned upright as their EXIF
    orientation says, and of an animation the first frame is taken.

    Args:
        image: A path (str or `os.PathLike`), the bytes of an image file, or a uint8 array of shape
            `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`, the fourth channel being opacity.

    Returns:
        uint8 array `(H, W, 3)`, RGB, values 0 to 255.

    Raises:
        FileNotFoundError: If there is no file at the path.
        ValueError: If the file is truncated, is not an image or has more than `MAX_PIXELS` pixels,
            or if the array has another dtype or shape. The message names the path.

    Example:
    ```python
    import numpy as np
    from keras_showattend.features import read_image

    read_image(np.zeros((48, 64), "uint8")).shape  # (48, 64, 3)
    ```
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, bytes):
        return _decode(io.BytesIO(image), f"`image`, {len(image)} bytes,")
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no image file at {path!r}.")
        if not os.path.isfile(path):
            raise ValueError(f"The image path must name a file. Received: {path!r}.")
        with open(path, "rb") as file:
            return _decode(file, repr(path))
    raise ValueError(
        "`image` must be a path, the bytes of an image file or a uint8 array. "
        f"Received: image of type {type(image).__name__}."
    )


def _from_array(array):
    shape_is_right = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not shape_is_right or array.size == 0:
        raise ValueError(
            "`image` must be a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) "
            f"with at least one pixel. Received: shape={array.shape}, dtype={array.dtype}."
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 4:
        from PIL import Image

        return _on_white(Image.fromarray(np.ascontiguousarray(array)))
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _decode(file, name):
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} "
                    "that are read; a small file of that size may be a decompression bomb"
                )
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        # Pillow's message would hold the address of an object, another one in each run.
        raise ValueError(f"{name} can't be read as an image: its format is unknown.") from error
    except Exception as error:
        # Pillow answers a broken file with anything from OSError to struct.error, and mostly
        # without saying which file it was.
        raise ValueError(f"{name} can't be read as an image: {error}.") from error


def _to_rgb(image):
    if image.mode.startswith("I"):
        # 16 bits a pixel, perhaps held in 32: Pillow's own conversion clips instead of scaling.
        wide = np.clip(np.asarray(image, "int64"), 0, 65535)
        return _from_array(((wide + 128) // 257).astype("uint8"))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _on_white(rgba):
    from PIL import Image

    white = Image.new("RGBA", rgba.size, "white")
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
