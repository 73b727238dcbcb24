"""How many photographs a second an exported captioner writes captions for, beside `Captioner.caption`.

    python benchmarks/export_speed.py --model runs/flickr8k/captioner.keras --output runs/export

hands the same JPEG files, as bytes in memory, interleaved in one run, to

- `Captioner.caption`, which reads them with Pillow;
- the SavedModel that `Captioner.export` wrote of it, which reads them in its graph;

and compares the captions. Without `--model` it is a captioner with random weights on MobileNetV2, whose captions all
have 20 words: the time is the same, the captions mean nothing. Photographs are those of `--photographs`, else of
`../shared/flickr8k/images`, else drawn. On the TensorFlow backend only, as exports are.

Results: a table, and `export_speed.json` in the folder `--output`.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from harness.report import describe, machine, prepare_output, table, write_json
from harness.timing import Contender, measure
from pipeline.photographs import IMAGES, draw_photographs

from keras_showattend import Captioner, CaptionTokenizer
from keras_showattend.features import FeatureExtractor
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder

CAPTION, EXPORTED = "Captioner.caption", "exported SavedModel"
_ENDINGS = (".jpg", ".jpeg")


def main():
    """Measure what the flags ask for, and report it."""
    parser = _parser()
    arguments = parser.parse_args()
    if min(arguments.images, arguments.repetitions) < 1:
        parser.error("--images and --repetitions must be at least 1.")
    if keras.backend.backend() != "tensorflow":
        parser.error(f"exports need KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}.")
    output = prepare_output(parser, arguments.output)
    found = machine()
    print(describe(found))
    captioner = _captioner(parser, arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        files = _photographs(parser, arguments.photographs, arguments.images, Path(folder))
        served = _exported(captioner, Path(folder) / "served")
        written = {}
        contenders = [
            Contender(name, [_step(written, name, write, files)], [1 / len(files)])
            for name, write in ((CAPTION, lambda x: captioner.caption(x, batch_size=len(x))), (EXPORTED, served))
        ]
        timings, failures = measure(contenders, arguments.repetitions)
    rows = [
        {
            "name": timing.name,
            "images_per_second": timing.captions_per_second,
            "slowest": timing.slowest,
            "fastest": timing.fastest,
            "first_call_seconds": timing.first_call_seconds[0],
        }
        for timing in timings
    ]
    print(f"\n{_table(rows)}\n")
    result = {
        "machine": found,
        "model": arguments.model,
        "images": len(files),
        "repetitions": arguments.repetitions,
        "contenders": rows,
        "failures": failures,
    }
    if not failures:
        same = sum(a == b for a, b in zip(written[CAPTION], written[EXPORTED], strict=True))
        ratio = rows[1]["images_per_second"] / rows[0]["images_per_second"]
        result |= {"same_captions": same, "exported_to_caption": ratio}
        print(f"{same} of {len(files)} captions are the same. The export writes {ratio:.2f} times as many a second.")
    for name, message in failures.items():
        print(f"Not measured: {name}: {message}")
    if output:
        print(f"See {write_json(output, 'export_speed.json', result)}.")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="a saved captioner with feature extractor and tokenizer (default: one with random weights)")
    add("--photographs", help=f"folder with JPEG files (default: {IMAGES}, or drawn)")
    add("--images", type=int, default=32, help="photographs of a batch (default %(default)s)")
    add("--repetitions", type=int, default=5, help="interleaved repetitions (default %(default)s)")
    add("--output", help="folder for the JSON")
    return parser


def _captioner(parser, path):
    if path is None:
        extractor = FeatureExtractor("mobilenet_v2", weights=None)
        words = [f"word{i}" for i in range(4996)]
        captioner = Captioner(
            FeatureEncoder(256),
            AttentionGRUDecoder(5000, embed_dim=256, units=512),
            tokenizer=CaptionTokenizer.fit([" ".join(words)]),
            feature_extractor=extractor,
        )
        captioner.build([(None, *extractor.image_size, 3), (None, None)])
        return captioner
    captioner = keras.models.load_model(path)
    if getattr(captioner, "feature_extractor", None) is None or captioner.tokenizer is None:
        parser.error(f"--model must be a captioner with a feature extractor and a tokenizer. Received: {path}.")
    return captioner


def _photographs(parser, folder, count, scratch):
    """The bytes of `count` JPEG files; the files of a folder again from its beginning where they are fewer."""
    if folder is None and not Path(IMAGES).is_dir():
        paths = [Path(example["image"]) for example in draw_photographs(scratch, count)]
    else:
        paths = sorted(p for p in Path(folder or IMAGES).rglob("*") if p.suffix.lower() in _ENDINGS)
    if not paths:
        parser.error(f"--photographs must be a folder with JPEG files. Received: {folder}.")
    return [paths[i % len(paths)].read_bytes() for i in range(count)]


def _exported(captioner, folder):
    """The export as a function of a list of bytes, which returns a list of str."""
    import tensorflow as tf

    captioner.export(folder, verbose=False)
    served = tf.saved_model.load(str(folder))
    return lambda files: [text.decode() for text in served.serve(tf.constant(files))["texts"].numpy()]


def _step(written, name, write, files):
    def step():
        written[name] = write(files)

    return step


def _table(rows):
    header = ["", "images/s", "slowest", "fastest", "first call s"]
    keys = ("images_per_second", "slowest", "fastest", "first_call_seconds")
    return table(header, [(row["name"], *(f"{row[key]:.1f}" for key in keys)) for row in rows])


if __name__ == "__main__":
    main()
