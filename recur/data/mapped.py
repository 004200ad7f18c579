"""Numbers in a file as if they were in memory, of which only what is being read takes any."""

import mmap
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# what is read of a mapped file counts as this process's memory; it is given back whenever so much may have gathered
RESIDENT = 1 << 27
# the system brings in the neighbourhood of a place that is read
_NEIGHBOURS = 1 << 16


class Mapped:
    """An array in a file, mapped for reading.

    Args:
        file: the file, open for reading or by its path; it may be deleted once it is mapped.
        dtype: of the numbers.
        shape: of the array, none of its sizes 0.
        offset: bytes before it.
    """

    def __init__(self, file: str | Path | IO[bytes], dtype: DTypeLike, shape: tuple[int, ...], offset: int = 0) -> None:
        memmap = np.memmap(file, dtype, "r", offset, shape)
        self.array: NDArray[Any] = memmap.view(np.ndarray)
        self._mapping: mmap.mmap = memmap._mmap  # type: ignore[attr-defined]
        self._touched = 0

    def touched(self, places: int, size: int) -> None:
        """Say what was read, `size` bytes at so many places: memory is given back now and then, and nothing lost."""
        self._touched += places * _NEIGHBOURS + size
        if self._touched >= RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
