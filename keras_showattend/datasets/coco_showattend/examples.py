"""The prepared data set as the examples that the rest of the package reads."""

import numpy as np

from keras_showattend.datasets.draws import check_draw_seed, draw_captions
from keras_showattend.validation import check_positive_integer

# The splits of each configuration.
SPLITS = {"karpathy": ("train", "restval", "validation", "test"), "2014": ("train", "validation")}


class PreparedExamples:
    """The examples of a split, read from the disk in each iteration; see `load_examples`."""

    def __init__(self, builder, split):
        self._builder = builder
        self._split = split

    def __len__(self):
        return self._builder.info.splits[self._split].num_examples

    def __iter__(self):
        for example, _ in _read(self._builder, self._split):
            yield example

    def __repr__(self):
        return f"<PreparedExamples of {self._builder.info.full_name}, {self._split!r}: {len(self)} images>"


class DrawnExamples:
    """Some captions of a split, with the images that have any of them; see `notebook_subset`.

    Attributes:
        captions: int, the number of captions.
    """

    def __init__(self, builder, split, positions):
        self._builder = builder
        self._split = split
        self._is_drawn = np.zeros(builder.info.metadata["captions"][split], bool)
        self._is_drawn[positions] = True
        counts = [self._is_drawn[positions].sum() for positions in _positions(builder, split)]
        self.captions = int(np.sum(counts))
        self._images = int(np.count_nonzero(counts))

    def __len__(self):
        return self._images

    def __iter__(self):
        for example, positions in _read(self._builder, self._split):
            drawn = self._is_drawn[positions]
            if drawn.any():
                kept = [text for text, is_drawn in zip(example["captions"], drawn, strict=True) if is_drawn]
                yield {**example, "captions": kept}

    def __repr__(self):
        return (
            f"<DrawnExamples of {self._builder.info.full_name}, {self._split!r}: {len(self)} images, "
            f"{self.captions} captions>"
        )


def load_examples(split="train", config="karpathy", data_dir=None, download_config=None):
    """Gives the photographs of a split with their captions, prepared first where they aren't yet.

    Imports TensorFlow Datasets and TensorFlow. To prepare is to download 20 GB and to write as much
    to `data_dir`, once; see the data set's description for what is taken from files of your own.

    Args:
        split: str, one of the configuration's splits, several of them as in `"train+restval"`, which
            is what a model is usually trained on, or a part as in `"train[:1000]"` or
            `"validation[:10%]"`.
        config: `"karpathy"`, with the splits train, restval, validation and test, or `"2014"`, with
            the official splits train and validation.
        data_dir: Optional folder of the prepared data sets. Defaults to TFDS's own,
            `~/tensorflow_datasets`.
        download_config: Optional `tfds.download.DownloadConfig`, its `manual_dir` and Apache Beam's
            runner and options, say.

    Returns:
        An iterable with a length, which reads from the disk anew in each iteration, in an order
        that is always the same. Its items, one an image, are dicts:

        - `"image_id"`: int, COCO's id.
        - `"image"`: bytes, the JPEG file.
        - `"captions"`: list of str, in the order of COCO's, or of Karpathy's, file.

    Raises:
        ValueError: If `config` or `split` is none of the above, or a file that the data set is
            prepared from is not as it should be.
        ImportError: If TensorFlow Datasets isn't installed.

    Example (not run in the tests, since it downloads COCO):
    ```py
    from keras_showattend.datasets import coco_showattend
    from keras_showattend.features import FeatureExtractor, FeatureStore

    examples = coco_showattend.load_examples("train+restval")
    store = FeatureStore.build("features", examples, FeatureExtractor("inception_v3"))
    ```
    """
    if config not in SPLITS:
        raise ValueError(f"`config` must be one of {list(SPLITS)}. Received: config={config!r}.")
    # TFDS would say so only after the download.
    names = [part.partition("[")[0].strip() for part in split.split("+")] if isinstance(split, str) else [split]
    if not all(name in SPLITS[config] for name in names):
        raise ValueError(
            f"`split` must be made of {list(SPLITS[config])}, the splits of config={config!r}. "
            f"Received: split={split!r}."
        )
    return PreparedExamples(_prepare(config, data_dir, download_config), split)


def notebook_subset(captions=30_000, seed=1, data_dir=None, download_config=None):
    """Gives the photographs and captions that the 2018 notebook "Image Captioning with Attention" trained on.

    The notebook took `sklearn.utils.shuffle(captions, names, random_state=1)[:30000]` of the
    captions of COCO's official training split. These are the same 30,000: an image may keep only
    some of its own captions, and images without any are left out. `coco_json(..., max_captions=30_000)`
    gives them from the JSON file and a folder of images.

    Imports TensorFlow Datasets and TensorFlow, and prepares the configuration `"2014"` as
    `load_examples` does. Counting the images reads the training split once, here, and each
    iteration reads it again.

    Args:
        captions: Positive int, how many captions to draw.
        seed: Non-negative int below 2**32, seeds the draw.
        data_dir: As in `load_examples`.
        download_config: As in `load_examples`.

    Returns:
        An iterable like that of `load_examples`, whose length is the number of images; its
        attribute `captions` is the number of captions.

    Raises:
        ValueError: If `captions` or `seed` is none of the above, or a file that the data set is
            prepared from is not as it should be.
        ImportError: If TensorFlow Datasets isn't installed.

    Example (not run in the tests, since it downloads COCO):
    ```py
    from keras_showattend.datasets import coco_showattend

    examples = coco_showattend.notebook_subset()
    examples.captions  # 30000
    ```
    """
    captions = check_positive_integer("captions", captions)
    seed = check_draw_seed(seed)
    builder = _prepare("2014", data_dir, download_config)
    positions = draw_captions(builder.info.metadata["captions"]["train"], captions, seed)
    return DrawnExamples(builder, "train", positions)


def _prepare(config, data_dir, download_config):
    from keras_showattend.datasets.coco_showattend.coco_showattend_dataset_builder import Builder

    builder = Builder(config=config, data_dir=data_dir)
    builder.download_and_prepare(download_config=download_config)
    return builder


def _read(builder, split):
    """Yields each example with the positions of its captions."""
    import tensorflow_datasets as tfds

    # The bytes of the file as they are.
    data = builder.as_dataset(split=split, shuffle_files=False, decoders={"image": tfds.decode.SkipDecoding()})
    for example in tfds.as_numpy(data):
        captions = [text.decode("utf-8") for text in example["captions"]["text"]]
        yield (
            {"image_id": int(example["image_id"]), "image": example["image"], "captions": captions},
            example["captions"]["position"],
        )


def _positions(builder, split):
    """Yields the positions of each image's captions; nothing else is unpacked."""
    import tensorflow_datasets as tfds

    wanted = tfds.decode.PartialDecoding({"captions": {"position"}})
    for example in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, decoders=wanted)):
        yield example["captions"]["position"]
