"""Fill a feature store without training, once, for all the trainings to come.

On scenes of coloured shapes that the package draws itself, without any download:

    python examples/cache_features.py --output features/shapes

On your own photographs, with a JSON file of captions in the COCO format:

    python examples/cache_features.py --output features/mine --dataset coco-json \
        --annotations captions.json --images photographs/

The same by four processes of Apache Beam, or on the machines of whichever of its runners the flags name:

    python examples/cache_features.py --output features/mine --dataset coco-json \
        --annotations captions.json --images photographs/ \
        --beam="--runner=FnApiRunner --direct_running_mode=multi_processing --direct_num_workers=4"

Stopped and started again, it goes on where it was; with more images, it adds them. Afterwards

    python examples/cache_features.py --output features/mine --verify

reads every byte and says whether it is as it was written.
"""

import argparse
import importlib.util
import shlex
import time
from pathlib import Path

from keras_showattend.datasets import coco_json, coco_showattend, shape_scenes
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.features.beam import build_store

BACKBONES = {"shapes": "patches", "coco-json": "inception_v3", "coco": "inception_v3"}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the store; with --beam also a URL, as gs://...")
    parser.add_argument("--verify", action="store_true", help="only read the store, and compare its checksums")
    parser.add_argument("--dataset", choices=BACKBONES, default="shapes")
    data = parser.add_argument_group("photographs (--dataset coco-json)")
    data.add_argument("--annotations", type=Path, help="JSON in the COCO captions format")
    data.add_argument("--images", type=Path, help="the folder of its images")
    data.add_argument("--worker-images", metavar="URL", help="where Beam's workers find them, as gs://...; as --images")
    data.add_argument("--max-captions", type=int, help="a random subset of the captions; the notebook took 30000")
    coco = parser.add_argument_group("COCO 2014 (--dataset coco), a download of 20 GB")
    coco.add_argument("--split", default="train", help="such as train+restval")
    coco.add_argument("--config", choices=["karpathy", "2014"], default="karpathy", help="whose splits")
    coco.add_argument("--data-dir", type=Path, help="folder of the prepared data; default: TFDS's own")
    scenes = parser.add_argument_group("drawn scenes (--dataset shapes)")
    scenes.add_argument("--scenes", type=int, default=6000)
    scenes.add_argument("--seed", type=int, default=0)
    features = parser.add_argument_group("features")
    features.add_argument("--backbone", help="a keras.applications model, such as mobilenet_v2, or patches")
    features.add_argument("--weights", default="imagenet", help="imagenet (a download), or a .weights.h5 file")
    features.add_argument("--batch-size", type=int, default=64, help="images in each run of the backbone")
    features.add_argument("--shard-size", type=int, default=1024, help="images in each file")
    features.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    features.add_argument(
        "--on-error", choices=["raise", "skip"], default="raise", help="of an image that can't be read"
    )
    features.add_argument("--beam", metavar="FLAGS", help='Beam\'s, in one string: --beam="--runner=..."')
    options = parser.parse_args(arguments)
    options.backbone = options.backbone or BACKBONES[options.dataset]
    if "://" in options.output and (options.verify or options.beam is None):
        parser.error("--output is a URL, which only --beam can write to; copy the folder down to verify it")
    if options.verify:
        return options
    if options.dataset == "coco-json" and not (options.annotations and options.images):
        parser.error("--dataset coco-json needs --annotations and --images")
    if options.beam is not None and options.dataset != "coco-json":
        parser.error(
            f"--beam needs images that are files, which those of --dataset {options.dataset} are not: take --dataset "
            "coco-json, with --annotations and the folder of the images"
        )
    if options.worker_images and options.beam is None:
        parser.error("--worker-images is for the workers of --beam")
    if options.beam is not None and importlib.util.find_spec("apache_beam") is None:
        parser.error("--beam needs Apache Beam: pip install 'keras-showattend[beam]'")
    return options


def load_examples(options):
    if options.dataset == "shapes":
        return list(shape_scenes.load_scenes("train", options.scenes, seed=options.seed))
    if options.dataset == "coco":
        return coco_showattend.load_examples(options.split, options.config, options.data_dir)
    examples = coco_json(options.annotations, options.images, max_captions=options.max_captions)
    if options.worker_images:
        folder = options.worker_images.rstrip("/")
        names = (Path(example["image"]).relative_to(options.images).as_posix() for example in examples)
        return [{**example, "image": f"{folder}/{name}"} for example, name in zip(examples, names, strict=True)]
    return examples


def build(options, examples):
    extractor = FeatureExtractor(options.backbone, weights=options.weights)
    arguments = {name: getattr(options, name) for name in ("batch_size", "shard_size", "dtype", "on_error")}
    if options.beam is None:
        return FeatureStore.build(options.output, examples, extractor, **arguments)
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = PipelineOptions(shlex.split(options.beam))
    return build_store(options.output, examples, extractor, **arguments, pipeline_options=flags)


def count_images(folder):
    """Images that are in a store before it is built, 0 where there is none that can be opened."""
    try:
        return len(FeatureStore.open(folder))
    except (FileNotFoundError, ValueError):
        return 0


def verify(folder):
    try:
        store = FeatureStore.open(folder)
        store.verify()
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{describe(store)}, all of it as it was written.")


def describe(store):
    megabytes = len(store) * store.locations * store.width * store.dtype.itemsize / 1e6
    return f"{store.path}: {len(store)} images, {megabytes:,.1f} MB of features, {len(store.skipped)} skipped"


def main(arguments=None):
    options = parse_arguments(arguments)
    if options.verify:
        verify(options.output)
        return
    examples = load_examples(options)
    before = count_images(options.output)
    start = time.time()
    store = build(options, examples)
    seconds = time.time() - start
    if store is None:
        print(f"{options.output}: {len(examples)} images in {seconds:,.0f} seconds. Copy the folder down to open it.")
        return
    whole = FeatureStore.open(options.output)
    new = len(whole) - before
    print(f"{describe(whole)}; {new} new ones in {seconds:,.0f} seconds, {new / seconds:,.1f} images/s.")


if __name__ == "__main__":
    main()
