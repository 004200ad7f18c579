"""Words and their ids: 0 is padding, 1 any unknown word, then the words by falling frequency."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, count, repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recur.data.sequences import Ids, Sequences, SequenceWriter
from recur.errors import InputError

PAD, UNKNOWN = "<pad>", "<unk>"
MOST_WORDS = 2_000_000
"""Distinct words that an `Indexer` holds at a time: about 300 MB."""


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
        return cls.of(counts, size, min_count)

    @classmethod
    def of(cls, counts: Mapping[str, int], size: int | None = None, min_count: int = 1) -> "Vocabulary":
        """Keep the frequent ones of words that were counted, see `build`."""
        return cls(_frequent(list(counts), np.fromiter(counts.values(), np.int64), size, min_count))

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


class Indexer:
    """Builds a vocabulary and maps the same texts to ids in one pass, in bounded memory: no token is held.

    Words get numbers in the order of their appearance; when all are counted, one lookup table makes ids of them.

    Args:
        parts: parts of the texts; words are counted in the first alone.
        folder: where ids that are too many for memory go, in files without a name; None keeps them in memory.
        most_words: distinct words that are held, `MOST_WORDS` by default; of more, the rarest half become unknown.
        in_memory: ids of each part that are held in memory.

    >>> indexer = Indexer(parts=2)
    >>> indexer.add(["a", "b", "b"])
    >>> indexer.add(["c", "a"], part=1)
    >>> vocabulary, (first, second) = indexer.finish()
    >>> vocabulary.words, [row.tolist() for row in first], [row.tolist() for row in second]
    (['b', 'a'], [[3, 2, 2]], [[1, 3]])
    """

    def __init__(
        self,
        parts: int = 1,
        folder: str | Path | None = None,
        *,
        most_words: int | None = None,
        in_memory: int | None = None,
    ) -> None:
        self.dropped = 0
        """Words counted so many times or fewer, when there were too many, were dropped; 0 if none were."""
        self._writers = [SequenceWriter(folder, in_memory) for _ in range(parts)]
        self._most = MOST_WORDS if most_words is None else most_words
        self._numbers = _numbering([])

    def add(self, tokens: Sequence[str], part: int = 0) -> None:
        """Take the tokens of a text.

        Raises:
            RunError: the folder has no room for the ids.
        """
        self._writers[part].append(map(self._numbers.__getitem__, tokens))
        if len(self._numbers) > self._most:
            self._drop()

    def finish(self, size: int | None = None, min_count: int = 1) -> tuple[Vocabulary, list[Sequences]]:
        """Return the vocabulary and the ids of all texts of each part; see `Vocabulary.build`.

        Raises:
            InputError: `size` or `min_count` below 1.
            RunError: the folder has no room for the ids.
        """
        words = list(self._numbers)
        vocabulary = Vocabulary(_frequent(words, self._counts()[1:], size, min_count))
        table = np.append(np.int32(1), vocabulary.ids(words))
        for writer in self._writers:
            writer.replace(table)
        return vocabulary, [writer.finish() for writer in self._writers]

    def _counts(self) -> NDArray[np.int64]:
        """Return how often each number is in the first part."""
        counts = np.zeros(len(self._numbers) + 1, np.int64)
        for ids in self._writers[0].chunks():
            counts += np.bincount(ids, minlength=len(counts))
        return counts

    def _drop(self) -> None:
        counts = self._counts()[1:]
        most = self._most // 2
        self.dropped = max(self.dropped, int(np.partition(counts, len(counts) - most - 1)[len(counts) - most - 1]))
        kept = counts > self.dropped
        self._numbers = _numbering(compress(self._numbers, kept.tolist()))
        table = np.append(np.int32(0), np.where(kept, np.cumsum(kept), 0).astype(np.int32))
        for writer in self._writers:
            writer.replace(table)


def _numbering(words: Iterable[str]) -> defaultdict[str, int]:
    """Return a table that numbers these words from 1 on, and every new one; 0 is for dropped words."""
    known = {word: number for number, word in enumerate(words, start=1)}
    return defaultdict(count(len(known) + 1).__next__, known)


def index_tokens(
    token_lists: Iterable[Sequence[str]], size: int | None = None, min_count: int = 1
) -> tuple[Vocabulary, Sequences]:
    """Build a vocabulary and map the same texts to ids in one pass, without holding their tokens; see `Indexer`.

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
    indexer = Indexer()
    for tokens in token_lists:
        indexer.add(tokens)
    vocabulary, (sequences,) = indexer.finish(size, min_count)
    return vocabulary, sequences


def _frequent(words: list[str], counts: NDArray[np.int64], size: int | None, min_count: int) -> list[str]:
    for name, value in (("size", size), ("min_count", min_count)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    kept = np.flatnonzero(counts >= min_count)
    if size is not None and len(kept) > size + 2:
        # the two special words may be among the most frequent ones
        least = np.partition(counts[kept], len(kept) - size - 2)[len(kept) - size - 2]
        kept = kept[counts[kept] >= least]
    found = [(-n, words[i]) for i, n in zip(kept.tolist(), counts[kept].tolist(), strict=True)]
    return [word for _, word in sorted(found) if word not in (PAD, UNKNOWN)][:size]
