"""From text to ids in a stream and back to text: characters, words or subwords."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recur.data.subwords import Subwords
from recur.data.text import Tokenizer
from recur.data.vocabulary import Vocabulary
from recur.errors import InputError, nearest

Unit = Literal["characters", "words", "spaces", "bpe"]
Ids = NDArray[np.uint8] | NDArray[np.int32]
# where a line ends, as a token
LINE = "\n"
SUBWORDS = 8000
_CODES = 0x110000
# a line without a blank is cut after so many characters
_LONGEST = 1 << 22
_NO_BLANK_BEFORE = frozenset(".,;:!?)]}%'") | {"n't", "...", "'s", "'m", "'d", "'re", "'ve", "'ll"}
_NO_BLANK_BEHIND = frozenset("([{$")


class Coder(ABC):
    """Turns text into ids and back; id 0 is none, 1 what is unknown."""

    unit: Unit
    tokens: list[str]
    """By id, as a person reads them."""

    def __len__(self) -> int:
        return len(self.tokens)

    @abstractmethod
    def ids(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """Yield the ids of a text that comes in pieces."""

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a short text."""
        return np.concatenate([np.zeros(0, np.int64), *(part.astype(np.int64) for part in self.ids([text]))])

    @abstractmethod
    def writer(self) -> Callable[[int], str]:
        """Return what is called with id after id, and returns what each adds to the text."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what `load_coder` needs, as JSON has it."""


class _Listed(Coder):
    """What characters and words have in common: a vocabulary."""

    def __init__(self, vocabulary: Vocabulary, lower: bool) -> None:
        self.vocabulary, self.lower = vocabulary, lower
        self.tokens = vocabulary.tokens

    def state(self) -> dict[str, Any]:
        """Return what `load_coder` needs, as JSON has it."""
        return {"unit": self.unit, "lower": self.lower, "vocabulary": self.vocabulary.words}

    @staticmethod
    @abstractmethod
    def count(pieces: Iterable[str], unit: Any) -> Counter[str]:
        """Count the tokens of a text."""


class Characters(_Listed):
    """Each character is a token."""

    unit: Unit = "characters"

    def ids(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """Yield the ids of a text that comes in pieces."""
        table = self.vocabulary.ids([chr(code) for code in range(_CODES)])
        # bytes to bytes, for text that is ASCII, as most is
        short = table[:128].astype(np.uint8).tobytes().ljust(256, b"\0") if table[:128].max() < 256 else None
        for piece in _lowered(pieces, self.lower):
            if short and piece.isascii():
                yield np.frombuffer(piece.encode("ascii").translate(short), dtype=np.uint8)
            else:
                yield table[_codes(piece)]

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a short text."""
        return self.vocabulary.ids(list(text.lower() if self.lower else text)).astype(np.int64)

    def writer(self) -> Callable[[int], str]:
        """Return what is called with id after id, and returns what each adds to the text."""
        return self.tokens.__getitem__

    @staticmethod
    def count(pieces: Iterable[str], unit: Any = None) -> Counter[str]:
        """Count the tokens of a text."""
        counts = np.zeros(_CODES, dtype=np.int64)
        for piece in pieces:
            found = np.bincount(_codes(piece))
            counts[: len(found)] += found
        return Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts).tolist()})


class Words(_Listed):
    """Words, and the end of each line as a token of its own.

    Args:
        unit: "spaces" for what stands between blanks, "words" as `Tokenizer("words")` finds them.
        vocabulary: the words that have an id of their own.
        lower: turn capital letters into small ones first.
    """

    def __init__(self, unit: Literal["words", "spaces"], vocabulary: Vocabulary, lower: bool) -> None:
        super().__init__(vocabulary, lower)
        self.unit = unit

    def ids(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """Yield the ids of a text that comes in pieces."""
        for piece in _whole(_lowered(pieces, self.lower)):
            yield self.vocabulary.ids(_split(piece, self.unit))

    def writer(self) -> Callable[[int], str]:
        """Return what is called with id after id, and returns what each adds to the text."""
        before: str | None = None

        def add(id: int) -> str:
            nonlocal before
            token, last = self.tokens[id], before
            before = token
            joined = self.unit == "words" and (token in _NO_BLANK_BEFORE or last in _NO_BLANK_BEHIND)
            return token if joined or last in (None, LINE) or token == LINE else f" {token}"

        return add

    @staticmethod
    def count(pieces: Iterable[str], unit: Any = "spaces") -> Counter[str]:
        """Count the tokens of a text."""
        counts: Counter[str] = Counter()
        for piece in _whole(pieces):
            counts.update(_split(piece, unit))
        return counts


class Pieces(Coder):
    """Subwords of running text, see `Subwords`."""

    unit: Unit = "bpe"

    def __init__(self, subwords: Subwords) -> None:
        self.subwords = subwords
        self.tokens = subwords.tokens

    def ids(self, pieces: Iterable[str]) -> Iterator[Ids]:
        """Yield the ids of a text that comes in pieces."""
        return (self.subwords.encode(piece) for piece in _whole(pieces))

    def writer(self) -> Callable[[int], str]:
        """Return what is called with id after id, and returns what each adds to the text."""
        held: list[int] = []

        def add(id: int) -> str:
            held.append(id)
            text = self.subwords.decode(held)
            # the first bytes of a character
            if text.endswith("\ufffd") and len(held) < 4:
                return ""
            held.clear()
            return text

        return add

    def state(self) -> dict[str, Any]:
        """Return what `load_coder` needs, as JSON has it."""
        return {"unit": self.unit, "subwords": self.subwords.state()}


def learn_coder(
    unit: str, pieces: Iterable[str], *, size: int | None = None, min_count: int = 1, lower: bool = False
) -> Coder:
    """Find the tokens of a text.

    Args:
        unit: "characters"; "words", as `Tokenizer("words")` finds them; "spaces", what stands between blanks; "bpe".
        pieces: the text, read once, in a stream.
        size: the most frequent tokens that are kept; None keeps all. For bpe how many subwords to learn, 8,000 if None.
        min_count: leave out tokens that are rarer; of no effect with bpe.
        lower: turn capital letters into small ones first.

    Raises:
        InputError: another unit.
        MissingExtra: sentencepiece is not installed.
    """
    known = list(get_args(Unit))
    if unit not in known:
        raise InputError(f"tokens must be one of {', '.join(known)}, got {unit!r}{nearest(unit, known)}")
    if unit == "bpe":
        return Pieces(Subwords.build(_whole(pieces), size or SUBWORDS, lower=lower, blanks="keep"))
    kind = Characters if unit == "characters" else Words
    vocabulary = Vocabulary.of(kind.count(_lowered(pieces, lower), unit), size, min_count)
    return load_coder({"unit": unit, "lower": lower, "vocabulary": vocabulary.words})


def load_coder(state: dict[str, Any]) -> Coder:
    """Return the coder that `state` was taken of.

    Raises:
        KeyError, InputError: it is damaged.
    """
    if state["unit"] == "bpe":
        return Pieces(Subwords.from_state(state["subwords"]))
    vocabulary = Vocabulary(state["vocabulary"])
    if state["unit"] == "characters":
        return Characters(vocabulary, state["lower"])
    return Words(state["unit"], vocabulary, state["lower"])


def _lowered(pieces: Iterable[str], lower: bool) -> Iterator[str]:
    return map(str.lower, pieces) if lower else iter(pieces)


def _codes(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _split(text: str, unit: str) -> list[str]:
    """Return the words and line ends of a text that ends between two words."""
    if unit == "spaces":
        # no text holds a zero byte, and so it can stand for a line's end while all is split at once
        return [LINE if token == "\0" else token for token in text.replace(LINE, " \0 ").split()]
    *lines, last = text.split(LINE)
    split = Tokenizer("words", lower=False)
    return [token for line in lines for token in (*split(line), LINE)] + split(last)


def _whole(pieces: Iterable[str]) -> Iterator[str]:
    """Yield pieces that end between two words."""
    rest = ""
    for piece in pieces:
        rest += piece
        end = rest.rfind(LINE) + 1 or rest.rfind(" ") + 1 or (len(rest) if len(rest) > _LONGEST else 0)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest
