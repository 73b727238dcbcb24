"""How the time of a training step grows with B, T, L, U and V.

    python benchmarks/scaling.py --output runs/scaling

measures our training step (forward, backward, Adam), the captions of an image together, at several values of each
size while the others keep those of the base, interleaved in one run. A line through the points on logarithmic scales,
by least squares, gives the exponent: 1 where the time grows as the size does, 0 where it doesn't grow. `--compare`
also measures `keras.layers.RNN` around a cell that attends, compiled with XLA where there is one.

All captions have T = `--longest` tokens (`--mean-length` counts for nothing here), so that a step predicts T - 1 of
them, and the exponents are of T - 1 and of the number of captions, which are B rounded up to whole images.

Results: a table, `scaling.json` and `scaling.png`.
"""

import argparse
import itertools
import math
import os
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from contenders import COMPOSITION, GROUPED, JIT, SINGLE, contender
from harness.report import describe, draw_lines, machine, prepare_output, table, write_json
from harness.sizes import Sizes, add_size_flags, refuse_what_does_not_fit, sizes_from
from harness.sweeps import LABELS, SYMBOLS, add_sweep_flags, batch_shape, full_batch, full_captions, sweeps_from
from harness.timing import measure

# A step predicts every token but the first.
_AXES = {**LABELS, "longest": "T - 1, tokens to predict"}


class Point(NamedTuple):
    """One training at one combination of sizes."""

    name: str
    sizes: Sizes

    def label(self):
        s = self.sizes
        return f"{self.name}, B {s.batch_size}, T {s.longest}, L {s.locations}, U {s.units}, V {s.vocabulary}"

    def captions_per_image(self):
        return self.sizes.captions_per_image if self.name == GROUPED else None

    def images(self):
        return batch_shape(self.sizes, self.captions_per_image())[0]

    def captions(self):
        return math.prod(batch_shape(self.sizes, self.captions_per_image()))

    def size(self, field):
        """What the exponent of `field` is of."""
        if field == "batch_size":
            return self.captions()
        return self.sizes.longest - 1 if field == "longest" else getattr(self.sizes, field)

    def bytes_of_step(self):
        keeps_hidden = self.name == COMPOSITION
        return self.sizes.bytes_of_step(self.images(), self.captions(), self.sizes.longest, keeps_hidden)

    def bytes_held(self):
        """Features, weights and the optimizer's two numbers for each of them."""
        features = self.images() * self.sizes.locations * self.sizes.feature_width
        return 4 * (features + 3 * self.sizes.parameters())


def main():
    """Measure what the flags ask for, and report it."""
    parser = _parser()
    arguments = parser.parse_args()
    sizes = full_captions(sizes_from(parser, arguments))
    if arguments.repetitions < 1:
        parser.error(f"--repetitions must be at least 1. Received: {arguments.repetitions}.")
    output = prepare_output(parser, arguments.output)
    sweeps = sweeps_from(arguments, sizes)
    if not sweeps:
        parser.error("The sweeps must have a value. Received: none.")
    ours = SINGLE if sizes.captions_per_image == 1 else GROUPED
    names = [ours, COMPOSITION] if arguments.compare else [ours]
    # Sizes that several sweeps hold, those of the base, are measured once.
    points = [Point(name, case) for name in names for case in dict.fromkeys(itertools.chain(*sweeps.values()))]
    needed = sum(point.bytes_held() for point in points) + max(point.bytes_of_step() for point in points)
    refuse_what_does_not_fit(parser, needed, f"The largest step beside the weights and batches of {len(points)} points")

    found = machine()
    print(describe(found))
    contenders = [_contender(point, JIT[arguments.jit_compile]) for point in points]
    timings, failures = measure(contenders, arguments.repetitions)
    timings = {timing.name: timing for timing in timings}
    fits = [_fit(name, field, swept, timings) for name in names for field, swept in sweeps.items()]

    result = {
        "machine": found,
        "sizes": sizes._asdict(),
        "repetitions": arguments.repetitions,
        "jit_compile": arguments.jit_compile,
        "sweeps": fits,
        "failures": failures,
    }
    print(f"\n{_table(fits)}\n")
    for label, message in failures.items():
        print(f"Not measured: {label}: {message}")
    if output:
        write_json(output, "scaling.json", result)
        draw_lines(
            output / "scaling.png",
            _panels(fits),
            "seconds, one training step",
            f"{', '.join(found['devices'])}, {found['backend']}: B {sizes.batch_size}, T {sizes.longest}, "
            f"L {sizes.locations}, D {sizes.feature_width}, U {sizes.units}, V {sizes.vocabulary}",
        )
        print(f"See {output}: scaling.json, scaling.png.")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_flags(
        parser, batch_size=32, locations=64, feature_width=512, units=256, vocabulary=5001, mean_length=4.0, longest=14
    )
    add_sweep_flags(
        parser,
        batch_size=[8, 16, 32, 64, 128],
        longest=[7, 14, 28, 56],
        locations=[16, 32, 64, 128, 256],
        units=[64, 128, 256, 512],
        vocabulary=[1250, 2500, 5001, 10_000, 20_000],
    )
    parser.add_argument("--repetitions", type=int, default=5, help="interleaved repetitions (default %(default)s)")
    parser.add_argument("--compare", action="store_true", help=f"measure {COMPOSITION} too")
    parser.add_argument(
        "--jit-compile", choices=JIT, default="auto", help="of our training step (default: XLA where there is one)"
    )
    parser.add_argument("--output", help="folder for the JSON and the picture")
    return parser


def _contender(point, jit_compile):
    bucket = full_batch(point.sizes, point.captions_per_image())
    return contender(point.name, [bucket], point.sizes, jit_compile)._replace(name=point.label())


def _fit(name, field, swept, timings):
    """The points of one sweep that were measured, and their exponent, None where there are fewer than two."""
    measured = [(Point(name, case), timings.get(Point(name, case).label())) for case in swept]
    points = [
        {
            "value": getattr(point.sizes, field),
            "size": point.size(field),
            "step_seconds": timing.step_seconds[0],
            "slowest": point.captions() / timing.slowest,
            "fastest": point.captions() / timing.fastest,
            "first_call_seconds": timing.first_call_seconds[0],
        }
        for point, timing in measured
        if timing
    ]
    sizes = [point["size"] for point in points]
    exponent = None
    if len(set(sizes)) > 1:
        exponent = float(np.polyfit(np.log(sizes), np.log([point["step_seconds"] for point in points]), 1)[0])
    return {"name": name, "field": field, "exponent": exponent, "points": points}


def _table(fits):
    header = ["training", "size", "from", "to", "step, ms", "exponent"]
    rows = []
    for fit in fits:
        points = fit["points"]
        values = [points[0]["value"], points[-1]["value"]] if points else ["", ""]
        steps = " ".join(f"{1000 * point['step_seconds']:.0f}" for point in points)
        rows.append([fit["name"], SYMBOLS[fit["field"]], *values, steps, _exponent(fit)])
    return table(header, rows)


def _exponent(fit):
    return "" if fit["exponent"] is None else f"{fit['exponent']:.2f}"


def _panels(fits):
    """A panel for each size, the exponents of its lines under its axis."""
    panels = {}
    for field in dict.fromkeys(fit["field"] for fit in fits):
        lines = [fit for fit in fits if fit["field"] == field]
        exponents = ", ".join(_exponent(fit) or "none" for fit in lines)
        label = f"{_AXES[field]}\nexponent {exponents}"
        panels[label] = {
            fit["name"]: ([p["size"] for p in fit["points"]], [p["step_seconds"] for p in fit["points"]])
            for fit in lines
        }
    return panels


if __name__ == "__main__":
    main()
