"""How many captions a second are written from cached features: `Captioner.generate` against loops in Python.

    python benchmarks/decode_throughput.py --output runs/decoding

measures, interleaved in one run, the same images captioned by

- the 2018 notebook's `evaluate`: one image at a time, eager TensorFlow, the most probable word at each step (left out on
  other backends);
- beam search of width 5 as a user would write it: one image at a time, lists and NumPy around the decoder's step;
- `Captioner.generate`, greedy and beam search of width 3, 5 and 10, for each of `--batch-sizes` a captioner of its own.

All have the same weights, begin with features in NumPy arrays and end with ids in one; what each writes is compared with
the first that does the same search. A captioner of random weights would end all its captions at once or never. Here two
units of the state, told by the features, decide where each caption ends, so that lengths vary as COCO's do, the same for
all contenders; all beams of an image end together. That favours what takes one image at a time: a batch of ours goes on
until its longest caption ends, and the share of its steps that only wait for that is in the table ("waiting"). With
`--full-length` every caption takes `--max-length` words, and nobody waits.

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
# How many times the notebook's images a second ours should write at its best batch size.
GOALS = {GREEDY: 100, "ours, beam 5": 25}
_SIZES = ("locations", "feature_width", "embed_dim", "units", "vocabulary", "mean_length")


def main():
    """Measure what the flags ask for, and report it."""
    parser = _parser()
    arguments = parser.parse_args()
    sizes = _checked_sizes(parser, arguments)
    output = prepare_output(parser, arguments.output)
    images = arguments.images or max(arguments.batch_sizes)
    batch_sizes = sorted(set(arguments.batch_sizes)) if any(name in OURS for name in arguments.only) else [1]
    needed = bytes_of_decoding(sizes, images, batch_sizes, max(map(width_of, arguments.only)))
    refuse_what_does_not_fit(parser, needed, "Decoding")

    found = machine()
    print(describe(found))
    lengths = np.full(images, arguments.max_length)
    if not arguments.full_length:
        lengths = draw_caption_lengths(sizes, images)
    features, written = features_of_lengths(sizes, lengths), {}
    rows, contenders, failures = {}, [], {}
    for size in batch_sizes:
        captioner = ending_captioner(sizes)
        for name in arguments.only:
            if name not in OURS and size != batch_sizes[0]:
                continue
            row = {"name": name, "batch_size": size if name in OURS else 1}
            label = f"{name}, B {size}" if name in OURS else name
            try:
                write = writer(name, captioner, size, arguments.max_length)
            except Exception as error:  # the others are measured
                failures[label] = first_line(error)
                print(f"  left out: {label}: {failures[label]}")
                continue
            rows[label] = row
            contenders.append(Contender(label, [_step(write, features, written, label)], [1 / images]))
    step, operations = matmul_step(arguments.matmul_size)
    contenders.append(Contender(MATMUL, [step], [1 / operations]))
    timings, failed = measure(contenders, arguments.repetitions)
    failures.update(failed)
    rate = next((timing.captions_per_second for timing in timings if timing.name == MATMUL), None)
    timings = [timing for timing in timings if timing.name != MATMUL]

    result = {
        "machine": found,
        "sizes": {name: getattr(sizes, name) for name in _SIZES},
        "images": images,
        "max_length": arguments.max_length,
        "full_length": arguments.full_length,
        "ids_of_caption": {"mean": float(lengths.mean()), "longest": int(lengths.max())},
        "repetitions": arguments.repetitions,
        "matmul_flops_per_second": rate,
        "contenders": [],
        "failures": failures,
    }
