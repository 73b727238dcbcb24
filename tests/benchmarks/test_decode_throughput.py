"""The benchmark of decoding: what is compared writes the same captions, and they end where they should."""

import json
import shlex
import subprocess
import sys

import decode_throughput
import keras
import numpy as np
import pytest
from caption_writers import (
    GREEDY,
    NAMES,
    NOTEBOOK,
    OURS,
    PYTHON_BEAM,
    bytes_of_decoding,
    draw_caption_lengths,
    ending_captioner,
    features_of_lengths,
    operations_of_image,
    writer,
)
from harness.sizes import Sizes
from keras import ops

TENSORFLOW = keras.backend.backend() == "tensorflow"
SIZES = Sizes(locations=4, feature_width=8, embed_dim=9, units=16, vocabulary=40, mean_length=7, longest=12)
LENGTHS = np.array([3, 11, 1, 6, 10])
TINY = shlex.split("""
    --batch-sizes 1 2 --images 3 --locations 4 --feature-width 8 --embed-dim 5 --units 6 --vocabulary 20
    --mean-length 4 --max-length 5 --repetitions 1 --matmul-size 32
""")
BEAM = "ours, beam 5"


@pytest.fixture(scope="module")
def captioner():
    return ending_captioner(SIZES)


@pytest.fixture(scope="module")
def features():
    return features_of_lengths(SIZES, LENGTHS)


def write(name, captioner, features, batch_size=5):
    return writer(name, captioner, batch_size, SIZES.longest - 1)(features)


@pytest.mark.parametrize("name", [name for name in NAMES if TENSORFLOW or name != NOTEBOOK])
def test_captions_end_where_the_features_say(name, captioner, features):
    tokens = write(name, captioner, features)
    assert (tokens.shape, tokens.dtype) == ((5, 11), np.int32)
    for ids, length in zip(tokens, LENGTHS, strict=True):
        assert ids[length - 1] == 3
        assert (ids[: length - 1] > 3).all()
        assert (ids[length:] == 0).all()
    # Neither one word again and again, nor the same words for all images.
    assert len(np.unique(tokens)) > 6
    assert (tokens[1, :5] != tokens[4, :5]).any()


@pytest.mark.skipif(not TENSORFLOW, reason="the notebook's loop is TensorFlow's")
def test_the_notebook_writes_our_greedy_captions(captioner, features):
    np.testing.assert_array_equal(write(NOTEBOOK, captioner, features), write(GREEDY, captioner, features))


@pytest.mark.skipif(TENSORFLOW, reason="on TensorFlow the notebook's loop runs")
def test_the_notebook_needs_tensorflow(captioner, features):
    with pytest.raises(ImportError, match="the notebook's loop needs KERAS_BACKEND=tensorflow"):
        write(NOTEBOOK, captioner, features)


def test_the_python_beam_writes_our_beams_captions(captioner, features):
    ours = write(BEAM, captioner, features)
    np.testing.assert_array_equal(write(PYTHON_BEAM, captioner, features), ours)
    assert (ours != write(GREEDY, captioner, features)).any()


def test_the_python_beam_looks_where_ours_looks(captioner, features):
    from comparators.python_beam import beam_caption

    ours = captioner.generate(features, OURS[BEAM], SIZES.longest - 1)
    ids, seen = beam_caption(captioner, features[1], 5, SIZES.longest - 1)
    assert ids == ours.tokens[1].tolist()
    np.testing.assert_allclose(seen, ours.attention[1], atol=1e-5)
    assert seen.max() > 0.5  # somewhere, not everywhere


@pytest.mark.skipif(not TENSORFLOW, reason="the notebook's loop is TensorFlow's")
def test_the_notebook_looks_where_ours_looks(captioner, features):
    from comparators.notebook_evaluate import evaluate, notebook_layers

    ours = captioner.generate(features, max_length=SIZES.longest - 1)
    ids, seen = evaluate(*notebook_layers(captioner), features[3], SIZES.longest - 1)
    assert len(ids) == 6
    np.testing.assert_allclose(seen, ours.attention[3, :6], atol=1e-5)


def test_a_caption_that_has_no_room_for_its_end_is_cut(captioner, features):
    for name in (GREEDY, PYTHON_BEAM):
        tokens = writer(name, captioner, 5, 5)(features)
        assert tokens.shape == (5, 5)
        assert (tokens[1] > 3).all()
        assert tokens[0, 2] == 3


def test_the_python_beam_of_a_model_worked_by_hand():
    class Model:
        """After the start 4 at 0.6 and 5 at 0.4; after 4 nothing is certain, after 5 the end is nearly."""

        def start_decoding(self, x):
            chances = np.full((6, 6), 1e-9, "float32")
            chances[2, [4, 5]] = 0.6, 0.4
            chances[4, [3, 4, 5]] = 0.4, 0.3, 0.3
            chances[5, [3, 4]] = 0.9, 0.1
            logits = ops.convert_to_tensor(np.log(chances))

            def step(token, state):
                seen = ops.one_hot(token - 2, 4) + state[:, None]
                return ops.take(logits, token, axis=0), state + 1, seen

            return step, ops.zeros((1,))

    from comparators.python_beam import beam_caption

    ids, attention = beam_caption(Model(), np.zeros((4, 2), "float32"), 2, 4)
    assert ids == [5, 3]  # 0.36, against 0.24 of the greedy caption
    # Of its own history: after the start at step 0, after 5 at step 1.
    np.testing.assert_array_equal(attention, [[1, 0, 0, 0], [1, 1, 1, 2]])
    assert beam_caption(Model(), np.zeros((4, 2), "float32"), 1, 4)[0] == [4, 3]


def test_lengths_are_those_of_cocos_captions():
    sizes = Sizes(longest=21)
    lengths = draw_caption_lengths(sizes, 10_000)
    # 12.5 tokens without the start id
    assert lengths.mean() == pytest.approx(11.5, abs=0.1)
    assert len(np.unique(lengths)) > 5
    assert lengths.max() <= 20


def test_operations_of_an_image():
    # L 2, D 3, E 5, U 7, V 11. Encoder 2x3x5 and keys 2x5x7: 100 products. For each id and beam queries 7x7, scores
    # 2x7, context 2x5, gates 21x(5+5+7), logits 7x7 + 7x11: 556.
    sizes = Sizes(locations=2, feature_width=3, embed_dim=5, units=7, vocabulary=11)
    assert operations_of_image(sizes, ids=1, width=4) == 2 * (100 + 556)
    assert operations_of_image(sizes, ids=3, width=4) == 2 * (100 + 9 * 556)


def test_memory_grows_with_what_is_decoded():
    base = bytes_of_decoding(Sizes(), images=256, batch_size=64, width=5, models=1)
    assert base > 4 * 256 * 64 * 2048
    assert bytes_of_decoding(Sizes(), 512, 64, 5, 1) > base
    assert bytes_of_decoding(Sizes(), 256, 128, 5, 1) > base
    assert bytes_of_decoding(Sizes(), 256, 64, 10, 1) > base
    assert bytes_of_decoding(Sizes(), 256, 64, 5, 2) == base + 4 * Sizes().parameters()


def test_a_tiny_run_leaves_json_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, decode_throughput.__file__, *TINY, "--output", str(tmp_path)]
    command += ["--only", NOTEBOOK, PYTHON_BEAM, BEAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["decode_throughput.json", "decode_throughput.png"]
    result = json.loads((tmp_path / "decode_throughput.json").read_text())
    assert {"processor", "backend", "devices", "versions", "date"} <= set(result["machine"])
    assert (result["images"], result["max_length"], result["sizes"]["units"]) == (3, 5, 6)
    assert result["ids_of_caption"]["longest"] <= 5
    rows = {row["label"]: row for row in result["contenders"]}
    ours = [f"{BEAM}, B {size}" for size in (1, 2)]
    assert list(rows) == [*([NOTEBOOK] if TENSORFLOW else []), PYTHON_BEAM, *ours]
    assert all(row["same_captions"] == 1 for row in rows.values())
    assert rows[ours[1]]["ratio_to_python_beam"] == pytest.approx(
        rows[ours[1]]["images_per_second"] / rows[PYTHON_BEAM]["images_per_second"]
    )
    assert rows[PYTHON_BEAM]["steps_waited"] == rows[ours[0]]["steps_waited"] == 0
    if TENSORFLOW:
        assert result["failures"] == {}
        greedy, beam = result["goals"]
        assert greedy["ratio"] is None
        assert beam["ratio"] == max(rows[label]["ratio_to_notebook"] for label in ours)
    else:
        assert result["failures"] == {NOTEBOOK: "ImportError: the notebook's loop needs KERAS_BACKEND=tensorflow"}
        assert [goal["ratio"] for goal in result["goals"]] == [None, None]
        assert f"Not measured: {NOTEBOOK}:" in done.stdout
        assert "not measured" in done.stdout
    assert f"| {ours[1]}" in done.stdout


@pytest.fixture
def run_here(monkeypatch):
    """Run the script in this process, for what ends before a measurement or does without."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["decode_throughput", *TINY, *map(str, flags)])
        decode_throughput.main()

    return run


def test_a_contender_that_fails_does_not_stop_the_others(run_here, monkeypatch, capsys):
    def written(name, captioner, batch_size, max_length):
        if name == PYTHON_BEAM:
            raise RuntimeError("it can't be made\nand a long story")

        def fail(features):
            raise RuntimeError("it can't be run")

        return fail if name == GREEDY else lambda features: np.ones((len(features), max_length), "int32")

    monkeypatch.setattr(decode_throughput, "writer", written)
    run_here("--full-length")
    printed = capsys.readouterr().out
    assert f"Not measured: {PYTHON_BEAM}: RuntimeError: it can't be made\n" in printed
    assert f"Not measured: {GREEDY}, B 2: RuntimeError: it can't be run\n" in printed
    assert f"| {BEAM}, B 2 " in printed
    assert "captions of 5.0 ids on average and 5 at most" in printed
    assert f"Goal: {GREEDY}, at least 100 times the images/s of {NOTEBOOK}: not measured." in printed
    assert f"Goal: {BEAM}, at least 25 times" in printed


def test_where_all_fail_there_is_json_and_no_picture(run_here, monkeypatch, tmp_path, capsys):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(decode_throughput, "writer", fail)
    run_here("--output", tmp_path, "--only", PYTHON_BEAM)
    assert [file.name for file in tmp_path.iterdir()] == ["decode_throughput.json"]
    result = json.loads((tmp_path / "decode_throughput.json").read_text())
    assert result["failures"] == {PYTHON_BEAM: "MemoryError: no message"}
    assert result["contenders"] == []
    assert "See" in capsys.readouterr().out


def test_the_goals_take_the_best_batch_size():
    def row(name, size, rate):
        return {"label": f"{name} {size}", "name": name, "batch_size": size, "images_per_second": rate}

    rows = [row(NOTEBOOK, 1, 2.0), row(PYTHON_BEAM, 1, 4.0)]
    rows += [row(BEAM, 1, 20.0), row(BEAM, 8, 60.0), row(BEAM, 64, 40.0)]
    tokens = np.array([[5, 3], [6, 3]])
    written = {row["label"]: tokens for row in rows} | {f"{BEAM} 64": np.array([[5, 3], [7, 3]])}
    decode_throughput._compare(rows, written)
    assert [row["ratio_to_notebook"] for row in rows] == [1, 2, 10, 30, 20]
    assert [row["ratio_to_python_beam"] for row in rows] == [0.5, 1, 5, 15, 10]
    assert [row["same_captions"] for row in rows] == [1, 1, 1, 1, 0.5]
    goal = decode_throughput._goal(BEAM, 25, rows)
    assert goal["ratio"] == 30
    assert goal["sentence"].endswith("30.0 at B 8, reached.")
    assert decode_throughput._goal(BEAM, 31, rows)["sentence"].endswith("missed.")


def test_waiting_is_what_shorter_captions_wait_for(captioner):
    class Measured:
        name, captions_per_second, slowest, fastest, first_call_seconds = "x", 2.0, 1.0, 3.0, [4.0]

    lengths = np.array([2, 6, 3, 3])
    # 14 of 2 x 6 + 2 x 3 steps
    found = decode_throughput._summary(Measured, GREEDY, 2, SIZES, lengths, 1e6)
    assert found["steps_waited"] == pytest.approx(4 / 18)
    operations = sum(operations_of_image(SIZES, n, 1) for n in lengths) / 4
    assert found["share_of_floor"] == pytest.approx(2 * operations / 1e6)
    assert decode_throughput._summary(Measured, GREEDY, 1, SIZES, lengths, None)["share_of_floor"] is None


def test_an_output_that_cannot_be_written_is_refused_first(run_here, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match="2"):
        run_here("--output", file / "below")
    printed = capsys.readouterr()
    assert "--output must be a folder that can be written to." in printed.err
    assert printed.out == ""


def test_too_large_sizes_are_refused_before_anything_is_allocated(run_here, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_here("--images", 2**20, "--locations", 2**20, "--feature-width", 2048)
    printed = capsys.readouterr()
    assert "Decoding would need about" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repetitions", 0], "--repetitions, --matmul-size and --batch-sizes must be at least 1."),
        (["--batch-sizes", 2, 0], "--repetitions, --matmul-size and --batch-sizes must be at least 1."),
        (["--images", 1], "--images must be at least the largest of --batch-sizes. Received: 1."),
        (["--units", 1], "--units must be at least 2: two of them end the captions. Received: 1."),
        (["--mean-length", 9], "must lie between 4 and --max-length + 1. Received: --mean-length 9.0 --max-length 5."),
        (["--locations", 0], "--locations must be at least 1. Received: 0."),
        (["--only", "theirs"], "invalid choice: 'theirs'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(run_here, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        run_here(*flags)
    assert message in capsys.readouterr().err
