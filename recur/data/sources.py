"""Opening the files of users: plain or gzip, with errors that say what is wrong with the file."""

import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

from recur.errors import InputError, nearest

Watcher = Callable[[Path, int, int], None]
"""Gets a file, the bytes (or rows) read of it so far, and how many there are."""
_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` be told, at every megabyte, how far the files opened in the block have been read."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def tell_watcher(path: Path, done: int, total: int) -> None:
    """Say how far a file was read, where it is not read through `open_binary`."""
    if watcher := _WATCHER.get():
        watcher(path, done, total)


class _Watched(io.FileIO):
    """A file that says how far it was read."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        super().__init__(path)
        self._path, self._watcher = path, watcher
        self._size = os.fstat(self.fileno()).st_size

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._watcher(self._path, self.tell(), self._size)
        return count


def check_file(path: Path) -> None:
    """See that a path is a file.

    Raises:
        InputError: a folder, or nothing (the message proposes a file of like name beside it).
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file")
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file {path}{nearest(path.name, beside)}")


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, through gzip if its name ends in .gz.

    Raises:
        InputError: no such file, a folder, a file that may not be read, a name and a content that disagree about gzip,
            or, raised while reading in the block, a damaged or cut gzip file.
    """
    check_file(path)
    try:
        # closed by the `with` below; only opening is tried
        watcher = _WATCHER.get() if path.is_file() else None  # a pipe has no size
        file = open(path, "rb") if watcher is None else io.BufferedReader(_Watched(path, watcher), 1 << 20)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        start, named = file.peek(2)[:2], path.name.lower().endswith(".gz")
        if start == b"\x1f\x8b" and not named:
            raise InputError(f"{path} is a gzip file; name it {path.name}.gz")
        if start and start != b"\x1f\x8b" and named:
            raise InputError(f"{path} is named .gz but is not a gzip file; name it {path.stem}, or fetch it again")
        if not named:
            yield file
            return
        try:
            with gzip.open(file) as unzipped:
                yield cast(IO[bytes], unzipped)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is a damaged or cut gzip file ({error}); fetch or pack it again") from error


def broken_text(text: str) -> str | None:
    """Say which byte or escape in `text`, read with errors="surrogateescape", is not Unicode, if one is."""
    if text.isascii() or not (found := re.search("[\ud800-\udfff]", text)):
        return None
    code = ord(found.group())
    what = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half a character, \\u{code:04x}"
    return f"expected UTF-8, found {what}"
