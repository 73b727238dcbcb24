"""BLEU, ROUGE-L and CIDEr-D against figures of pycocoevalcap 1.2, against itself where it is installed, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_showattend.evaluation import METRICS, CiderD, bleu, cider_d, evaluate_captions, rouge_l

CAPTIONS = {
    5: "a dog runs in the deep snow",
    9: "two two two men sit in a bench",
    "x": "bus",
    2: "",
    7: "a zebra zebra runs",
}
REFERENCES = {
    5: ["a dog runs in the snow", "the brown dog runs through deep snow", "a dog"],
    9: ["two men sit on a bench", "men on a bench in the park", "two people sit on a bench in a park"],
    "x": ["a red bus", "the bus is red"],
    2: ["a cat a cat a cat sleeps", "cats sleep"],
    7: ["a man 's dog is n't here"],
}
# What pycocoevalcap 1.2 gave for them: of all together, and of each.
THEIRS = {
    "bleu1": (0.555613665456, [0.999999999714, 0.749999999906, 0.135335282966, 0.0, 0.118091638126]),
    "bleu2": (0.481175548971, [0.912870928904, 0.65465367062, 0.000135335283034, 0.0, 4.31209693678e-09]),
    "bleu3": (0.375098331015, [0.793700525736, 0.414913266623, 1.35335283056e-05, 0.0, 1.63760337384e-11]),
    "bleu4": (0.297368020305, [0.707106780951, 6.14788152854e-05, 4.27967742277e-06, 0.0, 1.20012457198e-12]),
    "rouge_l": (0.460235305817, [0.936061381074, 0.733173076923, 0.458646616541, 0.0, 0.173295454545]),
    "cider_d": (1.39904109143, [3.65501498164, 1.79567155569, 1.54451891982, 0.0, 0.0]),
}
LARGEST = {name: 10 if name == "cider_d" else 1 for name in METRICS}


def measured(captions, references):
    """Each metric's `Scores`."""
    split = {"tokenize": str.split}
    return {
        **bleu(captions, references, **split),
        "rouge_l": rouge_l(captions, references, **split),
        "cider_d": cider_d(captions, references, **split),
    }


def assert_scores(ours, score, per_image):
    np.testing.assert_allclose(ours.score, score, rtol=0, atol=1e-9)
    np.testing.assert_allclose(list(ours.per_image.values()), per_image, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_equals_the_figures_of_pycocoevalcap(name):
    ours = measured(CAPTIONS, REFERENCES)[name]
    assert list(ours.per_image) == list(CAPTIONS)
    assert_scores(ours, *THEIRS[name])


# Few words, so that n-grams recur, in captions short enough to lack some.
caption = st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join)
reference = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
pairs = st.lists(st.tuples(caption, st.lists(reference, min_size=1, max_size=4)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(pairs=pairs)
def test_equals_pycocoevalcap(pairs):
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    captions, references = (dict(enumerate(column)) for column in zip(*pairs, strict=True))
    lists = {image_id: [text] for image_id, text in captions.items()}
    ours = measured(captions, references)
    for n, theirs in enumerate(zip(*Bleu(4).compute_score(references, lists, verbose=0), strict=True)):
        assert_scores(ours[f"bleu{n + 1}"], *theirs)
    assert_scores(ours["rouge_l"], *Rouge().compute_score(references, lists))
    assert_scores(ours["cider_d"], *Cider().compute_score(references, lists))


def test_bleu_worked_by_hand():
    # "a a b": of "a", at most one is in a reference, and "b"; of "a a" and "a b", the second. 2/3 and 1/2. The nearest
    # in length of 2 and 5 words is 2, so nothing is taken off.
    scores = bleu(["a a b"], [["a b", "c c c c c"]])
    assert scores["bleu1"].score == pytest.approx(2 / 3)
    assert scores["bleu2"].score == pytest.approx(math.sqrt(2 / 3 / 2))


def test_short_captions_are_penalised_together():
    # Two words for six in one image, six for two in the other: together as long as they should be.
    captions, references = ["a b", "a b c d e f"], [["a b c d e f"], ["a b"]]
    scores = bleu(captions, references)["bleu1"]
    assert scores.per_image[0] == pytest.approx(math.exp(1 - 6 / 2))
    assert scores.score == pytest.approx(4 / 8)


def test_rouge_l_worked_by_hand():
    # "a c" of 3 and of 4 words, P = 2/3; "c" of one word, R = 1: the best of each.
    f = (1 + 1.44) * (2 / 3) * 1 / (1 + 1.44 * 2 / 3)
    assert rouge_l(["a b c"], [["a x c y", "c"]]).score == pytest.approx(f)


def longest_common_subsequence(first, second):
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + longest_common_subsequence(first[1:], second[1:])
    return max(longest_common_subsequence(first[1:], second), longest_common_subsequence(first, second[1:]))


@given(first=st.text("abc", min_size=1, max_size=7), second=st.text("abc", min_size=1, max_size=7))
def test_rouge_l_of_a_naive_longest_common_subsequence(first, second):
    length = longest_common_subsequence(first, second)
    precision, recall = length / len(first), length / len(second)
    expected = length and 2.44 * precision * recall / (recall + 1.44 * precision)
    assert rouge_l([" ".join(first)], [[" ".join(second)]]).score == pytest.approx(expected)


def test_cider_d_worked_by_hand():
    # Of two images, "b" and "a b" are in the references of the first alone: each weighs log 2, and "a" nothing. For
    # n = 1: (0, log 2) and (0, log 2) agree; for n = 2 there is one and the same. n = 3 and 4 there are not.
    scores = cider_d({1: "a b", 2: "a"}, {1: ["a b"], 2: ["a c"]}).per_image
    assert scores[1] == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    assert scores[2] == 0
    # A second reference with nothing in common halves it; "b" twice is counted once, over a norm of two, and one word
    # more costs exp(-1/72).
    scores = cider_d({1: "b b b", 2: "a"}, {1: ["a b", "d d d"], 2: ["a c"]}).per_image
    one_word = 10 / 4 * (1 / 3) * math.exp(-1 / 72) / 2
    assert scores[1] == pytest.approx(one_word)


def test_one_image_tells_nothing_of_rarity():
    assert cider_d({1: "a dog runs here"}, {1: ["a dog runs here"]}).score == 0


def test_a_corpus_apart():
    references = {1: ["a dog runs here"], 2: ["a cat sleeps"]}
    corpus = [["a dog"], ["a dog", "a cat"], ["a bus"], ["a tree"]]
    apart = CiderD({1: references[1]}, corpus=corpus)
    # "a" is in all documents, "dog" in two of four, "runs" and "here" in none, as rare as what is in one.
    weights = [0, math.log(2), math.log(4), math.log(4)]
    ours, theirs = [weights[1]], weights
    norms = math.hypot(*ours) * math.hypot(*theirs)
    assert apart.scores({1: "dog"})[1] == pytest.approx(10 / 4 * weights[1] ** 2 / norms * math.exp(-(3**2) / 72))
    # With the references themselves, everything else is different.
    assert CiderD(references).scores({1: "dog"})[1] != pytest.approx(apart.scores({1: "dog"})[1])
    both = [references[1], references[2]]
    assert CiderD({1: references[1]}, corpus=both).scores({1: "dog"}) == CiderD(references).scores({1: "dog"})
    assert cider_d({1: "dog"}, {1: references[1]}, corpus=corpus).per_image == apart.scores({1: "dog"})


@given(pairs=pairs, seed=st.integers(0, 99))
def test_a_reward_does_not_depend_on_the_others(pairs, seed):
    references = [group for _, group in pairs]
    captions = [text for text, _ in pairs] * 2 + ["unknown unknown words", "words unknown", ""]
    images = np.random.default_rng(seed).integers(0, len(pairs), len(captions))
    scorer = CiderD(references, tokenize=str.split)
    together = scorer.rewards(captions, images)
    alone = [scorer.rewards([text], [image])[0] for text, image in zip(captions, images, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert together.dtype == "float64"


def test_scores_of_some_of_the_images():
    scorer = CiderD(REFERENCES, tokenize=str.split)
    assert scorer.scores({9: CAPTIONS[9]}) == {9: pytest.approx(THEIRS["cider_d"][1][1])}
    assert scorer.scores({}) == {}
    assert scorer.rewards([], []).shape == (0,)


@given(pairs=pairs)
def test_figures_are_within_their_range(pairs):
    captions, references = (list(column) for column in zip(*pairs, strict=True))
    for name, scores in measured(captions, references).items():
        values = [scores.score, *scores.per_image.values()]
        assert all(isinstance(value, float) and 0 <= value <= LARGEST[name] + 1e-9 for value in values)


@given(pairs=pairs, seed=st.integers(0, 99))
def test_order_does_not_matter(pairs, seed):
    rng = np.random.default_rng(seed)
    captions, references = (dict(enumerate(column)) for column in zip(*pairs, strict=True))
    shuffled = {i: [references[i][j] for j in rng.permutation(len(references[i]))] for i in rng.permutation(len(pairs))}
    before = evaluate_captions(captions, references)
    after = evaluate_captions({i: captions[i] for i in rng.permutation(len(pairs))}, shuffled)
    assert after == pytest.approx(before, rel=1e-9)


words = st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=9, unique=True)


@given(captions=st.lists(words.map(" ".join), min_size=2, max_size=5, unique=True), copies=st.integers(1, 3))
def test_a_perfect_caption(captions, copies):
    scores = measured(captions, [[text] * copies for text in captions])
    for name in METRICS[:-1]:
        assert scores[name].score == pytest.approx(1, abs=1e-6)
    # An n-gram that is in all references weighs nothing; one of each length that is in one image's alone is enough.
    assert all(score == pytest.approx(10) for score in cider_of_different(captions, copies))


def cider_of_different(captions, copies):
    """CIDEr-D of captions without a word in common."""
    captions = [" ".join(f"{word}{i}" for word in text.split()) for i, text in enumerate(captions)]
    return cider_d(captions, [[text] * copies for text in captions]).per_image.values()


def test_all_at_once():
    figures = evaluate_captions(CAPTIONS, REFERENCES)
    assert list(figures) == list(METRICS)
    assert figures == pytest.approx({name: score for name, (score, _) in THEIRS.items()}, abs=1e-9)
    assert all(type(value) is float for value in figures.values())


def test_captions_are_tokenized():
    typed = {**CAPTIONS, 5: "A dog runs in the deep snow!", 9: 'Two "two" two men, sit in a bench'}
    references = {**REFERENCES, 7: ["A man's dog isn't here."]}
    assert evaluate_captions(typed, references) == evaluate_captions(CAPTIONS, REFERENCES)


def test_lists_are_aligned():
    assert evaluate_captions(list(CAPTIONS.values()), list(REFERENCES.values())) == evaluate_captions(
        CAPTIONS, REFERENCES
    )
    assert list(rouge_l(["a", "b"], [["a"], ["b"]]).per_image) == [0, 1]


WRONG = {
    "no captions": ({}, {}, "`captions` must hold at least one caption. Received: none."),
    "no dict or list": ("a dog", {1: ["a"]}, "`captions` must be a dict by image id or a list. .* type str"),
    "references no dict or list": ({1: "a"}, "a dog", "`references` must be a dict by image id or a list. .* type str"),
    "a caption of another type": ({1: ["a dog"]}, {1: ["a"]}, "Each of `captions` must be a str. .*image_id=1"),
    "a caption of None": ({7: None}, {7: ["a"]}, r"Each of `captions` must be a str. Received: None .* image_id=7"),
    "references of one str": ({1: "a"}, {1: "a dog"}, "`references` must hold a list of at least one str .*'a dog'"),
    "no reference": ({1: "a", 2: "b"}, {1: ["a"], 2: []}, r"list of at least one str .* Received: \[\] for image_id=2"),
    "a reference of another type": ({1: "a"}, {1: ["a", 3]}, "Each of `references` must be a str. Received: 3"),
    "a blank reference": ({1: "a"}, {1: ["a", " "]}, "Each of `references` must have words. .*' ' for image_id=1"),
    "a reference of marks": ({"k": "a"}, {"k": ["..."]}, r"must have words. Received: '...' for image_id='k'"),
    "references missing": (
        {1: "a", 2: "b", 3: "c"},
        {1: ["a"]},
        r"must be of the same images. Received: 2 images \(the first: 2, 3\) without references, 0 images without a",
    ),
    "captions missing": (
        {1: "a"},
        {1: ["a"], "9": ["b"]},
        r"0 images without references, 1 image \(the first: '9'\) without a caption",
    ),
    "lists of different lengths": (["a"], [["a"], ["b"]], r"1 image \(the first: 1\) without a caption"),
}


@pytest.mark.parametrize("metric", [evaluate_captions, bleu, rouge_l, cider_d])
@pytest.mark.parametrize(("captions", "references", "message"), WRONG.values(), ids=WRONG)
def test_errors(metric, captions, references, message):
    with pytest.raises(ValueError, match=message):
        metric(captions, references)


def test_errors_of_cider_d():
    with pytest.raises(ValueError, match=r"`references` must hold at least one image. Received: none."):
        CiderD({})
    with pytest.raises(ValueError, match=r"`corpus` must hold at least one image. Received: none."):
        CiderD({1: ["a"]}, corpus=[])
    with pytest.raises(ValueError, match=r"Each of `corpus` must have words. Received: '.' for image_id=0."):
        CiderD({1: ["a"]}, corpus=[["."]])
    scorer = CiderD({1: ["a dog"], 2: ["a cat"]})
    with pytest.raises(ValueError, match=r"The image of each caption must have references. Received: image_id=3."):
        scorer.scores({1: "a", 3: "b"})
    with pytest.raises(ValueError, match=r"one str for each of `image_ids`. Received: 1 captions, 2 image ids."):
        scorer.rewards(["a"], [1, 2])
    with pytest.raises(ValueError, match=r"one str for each of `image_ids`. Received: 'ab', 2 image ids."):
        scorer.rewards("ab", [1, 2])
    with pytest.raises(ValueError, match=r"Each of `captions` must be a str. Received: \['a'\] .*image_id=2"):
        scorer.rewards([["a"]], [2])
