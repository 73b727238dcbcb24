"""A captioner in files that other programs run, without Keras and without this package."""

import math
import pathlib

import keras
from keras import ops

from keras_showattend.atomic_writing import replacing_folder
from keras_showattend.features.images import MAX_PIXELS
from keras_showattend.generation import checked_decoding, words_only
from keras_showattend.token_ids import END, PADDING, START
from keras_showattend.validation import check_positive_integer

# The ending of the two files of a format that holds single steps.
_ENDINGS = {"onnx": "onnx", "litert": "tflite"}
# Bytes; a graph can hold less than 2 GiB in all.
_MOST_CONSTANTS = 2**30
# Only a folder that has this file, and nothing that is not written here, is replaced.
_MARK = "keras_showattend.export"
_WRITTEN = {
    _MARK,
    *("saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra", "vocabulary.txt", "README.md"),
    *(f"{part}.{ending}" for part in ("encoder", "step") for ending in _ENDINGS.values()),
}

_README_ROWS = {
    "onnx": "The state has B rows, the memory N, and B is a multiple of N: the captions of one image stand together.",
    "litert": "One image at a time; the state has B rows, one for each caption of the image: repeat the first state.",
}

_README = """# A captioner, exported as {format}

`encoder.{ending}` runs once for an image. From {x} of the shape {shape}, {dtype}, it makes what the steps read,
`memory_...`, and the state before the first step, `state...`.

`step.{ending}` runs once for a word. Its inputs are `token`, int32 (B,), and `state...` and `memory_...`; its outputs
are `logits` (B, V) of the next token, the `next_state...` to hand over as `state...`, and `attention` (B, L), where it
looked. {rows}

Ids: 0 padding, 1 unknown, 2 start, 3 end. The first token is the start; greedy decoding then takes the id of the
largest logit, 0 to 2 left out{wordless}, until that is the end.{vocabulary}
"""


def export_captioner(
    captioner, filepath, format, verbose=None, input_signature=None, decoding="greedy", max_length=None, **kwargs
):
    """Write what `Captioner.export` describes.

    Everything is written beside `filepath` and then renamed, so that no crash leaves half of it. An earlier export
    there is replaced; anything else that stands there is not.

    Args:
        captioner: Built `Captioner`.
        filepath: As in `Captioner.export`, like all that follows.
        format: Str.
        verbose: Bool or None.
        input_signature: A spec of one tensor, a list of one, or None.
        decoding: As in `Captioner.generate`.
        max_length: As in `Captioner.generate`.
        **kwargs: For Keras's exporter.

    Raises:
        ValueError: As in `Captioner.export`.
        FileExistsError: If something that is no export stands at `filepath`.
    """
    if format != "tf_saved_model" and format not in _ENDINGS:
        raise ValueError(f'`format` must be "tf_saved_model", "onnx" or "litert". Received: format={format!r}.')
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "`export` needs the TensorFlow backend. Save the captioner, and export the file in a process with "
            f"KERAS_BACKEND=tensorflow: `keras.models.load_model(path).export(...)`. Received: the backend {backend!r}."
        )
    captioner.check_inference()
    decoding = checked_decoding(decoding)
    spec = _checked_spec(captioner, input_signature, format)
    if format == "tf_saved_model":
        if kwargs:
            raise ValueError(f'format="tf_saved_model" takes no other arguments. Received: {", ".join(kwargs)}.')
        max_length = check_positive_integer("max_length", captioner.max_length if max_length is None else max_length)
        decoding.check_length(max_length)
        decoding = words_only(decoding, captioner.decoder, captioner.tokenizer)
    elif decoding != checked_decoding("greedy") or max_length is not None:
        raise ValueError(
            f'`decoding` and `max_length` are for format="tf_saved_model": format={format!r} holds single steps, and '
            f"the program that runs them searches. Received: decoding={decoding!r}, max_length={max_length}."
        )
    if format == "litert":
        spec = _one_image(spec)
    _check_replaceable(pathlib.Path(filepath))
    with replacing_folder(filepath) as folder:
        (folder / _MARK).touch()
        if format == "tf_saved_model":
            _export_search(captioner, folder, spec, decoding, max_length)
        else:
            _export_steps(captioner, folder, spec, format, kwargs)
    if verbose or verbose is None:
        print(f"Saved artifact at '{filepath}'.")


def _checked_spec(captioner, spec, format):
    """The `tf.TensorSpec` of what the exported captioner takes."""
    import tensorflow as tf

    files = format == "tf_saved_model"
    if spec is None:
        return _default_spec(captioner, files)
    if isinstance(spec, list | tuple) and len(spec) == 1:
        spec = spec[0]
    if getattr(spec, "shape", None) is None or getattr(spec, "dtype", None) is None:
        raise ValueError(
            "`input_signature` must be the shape and dtype of one tensor, such as a keras.InputSpec or a "
            f"tf.TensorSpec. Received: input_signature={spec!r}."
        )
    spec = tf.TensorSpec(spec.shape, tf.as_dtype(spec.dtype), name=getattr(spec, "name", None) or "x")
    if spec.dtype != tf.string:
        captioner.check_inference(spec)
    elif not files or captioner.feature_extractor is None or len(spec.shape) != 1:
        raise ValueError(
            '`input_signature` may be strings (N,), image files, for format="tf_saved_model" of a captioner with a '
            f"feature extractor. Received: input_signature={spec!r}, format={format!r}, "
            f"feature_extractor={captioner.feature_extractor}."
        )
    return spec


def _default_spec(captioner, files):
    import tensorflow as tf

    extractor = captioner.feature_extractor
    if extractor is not None:
        if files:
            return tf.TensorSpec((None,), tf.string, name="images")
        return tf.TensorSpec((None, *extractor.image_size, 3), tf.float32, name="images")
    width = captioner.feature_width
    if width is None:
        raise ValueError(
            "`input_signature` must be given where the `encoder` has no `projection` that tells the feature width. "
            "Received: input_signature=None."
        )
    locations = None if captioner.grid is None else captioner.grid[0] * captioner.grid[1]
    return tf.TensorSpec((None, locations, width), tf.float32, name="features")


def _one_image(spec):
    """`spec` with one row, for LiteRT."""
    # Where sizes in a graph are not constants, LiteRT's results are wrong in some interpreters. With one image only the
    # number of its captions is unknown, and every size follows from that.
    import tensorflow as tf

    sizes = tuple(spec.shape)
    if sizes[:1] not in ((None,), (1,)) or None in sizes[1:]:
        raise ValueError(
            '`input_signature` must have one row and no unknown size for format="litert", such as (1, 64, 2048); '
            f"without one, the captioner's `grid` tells the locations. Received: the shape {sizes}."
        )
    return tf.TensorSpec((1, *sizes[1:]), spec.dtype, name=spec.name)


def _check_replaceable(path):
    if path.exists() and not (path / _MARK).is_file():
        raise FileExistsError(
            "`filepath` must be a new path, or an export to replace, which has a file "
            f"{_MARK!r}. Received: filepath={path}."
        )
    strange = sorted({p.name for p in path.iterdir()} - _WRITTEN) if path.exists() else []
    if strange:
        raise FileExistsError(
            f"`filepath` must hold nothing but an export, to be replaced. Received: filepath={path} with {strange}."
        )


# The SavedModel: from bytes to words in one graph.


def _export_search(captioner, folder, spec, decoding, max_length):
    import tensorflow as tf

    # Read before the trace, or the archive would hold the variables too.
    constants = _constants(captioner.feature_extractor)

    def serve(x):
        with tf.control_dependencies([tf.debugging.Assert(tf.size(x) > 0, [f"`{spec.name}` must not be empty."])]):
            x = tf.identity(x)
        if spec.dtype == tf.string:
            x = _read_images(x, captioner.feature_extractor.image_size)
        if captioner.takes_images(x.shape):
            # As constants, TensorFlow folds batch normalization and activations into the convolutions before them.
            with keras.StatelessScope([(weight, tf.constant(value)) for weight, value in constants]):
                x = captioner.feature_extractor(x)
        step, state = captioner.start_decoding(x)
        count = ops.shape(x)[0]
        decoded = decoding.decode(step, state, count, max_length, *decoding.draw(count, max_length))
        outputs = {name: part for name, part in decoded._asdict().items() if part is not None}
        if captioner.tokenizer is not None:
            outputs["texts"] = _texts(captioner.tokenizer, decoded.tokens)
        return outputs

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", serve, input_signature=[spec])
    archive.write_out(str(folder), verbose=False)


def _constants(extractor):
    """Pairs of a weight and its value, for a graph that shall hold it; none where there is no room or no extractor."""
    import tensorflow as tf

    weights = [] if extractor is None else extractor.weights
    if sum(math.prod(w.shape) * tf.as_dtype(w.dtype).size for w in weights) > _MOST_CONSTANTS:
        return []
    return [(w, ops.convert_to_numpy(w)) for w in weights]


def _texts(tokenizer, tokens):
    """What `tokenizer.decode` makes of `(..., T)` that a search wrote: strings `(...)`."""
    import tensorflow as tf

    words = [" " + word for word in tokenizer.vocabulary]
    for silent in (PADDING, START, END):
        words[silent] = ""
    return tf.strings.strip(tf.strings.reduce_join(tf.gather(tf.constant(words), tokens), axis=-1))


def _read_images(images, size):
    """Files `(N,)` to pixels `(N, height, width, 3)`, float32, as `FeatureExtractor.load_image` reads them."""
    import tensorflow as tf

    is_png = tf.strings.substr(images, 0, 8) == b"\x89PNG\r\n\x1a\n"
    known = is_png | (tf.strings.substr(images, 0, 3) == b"\xff\xd8\xff")
    message = "`images` must hold the bytes of JPEG or PNG files. Received something else at the indices"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(known), [message, tf.where(~known)[:, 0]])]):
        images = tf.identity(images)

    def read(args):
        index, image, is_png = args
        sides = tf.cond(is_png, lambda: _png_sides(image), lambda: tf.io.extract_jpeg_shape(image)[:2])
        # Before it is decoded: a small file can hold a huge image.
        small = tf.reduce_prod(tf.cast(sides, tf.int64)) <= MAX_PIXELS
        message = f"`images` must have at most {MAX_PIXELS} pixels each. Received another at the index, of the sides"
        with tf.control_dependencies([tf.debugging.Assert(small, [message, index, sides])]):
            image = tf.identity(image)
        pixels = tf.cond(is_png, lambda: _decode_png(image), lambda: _decode_jpeg(image))
        # As exact as the extractor's own operation, and fast for large photographs too.
        return tf.image.resize(pixels, size, antialias=True)

    elements = (tf.range(tf.shape(images)[0]), images, is_png)
    return tf.map_fn(read, elements, fn_output_signature=tf.TensorSpec((*size, 3), tf.float32))


def _decode_jpeg(image):
    import tensorflow as tf

    # The accurate transform is Pillow's; TensorFlow's default is up to 7 of 255 away.
    pixels = tf.cast(tf.io.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE"), tf.float32)
    orientation = _orientation(image)
    pixels = tf.cond(orientation > 4, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    down, across = (tf.reduce_any(orientation == turned) for turned in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return tf.reverse(pixels, tf.boolean_mask([0, 1], [down, across]))


def _orientation(image):
    """The EXIF orientation of a JPEG file, 1 to 8; 1 where there is none."""
    import tensorflow as tf

    # EXIF stands within 64 kB; what may come before it, such as a colour profile, is seldom longer.
    parts = tf.strings.split(tf.strings.substr(image, 0, 1 << 18), b"Exif\0\0", maxsplit=1)
    orientation = tf.constant(1, tf.uint8)
    # Tag 0x0112, type short, one value, and its first byte: little-endian, then big-endian.
    for tag in (b"\x12\x01\x03\x00\x01\x00\x00\x00", b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"):
        found = tf.strings.split(parts[-1], tag, maxsplit=1)
        value = tf.io.decode_raw(tf.strings.substr(found[-1], 0, 1), tf.uint8)
        present = (tf.size(parts) > 1) & (tf.size(found) > 1) & tf.reduce_all((value >= 1) & (value <= 8))
        orientation = tf.cond(present, lambda value=value: value[0], lambda orientation=orientation: orientation)
    return tf.cast(orientation, tf.int32)


def _png_sides(image):
    import tensorflow as tf

    return tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False)


def _decode_png(image):
    import tensorflow as tf

    rgba = tf.cast(tf.io.decode_png(image, channels=4), tf.float32)
    opacity = rgba[..., 3:] / 255.0
    # Laid on white.
    return tf.round(rgba[..., :3] * opacity + 255.0 * (1.0 - opacity))


# ONNX and LiteRT: what neither searches nor reads files, by Keras's own exporters.


class _Function(keras.Model):
    """A function of tensors, as what Keras exports; the variables in it are found when it is traced."""

    def __init__(self, function):
        super().__init__(name="exported")
        self.function = function
        self.built = True

    def call(self, *args):
        return self.function(*args)


def _export_steps(captioner, folder, spec, format, options):
    import tensorflow as tf

    def encode(x):
        return dict(zip(("memory", "state"), captioner.memory_and_state(x), strict=True))

    specs = tf.function(encode, autograph=False).get_concrete_function(spec).structured_outputs
    names = _named(specs)

    def step(token, *leaves):
        nests = keras.tree.pack_sequence_as(specs, leaves)
        logits, state, *attention = captioner.decoder.step(token, nests["state"], nests["memory"])
        return {
            "logits": logits,
            **_named({"next_state": state}),
            **({"attention": attention[0]} if attention else {}),
        }

    token = tf.TensorSpec((None,), tf.int32, name="token")
    # As many states as there are captions, also of one image.
    shapes = {
        name: leaf.shape if name.startswith("memory") or not leaf.shape.rank else (None, *leaf.shape[1:])
        for name, leaf in names.items()
    }
    leaves = [tf.TensorSpec(shapes[name], leaf.dtype, name=name) for name, leaf in names.items()]
    ending = _ENDINGS[format]
    for name, function, signature in (
        ("encoder", lambda x: _named(encode(x)), [spec]),
        ("step", step, [token, *leaves]),
    ):
        model = _Function(function)
        model.export(folder / f"{name}.{ending}", format, verbose=False, input_signature=signature, **options)
    wordless = ""
    if captioner.tokenizer is not None:
        captioner.tokenizer.save_vocabulary(folder / "vocabulary.txt")
        words = len(captioner.tokenizer.vocabulary)
        if words < captioner.decoder.vocab_size:
            wordless = f" and all from {words} on, which have no word"
    text = _README.format(
        format={"onnx": "ONNX", "litert": "LiteRT"}[format],
        ending=ending,
        x=f"`{spec.name}`",
        shape=tuple(spec.shape),
        dtype=spec.dtype.name,
        rows=_README_ROWS[format],
        wordless=wordless,
        vocabulary=" The word of an id is its line in `vocabulary.txt`, from 0." if captioner.tokenizer else "",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _named(nest):
    """The leaves of a nest by name, such as `memory_features`."""
    return {"_".join(map(str, path)): leaf for path, leaf in keras.tree.flatten_with_path(nest)}
