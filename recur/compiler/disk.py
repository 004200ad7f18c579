"""Compiled objects on disk, so that the next process need not compile: one file per key, checked before it is run.

The folder is `RECUR_CACHE`, or the system's place for caches; `RECUR_CACHE=off` (or empty) keeps nothing. What lies
there is run as machine code, so a folder or file that somebody else may write is not used.
"""

import hashlib
import os
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

MAXIMUM_BYTES = 256 * 2**20
_MAGIC = b"recur object 1\n"
_SUFFIX = ".object"
_DAY = 86400.0
_tidied: set[Path] = set()


def folder() -> Path:
    """Return the folder of compiled objects, made if it is not there.

    Raises:
        OSError: there is none, and the text says why: switched off, no home, not writable, or not private.
    """
    path = _place()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(path.stat(), f"the folder {path}")
    return path


def read(key: bytes) -> bytes | None:
    """Return the object kept under `key`, or None if there is none that is whole and safe to run."""
    with suppress(OSError):
        path = folder() / _name(key)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            _check_private(about, f"{path}")
            content = file.read()
        head = len(_MAGIC) + 32
        code = content[head:]
        if code and content[:head] == _MAGIC + _checksum(key, code):
            if time.time() - about.st_mtime > _DAY:
                # what is used stays: the oldest are deleted first
                os.utime(path)
            return code
    return None


def write(key: bytes, code: bytes) -> None:
    """Keep `code` under `key`; where that is not possible, nothing is kept."""
    with suppress(OSError):
        place = folder()
        # a name of its own, for containers share folders and not process numbers. Not flushed to the disk: a file that
        # a power cut leaves half written fails its checksum
        handle, beside = tempfile.mkstemp(suffix=".tmp", prefix=_name(key)[:16], dir=place)
        try:
            with open(handle, "wb") as file:
                file.write(_MAGIC + _checksum(key, code) + code)
            os.replace(beside, place / _name(key))
        except BaseException:
            os.unlink(beside)
            raise
        if place not in _tidied:
            _tidied.add(place)
            _tidy(place)


def _place() -> Path:
    chosen = os.environ.get("RECUR_CACHE")
    if chosen is not None:
        if chosen in ("", "off"):
            raise OSError("RECUR_CACHE switches it off")
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):
            base = os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise OSError("there is no home folder; RECUR_CACHE can name a folder")
    return Path(base) / "recur"


def _check_private(about: os.stat_result, what: str) -> None:
    if sys.platform == "win32":
        return
    if about.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{what} belongs to another user")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{what} may be written by other users: chmod go-w")


def _name(key: bytes) -> str:
    return key.hex() + _SUFFIX


def _checksum(key: bytes, code: bytes) -> bytes:
    return hashlib.sha256(key + code).digest()


def _tidy(place: Path) -> None:
    """Delete what a killed process left behind, and the oldest objects beyond `MAXIMUM_BYTES`."""
    found = []
    for entry in os.scandir(place):
        # another process may delete it first
        with suppress(OSError):
            about = entry.stat(follow_symlinks=False)
            if entry.name.endswith(".tmp") and time.time() - about.st_mtime > _DAY:
                os.unlink(entry.path)
            elif entry.name.endswith(_SUFFIX):
                found.append((about.st_mtime, about.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MAXIMUM_BYTES:
            break
        with suppress(OSError):
            os.unlink(path)
        total -= size
