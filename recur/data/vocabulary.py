"""Words and their ids: 0 is padding, 1 any unknown word, then the words by falling frequency."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, repeat
from typing import Any

import numpy as np

from recur.data.sequences import Ids, Sequences
from recur.errors import InputError

PAD, UNKNOWN = "<pad>", "<unk>"


class Vocabulary:
    """A two-way table of words and ids.

    Args:
        words: the ordinary words in the order of their ids, which start at 2. `Vocabulary(other.words)` is an equal
            copy, so that `words` is all there is to save.

    Raises:
        InputError: a word twice, or one of the two special ones.

    >>> vocabulary = Vocabulary.build([["a", "b"], ["b"]])
    >>> vocabulary.tokens, vocabulary.ids(["a", "c"]).tolist()
    (['<pad>', '<unk>', 'b', 'a'], [3, 1])
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.tokens = [PAD, UNKNOWN, *self.words]
        self._ids = {word: i for i, word in enumerate(self.words, start=2)}
        if len(self._ids) < len(self.words) or not self._ids.keys().isdisjoint((PAD, UNKNOWN)):
            twice = [word for word, n in Counter(self.tokens).items() if n > 1]
            raise InputError(f"words must differ from each other and from {PAD} and {UNKNOWN}, got {twice[0]!r} twice")

    @classmethod
    def build(cls, token_lists: Iterable[Sequence[str]], size: int | None = None, min_count: int = 1) -> "Vocabulary":
        """Count words and keep the frequent ones.

        Args:
            token_lists: the tokens of each text; read once, in a stream.
            size: keep at most so many words, the most frequent ones; None keeps all. Padding and unknown come on top.
            min_count: leave out words that are rarer than this.

        Returns:
            The vocabulary, most frequent word first; words equally frequent stand in the order of their characters.

        Raises:
            InputError: `size` or `min_count` below 1.
        """
        counts: Counter[str] = Counter()
        for tokens in token_lists:
            counts.update(tokens)
        return cls(_frequent(counts, size, min_count))

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(tuple(self.words))

    def ids(self, tokens: Sequence[str]) -> Ids:
        """Return the id of each token, int32 [T]; 1 for words that the vocabulary does not hold."""
        return np.fromiter(map(self._ids.get, tokens, repeat(1)), dtype=np.int32, count=len(tokens))

    def token(self, id: int) -> str:
        """Return the token of an id in 0..V-1."""
        if not 0 <= id < len(self):
            raise InputError(f"id must be in 0..{len(self) - 1}, got {id}")
        return self.tokens[id]


def index_tokens(
    token_lists: Iterable[Sequence[str]], size: int | None = None, min_count: int = 1
) -> tuple[Vocabulary, Sequences]:
    """Build a vocabulary and map the same texts to ids in one pass, without holding their tokens.

    Args:
        token_lists: the tokens of each text; read once, in a stream.
        size: as `Vocabulary.build`.
        min_count: as `Vocabulary.build`.

    Returns:
        The vocabulary that `Vocabulary.build` gives, and its ids of every text.

    >>> vocabulary, rows = index_tokens([["a", "b"], ["b", "c"]], size=2)
    >>> vocabulary.words, [row.tolist() for row in rows]
    (['b', 'a'], [[3, 2], [2, 1]])
    """
    # words get numbers in the order of their appearance; when all are counted, one lookup table makes ids of them
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    values, offsets = array("i"), array("q", [0])
    for tokens in token_lists:
        values.extend(map(numbers.__getitem__, tokens))
        offsets.append(len(values))
    flat = np.frombuffer(values, dtype=np.int32)
    counts = np.bincount(flat, minlength=len(numbers)).tolist()
    vocabulary = Vocabulary(_frequent(dict(zip(numbers, counts, strict=True)), size, min_count))
    table = vocabulary.ids(list(numbers))
    return vocabulary, Sequences(table[flat], np.frombuffer(offsets, dtype=np.int64))


def _frequent(counts: Mapping[str, Any], size: int | None, min_count: int) -> list[str]:
    for name, value in (("size", size), ("min_count", min_count)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    words = [word for word, n in counts.items() if n >= min_count and word not in (PAD, UNKNOWN)]
    words.sort(key=lambda word: (-counts[word], word))
    return words[:size]
