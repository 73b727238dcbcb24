"""Resizing images, in compiled code and outside of it."""

import numpy as np
from keras import ops


def resize(images, size):
    """Resizes images bilinearly with antialiasing.

    What `keras.ops.image.resize(images, size, antialias=True)` computes, as two matrix products:
    on TensorFlow that operation has no XLA kernel, so a model holding it could not be compiled.

    Args:
        images: uint8 or float, `(N, H, W, C)`; H and W may be dynamic.
        size: `(height, width)` of the result in pixels.

    Returns:
        float32, `(N, height, width, C)`. Images of that size already are only cast.
    """
    images = ops.cast(images, "float32")
    if images.shape[1] != size[0]:
        images = ops.einsum("oh,nhwc->nowc", _kernel(ops.shape(images)[1], size[0]), images)
    if images.shape[2] != size[1]:
        images = ops.einsum("ow,nhwc->nhoc", _kernel(ops.shape(images)[2], size[1]), images)
    return images


def resize_one(pixels, size):
    """Resizes one image to what `resize` makes of it, up to float32's rounding, by Pillow.

    Images that come one at a time have many sizes: Keras's operations would be compiled for each of them on JAX,
    and elsewhere take five times as long.

    Args:
        pixels: uint8 array `(H, W, 3)`.
        size: `(height, width)` of the result in pixels.

    Returns:
        float32 array `(height, width, 3)`.
    """
    from PIL import Image

    resized = np.empty((*size, 3), "float32")
    for channel in range(3):
        # As floats: Pillow rounds 8-bit pixels to 8 bits again.
        plane = Image.fromarray(pixels[:, :, channel].astype("float32"))
        resized[:, :, channel] = plane.resize(size[::-1], Image.Resampling.BILINEAR)
    return resized


def _kernel(before, after):
    """Weights `(after, before)` of the old pixels in each new one; each row sums to 1."""
    scale = ops.cast(before, "float32") / after
    centers = (ops.arange(after, dtype="float32") + 0.5) * scale
    pixels = ops.arange(before, dtype="float32") + 0.5
    # A triangle over the neighbours; downsampling widens it to all the pixels that merge into one.
    distance = ops.absolute(centers[:, None] - pixels) / ops.maximum(scale, 1.0)
    weights = ops.maximum(1.0 - distance, 0.0)
    return weights / ops.sum(weights, axis=1, keepdims=True)
