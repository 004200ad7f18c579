"""Arrays of numbers from .npz and .npy files; those that lie there as they are, are mapped and take no memory."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from recur.data.sources import check_file
from recur.errors import InputError, nearest

SUFFIXES = (".npz", ".npy")


def is_arrays(path: str | Path) -> bool:
    """Say whether a file is one of arrays, by its name."""
    return Path(path).suffix.lower() in SUFFIXES


def read_arrays(path: str | Path, needed: Sequence[str], others: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read arrays by name, in the types that they have; nothing in them can hold code.

    Args:
        path: a .npz file; or a .npy file, whose only array has the first of the names `needed`.
        needed: the arrays that must be there.
        others: those that may be.

    Raises:
        InputError: no such file, a damaged one, a missing array, or one of Python objects.
    """
    path = Path(path)
    check_file(path)
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                found = {needed[0]: _array(path, file, 0)}
        else:
            found = dict(_members(path, [*needed, *others]))
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: expected arrays of NumPy ({', '.join(SUFFIXES)}), found {reason}") from error
    for name in needed:
        if name not in found:
            has = ", ".join(_names(path)) or "none"
            raise InputError(
                f"{path} must have an array {name!r}{nearest(name, _names(path))}, found {has}; write it with "
                f"numpy.savez(path, {', '.join(f'{key}={key}' for key in needed)})"
            )
    return found


def _names(path: Path) -> list[str]:
    if path.suffix.lower() == ".npy":
        return ["the one of a .npy file"]
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _members(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as whole:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in wanted:
                continue
            if member.compress_type == zipfile.ZIP_STORED:
                # behind the 30 bytes of the head stand the name and what is extra, in the sizes that it tells
                whole.seek(member.header_offset + 26)
                sizes = int.from_bytes(whole.read(2), "little"), int.from_bytes(whole.read(2), "little")
                yield name, _array(path, whole, member.header_offset + 30 + sum(sizes))
            else:
                with archive.open(member) as file:
                    yield name, npy.read_array(file, allow_pickle=False)


def _array(path: Path, file: IO[bytes], start: int) -> NDArray[Any]:
    """Map the array that begins at a byte of a file."""
    file.seek(start)
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects")
    if 0 in shape or not shape:
        file.seek(start)
        return npy.read_array(file, allow_pickle=False)
    mapped = np.memmap(path, dtype, "r", file.tell(), shape, "F" if columns_first else "C")
    return mapped.view(np.ndarray)
