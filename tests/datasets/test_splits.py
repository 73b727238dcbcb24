"""Splits by image: every caption is somewhere, and no image is in two places."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_showattend.datasets import check_disjoint, split_by_image

pytest.importorskip("sklearn")

THREE = {"train": 0.6, "validation": 0.25, "test": 0.15}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-5, 40), min_size=1, max_size=120).filter(lambda ids: len(set(ids)) >= 3),
    st.integers(0, 2**31),
)
def test_every_caption_once_and_no_image_twice(image_ids, seed):
    splits = split_by_image(image_ids, THREE, seed=seed)
    assert list(splits) == ["train", "validation", "test"]
    together = np.concatenate(list(splits.values()))
    assert sorted(together) == list(range(len(image_ids)))
    sides = [{image_ids[i] for i in indices} for indices in splits.values()]
    assert all(sides)
    assert sum(len(side) for side in sides) == len(set(image_ids))


def test_shares_are_counted_in_images():
    # 100 images, the first with 101 captions, the others with one.
    image_ids = [0] * 101 + list(range(1, 100))
    splits = split_by_image(image_ids, THREE)
    images = {name: len({image_ids[i] for i in indices}) for name, indices in splits.items()}
    assert images == {"train": 60, "validation": 25, "test": 15}


@pytest.mark.parametrize(
    ("images", "fractions", "expected"),
    [
        (10, {"a": 0.8, "b": 0.2}, [8, 2]),
        (100, {"a": 0.29, "b": 0.71}, [29, 71]),
        # 2.33 each: the remaining image goes to the first of the equal ones.
        (7, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, [3, 2, 2]),
        # Nobody is left without an image, whatever the share: 2.97, 0.015 and 0.015 of three.
        (3, {"a": 0.99, "b": 0.005, "c": 0.005}, [1, 1, 1]),
        (4, {"a": 0.99, "b": 0.005, "c": 0.005}, [2, 1, 1]),
    ],
)
def test_counts_worked_by_hand(images, fractions, expected):
    splits = split_by_image([f"{i}.jpg" for i in range(images)], fractions)
    assert [len(indices) for indices in splits.values()] == expected


def test_defaults_order_and_seeds():
    image_ids = np.repeat(np.arange(50), 5)
    splits = split_by_image(image_ids)
    assert {name: len(indices) for name, indices in splits.items()} == {
        "train": 200,
        "validation": 50,
    }
    for indices in splits.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()
    np.testing.assert_array_equal(split_by_image(image_ids)["train"], splits["train"])
    assert (split_by_image(image_ids, seed=1)["train"] != splits["train"]).any()


def test_examples_and_ids_of_mixed_kinds():
    examples = [{"image_id": image_id} for image_id in (1, "1", "a", 2)]
    splits = split_by_image(examples, {"train": 0.5, "test": 0.5})
    check_disjoint(
        [examples[i] for i in splits["train"]],
        [examples[i]["image_id"] for i in splits["test"]],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fractions": {"train": 1.0}}, r"`fractions` must name at least two splits"),
        ({"fractions": {"a": 1.0, "b": 0.0}}, r"`fractions` must lie between 0 and 1.*'a': 1.0"),
        ({"fractions": {"a": 1.5, "b": -0.5}}, r"`fractions` must lie between 0 and 1.*'b': -0.5"),
        ({"fractions": {"a": float("nan"), "b": 0.5}}, r"`fractions` must lie between 0 and 1"),
        ({"fractions": {"a": 0.5, "b": 0.4}}, r"`fractions` must add up to 1.*sum is 0.9"),
        ({"image_ids": [4, 4, 4]}, r"`image_ids` must hold at least one image.*1 images for the 2"),
        ({"image_ids": []}, r"`image_ids` must hold at least one image.*0 images for the 2"),
        ({"seed": -1}, r"`seed` must be a non-negative integer. Received: seed=-1"),
    ],
)
def test_split_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_by_image(**{"image_ids": [1, 2, 3], **arguments})


def test_check_disjoint():
    assert check_disjoint([1, 1, 2], [3, 3]) is None
    assert check_disjoint([], []) is None


def test_check_disjoint_names_what_is_shared():
    message = r"share no image. Received: 1 of the 2 training images are in both: 'b'\."
    with pytest.raises(ValueError, match=message):
        check_disjoint(["a", "b", "b"], ["b", "c"])
    message = r"Received: 7 of the 9 training images are in both: 2, 3, 4, 5, 6, \.\.\.\."
    with pytest.raises(ValueError, match=message):
        check_disjoint(np.arange(9), np.arange(2, 20))


def test_a_leak_would_be_found(monkeypatch):
    import sklearn.model_selection

    class Leaky:
        """A splitter that looks at captions and not at images."""

        def __init__(self, **kwargs):
            pass

        def split(self, x, groups):
            return iter([(np.arange(0, len(x), 2), np.arange(1, len(x), 2))])

    monkeypatch.setattr(sklearn.model_selection, "GroupShuffleSplit", Leaky)
    with pytest.raises(ValueError, match=r"must share no image. Received: 2 of the 2"):
        split_by_image([1, 1, 2, 2])
