"""Writing files so that what was there survives every failure: written beside, flushed to disk, then renamed."""

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from recur.errors import RunError


def write_atomic(
    path: str | Path, write: Callable[[Path], None], *, when_full: str = "free some space and try again"
) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it over `path`.

    Args:
        path: the file to replace; its folder must exist.
        write: gets the temporary path and writes the whole content there.
        when_full: what a person is told to do when the disk is full.

    Raises:
        RunError: the disk is full or the folder cannot be written; `path` then still holds what it held.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        reason = error.strerror or f"{error}"
        remedy = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = f"the disk is full ({reason})", f"; {when_full}"
        raise RunError(f"{path} could not be written: {reason}; the file before it is kept{remedy}") from error
    finally:
        # where nothing can be written, this fails even for a file that is not there
        with suppress(OSError):
            beside.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), atomically."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    write_atomic(path, write)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Replace `path` by `value` as JSON, indented unless `indent` is None, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def existing_folder(folder: str | Path) -> Path:
    """Return `folder`, or, if it is not there yet, the nearest one above it that is."""
    path = Path(folder).absolute()
    return next(above for above in (path, *path.parents) if above.is_dir())
