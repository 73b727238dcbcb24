"""Features of many images on disk, computed once."""

import os

import numpy as np

from keras_showattend.features.batches import caption_batches
from keras_showattend.features.building import StoreBuilder
from keras_showattend.features.manifest import COPY, MANIFEST, DamagedStoreError, read_manifest
from keras_showattend.features.shards import captions_name, damaged_files, numpy_dtype, open_features, read_captions


class FeatureStore:
    """A folder of image features with their captions, memory-mapped.

    `FeatureStore.build` computes what is missing and opens the store, `FeatureStore.open` opens
    what is there, `subset` gives a view of some of the images (the training split, say).

    On disk, a store is `manifest.json` with a copy of it and, for each shard, `features-NNNNN.npy` and
    `captions-NNNNN.jsonl`.

    Attributes:
        path: The folder.
        grid: `(rows, columns)` of the locations.
        locations: Their number `L`.
        width: The feature width `D`.
        dtype: NumPy dtype of the features.
        extractor: Fingerprint of the extractor that computed them, a dict.
        skipped: `{image_id: reason}` of the images that could not be read.
        image_ids: Ids of the images, in order.

    Example:
    ```python
    import numpy as np
    from keras_showattend.features import FeatureExtractor, FeatureStore

    photograph = np.zeros((240, 320, 3), "uint8")
    examples = [{"image_id": 7, "image": photograph, "captions": ["a black picture"]}]
    store = FeatureStore.build("/tmp/features", examples, FeatureExtractor("patches"))
    store.features([7]).shape  # (1, 64, 184)
    store.captions(7)          # ["a black picture"]
    ```
    """

    def __init__(self, path, manifest, shards, captions, image_ids=None):
        """Not for users: see `build` and `open`."""
        self.path = path
        self.grid = tuple(manifest["grid"])
        self.locations = manifest["locations"]
        self.width = manifest["width"]
        self.dtype = numpy_dtype(manifest["dtype"])
        self.extractor = manifest["extractor"]
        self.skipped = {entry["image_id"]: entry["reason"] for entry in manifest["skipped"]}
        self.image_ids = list(captions) if image_ids is None else image_ids
        self._manifest = manifest
        self._shards = shards
        self._captions = captions
        self._members = set(self.image_ids)
        # Shard s holds the images from starts[s] on, of all the images in the order of `captions`.
        sizes = [shard["images"] for shard in manifest["shards"]]
        self._starts = np.cumsum([0, *sizes])[:-1]
        self._position = {image_id: index for index, image_id in enumerate(captions)}

    @classmethod
    def build(
        cls,
        path,
        examples,
        extractor,
        batch_size=64,
        shard_size=1024,
        dtype="float16",
        on_error="raise",
        verbose=1,
    ):
        """Computes the features that are not in the store yet, and opens it.

        What a store holds already is not computed again: a build that was interrupted goes on
        after its last finished shard, one with more images adds them, and one of a damaged store
        computes the damaged shards again (all bytes are read to find them). The images themselves
        are known by their ids: one whose pixels changed needs another id or another folder.

        Args:
            path: Folder of the store, made where it does not exist.
            examples: Sequence or iterable of dicts with `image_id` (int or str), `image` (a path,
                the bytes of an image file, or a uint8 array) and `captions` (list of str).
            extractor: A `FeatureExtractor`.
            batch_size: Int, images in each run of the backbone.
            shard_size: Int, images in each file.
            dtype: "float16", "bfloat16" or "float32", on disk.
            on_error: What an image that can't be read does: "raise" ends the build, "skip" notes
                it in `skipped` and goes on.
            verbose: 1 for a progress bar, 0 for silence.

        Returns:
            The store, with the images of `examples` in their order. If the folder holds others
            too, they are seen by `FeatureStore.open` only.

        Raises:
            ValueError: If an example is not as described, an id occurs twice, the features overflow
                `dtype`, the folder holds features of another extractor, of another dtype or with
                other captions, or an image can't be read.
            FileNotFoundError: If there is no image file at a path.
            OSError: If the folder can't be written, the disk is too small, or another build is at work
                in the folder.
        """
        path = os.fspath(path)
        builder = StoreBuilder(path, extractor, batch_size, shard_size, dtype, on_error, verbose)
        order = builder.run(examples)
        return cls.open(path).subset(order)

    @classmethod
    def open(cls, path):
        """Opens a store; sizes and shapes are checked, checksums are left to `verify`.

        Args:
            path: Folder of the store.

        Returns:
            The store, with all of its images.

        Raises:
            FileNotFoundError: If there is no store.
            ValueError: If a file is missing or damaged; the message names it.
        """
        path = os.fspath(path)
        manifest = read_manifest(path)
        shards, captions = [], {}
        for number, shard in enumerate(manifest["shards"]):
            shards.append(open_features(path, number, manifest))
            for image_id, texts in read_captions(path, number, shard["images"]):
                if image_id in captions:
                    raise DamagedStoreError(
                        f"{path} holds image_id={image_id!r} twice, the second time in {captions_name(number)}."
                    )
                captions[image_id] = texts
        return cls(path, manifest, shards, captions)

    def verify(self):
        """Reads every byte of the store and compares the checksums; `build` repairs what is damaged.

        Raises:
            ValueError: If files are damaged or missing; the message names each of them.
        """
        damaged = {}
        for name in (MANIFEST, COPY):
            try:
                if read_manifest(self.path, name) != self._manifest:
                    damaged[name] = "changed since the store was opened"
            except (FileNotFoundError, DamagedStoreError) as error:
                damaged[name] = str(error)
        for number, shard in enumerate(self._manifest["shards"]):
            damaged |= damaged_files(self.path, number, shard)
        if damaged:
            named = ", ".join(f"{name} ({what})" for name, what in damaged.items())
            raise DamagedStoreError(f"The feature store at {self.path!r} is damaged: {named}.")

    def subset(self, image_ids):
        """A view of some of the images; nothing is copied.

        Args:
            image_ids: Ids, in the order that the view shall have.

        Returns:
            A `FeatureStore`.

        Raises:
            ValueError: If an id is not in the store, or occurs twice.
        """
        image_ids = [self._known(image_id) for image_id in image_ids]
        if len(set(image_ids)) != len(image_ids):
            raise ValueError("`image_ids` must not hold an id twice.")
        return FeatureStore(self.path, self._manifest, self._shards, self._captions, image_ids)

    def features(self, image_ids):
        """Reads the features of some images.

        Args:
            image_ids: Ids; one may occur more than once.

        Returns:
            Array `(N, L, D)` in `dtype`, in the order of the ids.

        Raises:
            ValueError: If an id is not in the store.
        """
        positions = np.array([self._position[self._known(key)] for key in image_ids], "int64")
        out = np.empty((len(positions), self.locations, self.width), self.dtype)
        # Front to back through the files, whatever the order of the ids.
        order = np.argsort(positions, kind="stable")
        shards = np.searchsorted(self._starts, positions[order], side="right") - 1
        for shard in np.unique(shards):
            rows = order[shards == shard]
            array = self._shards[shard][positions[rows] - self._starts[shard]]
            out[rows] = array.view(self.dtype)
        return out

    def captions(self, image_id):
        """The captions of an image.

        Args:
            image_id: Id.

        Returns:
            List of str.

        Raises:
            ValueError: If the id is not in the store.
        """
        return list(self._captions[self._known(image_id)])

    def batches(
        self,
        tokenizer,
        batch_size,
        captions_per_image=None,
        bucket_lengths=None,
        shuffle=True,
        seed=0,
    ):
        """Batches of features and tokens for `fit`, `evaluate` and the like.

        Each batch is a pair of features `(n, L, D)` and tokens `(n, G, T)`, int32. Examples are
        gathered in buckets by their longest caption, so that T takes a few values only; what does not
        fill a batch goes to the next longer bucket. All of an epoch's captions occur in it once; only
        one batch may be smaller.

        The features keep the dtype of the store: float16 halves what is copied to the device, and Keras
        casts it there to the compute dtype of the model that is called.

        Args:
            tokenizer: Object whose `encode(list of str)` gives int32 `(N, T)`, start and end ids
                included, padded with zeros at the end.
            batch_size: Int, images (groups of captions) in a batch.
            captions_per_image: None for all captions of an image in one example, G being the largest
                number that an image has. Int `k` for groups of `k` captions, an image with more of them
                occurring several times; `k = 1` is one caption an example. What is missing in a group
                is filled with all-zero captions, which weigh nothing.
            bucket_lengths: Ascending values of T, the last as long as the longest caption or longer.
                None chooses up to eight, those that leave an epoch the fewest steps.
            shuffle: Whether each epoch has an order of its own. `fit` shuffles a `PyDataset` again, by
                default: with `fit(..., shuffle=False)` the order is this one everywhere.
            seed: Int >= 0, decides these orders.

        Returns:
            On TensorFlow a `tf.data.Dataset`, elsewhere a `keras.utils.PyDataset`. `len()` is the
            number of batches.

        Raises:
            ValueError: If an argument breaks these rules; if an image has fewer than
                `captions_per_image` captions.

        Example:
        ```python
        import keras_showattend

        captions = [text for image_id in store.image_ids for text in store.captions(image_id)]
        tokenizer = keras_showattend.CaptionTokenizer.fit(captions)
        captioner.fit(store.batches(tokenizer, batch_size=64), epochs=10, shuffle=False)
        ```
        """
        return caption_batches(self, tokenizer, batch_size, captions_per_image, bucket_lengths, shuffle, seed)

    def __len__(self):
        return len(self.image_ids)

    def __contains__(self, image_id):
        return image_id in self._members

    def __repr__(self):
        return (
            f"FeatureStore({self.path!r}, images={len(self)}, locations={self.locations}, "
            f"width={self.width}, dtype={self.dtype.name})"
        )

    def _known(self, image_id):
        if image_id not in self._members:
            raise ValueError(
                f"image_id={image_id!r} (type {type(image_id).__name__}) is not in the feature store at {self.path!r}."
            )
        return image_id
