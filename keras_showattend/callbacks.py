"""Callbacks of `Captioner.fit`: whole captions measured while training goes on."""

import dataclasses
import importlib.util
import os
import pathlib
import warnings

import keras
import numpy as np

from keras_showattend.captioner_inputs import as_array, check_backbone_is_reached
from keras_showattend.evaluation import METRICS, CiderD, evaluate_captions
from keras_showattend.generation import checked_decoding
from keras_showattend.validation import check_positive_integer
from keras_showattend.visualization import plot_captions

# No caption scores less than 0, so this can't be taken for a measurement, and any other value is better. NaN would not
# do: a callback that meets it first takes it for the best value so far, which no later one exceeds.
_NOT_MEASURED = float("-inf")


class CaptionMetrics(keras.callbacks.Callback):
    """Captions the validation images at the end of an epoch and measures the captions.

    The figures join the epoch's logs as `val_bleu1` ... `val_bleu4`, `val_rouge_l` and `val_cider_d`, so the history
    has them, and so have the callbacks *listed after this one*: `ModelCheckpoint`, `TensorBoard`,
    `EarlyStopping("val_cider_d", mode="max")`. (Keras can't tell that higher is better here: `mode` must be given.)

    What can't work ends the training before it begins: the first batch is captioned then. A failure later on doesn't
    end it: it is a warning, once an epoch, and the epoch's figures are `-inf`, which no callback takes for an
    improvement on a figure that was measured. On epochs that are not measured the last figures are repeated, `-inf`
    before the first ones, so that every epoch has all keys. To `EarlyStopping` all these are epochs without
    improvement, which its patience counts.

    Args:
        x: Features `(N, L, D)` or `(N, H, W, D)`, images `(N, H, W, 3)` where the captioner has a feature extractor, or
            a `FeatureStore`, which is read in batches.
        references: `{image_id: list of str}` in the order of `x`, or a list of N lists of str. For a `FeatureStore`, a
            dict with the ids of its images; None takes the store's own captions.
        decoding: As in `Captioner.generate`, with one caption an image. Of a `Sampling` with a seed, each batch draws
            with that seed plus the number of its first image.
        every: Positive int, the epochs between two measurements: with 2, epochs 2, 4, 6 ... are measured.
        batch_size: Positive int, the images that are captioned at a time.
        folder: Optional path of a folder, made where it doesn't exist. Each measurement writes `captions-epoch-NNN.txt`
            into it and, with `images`, `captions-epoch-NNN.png`, of some images, always the same.
        images: Optional photographs for that picture: a list in the order of `x` or a dict by image id, of paths or
            arrays, as in `visualization.plot_captions`. Needs matplotlib.
        samples: Positive int, the number of these images.
        tensorboard: Optional path of a folder of event files, such as the `log_dir` of `keras.callbacks.TensorBoard`.
            Figures, texts and pictures are written into its subfolder `captions`. Needs TensorFlow and tensorboard.
        prefix: Str, what the names in the logs begin with.

    Raises:
        ValueError: If an argument is not as described; when training begins, if the model has no tokenizer or can't
            caption `x`, or trains its backbone while `x` is features: those of the backbone as it was.
        ImportError: If `tensorboard` is given without TensorFlow and tensorboard, or `images` without matplotlib.
        OSError: If `folder` can't be made.

    Example:
    ```python
    metrics = keras_showattend.callbacks.CaptionMetrics(store, folder="run")
    best = keras.callbacks.ModelCheckpoint("best.keras", "val_cider_d", mode="max", save_best_only=True)
    stop = keras.callbacks.EarlyStopping("val_cider_d", mode="max", patience=3)
    # captioner.fit(batches, epochs=20, callbacks=[metrics, best, stop])
    ```
    """

    def __init__(
        self,
        x,
        references=None,
        decoding="greedy",
        every=1,
        batch_size=64,
        folder=None,
        images=None,
        samples=6,
        tensorboard=None,
        prefix="val_",
    ):
        super().__init__()
        self.x = x if _is_store(x) else as_array("x", x)
        self.references = _checked_references(self.x, references)
        self.decoding = checked_decoding(decoding)
        if getattr(self.decoding, "n_best", 1) != 1:
            raise ValueError(f"`decoding` must give one caption an image. Received: decoding={decoding!r}.")
        self.every = check_positive_integer("every", every)
        self.batch_size = check_positive_integer("batch_size", batch_size)
        if not isinstance(prefix, str):
            raise ValueError(f"`prefix` must be a str. Received: prefix={prefix!r} (type {type(prefix).__name__}).")
        self.prefix = prefix
        self.image_ids = list(self.references)
        count = min(check_positive_integer("samples", samples), len(self.image_ids))
        self._samples = [int(i) for i in np.linspace(0, len(self.image_ids) - 1, count)]
        self.images = self._checked_images(images, folder, tensorboard)
        self.folder = None if folder is None else pathlib.Path(folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._events = None if tensorboard is None else _Events(os.path.join(tensorboard, "captions"))
        # Counts the references once, and finds what is wrong with them before the first epoch.
        self._cider_d = CiderD(self.references)
        self._figures = dict.fromkeys(METRICS, _NOT_MEASURED)

    def on_train_begin(self, logs=None):
        if getattr(self.model, "tokenizer", None) is None:
            raise ValueError(
                "`CaptionMetrics` needs a Captioner with a `tokenizer`, which makes texts of token ids. Received: a "
                f"{type(self.model).__name__} without."
            )
        if not self.model.built:
            # TensorFlow builds at the first step only.
            shape = (self.x.locations, self.x.width) if _is_store(self.x) else self.x.shape[1:]
            self.model.build([(None, *shape), (None, None)])
        next(self._generations())

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self._figures = self._measure(epoch + 1)
        if logs is not None:
            logs.update(self._named_figures())

    def _measure(self, epoch):
        """The figures of an epoch, the first being 1; samples are written on the way."""
        try:
            captions, attention = self._generate()
            figures = evaluate_captions(captions, self.references)
        # Whatever it is, it must not end the training.
        except Exception as error:
            _warn(epoch, "the captions were not measured", error)
            return dict.fromkeys(METRICS, _NOT_MEASURED)
        try:
            self._write_samples(epoch, captions, attention, figures)
        except Exception as error:
            _warn(epoch, "samples of the captions were not written", error)
        return figures

    def _generate(self):
        """The captions of all images, by id, and the attention of the samples, in their order."""
        texts, attention = [], []
        for start, generation in self._generations():
            texts += generation.texts
            if generation.attention is not None:
                attention += [generation.attention[i - start] for i in self._samples if start <= i < len(texts)]
        return dict(zip(self.image_ids, texts, strict=True)), attention

    def _generations(self):
        """Yields, of each batch, where it starts and its captions."""
        for start in range(0, len(self.image_ids), self.batch_size):
            rows = slice(start, start + self.batch_size)
            batch = self.x.features(self.image_ids[rows]) if _is_store(self.x) else self.x[rows]
            check_backbone_is_reached(self.model, batch)
            yield start, self.model.generate(batch, decoding=self._decoding_from(start))

    def _decoding_from(self, start):
        """The decoding of the batch that starts there: with one seed, all batches would draw the same numbers."""
        seed = getattr(self.decoding, "seed", None)
        return self.decoding if seed is None else dataclasses.replace(self.decoding, seed=(seed + start) % 2**32)

    def _write_samples(self, epoch, captions, attention, figures):
        if self.folder is None and self._events is None:
            return
        samples = [self.image_ids[i] for i in self._samples]
        text = self._sample_text(samples, captions)
        figure = None
        if self.images is not None and attention:
            figure = plot_captions(
                self.images,
                [captions[image_id] for image_id in samples],
                attention,
                references=[self.references[image_id] for image_id in samples],
                grid=getattr(self.model, "grid", None) or getattr(self.x, "grid", None),
            )
        if self.folder is not None:
            path = self.folder / f"captions-epoch-{epoch:03d}"
            heading = ", ".join(f"{name} {value:.4f}" for name, value in self._named_figures(figures).items())
            path.with_suffix(".txt").write_text(f"Epoch {epoch}: {heading}\n\n{text}\n", encoding="utf-8")
            if figure is not None:
                figure.savefig(path.with_suffix(".png"))
        if self._events is not None:
            self._events.write(epoch - 1, figures, text, figure)

    def _sample_text(self, samples, captions):
        scores = self._cider_d.scores({image_id: captions[image_id] for image_id in samples})
        return "\n\n".join(
            "\n".join(
                [
                    f"{image_id} (CIDEr-D {scores[image_id]:.2f})",
                    f"    predicted  {captions[image_id] or '(no words)'}",
                    *(f"    true       {reference}" for reference in self.references[image_id]),
                ]
            )
            for image_id in samples
        )

    def _named_figures(self, figures=None):
        return {self.prefix + name: value for name, value in (figures or self._figures).items()}

    def _checked_images(self, images, folder, tensorboard):
        """The photographs of the samples, in their order."""
        if images is None:
            return None
        if folder is None and tensorboard is None:
            raise ValueError("`images` need a `folder` or `tensorboard` to be written to. Received: neither.")
        if importlib.util.find_spec("matplotlib") is None:
            raise ImportError("`images` need matplotlib, which can't be imported here: pip install matplotlib.")
        if not isinstance(images, dict):
            if len(images) != len(self.image_ids):
                raise ValueError(
                    "`images` must hold one image for each row of `x`. Received: "
                    f"{len(images)} images for {len(self.image_ids)} rows."
                )
            return [images[i] for i in self._samples]
        missing = [self.image_ids[i] for i in self._samples if self.image_ids[i] not in images]
        if missing:
            raise ValueError(f"`images` must hold the image of each id. Received: none for image_id={missing[0]!r}.")
        return [images[self.image_ids[i]] for i in self._samples]


class _Events:
    """Event files as `keras.callbacks.TensorBoard` writes them."""

    def __init__(self, folder):
        missing = [name for name in ("tensorflow", "tensorboard") if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                "`tensorboard` needs TensorFlow and tensorboard. Not installed here: "
                f"{', '.join(missing)}; pip install {' '.join(missing)}."
            )
        self._folder = folder
        self._writer = None

    def write(self, epoch, figures, text, figure):
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._folder)
        with self._writer.as_default():
            for name, value in figures.items():
                tf.summary.scalar(f"epoch_{name}", value, step=epoch)
            # Indented by four, a text is shown as it stands.
            tf.summary.text("captions", "\n".join(f"    {line}" for line in text.splitlines()), step=epoch)
            if figure is not None:
                tf.summary.image("captions", _pixels(figure)[None], step=epoch)
        self._writer.flush()


def _pixels(figure):
    """A figure as uint8 `(H, W, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _is_store(x):
    return hasattr(x, "image_ids") and hasattr(x, "features")


def _checked_references(x, references):
    """`{image_id: list of str}` in the order of the rows of `x`."""
    if _is_store(x):
        if references is None:
            return {image_id: x.captions(image_id) for image_id in x.image_ids}
        if not isinstance(references, dict):
            raise ValueError(
                "`references` of a FeatureStore must be a dict by image id, or None for the store's own captions. "
                f"Received: references of type {type(references).__name__}."
            )
        missing = [image_id for image_id in x.image_ids if image_id not in references]
        if missing:
            raise ValueError(
                "`references` must hold every image of the store. Received: none for image_id="
                f"{missing[0]!r}, the first of {len(missing)}."
            )
        return {image_id: references[image_id] for image_id in x.image_ids}
    if not isinstance(references, dict | list | tuple) or len(references) != len(x):
        received = len(references) if isinstance(references, dict | list | tuple) else type(references).__name__
        raise ValueError(
            "`references` must be a dict or list with the captions of each row of `x`. Received: "
            f"references={received}, x.shape={tuple(x.shape)}."
        )
    return references if isinstance(references, dict) else dict(enumerate(references))


def _warn(epoch, what, error):
    warnings.warn(f"Epoch {epoch}: {what}. {type(error).__name__}: {error}", stacklevel=4)
