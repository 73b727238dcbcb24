"""What features cost: extracting, keeping, reading and training on them, ours against what else one could write.

    python benchmarks/feature_pipeline.py --output runs/features

measures in one run, repetitions interleaved,

- extraction: images a second of `FeatureStore.build` from JPEG files; beside `predict` of the bare backbone, the same
  model at the same batch size, on as many images already decoded and preprocessed in memory; and beside the 2018
  notebook's extraction (a `tf.data` map decodes, resizes and preprocesses; batches of 16, an eager call, an `.npy` file
  in float32 for each image). Every build writes a new store; starting it and tracing its model count.
- size: bytes on disk for each image, of the whole store and of the notebook's files.
- read: captions a second of an epoch, features and tokens delivered as arrays or tensors: `FeatureStore.batches` with
  an image's captions together and one caption at a time; the notebook's pipeline, which loads a file for each caption;
  TFRecord files with a record for each image; and the store's files read front to back into a buffer. All files have
  been read before and lie in the page cache: the disk is not measured.
- training: seconds of an epoch of `Captioner.fit`, from the store and from the same batches held in memory.

The photographs are those of `../shared/flickr8k` unless flags name others; where there are none, JPEG files of smooth
colours are drawn. Their backbone's weights are random unless `--weights` says otherwise. Reading and training take
random features of the notebook's shape. What the notebook and TFRecord do needs TensorFlow, and is left out on another
backend.

Results: a table and the goals, `feature_pipeline.json` and `feature_pipeline.png`, the ratios of the table.
"""

import argparse
import math
import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from comparators import notebook_features
from contenders import GROUPED, JIT
from harness.report import describe, draw_bars, machine, prepare_output, table, write_json
from harness.sizes import add_size_flags, refuse_what_does_not_fit, sizes_from
from harness.sweeps import batch_shape
from harness.timing import first_line
from pipeline.extraction import BUILD, measure_extraction
from pipeline.goals import goals_of
from pipeline.photographs import draw_photographs, find_photographs
from pipeline.reading import LIMIT, measure_reading, measure_size
from pipeline.synthetic import SyntheticFeatures
from pipeline.training import measure_training

from keras_showattend.features import FeatureExtractor

EXTRACTION, SIZE, READ, TRAINING = PARTS = ("extraction", "size", "read", "training")
_DTYPES = {"float16": 2, "bfloat16": 2, "float32": 4}  # bytes
_COUNTS = ("images", "read_images", "train_images", "repetitions", "image_batch_size", "image_size")


def main(argv=None):
    """Run the command line `argv`, by default the program's own."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    sizes = sizes_from(parser, arguments)
    for name in _COUNTS:
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1. Received: {getattr(arguments, name)}.")
    output = prepare_output(parser, arguments.output)
    with tempfile.TemporaryDirectory(prefix="feature_pipeline-", dir=output) as scratch:
        run = _Run(parser, arguments, sizes, scratch)
        run.check_room()
        found = machine()
        print(describe(found))
        result = {
            "machine": found,
            "sizes": sizes._asdict(),
            "repetitions": arguments.repetitions,
            "jit_compile": arguments.jit_compile,
            **dict.fromkeys(PARTS),
            "goals": [],
            "failures": {},
        }
        for part in (part for part in PARTS if part in arguments.only):
            print(f"{part}:", flush=True)
            try:
                result[part], failures = getattr(run, part)()
            except Exception as error:  # the other parts are measured
                failures = {None: first_line(error)}
                print(f"  failed: {failures[None]}")
            result["failures"].update({f"{part}: {name}" if name else part: why for name, why in failures.items()})
            result["goals"] = goals_of(result)
            if output:
                # After each: whatever ends this program leaves what was measured before.
                write_json(output, "feature_pipeline.json", result)
    print(f"\n{_table(result)}\n")
    for sentence in [*(goal["sentence"] for goal in result["goals"]), *_notes(result)]:
        print(sentence)
    for name, message in result["failures"].items():
        print(f"Not measured: {name}: {message}")
    if output:
        print(f"See {output}: {', '.join(['feature_pipeline.json', *_draw(output, result)])}.")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    add("--backbone", default="inception_v3", help="as in `FeatureExtractor` (default %(default)s)")
    add("--weights", help='of the backbone: "imagenet" or a file (default: random ones)')
    add("--image-size", type=int, help="side in pixels (default: the backbone's own)")
    add("--image-folder", help="of the photographs (default ../shared/flickr8k/images)")
    add("--annotations", nargs="+", help="files of their captions (default those of ../shared/flickr8k/annotations)")
    add("--images", type=int, default=256, help="to extract the features of (default %(default)s)")
    add("--image-batch-size", type=int, help="images to the backbone at a time (default: --batch-size)")
    add("--dtype", choices=_DTYPES, default="float16", help="of the stores (default %(default)s)")
    add("--read-images", type=int, default=2000, help="for size and reading (default %(default)s)")
    add("--train-images", type=int, default=512, help="for training (default %(default)s)")
    add("--repetitions", type=int, default=5, help="interleaved repetitions (default %(default)s)")
    add("--jit-compile", choices=JIT, default="auto", help="of the training step (default: XLA where there is one)")
    add_size_flags(parser)
    add("--output", help="folder for the JSON and the picture, and for what is written meanwhile")
    return parser


class _Run:
    """What the flags ask for; a method for each part gives its results and failures."""

    def __init__(self, parser, arguments, sizes, scratch):
        self.parser = parser
        self.arguments = arguments
        self.sizes = sizes
        self.scratch = scratch
        self.image_batch = arguments.image_batch_size or sizes.batch_size
        read = arguments.read_images if {SIZE, READ} & set(arguments.only) else 0
        train = arguments.train_images if TRAINING in arguments.only else 0
        self.synthetic = SyntheticFeatures(scratch, sizes, max(read, train), arguments.dtype)
        self.extractor = self.examples = None
        if EXTRACTION in arguments.only:
            self._prepare_extraction()

    def _prepare_extraction(self):
        """The extractor and the photographs, before anything is measured: flags may be wrong."""
        a = self.arguments
        try:
            self.extractor = FeatureExtractor(a.backbone, a.weights, a.image_size)
            found = find_photographs(a.image_folder, a.annotations)
        except (OSError, ValueError) as error:
            self.parser.error(str(error))
        self.source = "photographs" if found else "drawn"
        if not found:
            print(f"No photographs at ../shared/flickr8k: {a.images} JPEG files are drawn instead.")
            folder = os.path.join(self.scratch, "drawn")
            os.makedirs(folder)
            found = draw_photographs(folder, a.images)
        elif len(found) < a.images:
            print(f"There are {len(found)} photographs, fewer than --images {a.images}.")
        self.examples = found[: a.images]

    def check_room(self):
        """End the program where memory or disk is too small, before much of either is taken."""
        sizes, a = self.sizes, self.arguments
        numbers = sizes.locations * sizes.feature_width
        images, group = batch_shape(sizes, sizes.captions_per_image)
        needs = {}
        if EXTRACTION in a.only:
            # The decoded images, their preprocessed copy, and the widest layers' numbers for each pixel of a batch.
            pixels = math.prod(self.extractor.image_size) * 3
            needs["Extraction"] = 4 * pixels * (2 * len(self.examples) + 10 * self.image_batch)
        if READ in a.only:
            buffers = min(notebook_features.SHUFFLED, a.read_images * group) * 4 * numbers
            needs["Reading, the files in the page cache included,"] = buffers + self._bytes_on_disk()
        if TRAINING in a.only:
            step = sizes.bytes_of_step(images, images * group, sizes.longest, keeps_hidden=False)
            needs["Training"] = step + a.train_images * numbers * _DTYPES[a.dtype]
        for what, needed in needs.items():
            refuse_what_does_not_fit(self.parser, needed, what)
        needed, free = self._bytes_on_disk(), shutil.disk_usage(self.scratch).free
        if needed > free:
            self.parser.error(
                f"The files of {self.synthetic.images} images would take about {needed / 2**30:.1f} GiB of disk, and "
                f"{free / 2**30:.1f} GiB are free. Make --read-images or --train-images smaller."
            )

    def _bytes_on_disk(self):
        """Of the synthetic features: the store, the notebook's files and TFRecord's."""
        a, numbers = self.arguments, self.sizes.locations * self.sizes.feature_width
        in_notebook = 4 * self.synthetic.images if {SIZE, READ} & set(a.only) else 0
        in_records = 2 * a.read_images if READ in a.only else 0
        return numbers * (_DTYPES[a.dtype] * self.synthetic.images + in_notebook + in_records)

    def extraction(self):
        a = self.arguments
        result, failures = measure_extraction(
            self.extractor, a.backbone, self.examples, self.scratch, self.image_batch, a.dtype, a.repetitions
        )
        about = {"photographs": self.source, "backbone": a.backbone, "weights": a.weights}
        return {**result, **about, "image_size": list(self.extractor.image_size)}, failures

    def size(self):
        return measure_size(self.synthetic)

    def read(self):
        return measure_reading(self.synthetic, self.arguments.read_images, self.scratch, self.arguments.repetitions)

    def training(self):
        a = self.arguments
        return measure_training(self.synthetic, a.train_images, JIT[a.jit_compile], a.repetitions)


def _measured(result):
    """Pairs of a label and a row, of all parts."""
    for part in PARTS:
        for row in result[part]["contenders"] if result[part] else ():
            yield f"{part}: {row['name']}", result[part]["unit"], row


def _table(result):
    def cells(label, unit, row):
        spread = "" if row["lowest"] is None else f"{_number(row['lowest'])} to {_number(row['highest'])}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        return [label, _number(row["figure"]), unit, spread, ratio]

    header = ["features", "figure", "unit", "lowest to highest", "ratio"]
    return table(header, [cells(*measured) for measured in _measured(result)])


def _notes(result):
    """What the ratios don't tell."""
    build = result[EXTRACTION] and result[EXTRACTION]["build"]
    if build:
        yield (
            f"{BUILD}: {build['first_batch_seconds']:.2f} s for a store of the first batch alone; the images after it "
            f"at {_number(build['images_per_second_after_it'])} images/s"
            + (f", {build['ratio_after_it']:.1%} of the bare backbone." if build["ratio_after_it"] else ".")
        )
    for row in result[READ]["contenders"] if result[READ] else ():
        if row["name"] == GROUPED and row["share_of_limit"]:
            yield f"{GROUPED}: {row['share_of_limit']:.1%} of the rate of {LIMIT}."


def _number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _draw(output, result):
    """The picture's name in a list, which is empty where there is nothing to draw."""
    ratios = {label: row["ratio"] for label, _, row in _measured(result) if row["ratio"] is not None}
    if not ratios:
        return []
    found, sizes = result["machine"], result["sizes"]
    title = (
        f"{', '.join(found['devices'])}, {found['backend']}: L {sizes['locations']}, D {sizes['feature_width']}, "
        f"U {sizes['units']}, V {sizes['vocabulary']}"
    )
    draw_bars(output / "feature_pipeline.png", list(ratios), list(ratios.values()), "ratio within each part", title)
    return ["feature_pipeline.png"]


if __name__ == "__main__":
    main()
