import itertools

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.features.batches import MOST_BUCKETS, CaptionBatches, choose_bucket_lengths


class Numbers:
    """A caption is a row of numbers; its tokens are these."""

    def encode(self, captions):
        rows = [[2, *map(int, caption.split()), 3] for caption in captions]
        width = max(map(len, rows))
        return np.array([row + [0] * (width - len(row)) for row in rows], "int32")


class FakeStore:
    """Captions in memory; the features of an image are its id."""

    def __init__(self, captions):
        self._captions = captions
        self.image_ids = list(captions)
        self.locations, self.width, self.dtype = 1, 1, np.dtype("float32")

    def __len__(self):
        return len(self.image_ids)

    def captions(self, image_id):
        return self._captions[image_id]

    def features(self, image_ids):
        return np.array(image_ids, "float32").reshape(-1, 1, 1)


def make_batches(captions, batch_size=2, group=None, lengths=None, shuffle=True, seed=0):
    return CaptionBatches(FakeStore(captions), Numbers(), batch_size, group, lengths, shuffle, seed)


def read_epoch(batches, epoch=0):
    return [batches.read(length, examples) for length, examples in batches.plan(epoch)]


def pairs(read):
    """Every (image id, caption) of an epoch, sorted."""
    found = []
    for features, tokens in read:
        for feature, group in zip(features, tokens, strict=True):
            for caption in group[group.any(axis=1)]:
                words = caption[: np.count_nonzero(caption)]
                assert (words[0], words[-1]) == (2, 3)
                found.append((int(feature.item()), " ".join(map(str, words[1:-1]))))
    return sorted(found)


@st.composite
def data_sets(draw):
    words = st.integers(4, 99).map(str)
    caption = st.lists(words, min_size=1, max_size=9).map(" ".join)
    images = st.lists(st.lists(caption, min_size=1, max_size=5), min_size=1, max_size=12)
    return dict(enumerate(draw(images)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    captions=data_sets(),
    batch_size=st.integers(1, 5),
    group=st.none() | st.integers(1, 5),
    lengths=st.none() | st.sets(st.integers(2, 10), max_size=3).map(lambda s: [*sorted(s), 11]),
    shuffle=st.booleans(),
    seed=st.integers(0, 9),
)
def test_an_epoch_holds_every_caption_once_beside_its_image(captions, batch_size, group, lengths, shuffle, seed):
    if group is not None:
        group = min(group, min(map(len, captions.values())))
    options = (captions, batch_size, group, lengths, shuffle, seed)
    batches = make_batches(*options)
    epochs = [read_epoch(batches, epoch) for epoch in range(2)]
    expected = sorted((key, text) for key, texts in captions.items() for text in texts)
    for epoch in epochs:
        assert pairs(epoch) == expected
        assert len(epoch) == len(batches)
        # One size of a batch for XLA, but for one that is smaller.
        assert sum(len(features) < batch_size for features, _ in epoch) <= 1
        for features, tokens in epoch:
            assert 1 <= len(features) == len(tokens) <= batch_size
            assert tokens.dtype == np.int32
            assert tokens.shape[1] == (group or max(map(len, captions.values())))
            assert tokens.shape[2] in batches.bucket_lengths
    if lengths is None:
        longest = max(len(text.split()) for texts in captions.values() for text in texts)
        assert batches.bucket_lengths[-1] == longest + 2
    else:
        assert set(batches.bucket_lengths) <= set(lengths)
    again = make_batches(*options)
    for epoch, read in enumerate(epochs):
        for first, second in zip(read, read_epoch(again, epoch), strict=True):
            for one, other in zip(first, second, strict=True):
                np.testing.assert_array_equal(one, other)


MANY = {index: [f"{4 + index}"] for index in range(40)}


def order(batches, epoch):
    return [features.ravel().tolist() for features, _ in read_epoch(batches, epoch)]


def test_seed_and_epoch_decide_the_order():
    batches = make_batches(MANY, batch_size=4)
    assert order(batches, 0) != order(batches, 1)
    assert order(batches, 0) != order(make_batches(MANY, batch_size=4, seed=1), 0)
    still = make_batches(MANY, batch_size=4, shuffle=False)
    assert order(still, 0) == order(still, 1) == np.arange(40.0).reshape(10, 4).tolist()


def test_buckets_worked_by_hand():
    # With start and end the captions have 3, 4 and 6 tokens; image 1 has a shorter one as well.
    captions = {0: ["4"], 1: ["5 6", "7"], 2: ["8 9 10 11"]}
    batches = make_batches(captions, batch_size=1, lengths=[3, 5, 8, 9], shuffle=False)
    assert batches.bucket_lengths == [3, 5, 8]
    tokens = [tokens.tolist() for _, tokens in read_epoch(batches)]
    assert tokens == [
        [[[2, 4, 3], [0, 0, 0]]],
        [[[2, 5, 6, 3, 0], [2, 7, 3, 0, 0]]],
        [[[2, 8, 9, 10, 11, 3, 0, 0], [0] * 8]],
    ]


def steps_of_an_epoch(longest, lengths):
    return sum(min(length for length in lengths if length >= tokens) - 1 for tokens in longest)


@settings(max_examples=60, deadline=None)
@given(
    longest=st.lists(st.integers(2, 10), min_size=1, max_size=60).map(np.array),
    batch_size=st.integers(1, 6),
)
def test_chosen_lengths_leave_the_fewest_steps(longest, batch_size):
    lengths = choose_bucket_lengths(longest, batch_size).tolist()
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == longest.max()
    shorter = set(longest.tolist()) - {longest.max()}

    def least(count):
        choices = itertools.combinations(shorter, count - 1)
        return min((steps_of_an_epoch(longest, [*chosen, longest.max()]) for chosen in choices), default=np.inf)

    count = len(lengths)
    assert steps_of_an_epoch(longest, lengths) == least(count)
    # Each length is worth its program, and one more would not be.
    worth = max(0.01 * len(longest), 2 * batch_size) * (longest - 1).mean()
    if count > 1:
        assert least(count - 1) - least(count) >= worth - 1e-9
    if count < MOST_BUCKETS:
        assert least(count) - least(count + 1) < worth + 1e-9


def test_lengths_worked_by_hand():
    # In one length these take 100 x 8 steps, in [3, 9] 89 x 2 + 11 x 8 = 266 and in [3, 5, 9] 254; the mean is 2.54. So
    # a length is worth its program where it spares 2 batches of 2.54 steps each: 5.08, 10.16, 20.32, 762 steps.
    longest = np.array([3] * 89 + [5] * 3 + [9] * 8)
    for batch_size, expected in ((1, [3, 5, 9]), (2, [3, 5, 9]), (4, [3, 9]), (150, [9])):
        assert choose_bucket_lengths(longest, batch_size).tolist() == expected
    assert choose_bucket_lengths(np.array([7, 7, 7]), 1).tolist() == [7]
    assert len(choose_bucket_lengths(np.repeat(np.arange(3, 23), 1000), 8)) == 8


def test_what_does_not_fill_a_batch_goes_to_the_next_longer_bucket():
    lengths = [3, 3, 3, 4, 4, 6, 6, 6]
    captions = {index: [" ".join(["7"] * (length - 2))] for index, length in enumerate(lengths)}
    batches = make_batches(captions, batch_size=2, lengths=[3, 4, 6], shuffle=False)
    images = [(tokens.shape[-1], features.ravel().tolist()) for features, tokens in read_epoch(batches)]
    assert images == [(3, [0, 1]), (4, [2, 3]), (6, [4, 5]), (6, [6, 7])]


def test_each_caption_is_tokenized_once():
    class Counting(Numbers):
        seen = 0

        def encode(self, captions):
            self.seen += len(captions)
            return super().encode(captions)

    tokenizer = Counting()
    batches = CaptionBatches(FakeStore(MANY), tokenizer, 4, None, None, True, 0)
    for epoch in range(3):
        read_epoch(batches, epoch)
    assert tokenizer.seen == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"group": 0}, "`captions_per_image` must be a positive integer"),
        ({"group": 2}, "Received: captions_per_image=2, but image_id=8 has 1"),
        ({"lengths": [9, 5]}, r"`bucket_lengths` must be ascending integers.*\[9, 5\]"),
        ({"lengths": []}, "`bucket_lengths` must be ascending"),
        ({"lengths": ["a"]}, "`bucket_lengths` must be ascending"),
        ({"lengths": [2, 4]}, r"must reach the longest caption, which has 5 tokens"),
        ({"lengths": 9}, "`bucket_lengths` must be a list of integers. Received: bucket_lengths=9"),
        ({"seed": -1}, "`seed` must be an integer of at least 0. Received: seed=-1"),
        ({"captions": {}}, "must hold at least one image"),
    ],
)
def test_errors(options, message):
    options = {"captions": {7: ["4 5 6", "4"], 8: ["5"]}, **options}
    with pytest.raises(ValueError, match=message):
        make_batches(**options)


def test_a_tokenizer_of_another_shape_is_refused():
    class Flat:
        def encode(self, captions):
            return np.zeros(3, "int32")

    with pytest.raises(ValueError, match=r"`tokenizer.encode` must give integers.*\(3,\)"):
        CaptionBatches(FakeStore(MANY), Flat(), 4, None, None, True, 0)


class Summing(keras.Model):
    """Eats features and tokens of any T, as a captioner does."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, features):
        return self.dense(features)[:, :1]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        real = keras.ops.cast(y != 0, y_pred.dtype)
        return keras.ops.mean(keras.ops.square(y_pred - keras.ops.sum(real, -1)[:, None]))


@pytest.fixture
def store(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.AveragePooling2D(4)])
    images = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3)).astype("uint8")
    examples = [
        {"image_id": i, "image": image, "captions": ["4 5", " ".join(["6"] * (i + 1))]}
        for i, image in enumerate(images)
    ]
    return lambda dtype: FeatureStore.build(tmp_path / dtype, examples, FeatureExtractor(model), dtype=dtype, verbose=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_fit_eats_them(store, dtype):
    data = store(dtype).batches(Numbers(), batch_size=4)
    kind = "Dataset" if keras.backend.backend() == "tensorflow" else "_BatchSequence"
    assert type(data).__name__.endswith(kind)
    model = Summing()
    model.compile("adam", loss=None)
    history = model.fit(data, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.evaluate(data, verbose=0)


def test_every_iteration_is_a_new_epoch_in_the_same_order_for_the_same_seed(store):
    def epochs():
        data = store("float16").batches(Numbers(), batch_size=2, seed=4)
        found = []
        for _ in range(2):
            if keras.backend.backend() == "tensorflow":
                batches = [(x.numpy(), y.numpy()) for x, y in data]
            else:
                batches = [data[index] for index in range(len(data))]
                data.on_epoch_end()
            assert len(batches) == len(data)
            found.append(batches)
        return found

    first, second = epochs()
    again, _ = epochs()
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    orders = [[y.tolist() for _, y in epoch] for epoch in (first, second)]
    assert orders[0] != orders[1]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's data sets")
def test_no_generator_makes_tensorflow_give_memory_back(store, monkeypatch):
    import tensorflow as tf

    def refuse(*args, **kwargs):
        raise AssertionError("`from_generator` lowers glibc's M_TRIM_THRESHOLD for the whole process")

    monkeypatch.setattr(tf.data.Dataset, "from_generator", refuse)
    data = store("float16").batches(Numbers(), batch_size=4)
    assert len(list(data)) == len(data) == 3
