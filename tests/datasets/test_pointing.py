"""The measure of where attention points, on cases whose answer is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_showattend.datasets import shape_scenes
from keras_showattend.datasets.shape_scenes import Phrase, PointingReport, find_phrases
from keras_showattend.datasets.shape_scenes import pointing_report as report
from keras_showattend.datasets.shape_scenes.drawing import COLORS, SHAPES, SIZES

GRID = (4, 4)
NOTHING = PointingReport(0, 0.0, 0.0, 0.0, 0.0)


def example():
    """A 40 x 40 picture: a small red circle in the upper left, a large blue square at the right.

    On a 4 x 4 grid the centres lie at 5, 15, 25 and 35. The circle's box holds (5, 5) alone,
    location 0; the square's holds rows 15, 25, 35 and columns 25, 35: locations 6, 7, 10, 11, 14
    and 15.
    """
    return {
        "image": np.zeros((40, 40, 3), np.uint8),
        "objects": [
            {"shape": "circle", "color": "red", "size": "small", "box": (2, 2, 12, 12)},
            {"shape": "square", "color": "blue", "size": "large", "box": (10, 20, 40, 40)},
        ],
    }


def looking_at(locations, words=12):
    """Attention that looks at one location a word."""
    attention = np.zeros((1, words, 16), np.float32)
    for word, location in enumerate(locations):
        attention[0, word, location] = 1
    return attention


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small red circle", [Phrase(0, 4, "small", "red", "circle")]),
        ("a red circle", [Phrase(0, 3, None, "red", "circle")]),
        ("red circle", [Phrase(0, 2, None, "red", "circle")]),
        ("large red circle", [Phrase(0, 3, "large", "red", "circle")]),
        (
            "there is a small red circle and a large blue star",
            [Phrase(2, 6, "small", "red", "circle"), Phrase(7, 11, "large", "blue", "star")],
        ),
        ("a red blue circle", [Phrase(2, 4, None, "blue", "circle")]),
        ("a red", []),
        ("a small circle", []),
        ("red and circle", []),
        ("", []),
    ],
)
def test_find_phrases(caption, expected):
    assert find_phrases(caption.split()) == expected


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "and", "is", *SIZES, *COLORS, *SHAPES]), max_size=20),
)
def test_phrases_are_ordered_disjoint_and_end_in_colour_and_shape(words):
    phrases = find_phrases(words)
    for phrase in phrases:
        assert words[phrase.stop - 2 : phrase.stop] == [phrase.color, phrase.shape]
        assert phrase.stop - phrase.start <= 4
    for first, second in itertools.pairwise(phrases):
        assert first.stop <= second.start


def test_report_worked_by_hand():
    # Words 0-3 look at the circle, word 4 elsewhere, words 5-8 at the corner of the square's box.
    attention = looking_at([0, 0, 0, 0, 3, 6, 6, 6, 6])
    result = report(["a small red circle above a large blue square"], attention, [example()], GRID)
    assert result == PointingReport(
        phrases=2, named_correctly=1.0, size_correctly=1.0, pointed_inside=1.0, chance=3.5 / 16
    )


def test_attention_is_summed_over_the_words_of_the_phrase():
    # Two words look at the circle and two at location 9; the article, which counts, decides.
    attention = looking_at([0, 9, 9, 0])
    attention[0, 0] *= 1.5
    assert report(["a small red circle"], attention, [example()], GRID).pointed_inside == 1
    # The words before and after the phrase don't count: only 2 to 6 do, and they look away.
    attention = looking_at([0, 0, 9, 9, 9, 9, 0, 0])
    caption = "there is a small red circle and nothing"
    assert report([caption], attention, [example()], GRID).pointed_inside == 0


def test_wrong_names_and_sizes():
    # The first names nothing in the picture; the second has the wrong size; the third states none.
    captions = ["a small red square", "a large red circle", "a blue square"]
    attention = np.concatenate([looking_at([0] * 4), looking_at([0] * 4), looking_at([0] * 3)])
    result = report(captions, attention, [example()] * 3, GRID)
    assert result == PointingReport(
        phrases=3,
        named_correctly=2 / 3,
        size_correctly=0.0,
        pointed_inside=0.5,
        chance=(1 / 16 + 6 / 16) / 2,
    )


def test_grid_may_be_oblong():
    # 2 rows of centres at 10 and 30, 8 columns at 2.5, 7.5, ... 37.5: the circle's box holds
    # (10, 2.5) and (10, 7.5), locations 0 and 1.
    attention = np.zeros((1, 4, 16))
    attention[:, :, 1] = 1
    result = report(["a small red circle"], attention, [example()], (2, 8))
    assert result.pointed_inside == 1
    assert result.chance == 2 / 16


def test_words_may_be_given_as_lists_and_half_precision_as_attention():
    attention = looking_at([0] * 4).astype(np.float16)
    words = ["a", "small", "red", "circle"]
    assert report([words], attention, [example()], GRID).pointed_inside == 1


def test_nothing_named_gives_zeros():
    assert report(["the picture"], looking_at([0, 0]), [example()], GRID) == NOTHING
    assert report([], np.zeros((0, 3, 16)), [], GRID) == NOTHING
    # Named, but not there: the other shares are shares of nothing.
    result = report(["a black star"], looking_at([0, 0, 0]), [example()], GRID)
    assert result == PointingReport(1, 0.0, 0.0, 0.0, 0.0)


def test_no_attention_points_nowhere():
    # Location 0 is the first of the equal ones, and inside the box.
    result = report(["a small red circle"], np.zeros((1, 4, 16)), [example()], GRID)
    assert result.pointed_inside == 0


def test_box_between_the_centres_can_not_be_pointed_at():
    # One location, its centre at (20, 20): in the square's box, not in the circle's.
    attention = np.ones((1, 9, 1))
    caption = "a small red circle above a large blue square"
    result = report([caption], attention, [example()], (1, 1))
    assert result.pointed_inside == result.chance == 0.5


def test_looking_at_the_boxes_of_scenes_scores_one_and_at_random_scores_chance():
    scenes = shape_scenes.load_scenes("validation", count=25)[:]
    captions = [scene["captions"][0] for scene in scenes]
    attention = np.zeros((25, 20, 16, 16))
    for n, scene in enumerate(scenes):
        boxes = {(item["color"], item["shape"]): item["box"] for item in scene["objects"]}
        for phrase in find_phrases(captions[n].split()):
            y_min, x_min, y_max, x_max = boxes[phrase.color, phrase.shape]
            y, x = (y_min + y_max) // 2 // 8, (x_min + x_max) // 2 // 8
            attention[n, phrase.start : phrase.stop, y, x] = 1
    perfect = report(captions, attention.reshape(25, 20, 256), scenes, (16, 16))
    assert (perfect.named_correctly, perfect.size_correctly, perfect.pointed_inside) == (1, 1, 1)

    rng = np.random.default_rng(0)
    runs = [report(captions, rng.random((25, 20, 256)), scenes, (16, 16)) for _ in range(20)]
    inside = np.mean([run.pointed_inside for run in runs])
    # About a thousand phrases: a standard error of one per cent.
    assert inside == pytest.approx(perfect.chance, abs=0.04)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": np.zeros((12, 16))}, r"`attention` must be of shape .*\(12, 16\)"),
        ({"attention": np.full((1, 12, 16), np.nan)}, r"`attention` must be finite"),
        ({"captions": []}, r"must have the same length. Received: 0, 1 and 1"),
        ({"examples": []}, r"must have the same length. Received: 1, 1 and 0"),
        ({"grid": (4, 5)}, r"`grid` must have as many locations.*grid=\(4, 5\)"),
        ({"grid": (16,)}, r"`grid` must be \(rows, columns\). Received: grid=\(16,\)"),
        ({"grid": (-4, -4)}, r"`grid` must be a positive integer. Received: grid=-4"),
        (
            {"captions": ["a " * 13]},
            r"`attention` must have a row for each word.*12 rows for the 13",
        ),
    ],
)
def test_report_refuses(changes, message):
    arguments = {
        "captions": ["a small red circle"],
        "attention": looking_at([0] * 4),
        "examples": [example()],
        "grid": GRID,
    }
    with pytest.raises(ValueError, match=message):
        report(**{**arguments, **changes})
