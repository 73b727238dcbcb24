"""METEOR and SPICE by the Java programs of pycocoevalcap: what these get, and what is said where they are missing."""

import shutil
import subprocess
import sys
import types
import urllib.error

import pytest

from keras_showattend.evaluation import meteor, spice

CAPTIONS = {9: "A dog runs.", "x": ""}
REFERENCES = {9: ["The dog's here.", "a dog ||| runs"], "x": ["a cat"]}


@pytest.fixture
def program(monkeypatch):
    """Puts a class into the place of the one that pycocoevalcap has for a metric."""

    def install(metric, name, scorer):
        module = types.ModuleType(f"pycocoevalcap.{metric}.{metric}")
        setattr(module, name, scorer)
        for package in ("pycocoevalcap", f"pycocoevalcap.{metric}"):
            monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, module.__name__, module)

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return install


class Recorder:
    """A scorer that keeps what it gets, and answers."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self):
        return self

    def compute_score(self, references, captions):
        self.references, self.captions = references, captions
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("metric", "name", "function", "answer", "score"),
    [
        ("meteor", "Meteor", meteor, (0.3, [0.5, 0.0]), 0.3),
        ("spice", "Spice", spice, (0.25, [{"All": {"f": 0.5}}, {"All": {"f": 0.0}}]), 0.25),
    ],
    ids=["meteor", "spice"],
)
def test_words_are_handed_over_by_number(program, metric, name, function, answer, score):
    recorder = Recorder(answer)
    program(metric, name, recorder)
    scores = function(CAPTIONS, REFERENCES)
    # A word of METEOR's own separator would shift what follows.
    assert recorder.references == {0: ["the dog 's here", "a dog | | | runs"], 1: ["a cat"]}
    assert recorder.captions == {0: ["a dog runs"], 1: [""]}
    assert scores == (score, {9: 0.5, "x": 0.0})
    function(CAPTIONS, REFERENCES, tokenize=str.split)
    assert recorder.references[0] == ["The dog's here.", "a dog runs"]


@pytest.mark.parametrize(
    ("function", "name", "packages"),
    [
        (meteor, "METEOR", ["pycocoevalcap.meteor", "pycocoevalcap.meteor.meteor"]),
        (spice, "SPICE", ["pycocoevalcap.spice", "pycocoevalcap.spice.spice"]),
    ],
)
def test_what_is_missing_is_named(program, monkeypatch, function, name, packages):
    program(name.lower(), name.capitalize(), Recorder(None))
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(OSError, match=f"{name} needs Java, and there is no program `java` on the PATH"):
        function(CAPTIONS, REFERENCES)
    for package in ["pycocoevalcap", *packages]:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{name} needs pycocoevalcap: .* extra `\[metrics\]`"):
        function(CAPTIONS, REFERENCES)


def test_a_program_that_ends_early(program):
    program("meteor", "Meteor", Recorder(ValueError("could not convert string to float: b''")))
    with pytest.raises(OSError, match="METEOR's Java program ended early; it asks for 2 GB of memory: could not"):
        meteor(CAPTIONS, REFERENCES)
    program("spice", "Spice", Recorder(subprocess.CalledProcessError(1, "java")))
    with pytest.raises(OSError, match="SPICE's Java program failed; it asks for 8 GB of memory: Command 'java'"):
        spice(CAPTIONS, REFERENCES)


def test_spice_without_the_internet(program):
    def download():
        raise urllib.error.URLError("Name or service not known")

    program("spice", "Spice", download)
    with pytest.raises(OSError, match=r"downloads from nlp.stanford.edu .* that failed: .*Name or service not known"):
        spice(CAPTIONS, REFERENCES)


@pytest.mark.parametrize("function", [meteor, spice])
def test_arguments_are_checked_first(function):
    with pytest.raises(ValueError, match="must be of the same images"):
        function({1: "a"}, {2: ["a"]})


def test_meteor_itself():
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    captions = {3: "a dog runs", 1: "", 2: "a b"}
    scores = meteor(captions, {1: ["a cat sleeps"], 2: ["a b"], 3: ["a dog runs fast", "the dog"]})
    assert scores.score == pytest.approx(0.3187925240888)
    assert scores.per_image == pytest.approx({3: 0.3799461194353, 1: 0, 2: 1})
