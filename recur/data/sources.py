"""Opening the files of users: plain or gzip, with errors that say what is wrong with the file."""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from recur.errors import InputError, nearest


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
        file = open(path, "rb")  # noqa: SIM115  # closed by the `with` below; only opening is tried
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
