"""The page of attention maps, read back as a browser would."""

import base64
import hashlib
import html.parser
import io
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_showattend.visualization import attention_page

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 60, 3), dtype="uint8")
VOID = {"meta", "img", "input"}


def weights(*shape):
    return RNG.dirichlet(np.ones(shape[-1]), size=shape[:-1]).astype("float32")


class Element:
    def __init__(self, tag, attributes=()):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def find(self, tag, **attributes):
        """All elements inside with the tag and the attributes, in their order; `class_` stands for `class`."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and wanted.items() <= child.attributes.items():
                    found.append(child)
                found += child.find(tag, **attributes)
        return found

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Parser(html.parser.HTMLParser):
    """Builds the tree, and fails where a tag is not closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open = [Element("page")]

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), f"{tag} has an attribute twice"
        element = Element(tag, attributes)
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parsed(page):
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert len(parser.open) == 1
    return parser.open[0]


def skeleton(element):
    """The tree without its texts."""
    return [(child.tag, skeleton(child)) for child in element.children if isinstance(child, Element)]


def numbers(word):
    return np.array([int(number) for number in word.attributes["data-weights"].split(" ")])


def decoded(image):
    head, data = image.attributes["src"].split(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_section_for_each_image_and_a_button_for_each_word():
    attention = weights(2, 4, 16)
    page = parsed(attention_page(None, [IMAGE, IMAGE[:, :30]], ["a red dog", "cats"], attention, title="Two"))
    assert [one.text for one in page.find("title") + page.find("h1")] == ["Two", "Two"]
    first, second = page.find("section")
    assert [word.text for word in first.find("button")] == ["a", "red", "dog"]
    assert [word.text for word in second.find("button")] == ["cats"]
    assert all(word.attributes["type"] == "button" for word in page.find("button"))
    assert [image.attributes["alt"] for image in page.find("img")] == ["a red dog", "cats"]
    assert second.find("img")[0].attributes["width"] == "30"
    assert second.find("canvas")[0].attributes["width"] == "30"
    # One caption each: nothing to choose.
    assert not page.find("fieldset")
    assert not page.find("h2")


def test_the_maps_are_the_attention_to_half_a_thousandth_of_the_largest():
    attention = weights(2, 5, 12)
    attention[1, 3] = 1.0  # Behind the words, where it must not set the scale.
    page = parsed(attention_page(None, [IMAGE] * 2, ["a red large dog", "cats sit"], attention, grid=(3, 4)))
    used = np.concatenate([attention[0, :4], attention[1, :2]])
    read = np.stack([numbers(word) for word in page.find("button")]) * used.max() / 1000
    assert np.abs(read - used).max() <= used.max() / 2000 * 1.0001
    assert numbers(page.find("button")[int(used.max(axis=1).argmax())]).max() == 1000
    for caption in page.find("p", class_="caption"):
        assert (caption.attributes["data-rows"], caption.attributes["data-columns"]) == ("3", "4")
    assert f"{used.max():.3g}" in [span.text for span in page.find("span")]


def test_the_place_of_the_largest_weight_in_words():
    attention = np.array([[0.1, 0.1, 0.1, 0.1, 0.1, 0.5]])
    (word,) = parsed(attention_page(None, [IMAGE], ["dog"], [attention], grid=(2, 3))).find("button")
    assert word.attributes["data-where"] == "largest weight 0.5 of 1, in row 2 of 2, column 3 of 3"


def test_no_weight_at_all():
    (word,) = parsed(attention_page(None, [IMAGE], ["dog"], np.zeros((1, 1, 4)))).find("button")
    assert numbers(word).tolist() == [0, 0, 0, 0]


def test_alternatives_with_their_scores():
    attention = weights(1, 2, 3, 4)
    texts = [["a dog", "the red dog"]]
    page = parsed(attention_page(None, [IMAGE], texts, attention, scores=np.array([[-1.234, -np.inf]])))
    captions = page.find("p", class_="caption")
    assert [[word.text for word in caption.find("button")] for caption in captions] == [
        ["a", "dog"],
        ["the", "red", "dog"],
    ]
    for caption, maps in zip(captions, attention[0], strict=True):
        for word, row in zip(caption.find("button"), maps, strict=False):
            assert numbers(word).argmax() == row.argmax()
    choices = page.find("input", type="radio")
    assert [choice.attributes["value"] for choice in choices] == ["0", "1"]
    assert ["checked" in choice.attributes for choice in choices] == [True, False]
    assert len({choice.attributes["name"] for choice in choices}) == 1
    assert [label.text for label in page.find("label")] == ["a dog -1.23", "the red dog -inf"]
    assert page.find("img")[0].attributes["alt"] == "a dog"


def test_choices_of_two_images_are_apart():
    page = parsed(attention_page(None, [IMAGE] * 2, [["a", "b"]] * 2, weights(2, 2, 1, 4)))
    assert len({choice.attributes["name"] for choice in page.find("input")}) == 2


def test_scores_and_references():
    page = parsed(
        attention_page(
            None, [IMAGE] * 2, ["dog", "cat"], weights(2, 1, 4), scores=[-1, -2.5], references=[["A dog."], []]
        )
    )
    assert [score.text for score in page.find("span", class_="score")] == ["-1.00", "-2.50"]
    assert [line.text for line in page.find("li")] == ["A dog."]
    assert len(page.find("ul")) == 1


def test_an_empty_caption_is_said():
    page = parsed(attention_page(None, [IMAGE], [""], weights(1, 2, 4)))
    assert page.find("p", class_="caption")[0].text == "(no words)"
    assert page.find("img")[0].attributes["alt"] == "(no words)"
    assert not page.find("button")


def test_photographs_and_drawings(tmp_path):
    flat = np.zeros((20, 30, 3), "uint8")
    flat[5:9] = (10, 200, 30)
    photograph = np.asarray(Image.fromarray(IMAGE[:6, :9]).resize((600, 400), Image.Resampling.BICUBIC))
    Image.fromarray(photograph).save(tmp_path / "p.png")
    page = parsed(attention_page(None, [flat, tmp_path / "p.png"], ["dog"] * 2, weights(2, 1, 4)))
    drawing, picture = page.find("img")
    np.testing.assert_array_equal(decoded(drawing), flat)
    assert picture.attributes["src"].startswith("data:image/jpeg")
    assert decoded(picture).shape == (341, 512, 3)
    assert [name.text for name in page.find("h2")] == ["p.png"]


def test_tensors_of_the_backend():
    tensor = keras.ops.convert_to_tensor(weights(1, 2, 3, 4))
    scores = keras.ops.convert_to_tensor([[-1.0, -2.0]])
    images = keras.ops.convert_to_tensor(IMAGE[None])
    page = parsed(attention_page(None, images, [["a dog", "dog"]], tensor, scores=scores))
    assert len(page.find("button")) == 3
    assert "-2.00" in page.find("label")[1].text


# HTML that would do something if it were not escaped, and whatever else there is.
HOSTILE = st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&lt;b&gt;", "</title><b>", "'-->", "]]>", "\ud800"]
)
TEXTS = st.one_of(st.text(max_size=30), HOSTILE, st.tuples(HOSTILE, st.text(max_size=5)).map("".join))


def shown(text):
    """What the page must show of a text: spaces as one, and what HTML can't hold as its replacement character."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", " ".join(text.split()))


@settings(max_examples=60)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), reference=TEXTS, title=TEXTS)
def test_any_text_is_text_and_nothing_else(texts, reference, title):
    count = max(len(text.split()) for text in texts)
    attention = np.full((1, len(texts), count, 4), 0.25)
    page = parsed(attention_page(None, [IMAGE], [texts], attention, references=[[reference]], title=title))
    for caption, text in zip(page.find("p", class_="caption"), texts, strict=True):
        assert [word.text for word in caption.find("button")] == shown(text).split(" ") * bool(text.split())
    assert page.find("img")[0].attributes["alt"] == (shown(texts[0]) or "(no words)")
    assert page.find("li")[0].text == shown(reference)
    assert page.find("h1")[0].text == page.find("title")[0].text == shown(title)
    # The same elements as with harmless words of the same number.
    harmless = [" ".join("x" for _ in text.split()) for text in texts]
    plain = parsed(attention_page(None, [IMAGE], [harmless], attention, references=[["x"]], title="x"))
    assert skeleton(page) == skeleton(plain)


@pytest.mark.skipif(os.name == "nt", reason="such file names can't be there")
def test_names_of_files_are_escaped(tmp_path):
    name = '<img src=x onerror="alert(1)">.png'
    Image.fromarray(IMAGE).save(tmp_path / name)
    page = parsed(attention_page(None, [str(tmp_path / name)], ["dog"], weights(1, 1, 4)))
    assert page.find("h2")[0].text == name
    assert len(page.find("img")) == 1


def test_nothing_is_loaded_and_only_its_own_script_runs():
    text = attention_page(None, [IMAGE], ["dog"], weights(1, 1, 4))
    page = parsed(text)
    (rules,) = [meta.attributes["content"] for meta in page.find("meta") if "http-equiv" in meta.attributes]
    assert rules.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        (element,) = page.find(tag)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules
    assert "JavaScript" in page.find("noscript")[0].text
    assert not page.find("link")
    assert "http://" not in text
    assert "https://" not in text
    assert " style=" not in text


def test_the_file_is_the_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    page = attention_page(path, [IMAGE], ["größer"], weights(1, 1, 4))
    assert path.read_bytes() == page.encode()
    assert os.listdir(tmp_path) == ["page.html"]
    with pytest.raises(ValueError, match="attention"):
        attention_page(path, [IMAGE], ["dog"], weights(1, 0, 4))
    assert path.read_bytes() == page.encode()
    with pytest.raises(FileNotFoundError):
        attention_page(str(tmp_path / "missing" / "page.html"), [IMAGE], ["dog"], weights(1, 1, 4))


def test_needs_no_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = sys.modules['tensorflow'] = None\n"
        "import numpy as np\n"
        "from keras_showattend.visualization import attention_page\n"
        "assert 'dog' in attention_page(None, [np.zeros((4, 6, 3))], ['dog'], np.ones((1, 1, 4)))\n"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, r"`path` must be a path or None. Received: path=3 \(type int\)"),
        ({"title": None}, r"`title` must be a str. Received: title=None \(type NoneType\)"),
        ({"texts": "a dog"}, r"`texts` must be a list. Received: texts='a dog'"),
        ({"texts": []}, r"`texts` must not be empty"),
        ({"texts": ["a dog", None]}, r"`texts\[1\]` must be a list. Received: texts\[1\]=None"),
        ({"texts": ["a dog", []]}, r"`texts\[1\]` must not be empty"),
        (
            {"texts": [["a", "b"], ["a", 3]], "attention": weights(2, 2, 2, 16)},
            r"`texts` must be .*: texts\[1\]\[1\]=3 \(type int\)",
        ),
        ({"images": [IMAGE]}, r"`images` must have one item .* 2 captions. Received: 1 items"),
        ({"images": [IMAGE, IMAGE[0]]}, r"`images\[1\]` must have the shape \(H, W, 3\)"),
        ({"attention": weights(3, 2, 16)}, r"`attention` must have one item .* Received: 3 items"),
        (
            {"attention": weights(2, 1, 16), "texts": ["a dog", "dog"]},
            r"`attention\[0\]` must have a row for each of the 2",
        ),
        ({"attention": weights(2, 2, 15)}, r"`grid` must be .* `attention\[0\]` with 15 locations"),
        ({"grid": (3, 5)}, r"`grid` must be \(rows, columns\) .* Received: grid=\(3, 5\)"),
        ({"texts": ["dog", ["a", "b", "c"]]}, r"`attention\[1\]` must have one item .* 3 captions. Received: 2 items"),
        ({"texts": ["dog", ["a", "b"]]}, r"`attention\[1\]\[0\]` must have the shape"),
        ({"scores": [-1.0]}, r"`scores` must have one item .* Received: 1 items"),
        ({"scores": -1.0}, r"`scores` must be a list. Received: scores=-1.0"),
        ({"scores": [-1.0, "2"]}, r"`scores` must hold a number .*: scores\[1\]='2' \(type str\)"),
        ({"scores": [-1.0, np.nan]}, r"`scores` must hold a number .*: scores\[1\]=nan"),
        ({"scores": [[-1.0], [-2.0, -3.0]]}, r"`scores` must hold a number .*: scores\[0\]=\[-1.0\] \(type list\)"),
        ({"references": ["x", "y"]}, r"`references` must hold a list .* 'x' \(type str\) at index 0"),
        ({"references": [["x"], None]}, r"`references` must hold a list .* None \(type NoneType\) at index 1"),
        ({"references": [["x"], [3]]}, r"`references` must hold a list of str .* \[3\] \(type list\) at index 1"),
        ({"references": [["x"]]}, r"`references` must have one item .* Received: 1 items"),
    ],
)
def test_errors(arguments, message):
    defaults = {"path": None, "images": [IMAGE] * 2, "texts": ["dog", "a dog"], "attention": weights(2, 2, 16)}
    with pytest.raises(ValueError, match=message):
        attention_page(**(defaults | arguments))
