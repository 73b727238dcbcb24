"""The GPU benchmark runs and leaves what it says; how fast anything is, no test asks."""

import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import gpu_throughput
import keras
import numpy as np
import pytest
from fit_batches import order_of_buckets
from gpu_measurements import Measurements
from harness.batches import Bucket
from harness.sizes import Sizes

TINY = shlex.split("""
    --policies float32 --batch-size 4 --largest-batch 4 --locations 4 --feature-width 8 --embed-dim 8 --units 8
    --vocabulary 20 --mean-length 4 --longest 4 --repetitions 1 --fit-steps 1 --matmul-size 32 --epochs 1
    --epoch-captions 12 --whole-run --backbone patches --image-size 32 --image-batches 2
""")


def test_a_tiny_run_leaves_json_and_picture(tmp_path):
    backend = keras.backend.backend()
    command = [sys.executable, gpu_throughput.__file__, *TINY, "--backends", backend, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {backend}, float32" in done.stdout
    assert (tmp_path / "gpu_throughput.png").stat().st_size > 0
    result = json.loads((tmp_path / "gpu_throughput.json").read_text())
    assert result["notebook_captions"] == 12
    assert result["skipped"] == {}
    (entry,) = result["entries"]
    assert (entry["backend"], entry["policy"], entry["failure"]) == (backend, "float32", None)
    assert entry["not_measured"] == []
    assert entry["machine"]["backend"] == backend
    assert {"devices", "versions", "date"} <= set(entry["machine"])
    assert entry["sizes"]["units"] == 8
    assert entry["matmul_flops_per_second"] > 0
    (row,) = entry["training"]
    # Four captions, filled up to the next image with five.
    assert row["buckets"][-1]["shape"] == [1, 5, 4]
    assert row["captions_per_second"] > 0
    assert row["share_of_matmul_rate"] > 0
    assert 0 <= row["steps_lost_to_padding"] < 1
    (compared,) = entry["composition"]
    rates = compared["captions_per_second"]
    np.testing.assert_allclose(compared["ratio"], rates["ours"] / rates["composition"])
    places = ["in memory, float16"] if backend == "tensorflow" else ["on the device", "in memory, float16"]
    assert [row["features"] for row in entry["fit"]] == places
    assert entry["whole_run"]["steps"] == 3
    assert entry["whole_run"]["captions"] == 15
    assert entry["images"][0]["images_per_second"] > 0
    best = max(row["captions_per_second"] for row in entry["training"] + entry["fit"])
    assert entry["headline"]["captions_per_second"] == best
    np.testing.assert_allclose(entry["headline"]["notebook_seconds_computed"], 12 / best)


def test_a_backend_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_throughput, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_throughput, "_run", _never)
    with pytest.raises(SystemExit, match="No training was measured"):
        gpu_throughput.main([*TINY, "--backends", "torch", "--output", str(tmp_path)])
    assert "| torch: not installed |" in capsys.readouterr().out
    result = json.loads((tmp_path / "gpu_throughput.json").read_text())
    assert result["skipped"] == {"torch": "not installed"}
    assert result["entries"] == []


def test_what_a_killed_process_measured_stays(tmp_path, monkeypatch, capsys):
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "print('no memory', file=sys.stderr)\n"
        """open(sys.argv[-2], 'a').write('{"training": {"batch_size": 4}}\\n{"training": {"batch')\n"""
        "sys.stderr.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setattr(gpu_throughput, "__file__", str(script))
    entry = gpu_throughput._run([], "jax", "float32", seconds=60)
    assert entry["failure"] == "ended by signal 9: no memory"
    assert entry["training"] == [{"batch_size": 4}]
    assert "no memory" in capsys.readouterr().err


def test_no_process_starts_when_the_time_is_up(monkeypatch):
    monkeypatch.setattr(gpu_throughput.subprocess, "run", _never)
    entry = gpu_throughput._run([], "jax", "float32", seconds=0)
    assert entry["failure"] == "not measured: the time was up"


@pytest.mark.parametrize(
    ("seconds", "units", "message"),
    [(0, 8, "the time was up"), (60, 10**9, "GiB are free")],
)
def test_what_was_not_measured_says_why(seconds, units, message):
    found = []
    measurements = Measurements(
        "float32",
        Sizes(batch_size=4, units=units),
        SimpleNamespace(largest_batch=8, repetitions=1),
        on_gpu=False,
        record=lambda *figure: found.append(figure),
        seconds=seconds,
    )
    # `_train` would allocate 4 GiB for a bias alone.
    assert measurements.attempt("training", measurements._train, 4, False) is None
    ((section, value),) = found
    assert section == "not_measured"
    assert value["what"] == "training"
    assert message in value["why"]


def test_output_that_can_not_be_written_ends_it_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_throughput, "_run", _never)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit):
        gpu_throughput.main([*TINY, "--output", str(file)])
    assert "--output must be a folder that can be written to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repetitions", "0"], "--repetitions must be at least 1. Received: 0."),
        (["--largest-batch", "-1"], "--largest-batch must be at least 1. Received: -1."),
        (["--image-batches", "2", "0"], "--image-batches must be at least 1 each. Received: 0."),
        (["--minutes", "nan"], "--minutes must be a positive number. Received: nan."),
        (["--units", "0"], "--units must be at least 1. Received: 0."),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, message, capsys):
    with pytest.raises(SystemExit):
        gpu_throughput.main([*TINY, *flags])
    assert message in capsys.readouterr().err


def test_buckets_come_as_often_as_their_shares_say():
    buckets = [Bucket(4, 0.5, None), Bucket(6, 0.3, None), Bucket(9, 0.2, None)]
    order = order_of_buckets(buckets, 10)
    assert np.bincount(order).tolist() == [5, 3, 2]
    assert order.tolist() != sorted(order)


def _never(*args, **kwargs):
    raise AssertionError("this must not run")
