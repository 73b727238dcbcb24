"""The example that translates sentences: words of many scripts, pairs held out by source, and a run on a small file."""

import json

import pytest
from example_scripts import example_script
from PIL import Image

LINES = [
    f"{who} {does}.\t{wer} {tut}.\tCC-BY 2.0"
    for who, wer in [("The cat", "Die Katze"), ("Tom", "Tom"), ("My mother", "Meine Mutter"), ("Nobody", "Niemand")]
    for does, tut in [("sings", "singt"), ("sleeps", "schläft"), ("is cold", "friert"), ("is cold", "hat kalt")]
]


script = example_script("translate_sentences")


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("\ufeff" + "\n".join(LINES) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Don't go!", "don't go !"),
        ("L\u2019eau, s'il te pla\u00eet\u202f?", "l'eau , s'il te pla\u00eet ?"),
        ("\u00abOui\u00bb, 'dit'-il\u2026", "« oui » , ' dit ' - il . . ."),
        ("Cafe\u0301", "caf\u00e9"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947\u0964", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0964"),
        ("\u6211\u7231\u4f60\u3002", "\u6211 \u7231 \u4f60 \u3002"),
        ("<end> 50%", "< end > 50 %"),
        ("  \t", ""),
    ],
)
def test_words_and_punctuation(script, sentence, words):
    assert script.separate(sentence) == words
    assert script.separate(words) == words


def test_the_pairs_of_a_file(script, pairs):
    found = script.read_pairs(pairs)
    assert len(found) == 12
    assert found["tom is cold ."] == ["tom friert .", "tom hat kalt ."]
    assert script.read_pairs(pairs, reverse=True)["tom hat kalt ."] == ["tom is cold ."]
    assert len(script.read_pairs(pairs, max_pairs=3)) == 3
    assert "my mother is cold ." not in script.read_pairs(pairs, max_words=4)


def test_a_line_without_a_tab_is_named(script, tmp_path):
    (tmp_path / "pairs.tsv").write_text("Go.\tGeh.\nno pair\n")
    with pytest.raises(SystemExit, match=r"pairs\.tsv, line 2: .*Received: 'no pair'"):
        script.read_pairs(tmp_path / "pairs.tsv")


def test_no_source_is_on_both_sides(script):
    translations = {f"s{i}": [f"t{i}"] for i in range(40)}
    train, held_out = script.split(translations, 0.25, seed=0)
    assert (len(train), len(held_out)) == (30, 10)
    assert train | held_out == translations


def test_a_run_leaves_everything_and_its_model_translates(script, pairs, tmp_path, capsys):
    folder = tmp_path / "run"
    small = ["--epochs", "1", "--units", "8", "--embed-dim", "4", "--held-out", "0.25", "--beam", "2"]
    script.main([str(pairs), "--output", str(folder), *small])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["held_out_sentences"] == 3
    # Without a word in common both are next to nothing, in no order.
    assert 0 <= metrics["bleu4"] <= metrics["bleu1"] + 1e-9 <= 1 + 1e-9
    assert min(Image.open(folder / "alignment.png").size) > 300
    lines = (folder / "translations.tsv").read_text(encoding="utf-8").splitlines()
    references = script.read_pairs(pairs)
    assert len(lines) == 3
    for line in lines:
        source, _, *targets = line.split("\t")
        assert targets == references[source]
    capsys.readouterr()
    script.main(["--model", str(folder / "translator.keras"), "Tom sleeps."])
    assert capsys.readouterr().out.startswith("Tom sleeps.  ->  ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m.keras"], "--model needs sentences to translate"),
        (["--output", "x"], "--output needs one file of pairs. Received: 0."),
        (["a.tsv", "--output", "x", "--held-out", "1"], "--held-out must be between 0 and 1. Received: 1.0."),
    ],
)
def test_arguments_are_checked(script, capsys, arguments, message):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err
