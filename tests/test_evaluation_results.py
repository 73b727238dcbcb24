"""Captions in files, and how varied they are."""

import json

import numpy as np
import pytest

from keras_showattend.evaluation import distinct_n, diversity, read_results, write_results


def test_written_and_read(tmp_path):
    captions = {9: "a dog", "img": "naïve “quotes”", np.int64(12): "", 3: "\ud83d broken"}
    path = tmp_path / "results.json"
    write_results(path, captions)
    read = read_results(path)
    assert read == captions
    assert list(read) == [9, "img", 12, 3]
    assert [type(image_id) for image_id in read] == [int, str, int, int]
    # As the server's tools read it.
    assert json.loads(path.read_text())[0] == {"image_id": 9, "caption": "a dog"}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_the_old_file_stays_when_writing_fails(tmp_path, monkeypatch):
    path = str(tmp_path / "results.json")
    write_results(path, {1: "old"})
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        write_results(path, {1: "new"})
    assert read_results(path) == {1: "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({}, "`captions` must be a dict of image ids to captions. Received: an empty dict."),
        (["a"], "`captions` must be a dict .* Received: captions of type list."),
        ({1.5: "a"}, r"must be an int or a str, and each caption a str. Received: {'image_id': 1.5, 'caption': 'a'}"),
        ({True: "a"}, "must be an int or a str, and each caption a str. Received: {'image_id': True"),
        ({1: ["a"]}, r"each caption a str. Received: {'image_id': 1, 'caption': \['a'\]}"),
    ],
)
def test_what_is_not_written(tmp_path, captions, message):
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path / "results.json", captions)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "`path` must be a JSON file. .* which isn't: Expecting property name"),
        (b"\xff[]", "`path` must be a JSON file. .* which isn't: 'utf-8' codec"),
        ("{}", r"must be a JSON list of objects with .* whose top level is no list \(type dict\)."),
        ('[{"image_id": 1, "caption": "a"}, 3]', "whose entry 1 is 3."),
        ('[{"image_id": 1}]', "whose entry 0 is {'image_id': 1}."),
        ('[{"image_id": 1, "caption": null}]', "whose entry 0 is {'image_id': 1, 'caption': None}."),
        ('[{"image_id": 1.0, "caption": "a"}]', "whose entry 0 is {'image_id': 1.0,"),
        ('[{"image_id": true, "caption": "a"}]', "whose entry 0 is {'image_id': True,"),
        (
            '[{"image_id": 7, "caption": "a"}, {"image_id": "7", "caption": "a"}, {"image_id": 7, "caption": "b"}]',
            "where image_id=7 occurs twice, the second time as 2.",
        ),
    ],
)
def test_what_is_not_read(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "results.json")
    with pytest.raises(FileNotFoundError):
        write_results(tmp_path / "nowhere" / "results.json", {1: "a"})


def test_distinct_n_worked_by_hand():
    # 6 words, 4 different; 4 pairs, 3 different: no pair reaches from one caption into the next.
    captions = ["a dog runs", "A dog sleeps."]
    assert distinct_n(captions, 1) == 4 / 6
    assert distinct_n(captions, 2) == 3 / 4
    assert distinct_n(captions, 4) == 0


def test_diversity_worked_by_hand():
    captions = {1: "a dog", 2: "A dog.", 3: "two cats sleep", 4: ""}
    figures = {"vocabulary": 5, "mean_length": 7 / 4, "distinct_1": 5 / 7, "distinct_2": 3 / 4, "unique": 3 / 4}
    assert diversity(captions) == figures
    for training in (["a DOG", "a cat"], {7: ["a dog"], 8: ["a cat", "a bus"]}, [["a dog"], ["a cat"]]):
        assert diversity(captions, training) == {**figures, "novel": 2 / 4}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_n(["a"], 0), "`n` must be a positive integer. Received: n=0"),
        (lambda: distinct_n([], 1), "`captions` must hold at least one caption. Received: none."),
        (lambda: diversity("a dog"), "`captions` must be a dict by image id or a list. Received: .* type str."),
        (lambda: diversity(["a", None]), r"Each of `captions` must be a str. Received: None .* image_id=1."),
        (lambda: diversity(["a"], []), "`training_captions` must hold at least one caption. Received: none."),
        (lambda: diversity(["a"], [["a"], 3]), "Each of `training_captions` must be a str. Received: 3"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
