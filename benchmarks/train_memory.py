"""How much memory a training step takes: ours against what else one could write, by T, L and B.

    python benchmarks/train_memory.py --output runs/memory

measures, each in a process of its own, one training step (forward, backward, Adam) of

- `keras.layers.RNN` around a cell that attends, compiled with XLA where there is one, which projects the keys at every
  step, or once before the loop;
- `keras_showattend.Captioner`, one caption at a time, and with the captions of an image together;
- with `--only`, also the 2018 notebook's loop under `tf.function`, on TensorFlow.

All captions have T = `--longest` tokens (`--mean-length` counts for nothing here). B counts captions; with G captions
an image they are rounded up to whole images, 260 for B 256 and G 5.

What the number is. "Step" is what a step holds at its worst beyond what the process holds between two steps:
activations, gradients and scratch space, and the new weights where the optimizer doesn't write in place. Not in it:
the batch of features, weights and optimizer state, which exist before, and what tracing and compiling leave behind,
which "program" tells. The first step compiles; then the peak is reset, and `--steps` steps run. "Ratio" is to ours
with the captions of an image together.

On a CPU the figures are of the process's resident memory. The measured processes run with a fixed
`MALLOC_MMAP_THRESHOLD_`, so that freed blocks leave at once and holes in the heap count for nothing, and TensorFlow
without oneDNN, whose pool would keep what the first step has freed and hide what the next one takes. On a GPU the
figures are of the device's tensors as the framework counts them. Where the peak can't be reset (JAX on a GPU, or a
system without `/proc/self/clear_refs`) it is that of the whole process, compiling included, and "step" is what it
exceeds the memory before the first step by; a line says so.

Results: a table, `train_memory.json` and `train_memory.png`.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# This process and those that it starts share one device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

from contenders import COMPOSITION, GRAPH, GROUPED, HOISTED, JIT, SINGLE, contender
from harness.memory import step_memory
from harness.report import describe, draw_lines, machine, prepare_output, table, write_json
from harness.sizes import Sizes, add_size_flags, refuse_what_does_not_fit, sizes_from
from harness.sweeps import LABELS, add_sweep_flags, batch_shape, full_batch, full_captions, sweeps_from
from harness.timing import first_line

NAMES = (GRAPH, COMPOSITION, HOISTED, SINGLE, GROUPED)
_ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}


def main():
    """Measure what the flags ask for, and report it."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_measure_here(**json.loads(arguments.child))))
        return
    sizes = full_captions(sizes_from(parser, arguments))
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1. Received: {arguments.steps}.")
    output = prepare_output(parser, arguments.output)
    sweeps = sweeps_from(arguments, sizes)
    # Sizes that several sweeps hold are measured once.
    cases = list(dict.fromkeys([sizes, *(case for swept in sweeps.values() for case in swept)]))
    needed, largest = max((_bytes_of_step(name, case), case) for case in cases for name in arguments.only)
    refuse_what_does_not_fit(parser, needed, f"The largest step ({_place(largest)})")

    found = machine()
    print(describe(found))
    rows, failures = {}, {}
    for case in cases:
        for name in arguments.only:
            label = f"{name} at {_place(case)}"
            print(f"  {label}", flush=True)
            try:
                rows[name, case] = _row(name, case, _measure(name, case, arguments.jit_compile, arguments.steps))
            except ChildError as error:
                failures[label] = str(error)
                print(f"  failed: {label}: {error}")

    result = {
        "machine": found,
        "sizes": sizes._asdict(),
        "sweeps": {field: [getattr(case, field) for case in swept] for field, swept in sweeps.items()},
        "jit_compile": arguments.jit_compile,
        "steps": arguments.steps,
        "measured": list(rows.values()),
        "targets": _targets(rows, sizes, sweeps.get("locations", [])),
        "failures": failures,
    }
    print(f"\n{_table(rows)}\n")
    for line in [*_sentences(result["targets"], sizes), *_notes(rows)]:
        print(line)
    for label, message in failures.items():
        print(f"Not measured: {label}: {message}")
    if output:
        files = [write_json(output, "train_memory.json", result).name]
        if sweeps and rows:
            files.append("train_memory.png")
            draw_lines(
                output / files[-1],
                _panels(rows, sweeps, arguments.only),
                "MiB in one training step",
                f"{', '.join(found['devices'])}, {found['backend']}: {_place(sizes)}, D {sizes.feature_width}, "
                f"U {sizes.units}, V {sizes.vocabulary}",
            )
        print(f"See {output}: {', '.join(files)}.")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_flags(parser, batch_size=256, locations=196, longest=20, mean_length=4.0)
    add_sweep_flags(parser, locations=[49, 98, 196], longest=[10, 20, 40], batch_size=[64, 128, 256])
    parser.add_argument("--steps", type=int, default=3, help="measured after the first (default %(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=NAMES,
        default=NAMES[1:],
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: all but the first)",
    )
    parser.add_argument(
        "--jit-compile", choices=JIT, default="auto", help="of our training step (default: XLA where there is one)"
    )
    parser.add_argument("--output", help="folder for the JSON and the picture")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


class ChildError(Exception):
    """A measurement's process did not end well; the message says how."""


def _measure(name, sizes, jit_compile, steps):
    """The figures of `step_memory` from a fresh process, where no other work has left memory behind."""
    task = json.dumps({"name": name, "sizes": sizes._asdict(), "jit_compile": jit_compile, "steps": steps})
    child = subprocess.run(
        [sys.executable, os.path.abspath(__file__), "--child", task],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    if child.returncode < 0:
        raise ChildError(f"its process was ended by {signal.Signals(-child.returncode).name}")
    if child.returncode or not child.stdout:
        said = child.stderr.splitlines() or ["no message"]
        raise ChildError(f"its process ended with status {child.returncode}: {said[-1]}")
    figures = json.loads(child.stdout.splitlines()[-1])
    if "error" in figures:
        raise ChildError(figures["error"])
    return figures


def _measure_here(name, sizes, jit_compile, steps):
    """`step_memory` of one contender in this process, or its error."""
    sizes = Sizes(**sizes)
    try:
        bucket = full_batch(sizes, _group(name, sizes))
        (step,) = contender(name, [bucket], sizes, JIT[jit_compile]).steps
        return step_memory(step, steps)
    except Exception as error:  # the process that asked reports it and goes on
        return {"error": first_line(error)}


def _group(name, sizes):
    return sizes.captions_per_image if name == GROUPED else None


def _images_and_captions(name, sizes):
    shape = batch_shape(sizes, _group(name, sizes))
    return shape[0], math.prod(shape)


def _bytes_of_step(name, sizes):
    keeps_hidden = name not in (SINGLE, GROUPED)
    return sizes.bytes_of_step(*_images_and_captions(name, sizes), sizes.longest, keeps_hidden)


def _place(sizes):
    return f"B {sizes.batch_size}, T {sizes.longest}, L {sizes.locations}"


def _row(name, sizes, figures):
    images, captions = _images_and_captions(name, sizes)
    alone = figures["peak_is_of_steps"]
    return {
        "name": name,
        "batch_size": sizes.batch_size,
        "longest": sizes.longest,
        "locations": sizes.locations,
        "captions": captions,
        "step_bytes": figures["peak"] - figures["between" if alone else "before"],
        "program_bytes": figures["between"] - figures["before"],
        "peak_bytes": figures["peak"],
        "before_bytes": figures["before"],
        "features_and_keys_bytes": 4 * images * sizes.locations * (sizes.embed_dim + sizes.units),
        "memory": figures["memory"],
        "peak_is_of_steps": alone,
    }


def _targets(rows, sizes, swept):
    """What our step takes beside Keras's compositions, and how it grows with L beside features and keys."""

    def ratio(key, name, case, other_name, other_case):
        row, other = rows.get((name, case)), rows.get((other_name, other_case))
        return row[key] / other[key] if row and other and other[key] > 0 else None

    targets = {"ratios": [], "growth_with_locations": []}
    for name in (SINGLE, GROUPED):
        for other in (COMPOSITION, HOISTED):
            found = ratio("step_bytes", name, sizes, other, sizes)
            if found is not None:
                targets["ratios"].append({"name": name, "to": other, "ratio": found})
        if len(swept) > 1 and all((name, case) in rows for case in swept):
            growth = {"name": name, "from": swept[0].locations, "to": swept[-1].locations}
            for what in ("step", "features_and_keys"):
                growth[what] = ratio(f"{what}_bytes", name, swept[-1], name, swept[0])
            targets["growth_with_locations"].append(growth)
    return targets


def _sentences(targets, sizes):
    for r in targets["ratios"]:
        yield f"{r['name']}: {r['ratio']:.2f} of the step memory of {r['to']} at {_place(sizes)}."
    for growth in targets["growth_with_locations"]:
        if growth["step"] is not None:
            yield (
                f"{growth['name']}: from L {growth['from']} to {growth['to']} the step's memory grows "
                f"{growth['step']:.2f} times, encoded features and keys {growth['features_and_keys']:.2f} times."
            )


def _notes(rows):
    if not all(row["peak_is_of_steps"] for row in rows.values()):
        yield "The peak could not be reset: the figures are the whole process's, compiling included."


def _table(rows):
    header = ["training", "B", "T", "L", "step, MiB", "ratio", "program, MiB", "peak, MiB"]
    lines = []
    for (name, case), row in rows.items():
        grouped = rows.get((GROUPED, case), {}).get("step_bytes", 0)
        step, program, peak = (f"{row[key] / 2**20:.0f}" for key in ("step_bytes", "program_bytes", "peak_bytes"))
        ratio = f"{row['step_bytes'] / grouped:.2f}" if grouped > 0 else ""
        lines.append([name, case.batch_size, case.longest, case.locations, step, ratio, program, peak])
    return table(header, lines)


def _panels(rows, sweeps, names):
    panels = {}
    for field, swept in sweeps.items():
        panels[LABELS[field]] = lines = {}
        for name in names:
            cases = [case for case in swept if (name, case) in rows]
            values = [getattr(case, field) for case in cases]
            lines[name] = values, [rows[name, case]["step_bytes"] / 2**20 for case in cases]
    return panels


if __name__ == "__main__":
    main()
