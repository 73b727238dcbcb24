"""The network inside a feature extractor: found by name or given, with its preprocessing."""

import contextlib
import difflib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from typing import NamedTuple

import keras

# Sides of the square images that each backbone was trained on, where that is not 224 pixels.
IMAGE_SIZES = {
    "inceptionv3": 299,
    "inceptionresnetv2": 299,
    "xception": 299,
    "nasnetlarge": 331,
    "efficientnetb1": 240,
    "efficientnetb2": 260,
    "efficientnetb3": 300,
    "efficientnetb4": 380,
    "efficientnetb5": 456,
    "efficientnetb6": 528,
    "efficientnetb7": 600,
    "efficientnetv2b1": 240,
    "efficientnetv2b2": 260,
    "efficientnetv2b3": 300,
    "efficientnetv2s": 384,
    "efficientnetv2m": 480,
    "efficientnetv2l": 480,
}


class Backbone(NamedTuple):
    """A network with what must be done to pixels before it."""

    name: str | None
    """A name of `keras.applications`; None for a model of the user's own."""
    model: keras.Model

    @property
    def preprocess(self) -> Callable:
        """Maps float32 pixels 0 to 255 to what the model was trained on."""
        if self.name is None:
            return lambda images: images
        return _family(_applications()[_normalized(self.name)]).preprocess_input

    def fingerprint(self):
        """What decides the features: network, preprocessing and the values of the weights."""
        digest = hashlib.sha256()
        for weight in self.model.weights:
            array = keras.ops.convert_to_numpy(weight)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        return {
            "backbone": self.name or type(self.model).__name__,
            "architecture_sha256": hashlib.sha256(self._architecture().encode()).hexdigest(),
            "weights_sha256": digest.hexdigest(),
            "preprocessing": "none" if self.name is None else f"keras.applications:{self.name}",
        }

    def _architecture(self):
        if self.name is not None:
            # Names the network together with the application's own, and does not change when a
            # later Keras adds an argument to a layer. (EfficientNet has a layer more with
            # weights="imagenet" than without.)
            return " ".join(type(layer).__name__ for layer in self.model.layers)
        config = keras.saving.serialize_keras_object(self.model)
        text = json.dumps(config, sort_keys=True, default=str)
        # What is trained later does not decide what the features are now.
        text = text.replace('"trainable": true', '"trainable": false')
        # Automatic names count up through a process: number them by their order instead.
        for index, name in enumerate(dict.fromkeys(re.findall(r'"name": "([^"]+)"', text))):
            text = text.replace(f'"{name}"', f'"#{index}"')
        return text

    def get_config(self):
        """The network as a config, without weights."""
        return {"name": self.name, "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config):
        """Rebuilds the network layer by layer; no weights file is looked for.

        Calling the application again with `weights=None` would not do: some of them build another
        network then.
        """
        return cls(config["name"], keras.saving.deserialize_keras_object(config["model"]))


def find_backbone(name):
    """The canonical name and default image size of a `keras.applications` model.

    Args:
        name: Str in any case, with or without underscores, such as "inception_v3".

    Returns:
        The name as Keras spells it ("InceptionV3") and the side of its images in pixels.

    Raises:
        ValueError: If there is no such model; the message lists near matches.
    """
    applications = _applications()
    key = _normalized(name)
    if key not in applications:
        near = difflib.get_close_matches(key, applications, n=4, cutoff=0.5)
        hint = " or ".join(repr(applications[match].__name__) for match in near)
        raise ValueError(
            "`backbone` must be 'patches', a keras.Model or the name of a model of "
            f"keras.applications. Received: backbone={name!r}." + (f" Did you mean {hint}?" if hint else "")
        )
    return applications[key].__name__, IMAGE_SIZES.get(key, 224)


def build_backbone(name, weights, image_size, dtype):
    """Builds a `keras.applications` model without its classifier.

    Args:
        name: A name that `find_backbone` returned.
        weights: "imagenet", a path or None.
        image_size: `(height, width)` in pixels.
        dtype: Dtype policy of its layers.

    Returns:
        The `Backbone`.

    Raises:
        ValueError: If the images are too small for the network.
        OSError: If the weights can't be downloaded.
    """
    application = _applications()[_normalized(name)]
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "A backbone by name needs images with the channels last. Received: "
            "keras.config.image_data_format()='channels_first'."
        )
    try:
        with _dtype_policy(dtype):
            model = application(
                include_top=False,
                weights="imagenet" if weights == "imagenet" else None,
                input_shape=(*image_size, 3),
            )
    except ValueError as error:
        raise ValueError(
            f"backbone={name!r} can't be built for image_size={tuple(image_size)}, weights={weights!r}: {error}"
        ) from error
    except Exception as error:  # keras.utils.get_file raises a bare Exception without a network.
        raise OSError(
            f"The ImageNet weights of backbone={name!r} can't be downloaded: {error}. Without a "
            "network, pass weights=PATH with a local .weights.h5 file, weights=None for random "
            "weights, or backbone='patches', which needs none."
        ) from error
    return Backbone(name, model)


def load_weights(backbone, path):
    """Loads a file of weights into a backbone.

    Args:
        backbone: A `Backbone`.
        path: Path of a file that `keras.Model.load_weights` reads.

    Raises:
        FileNotFoundError: If there is no file at the path.
        ValueError: If the file does not fit; the message says why.
    """
    path = os.fspath(path)
    name = backbone.name or backbone.model.name
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`weights` must be 'imagenet', None or the path of an existing file. "
            f"Received: weights={path!r} for backbone={name!r}."
        )
    reason = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            backbone.model.load_weights(path)
        except Exception as error:
            reason = str(error).partition("List of objects")[0].strip()
    if reason is None:
        # Keras only warns where a file lacks some of the layers.
        messages = (str(warning.message) for warning in caught)
        reason = next((text for text in messages if "freshly-initialized" in text), None)
    if reason is not None:
        raise ValueError(f"The file weights={path!r} does not fit backbone={name!r} without its classifier: {reason}")


def _applications():
    """The model functions of `keras.applications` by normalized name."""
    return {
        _normalized(name): function
        for name, function in vars(keras.applications).items()
        if name[0].isupper() and callable(function)
    }


def _family(application):
    """The public module of a model function, where its `preprocess_input` is."""
    return getattr(keras.applications, application.__module__.rpartition(".")[2])


def _normalized(name):
    return re.sub(r"[\s_-]", "", name).lower()


@contextlib.contextmanager
def _dtype_policy(policy):
    """The applications take no dtype: the global one decides for a moment."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)
