"""Reading COCO captions: what is read, and what is refused in words that help."""

import json
import pathlib
import re
import time

import pytest

from keras_showattend.datasets import coco_json

FLICKR8K = pathlib.Path(__file__).parents[3] / "shared" / "flickr8k"


@pytest.fixture
def folder(tmp_path):
    """Three small files that only have to exist, one of them in a folder of its own."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for name in ("dog.jpg", "cat.jpg", "more/cow.jpg"):
        (images / name).write_bytes(b"\xff\xd8")
    return images


@pytest.fixture
def content():
    """Captions out of order; image 5 has none, and no file."""
    return {
        "info": {"year": 2014},
        "images": [
            {"id": 9, "file_name": "dog.jpg", "height": 3},
            {"id": 5, "file_name": "nobody_looks.jpg"},
            {"id": 7, "file_name": "cat.jpg"},
            {"id": "x", "file_name": "more/cow.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A cat."},
            {"id": 2, "image_id": 9, "caption": "A dog runs."},
            {"id": 3, "image_id": 7, "caption": "The cat sleeps."},
            {"id": 4, "image_id": "x", "caption": "Eine Kuh auf der Wiese, schön."},
            {"id": 5, "image_id": 9, "caption": "A dog."},
        ],
    }


@pytest.fixture
def read(tmp_path, folder):
    """Writes a captions file and reads it."""

    def write_and_read(content, **arguments):
        path = tmp_path / "captions.json"
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
        return coco_json(path, folder, **arguments)

    return write_and_read


def test_images_in_the_order_of_the_file_with_all_their_captions(read, content, folder):
    examples = read(content)
    assert list(examples) == [
        {
            "image_id": 9,
            "image": str(folder / "dog.jpg"),
            "captions": ["A dog runs.", "A dog."],
        },
        {
            "image_id": 7,
            "image": str(folder / "cat.jpg"),
            "captions": ["A cat.", "The cat sleeps."],
        },
        {
            "image_id": "x",
            "image": str(folder / "more" / "cow.jpg"),
            "captions": ["Eine Kuh auf der Wiese, schön."],
        },
    ]
    assert len(examples) == 3
    assert examples[-1]["image_id"] == "x"
    assert examples.skipped_images == 1
    assert repr(examples) == "<CocoExamples: 3 images, 5 captions>"


def test_max_captions_draws_from_all_captions(read, content):
    everything = {caption for example in read(content) for caption in example["captions"]}
    drawn = set()
    for seed in range(20):
        examples = read(content, max_captions=2, seed=seed)
        captions = [caption for example in examples for caption in example["captions"]]
        assert len(captions) == 2
        assert all(example["captions"] for example in examples)
        # Images whose captions weren't drawn are gone, but only image 5 had none to begin with.
        assert examples.skipped_images == 1
        drawn.update(captions)
    assert drawn == everything
    # Whatever is drawn, it stands in the file's order.
    in_order = [caption for example in read(content) for caption in example["captions"]]
    for seed in range(20):
        examples = read(content, max_captions=4, seed=seed)
        captions = [caption for example in examples for caption in example["captions"]]
        assert captions == [caption for caption in in_order if caption in captions]
    assert list(read(content, max_captions=2)) == list(read(content, max_captions=2, seed=1))


@pytest.mark.parametrize("max_captions", [1, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2024])
def test_max_captions_draws_what_the_notebook_drew(read, content, max_captions, seed):
    shuffle = pytest.importorskip("sklearn.utils").shuffle
    captions = [entry["caption"] for entry in content["annotations"]]
    images = [entry["image_id"] for entry in content["annotations"]]
    captions, images = shuffle(captions, images, random_state=seed)
    expected = sorted(zip(captions[:max_captions], map(str, images[:max_captions]), strict=True))
    examples = read(content, max_captions=max_captions, seed=seed)
    assert expected == sorted((caption, str(e["image_id"])) for e in examples for caption in e["captions"])


@pytest.mark.parametrize("max_captions", [5, 6, 30_000])
def test_max_captions_may_exceed_what_is_there(read, content, max_captions):
    assert list(read(content, max_captions=max_captions)) == list(read(content))


def test_a_name_may_have_dots_as_long_as_it_stays_inside(read, content, folder):
    content["images"][0]["file_name"] = "more/.././dog.jpg"
    assert read(content)[0]["image"] == str(folder / "dog.jpg")


def test_a_link_inside_the_folder_is_its_owners_choice(read, content, folder, tmp_path):
    (tmp_path / "elsewhere.jpg").write_bytes(b"\xff\xd8")
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    content["images"][0]["file_name"] = "link.jpg"
    assert read(content)[0]["image"] == str(folder / "link.jpg")


@pytest.mark.parametrize(
    "name",
    ["../../x", "../dog.jpg", "more/../../outside.jpg", "..", "/etc/passwd", "link/../../x"],
)
def test_a_name_that_leads_out_is_refused(read, content, folder, tmp_path, name):
    (tmp_path / "outside.jpg").write_bytes(b"\xff\xd8")
    (folder / "link").symlink_to(folder / "more")
    content["images"][1]["file_name"] = name
    with pytest.raises(ValueError, match=rf"must stay inside.*file_name={re.escape(repr(name))}"):
        read(content)


def test_a_missing_image_is_named_with_its_path(read, content, folder):
    (folder / "more" / "cow.jpg").unlink()
    path = re.escape(str(folder / "more" / "cow.jpg"))
    with pytest.raises(FileNotFoundError, match=rf"Received: '{path}' \(image id 'x'\)"):
        read(content)


def test_missing_paths(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"`annotations` must be an existing.*none\.json"):
        coco_json(tmp_path / "none.json", folder)
    with pytest.raises(FileNotFoundError, match=r"`annotations` must be an existing JSON file"):
        coco_json(folder, folder)
    (tmp_path / "captions.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"`images` must be an existing folder.*nowhere"):
        coco_json(tmp_path / "captions.json", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "image,caption\n1,a dog", '{"images": [', "[1, 2", pytest.param("[" * 100_000, id="nested")]
)
def test_no_json(read, text):
    with pytest.raises(ValueError, match=r"`annotations` must be a JSON file.*captions\.json"):
        read(text)


def test_bytes_that_are_no_text(tmp_path, folder):
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"`annotations` must be a JSON file.*picture\.json"):
        coco_json(tmp_path / "picture.json", folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([1], r"whose top level is no object \(type list\)"),
        ({"images": None}, r'whose "images" is no list \(type NoneType\)'),
        ({"annotations": {}}, r'whose "annotations" is no list \(type dict\)'),
        ({"images": ["dog.jpg"]}, r'where "images"\[0\] is no object: \'dog.jpg\''),
        ({"images": [{"id": 1}]}, r'where "images"\[0\] has no "file_name"'),
        ({"images": [{"file_name": "dog.jpg"}]}, r'where "images"\[0\] has no "id"'),
        ({"images": [{"id": 1, "file_name": 2}]}, r'the "file_name" of "images"\[0\] is no string'),
        ({"images": [{"id": [1], "file_name": "a"}]}, r'the "id" of "images"\[0\] is no integer'),
        ({"images": [{"id": True, "file_name": "a"}]}, r'the "id" of "images"\[0\] is no integer'),
        # The instances of COCO have boxes and no captions.
        ({"annotations": [{"image_id": 9, "bbox": []}]}, r'"annotations"\[0\] has no "caption"'),
        ({"annotations": [{"image_id": 9, "caption": None}]}, r'the "caption" of .* is no string'),
    ],
)
def test_json_that_is_not_coco_captions(read, content, changes, message):
    content = {**content, **changes} if isinstance(changes, dict) else changes
    with pytest.raises(ValueError, match=rf"must be a COCO captions file.*captions\.json.*{message}"):
        read(content)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_the_missing_key_is_named(read, content, key):
    del content[key]
    with pytest.raises(ValueError, match=rf'which has no "{key}"; its keys are \[.info.'):
        read(content)


def test_an_annotation_of_an_unknown_image(read, content):
    content["annotations"][3]["image_id"] = "9"
    with pytest.raises(ValueError, match=r"Received: image_id='9' in annotation 3"):
        read(content)


def test_an_image_id_twice(read, content):
    content["images"][2]["id"] = 9
    with pytest.raises(ValueError, match=r"unique. Received: id=9 for both 'dog.jpg' and 'cat.jpg'"):
        read(content)


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_caption(read, content, blank):
    content["annotations"][2]["caption"] = blank
    with pytest.raises(ValueError, match=r"must not be blank.*in annotation 2 \(image id 7\)"):
        read(content)


def test_no_caption_at_all(read, content):
    with pytest.raises(ValueError, match=r"at least one caption.*4 images and no captions"):
        read({**content, "annotations": []})


@pytest.mark.parametrize("max_captions", [0, -3, 2.5, True, "10"])
def test_max_captions_refuses(read, content, max_captions):
    message = rf"`max_captions` must be a positive integer. Received: max_captions={max_captions!r}"
    with pytest.raises(ValueError, match=message):
        read(content, max_captions=max_captions)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True])
def test_seed_refuses(read, content, seed):
    message = rf"`seed` must be a non-negative integer below 4,294,967,296. Received: seed={seed!r}"
    with pytest.raises(ValueError, match=message):
        read(content, max_captions=2, seed=seed)


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason=f"there are no photographs at {FLICKR8K}")
def test_six_thousand_photographs_in_seconds():
    arguments = (FLICKR8K / "annotations" / "captions_train.json", FLICKR8K / "images")
    start = time.perf_counter()
    examples = coco_json(*arguments)
    # About a tenth of a second; the limit only has to catch an accidental square.
    assert time.perf_counter() - start < 10
    assert len(examples) == 6000
    assert {len(example["captions"]) for example in examples} == {5}
    drawn = coco_json(*arguments, max_captions=3000)
    assert sum(len(example["captions"]) for example in drawn) == 3000
    # Five captions an image: a tenth of them leaves about 41 % of the images.
    assert 2000 < len(drawn) < 2900
