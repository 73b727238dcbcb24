"""Lengths, buckets, floors, timing and memory of the benchmarks, by numbers that can be worked out by hand."""

import argparse
import itertools

import numpy as np
import pytest
from harness.batches import Bucket, draw_lengths, epoch_buckets, lost_to_padding, padded_batch
from harness.floor import matmul_step, multiply_adds
from harness.memory import HostMemory, step_memory
from harness.report import draw_lines, prepare_output, table, write_json
from harness.sizes import Sizes, add_size_flags, refuse_what_does_not_fit, sizes_from
from harness.sweeps import add_sweep_flags, full_batch, full_captions, sweeps_from
from harness.timing import Contender, measure

SMALL = Sizes(batch_size=12, locations=2, feature_width=3, embed_dim=5, units=7, vocabulary=11, captions_per_image=5)


def assert_well_formed(tokens):
    """Start, words, one end, zeros."""
    for caption in tokens.reshape(-1, tokens.shape[-1]):
        (end,) = np.flatnonzero(caption == 3)
        assert caption[0] == 2
        assert (caption[1:end] >= 4).all()
        assert (caption[1:end] < SMALL.vocabulary).all()
        assert (caption[end + 1 :] == 0).all()


@pytest.mark.parametrize("mean", [6.0, 12.5, 16.0])
def test_drawn_lengths_have_the_mean_that_is_asked_for(mean):
    lengths = draw_lengths(SMALL._replace(mean_length=mean), 100_000, np.random.default_rng(0))
    assert lengths.mean() == pytest.approx(mean, abs=0.05)
    assert lengths.min() >= 3


def test_no_drawn_length_is_beyond_the_longest():
    lengths = draw_lengths(SMALL._replace(longest=14), 10_000, np.random.default_rng(0))
    assert lengths.max() == 14


@pytest.mark.parametrize("group", [None, 5])
def test_buckets_of_an_epoch(group):
    buckets = epoch_buckets(SMALL, group)
    assert sum(bucket.share for bucket in buckets) == pytest.approx(1)
    lengths = [bucket.length for bucket in buckets]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == SMALL.longest
    for bucket in buckets:
        # 12 captions are 3 images of 5 captions, the last of them beyond.
        assert bucket.tokens.shape == ((12,) if group is None else (3, 5)) + (bucket.length,)
        assert bucket.tokens.dtype == np.int32
        assert_well_formed(bucket.tokens)
    # A caption is in the shortest bucket that it fits.
    for shorter, bucket in itertools.pairwise(buckets):
        longest_of_image = (bucket.tokens != 0).sum(-1).reshape(len(bucket.tokens), -1).max(-1)
        assert (longest_of_image > shorter.length).all()


def test_buckets_are_the_same_for_the_same_seed():
    for one, other in zip(epoch_buckets(SMALL, 5), epoch_buckets(SMALL, 5), strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


def test_a_padded_batch_is_as_wide_as_the_longest_caption():
    (bucket,) = padded_batch(SMALL)
    assert (bucket.share, bucket.tokens.shape) == (1, (12, 51))
    assert_well_formed(bucket.tokens)


def test_lost_to_padding():
    buckets = [
        # 3 steps; 2 and 1 predict something, 1.5 on average.
        Bucket(4, 0.5, np.array([[2, 5, 3, 0], [2, 3, 0, 0]])),
        # 2 steps, and both do.
        Bucket(3, 0.5, np.array([[2, 4, 3]])),
    ]
    # 1.75 of 2.5 steps
    assert lost_to_padding(buckets) == pytest.approx(0.3)
    assert lost_to_padding([full_batch(SMALL)]) == 0


def test_multiply_adds():
    # One image, one caption of two tokens, so one step; L 2, D 3, E 5, U 7, V 11; forward and backward together:
    # encoder 2 x 2x3x5, keys 3 x 2x5x7, scores 3 x 2x7, contexts 3 x 2x5, gates 3 x 21x(5+5+7), queries 3 x 7x7,
    # vocabulary 3 x (7x7 + 7x11): 60 + 210 + 42 + 30 + 1071 + 147 + 378 = 1938 products, each with an addition.
    assert multiply_adds(SMALL, images=1, captions=1, length=2, tokens=1) == 2 * 1938
    # Two more captions of the image share its encoder and keys.
    assert multiply_adds(SMALL, images=1, captions=3, length=2, tokens=3) == 2 * (270 + 3 * 1668)
    # One of them is padding: no vocabulary layer, 3 x 7x11, for that.
    assert multiply_adds(SMALL, images=1, captions=3, length=2, tokens=2) == 2 * (270 + 3 * 1668 - 231)


def test_parameters_are_those_of_the_model():
    from keras_showattend import Captioner
    from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

    captioner = Captioner(FeatureEncoder(5), AttentionGRUDecoder(11, 5, 7))
    captioner.build([(None, 2, 3), (None, None)])
    # One more: the bias of the notebook's score layer, which the softmax takes away again.
    assert SMALL.parameters() == captioner.count_params() + 1


def test_the_matmul_step_counts_its_operations():
    step, operations = matmul_step(3)
    step()
    assert operations % (2 * 3**3) == 0


def test_table():
    assert table(["name", "count"], [["a", 10], ["longer", "7"]]).splitlines() == [
        "| name   | count |",
        "| ------ | ----: |",
        "| a      |    10 |",
        "| longer |     7 |",
    ]


def test_written_json_is_whole(tmp_path):
    path = write_json(tmp_path, "result.json", {"a": [1, None]})
    assert path.read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_drawn_lines_leave_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    lines = {"one": ([1, 2], [3, 4]), "other": ([], [])}
    draw_lines(tmp_path / "lines.png", {"B": lines, "L": lines}, "seconds", "title")
    assert (tmp_path / "lines.png").stat().st_size > 0


def test_a_failing_contender_does_not_stop_the_others():
    calls, said = [], []

    def fail():
        raise RuntimeError("no memory\nand a long story")

    contenders = [Contender("bad", [fail], [1.0]), Contender("good", [lambda: calls.append(1)] * 2, [0.5, 0.5])]
    timings, failures = measure(contenders, 3, say=said.append)
    assert failures == {"bad": "RuntimeError: no memory"}
    assert [timing.name for timing in timings] == ["good"]
    # Each of the two steps: twice to burn in, then three times.
    assert len(calls) == 2 * 5
    (good,) = timings
    assert len(good.step_seconds) == len(good.first_call_seconds) == 2
    assert good.slowest <= good.captions_per_second <= good.fastest
    assert any("bad" in line and "no memory" in line for line in said)


class CountingMemory:
    """Says one number more each time it is asked, and the peak when it was asked for last."""

    name = "counted"

    def __init__(self, resets):
        self.resets = resets
        self.asked = 0
        self.steps = 0

    def in_use(self):
        self.asked += 10
        return self.asked

    def forget_peak(self):
        self.steps = 0
        return self.resets

    def peak(self):
        return 1000 * self.steps


@pytest.mark.parametrize("resets", [True, False])
def test_the_first_step_is_not_in_the_peak(resets):
    memory = CountingMemory(resets)

    def step():
        memory.steps += 1

    assert step_memory(step, steps=2, memory=memory) == {
        "before": 10,
        "between": 20,
        "peak": 2000,
        "peak_is_of_steps": resets,
        "memory": "counted",
    }


def test_the_peak_of_the_host_sees_what_a_step_holds():
    held = 256 * 2**20

    def step():
        np.ones(held, "uint8")

    found = step_memory(step, memory=HostMemory())
    if not found["peak_is_of_steps"]:
        pytest.skip("the peak can't be reset here")
    assert found["peak"] - found["between"] == pytest.approx(held, rel=0.1)
    assert found["between"] - found["before"] < held / 2


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_size_flags(parser)
    parser.add_argument("--output")
    add_sweep_flags(parser, locations=[2, 4], longest=[6, 3])
    return parser


def test_sizes_from_flags(parser):
    flags = ["--batch-size", "12", "--locations", "2", "--feature-width", "3", "--embed-dim", "5"]
    sizes = sizes_from(parser, parser.parse_args([*flags, "--units", "7", "--vocabulary", "11"]))
    assert sizes == SMALL


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1. Received: 0."),
        (["--mean-length", "nan"], "--mean-length must be at least 1. Received: nan."),
        (["--mean-length", "60"], "--mean-length must lie between 4 and --longest. Received: --mean-length 60.0"),
        (["--vocabulary", "4"], "--vocabulary must leave room for a word"),
        (["--sweep-lengths", "5", "1"], "--sweep-lengths: must be at least 2. Received: 1."),
        (["--sweep-locations", "many"], "--sweep-locations: invalid int value: 'many'"),
    ],
)
def test_sizes_that_make_no_sense(parser, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        sizes_from(parser, parser.parse_args(flags))
    assert message in capsys.readouterr().err


def test_sweeps_vary_one_size_at_a_time(parser):
    base = full_captions(SMALL)
    assert sweeps_from(parser.parse_args([]), base) == {
        "longest": [base._replace(longest=t, mean_length=t) for t in (3, 6)],
        "locations": [base._replace(locations=n) for n in (2, 4)],
    }
    assert sweeps_from(parser.parse_args(["--sweep-lengths", "--sweep-locations"]), base) == {}


@pytest.mark.parametrize(("group", "shape"), [(None, (12, 9)), (5, (3, 5, 9))])
def test_a_full_batch_has_no_padding(group, shape):
    bucket = full_batch(SMALL._replace(longest=9), group)
    assert (bucket.length, bucket.share, bucket.tokens.shape) == (9, 1, shape)
    assert_well_formed(bucket.tokens)
    assert (bucket.tokens != 0).all()


def test_an_output_folder_is_made(parser, tmp_path):
    assert prepare_output(parser, None) is None
    folder = prepare_output(parser, str(tmp_path / "new" / "folder"))
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_an_output_folder_that_cannot_be_written(parser, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match="2"):
        prepare_output(parser, str(file / "folder"))
    error = capsys.readouterr().err
    assert "--output must be a folder that can be written to. Received:" in error
    assert str(file / "folder") in error


def test_what_does_not_fit_is_refused_with_the_estimate(parser, capsys):
    refuse_what_does_not_fit(parser, 1, "Little")
    with pytest.raises(SystemExit, match="2"):
        refuse_what_does_not_fit(parser, 2**60, "The step")
    assert "The step would need about 1073741824.0 GiB" in capsys.readouterr().err
