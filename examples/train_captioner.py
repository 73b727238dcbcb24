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

With all that makes captions of photographs better, self-critical training at the end, twice:

    python examples/train_captioner.py --output runs/best --recipe best --dataset coco-json \
        --annotations captions.json --images photographs/

The folder then holds captioner.keras (the best epoch), history.png, captions.png, metrics.json, of photographs
results.json (the validation captions, in COCO's results format), and features/, the cached features, which the next run
reuses. Of several captioners the second is captioner_2.keras, with history_2.png.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import re
import time
from pathlib import Path

import keras
import numpy as np
from evaluate_captioner import Writer, write_captions

import keras_showattend
from keras_showattend.callbacks import CaptionMetrics
from keras_showattend.datasets import check_disjoint, coco_json, coco_showattend, shape_scenes, split_by_image
from keras_showattend.evaluation import CiderD, evaluate_captions, write_results
from keras_showattend.features import FeatureExtractor, FeatureStore, read_image
from keras_showattend.generation import generate_together
from keras_showattend.layers import AttentionGRUDecoder, FeatureEncoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy, Perplexity
from keras_showattend.reranking import NeighborConsensus
from keras_showattend.self_critical import SelfCriticalTrainer

# What suits each data set: the scenes are small, photographs need a backbone and a larger model.
DEFAULTS = {
    "shapes": {"backbone": "patches", "epochs": 4, "batch_size": 8, "units": 256, "attention_units": 256,
               "learning_rate": 2e-3, "dropout": 0.0},
    "coco-json": {"backbone": "inception_v3", "epochs": 20, "batch_size": 16, "units": 512, "attention_units": 256,
                  "learning_rate": 2e-3, "dropout": 0.1},
}  # fmt: skip
DEFAULTS["coco"] = DEFAULTS["coco-json"]
# What each data set's defaults give way to, where a flag does not say otherwise.
RECIPES = {
    "plain": {"context_gate": False, "state_initializer": "zeros", "label_smoothing": 0.0, "weight_decay": 0.0,
              "ema": 0.0, "monitor": "val_loss", "self_critical_epochs": 0, "self_critical_dropout": False,
              "patience": 3, "beam": 5, "consensus": False, "captioners": 1},
    "best": {"context_gate": True, "state_initializer": "mean_feature", "label_smoothing": 0.1, "weight_decay": 0.01,
             "ema": 0.99, "monitor": "val_cider_d", "self_critical_epochs": 12,
             "self_critical_dropout": True, "patience": 12, "dropout": 0.5, "epochs": 10, "batch_size": 16,
             "learning_rate": 1e-3, "beam": 20, "consensus": True, "captioners": 2},
}  # fmt: skip
SAMPLES = 6
# Tokens; captions that score well are no longer, and a sample may run on to the end.
LONGEST_SAMPLE = 20


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
    size = "pixels of a side that the backbone sees (default: its own)"
    model.add_argument("--image-size", type=int, help=size)
    model.add_argument("--embed-dim", type=int, default=256)
    model.add_argument("--units", type=int)
    model.add_argument("--attention-units", type=int)
    model.add_argument("--dropout", type=float)
    model.add_argument("--attention-penalty", type=float, default=0.0, help="weight of the doubly stochastic penalty")
    gate = "let the decoder weigh what it sees at each word"
    model.add_argument("--context-gate", action=argparse.BooleanOptionalAction, help=gate)
    model.add_argument("--state-initializer", choices=["zeros", "mean_feature"], help="what the decoder starts from")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int)
    training.add_argument("--batch-size", type=int, help="images in a batch, each with all its captions")
    training.add_argument("--learning-rate", type=float)
    training.add_argument("--recipe", choices=RECIPES, default="plain", help="defaults of the flags without one")
    training.add_argument("--mirror", action="store_true", help="train on mirrored images too")
    training.add_argument("--label-smoothing", type=float)
    training.add_argument(
        "--scheduled-sampling", type=float, default=0.0, help="share of own words read, reached in even steps"
    )
    training.add_argument("--weight-decay", type=float)
    training.add_argument("--ema", type=float, help="momentum of the weights' moving average, which is kept")
    training.add_argument("--monitor", choices=["val_loss", "val_cider_d"], help="what tells the best epoch")
    training.add_argument("--patience", type=int, help="epochs without a better one")
    training.add_argument("--self-critical-epochs", type=int, help="with CIDEr-D as the reward, after the others")
    training.add_argument("--self-critical-learning-rate", type=float, default=1e-4)
    training.add_argument("--self-critical-batch-size", type=int, default=64, help="images")
    dropout = "dropout in the gradient of self-critical training too"
    training.add_argument("--self-critical-dropout", action=argparse.BooleanOptionalAction, help=dropout)
    training.add_argument("--samples", type=int, default=5, help="captions an image that are drawn and rewarded")
    training.add_argument("--beam", type=int, help="width of the search that writes the final captions of photographs")
    consensus = "choose among the beam's captions by what was said of the training images, most by similar ones"
    training.add_argument("--consensus", action=argparse.BooleanOptionalAction, help=consensus)
    captioners = "how many to train, each from a seed of its own; all of them write the final captions"
    training.add_argument("--captioners", type=int, help=captioners)
    training.add_argument("--mixed-precision", choices=["mixed_bfloat16", "mixed_float16"])
    training.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for defaults in (RECIPES[options.recipe], DEFAULTS[options.dataset]):
        for name, value in defaults.items():
            if getattr(options, name) is None:
                setattr(options, name, value)
    if options.self_critical_epochs and options.monitor != "val_cider_d":
        parser.error("--self-critical-epochs needs --monitor val_cider_d: that training has no validation loss")
    check_numbers(parser, options)
    if options.consensus and options.beam < 2:
        parser.error("--consensus chooses among the captions of a beam: --beam must be at least 2")
    if options.dataset == "coco-json" and not (options.annotations and options.images):
        parser.error("--dataset coco-json needs --annotations and --images")
    return options


def check_numbers(parser, options):
    """What would fail only after hours of training."""
    least = {"epochs": 1, "batch_size": 1, "beam": 1, "captioners": 1, "patience": 0, "self_critical_epochs": 0,
             "self_critical_batch_size": 1, "samples": 2}  # fmt: skip
    for name, bound in least.items():
        if getattr(options, name) < bound:
            parser.error(f"--{name.replace('_', '-')} must be at least {bound}. Received: {getattr(options, name)}.")
    for name in ("learning_rate", "self_critical_learning_rate"):
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be a finite number >= 0. Received: {value}.")


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


def check_captions(train_store, validation_store, options):
    """Whether all captions that others are scored against have words: a ValueError names one that has none."""
    scored_against_train = options.self_critical_epochs or options.consensus
    for store in [validation_store, *([train_store] if scored_against_train else [])]:
        CiderD({image_id: store.captions(image_id) for image_id in store.image_ids})


def add_mirrored(store, sources, extractor):
    """The store with a mirrored image beside each of its images."""
    examples = [example for example in sources.get("all") or sources["train"] if example["image_id"] in store]
    names = {example["image_id"]: f"mirrored-{example['image_id']}" for example in examples}
    stored = FeatureStore.open(store.path)
    new = (
        {
            "image_id": names[example["image_id"]],
            "image": read_image(example["image"])[:, ::-1],
            "captions": [swap_sides(caption) for caption in example["captions"]],
        }
        for example in examples
        if names[example["image_id"]] not in stored
    )
    FeatureStore.build(store.path, itertools.chain(examples, new), extractor)
    return FeatureStore.open(store.path).subset([*names, *names.values()])


def swap_sides(caption):
    swapped = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda side: swapped[side[0].lower()], caption, flags=re.IGNORECASE)


def build_captioner(options, extractor, tokenizer, longest, steps):
    sampling = options.scheduled_sampling
    if sampling:
        # From none to all of it, in a straight line.
        sampling = keras.optimizers.schedules.PolynomialDecay(0.0, steps, end_learning_rate=sampling)
    return keras_showattend.Captioner(
        FeatureEncoder(options.embed_dim, dropout=options.dropout),
        AttentionGRUDecoder(
            tokenizer.vocabulary_size,
            options.embed_dim,
            options.units,
            attention_units=options.attention_units,
            dropout=options.dropout,
            context_gate=options.context_gate,
            state_initializer=options.state_initializer,
        ),
        tokenizer=tokenizer,
        feature_extractor=extractor,
        max_length=longest,
        attention_penalty=options.attention_penalty,
        scheduled_sampling=sampling,
    )


def train(captioner, train_batches, validation_batches, callbacks, steps, options):
    """Fit with a warm-up and a cosine decay."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.02, warmup_target=options.learning_rate, warmup_steps=steps // 20
    )
    captioner.compile(
        optimizer=keras.optimizers.Adam(
            schedule,
            clipnorm=5.0,
            weight_decay=options.weight_decay or None,
            **averaging(options),
        ),
        loss=MaskedSparseCategoricalCrossentropy(label_smoothing=options.label_smoothing),
        weighted_metrics=[MaskedAccuracy(name="accuracy"), Perplexity()],
        # Batches have few lengths, so XLA compiles a few times and gains at every step; torch would need a C compiler.
        jit_compile=keras.backend.backend() != "torch",
    )
    return captioner.fit(
        train_batches,
        validation_data=validation_batches,
        epochs=options.epochs,
        callbacks=seeing_averages(callbacks, options),
        # The batches are shuffled already.
        shuffle=False,
    )


def averaging(options):
    """What makes an optimizer keep a moving average of the weights."""
    return {"use_ema": options.ema > 0, "ema_momentum": options.ema}


def seeing_averages(callbacks, options):
    """The callbacks, seeing the averaged weights; the one that shows them belongs to one training alone."""
    return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), *callbacks] if options.ema else callbacks


def watch(store, path, options):
    """Callbacks that tell the best epoch, have it on disk as soon as it is over, and end with its weights."""
    best = {"monitor": options.monitor, "mode": "min" if options.monitor == "val_loss" else "max"}
    return [
        *([CaptionMetrics(store)] if options.monitor == "val_cider_d" else []),
        keras.callbacks.ModelCheckpoint(str(path), **best, save_best_only=True),
        keras.callbacks.EarlyStopping(**best, patience=options.patience, restore_best_weights=True),
    ]


def train_self_critically(captioner, store, callbacks, seed, options):
    """What teacher forcing can't teach: whole captions of its own, drawn and rewarded by CIDEr-D."""
    steps = options.self_critical_epochs * math.ceil(len(store) / options.self_critical_batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(options.self_critical_learning_rate, steps, alpha=0.05)
    optimizer = keras.optimizers.Adam(schedule, clipnorm=5.0, **averaging(options))
    trainer = SelfCriticalTrainer(
        captioner,
        optimizer,
        samples=options.samples,
        max_length=LONGEST_SAMPLE,
        dropout=options.self_critical_dropout,
    )
    return trainer.fit(
        store,
        epochs=options.self_critical_epochs,
        batch_size=options.self_critical_batch_size,
        callbacks=seeing_averages(callbacks, options),
        seed=seed,
    )


def train_one(number, build, train_batches, validation_batches, train_store, validation_store, options):
    """The captioner of this number, from 0 on, and the histories of its trainings; it is left in the output folder."""
    seed = options.seed + number
    keras.utils.set_random_seed(seed)
    path = options.output / _numbered("captioner.keras", number)
    steps = options.epochs * len(train_batches)
    captioner = build(steps)
    callbacks = watch(validation_store, path, options)
    histories = {"history": train(captioner, train_batches, validation_batches, callbacks, steps, options)}
    if options.self_critical_epochs:
        histories["self_critical"] = train_self_critically(captioner, train_store, callbacks, seed, options)
        # The best of both trainings.
        captioner.load_weights(path)
    for name, history in histories.items():
        figure = keras_showattend.visualization.plot_history(history.history)
        figure.savefig(options.output / _numbered(f"{name}.png", number))
    return captioner, histories


def _numbered(name, number):
    """The first captioner's files have no number."""
    path = Path(name)
    return name if number == 0 else f"{path.stem}_{number + 1}{path.suffix}"


def write_pictures(captioner, store, sources, options):
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


def measure(captioners, batches, train_store, store, sources, options):
    """Figures of the first captioner's loss, and of the captions of all, on the validation images."""
    captioner = captioners[0]
    metrics = {f"val_{name}": value for name, value in captioner.evaluate(batches, return_dict=True, verbose=0).items()}
    if options.dataset == "shapes":
        generation = generate_together(captioners, store.features(store.image_ids), batch_size=100)
        scenes = sources["validation"]
        report = shape_scenes.pointing_report(generation.texts, generation.attention, scenes, captioner.grid)
        return metrics | dataclasses.asdict(report)
    consensus = NeighborConsensus(train_store) if options.consensus else None
    writer = Writer(captioners, options.beam, "average" if consensus else 0.0, consensus)
    captions = write_captions(writer, store, batch_size=100)
    write_results(options.output / "results.json", captions)
    figures = evaluate_captions(captions, {image_id: store.captions(image_id) for image_id in captions})
    return metrics | {f"val_{name}": value for name, value in figures.items()}


def main(arguments=None):
    options = parse_arguments(arguments)
    prepare_output(options.output)
    keras.utils.set_random_seed(options.seed)
    if options.mixed_precision:
        keras.config.set_dtype_policy(options.mixed_precision)
    start = time.time()

    sources = load_sources(options)
    extractor = FeatureExtractor(options.backbone, weights=options.weights, image_size=options.image_size)
    train_store, validation_store = build_stores(sources, extractor, options)
    print(f"{len(train_store)} images to train on, {len(validation_store)} to validate on, none on both sides.")
    check_captions(train_store, validation_store, options)

    captions = [caption for image_id in train_store.image_ids for caption in train_store.captions(image_id)]
    tokenizer = keras_showattend.CaptionTokenizer.fit(captions, max_vocabulary=options.max_vocabulary)
    longest = tokenizer.encode(captions).shape[1] - 1
    both_sides = add_mirrored(train_store, sources, extractor) if options.mirror else train_store
    train_batches = both_sides.batches(tokenizer, options.batch_size, seed=options.seed)
    validation_batches = validation_store.batches(tokenizer, 4 * options.batch_size, shuffle=False)

    def build(steps):
        return build_captioner(options, extractor, tokenizer, longest, steps)

    data = train_batches, validation_batches, train_store, validation_store
    trained = [train_one(number, build, *data, options) for number in range(options.captioners)]
    captioners = [captioner for captioner, _ in trained]

    metrics = {
        "images": len(train_store),
        "captions": len(captions),
        "vocabulary": tokenizer.vocabulary_size,
        "epochs": len(trained[0][1]["history"].epoch),
        **measure(captioners, validation_batches, train_store, validation_store, sources, options),
        "seconds": round(time.time() - start, 1),
        "backend": keras.backend.backend(),
        "processors": os.cpu_count(),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_pictures(captioners[0], validation_store, sources, options)

    if options.dataset == "shapes":
        print(
            f"{metrics['named_correctly']:.1%} of the {metrics['phrases']} objects named are in the picture; for "
            f"{metrics['pointed_inside']:.1%} of those the attention peaks inside the object's box, where chance would "
            f"give {metrics['chance']:.1%}."
        )
    else:
        bleu4, cider_d = 100 * metrics["val_bleu4"], 100 * metrics["val_cider_d"]
        print(f"On the validation images: BLEU-4 {bleu4:.1f}, CIDEr-D {cider_d:.1f} (times 100).")
    print(f"Validation perplexity {metrics['val_perplexity']:.2f} after {metrics['seconds']:.0f} seconds.")
    print(f"See {options.output}: captioner.keras, history.png, captions.png, metrics.json.")


if __name__ == "__main__":
    main()
