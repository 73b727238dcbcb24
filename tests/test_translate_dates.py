"""The example that reads dates: what it trains on is right, a run leaves what it says, its model can be used again."""

import datetime
import json
import random
import re

import numpy as np
import pytest
from example_scripts import example_script
from PIL import Image

TINY = ["--train-dates", "64", "--validation-dates", "9", "--epochs", "1", "--units", "8", "--embed-dim", "4"]


script = example_script("translate_dates")


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "dates"
    script.main(["--output", str(folder), *TINY])
    return folder


def written(script, date, count=400):
    rng = random.Random(0)
    return {script.write_date(date, rng) for _ in range(count)}


def test_a_date_is_written_in_many_ways(script):
    texts = written(script, datetime.date(2026, 11, 22), 4000)
    assert {"22.11.2026", "2026-11-22", "2026/11/22", "11/22/26", "22/11/2026", "nov. 22nd, 2026"} <= texts
    assert {"sunday, 22 november 2026", "sun. the 22nd of nov., 2026", "22nd of november '26"} <= texts
    assert len(texts) > 200


ORDINALS = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "30th", "31st"]


@pytest.mark.parametrize("ordinal", ORDINALS)
def test_ordinals(script, ordinal):
    day = int(ordinal[:-2])
    found = {match for text in written(script, datetime.date(2000, 1, day)) for match in re.findall(r"\d+[a-z]+", text)}
    assert found == {ordinal}


def test_slashes_only_where_one_reading_makes_a_date(script):
    ambiguous = re.compile(r"\b\d{1,2}/\d{1,2}/\d+$")
    assert not any(ambiguous.search(text) for text in written(script, datetime.date(2026, 3, 2)))
    assert any(text.endswith("3/3/2026") for text in written(script, datetime.date(2026, 3, 3)))


@pytest.mark.parametrize(("year", "short"), [(1968, False), (1969, True), (2068, True), (2069, False)])
def test_two_digits_of_a_year_mean_one_year(script, year, short):
    texts = written(script, datetime.date(year, 5, 4))
    assert any(str(year) not in text for text in texts) == short


def test_no_date_is_trained_and_validated_on(script):
    train, validation = script.make_pairs(3000, 500, seed=1)
    assert (len(train), len(validation)) == (3000, 500)
    dates = [iso for _, iso in [*train, *validation]]
    assert len(set(dates)) == 3500
    assert min(dates) >= "1900-01-01"
    assert max(dates) <= "2099-12-31"
    assert script.make_pairs(3000, 500, seed=1) == (train, validation)


def test_a_run_leaves_everything(script, folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["train_dates"], metrics["validation_dates"]) == (64, 9)
    assert 0 <= metrics["exact"] <= 1
    assert min(Image.open(folder / "alignment.png").size) > 500
    vocabulary = (folder / "target.txt").read_text().split("\n")
    assert set(vocabulary[4:-1]) == set("0123456789-")


def test_the_saved_model_translates(script, folder, capsys):
    script.main(["--model", str(folder / "translator.keras"), "22 nov. 2026", "May the 4th, 1999"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ->  ")[0] for line in lines] == ["22 nov. 2026", "May the 4th, 1999"]


def test_a_translation_depends_on_its_own_source_alone(script, folder):
    translator = script.Translator.load(folder / "translator.keras")
    texts = [script.spell(text) for text in ("3 may 1999", "wednesday the 22nd of november, 2026")]
    for beam in (1, 3):
        together = translator.translate(texts, beam, max_length=6)
        for text, found in zip(texts, together, strict=True):
            (alone,) = translator.translate([text], beam, max_length=6)
            assert alone[:2] == found[:2]
            assert found.read == [*text.split(), "<end>"]
            assert found.attention.shape == (len(found.written), len(found.read))
            np.testing.assert_allclose(found.attention, alone.attention, atol=1e-5)
            np.testing.assert_allclose(found.attention.sum(-1), 1, atol=1e-5)


def test_each_token_of_the_target_is_learned_from_those_before_it(script, folder):
    translator = script.Translator.load(folder / "translator.keras")
    pairs = [("2 / 1 / 1 9 9 9", "1 9 9 9 - 0 2 - 0 1"), ("3", "2 0")]
    (source, read), written = translator.teacher_forcing(pairs)
    source_ids, target_ids = translator.source, translator.target
    assert source_ids.decode(source) == [text for text, _ in pairs]
    assert (source[:, 0] != source_ids.start_id).all()
    assert source[0, -1] == source_ids.end_id
    assert (read[:, 0] == target_ids.start_id).all()
    np.testing.assert_array_equal(read[:, 1:], written[:, :-1])
    assert target_ids.decode(written) == [text for _, text in pairs]
    assert written[0, -1] == target_ids.end_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m.keras"], "--model needs dates to translate"),
        (["--output", "x", "--train-dates", "80000"], "must be at most 73049 together"),
        ([], "one of the arguments --output --model is required"),
    ],
)
def test_arguments_are_checked(script, capsys, arguments, message):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err
