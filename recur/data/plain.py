"""Plain text as one stream of tokens: read in pieces, cut into parts, never held as a whole."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recur.data.sources import open_binary
from recur.errors import InputError

_BYTES = 1 << 21


@dataclass(frozen=True)
class TextPart:
    """The characters from `start` up to, not including, `stop` of a text file in UTF-8, also .gz; iterated, in pieces.

    Raises:
        InputError: the file cannot be read, or is no text; raised while iterating.
    """

    path: Path
    start: int = 0
    stop: int | None = None

    def __iter__(self) -> Iterator[str]:
        at = 0
        for piece in _pieces(self.path):
            low, high = max(0, self.start - at), len(piece) if self.stop is None else min(len(piece), self.stop - at)
            at += len(piece)
            if low < high:
                yield piece if high - low == len(piece) else piece[low:high]
            if self.stop is not None and at >= self.stop:
                return


def _pieces(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    at = 0
    with open_binary(path) as file:
        while data := file.read(_BYTES):
            try:
                text = decoder.decode(data)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path} is not text in UTF-8: byte {at + error.start:,} is 0x{error.object[error.start]:02x}; "
                    "give a text file, or convert it with iconv"
                ) from error
            if "\0" in text:
                raise InputError(f"{path} is a binary file: there is a zero byte after byte {at:,}; give a text file")
            at += len(data)
            yield text
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise InputError(f"{path} ends in the middle of a character; it was cut off, fetch it again") from error


def count_characters(path: Path) -> int:
    """Return how many characters a text file has.

    Raises:
        InputError: it has none, or cannot be read.
    """
    count = sum(map(len, _pieces(path)))
    if not count:
        raise InputError(f"{path} is empty; give a file with text")
    return count


def cut(path: Path, shares: list[float], *, whole_words: bool) -> list[TextPart]:
    """Cut a text into contiguous parts, in their order: the first is what the shares of the others leave.

    Args:
        path: of the file.
        shares: of the parts after the first, in the order of the text, of its characters.
        whole_words: whether parts after the first begin behind white space.

    Raises:
        InputError: the file is empty or cannot be read.
    """
    total = count_characters(path)
    ends = [int(total * (1 - sum(shares[number:]))) for number in range(len(shares))]
    if whole_words:
        ends = [_behind_blank(path, end) for end in ends]
    starts = [0, *ends]
    return [TextPart(path, start, stop) for start, stop in zip(starts, [*ends, total], strict=True)]


def _behind_blank(path: Path, at: int) -> int:
    for piece in TextPart(path, max(0, at - 1)):
        for offset, character in enumerate(piece):
            if character.isspace():
                return max(0, at - 1) + offset + 1
    return at
