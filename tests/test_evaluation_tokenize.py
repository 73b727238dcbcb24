"""Words as the COCO caption server counts them."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_showattend.evaluation import tokenize

# What PTBTokenizer of pycocoevalcap 1.2 made of them (Java).
THEIRS = {
    "A man's dog.": "a man 's dog",
    "two dogs' bowls are here": "two dogs bowls are here",
    "isn't don't can't won't shouldn't've": "is n't do n't ca n't wo n't should n't 've",
    "I'm you're we've they'll he'd she's IT'S": "i 'm you 're we 've they 'll he 'd she 's it 's",
    "I'd've": "i 'd 've",
    "Cannot gonna gotta wanna lemme gimme": "can not gon na got ta wan na lem me gim me",
    "rock 'n' roll o'clock 'tis 'twas y'all": "rock 'n' roll o'clock 't is 't was y' all",
    "O'Brien goin' ma'am c'mon s'mores": "o'brien goin ma'am c'mon s'mores",
    "the girl 's hat": "the girl 's hat",
    "isn 't": "isn t",
    "T-shirt black-and-white dog - cat -- horse": "t-shirt black-and-white dog cat horse",
    "a bird's-eye-view": "a bird 's eye-view",
    "two-year-old's toy": "two-year-old 's toy",
    "A U.S. flag. U.S.A. at 10 p.m.": "a u.s. flag u.s.a. at 10 p.m.",
    "Mr. Smith and Dr. Jones at St. Mary St.": "mr. smith and dr. jones at st. mary st.",
    "No. 5 and no. Why": "no. 5 and no why",
    "5 ft. tall, 5 in. wide": "5 ft. tall 5 in wide",
    "$5 and 5% and #5 #hashtag @home": "$ 5 and 5 % and # 5 #hashtag @home",
    "5,000 people 1.5 miles 3:30 pm .5 miles": "5,000 people 1.5 miles 3:30 pm .5 miles",
    "1/2 of a 3/4 pizza and/or w/o one / two": "1/2 of a 3/4 pizza and/or w/o one / two",
    "\"quoted\" text 'single quoted' text": "quoted text single quoted text",
    "(in) [a] {b}": "-lrb- in -rrb- -lsb- a -rsb- -lcb- b -rcb-",
    "hello!!! what??? wait... what?! hmm.... no! oh?": "hello !!! what ??? wait what ?! hmm no oh",
    "a;b a:b red,white a.b bowl.The man": "a b a b red white a.b bowl.the man",
    "A&B b & w": "a&b b & w",
    "50's 1950s '50s": "50 's 1950s '50s",
    "naïve café “curly” ‘quotes’ man’s don’t": "naïve café curly quotes man 's do n't",  # noqa: RUF001
    "a – dash — em": "a dash em",  # noqa: RUF001
    "under_score a*b a+b ~5 <3": "under_score a * b a + b ~ 5 < 3",
    "me@x.com http://example.com/a?b=c www.foo.com": "me@x.com http://example.com/a?b=c www.foo.com",
    "emoji 😀 here": "emoji here",
    "<unk> dog": "<unk> dog",
    "the end etc.": "the end etc.",
    "multi   spaces\there": "multi spaces here",
    ". . .": "",
    "": "",
}


@pytest.mark.parametrize("caption", THEIRS, ids=range(len(THEIRS)))
def test_as_the_server_does(caption):
    assert tokenize(caption) == THEIRS[caption].split()


@pytest.fixture(scope="module")
def server_words():
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    lines = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(THEIRS)})
    return [lines[i][0].split() for i in range(len(THEIRS))]


def test_the_table_is_the_servers(server_words):
    assert server_words == [words.split() for words in THEIRS.values()]


@given(words=st.lists(st.text("abcxyz", min_size=1), max_size=8))
def test_plain_captions_are_split(words):
    assert tokenize(" ".join(words)) == words
    # The short way, for such captions only, is no other one.
    assert tokenize(" ".join(words) + "!") == words


@given(caption=st.text())
def test_any_text(caption):
    words = tokenize(caption)
    assert all(words)
    assert not any(character.isspace() for word in words for character in word)


@pytest.mark.parametrize("caption", [None, 3, b"a dog", ["a", "dog"]])
def test_no_str(caption):
    with pytest.raises(ValueError, match=r"`caption` must be a str. Received: caption=.* \(type "):
        tokenize(caption)
