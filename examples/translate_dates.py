"""Train a small translator that reads dates as people write them and answers in ISO 8601, and show what it looked at.

    python examples/translate_dates.py --output runs/dates
    python examples/translate_dates.py --output runs/dates --train-dates 2000 --epochs 1      # a quick try
    python examples/translate_dates.py --model runs/dates/translator.keras "sunday, 22 nov. 2026" "3rd of may '99"

The folder then holds translator.keras, source.txt and target.txt (the two vocabularies), alignment.png (which character
was read while which was written) and metrics.json. Dates lie in the years 1900 to 2099, and are read by these rules:
with dots the day comes first; with slashes whichever order makes a date, so that where both would (2/3/2026) nothing is
promised; a year of four digits may come first; 69 to 99 are 1969 to 1999, and 00 to 68 are 2000 to 2068.

Nothing here knows of dates but `write_date` and `spell`: translate_sentences.py does the rest with words.
"""

import argparse
import datetime
import json
import os
import random
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_showattend import CaptionTokenizer
from keras_showattend.decoding import beam_search, compile_decoding
from keras_showattend.layers import AttentionGRUDecoder
from keras_showattend.losses import MaskedSparseCategoricalCrossentropy
from keras_showattend.metrics import MaskedAccuracy

DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()
FIRST, LAST = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()


def write_date(date, rng):
    """The date as somebody might write it."""
    d, m, y = date.day, date.month, date.year
    suffix = "th" if d in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    day, month, weekday = f"{d}{rng.choice(['', suffix])}", MONTHS[m - 1], DAYS[date.weekday()]
    month = rng.choice([month, month[:3], f"{month[:3]}."])
    short = 1969 <= y <= 2068 and rng.random() < 0.3
    year = f"{y % 100:02}" if short else f"{y}"
    ways = [
        f"{day} {month} {rng.choice(['', chr(39)]) if short else ''}{year}",
        f"{month} {day}, {year}",
        f"{d}{suffix} of {month} {year}",
        f"the {d}{suffix} of {month}, {year}",
        f"{d}.{m}.{year}",
        f"{d:02}.{m:02}.{year}",
        f"{y}-{m:02}-{d:02}",
        f"{y}/{m}/{d}",
        f"{y} {month} {d}",
    ]
    if d > 12 or d == m:
        ways += [f"{m}/{d}/{year}", f"{d}/{m}/{year}", f"{m:02}/{d:02}/{year}"]
    return rng.choice(["", "", "", f"{weekday}, ", f"{weekday[:3]}. ", f"{weekday} "]) + rng.choice(ways)


def make_pairs(ordinals, rng):
    """A pair (as people write it, as ISO 8601) for each date."""
    dates = map(datetime.date.fromordinal, ordinals)
    return [(write_date(date, rng), date.isoformat()) for date in dates]


def spell(text):
    """A text as a sequence of words: its characters, in small letters, `_` for a space."""
    return " ".join(text.strip().replace(" ", "_"))


def make_translator(source_size, target_size, embed_dim, units):
    """A model from `[source (B, S), target (B, T)]`, token ids, to the logits of the target's next tokens."""
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    read = keras.layers.Embedding(source_size, embed_dim, mask_zero=True)(source)
    read = keras.layers.Bidirectional(keras.layers.GRU(units // 2, return_sequences=True), name="reader")(read)
    logits = AttentionGRUDecoder(target_size, embed_dim, units, name="writer")(target, read)
    return keras.Model([source, target], logits)


def train(model, source, target, validation, options):
    """Teacher forcing: each token of the target is predicted from the ones before it."""
    steps = options.epochs * -(-len(source) // options.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.02, warmup_target=options.learning_rate, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.Adam(schedule, clipnorm=1.0),
        MaskedSparseCategoricalCrossentropy(),
        weighted_metrics=[MaskedAccuracy(name="accuracy")],
        jit_compile=keras.backend.backend() == "jax",
    )
    x, y = [source, target[:, :-1]], target[:, 1:]
    valid_source, valid_target = validation
    validation = [valid_source, valid_target[:, :-1]], valid_target[:, 1:]
    model.fit(x, y, options.batch_size, options.epochs, validation_data=validation, verbose=2)


def make_search(model, max_length, beam=1):
    """A function from source `(B, S)` to the best translations, `Decoded`; a beam of 1 is greedy decoding."""
    reader = keras.Model(model.inputs[0], model.get_layer("reader").output)
    writer = model.get_layer("writer")

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

    return compile_decoding(search, model.variables)
