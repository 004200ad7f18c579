"""Word vectors that others have trained: word2vec (.bin and text) and GloVe files."""

import itertools
import warnings
from collections.abc import Container, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from recur.data.sources import open_binary
from recur.data.vocabulary import Vocabulary
from recur.errors import InputError, nearest

Matrix = NDArray[np.float32]

_BLOCK = 1 << 22  # bytes read at a time
_LONGEST_WORD = 10_000  # bytes; longer ones mean that the file is not what its header says


class WordVectors:
    """Words and one vector for each.

    Args:
        words: N words; of words that stand twice the first counts.
        matrix: their vectors, float32 [N, n].

    >>> vectors = WordVectors(["king", "queen", "tree"], np.array([[1, 0.1], [1, 0], [0, 1]], dtype=np.float32))
    >>> vectors.nearest("king", 1)[0][0]
    'queen'
    """

    def __init__(self, words: list[str], matrix: Matrix) -> None:
        self.words = words
        self.matrix = matrix

    @property
    def size(self) -> int:
        """Numbers in each vector, n."""
        return int(self.matrix.shape[1])

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The row of each word."""
        numbers: dict[str, int] = {}
        for i, word in enumerate(self.words):
            numbers.setdefault(word, i)
        return numbers

    def table(self, vocabulary: Vocabulary, seed: int) -> tuple[Matrix, float]:
        """Make the start of an embedding layer.

        Args:
            vocabulary: V tokens; each takes the vector of exactly its spelling.
            seed: of the vectors of the other words, normal with the standard deviation of the file's vectors.

        Returns:
            The table, float32 [V, n], zero for the padding.
            The share of the ordinary words that have a vector in the file, 0..1.
        """
        spread = float(self.matrix.std()) if self.matrix.size else 1.0
        generator = np.random.default_rng(seed)
        table = generator.normal(0.0, spread, (len(vocabulary), self.size)).astype(np.float32)
        pairs = [(i, self.numbers[t]) for i, t in enumerate(vocabulary.tokens) if t in self.numbers]
        if pairs:
            rows, sources = np.array(pairs).T
            table[rows] = self.matrix[sources]
        table[0] = 0.0
        found = sum(word in self.numbers for word in vocabulary.words)
        return table, found / max(1, len(vocabulary.words))

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """Return the `k` other words with the highest cosine similarity a·b / (|a||b|), the highest first.

        Raises:
            InputError: `word` has no vector (the message proposes one spelled like it), or `k` is below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        if word not in self.numbers:
            like = [other for other in self.numbers if abs(len(other) - len(word)) <= 2 and other[:1] == word[:1]]
            raise InputError(f"{word!r} is not among the {len(self.words)} words of the vectors{nearest(word, like)}")
        number = self.numbers[word]
        cosines = self._unit @ self._unit[number]
        cosines[number] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: min(k, len(self.words) - 1)]
        return [(self.words[i], float(cosines[i])) for i in order]

    @cached_property
    def _unit(self) -> Matrix:
        norms = np.linalg.norm(self.matrix, axis=1, keepdims=True)
        unit: Matrix = self.matrix / np.maximum(norms, np.finfo(np.float32).tiny)
        return unit


def one_hot_table(size: int) -> Matrix:
    """Return one-hot codes as the start of an embedding layer, float32 [V, V]; the padding is all zeros."""
    table = np.eye(size, dtype=np.float32)
    table[0] = 0.0
    return table


def read_vectors(path: str | Path, only: Container[str] | None = None) -> WordVectors:
    """Read a file of word vectors, block by block.

    The name says the format: `.bin` or `.bin.gz` is word2vec's binary one; everything else, plain or `.gz`, is text,
    with a header line "words size" as word2vec and fastText write it, or without as GloVe does. Words may hold blanks;
    bytes that are not UTF-8 become U+FFFD.

    Args:
        path: the file.
        only: keep no other words than these (a `Vocabulary`, say), which saves memory with large files.

    Returns:
        The vectors in the order of the file.

    Raises:
        InputError: no such file, a damaged or cut one, a row of another width or with something that is no number
            (line or word number given).
    """
    path = Path(path)
    read = _read_binary if path.name.lower().removesuffix(".gz").endswith(".bin") else _read_text
    words: list[str] = []
    blocks: list[Matrix] = []
    with open_binary(path) as file:
        for some_words, rows in read(path, file, only):
            words += some_words
            blocks.append(rows)
    return WordVectors(words, np.concatenate(blocks))


def _read_binary(path: Path, file: IO[bytes], only: Container[str] | None) -> Iterator[tuple[list[str], Matrix]]:
    """Read word2vec's binary format: "N n\\n", then N times word, blank, n little-endian float32, maybe "\\n"."""
    header = file.readline(100)
    if (sizes := _header(header)) is None:
        raise InputError(
            f"{path}: expected a word2vec .bin file, which begins with the number and the size of its vectors, "
            f"found {header[:40]!r}; name a text file .txt"
        )
    total, size = sizes
    yield [], np.empty((0, size), dtype=np.float32)
    buffer, position, done = b"", 0, 0
    while done < total:
        more = file.read(_BLOCK)
        buffer, position = buffer[position:] + more, 0
        words, starts, numbers = [], [], []
        while done < total:
            start = buffer.find(b" ", position, position + _LONGEST_WORD) + 1
            if not start and len(buffer) - position >= _LONGEST_WORD:
                raise InputError(
                    f"{path}, word {done + 1}: expected a word and {size} numbers as the header says, found no end of "
                    "the word; the file is damaged: fetch it again"
                )
            if not start or start + 4 * size > len(buffer):
                break
            word = buffer[position : start - 1].lstrip(b"\n").decode("utf-8", "replace")
            position = start + 4 * size
            done += 1
            if only is None or word in only:
                words.append(word)
                starts.append(start)
                numbers.append(done)
        if words:
            places = np.array(starts)[:, None] + np.arange(4 * size)
            rows = np.frombuffer(buffer, dtype=np.uint8)[places].view("<f4").astype(np.float32, copy=False)
            yield words, _finite(rows, path, "word", numbers)
        if not more and done < total:
            raise InputError(
                f"{path}: expected {total} vectors of {size} numbers as the header says, found {done} whole ones; "
                "the file is cut or damaged: fetch it again"
            )
    if (buffer[position:] + file.read(_BLOCK)).strip():
        raise InputError(
            f"{path}: expected {total} vectors of {size} numbers as the header says, found more data behind them; "
            "the file is damaged: fetch it again"
        )


def _read_text(path: Path, file: IO[bytes], only: Container[str] | None) -> Iterator[tuple[list[str], Matrix]]:
    """Read lines of a word, a blank and n numbers; a first line "N n" is a header."""
    lines = file.readlines(_BLOCK)
    if not lines:
        raise InputError(f"{path} is empty; expected a word and its numbers in each line")
    header = _header(lines[0])
    size = header[1] if header else _count_numbers(lines[0])
    if size < 1:
        raise InputError(
            f"{path}, line 1: expected a word and its numbers, found {lines[0][:40]!r}; give a file of word vectors"
        )
    yield [], np.empty((0, size), dtype=np.float32)
    count = itertools.count(1)
    found = 0
    while lines:
        words, tails, numbers = [], [], []
        for line, number in zip(lines, count, strict=False):
            line = line.rstrip()
            if (header and number == 1) or not line:
                continue
            found += 1
            word, _, tail = line.partition(b" ")
            if tail.count(b" ") != size - 1:
                word, tail = _split(line, size, path, number)
            text = word.decode("utf-8", "replace")
            if only is None or text in only:
                words.append(text)
                tails.append(tail)
                numbers.append(number)
        if words:
            yield words, _finite(_parse(tails, size, path, numbers), path, "line", numbers)
        lines = file.readlines(_BLOCK)
    if header and found != header[0]:
        raise InputError(
            f"{path}: expected {header[0]} words as the header says, found {found}; the file is cut: fetch it again"
        )


def _header(line: bytes) -> tuple[int, int] | None:
    """Return the two numbers of a line that holds nothing else."""
    parts = line.split()
    if len(parts) != 2 or not (parts[0].isdigit() and parts[1].isdigit()) or int(parts[1]) < 1:
        return None
    return int(parts[0]), int(parts[1])


def _count_numbers(line: bytes) -> int:
    """Count the numbers at the end of a line, whose first part is a word whatever it looks like."""
    parts = line.split()[1:]
    return next((i for i, part in enumerate(reversed(parts)) if not _is_number(part)), len(parts))


def _split(line: bytes, size: int, path: Path, number: int) -> tuple[bytes, bytes]:
    """Split a line whose word holds blanks, or whose numbers stand apart by more than one."""
    parts = line.split()
    words = parts[:-size]
    if not words or (len(words) > 1 and _is_number(words[-1])):
        count = _count_numbers(line)
        raise InputError(
            f"{path}, line {number}: expected a word and {size} numbers, found {count}; all rows must be of one size"
        )
    return b" ".join(words), b" ".join(parts[-size:])


def _parse(tails: list[bytes], size: int, path: Path, numbers: list[int]) -> Matrix:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # how numpy 1 reports text that is no number
            return np.fromstring(b" ".join(tails), dtype=np.float32, sep=" ").reshape(len(tails), size)
    except (ValueError, DeprecationWarning):
        for tail, number in zip(tails, numbers, strict=True):
            if bad := [part for part in tail.split() if not _is_number(part)]:
                raise InputError(
                    f"{path}, line {number}: expected {size} numbers behind the word, found {bad[0][:40]!r}; "
                    "correct the line or fetch the file again"
                ) from None
        raise


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _finite(rows: Matrix, path: Path, unit: str, numbers: list[int]) -> Matrix:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise InputError(
            f"{path}, {unit} {numbers[bad[0]]}: expected finite numbers, found NaN or infinity; "
            "correct it or fetch the file again"
        )
    return rows
