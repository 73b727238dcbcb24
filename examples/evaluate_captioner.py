"""Measure a saved captioner on photographs with captions: BLEU, ROUGE-L, CIDEr-D, and its best and worst captions.

    python examples/evaluate_captioner.py runs/mine/captioner.keras --annotations captions.json --images photographs/

With the features of the training images, as the training kept them, the choice among the captions of a beam is made by
what people said of similar images:

    python examples/evaluate_captioner.py runs/mine/captioner.keras --annotations captions.json --images photographs/ \
        --beam 20 --length-penalty average --consensus runs/mine/features/train

Captioners that were trained with other seeds find other captions: `--others runs/second/captioner.keras`. With
`--consensus` the choice is among the captions of all of them, without it their probabilities are averaged.

The annotations are a JSON file in the COCO captions format. The output folder, `evaluation` beside the model if none is
given, then holds metrics.json, results.json (the captions, in COCO's results format), best.png and worst.png, and
features/, which the next run on these photographs reuses.
"""

import argparse
import json
import time
from pathlib import Path

from caption_images import load_captioner

from keras_showattend.datasets import coco_json
from keras_showattend.decoding import BeamSearch
from keras_showattend.evaluation import CiderD, diversity, evaluate_captions, write_results
from keras_showattend.features import FeatureStore
from keras_showattend.generation import generate_together
from keras_showattend.reranking import NeighborConsensus, pool_candidates
from keras_showattend.visualization import plot_captions

NAMES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
}
SAMPLES = 5


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .keras file of a Captioner")
    parser.add_argument("--annotations", type=Path, required=True, help="JSON in the COCO captions format")
    parser.add_argument("--images", type=Path, required=True, help="the folder of its images")
    parser.add_argument("--output", type=Path, help="default: the folder `evaluation` beside the model")
    parser.add_argument("--weights", type=Path, help="a .weights.h5 file, for those in MODEL, the first")
    parser.add_argument("--beam", type=int, help="width of a beam search; default: greedy decoding")
    parser.add_argument("--length-penalty", type=_penalty, default=0.0, help="of the beam search: average, or a number")
    others = "more captioners, which take the same features; without --consensus of the same vocabulary"
    parser.add_argument("--others", type=Path, nargs="+", default=[], metavar="MODEL", help=others)
    parser.add_argument("--consensus", type=Path, help="the folder of the training images' stored features")
    parser.add_argument("--max-images", type=int, help="only the first so many images of the file")
    parser.add_argument("--batch-size", type=int, default=64, help="images captioned at a time")
    options = parser.parse_args(arguments)
    for name in ("beam", "max_images", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1. Received: {value}.")
    if options.consensus and (options.beam or 0) < 2:
        parser.error("--consensus chooses among the captions of a beam: --beam must be at least 2.")
    if options.length_penalty and options.beam is None:
        parser.error("--length-penalty is of a beam search: it needs --beam.")
    if options.output is None:
        options.output = options.model.parent / "evaluation"
    return options


def _penalty(text):
    return text if text == "average" else float(text)


class Writer:
    """Writes captions: with a consensus the one that it chooses of all captioners' beams, else of their average."""

    def __init__(self, captioners, beam=None, length_penalty=0.0, consensus=None):
        self.captioners = captioners
        self.consensus = consensus
        self.decoding, self.name = "greedy", "greedy"
        if beam is not None:
            n_best = beam if consensus else 1
            self.decoding = BeamSearch(width=beam, length_penalty=length_penalty, n_best=n_best)
            self.name = f"beam search of width {beam}" + (" and consensus" if consensus else "")
        if len(captioners) > 1:
            self.name = f"{len(captioners)} captioners, {self.name}"

    def generate(self, features):
        if not self.consensus:
            return generate_together(self.captioners, features, decoding=self.decoding)
        candidates = [captioner.generate(features, decoding=self.decoding) for captioner in self.captioners]
        return self.consensus.rerank(pool_candidates(candidates), features)


def write_captions(writer, store, batch_size):
    """The captions of all images, by id; their attention would fill the memory and is left."""
    captions = {}
    for start in range(0, len(store), batch_size):
        image_ids = store.image_ids[start : start + batch_size]
        captions |= zip(image_ids, writer.generate(store.features(image_ids)).texts, strict=True)
    return captions


def write_picture(path, writer, store, photographs, image_ids):
    generation = writer.generate(store.features(image_ids))
    figure = plot_captions(
        [photographs[image_id] for image_id in image_ids],
        generation.texts,
        generation.attention,
        references=[store.captions(image_id) for image_id in image_ids],
        grid=writer.captioners[0].grid,
    )
    figure.savefig(path)


def main(arguments=None):
    options = parse_arguments(arguments)
    captioner = load_captioner(options.model)
    if options.weights is not None:
        captioner.load_weights(options.weights)
    consensus = options.consensus and NeighborConsensus(FeatureStore.open(options.consensus))
    captioners = [captioner, *map(load_captioner, options.others)]
    writer = Writer(captioners, options.beam, options.length_penalty, consensus)
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.time()

    examples = coco_json(options.annotations, options.images)[: options.max_images]
    store = FeatureStore.build(options.output / "features", examples, captioner.feature_extractor, on_error="skip")
    for example in examples:
        if example["image_id"] not in store:
            print(f"Left out: {store.skipped[example['image_id']]}")

    captions = write_captions(writer, store, options.batch_size)
    write_results(options.output / "results.json", captions)

    references = {image_id: store.captions(image_id) for image_id in store.image_ids}
    figures = evaluate_captions(captions, references)
    metrics = {
        "images": len(captions),
        "left_out": len(examples) - len(captions),
        "decoding": writer.name,
        **figures,
        **diversity(captions),
        "seconds": round(time.time() - start, 1),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")

    scores = CiderD(references).scores(captions)
    ranked = sorted(scores, key=scores.get, reverse=True)
    photographs = {example["image_id"]: example["image"] for example in examples}
    for name, image_ids in (("best", ranked[:SAMPLES]), ("worst", ranked[: -SAMPLES - 1 : -1])):
        write_picture(options.output / f"{name}.png", writer, store, photographs, image_ids)

    print(f"{metrics['images']} images, {metrics['decoding']}, figures times 100:")
    for name, value in figures.items():
        print(f"  {NAMES[name]:8} {100 * value:6.1f}")
    print(
        f"{metrics['vocabulary']} different words, {metrics['mean_length']:.1f} a caption; "
        f"{metrics['unique']:.0%} of the captions differ from one another."
    )
    print(f"See {options.output}: metrics.json, results.json, best.png, worst.png.")


if __name__ == "__main__":
    main()
