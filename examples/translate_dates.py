"""Train a small translator that reads dates as people write them and answers in ISO 8601, and see how it reads them.

    python examples/translate_dates.py --output runs/dates
    python examples/translate_dates.py --output runs/dates --train-dates 2000 --epochs 1      # a quick try
    python examples/translate_dates.py --model runs/dates/translator.keras "sunday, 22 nov. 2026" "3rd of may '99"

The folder then holds translator.keras, source.txt and target.txt (its vocabularies), alignment.png (which character was
read while which was written) and metrics.json.

The dates lie in the years 1900 to 2099 and are written in English. With dots the day comes first. With slashes either
order occurs, and where both would be a date, as in 2/3/2026, nothing is promised. A year of two digits comes last:
69 to 99 are 1969 to 1999, and 00 to 68 are 2000 to 2068.

Only the first functions know of dates: translate_sentences.py does with words all that follows them.
"""

import argparse
import datetime
import json
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_showattend import CaptionTokenizer
from keras_showattend.decoding import beam_search, compile_decoding
from keras_showattend.layers import AttentionGRUDecoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy

WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
MONTHS = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]  # fmt: skip
# By number, as `datetime` counts days.
DATES = range(datetime.date(1900, 1, 1).toordinal(), datetime.date(2100, 1, 1).toordinal())


def write_date(date, rng):
    """The date as somebody might write it."""
    d, m, y = date.day, date.month, date.year
    suffix = "th" if d in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    ordinal = f"{d}{suffix}"
    day = rng.choice([f"{d}", ordinal])
    month = MONTHS[m - 1]
    month = rng.choice([month, month[:3], f"{month[:3]}."])
    year = f"{y}"
    if 1969 <= y <= 2068 and rng.random() < 0.3:
        year = rng.choice([f"{y % 100:02}", f"'{y % 100:02}"])
    digits = year.strip("'")
    ways = [
        f"{day} {month} {year}",
        f"{month} {day}, {year}",
        f"{ordinal} of {month} {year}",
        f"the {ordinal} of {month}, {year}",
        f"{d}.{m}.{digits}",
        f"{d:02}.{m:02}.{digits}",
        f"{y}-{m:02}-{d:02}",
        f"{y}/{m}/{d}",
        f"{y} {month} {d}",
    ]
    if d > 12 or d == m:
        ways += [f"{m}/{d}/{digits}", f"{d}/{m}/{digits}", f"{m:02}/{d:02}/{digits}"]
    weekday = WEEKDAYS[date.weekday()]
    return rng.choice(["", "", "", f"{weekday}, ", f"{weekday} ", f"{weekday[:3]}. "]) + rng.choice(ways)


def make_pairs(train_dates, validation_dates, seed):
    """Pairs of texts, (as somebody might write it, ISO 8601), to train and to validate on; no date is in both."""
    rng = random.Random(seed)
    # Without replacement, so that every date comes once.
    dates = map(datetime.date.fromordinal, rng.sample(DATES, train_dates + validation_dates))
    pairs = [(write_date(date, rng), date.isoformat()) for date in dates]
    return pairs[:train_dates], pairs[train_dates:]


def spell(text):
    """The characters of a text as words, for a tokenizer: `"3 may"` gives `"3 _ m a y"`."""
    return " ".join("_".join(text.split()))


def make_model(source_size, target_size, embed_dim, units):
    """From token ids `[source (B, S), target (B, T)]` to the logits `(B, T, V)` of what follows each of the target."""
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(source_size, embed_dim, mask_zero=True)(source)
    gru = keras.layers.GRU(units // 2, return_sequences=True)
    read = keras.layers.Bidirectional(gru, name="reader")(embedded)
    logits = AttentionGRUDecoder(target_size, embed_dim, units, name="writer")(target, read)
    return keras.Model([source, target], logits)


class Translation(NamedTuple):
    """What was read, what was written, and how much each word read (S) counted for each word written (T)."""

    read: list
    written: list
    attention: np.ndarray  # (T, S)


class Translator:
    """A model of `make_model` with the tokenizers of its two sides: texts in, translations out.

    Args:
        model: The model.
        source: `CaptionTokenizer` of what is read.
        target: `CaptionTokenizer` of what is written.
    """

    def __init__(self, model, source, target):
        self.model, self.source, self.target = model, source, target
        self._searches = {}

    @classmethod
    def fit(cls, pairs, validation_pairs, options, **limits):
        """Train a new one.

        Args:
            pairs: List of (source, target), texts whose words are separated by spaces.
            validation_pairs: The same, not trained on.
            options: With `embed_dim`, `units`, `epochs`, `batch_size` and `learning_rate`.
            **limits: Of the vocabularies, as in `CaptionTokenizer.fit`.
        """
        sources, targets = zip(*pairs, strict=True)
        source, target = (CaptionTokenizer.fit(texts, punctuation="", **limits) for texts in (sources, targets))
        model = make_model(source.vocabulary_size, target.vocabulary_size, options.embed_dim, options.units)
        translator = cls(model, source, target)
        steps = options.epochs * -(-len(pairs) // options.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps, alpha=0.02, warmup_target=options.learning_rate, warmup_steps=steps // 20
        )
        model.compile(
            optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
            loss=MaskedSparseCategoricalCrossentropy(),
            weighted_metrics=[MaskedAccuracy(name="accuracy")],
        )
        x, y = translator.teacher_forcing(pairs)
        validation_data = translator.teacher_forcing(validation_pairs)
        model.fit(x, y, options.batch_size, options.epochs, validation_data=validation_data, verbose=2)
        return translator

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; `path` is the model's file."""
        source, target = (
            CaptionTokenizer.from_vocabulary_file(path.parent / name, punctuation="")
            for name in ("source.txt", "target.txt")
        )
        return cls(keras.models.load_model(path), source, target)

    def save(self, folder):
        """Write the model and the two vocabularies."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save(folder / "translator.keras")
        self.source.save_vocabulary(folder / "source.txt")
        self.target.save_vocabulary(folder / "target.txt")

    def teacher_forcing(self, pairs):
        """Pairs of texts as arrays for `fit`: from all of the source and the target so far, the target's next token."""
        sources, targets = zip(*pairs, strict=True)
        target = self.target.encode(targets)
        return [self._encode(sources), target[:, :-1]], target[:, 1:]

    def translate(self, texts, beam=1, max_length=64, batch_size=256):
        """The best `Translation` of each text; a beam of 1 is greedy decoding."""
        translations, vocabulary = [], self.source.vocabulary
        for start in range(0, len(texts), batch_size):
            source = self._encode(texts[start : start + batch_size])
            decoded = self._search(beam, max_length)(source)
            tokens, attention = ops.convert_to_numpy(decoded.tokens), ops.convert_to_numpy(decoded.attention)
            for row, written, weights in zip(source, tokens, attention, strict=True):
                words = [vocabulary[i] for i in row[row != 0]], self.target.decode([written])[0].split()
                translations.append(Translation(*words, weights[: len(words[1]), : len(words[0])]))
        return translations

    def _encode(self, texts):
        # Without the start id; the end id is a place to look at when nothing is left to read.
        return self.source.encode(texts)[:, 1:]

    def _search(self, beam, max_length):
        if (beam, max_length) not in self._searches:
            reader = keras.Model(self.model.inputs[0], self.model.get_layer("reader").output)
            writer = self.model.get_layer("writer")

            def search(source):
                memory = writer.prepare(reader(source), source != 0)
                batch = ops.shape(source)[0]
                return beam_search(
                    lambda token, state: writer.step(token, state, memory),
                    writer.initial_state(batch),
                    batch,
                    max_length,
                    width=beam,
                )

            self._searches[beam, max_length] = compile_decoding(search, self.model.variables)
        return self._searches[beam, max_length]


def plot_alignments(translations):
    """A figure with a panel for each: from left to right what was read, the end as a block; downwards what was written.

    The form is that of figure 3 of Bahdanau et al. 2015, arXiv 1409.0473.
    """
    from matplotlib.figure import Figure

    rows = -(-len(translations) // 2)
    figure = Figure(figsize=(14, 4.2 * rows), dpi=100, layout="constrained")
    for index, (read, written, attention) in enumerate(translations):
        axes = figure.add_subplot(rows, 2, index + 1)
        axes.imshow(attention, cmap="gray", vmin=0, vmax=1, aspect="auto")
        read = ["\u220e" if word == "<end>" else word for word in read]
        axes.set_xticks(range(len(read)), read, rotation=90 if max(map(len, read)) > 1 else 0, parse_math=False)
        axes.set_yticks(range(len(written)), written, parse_math=False)
        axes.xaxis.tick_top()
    return figure


def add_translator_flags(parser, epochs, learning_rate, embed_dim, units):
    """Where a translator is kept, and what `Translator` reads of the options; the numbers are defaults."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", type=Path, help="train, and leave everything in this folder")
    where.add_argument("--model", type=Path, help="the translator.keras of an earlier run, used instead of a new one")
    training = parser.add_argument_group("model and training")
    training.add_argument("--epochs", type=int, default=epochs)
    training.add_argument("--batch-size", type=int, default=64)
    training.add_argument("--learning-rate", type=float, default=learning_rate)
    training.add_argument("--embed-dim", type=int, default=embed_dim)
    training.add_argument("--units", type=int, default=units, help="of the decoder, and of both readers together")
    training.add_argument("--beam", type=int, default=1, help="width of the beam search; 1 is greedy decoding")
    training.add_argument("--seed", type=int, default=0)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dates", nargs="*", help="dates to translate, after the training or with --model")
    parser.add_argument("--train-dates", type=int, default=16000)
    parser.add_argument("--validation-dates", type=int, default=1000)
    add_translator_flags(parser, epochs=2, learning_rate=4e-3, embed_dim=32, units=128)
    options = parser.parse_args(arguments)
    if options.model and not options.dates:
        parser.error("--model needs dates to translate")
    if min(options.train_dates, options.validation_dates) < 1:
        parser.error("--train-dates and --validation-dates must be at least 1")
    if options.train_dates + options.validation_dates > len(DATES):
        parser.error(f"--train-dates and --validation-dates must be at most {len(DATES)} together")
    return options


def train(options):
    """A translator of dates, and all that `--output` holds."""
    start = time.time()
    keras.utils.set_random_seed(options.seed)
    pairs, validation_pairs = make_pairs(options.train_dates, options.validation_dates, options.seed)
    spelled = [[(spell(source), spell(target)) for source, target in p] for p in (pairs, validation_pairs)]
    translator = Translator.fit(*spelled, options)
    translator.save(options.output)

    translations = translator.translate([source for source, _ in spelled[1]], options.beam)
    right = ["".join(t.written) == iso for t, (_, iso) in zip(translations, validation_pairs, strict=True)]
    metrics = {
        "train_dates": len(pairs),
        "validation_dates": len(validation_pairs),
        "exact": sum(right) / len(right),
        "seconds": round(time.time() - start, 1),
        "backend": keras.backend.backend(),
        "processors": os.cpu_count(),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    longest = sorted(translations, key=lambda t: -len(t.read))
    plot_alignments(longest[:: max(1, len(longest) // 6)][:6]).savefig(options.output / "alignment.png")
    print(
        f"{metrics['exact']:.1%} of {len(right)} dates never trained on are exact ({metrics['seconds']:.0f} seconds)."
    )
    print(f"See {options.output}: translator.keras, alignment.png, metrics.json.")
    return translator


def main(arguments=None):
    options = parse_arguments(arguments)
    translator = Translator.load(options.model) if options.model else train(options)
    if options.dates:
        translations = translator.translate([spell(date) for date in options.dates], options.beam)
        for date, translation in zip(options.dates, translations, strict=True):
            print(f"{date}  ->  {''.join(translation.written)}")


if __name__ == "__main__":
    main()
