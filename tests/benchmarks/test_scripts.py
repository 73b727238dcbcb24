"""The benchmark scripts run, refuse and leave what they say; how fast or small anything is, no test asks."""

import importlib
import json
import shlex
import subprocess
import sys

import pytest
import train_memory
from contenders import COMPOSITION, GROUPED, SINGLE
from harness.sizes import Sizes

TINY = shlex.split("""
    --batch-size 4 --locations 4 --feature-width 8 --embed-dim 5 --units 6 --vocabulary 20 --captions-per-image 2
    --mean-length 4 --longest 5
""")
# Script, flags of its own, keys of its JSON.
RUNS = {
    "train_throughput": (
        ["--repetitions", "1", "--matmul-size", "32", "--only", SINGLE, GROUPED],
        "machine sizes repetitions jit_compile matmul_flops_per_second contenders failures",
    ),
    "train_memory": (
        ["--steps", "1", "--only", GROUPED, "--sweep-locations", "4", "8", "--sweep-lengths", "--sweep-batches"],
        "machine sizes sweeps jit_compile steps measured targets failures",
    ),
    "scaling": (
        shlex.split(
            "--repetitions 1 --sweep-locations 4 8 --sweep-lengths --sweep-batches --sweep-units 6 --sweep-vocabularies"
        ),
        "machine sizes repetitions jit_compile sweeps failures",
    ),
}


@pytest.fixture
def run_here(monkeypatch):
    """Run a script's `main` in this process, for what ends before a measurement or does without."""

    def run(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        importlib.import_module(script).main()

    return run


@pytest.mark.parametrize("script", RUNS)
def test_a_tiny_run_leaves_json_and_picture(script, tmp_path):
    pytest.importorskip("matplotlib")
    flags, keys = RUNS[script]
    command = [sys.executable, importlib.import_module(script).__file__, *TINY, *flags, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{script}.json", f"{script}.png"]
    result = json.loads((tmp_path / f"{script}.json").read_text())
    assert sorted(result) == sorted(keys.split())
    assert result["failures"] == {}
    assert result["sizes"]["locations"] == 4
    assert {"processor", "backend", "devices", "versions", "date"} <= set(result["machine"])
    check = globals()[f"check_{script}"]
    check(result, done.stdout)


def check_train_throughput(result, printed):
    single, grouped = result["contenders"]
    assert (single["name"], grouped["name"]) == (SINGLE, GROUPED)
    assert single["buckets"][0]["shape"][0] == 4
    assert grouped["buckets"][0]["shape"][:2] == [2, 2]
    assert f"| {SINGLE}" in printed


def check_train_memory(result, printed):
    assert result["sweeps"] == {"locations": [4, 8]}
    # The base is in the sweep, and is measured once.
    assert [(row["locations"], row["captions"]) for row in result["measured"]] == [(4, 4), (8, 4)]
    assert all(row["peak_bytes"] >= row["step_bytes"] for row in result["measured"])
    assert result["targets"]["ratios"] == []
    (growth,) = result["targets"]["growth_with_locations"]
    assert (growth["from"], growth["to"], growth["features_and_keys"]) == (4, 8, 2)
    assert f"| {GROUPED}" in printed


def check_scaling(result, printed):
    locations, units = result["sweeps"]
    assert (locations["field"], units["field"]) == ("locations", "units")
    assert [point["value"] for point in locations["points"]] == [4, 8]
    assert isinstance(locations["exponent"], float)
    assert units["exponent"] is None  # one point has none
    assert printed.count("burning in") == 2


@pytest.mark.parametrize("script", RUNS)
def test_an_output_that_cannot_be_written_is_refused_first(script, run_here, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match="2"):
        run_here(script, *TINY, "--output", file / "below")
    printed = capsys.readouterr()
    assert "--output must be a folder that can be written to." in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("script", RUNS)
def test_too_large_sizes_are_refused_before_anything_is_allocated(script, run_here, capsys):
    # The features alone would be 8 PiB.
    with pytest.raises(SystemExit, match="2"):
        run_here(script, "--batch-size", 2**20, "--locations", 2**20)
    printed = capsys.readouterr()
    assert "would need about" in printed.err
    assert "GiB are free. Make --batch-size" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("script", RUNS)
def test_sizes_that_make_no_sense_are_refused(script, run_here, capsys):
    flag = "--steps" if script == "train_memory" else "--repetitions"
    for flags, message in (["--units", 0], "--units must be at least 1. Received: 0."), ([flag, 0], "at least 1."):
        with pytest.raises(SystemExit, match="2"):
            run_here(script, *TINY, *flags)
        assert message in capsys.readouterr().err


def test_scaling_without_a_sweep_is_refused(run_here, capsys):
    sweeps = [f"--sweep-{name}" for name in ("batches", "lengths", "locations", "units", "vocabularies")]
    with pytest.raises(SystemExit, match="2"):
        run_here("scaling", *TINY, *sweeps)
    assert "sweep" in capsys.readouterr().err


def test_memory_goes_on_when_a_measurement_fails(run_here, monkeypatch, tmp_path, capsys):
    held = {GROUPED: 2, SINGLE: 3}

    def measured(name, sizes, jit_compile, steps):
        if name == COMPOSITION and sizes.locations == 8:
            raise train_memory.ChildError("its process was ended by SIGKILL")
        step = held.get(name, 8) * sizes.locations * 2**20
        return {"before": 5, "between": 7, "peak": 7 + step, "peak_is_of_steps": True, "memory": "made up"}

    monkeypatch.setattr(train_memory, "_measure", measured)
    run_here(
        "train_memory",
        *TINY,
        *["--only", COMPOSITION, SINGLE, GROUPED, "--output", tmp_path],
        *["--sweep-locations", 4, 8, "--sweep-lengths", "--sweep-batches"],
    )
    result = json.loads((tmp_path / "train_memory.json").read_text())
    assert result["failures"] == {f"{COMPOSITION} at B 4, T 5, L 8": "its process was ended by SIGKILL"}
    assert len(result["measured"]) == 5
    assert [row["step_bytes"] / 2**20 for row in result["measured"][:3]] == [32, 12, 8]
    assert [(r["name"], r["ratio"]) for r in result["targets"]["ratios"]] == [(SINGLE, 12 / 32), (GROUPED, 8 / 32)]
    assert [growth["step"] for growth in result["targets"]["growth_with_locations"]] == [2, 2]
    printed = capsys.readouterr().out
    assert "Not measured: Keras RNN of a cell at B 4, T 5, L 8: its process was ended by SIGKILL" in printed
    assert f"{GROUPED}: 0.25 of the step memory of {COMPOSITION} at B 4, T 5, L 4." in printed


def test_a_peak_that_could_not_be_reset_is_told(run_here, monkeypatch, capsys):
    figures = {"before": 2**20, "between": 2**21, "peak": 2**22, "peak_is_of_steps": False, "memory": "made up"}
    monkeypatch.setattr(train_memory, "_measure", lambda *arguments: figures)
    run_here("train_memory", *TINY, "--sweep-locations", "--sweep-lengths", "--sweep-batches")
    printed = capsys.readouterr().out
    assert "could not be reset" in printed
    # From before the first step: 4 - 1 MiB
    assert "|         3 |" in printed


def test_the_error_of_a_measurements_process_comes_back():
    sizes = Sizes(batch_size=2, locations=2, feature_width=2, embed_dim=2, units=0, vocabulary=9, longest=4)
    with pytest.raises(train_memory.ChildError, match="ValueError: `units` must be a positive integer"):
        train_memory._measure(SINGLE, sizes, "auto", 1)


@pytest.mark.parametrize(
    ("status", "errors", "message"),
    [(-9, "", "ended by SIGKILL"), (1, "Traceback\nImportError: no keras", "status 1: ImportError: no keras")],
)
def test_a_measurements_process_that_ends_without_a_word(monkeypatch, status, errors, message):
    ended = subprocess.CompletedProcess([], status, stdout="", stderr=errors)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: ended)
    with pytest.raises(train_memory.ChildError, match=message):
        train_memory._measure(SINGLE, Sizes(), "auto", 1)
