"""Captions to words as the COCO caption server counts them, in plain Python."""

import re

# What is typed for apostrophes and quotes; a dash parts words.
_TYPED = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": " ", "—": " ", "…": " "})  # noqa: RUF001
# The server takes brackets out under their upper-case names only, and its text is in lower case: they count as words.
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# Those that keep their point wherever they stand.
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|st|jr|sr|prof|gen|col|sgt|capt|lt|rev|hon|gov|sen|rep|pres|etc|vs|inc|co|corp|ltd|ave|blvd|rd|mt|ft|"
    "est|dept|sq|bldg|cf|jan|feb|mar|apr|aug|sept|sep|oct|nov|dec|mon|tue|wed|thu|fri|ph\\.d"
)
_CLITIC = r"'(?i:s|m|d|re|ve|ll)\b"
# What no line matches is left out: single marks of punctuation, quotes, emoji.
_WORD = re.compile(
    rf"""
      (?i:can(?=not\b) | gon(?=na\b) | got(?=ta\b) | wan(?=na\b) | gim(?=me\b) | lem(?=me\b))
    | [A-Za-z]+(?=\s)                                     # nearly all words; the other lines are for the rest
    | https?://\S+ | \w[\w.+-]*@\w[\w.-]*\.\w+            # addresses
    | </?[A-Za-z]\w*>                                     # <unk>
    | {_CLITIC} | (?i:n't)\b                              # man 's, is n't
    | '(?i:n'|n\b|em\b|\d\ds?\b)                          # rock 'n' roll, the '50s
    | (?i:'t(?=is\b|was\b) | y'(?=all\b))
    | (?<!\w)\.\d+ | \d+(?:[.,:]\d+)+(?:-\w+)*            # .5  3:30  1,000.50  2.5-inch
    | (?i:(?:{_ABBREVIATIONS})\.(?!\w) | no\.(?=\s*\d))
    | (?:[^\W\d_]\.)+(?!\w)                               # U.S.  p.m.  vitamin C.
    | [A-Z]+(?:&[A-Z]+)+                                  # B&B
    | \w+?(?=(?i:n't\b))                                  # is, before n't
    | \w+(?:[-/.]\w+ | (?<=[^\W\d_])(?!{_CLITIC})'(?=[^\W\d_])\w+)*  # well-dressed  and/or  o'clock
    | [#@][^\W\d]\w* | [#@$%&*+=^~|\\/<>] | [()\[\]{{}}]
    | [!?]{{2,}}
    """,
    re.VERBOSE,
)
# Captions that a model writes need no more than a split.
_PLAIN = re.compile(r"[a-z ]*")
_IN_TWO = re.compile(r"\b(?:cannot|gonna|gotta|wanna|gimme|lemme)\b")


def tokenize(caption):
    """Splits a caption into the words that captions are compared by.

    The rules are those of the COCO caption server: the Penn Treebank's tokens, in lower case, without punctuation.

    - Single marks `. , : ; ! ?`, quotes and dashes are left out. Hyphens and slashes inside a word stay
      (`well-dressed`, `and/or`), and so do points (`u.s.`, `mr.`) and the marks inside numbers (`1,000`, `3:30`).
    - The possessive and the ends of contractions are words of their own: `man 's`, `is n't`, `they 're`, `can not`.
      Another apostrophe inside a word stays (`o'clock`); one at its edge is a quote.
    - Brackets become `-lrb-`, `-rrb-` and the like, two or more of `! ?` together stay a word, and `$ % # &` and other
      ASCII symbols are words. No one would ask for that, but it is what the server counts.

    All 35,000 captions of Flickr8k's training and dev images get the words that the server's own `PTBTokenizer` gives
    them (pycocoevalcap 1.2, Java), also with punctuation set against the words. Rarities differ, such as
    `rock'n'roll`, smileys and telephone numbers: of the same captions strewn with quotes, brackets, apostrophes and
    commas at random, 99.93 % agree.

    Args:
        caption: Str.

    Returns:
        A list of str.

    Raises:
        ValueError: If `caption` is no str.

    Example:
    >>> from keras_showattend.evaluation import tokenize
    >>> tokenize("A man's well-dressed dog, isn't it?")
    ['a', 'man', "'s", 'well-dressed', 'dog', 'is', "n't", 'it']
    """
    if not isinstance(caption, str):
        raise ValueError(f"`caption` must be a str. Received: caption={caption!r} (type {type(caption).__name__}).")
    if _PLAIN.fullmatch(caption) and not _IN_TWO.search(caption):
        return caption.split()
    words = _WORD.findall(caption.translate(_TYPED))
    return [_BRACKETS.get(word) or word.lower() for word in words]
