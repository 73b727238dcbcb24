import json
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_showattend.tokenizer import PUNCTUATION, SPECIAL_WORDS, CaptionTokenizer

WORDS = ["a", "dog", "runs", "two", "dogs", "sofa", "on", "l'œuf", "हिन्दी", "größe", "🐶"]


@pytest.fixture
def tokenizer():
    return CaptionTokenizer([*SPECIAL_WORDS, *WORDS])


# ------------------------------------------------------------------------------------- fitting


def test_worked_by_hand():
    # a: 3, dog: 2, runs: 2, on: 1, sleeps: 1, sofa: 1. Equal counts in alphabetical order.
    tokenizer = CaptionTokenizer.fit(["A dog runs.", "A dog sleeps on a sofa!", "Runs?"])
    assert tokenizer.vocabulary == [*SPECIAL_WORDS, "a", "dog", "runs", "on", "sleeps", "sofa"]
    ids = tokenizer.encode(["Dog on a cat", "a dog"])
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [[2, 5, 7, 4, 1, 3], [2, 4, 5, 3, 0, 0]])
    assert tokenizer.decode(ids) == ["dog on a <unk>", "a dog"]


def test_ids_of_the_special_words_are_constants():
    assert SPECIAL_WORDS == ("<pad>", "<unk>", "<start>", "<end>")
    t = CaptionTokenizer
    assert (t.pad_id, t.unknown_id, t.start_id, t.end_id) == (0, 1, 2, 3)


def test_fit_counts_special_words_and_drops_the_rare():
    captions = ["b b b", "a a", "c"]
    assert CaptionTokenizer.fit(captions, max_vocabulary=5).vocabulary[4:] == ["b"]
    assert CaptionTokenizer.fit(captions, min_count=2).vocabulary[4:] == ["b", "a"]
    assert len(CaptionTokenizer.fit(captions)) == 7


def test_fit_does_not_depend_on_the_order_of_captions():
    captions = ["x y z", "z y", "w x"]
    assert CaptionTokenizer.fit(captions).vocabulary == CaptionTokenizer.fit(iter(captions[::-1])).vocabulary


def test_fit_passes_the_filter_on():
    tokenizer = CaptionTokenizer.fit(["A-b, C"], lowercase=False, punctuation=",")
    assert tokenizer.vocabulary[4:] == ["A-b", "C"]
    assert tokenizer.get_config()["punctuation"] == ","
    assert not tokenizer.lowercase


# ------------------------------------------------------------------------------------- splitting


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        (
            "A man, riding a wave (on top-of it)!",
            ["a", "man", "riding", "a", "wave", "on", "top", "of", "it"],
        ),
        (f"a{PUNCTUATION}b", ["a", "b"]),
        ("The dog\u2019s \u02bcbone\u2018 isn\uff07t", ["the", "dog's", "'bone'", "isn't"]),
        ("tab\tnewline\nnarrow\u202fspace", ["tab", "newline", "narrow", "space"]),
        ("L'ŒUF DÉJÀ cassé", ["l'œuf", "déjà", "cassé"]),
        ("Größe, STRAẞE", ["größe", "straße"]),
        ("ΜΙΚΡΟΣ ΔΡΟΜΟΣ.ΠΕΡΑ", ["μικρος", "δρομος", "περα"]),
        ("τι\u037e", ["τι"]),
        ("एक कुत्ता, हिन्दी", ["एक", "कुत्ता", "हिन्दी"]),
        ("İstanbul", ["i\u0307stanbul"]),
        ("a 🐶! 👩‍🚀", ["a", "🐶", "👩‍🚀"]),
        ("cafe\u0301 CAFE\u0301 café", ["café"] * 3),
        ("broken \ud83d half", ["broken", "half"]),
        ("", []),
        (" ?!\n", []),
    ],
)
def test_split(tokenizer, caption, words):
    assert tokenizer.split(caption) == words


def test_split_without_lower_case_or_with_other_punctuation():
    tokenizer = CaptionTokenizer(SPECIAL_WORDS, lowercase=False, punctuation="'…")
    assert tokenizer.split("L\u2019Œuf… A-b.") == ["L", "Œuf", "A-b."]


def test_text_cannot_forge_special_ids():
    caption = "the <end> of <START> is <pad> and <unk> or <b> <<end>>"
    tokenizer = CaptionTokenizer.fit([caption])
    assert tokenizer.split(caption) == (
        ["the", "end", "of", "start", "is", "pad", "and", "unk", "or", "<b>", "<<end>>"]
    )
    assert (tokenizer.encode([caption])[0, 1:-1] >= 4).all()
    other = CaptionTokenizer.fit(["something else"])
    np.testing.assert_array_equal(other.encode(["<end> <start> <pad>"]), [[2, 1, 1, 1, 3]])


@given(st.text())
def test_splitting_again_changes_nothing(text):
    tokenizer = CaptionTokenizer(SPECIAL_WORDS)
    words = tokenizer.split(text)
    assert tokenizer.split(" ".join(words)) == words
    assert not set(words) & set(SPECIAL_WORDS)
    " ".join(words).encode("utf-8")


# ------------------------------------------------------------------------------------- encoding


def test_encode_cuts_long_captions_and_still_ends(tokenizer):
    ids = tokenizer.encode(["a dog runs on a sofa", "dog"], max_length=4)
    np.testing.assert_array_equal(ids, [[2, 4, 5, 3], [2, 5, 3, 0]])
    assert tokenizer.encode(["dog"], max_length=50).shape == (1, 3)
    np.testing.assert_array_equal(tokenizer.encode(["dog runs"], max_length=np.int64(3)), [[2, 5, 3]])


def test_encode_takes_any_iterable(tokenizer):
    expected = tokenizer.encode(["a dog", "two dogs"])
    for captions in (
        ("a dog", "two dogs"),
        np.array(["a dog", "two dogs"]),
        iter(["a dog", "two dogs"]),
    ):
        np.testing.assert_array_equal(tokenizer.encode(captions), expected)


def test_thirty_thousand_captions_take_under_a_second(tokenizer):
    captions = ["A dog runs, two dogs sleep on the sofa; it's late."] * 30_000
    start = time.process_time()
    assert tokenizer.encode(captions).shape == (30_000, 13)
    assert time.process_time() - start < 1.0


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), min_size=1, max_size=5))
def test_round_trip_over_known_words(captions):
    tokenizer = CaptionTokenizer([*SPECIAL_WORDS, *WORDS])
    captions = [" ".join(words) for words in captions]
    assert tokenizer.decode(tokenizer.encode(captions)) == captions


@given(
    st.lists(st.text(min_size=1).map("x ".__add__), min_size=1, max_size=6),
    st.integers(5, 12),
    st.none() | st.integers(3, 8),
)
def test_ids_of_any_text(captions, max_vocabulary, max_length):
    tokenizer = CaptionTokenizer.fit(captions, max_vocabulary=max_vocabulary)
    ids = tokenizer.encode(captions, max_length=max_length)
    assert len(tokenizer) == len(tokenizer.vocabulary) <= max_vocabulary
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocabulary_size
    assert (ids[:, 0] == 2).all()
    assert ((ids == 2).sum(axis=1) == 1).all()
    assert ((ids == 3).sum(axis=1) == 1).all()
    # No holes: padding starts right behind the end id and reaches to the last column.
    lengths = (ids != 0).sum(axis=1)
    np.testing.assert_array_equal(ids[np.arange(len(ids)), lengths - 1], 3)
    assert lengths.max() == ids.shape[1]
    assert max_length is None or ids.shape[1] <= max_length


# ------------------------------------------------------------------------------------- decoding


def test_decode_stops_at_the_end_and_skips_padding_and_start(tokenizer):
    assert tokenizer.decode([[2, 0, 4, 1, 5, 3, 6, 3], [3, 4, 4, 4, 4, 4, 4, 4]]) == [
        "a <unk> dog",
        "",
    ]


def test_decode_takes_tensors_arrays_and_lists(tokenizer):
    expected = ["a dog", "runs on"]
    ids = [[4, 5, 3], [6, 10, 3]]
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode(np.array(ids, "int64")) == expected
    assert tokenizer.decode(keras.ops.convert_to_tensor(ids)) == expected
    assert tokenizer.decode([np.array([4, 5]), (6, 10, 3)]) == expected
    assert tokenizer.decode([4, 5]) == ["a dog"]
    assert tokenizer.decode(np.array([4, 5])) == ["a dog"]
    assert tokenizer.decode([]) == []
    assert tokenizer.decode(np.zeros((0, 5), "int32")) == []
    assert tokenizer.decode([[], [4]]) == ["", "a"]


# ------------------------------------------------------------------------------------- saving


def test_config_survives_json():
    tokenizer = CaptionTokenizer([*SPECIAL_WORDS, *WORDS], lowercase=False, punctuation=".,…")
    config = json.loads(json.dumps(tokenizer.get_config()))
    assert CaptionTokenizer.from_config(config).get_config() == tokenizer.get_config()
    serialized = json.loads(json.dumps(keras.saving.serialize_keras_object(tokenizer)))
    assert serialized["registered_name"] == "keras_showattend>CaptionTokenizer"
    restored = keras.saving.deserialize_keras_object(serialized)
    assert isinstance(restored, CaptionTokenizer)
    assert restored.get_config() == tokenizer.get_config()


def test_vocabulary_is_a_copy(tokenizer):
    tokenizer.vocabulary.append("intruder")
    assert len(tokenizer) == len(SPECIAL_WORDS) + len(WORDS)


def test_vocabulary_file(tokenizer, tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("an older file", encoding="utf-8")
    tokenizer.save_vocabulary(path)
    assert path.read_bytes().decode("utf-8") == "\n".join([*SPECIAL_WORDS, *WORDS]) + "\n"
    assert list(tmp_path.iterdir()) == [path]
    again = CaptionTokenizer.from_vocabulary_file(str(path), lowercase=False, punctuation="")
    assert again.vocabulary == tokenizer.vocabulary
    assert (again.lowercase, again.punctuation) == (False, "")


def test_vocabulary_file_of_another_editor(tokenizer, tmp_path):
    path = tmp_path / "vocabulary.txt"
    text = "\ufeff" + "\r\n".join([*SPECIAL_WORDS, *WORDS])
    path.write_bytes(text.encode("utf-8"))
    assert CaptionTokenizer.from_vocabulary_file(path).vocabulary == tokenizer.vocabulary


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tokenizer, tmp_path):
    folder = tmp_path / "vocabulary.txt"
    (folder / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match=r"vocabulary\.txt"):
        tokenizer.save_vocabulary(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_bad_vocabulary_files(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(b"<pad>\n\xff")
    with pytest.raises(ValueError, match=r"`path` must be UTF-8 text.*vocabulary\.txt"):
        CaptionTokenizer.from_vocabulary_file(path)
    path.write_text("dog\ncat\n")
    with pytest.raises(ValueError, match=r"must begin with <pad>.*path=.*vocabulary\.txt"):
        CaptionTokenizer.from_vocabulary_file(path)
    path.write_text("\n".join([*SPECIAL_WORDS, "a", "", "b", ""]))
    with pytest.raises(ValueError, match=r"not empty.*Received: '' at index 5"):
        CaptionTokenizer.from_vocabulary_file(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        CaptionTokenizer.from_vocabulary_file(tmp_path / "missing.txt")


def test_needs_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from keras_showattend.tokenizer import CaptionTokenizer\n"
        "t = CaptionTokenizer.fit(['a dog']); print(t.decode(t.encode(['a dog'])))"
    )
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['a dog']"


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ("abc", r"`vocabulary` must be a list of str. Received: vocabulary='abc'"),
        (None, r"`vocabulary` must be a list of str. Received: vocabulary=None"),
        ([*SPECIAL_WORDS, 7], r"list of str. Received: 7 \(type int\) at index 4"),
        (
            ["dog", *SPECIAL_WORDS],
            r"must begin with <pad>, <unk>, <start>, <end>. Received: \['dog'",
        ),
        ([], r"must begin with .* Received: \[\]"),
        ([*SPECIAL_WORDS, "a", "b", "a"], r"word twice. Received: 'a' at index 4 and 6"),
        ([*SPECIAL_WORDS, "two dogs"], r"no white space. Received: 'two dogs' at index 4"),
        ([*SPECIAL_WORDS, "dog\u2028"], r"no white space. Received: 'dog\\u2028' at index 4"),
        ([*SPECIAL_WORDS, ""], r"not empty .* Received: '' at index 4"),
    ],
)
def test_bad_vocabularies(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        CaptionTokenizer(vocabulary)


def test_bad_filter_arguments():
    with pytest.raises(ValueError, match=r"`lowercase` must be a bool. Received: lowercase='yes'"):
        CaptionTokenizer(SPECIAL_WORDS, lowercase="yes")
    with pytest.raises(ValueError, match=r"`punctuation` must be a str. Received: punctuation=None"):
        CaptionTokenizer(SPECIAL_WORDS, punctuation=None)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("a dog", r"put a single caption into a list. Received: captions='a dog' \(type str\)"),
        (b"a dog", r"Received: captions=b'a dog' \(type bytes\)"),
        (None, r"Received: captions=None"),
        ([], r"at least one caption. Received: an empty list"),
        (["a dog", 3], r"list of str. Received: 3 \(type int\) at index 1"),
        ([b"a dog"], r"Received: b'a dog' \(type bytes\) at index 0"),
        (["a dog", " ?! "], r"at least one word after filtering. Received: ' \?! ' at index 1"),
    ],
)
def test_bad_captions(tokenizer, captions, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(captions)
    with pytest.raises(ValueError, match=message):
        CaptionTokenizer.fit(captions)


@pytest.mark.parametrize("value", [2, 0, -1, 3.0, True, "9"])
def test_bad_max_length(tokenizer, value):
    with pytest.raises(ValueError, match=f"`max_length` must be an integer of at least 3.*{value!r}"):
        tokenizer.encode(["a dog"], max_length=value)


def test_bad_fit_arguments():
    with pytest.raises(ValueError, match=r"`max_vocabulary` must be .* at least 5.*=4 \(type int\)"):
        CaptionTokenizer.fit(["a dog"], max_vocabulary=4)
    with pytest.raises(ValueError, match=r"`min_count` must be .* at least 1. .*min_count=0"):
        CaptionTokenizer.fit(["a dog"], min_count=0)
    with pytest.raises(ValueError, match=r"appears 2 times. Received: min_count=3"):
        CaptionTokenizer.fit(["a dog a"], min_count=3)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[4, 15]], r"below the vocabulary size, 15. Received: 15 at index 0"),
        ([[4], [3, -1]], r"Received: -1 at index 1"),
        ([[4.0, 5.0]], r"`ids` must be integers. Received: ids with dtype float64 at index 0"),
        ([4, True, 0.5], r"must be integers"),
        (["a dog"], r"must be integers"),
        (
            np.zeros((2, 3, 4), "int32"),
            r"shape \(N, T\) or \(T,\). Received: .*\(3, 4\) at index 0",
        ),
        (np.int32(3), r"shape \(N, T\) or \(T,\). Received: ids=np.int32\(3\)"),
        (np.array(3), r"shape \(N, T\) or \(T,\)"),
        (3, r"Received: ids=3 \(type int\)"),
        ("a dog", r"must be integers"),
        ([4, [5, 6]], r"shape \(N, T\) or \(T,\). Received: ids with shape \(\) at index 0"),
    ],
)
def test_bad_ids(tokenizer, ids, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(ids)
