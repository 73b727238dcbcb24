"""Batches of features with the tokens of their captions, as `Captioner.fit` eats them."""

import functools
import itertools
import math

import keras
import numpy as np

from keras_showattend.validation import check_integer, check_positive_integer

# XLA compiles once for each length, so there are few: at most this many, and each spares what compiling it costs.
MOST_BUCKETS = 8
_WORTH = 0.01  # of an epoch's steps, and
_WORTH_BATCHES = 2  # as many as so many batches have: compiling takes as long as some twenty, and there are many epochs
# Captions tokenized at a time: each chunk is padded to its own longest caption.
_CHUNK = 8192


def caption_batches(
    store,
    tokenizer,
    batch_size,
    captions_per_image=None,
    bucket_lengths=None,
    shuffle=True,
    seed=0,
):
    """What `FeatureStore.batches` returns, of the same arguments."""
    batches = CaptionBatches(store, tokenizer, batch_size, captions_per_image, bucket_lengths, shuffle, seed)
    if keras.backend.backend() == "tensorflow":
        return _tf_dataset(batches)
    return _BatchSequence(batches)


class CaptionBatches:
    """The batches as NumPy arrays, whatever the backend; see `FeatureStore.batches`.

    Attributes:
        bucket_lengths: The values that T may take, ascending; buckets without examples left out.
        group_size: G.
    """

    def __init__(self, store, tokenizer, batch_size, captions_per_image, bucket_lengths, shuffle, seed):
        check_positive_integer("batch_size", batch_size)
        if captions_per_image is not None:
            check_positive_integer("captions_per_image", captions_per_image)
        check_integer("seed", seed, least=0)
        if len(store) == 0:
            raise ValueError("The feature store must hold at least one image. Received: none.")
        self.store = store
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        counts = [len(store.captions(image_id)) for image_id in store.image_ids]
        if captions_per_image is not None and captions_per_image > min(counts):
            image_id = store.image_ids[int(np.argmin(counts))]
            raise ValueError(
                "`captions_per_image` must not exceed the number of captions of any image. "
                f"Received: captions_per_image={captions_per_image}, but image_id={image_id!r} "
                f"has {min(counts)}."
            )
        self.group_size = captions_per_image or max(counts)
        self._fill_buckets(_encode(store, tokenizer), counts, bucket_lengths)

    def _fill_buckets(self, encoded, counts, bucket_lengths):
        # An example is an image, by its index in the store, with a run of its captions.
        examples = []
        first = 0
        for image, count in enumerate(counts):
            for start in range(0, count, self.group_size):
                stop = min(start + self.group_size, count)
                examples.append((image, encoded[first + start : first + stop]))
            first += count
        longest = np.array([max(map(len, captions)) for _, captions in examples])
        lengths = _bucket_lengths(bucket_lengths, longest, self.batch_size)
        bucket_of = np.searchsorted(lengths, longest)
        self.bucket_lengths = []
        self._buckets = []  # the examples of each
        self._images = np.array([image for image, _ in examples])
        for bucket, length in enumerate(lengths):
            members = np.flatnonzero(bucket_of == bucket)
            if members.size:
                self.bucket_lengths.append(int(length))
                self._buckets.append(members)
        self._tokens = np.zeros((len(examples), self.group_size, self.bucket_lengths[-1]), "int32")
        for row, (_, captions) in enumerate(examples):
            for group, caption in enumerate(captions):
                self._tokens[row, group, : len(caption)] = caption

    def __len__(self):
        return math.ceil(len(self._tokens) / self.batch_size)

    def plan(self, epoch):
        """The batches of an epoch, each a length T and examples; the same for the same epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        plan = []
        rest = np.array([], int)
        for bucket, length in zip(self._buckets, self.bucket_lengths, strict=True):
            examples = np.concatenate([rest, rng.permutation(bucket) if self.shuffle else bucket])
            # Every other batch size is one more program to compile, so what is left goes to the next longer bucket.
            last = length == self.bucket_lengths[-1]
            stop = len(examples) if last else len(examples) // self.batch_size * self.batch_size
            for start in range(0, stop, self.batch_size):
                # The order inside a batch means nothing to training; sorted, it reads the files
                # from front to back.
                plan.append((length, np.sort(examples[start : start + self.batch_size])))
            rest = examples[stop:]
        if self.shuffle:
            plan = [plan[index] for index in rng.permutation(len(plan))]
        return plan

    def read(self, length, examples):
        """One batch: features `(n, L, D)` and tokens `(n, G, T)`."""
        image_ids = [self.store.image_ids[image] for image in self._images[examples]]
        return self.store.features(image_ids), self._tokens[examples, :, :length]


class _BatchSequence(keras.utils.PyDataset):
    """The batches for JAX and torch: `fit` asks for them by number and tells when an epoch ends."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches
        self._epoch = 0
        self._plan = batches.plan(0)

    def __len__(self):
        return len(self._plan)

    def __getitem__(self, index):
        return self._batches.read(*self._plan[index])

    def on_epoch_end(self):
        self._epoch += 1
        self._plan = self._batches.plan(self._epoch)


def _tf_dataset(batches):
    import tensorflow as tf

    store = batches.store
    epochs = itertools.count()
    plan = functools.lru_cache(maxsize=1)(batches.plan)

    def read_numbered(epoch, index):
        return batches.read(*plan(int(epoch))[index])

    def read(epoch, index):
        output = (tf.as_dtype(store.dtype), tf.int32)
        features, tokens = tf.numpy_function(read_numbered, (epoch, index), output, stateful=False)
        # Where T were fixed by the first batches, as in a PyDataset, another T would fail.
        features.set_shape((None, store.locations, store.width))
        tokens.set_shape((None, batches.group_size, None))
        return features, tokens

    def next_epoch(_):
        return tf.ensure_shape(tf.numpy_function(lambda: np.int64(next(epochs)), [], tf.int64), ())

    # Not `from_generator`: batches would be copied twice on their way through it, and it tells glibc to return memory
    # at once, so that the system clears every large array of every training step anew: a tenth of the step's time.
    dataset = tf.data.Dataset.range(1).map(next_epoch)
    dataset = dataset.flat_map(lambda epoch: tf.data.Dataset.range(len(batches)).map(lambda index: (epoch, index)))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return dataset.map(read).prefetch(tf.data.AUTOTUNE)


def _encode(store, tokenizer):
    """The tokens of every caption, once, without padding."""
    captions = [text for image_id in store.image_ids for text in store.captions(image_id)]
    encoded = []
    for start in range(0, len(captions), _CHUNK):
        chunk = captions[start : start + _CHUNK]
        padded = np.asarray(tokenizer.encode(chunk))
        if padded.ndim != 2 or len(padded) != len(chunk) or padded.dtype.kind not in "iu":
            raise ValueError(
                "`tokenizer.encode` must give integers of shape (captions, T). Received: shape "
                f"{padded.shape} and dtype {padded.dtype} for {len(chunk)} captions."
            )
        lengths = np.count_nonzero(padded, axis=1)
        encoded += [tokens[:length] for tokens, length in zip(padded, lengths, strict=True)]
    return encoded


def choose_bucket_lengths(longest, batch_size):
    """The lengths that leave an epoch the fewest steps: as few as do it, and at most `MOST_BUCKETS`.

    An example has a step for each token but the last, padding included. Another length must spare a hundredth of the
    steps that the examples would have without padding, and as many as two batches of them have.

    Args:
        longest: Int array, the tokens of each example's longest caption.
        batch_size: Int, examples in a batch.

    Returns:
        Int array, ascending; the last is the largest of `longest`.
    """
    lengths, counts = np.unique(longest, return_counts=True)
    steps, room = lengths - 1, np.cumsum(counts)  # of each length, and how many examples it has room for
    worth = max(_WORTH * len(longest), _WORTH_BATCHES * batch_size) * np.mean(longest - 1)
    # At [i, j], the steps of what j has room for and i has not, where i is the next shorter length.
    between = np.where(np.triu(np.ones((len(lengths),) * 2), 1), steps * (room - room[:, None]), np.inf)
    # The least steps of all that length j has room for, in so many lengths of which it is the last; one, at first.
    least, shorter = steps * room, []
    while len(shorter) < MOST_BUCKETS - 1:
        in_one_more = least[:, None] + between
        if not least[-1] - in_one_more[:, -1].min() >= worth:
            break
        shorter.append(in_one_more.argmin(axis=0))
        least = in_one_more.min(axis=0)
    chosen = [len(lengths) - 1]
    for before in reversed(shorter):
        chosen.append(before[chosen[-1]])
    return lengths[chosen[::-1]]


def _bucket_lengths(bucket_lengths, longest, batch_size):
    """The values of T, ascending."""
    if bucket_lengths is None:
        return choose_bucket_lengths(longest, batch_size)
    if isinstance(bucket_lengths, str) or not hasattr(bucket_lengths, "__iter__"):
        raise ValueError(f"`bucket_lengths` must be a list of integers. Received: bucket_lengths={bucket_lengths!r}.")
    lengths = list(bucket_lengths)
    ascending = all(first < second for first, second in itertools.pairwise(lengths))
    if not lengths or not all(isinstance(n, (int, np.integer)) for n in lengths) or not ascending:
        raise ValueError(f"`bucket_lengths` must be ascending integers. Received: bucket_lengths={bucket_lengths!r}.")
    if lengths[-1] < longest.max():
        raise ValueError(
            "`bucket_lengths` must reach the longest caption, which has "
            f"{longest.max()} tokens with its start and end. "
            f"Received: bucket_lengths={bucket_lengths!r}."
        )
    return np.array(lengths)
