"""`coco_showattend` for TensorFlow Datasets."""

import logging
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from keras_showattend.datasets.coco_showattend.annotations import FOLDERS, read_karpathy, read_official
from keras_showattend.datasets.coco_showattend.source_files import find_files

# For each configuration, what to read and from which archive.
_READERS = {"karpathy": (read_karpathy, "karpathy"), "2014": (read_official, "annotations")}

_logger = logging.getLogger(__name__)


class Builder(tfds.core.GeneratorBasedBuilder):
    """COCO 2014's photographs with their captions, under `tfds.load("coco_showattend/karpathy")`.

    An example is a photograph; `captions` is a sequence of `id`, `text` and `position`, the place
    of the caption in its file. The bytes of the JPEG files are stored as they are, and
    `decoders={"image": tfds.decode.SkipDecoding()}` gives them. `info.metadata` holds
    `"images_without_captions"`, the number of photographs left out, and `"captions"`, both by
    split.

    With a `beam_runner` or `beam_options` in TFDS's `DownloadConfig`, Apache Beam prepares the data
    set; its workers must see the folder of the downloads.

    Example:
    ```python
    import keras_showattend.datasets  # registers the builder
    import tensorflow_datasets as tfds

    train = tfds.load("coco_showattend/2014", split="train")
    ```
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name="karpathy", description="The splits of Karpathy and Fei-Fei."),
        tfds.core.BuilderConfig(name="2014", description="The official splits of 2014."),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "karpathy"
    # Without any, TFDS gives no access to `manual_dir`.
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Optional: what lies here isn't downloaded. The archives train2014.zip, val2014.zip and
    annotations_trainval2014.zip (configuration "2014") or caption_datasets.zip ("karpathy"), or
    what was extracted from them: train2014/, val2014/, annotations/, dataset_coco.json.
    """

    _on_beam = False

    def download_and_prepare(self, *, download_dir=None, download_config=None, **kwargs):
        # TFDS doesn't tell `_generate_examples` whether the user gave it Beam options.
        self._on_beam = download_config is not None and (
            download_config.beam_runner is not None or download_config.beam_options is not None
        )
        super().download_and_prepare(download_dir=download_dir, download_config=download_config, **kwargs)

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "file_name": tfds.features.Text(),
                    "image_id": np.int64,
                    "captions": tfds.features.Sequence(
                        {"id": np.int64, "text": tfds.features.Text(), "position": np.int64}
                    ),
                }
            ),
            homepage="https://cocodataset.org",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        read, archive = _READERS[self.builder_config.name]
        files = find_files(dl_manager, [*FOLDERS, archive])
        splits = read(files[archive])
        for split, (images, uncaptioned) in splits.items():
            # A missing photograph shows before the first hour of work.
            _check_photographs(images, files)
            if uncaptioned:
                _logger.warning("coco_showattend: %d images of %r have no captions: left out.", uncaptioned, split)
        self.info.metadata["images_without_captions"] = {name: split.uncaptioned for name, split in splits.items()}
        self.info.metadata["captions"] = {
            name: sum(len(image["captions"]) for image in split.images) for name, split in splits.items()
        }
        return {name: self._generate_examples(files, name, split.images) for name, split in splits.items()}

    def _generate_examples(self, files, split, images):
        if self._on_beam:
            return _beam_examples(files, split, *_READERS[self.builder_config.name])
        return (_example(image, files) for image in images)


def _check_photographs(images, files):
    for folder in FOLDERS:
        wanted = [image for image in images if image["folder"] == folder]
        there = files[folder].names(folder) if wanted else ()
        missing = [image for image in wanted if image["file_name"] not in there]
        if missing:
            raise ValueError(
                f"The file of every image with captions must be there. Received: {str(files[folder].path)!r}, which "
                f"lacks {len(missing)} of {len(wanted)}, the first one '{folder}/{missing[0]['file_name']}' "
                f"(image id {missing[0]['image_id']})."
            )


def _example(image, files):
    folder, file_name = image["folder"], image["file_name"]
    return image["image_id"], {
        "image": files[folder].read(f"{folder}/{file_name}"),
        "file_name": file_name,
        "image_id": image["image_id"],
        "captions": image["captions"],
    }


def _beam_examples(files, split, read, archive):
    """The same as a Beam transform, of functions that need no builder: they are sent to workers."""
    try:
        import apache_beam as beam
    except ImportError as error:
        raise ImportError(
            "`beam_runner` and `beam_options` need Apache Beam: pip install 'keras-showattend[beam]'."
        ) from error

    # The captions of 83,000 images would make the pipeline itself tens of megabytes, more than some
    # runners take: a worker reads the file once more, and passes the images on.
    return (
        beam.Create([archive])
        | "Images" >> beam.FlatMap(lambda name: read(files[name])[split].images)
        | beam.Reshuffle()
        | "Examples" >> beam.Map(_example, files)
    )
