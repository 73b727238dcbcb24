"""How many captions a second training takes in: ours against what else one could write.

    python benchmarks/train_throughput.py --output runs/throughput

measures, interleaved in one run, one training step (forward, backward, Adam) of

- the 2018 notebook's loop, eager and under one `tf.function`, captions padded to the data set's longest;
- `keras.layers.RNN` around a cell that attends and calls `GRUCell`, compiled with XLA, in buckets by length; as
  most write it, the cell projecting the features at every step, and with that projection taken out of the loop;
- `keras_showattend.Captioner`, one caption at a time, with the captions of an image together, and in bfloat16.

Each is weighted over the buckets of an epoch of COCO-like captions. Results: a table, `train_throughput.json` and
`train_throughput.png`.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from contenders import BFLOAT16, COMPOSITION, EAGER, GRAPH, GROUPED, HOISTED, JIT, SINGLE, contender
from harness.batches import epoch_buckets, lost_to_padding, padded_batch
from harness.floor import matmul_step, multiply_adds_of_caption
from harness.report import describe, draw_bars, machine, prepare_output, table, write_json
from harness.sizes import add_size_flags, refuse_what_does_not_fit, sizes_from
from harness.timing import Contender, measure

NAMES = (EAGER, GRAPH, COMPOSITION, HOISTED, SINGLE, GROUPED, BFLOAT16)
MATMUL = "matmul"


def main():
    """Measure what the flags ask for, and report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_flags(parser)
    parser.add_argument("--repetitions", type=int, default=5, help="interleaved repetitions (default %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument(
        "--jit-compile", choices=JIT, default="auto", help="of our training step (default: XLA where there is one)"
    )
    parser.add_argument("--matmul-size", type=int, default=2048, help="of the product that tells the machine's rate")
    parser.add_argument("--output", help="folder for the JSON and the picture")
    arguments = parser.parse_args()
    sizes = sizes_from(parser, arguments)
    if arguments.repetitions < 1 or arguments.matmul_size < 1:
        parser.error("--repetitions and --matmul-size must be at least 1.")
    output = prepare_output(parser, arguments.output)
    padded = any(name in arguments.only for name in (EAGER, GRAPH))
    needed = sizes.bytes_of_step(sizes.batch_size, sizes.batch_size, sizes.longest, keeps_hidden=padded)
    refuse_what_does_not_fit(parser, needed, "The largest step")

    found = machine()
    print(describe(found))
    plan = {name: _buckets(name, sizes) for name in arguments.only}
    contenders, failures = [], {}
    for name in arguments.only:
        try:
            contenders.append(contender(name, plan[name], sizes, JIT[arguments.jit_compile]))
        except ImportError as error:
            failures[name] = str(error)
            print(f"  left out: {name}: {error}")
    step, operations = matmul_step(arguments.matmul_size)
    contenders.append(Contender(MATMUL, [step], [1 / operations]))
    timings, failed = measure(contenders, arguments.repetitions)
    failures.update(failed)
    rate = next((timing.captions_per_second for timing in timings if timing.name == MATMUL), None)
    timings = [timing for timing in timings if timing.name != MATMUL]

    result = {
        "machine": found,
        "sizes": sizes._asdict(),
        "repetitions": arguments.repetitions,
        "jit_compile": arguments.jit_compile,
        "matmul_flops_per_second": rate,
        "contenders": [_summary(timing, plan[timing.name], sizes, rate) for timing in timings],
        "failures": failures,
    }
    print()
    print(_table(result["contenders"]))
    if rate:
        print(f"\nMatmul at {arguments.matmul_size}: {rate / 1e9:.0f} GFLOP/s in float32.")
    print(_ratios(result["contenders"]))
    for name, message in failures.items():
        print(f"Not measured: {name}: {message}")
    if output:
        write_json(output, "train_throughput.json", result)
        rows = result["contenders"]
        draw_bars(
            output / "train_throughput.png",
            [row["name"] for row in rows],
            [row["captions_per_second"] for row in rows],
            "captions per second, training",
            f"{', '.join(found['devices'])}, {found['backend']}: B {sizes.batch_size}, L {sizes.locations}, "
            f"D {sizes.feature_width}, U {sizes.units}, V {sizes.vocabulary}",
        )
        print(f"See {output}: train_throughput.json, train_throughput.png.")


def _buckets(name, sizes):
    if name in (EAGER, GRAPH):
        return padded_batch(sizes)
    return epoch_buckets(sizes, sizes.captions_per_image if name in (GROUPED, BFLOAT16) else None)


def _summary(timing, buckets, sizes, matmul_rate):
    operations_per_second = multiply_adds_of_caption(sizes, buckets) * timing.captions_per_second
    return {
        "name": timing.name,
        "captions_per_second": timing.captions_per_second,
        "slowest": timing.slowest,
        "fastest": timing.fastest,
        "step_seconds": sum(b.share * s for b, s in zip(buckets, timing.step_seconds, strict=True)),
        "first_call_seconds": timing.first_call_seconds,
        # The rate is that of float32.
        "share_of_floor": operations_per_second / matmul_rate if matmul_rate and timing.name != BFLOAT16 else None,
        "steps_lost_to_padding": lost_to_padding(buckets),
        "buckets": [
            {
                "tokens": bucket.length,
                "share": bucket.share,
                "shape": list(bucket.tokens.shape),
                "step_seconds": seconds,
            }
            for bucket, seconds in zip(buckets, timing.step_seconds, strict=True)
        ],
    }


def _table(rows):
    first = rows[0]["captions_per_second"] if rows else None
    header = [
        "training",
        "captions/s",
        "lowest to highest",
        "ratio",
        "step, ms",
        "first call, s",
        "of the floor",
        "padding",
    ]
    return table(
        header,
        [
            [
                row["name"],
                f"{row['captions_per_second']:.1f}",
                f"{row['slowest']:.1f} to {row['fastest']:.1f}",
                f"{row['captions_per_second'] / first:.1f}",
                f"{1000 * row['step_seconds']:.0f}",
                " ".join(f"{seconds:.1f}" for seconds in row["first_call_seconds"]),
                "" if row["share_of_floor"] is None else f"{row['share_of_floor']:.0%}",
                f"{row['steps_lost_to_padding']:.0%}",
            ]
            for row in rows
        ],
    )


def _ratios(rows):
    rates = {row["name"]: row["captions_per_second"] for row in rows}
    lines = []
    for ours in (name for name in (SINGLE, GROUPED, BFLOAT16) if name in rates):
        against = [
            f"{rates[ours] / rates[name]:.1f} x {name}"
            for name in (EAGER, GRAPH, COMPOSITION, HOISTED)
            if name in rates
        ]
        if against:
            lines.append(f"{ours}: {', '.join(against)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
