"""Captions to token ids and back, in plain Python: the same on every backend."""

import collections
import pathlib
import unicodedata

import keras
import numpy as np

from keras_showattend.atomic_writing import replacing
from keras_showattend.token_ids import END, PADDING, START, UNKNOWN
from keras_showattend.validation import check_integer

SPECIAL_WORDS = ("<pad>", "<unk>", "<start>", "<end>")

# The filter of the 2018 TensorFlow notebook. It spares apostrophes, `<` and `>`.
PUNCTUATION = '!"#$%&()*+.,-/:;=?@[\\]^_`{|}~'

# Single quotation marks, the modifier letter and the full-width form: all typed for an apostrophe.
_APOSTROPHES = "\u2018\u2019\u02bc\uff07"


@keras.saving.register_keras_serializable(package="keras_showattend")
class CaptionTokenizer:
    """Turns captions into padded token ids and ids into captions.

    A caption is brought to Unicode's composed form (NFC), the characters of `punctuation` become
    spaces, it is lower-cased, and it is split on white space. Apostrophes stay inside their word
    (typographic ones become plain), and so do letters, accents and vowel signs of every script.
    A word outside the vocabulary becomes the unknown id.

    Text can't forge a special id: a word of a caption that reads `<pad>`, `<unk>`, `<start>` or
    `<end>` loses its brackets, and is then a word like any other.

    Args:
        vocabulary: List of distinct str without white space. A word's id is its place in the list;
            the first four are `<pad>`, `<unk>`, `<start>` and `<end>`.
        lowercase: Bool, whether captions are lower-cased.
        punctuation: Str, the characters that are replaced by spaces. The default is the notebook's
            filter, ASCII only; `PUNCTUATION + "“”…"` adds to it.

    Raises:
        ValueError: The vocabulary breaks one of these rules.

    Example:
    ```python
    tokenizer = keras_showattend.CaptionTokenizer.fit(["A dog runs.", "A dog sleeps on a sofa."])
    tokenizer.vocabulary[4:6]                        # ["a", "dog"]
    ids = tokenizer.encode(["A dog runs!", "A cat."])  # int32, (2, 5)
    tokenizer.decode(ids)                            # ["a dog runs", "a <unk>"]
    ```
    """

    pad_id = PADDING
    unknown_id = UNKNOWN
    start_id = START
    end_id = END

    def __init__(self, vocabulary, lowercase=True, punctuation=PUNCTUATION):
        if not isinstance(lowercase, bool):
            raise ValueError(f"`lowercase` must be a bool. Received: lowercase={lowercase!r}.")
        if not isinstance(punctuation, str):
            raise ValueError(f"`punctuation` must be a str. Received: punctuation={punctuation!r}.")
        self._vocabulary = _checked_vocabulary(vocabulary)
        self._ids = {word: index for index, word in enumerate(self._vocabulary)}
        self.lowercase = lowercase
        self.punctuation = punctuation
        apostrophe = " " if "'" in punctuation else "'"
        # Half of a surrogate pair, as broken JSON can hold, is no text and has no UTF-8 form.
        self._translation = dict.fromkeys(range(0xD800, 0xE000), " ")
        self._translation |= str.maketrans(dict.fromkeys(_APOSTROPHES, apostrophe))
        self._translation |= str.maketrans(dict.fromkeys(punctuation, " "))

    @classmethod
    def fit(cls, captions, max_vocabulary=5000, min_count=1, lowercase=True, punctuation=PUNCTUATION):
        """Makes a tokenizer whose vocabulary is the most frequent words of `captions`.

        Args:
            captions: Iterable of str. Those of training images only, or validation leaks.
            max_vocabulary: Int of at least 5, the size to stay within, special words included.
            min_count: Positive int. A rarer word is left out.
            lowercase: As in the constructor.
            punctuation: As in the constructor.

        Returns:
            A `CaptionTokenizer`; among equally frequent words the alphabet decides.

        Raises:
            ValueError: An argument breaks its rule, a caption has no word, or no word reaches
                `min_count`.
        """
        check_integer("max_vocabulary", max_vocabulary, least=len(SPECIAL_WORDS) + 1)
        check_integer("min_count", min_count, least=1)
        splitter = cls(SPECIAL_WORDS, lowercase=lowercase, punctuation=punctuation)
        counts = collections.Counter()
        for words in splitter._split_all(captions):
            counts.update(words)
        frequent = sorted(
            (word for word, count in counts.items() if count >= min_count),
            key=lambda word: (-counts[word], word),
        )
        if not frequent:
            raise ValueError(
                "`min_count` must leave at least one word; the most frequent appears "
                f"{max(counts.values())} times. Received: min_count={min_count}."
            )
        vocabulary = [*SPECIAL_WORDS, *frequent][:max_vocabulary]
        return cls(vocabulary, lowercase=lowercase, punctuation=punctuation)

    @classmethod
    def from_vocabulary_file(cls, path, lowercase=True, punctuation=PUNCTUATION):
        """Reads what `save_vocabulary` wrote: UTF-8 text, one word a line, its id the line's place.

        Args:
            path: Str or path-like.
            lowercase: As in the constructor; the file holds the words only.
            punctuation: As in the constructor.

        Returns:
            A `CaptionTokenizer`.

        Raises:
            ValueError: The file isn't UTF-8, or its words break a rule of the constructor.
            OSError: The file can't be read.
        """
        try:
            # utf-8-sig: some editors put a byte order mark before the first word.
            text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"`path` must be UTF-8 text ({error}). Received: path={path}.") from error
        try:
            return cls(text.removesuffix("\n").split("\n"), lowercase, punctuation)
        except ValueError as error:
            raise ValueError(f"`path` holds no vocabulary: {error} Received: path={path}.") from error

    @property
    def vocabulary(self):
        """List of str, the word of each id (a copy: changing it leaves the tokenizer alone)."""
        return list(self._vocabulary)

    @property
    def vocabulary_size(self):
        """Int, the number of words, special ones included; every id is below it."""
        return len(self._vocabulary)

    def __len__(self):
        return self.vocabulary_size

    def split(self, caption):
        """Splits one caption into its words, known and unknown.

        Args:
            caption: Str.

        Returns:
            List of str, empty when nothing is left after filtering.
        """
        # Composed before filtering, because some characters only then turn into ASCII punctuation
        # (the Greek question mark), and after lower-casing, which can leave a letter decomposed.
        # Filtered before lower-casing, because a Greek sigma looks at what follows its word.
        text = unicodedata.normalize("NFC", caption).translate(self._translation)
        if self.lowercase:
            text = unicodedata.normalize("NFC", text.lower())
        words = text.split()
        if "<" in text:
            words = [word.strip("<>") if word in SPECIAL_WORDS else word for word in words]
        return words

    def encode(self, captions, max_length=None):
        """Turns captions into ids: start, the words, end, then padding to the longest of them.

        Args:
            captions: Iterable of str.
            max_length: Optional int of at least 3, which counts start and end. A longer caption is
                cut, and still ends with the end id.

        Returns:
            Int32 array, `(N, T)`, T at most `max_length`.

        Raises:
            ValueError: `captions` is empty, a single str, or holds something other than str; a
                caption has no word, such as `"..."`; or `max_length` is below 3.
        """
        if max_length is not None:
            check_integer("max_length", max_length, least=3)
        last_word = None if max_length is None else max_length - 2
        ids, unknown = self._ids, self.unknown_id
        rows = [
            [self.start_id, *(ids.get(word, unknown) for word in words[:last_word]), self.end_id]
            for words in self._split_all(captions)
        ]
        tokens = np.full((len(rows), max(map(len, rows))), self.pad_id, dtype="int32")
        for row, row_ids in zip(tokens, rows, strict=True):
            row[: len(row_ids)] = row_ids
        return tokens

    def decode(self, ids):
        """Turns ids into captions: stops at the end id, leaves out padding and start.

        Args:
            ids: Integers: `(N, T)` or `(T,)`, an array, a tensor, or lists, also of unequal length.

        Returns:
            List of N str (one for `(T,)`), words joined by spaces, `<unk>` for the unknown id.

        Raises:
            ValueError: An id is outside the vocabulary, is no integer, or the rank is wrong.
        """
        if keras.ops.is_tensor(ids):
            ids = keras.ops.convert_to_numpy(ids)
        if not np.iterable(ids):
            raise ValueError(
                f"`ids` must have the shape (N, T) or (T,). Received: ids={ids!r} (type {type(ids).__name__})."
            )
        rows = [np.asarray(row) for row in ids]
        if rows and all(row.ndim == 0 for row in rows):
            rows = [np.stack(rows)]
        return [self._decode_row(row, index) for index, row in enumerate(rows)]

    def _decode_row(self, row, index):
        if row.ndim != 1:
            raise ValueError(
                f"`ids` must have the shape (N, T) or (T,). Received: ids with shape {row.shape} at index {index}."
            )
        if row.size and not np.issubdtype(row.dtype, np.integer):
            raise ValueError(f"`ids` must be integers. Received: ids with dtype {row.dtype} at index {index}.")
        words = []
        ended = False
        for token in row.tolist():
            # Checked behind the end too: an id out of range means another tokenizer's ids.
            if not 0 <= token < self.vocabulary_size:
                raise ValueError(
                    f"`ids` must be at least 0 and below the vocabulary size, "
                    f"{self.vocabulary_size}. Received: {token} at index {index}."
                )
            ended = ended or token == self.end_id
            if not ended and token not in (self.pad_id, self.start_id):
                words.append(self._vocabulary[token])
        return " ".join(words)

    def save_vocabulary(self, path):
        """Writes the vocabulary as UTF-8 text, one word a line.

        The file is written beside `path` and then renamed, so that no crash leaves half of it.

        Args:
            path: Str or path-like, in a folder that exists.

        Raises:
            OSError: The file can't be written.
        """
        with replacing(path) as file:
            file.write(("\n".join(self._vocabulary) + "\n").encode())

    def get_config(self):
        """Returns the constructor's arguments, the vocabulary among them."""
        return {
            "vocabulary": self.vocabulary,
            "lowercase": self.lowercase,
            "punctuation": self.punctuation,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the tokenizer of a config.

        Args:
            config: Dict that `get_config` gave.

        Returns:
            A `CaptionTokenizer`.
        """
        return cls(**config)

    def _split_all(self, captions):
        """Yields the words of each caption, and refuses what isn't a caption."""
        if isinstance(captions, str | bytes) or not hasattr(captions, "__iter__"):
            raise ValueError(
                "`captions` must be a list of str; put a single caption into a list. "
                f"Received: captions={captions!r} (type {type(captions).__name__})."
            )
        index = -1
        for index, caption in enumerate(captions):
            if not isinstance(caption, str):
                raise ValueError(
                    "`captions` must be a list of str. "
                    f"Received: {caption!r} (type {type(caption).__name__}) at index {index}."
                )
            words = self.split(caption)
            if not words:
                raise ValueError(
                    "`captions` must each hold at least one word after filtering. "
                    f"Received: {caption!r} at index {index}."
                )
            yield words
        if index < 0:
            raise ValueError(
                f"`captions` must hold at least one caption. Received: an empty {type(captions).__name__}."
            )


def _checked_vocabulary(vocabulary):
    """Returns the vocabulary as a tuple of plain str, once it keeps the rules."""
    if isinstance(vocabulary, str) or not hasattr(vocabulary, "__iter__"):
        raise ValueError(
            "`vocabulary` must be a list of str. "
            f"Received: vocabulary={vocabulary!r} (type {type(vocabulary).__name__})."
        )
    words = tuple(vocabulary)
    seen = {}
    for index, word in enumerate(words):
        if not isinstance(word, str):
            raise ValueError(
                f"`vocabulary` must be a list of str. Received: {word!r} (type {type(word).__name__}) at index {index}."
            )
        if word.split() != [word]:
            raise ValueError(
                "`vocabulary` must hold words that are not empty and have no white space. "
                f"Received: {word!r} at index {index}."
            )
        if seen.setdefault(word, index) != index:
            raise ValueError(
                f"`vocabulary` must not hold a word twice. Received: {word!r} at index {seen[word]} and {index}."
            )
    if words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
        raise ValueError(
            f"`vocabulary` must begin with {', '.join(SPECIAL_WORDS)}. Received: {list(words[: len(SPECIAL_WORDS)])}."
        )
    return tuple(map(str, words))
