"""The scenes: what is said is true, what is recorded is what is drawn, and a seed is a picture."""

import itertools
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_showattend.datasets import shape_scenes
from keras_showattend.datasets.shape_scenes import drawing, wording
from keras_showattend.datasets.shape_scenes.drawing import COLORS, IMAGE_SIZE, MARGIN, SHAPES, SIZES

seeds = st.integers(0, 2**32)
some_scenes = settings(max_examples=40, deadline=None)


def scene_of(seed):
    return shape_scenes.draw_scene(np.random.default_rng(seed))


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@some_scenes
@given(seeds)
def test_scene_has_the_promised_form(seed):
    scene = scene_of(seed)
    assert scene.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert scene.image.dtype == np.uint8
    assert 1 <= len(scene.objects) <= 3
    kinds = [(item.color, item.shape) for item in scene.objects]
    assert len(set(kinds)) == len(kinds)
    for item in scene.objects:
        assert item.shape in SHAPES
        assert item.color in COLORS
        low, high = SIZES[item.size]
        y_min, x_min, y_max, x_max = item.box
        assert low <= y_max - y_min == x_max - x_min <= high
        assert all(type(side) is int for side in item.box)


@some_scenes
@given(seeds)
def test_captions_are_five_different_wordings(seed):
    captions = scene_of(seed).captions
    assert len(set(captions)) == len(captions) == 5
    for caption in captions:
        words = caption.split(" ")
        assert all(word.isalpha() and word.islower() for word in words)
        assert 5 <= len(words) <= 19


@some_scenes
@given(seeds)
def test_objects_keep_apart_and_inside(seed):
    boxes = [item.box for item in scene_of(seed).objects]
    for y_min, x_min, y_max, x_max in boxes:
        assert min(y_min, x_min) >= MARGIN
        assert max(y_max, x_max) <= IMAGE_SIZE - MARGIN
    for (top, left, bottom, right), other in itertools.combinations(boxes, 2):
        assert (
            other[0] >= bottom + MARGIN
            or top >= other[2] + MARGIN
            or other[1] >= right + MARGIN
            or left >= other[3] + MARGIN
        )


@some_scenes
@given(seeds)
def test_captions_mention_what_is_there_and_nothing_else(seed):
    scene = scene_of(seed)
    there = {(item.size, item.color, item.shape) for item in scene.objects}
    for caption in scene.captions:
        words = caption.split()
        phrases = shape_scenes.find_phrases(words)
        assert {(p.size, p.color, p.shape) for p in phrases} == there
        assert len(phrases) == len(there)
        assert all(words[phrase.start] == "a" for phrase in phrases)


@some_scenes
@given(seeds)
def test_stated_relations_are_true(seed):
    scene = scene_of(seed)
    boxes = {item.phrase: item.box for item in scene.objects}
    for caption in scene.captions:
        for (first, a), (second, b) in itertools.permutations(boxes.items(), 2):
            for stated in wording.OPPOSITES:
                if f"{first} {stated} {second}" in caption.replace(" is ", " "):
                    (y_a, x_a), (y_b, x_b) = centre(a), centre(b)
                    down, right = y_b - y_a, x_b - x_a
                    true = {
                        "above": down > abs(right),
                        "below": -down > abs(right),
                        "to the left of": right > abs(down),
                        "to the right of": -right > abs(down),
                    }
                    assert true[stated], caption


def test_every_relation_is_stated_somewhere():
    captions = [c for scene in shape_scenes.load_scenes(count=40)[:] for c in scene["captions"]]
    for stated in wording.OPPOSITES:
        assert any(stated in caption for caption in captions)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_box_is_tight_around_what_is_painted(shape, size):
    for side in range(SIZES[size][0], SIZES[size][1] + 1):
        box = (10, 30, 10 + side, 30 + side)
        canvas = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3))
        item = drawing.SceneObject(shape=shape, color="red", size=size, box=box)
        drawing.paint(canvas, item, np.array([200.0, 100.0, 50.0]))
        rows, columns = canvas.any(axis=(1, 2)).nonzero()[0], canvas.any(axis=(0, 2)).nonzero()[0]
        assert (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) == box


@some_scenes
@given(seeds)
def test_boxes_are_where_the_picture_shows_the_objects(seed):
    # A finished picture has noise, so the faint rim of an object can't be told from its ground:
    # two pixels of tolerance for the tips of stars and triangles.
    scene = scene_of(seed)
    image = scene.image.astype(int)
    coloured = (image.max(axis=2) - image.min(axis=2) > 60) | (image.max(axis=2) < 120)
    for item in scene.objects:
        y_min, x_min, y_max, x_max = item.box
        inside = coloured[y_min:y_max, x_min:x_max]
        rows, columns = inside.any(axis=1).nonzero()[0], inside.any(axis=0).nonzero()[0]
        assert max(rows[0], columns[0]) <= 2
        assert min(rows[-1], columns[-1]) >= y_max - y_min - 3
        # The middle of every shape is filled with its colour, give or take the variation.
        y, x = (int(c) for c in centre(item.box))
        patch = image[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
        assert np.abs(patch - COLORS[item.color]).max() < drawing.COLOR_VARIATION + 6
        coloured[y_min:y_max, x_min:x_max] = False
    assert not coloured.any()


def test_coverage_worked_by_hand():
    np.testing.assert_array_equal(drawing.coverage("square", 3), np.ones((3, 3)))
    # Two pixels a side, four samples a pixel side. With k = 2 * sample + 1 the samples lie at
    # k / 16, and one is in the triangle if k_y / 16 >= 2 |k_x - 8| / 16. In the upper left pixel
    # the columns k_x = 1, 3, 5, 7 need k_y >= 14, 10, 6, 2; of the rows k_y = 1, 3, 5, 7 that
    # leaves 0, 0, 1 and 3 samples of 16. In the lower left, k_y = 9 to 15: 1, 3, 4 and 4.
    np.testing.assert_array_equal(drawing.coverage("triangle", 2), [[4 / 16, 4 / 16], [12 / 16, 12 / 16]])
    # A disc covers pi / 4 of its square.
    assert drawing.coverage("circle", 50).mean() == pytest.approx(np.pi / 4, abs=2e-3)
    # A pentagram of radius 1: ten triangles between its tip, its notch (at cos 72 / cos 36) and
    # its centre, in a rectangle of 2 cos 18 by 1 + cos 36.
    cos, sin = np.cos(np.radians([18, 36, 72])), np.sin(np.radians(36))
    area = 10 * 0.5 * (cos[2] / cos[1]) * sin / (2 * cos[0] * (1 + cos[1]))
    assert drawing.coverage("star", 50).mean() == pytest.approx(area, abs=4e-3)


def test_star_stands_on_two_feet():
    star = drawing.coverage("star", 48)
    np.testing.assert_allclose(star, star[:, ::-1])
    assert star[0].astype(bool).sum() <= 4  # one tip
    assert star[-1, :23].any()
    assert star[-1, 25:].any()
    assert not star[-1, 20:28].any()


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((60, 12, 70, 22), "above"),
        ((0, 12, 10, 22), "below"),
        ((35, 60, 45, 70), "to the left of"),
        ((25, 0, 35, 5), "to the right of"),
        # The centres, not the edges, count: (35, 15) and (45, 20) are 10 apart down, 5 across.
        ((40, 0, 50, 40), "above"),
        # A tie goes to the vertical axis.
        ((50, 30, 60, 40), "above"),
    ],
)
def test_relation_worked_by_hand(second, expected):
    first = (30, 10, 40, 20)
    assert wording.relation(first, second) == expected
    if expected != "above" or second != (50, 30, 60, 40):
        assert wording.relation(second, first) == wording.OPPOSITES[expected]


def test_every_wording_fits_the_default_caption_length():
    for wordings in wording.WORDINGS.values():
        assert len(set(wordings)) == len(wordings) >= wording.CAPTIONS_PER_SCENE
        for words in wordings:
            relation = "to the left of"
            parts = dict.fromkeys("abc", "a large yellow triangle")
            parts |= {f"{i}_{j}": relation for i in "abc" for j in "abc"}
            # Twenty tokens, the end among them.
            assert 5 <= len(words.format(**parts).split()) <= 19


def test_scenes_do_not_depend_on_order_or_count():
    forward = [example["image"] for example in shape_scenes.load_scenes("test", count=4)]
    longer = shape_scenes.load_scenes("test", count=9)
    for index in (3, 0, 2, 1):
        np.testing.assert_array_equal(longer[index]["image"], forward[index])
        assert longer[index]["captions"] == shape_scenes.load_scenes("test")[index]["captions"]


def test_splits_and_seeds_differ():
    images = [
        shape_scenes.load_scenes(split, count=1, seed=seed)[0]["image"]
        for split in ("train", "validation", "test")
        for seed in (0, 1)
    ]
    for first, second in itertools.combinations(images, 2):
        assert (first != second).any()


def test_pixels_are_the_same_as_in_earlier_releases():
    # Who changes these numbers changes the data set: raise the builder's version, too.
    sums = [zlib.crc32(scene["image"].tobytes()) for scene in shape_scenes.load_scenes()[:3]]
    assert sums == [2190683479, 1392742620, 1251890527]
    assert shape_scenes.load_scenes()[0]["captions"][0] == (
        "the picture shows a small green triangle and a small blue star and a small yellow triangle"
    )


def test_load_scenes_is_a_sequence_of_examples():
    scenes = shape_scenes.load_scenes("validation", count=5)
    assert len(scenes) == len(list(scenes)) == 5
    assert [len(shape_scenes.load_scenes(s)) for s in ("train", "validation", "test")] == [
        4000,
        500,
        500,
    ]
    example = scenes[3]
    assert set(example) == {"image_id", "image", "captions", "objects"}
    assert example["image_id"] == scenes[-2]["image_id"] == "validation-000003"
    assert set(example["objects"][0]) == {"shape", "color", "size", "box"}
    assert [item["image_id"] for item in scenes[1:3]] == ["validation-000001", "validation-000002"]
    assert repr(scenes) == "<Scenes 'validation': 5 scenes, seed 0>"
    with pytest.raises(IndexError):
        scenes[5]
    with pytest.raises(TypeError):
        scenes["train-000001"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, r"`split` must be one of .*'validation'.*Received: split='valid'"),
        ({"count": 0}, r"`count` must be a positive integer. Received: count=0 \(type int\)"),
        ({"count": 2.0}, r"`count` must be a positive integer. Received: count=2.0 \(type float\)"),
        ({"seed": -1}, r"`seed` must be a non-negative integer. Received: seed=-1 \(type int\)"),
        ({"seed": True}, r"`seed` must be a non-negative integer. Received: seed=True"),
    ],
)
def test_load_scenes_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        shape_scenes.load_scenes(**arguments)
