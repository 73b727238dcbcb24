"""Train a translator on sentence pairs of any two languages, and see which word it read while it wrote which.

    python examples/translate_sentences.py deu.txt --output runs/german
    python examples/translate_sentences.py deu.txt --output runs/german --max-pairs 20000 --epochs 4 --beam 3
    python examples/translate_sentences.py --model runs/german/translator.keras "How are you?" "Go home."

The file is UTF-8 text with a pair on each line: source, tab, target; what follows another tab, such as the attribution
of the files at https://www.manythings.org/anki/, is left out. `--reverse` translates from the target to the source.

The folder then holds translator.keras, source.txt and target.txt (its vocabularies), alignment.png, translations.tsv
(of the pairs held out: source, translation, references) and metrics.json. Held out is by source sentence: none is in
both parts, and all its translations are references of the BLEU.

Model and training are those of translate_dates.py, where characters stand for words.
"""

import argparse
import json
import os
import random
import time
import unicodedata
from pathlib import Path

import keras
from translate_dates import Translator, add_translator_flags, plot_alignments

from keras_showattend.evaluation import bleu

# The right single quotation mark and the modifier letter are typed for an apostrophe.
APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def separate(sentence):
    """The sentence's words and punctuation marks, in small letters and with a space between any two.

    `"Don't go!"` gives `"don't go !"`: an apostrophe between letters stays in its word. Characters of Chinese and
    Japanese and syllables of Korean are words of their own; other scripts without spaces, such as Thai's, need theirs.
    """
    # Compatible forms too: narrow spaces, ligatures and letters of double width are typed by some and not by others.
    text = unicodedata.normalize("NFKC", sentence).lower().translate(APOSTROPHES)
    spaced = []
    for before, character, after in zip(f" {text}", text, f"{text} "[1:], strict=False):
        in_word = character == "'" and before.isalpha() and after.isalpha()
        # Marks, category M, are vowel signs and accents: they belong to their letter.
        apart = unicodedata.category(character)[0] in "PS" or unicodedata.east_asian_width(character) in "FW"
        spaced.append(f" {character} " if apart and not in_word else character)
    return " ".join("".join(spaced).split())


def read_pairs(path, max_pairs=None, max_words=20, reverse=False):
    """The file's pairs, separated into words, as `{source: [targets]}`; longer sentences are left out."""
    translations, count = {}, 0
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        source, tab, target = line.partition("\t")
        if not tab:
            raise SystemExit(f"{path}, line {number}: a pair is two sentences with a tab between. Received: {line!r}.")
        pair = separate(source), separate(target.partition("\t")[0])
        source, target = reversed(pair) if reverse else pair
        if not 0 < len(source.split()) <= max_words or not 0 < len(target.split()) <= max_words:
            continue
        targets = translations.setdefault(source, [])
        if target not in targets:
            targets.append(target)
            count += 1
        if count == max_pairs:
            break
    return translations


def split(translations, share, seed):
    """Two parts, `{source: [targets]}`; the second has the share of the sources, at least one."""
    sources = sorted(translations)
    random.Random(seed).shuffle(sources)
    held_out = min(max(1, round(share * len(sources))), len(sources) - 1)
    return [{source: translations[source] for source in part} for part in (sources[held_out:], sources[:held_out])]


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", help="the file of pairs; with --model, sentences to translate")
    data = parser.add_argument_group("data")
    data.add_argument("--max-pairs", type=int, help="only the first so many pairs of the file")
    data.add_argument("--max-words", type=int, default=20, help="longer sentences are left out")
    data.add_argument("--reverse", action="store_true", help="translate from the second column to the first")
    data.add_argument("--held-out", type=float, default=0.05, help="the share of the source sentences to validate on")
    data.add_argument("--max-vocabulary", type=int, default=10000, help="of each language")
    data.add_argument("--min-count", type=int, default=1, help="rarer words are unknown")
    add_translator_flags(parser, epochs=8, learning_rate=2e-3, embed_dim=128, units=256)
    options = parser.parse_args(arguments)
    if options.model and not options.texts:
        parser.error("--model needs sentences to translate")
    if options.output and len(options.texts) != 1:
        parser.error(f"--output needs one file of pairs. Received: {len(options.texts)}.")
    if options.max_pairs is not None and options.max_pairs < 2:
        parser.error(
            f"--max-pairs must be at least 2: one to train on, one to validate on. Received: {options.max_pairs}."
        )
    if not 0 < options.held_out < 1:
        parser.error(f"--held-out must be between 0 and 1. Received: {options.held_out}.")
    return options


def train(options):
    """A translator of sentences, and all that `--output` holds."""
    start = time.time()
    keras.utils.set_random_seed(options.seed)
    translations = read_pairs(Path(options.texts[0]), options.max_pairs, options.max_words, options.reverse)
    if len(translations) < 2:
        raise SystemExit(f"{options.texts[0]} must have at least two source sentences. Received: {len(translations)}.")
    parts = split(translations, options.held_out, options.seed)
    pairs, held_out_pairs = ([(source, target) for source in part for target in part[source]] for part in parts)
    limits = {"max_vocabulary": options.max_vocabulary, "min_count": options.min_count}
    translator = Translator.fit(pairs, held_out_pairs, options, **limits)
    translator.save(options.output)

    held_out = parts[1]
    found = translator.translate(list(held_out), options.beam)
    written = [" ".join(translation.written) for translation in found]
    scores = bleu(written, list(held_out.values()), tokenize=str.split)
    metrics = {
        "train_pairs": len(pairs),
        "held_out_sentences": len(held_out),
        "source_vocabulary": translator.source.vocabulary_size,
        "target_vocabulary": translator.target.vocabulary_size,
        "beam": options.beam,
        **{name: score.score for name, score in scores.items()},
        "seconds": round(time.time() - start, 1),
        "backend": keras.backend.backend(),
        "processors": os.cpu_count(),
    }
    (options.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    lines = ("\t".join([*pair, *held_out[pair[0]]]) + "\n" for pair in zip(held_out, written, strict=True))
    (options.output / "translations.tsv").write_text("".join(lines), encoding="utf-8")
    # The longest that are right, or else the longest.
    right = [t for t, text, targets in zip(found, written, held_out.values(), strict=True) if text in targets]
    drawn = sorted(right or found, key=lambda translation: -len(translation.read))[:6]
    plot_alignments(drawn).savefig(options.output / "alignment.png")
    print(
        f"BLEU-4 {100 * metrics['bleu4']:.1f} on {len(held_out)} sentences held out ({metrics['seconds']:.0f} seconds)."
    )
    print(f"See {options.output}: translator.keras, alignment.png, translations.tsv, metrics.json.")


def main(arguments=None):
    options = parse_arguments(arguments)
    if options.output:
        train(options)
        return
    translations = Translator.load(options.model).translate([separate(text) for text in options.texts], options.beam)
    for text, translation in zip(options.texts, translations, strict=True):
        print(f"{text}  ->  {' '.join(translation.written)}")


if __name__ == "__main__":
    main()
