"""Images in, one feature vector for each location out."""

import math
import os

import keras
import numpy as np
from keras import ops

from keras_showattend.features import patches
from keras_showattend.features.backbones import (
    Backbone,
    build_backbone,
    find_backbone,
    load_weights,
)
from keras_showattend.features.images import read_image
from keras_showattend.features.resizing import resize, resize_one


@keras.saving.register_keras_serializable(package="keras_showattend")
class FeatureExtractor(keras.layers.Layer):
    """Turns images into features of a grid of locations, as the notebook did with InceptionV3.

    Images of any size are resized to `image_size` (bilinear, antialiased), preprocessed in float32
    as the backbone was trained, and run through it in inference mode. The weights are frozen until
    `extractor.trainable = True`, which is Keras's own attribute: it reaches every layer of the
    backbone, is reached by a `trainable` set on an enclosing model, and takes effect at the next
    `compile`. To train some layers only, set it, and then `trainable = False` on the others of
    `extractor.backbone.layers`. A backbone that is trained stays in inference mode: batch
    normalization goes on with the moving statistics it has, which do not change (only its scale
    and offset do), and dropout does nothing. Statistics of the small batches that captioning
    allows would be poor ones, and the features in training would differ from those in decoding.

    Cached features go stale when the backbone changes: train on images then. A `FeatureStore` of
    other weights is refused by `FeatureStore.build`.

    The extractor saves with the model that holds it. Loading takes the weights from the saved file
    and neither downloads nor reads another one.

    Args:
        backbone: One of
            the name of a `keras.applications` model, in any case and with or without underscores
            ("inception_v3", "mobilenet_v2", "EfficientNetB0", ...), whose own preprocessing is
            applied;
            a `keras.Model` from `(N, H, W, 3)` pixels of 0 to 255 to `(N, rows, columns, D)` or
            `(N, L, D)`, which is frozen in place (with `trainable=True` its layers stay as they are) and
            brings its own preprocessing;
            `"patches"`, the colours, edges and place of the window around each 16 x 16 cell, which needs no
            weights.
        weights: `"imagenet"` (downloaded once), the path of a weights file, or None for random
            weights. A `keras.Model` keeps its own weights unless a path is given.
        image_size: Int or `(height, width)`, pixels that the backbone sees. Default: the size that
            the backbone was trained on (299 for inception_v3), the `input_shape` of a
            `keras.Model`, 128 for `"patches"`.
        **kwargs: Keras's own layer arguments, such as `name` and `dtype`; `trainable` is False by default.

    Attributes:
        grid: `(rows, columns)` of the locations.
        locations: Their number `L`, row by row.
        width: The feature width `D`.
        image_size: `(height, width)` in pixels.

    Call arguments:
        images: uint8 or float, `(N, H, W, 3)`, RGB, values 0 to 255.

    Returns:
        Features `(N, L, D)` in the compute dtype.

    Raises:
        ValueError: If the name is unknown, the images are too small for the backbone, the model's
            output has another rank, or a weights file does not fit.
        FileNotFoundError: If there is no weights file at the path.
        OSError: If the ImageNet weights can't be downloaded.

    Example:
    ```python
    import numpy as np
    from keras_showattend.features import FeatureExtractor

    extractor = FeatureExtractor("patches")
    photographs = np.zeros((2, 240, 320, 3), "uint8")
    extractor(photographs).shape  # (2, 64, 184)
    extractor.grid                # (8, 8)
    ```
    """

    def __init__(self, backbone="inception_v3", weights="imagenet", image_size=None, **kwargs):
        # Autocasting would round pixels to float16 or bfloat16 before the preprocessing.
        super().__init__(**{"trainable": False, **kwargs, "autocast": False})
        if not (weights in (None, "imagenet") or isinstance(weights, (str, os.PathLike))):
            raise ValueError(
                "`weights` must be 'imagenet', None or a path. "
                f"Received: weights={weights!r} (type {type(weights).__name__})."
            )
        image_size = _standardize_size(image_size)
        self.backbone = None
        if isinstance(backbone, str) and backbone.lower() == "patches":
            if weights not in (None, "imagenet"):
                raise ValueError(f"backbone='patches' has no weights to load. Received: weights={weights!r}.")
            self.image_size = image_size or (patches.DEFAULT_IMAGE_SIZE,) * 2
            self.grid = patches.patch_grid(self.image_size)
            self.width = patches.WIDTH
        else:
            self._set_backbone(backbone, weights, image_size)
        self.locations = self.grid[0] * self.grid[1]
        self.built = True

    def _set_backbone(self, backbone, weights, image_size):
        if isinstance(backbone, str):
            name, side = find_backbone(backbone)
            image_size = image_size or (side, side)
            backbone = build_backbone(name, weights, image_size, self.dtype_policy)
        elif isinstance(backbone, keras.Model):
            backbone = Backbone(None, backbone)
        elif not isinstance(backbone, Backbone):
            raise ValueError(
                "`backbone` must be 'patches', a keras.Model or the name of a model of "
                f"keras.applications. Received: backbone of type {type(backbone).__name__}."
            )
        self.image_size = image_size or _input_size(backbone.model)
        output_shape = _output_shape(backbone.model, self.image_size)
        self.grid = _grid(output_shape, self.image_size)
        self.width = output_shape[-1]
        if weights not in (None, "imagenet"):
            load_weights(backbone, weights)
        if not self.trainable:
            backbone.model.trainable = False
        self.backbone = backbone.model
        self._backbone_name = backbone.name
        self._preprocess = backbone.preprocess

    def call(self, images):
        """Computes the features; see the class."""
        if len(images.shape) != 4 or images.shape[-1] != 3:
            raise ValueError(f"`images` must be of shape (N, H, W, 3). Received: images.shape={tuple(images.shape)}.")
        # (N, H, W, 3) -> (N, height, width, 3)
        pixels = resize(images, self.image_size)
        if self.backbone is None:
            features = patches.patch_features(pixels)
        else:
            # Some preprocessing functions work in place on torch: leave the caller's tensor alone.
            features = self.backbone(self._preprocess(ops.copy(pixels)), training=False)
        # -> (N, L, D)
        features = ops.reshape(features, (-1, self.locations, self.width))
        return ops.cast(features, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """`(N, H, W, 3)` to `(N, L, D)`."""
        return (input_shape[0], self.locations, self.width)

    def load_image(self, image):
        """Reads one image and resizes it as a call would.

        Args:
            image: What `read_image` takes: a path, bytes or a uint8 array.

        Returns:
            float32 array `(height, width, 3)`, values 0 to 255.

        Raises:
            FileNotFoundError: If there is no file at the path.
            ValueError: If it is not a readable image.
        """
        return resize_one(read_image(image), self.image_size)

    def fingerprint(self):
        """What decides the features, so that a store of them can tell when it is stale.

        Returns:
            A dict that JSON can hold: `backbone`, `image_size`, `grid`, `width`, `resize`,
            `preprocessing`, and the sha256 of the weights and of the architecture.
        """
        if self.backbone is None:
            identity = {
                "backbone": "patches",
                "preprocessing": patches.DESCRIPTION,
            }
        else:
            identity = Backbone(self._backbone_name, self.backbone).fingerprint()
        return {
            **identity,
            "image_size": list(self.image_size),
            "resize": "bilinear, antialiased",
            "grid": list(self.grid),
            "width": self.width,
        }

    def get_config(self):
        """The configuration; weights are saved beside it, not named in it."""
        backbone = "patches"
        if self.backbone is not None:
            backbone = Backbone(self._backbone_name, self.backbone).get_config()
        return {
            **super().get_config(),
            "backbone": backbone,
            "weights": None,
            "image_size": list(self.image_size),
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds an extractor, its weights still random."""
        if isinstance(config["backbone"], dict):
            config = {**config, "backbone": Backbone.from_config(config["backbone"])}
        return super().from_config(config)


def _standardize_size(image_size):
    if image_size is None:
        return None
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2 or not all(
        isinstance(side, (int, np.integer)) and not isinstance(side, bool) and side > 0 for side in sides
    ):
        raise ValueError(
            "`image_size` must be a positive integer or a pair (height, width) of them. "
            f"Received: image_size={image_size!r} (type {type(image_size).__name__})."
        )
    return int(sides[0]), int(sides[1])


def _input_size(model):
    """Height and width that a model's own input asks for."""
    shape = getattr(model, "input_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 4 and shape[1] and shape[2]):
        raise ValueError(
            "`image_size` must be given where the `backbone` does not fix the size of its images. "
            f"Received: image_size=None for a model with input_shape={shape}."
        )
    return tuple(shape[1:3])


def _output_shape(model, image_size):
    """Shape of the features of one batch; builds a model that has not seen an input yet."""
    images = keras.KerasTensor((None, *image_size, 3), dtype="float32")
    try:
        shape = getattr(model(images, training=False), "shape", None)
    except Exception as error:
        raise ValueError(
            f"`backbone` must take images of shape (N, {image_size[0]}, {image_size[1]}, 3); "
            f"`image_size` may be too small or another than the model's: {error}"
        ) from error
    if shape is None or len(shape) not in (3, 4) or not all(shape[1:]):
        raise ValueError(
            "`backbone` must return one tensor of shape (N, rows, columns, D) or (N, L, D) with at "
            f"least one location. Received: output shape {shape} for images of "
            f"{image_size[0]} x {image_size[1]} pixels."
        )
    return tuple(shape)


def _grid(output_shape, image_size):
    if len(output_shape) == 4:
        return tuple(output_shape[1:3])
    # A sequence of locations: the grid of the image's own proportions where the number fits (the
    # patches of a vision transformer), else one row.
    locations = output_shape[1]
    rows = max(1, round(math.sqrt(locations * image_size[0] / image_size[1])))
    return (rows, locations // rows) if locations % rows == 0 else (1, locations)
