"""How fast a captioner trains on a GPU, by backend, dtype policy and batch size.

    python benchmarks/gpu_throughput.py --output runs/gpu

measures for every backend that is installed, each in a process of its own,

- captions a second of our training step against batch size, the captions of an image together, weighted over the
  buckets of an epoch, as in `train_throughput.py`; and what share of the backend's own matmul rate the products of
  that step take, each counted once;
- the same model in `model.fit`, where no step waits for the one before;
- `keras.layers.RNN` around a cell that attends, in turn with ours;
- the run of the 2018 notebook, as many captions as its epochs have, compiling included;
- images a second of the feature extractor, with random weights.

The best of steps and `fit` is the headline. Where a backend has no GPU, it says so and runs smaller sizes, those
that flags give excepted. Results: tables, `gpu_throughput.json` and `gpu_throughput.png`.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# This process only reports, and needs some backend to import Keras with; those that measure are told which.
os.environ.setdefault("KERAS_BACKEND", next(filter(find_spec, ("jax", "torch", "tensorflow")), "tensorflow"))

from harness.report import describe, draw_lines, machine, prepare_output, table, write_json
from harness.sizes import Sizes, add_size_flags, sizes_from

BACKENDS = ("tensorflow", "jax", "torch")
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
_WITH_GPU = {
    **Sizes()._asdict(),
    "largest_batch": 8192,
    "repetitions": 10,
    "fit_steps": 300,
    "matmul_size": 8192,
    "image_size": 299,
    "image_batches": [32, 64, 128, 256],
}
_WITHOUT_GPU = {
    **Sizes(batch_size=16, locations=16, feature_width=64, embed_dim=32, units=32, vocabulary=500)._asdict(),
    "largest_batch": 64,
    "repetitions": 3,
    "fit_steps": 20,
    "matmul_size": 512,
    "image_size": 75,
    "image_batches": [2],
}
# What a process may take beyond its time to end a measurement that has begun.
_GRACE_SECONDS = 60
_LISTS = ("training", "fit", "composition", "images", "not_measured")


def main(argv=None):
    """Run the command line `argv`, by default the program's own."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(on_gpu=True)
    arguments = parser.parse_args(argv)
    if arguments.child:
        _measure(argv)
        return
    _check(parser, arguments)
    output = prepare_output(parser, arguments.output)

    installed = [backend for backend in arguments.backends if find_spec(backend)]
    plan = [(backend, policy) for backend in installed for policy in arguments.policies]
    result = {
        "notebook_captions": arguments.epochs * arguments.epoch_captions,
        "repetitions": arguments.repetitions,
        "minutes": arguments.minutes,
        "skipped": {backend: "not installed" for backend in arguments.backends if backend not in installed},
        "entries": [],
    }
    end = time.monotonic() + 60 * arguments.minutes
    for i, (backend, policy) in enumerate(plan):
        entry = _run(argv, backend, policy, (end - time.monotonic()) / (len(plan) - i))
        result["entries"].append(_with_summary(entry, result["notebook_captions"]))
        if output:
            # After each: whatever ends this program leaves what was measured before.
            write_json(output, "gpu_throughput.json", result)
    _show(result)
    if output:
        write_json(output, "gpu_throughput.json", result)
        _draw(output, result)
        print(f"See {output}.")
    if not any(entry["headline"] for entry in result["entries"]):
        sys.exit("No training was measured: the table says why.")


def _parser(on_gpu):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--backends", nargs="+", choices=BACKENDS, default=BACKENDS, help="default: all that are installed")
    add("--policies", nargs="+", choices=POLICIES, default=POLICIES[:2], help="default: %(default)s")
    add_size_flags(parser)
    add("--largest-batch", type=int, help="--batch-size doubles up to it (default %(default)s)")
    add("--repetitions", type=int, help="of every measurement (default %(default)s)")
    add("--fit-steps", type=int, help="of an epoch of `fit`, at most (default %(default)s)")
    add("--matmul-size", type=int, help="of the product that tells the rate (default %(default)s)")
    add("--epochs", type=int, default=20, help="of the notebook's run (default %(default)s)")
    add("--epoch-captions", type=int, default=24_000, help="of the notebook's run (default %(default)s)")
    add("--whole-run", action="store_true", help="train on all of them without a GPU too, where --minutes allow it")
    add("--backbone", default="inception_v3", help="of the feature extractor (default %(default)s)")
    add("--image-size", type=int, help="side in pixels (default %(default)s)")
    add("--image-batches", type=int, nargs="+", help="batch sizes of images (default %(default)s)")
    add("--minutes", type=float, default=8, help="no measurement starts after these (default %(default)s)")
    add("--output", help="folder for the JSON and the picture")
    # How this script calls itself: a dtype policy, the file for the figures, and when to start nothing more.
    add("--child", nargs=3, help=argparse.SUPPRESS)
    parser.set_defaults(**(_WITH_GPU if on_gpu else _WITHOUT_GPU))
    return parser


def _check(parser, arguments):
    sizes_from(parser, arguments)
    for name in ("largest_batch", "repetitions", "fit_steps", "matmul_size", "epochs", "epoch_captions", "image_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1. Received: {getattr(arguments, name)}.")
    if min(arguments.image_batches) < 1:
        parser.error(f"--image-batches must be at least 1 each. Received: {min(arguments.image_batches)}.")
    if not (arguments.minutes > 0 and math.isfinite(arguments.minutes)):
        parser.error(f"--minutes must be a positive number. Received: {arguments.minutes}.")


def _measure(argv):
    """What the process of one backend and policy does."""
    from gpu_measurements import Measurements

    found = machine()
    on_gpu = found["devices"] != ["cpu"]
    parser = _parser(on_gpu)
    arguments = parser.parse_args(argv)
    sizes = sizes_from(parser, arguments)
    policy, path, end = arguments.child
    with open(path, "a") as file:

        def record(section, value):
            # A line each, written at once: it stays when the process is killed.
            file.write(json.dumps({section: value}) + "\n")
            file.flush()

        print(f"{policy}: {describe(found)}")
        if not on_gpu:
            print(f"No GPU for {found['backend']}: sizes that no flag gives are small, for the CPU.")
        record("machine", found)
        record("on_gpu", on_gpu)
        record("sizes", sizes._asdict())
        Measurements(policy, sizes, arguments, on_gpu, record, float(end) - time.time()).run()


def _run(argv, backend, policy, seconds):
    """What a process of its own measures, the figures before a crash too."""
    print(f"\n{backend}, {policy}", flush=True)
    entry = {"backend": backend, "policy": policy, "failure": None, **{name: [] for name in _LISTS}}
    if seconds <= 0:
        return {**entry, "failure": "not measured: the time was up"}
    with tempfile.TemporaryDirectory() as folder:
        path, complaints = Path(folder) / "figures.jsonl", Path(folder) / "stderr.txt"
        path.touch()
        command = [sys.executable, "-u", __file__, *argv, "--child", policy, str(path), str(time.time() + seconds)]
        environment = {**os.environ, "KERAS_BACKEND": backend}
        with complaints.open("wb") as stderr:
            try:
                limit = seconds + _GRACE_SECONDS
                done = subprocess.run(command, env=environment, stderr=stderr, timeout=limit, check=False)
                failure = _failure(done.returncode)
            except subprocess.TimeoutExpired:
                failure = f"ended after {limit:.0f} s, in the midst of a measurement"
        if failure:
            text = complaints.read_text(errors="replace").strip()
            print(text, file=sys.stderr)
            entry["failure"] = ": ".join([failure, *text.splitlines()[-1:]])
        for line in path.read_text().splitlines():
            try:
                ((section, value),) = json.loads(line).items()
            except ValueError:
                continue  # the line that it died in
            if section in _LISTS:
                entry[section].append(value)
            else:
                entry[section] = value
    return entry


def _failure(code):
    if code < 0:
        return f"ended by signal {-code}"
    return f"ended with code {code}" if code else None


def _with_summary(entry, notebook_captions):
    """The entry with its best way to train, and what the notebook's run would take so."""
    ways = [{**row, "through": "train_on_batch"} for row in entry["training"]]
    ways += [{**row, "through": f"fit, features {row['features']}"} for row in entry["fit"]]
    best = max(ways, key=lambda row: row["captions_per_second"], default=None)
    if best is not None:
        names = (
            "captions_per_second",
            "batch_size",
            "through",
            "share_of_matmul_rate",
            "steps_lost_to_padding",
        )
        best = {name: best[name] for name in names}
        best["notebook_seconds_computed"] = notebook_captions / best["captions_per_second"]
    return {**entry, "headline": best}


def _show(result):
    print()
    print(_headlines(result))
    rows = _all_ways(result)
    if rows:
        header = ["training", "B", "captions/s", "lowest to highest", "step, ms", "first, s", "of matmul", "ratio"]
        print()
        print(table(header, rows))
        print("\nratio: to Keras's RNN of a cell; of matmul: of the rate of large products, measured alike.")
    for entry in result["entries"]:
        for left_out in entry["not_measured"]:
            print(f"Not measured: {_name(entry)}: {left_out['what']}: {left_out['why']}")


def _headlines(result):
    captions = f"{result['notebook_captions']:,} captions"
    header = [
        "training",
        "captions/s",
        "B",
        "through",
        "of matmul",
        "padding",
        f"{captions}, s",
        "measured, s",
        "images/s",
    ]
    rows = [[f"{backend}: {why}", *[""] * 8] for backend, why in result["skipped"].items()]
    for entry in result["entries"]:
        name = _name(entry) + (f": {entry['failure']}" if entry["failure"] else "")
        best, whole = entry["headline"], entry.get("whole_run")
        images = max((row["images_per_second"] for row in entry["images"]), default=None)
        figures = [""] * 6
        if best:
            figures = [
                f"{best['captions_per_second']:,.1f}",
                best["batch_size"],
                best["through"],
                _percent(best["share_of_matmul_rate"]),
                _percent(best["steps_lost_to_padding"]),
                f"{best['notebook_seconds_computed']:,.1f}",
            ]
        rows.append([name, *figures, f"{whole['seconds']:,.1f}" if whole else "", f"{images:,.1f}" if images else ""])
    return table(header, rows)


def _all_ways(result):
    """Every way to train that was measured, by batch size."""
    rows = []
    for entry in result["entries"]:
        ratios = {row["batch_size"]: f"{row['ratio']:.2f}" for row in entry["composition"]}
        for row in entry["training"]:
            rows.append(
                [
                    _name(entry),
                    row["batch_size"],
                    f"{row['captions_per_second']:,.1f}",
                    f"{row['slowest']:,.1f} to {row['fastest']:,.1f}",
                    f"{1000 * row['step_seconds']:.1f}",
                    f"{sum(row['first_call_seconds']):.1f}",
                    _percent(row["share_of_matmul_rate"]),
                    ratios.get(row["batch_size"], ""),
                ]
            )
        for row in entry["fit"]:
            rows.append(
                [
                    f"{_name(entry)}, fit, features {row['features']}",
                    row["batch_size"],
                    f"{row['captions_per_second']:,.1f}",
                    "",
                    f"{1000 * row['epoch_seconds'] / row['steps']:.1f}",
                    f"{row['first_epoch_seconds']:.1f}",
                    _percent(row["share_of_matmul_rate"]),
                    "",
                ]
            )
    return rows


def _name(entry):
    return f"{entry['backend']}, {entry['policy']}"


def _percent(share):
    return "" if share is None else f"{share:.1%}"


def _draw(output, result):
    entries = [entry for entry in result["entries"] if entry["training"]]
    if not entries:
        return
    # Every panel has every backend's line, be it empty: the legend is that of the first.
    backends = dict.fromkeys(entry["backend"] for entry in entries)
    panels = {f"batch size, {entry['policy']}": {name: ([], []) for name in backends} for entry in entries}
    for entry in entries:
        xs, ys = panels[f"batch size, {entry['policy']}"][entry["backend"]]
        xs += [row["batch_size"] for row in entry["training"]]
        ys += [row["captions_per_second"] for row in entry["training"]]
    devices = dict.fromkeys(device for entry in entries for device in entry["machine"]["devices"])
    try:
        draw_lines(output / "gpu_throughput.png", panels, "captions per second, training", ", ".join(devices))
    except ImportError as error:
        print(f"Left out: gpu_throughput.png: {error}")


if __name__ == "__main__":
    main()
