"""Every example in a docstring runs, and prints what it says."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_showattend

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(keras_showattend.__path__, "keras_showattend.")
    # Its own test, beside the builder, needs TFDS.
    if not module.name.endswith(("_builder", "_test"))
)


def documented(module):
    """The module's own classes, functions and methods that have a docstring."""
    for name, item in vars(module).items():
        if getattr(item, "__module__", None) != module.__name__ or not (
            inspect.isclass(item) or inspect.isfunction(item)
        ):
            continue
        yield name, item
        if inspect.isclass(item):
            yield from (
                (f"{name}.{key}", getattr(value, "__func__", value))
                for key, value in vars(item).items()
                if callable(getattr(value, "__func__", value))
            )


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """A folder with what the examples read, and the names that they take for granted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        yield _surroundings()


def _surroundings():
    Path("annotations").mkdir()
    Path("train2014").mkdir()
    keras.utils.save_img("train2014/1.jpg", np.zeros((8, 8, 3)))
    captions = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}],
    }
    Path("annotations/captions_train2014.json").write_text(json.dumps(captions))
    texts = {1: "a dog", 2: "a cat"}
    examples = [
        {"image_id": image_id, "image": np.zeros((8, 8, 3), "uint8"), "captions": [text]}
        for image_id, text in texts.items()
    ]
    tokenizer = keras_showattend.CaptionTokenizer.fit(texts.values())
    extractor = keras_showattend.features.FeatureExtractor("patches")
    captioner = keras_showattend.Captioner(
        keras_showattend.layers.FeatureEncoder(4),
        keras_showattend.layers.AttentionGRUDecoder(tokenizer.vocabulary_size, embed_dim=4, units=4),
        tokenizer=tokenizer,
    )
    captioner.compile("adam")
    captioner.build([(None, extractor.locations, extractor.width), (None, None)])
    return {
        "np": np,
        "keras": keras,
        "keras_showattend": keras_showattend,
        "store": keras_showattend.features.FeatureStore.build("store", examples, extractor, verbose=0),
        "captioner": captioner,
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, surroundings):
    module = importlib.import_module(name)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    assert all(runner.run(test).failed == 0 for test in finder.find(module, name))
    for _, item in documented(module):
        for block in re.findall(r"```python\n(.*?)```", inspect.getdoc(item) or "", flags=re.DOTALL):
            exec(textwrap.dedent(block), dict(surroundings))


@pytest.mark.parametrize(
    "name",
    [
        "Captioner",
        "CaptionTokenizer",
        *(
            f"{room}.{name}"
            for room in ("layers", "features")
            for name in vars(getattr(keras_showattend, room))
            if inspect.isclass(getattr(getattr(keras_showattend, room), name))
        ),
    ],
)
def test_public_classes_have_an_example(name):
    item = keras_showattend
    for part in name.split("."):
        item = getattr(item, part)
    assert "Example:" in inspect.getdoc(item)


def test_the_layers_of_the_readme():
    readme = Path(__file__).parent.parent / "README.md"
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL) if "translator" in b)
    names = {}
    exec(block, names)
    words, targets = np.array([[4, 5, 0]]), np.array([[2, 3]])
    assert names["classifier"].predict(words, verbose=0).shape == (1, 2)
    assert names["translator"].predict([words, targets], verbose=0).shape == (1, 2, 9000)
