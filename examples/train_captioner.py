"""Train a captioner and leave a folder with the model, its figures and pictures of what it looked at.

On scenes of coloured shapes that the package draws itself, without any download:

    python examples/train_captioner.py --output runs/shapes

On your own photographs, with a JSON file of captions in the COCO format:

    python examples/train_captioner.py --output runs/mine --dataset coco-json \
        --annotations captions.json --images photographs/

On COCO with Karpathy's splits, which TensorFlow Datasets downloads (20 GB), or on as many of its captions as the 2018
notebook took:

    python examples/train_captioner.py --output runs/coco --dataset coco
    python examples/train_captioner.py --output runs/notebook --dataset coco --max-captions 30000

The folder then holds captioner.keras (the best epoch), history.png, captions.png, metrics.json and features/, the
cached features, which the next run reuses.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import keras
import numpy as np

import keras_showattend
from keras_showattend.datasets import check_disjoint, coco_json, coco_showattend, shape_scenes, split_by_image
from keras_showattend.features import FeatureExtractor, FeatureStore
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.metrics import MaskedAccuracy, Perplexity

# What suits each data set: the scenes are small, photographs need a backbone and a larger model.
DEFAULTS = {
    "shapes": {"backbone": "patches", "epochs": 4, "batch_size": 8, "units": 256, "attention_units": 256,
               "learning_rate": 2e-3, "dropout": 0.0},
    "coco-json": {"backbone": "inception_v3", "epochs": 20, "batch_size": 16, "units": 512, "attention_units": 256,
                  "learning_rate": 2e-3, "dropout": 0.1},
}  # fmt: skip
DEFAULTS["coco"] = DEFAULTS["coco-json"]
SAMPLES = 6


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for everything that the run leaves")
    parser.add_argument("--dataset", choices=DEFAULTS, default="shapes")
    data = parser.add_argument_group("photographs (--dataset coco-json or coco)")
    data.add_argument("--annotations", type=Path, help="JSON in the COCO captions format")
    data.add_argument("--images", type=Path, help="the folder of its images")
    data.add_argument("--validation-annotations", type=Path, help="default: a fifth of the images is set aside")
    data.add_argument("--validation-images", type=Path, help="default: --images")
    data.add_argument("--max-captions", type=int, help="a random subset of the captions; the notebook took 30000")
    data.add_argument("--data-dir", type=Path, help="where TensorFlow Datasets keeps COCO (default: its own folder)")
    data.add_argument("--manual-dir", type=Path, help="a folder with COCO's archives, not to be downloaded again")
    data.add_argument("--max-vocabulary", type=int, default=5000)
    scenes = parser.add_argument_group("drawn scenes (--dataset shapes)")
    scenes.add_argument("--train-scenes", type=int, default=6000)
    scenes.add_argument("--validation-scenes", type=int, default=500)
    model = parser.add_argument_group("model; defaults depend on the data set")
    model.add_argument("--backbone", help="a keras.applications model, such as mobilenet_v2, or patches")
    model.add_argument("--weights", default="imagenet", help="imagenet (a download), or a .weights.h5 file")
    model.add_argument("--embed-dim", type=int, default=256)
    model.add_argument("--units", type=int)
    model.add_argument("--attention-units", type=int)
    model.add_argument("--dropout", type=float)
    model.add_argument("--attention-penalty", type=float, default=0.0, help="weight of the doubly stochastic penalty")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int)
    training.add_argument("--batch-size", type=int, help="images in a batch, each with all its captions")
    training.add_argument("--learning-rate", type=float)
    training.add_argument("--patience", type=int, default=3, help="epochs without a better validation loss")
    training.add_argument("--mixed-precision", choices=["mixed_bfloat16", "mixed_float16"])
    training.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name, value in DEFAULTS[options.dataset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.dataset == "coco-json" and not (options.annotations and options.images):
        parser.error("--dataset coco-json needs --annotations and --images")
    return options


def prepare_output(folder):
    """Make the folder, and find out before the work whether it can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    probe.touch()
    probe.unlink()


def load_sources(options):
    """Examples by split; those under "all" are yet to be split."""
    if options.dataset == "shapes":
        return {
            "train": list(shape_scenes.load_scenes("train", options.train_scenes, seed=options.seed)),
            "validation": list(shape_scenes.load_scenes("validation", options.validation_scenes, seed=options.seed)),
        }
    if options.dataset == "coco":
        return load_coco(options)
    examples = coco_json(options.annotations, options.images, max_captions=options.max_captions)
    if not options.validation_annotations:
        return {"all": examples}
    validation = coco_json(options.validation_annotations, options.validation_images or options.images)
    return {"train": examples, "validation": validation}


def load_coco(options):
    import tensorflow_datasets as tfds

    places = {
        "data_dir": options.data_dir,
        "download_config": tfds.download.DownloadConfig(manual_dir=options.manual_dir),
    }
    if options.max_captions:
        return {"all": coco_showattend.notebook_subset(options.max_captions, **places)}
    splits = {"train": "train+restval", "validation": "validation"}
    return {name: coco_showattend.load_examples(split, **places) for name, split in splits.items()}


def build_stores(sources, extractor, options):
    """Stores to train and to validate on, no image on both sides."""
    folder = options.output / "features"
    print(f"Features of {options.backbone}, kept in {folder}:")
    stores = {name: FeatureStore.build(folder / name, examples, extractor) for name, examples in sources.items()}
    if "all" in stores:
        store = stores["all"]
        split = split_by_image(store.image_ids, seed=options.seed)
        stores = {name: store.subset([store.image_ids[i] for i in indices]) for name, indices in split.items()}
    check_disjoint(stores["train"].image_ids, stores["validation"].image_ids)
    return stores["train"], stores["validation"]


def build_captioner(options, extractor, tokenizer, longest):
    return keras_showattend.Captioner(
        FeatureEncoder(options.embed_dim, dropout=options.dropout),
        AttentionGRUDecoder(
            tokenizer.vocabulary_size,
            options.embed_dim,
            options.units,
            attention_units=options.attention_units,
            dropout=options.dropout,
        ),
        tokenizer=tokenizer,
        feature_extractor=extractor,
        max_length=longest,
        attention_penalty=options.attention_penalty,
    )


def train(captioner, train_batches, validation_batches, options):
    """Fit with a warm-up and a cosine decay; the best epoch is on disk as soon as it is over."""
    steps = options.epochs * len(train_batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.02, warmup_target=options.learning_rate, warmup_steps=steps // 20
    )
    captioner.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=5.0),
        weighted_metrics=[MaskedAccuracy(name="accuracy"), Perplexity()],
        # Batches have few lengths, so XLA compiles a few times and gains at every step; torch would need a C compiler.
        jit_compile=keras.backend.backend() != "torch",
    )
    path = str(options.output / "captioner.keras")
    return captioner.fit(
        train_batches,
        validation_data=validation_batches,
        epochs=options.epochs,
        callbacks=[
            keras.callbacks.ModelCheckpoint(path, monitor="val_loss", save_best_only=True),
            keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True),
        ],
        # The batches are shuffled already.
        shuffle=False,
    )


def write_pictures(captioner, history, store, sources, options):
    keras_showattend.visualization.plot_history(history.history).savefig(options.output / "history.png")
    chosen = [store.image_ids[i] for i in np.linspace(0, len(store) - 1, min(SAMPLES, len(store)), dtype=int)]
    examples = sources.get("all") or sources["validation"]
    images = {example["image_id"]: example["image"] for example in examples if example["image_id"] in chosen}
    generation = captioner.generate(store.features(chosen))
    figure = keras_showattend.visualization.plot_captions(
        [images[image_id] for image_id in chosen],
        generation.texts,
        generation.attention,
        references=[store.captions(image_id) for image_id in chosen],
        grid=captioner.grid,
    )
    figure.savefig(options.output / "captions.png")


def measure(captioner, batches, store, sources, options):
    """Figures of the kept model on the validation images."""
    metrics = {f"val_{name}": value for name, value in captioner.evaluate(batches, return_dict=True, verbose=0).items()}
    if options.dataset == "shapes":
        generation = captioner.generate(store.features(store.image_ids), batch_size=100)
        scenes = sources["validation"]
        report = shape_scenes.pointing_report(generation.texts, generation.attention, scenes, captioner.grid)
        metrics |= dataclasses.asdict(report)
    return metrics


def main(arguments=None):
    options = parse_arguments(arguments)
    prepare_output(options.output)
    keras.utils.set_random_seed(options.seed)
    if options.mixed_precision:
        keras.config.set_dtype_policy(options.mixed_precision)
    start = time.time()

    sources = load_sources(options)
    extractor = FeatureExtractor(options.backbone, weights=options.weights)
    train_store, validation_store = build_stores(sources, extractor, options)
    print(f"{len(train_store)} images to train on, {len(validation_store)} to validate on, none on both sides.")

    captions = [caption for image_id in train_store.image_ids for caption in train_store.captions(image_id)]
    tokenizer = keras_showattend.CaptionTokenizer.fit(captions, max_vocabulary=options.max_vocabulary)
    longest = tokenizer.encode(captions).shape[1] - 1
    train_batches = train_store.batches(tokenizer, options.batch_size, seed=options.seed)
    validation_batches = validation_store.batches(tokenizer, 4 * options.batch_size, shuffle=False)

    captioner = build_captioner(options, extractor, tokenizer, longest)
    history = train(captioner, train_batches, validation_batches, options)

    metrics = {
        "images": len(train_store),
        "captions": len(captions),
        "vocabulary": tokenizer.vocabulary_size,
        "epochs": len(history.history["loss"]),
        **measure(captioner, validation_batches, validation_store, sources, options),
        "seconds": round(time.time() - start, 1),
        "backend": keras.backend.backend(),
        "processors": os.cpu_count(),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_pictures(captioner, history, validation_store, sources, options)

    if options.dataset == "shapes":
        print(
            f"{metrics['named_correctly']:.1%} of the {metrics['phrases']} objects named are in the picture; for "
            f"{metrics['pointed_inside']:.1%} of those the attention peaks inside the object's box, where chance would "
            f"give {metrics['chance']:.1%}."
        )
    print(f"Validation perplexity {metrics['val_perplexity']:.2f} after {metrics['seconds']:.0f} seconds.")
    print(f"See {options.output}: captioner.keras, history.png, captions.png, metrics.json.")


if __name__ == "__main__":
    main()
