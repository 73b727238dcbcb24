"""How many captions a second are written from cached features: `Captioner.generate` against loops in Python.

    python benchmarks/decode_throughput.py --output runs/decoding

measures, interleaved in one run, the same images captioned by

- the 2018 notebook's `evaluate`: one image at a time, eager TensorFlow, the most probable word at each step (left out
  on other backends);
- beam search of width 5 as a user would write it: one image at a time, lists and NumPy around the decoder's step;
- `Captioner.generate`, greedy and beam search of width 3, 5 and 10, with each of `--batch-sizes`.

All have the same weights, start from features in a NumPy array and end with ids in one; what each writes is compared
with what the first writes that does the same search ("same captions"). With random weights all captions would end at
once, or never. Here two units of the state, told by the features, decide where a caption ends: lengths vary from image
to image as COCO's do, the same for all contenders, and all beams of an image end together. That favours whoever takes
one image at a time, since a batch of ours goes on until its longest caption has ended: "waiting" is the share of its
steps that only do this. With `--full-length` every caption takes `--max-length` ids, and none waits.

"Of the floor" is the least floating-point operations of the captions over the matmul rate of the same run. Results: a
table and the goals, `decode_throughput.json` and `decode_throughput.png`.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
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
    width_of,
    writer,
)
from harness.floor import matmul_step
from harness.report import describe, draw_bars, machine, prepare_output, table, write_json
from harness.sizes import Sizes, refuse_what_does_not_fit, sizes_from
from harness.timing import Contender, first_line, measure

MATMUL = "matmul"
# How many times the notebook's images a second ours should write, at its best batch size.
GOALS = {GREEDY: 100, "ours, beam 5": 25}
_SIZES = ("locations", "feature_width", "embed_dim", "units", "vocabulary", "mean_length")


def main():
    """Measure what the flags ask for, and report it."""
    parser = _parser()
    arguments = parser.parse_args()
    sizes = _checked_sizes(parser, arguments)
    output = prepare_output(parser, arguments.output)
    variants = _variants(arguments)
    models = 1 + len(arguments.batch_sizes)
    needed = max(
        bytes_of_decoding(sizes, arguments.images, size, width_of(name), models) for name, size in variants.values()
    )
    refuse_what_does_not_fit(parser, needed, "Decoding")

    found = machine()
    print(describe(found))
    lengths = np.full(arguments.images, arguments.max_length)
    if not arguments.full_length:
        lengths = draw_caption_lengths(sizes, arguments.images)
    features, written = features_of_lengths(sizes, lengths), {}
    contenders, failures = _contenders(variants, sizes, features, written)
    step, operations = matmul_step(arguments.matmul_size)
    contenders.append(Contender(MATMUL, [step], [1 / operations]))
    timings, failed = measure(contenders, arguments.repetitions)
    failures.update(failed)
    rate = next((timing.captions_per_second for timing in timings if timing.name == MATMUL), None)
    rows = [
        _summary(timing, *variants[timing.name], sizes, lengths, rate) for timing in timings if timing.name in variants
    ]
    _compare(rows, written)

    result = {
        "machine": found,
        "sizes": {name: getattr(sizes, name) for name in _SIZES},
        "images": arguments.images,
        "max_length": arguments.max_length,
        "full_length": arguments.full_length,
        "ids_of_caption": {"mean": float(lengths.mean()), "longest": int(lengths.max())},
        "repetitions": arguments.repetitions,
        "matmul_flops_per_second": rate,
        "contenders": rows,
        "goals": [_goal(name, bound, rows) for name, bound in GOALS.items()],
        "failures": failures,
    }
    print(f"\n{_table(rows)}\n")
    endings = "all of the same length" if arguments.full_length else "ending as the features tell them"
    print(
        f"{arguments.images} images, captions of {lengths.mean():.1f} ids on average and {lengths.max()} at most, the "
        f"end id counted, {endings}."
    )
    if rate:
        print(f"Matmul at {arguments.matmul_size}: {rate / 1e9:.0f} GFLOP/s in float32.")
    for goal in result["goals"]:
        print(goal["sentence"])
    for name, message in failures.items():
        print(f"Not measured: {name}: {message}")
    if output:
        left = [write_json(output, "decode_throughput.json", result), *_draw(output, result)]
        print(f"See {output}: {', '.join(path.name for path in left)}.")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--batch-sizes", type=int, nargs="+", default=[1, 16, 64, 256], metavar="B", help="(default 1 16 64 256)")
    add("--images", type=int, help="that each contender captions (default: the largest batch)")
    add("--max-length", type=int, default=20, help="ids of a caption at most, the end id counted (default %(default)s)")
    add("--full-length", action="store_true", help="no caption ends before --max-length")
    for name in _SIZES:
        default = getattr(Sizes(), name)
        add("--" + name.replace("_", "-"), type=type(default), default=default, help="default %(default)s")
    add("--repetitions", type=int, default=5, help="interleaved repetitions (default %(default)s)")
    add("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    add("--matmul-size", type=int, default=2048, help="of the product that tells the machine's rate")
    add("--output", help="folder for the JSON and the picture")
    return parser


def _checked_sizes(parser, arguments):
    """The `Sizes` of the flags, captions as long as `--max-length` at most; ends the program where one can't be."""
    a = arguments
    if min(a.repetitions, a.matmul_size, *a.batch_sizes) < 1:
        parser.error("--repetitions, --matmul-size and --batch-sizes must be at least 1.")
    if a.images is None:
        a.images = max(a.batch_sizes)
    if a.images < max(a.batch_sizes):
        parser.error(f"--images must be at least the largest of --batch-sizes. Received: {a.images}.")
    if a.units < 2:
        parser.error(f"--units must be at least 2: two of them end the captions. Received: {a.units}.")
    # The start id is counted here, and is not written.
    if not 4 <= a.mean_length <= a.max_length + 1:
        parser.error(
            "--mean-length, start and end counted, must lie between 4 and --max-length + 1. "
            f"Received: --mean-length {a.mean_length} --max-length {a.max_length}."
        )
    a.batch_size, a.longest, a.captions_per_image = max(a.batch_sizes), a.max_length + 1, 1
    return sizes_from(parser, a)


def _variants(arguments):
    """`{label: (name, batch size)}`: ours at every batch size, the others at one image."""
    sizes = sorted(set(arguments.batch_sizes))
    found = {}
    for name in arguments.only:
        for size in sizes if name in OURS else [1]:
            found[f"{name}, B {size}" if name in OURS else name] = name, size
    return found


def _contenders(variants, sizes, features, written):
    """A `Contender` for each variant, which leaves its ids in `written`, and the messages of those that can't be."""
    contenders, failures = [], {}
    # A search is traced and compiled for the batch size that it meets first, so that each has a captioner of its own.
    captioners = {}
    for label, (name, size) in variants.items():
        if size not in captioners:
            captioners[size] = ending_captioner(sizes)
        try:
            write = writer(name, captioners[size], size, sizes.longest - 1)
        except Exception as error:  # the others are measured
            failures[label] = first_line(error)
            print(f"  left out: {label}: {failures[label]}")
            continue

        def step(write=write, label=label):
            written[label] = write(features)

        contenders.append(Contender(label, [step], [1 / len(features)]))
    return contenders, failures


def _summary(timing, name, batch_size, sizes, lengths, matmul_rate):
    operations = np.mean([operations_of_image(sizes, ids, width_of(name)) for ids in lengths])
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    steps = sum(len(batch) * batch.max() for batch in batches)
    return {
        "label": timing.name,
        "name": name,
        "batch_size": batch_size,
        "images_per_second": timing.captions_per_second,
        "slowest": timing.slowest,
        "fastest": timing.fastest,
        "first_pass_seconds": timing.first_call_seconds[0],
        "share_of_floor": timing.captions_per_second * operations / matmul_rate if matmul_rate else None,
        "steps_waited": 1 - float(lengths.sum() / steps),
    }


def _compare(rows, written):
    """Give each row its ratios, and the share of its captions that are those of the first with the same search."""
    rates, first = {row["name"]: row["images_per_second"] for row in rows}, {}
    for row in rows:
        for key, name in (("ratio_to_notebook", NOTEBOOK), ("ratio_to_python_beam", PYTHON_BEAM)):
            row[key] = row["images_per_second"] / rates[name] if name in rates else None
        tokens = written[row["label"]]
        row["same_captions"] = float(np.mean((tokens == first.setdefault(width_of(row["name"]), tokens)).all(axis=1)))


def _goal(name, bound, rows):
    best = max((row for row in rows if row["name"] == name), key=lambda row: row["images_per_second"], default=None)
    ratio = best and best["ratio_to_notebook"]
    if ratio is None:
        verdict = "not measured"
    else:
        verdict = f"{ratio:.1f} at B {best['batch_size']}, {'reached' if ratio >= bound else 'missed'}"
    return {
        "name": name,
        "bound": bound,
        "ratio": ratio,
        "sentence": f"Goal: {name}, at least {bound} times the images/s of {NOTEBOOK}: {verdict}.",
    }


def _table(rows):
    header = [
        "writing captions",
        "images/s",
        "lowest to highest",
        "to notebook",
        "to Python beam",
        "first pass, s",
        "of the floor",
        "waiting",
        "same captions",
    ]
    return table(header, [_cells(row) for row in rows])


def _cells(row):
    def ratio(key):
        return "" if row[key] is None else f"{row[key]:.2f}"

    return [
        row["label"],
        f"{row['images_per_second']:.1f}",
        f"{row['slowest']:.1f} to {row['fastest']:.1f}",
        ratio("ratio_to_notebook"),
        ratio("ratio_to_python_beam"),
        f"{row['first_pass_seconds']:.1f}",
        "" if row["share_of_floor"] is None else f"{row['share_of_floor']:.1%}",
        f"{row['steps_waited']:.0%}",
        f"{row['same_captions']:.1%}",
    ]


def _draw(output, result):
    """The picture's path in a list, which is empty where nothing was measured."""
    rows, sizes, found = result["contenders"], result["sizes"], result["machine"]
    if not rows:
        return []
    path = output / "decode_throughput.png"
    draw_bars(
        path,
        [row["label"] for row in rows],
        [row["images_per_second"] for row in rows],
        "images per second, writing captions",
        f"{', '.join(found['devices'])}, {found['backend']}: L {sizes['locations']}, D {sizes['feature_width']}, "
        f"U {sizes['units']}, V {sizes['vocabulary']}, {result['ids_of_caption']['mean']:.1f} ids a caption",
    )
    return [path]


if __name__ == "__main__":
    main()
