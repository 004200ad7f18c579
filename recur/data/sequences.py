"""Many sequences of ids of different lengths in two flat arrays."""

import math
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from recur.data.mapped import Mapped
from recur.errors import InputError, RunError

IN_MEMORY = 1 << 25
"""Ids that a `SequenceWriter` holds in memory: 128 MB."""
CHUNK = 1 << 20

Keep = Literal["first", "last"]
Ids = NDArray[np.int32]


class Sequences:
    """Ragged int32 ids: sequence i is `values[offsets[i] : offsets[i + 1]]`. Four bytes per id and eight per sequence.

    Args:
        values: all ids, one sequence after the other, int32 [N], in memory or mapped from a file.
        offsets: where each sequence starts, and N at the end, int64 [n + 1].

    Raises:
        InputError: `offsets` does not run from 0 to N without falling.

    >>> rows = Sequences.of([[5, 6, 7], [], [8]])
    >>> len(rows), rows[0].tolist(), rows.lengths.tolist()
    (3, [5, 6, 7], [3, 0, 1])
    """

    def __init__(self, values: NDArray[np.int32] | Mapped, offsets: NDArray[np.int64]) -> None:
        self._mapped = values if isinstance(values, Mapped) else None
        array = values.array if isinstance(values, Mapped) else values
        self.values: Ids = np.ascontiguousarray(array, dtype=np.int32)
        self.offsets: NDArray[np.int64] = np.ascontiguousarray(offsets, dtype=np.int64)
        self._limit: tuple[int, Keep] | None = None
        ends = self.offsets[[0, -1]].tolist() if self.offsets.ndim == 1 and len(self.offsets) else None
        if ends != [0, self.values.size] or self.values.ndim != 1 or (self.offsets[1:] < self.offsets[:-1]).any():
            raise InputError(
                f"offsets must be one row of numbers that rise from 0 to {self.values.size}, the number of values, "
                f"got shape {self.offsets.shape} with the ends {ends}"
            )

    @classmethod
    def of(cls, rows: Iterable[Iterable[int] | Ids]) -> "Sequences":
        """Gather sequences of ids one by one; only the flat result is held in memory."""
        writer = SequenceWriter()
        for row in rows:
            writer.append(row)
        return writer.finish()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Ids:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)}")
        i %= len(self)
        row = self.values[self.offsets[i] : self.offsets[i + 1]]
        return row if self._limit is None else truncate(row, *self._limit)

    def __iter__(self) -> Iterator[Ids]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of ids of each sequence, int64 [n]."""
        lengths = np.diff(self.offsets)
        return lengths if self._limit is None else np.minimum(lengths, self._limit[0], out=lengths)

    @property
    def whole(self) -> bool:
        """Whether no sequence is cut, so that `values` and `offsets` say what the sequences are."""
        return self._limit is None

    def count(self, id: int) -> int:
        """Return how often an id is in the sequences, where none is cut."""
        total = 0
        for start in range(0, len(self.values), CHUNK):
            piece = self.values[start : start + CHUNK]
            total += int((piece == id).sum())
            if self._mapped:
                self._mapped.touched(1, piece.nbytes)
        return total

    def take(self, index: NDArray[np.int64]) -> "Sequences":
        """Return the sequences numbered by `index` [m] in that order, copied."""
        values, lengths = self._gather(index)
        return Sequences(values, np.concatenate(([0], np.cumsum(lengths))))

    def truncate(self, max_length: int, keep: Keep = "last") -> "Sequences":
        """Return every sequence cut to at most `max_length` ids, its first or its last ones; see `truncate`.

        Nothing is copied: `values` and `offsets` stay those of the whole sequences.
        """
        _checked(max_length, keep)
        if not len(self) or int(self.lengths.max()) <= max_length:
            return self
        if not self.whole:
            return self.take(np.arange(len(self))).truncate(max_length, keep)
        cut = copy(self)
        cut._limit = (max_length, keep)
        return cut

    def padded(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lay the sequences numbered by `index` [B] out in a rectangle.

        Returns:
            The ids, int64 [B, T], 0 (the padding) behind the end of each row; T is the longest length, at least 1.
            The lengths, int64 [B].
        """
        values, lengths = self._gather(index)
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        table = np.zeros((len(lengths), len(steps)), dtype=np.int64)
        # row by row, a boolean mask reads the rectangle in the order in which the flat ids come
        table[steps < lengths[:, None]] = values
        return table, lengths

    def _gather(self, index: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids of some sequences, one after the other, and the length of each."""
        starts, ends = self.offsets[index], self.offsets[index + 1]
        if self._limit is not None:
            most, keep = self._limit
            if keep == "first":
                ends = np.minimum(ends, starts + most)
            else:
                starts = np.maximum(starts, ends - most)
        lengths = ends - starts
        values = self.values[_spans(starts, lengths)]
        if self._mapped:
            self._mapped.touched(len(starts), values.nbytes)
        return values, lengths


class SequenceWriter:
    """Gathers sequences of ids: in memory, and from `in_memory` ids on in a file that has no name.

    Such a file is gone when nobody has it open any more: at the end of the process, however that ends.

    Args:
        folder: where the file is made; None keeps everything in memory.
        in_memory: most ids that are held in memory, four bytes each; `IN_MEMORY` by default.

    >>> writer = SequenceWriter()
    >>> writer.append([5, 6, 7])
    >>> writer.append([])
    >>> [row.tolist() for row in writer.finish()]
    [[5, 6, 7], []]
    """

    def __init__(self, folder: str | Path | None = None, in_memory: int | None = None) -> None:
        self._file: IO[bytes] | None = None
        self._folder = folder
        self._held, self._ends = array("i"), array("q", [0])
        self._most: float = math.inf if folder is None else IN_MEMORY if in_memory is None else in_memory
        self._filed = 0

    def __del__(self) -> None:
        # one that was given up halfway, by Ctrl-C say
        if self._file is not None:
            self._file.close()

    def append(self, ids: Iterable[int] | Ids) -> None:
        """Add a sequence.

        Raises:
            RunError: the file cannot be written.
        """
        if isinstance(ids, np.ndarray):
            self._held.frombytes(ids.astype(np.int32, copy=False).tobytes())
        else:
            self._held.extend(ids)
        self._ends.append(self._filed + len(self._held))
        if len(self._held) > self._most:
            self._flush()

    def chunks(self) -> Iterator[Ids]:
        """Yield all ids so far, some at a time; to be changed in place, and then written back with `replace`."""
        for start in range(0, self._filed, CHUNK):
            yield self._read(start)
        yield from (np.frombuffer(self._held, np.int32)[i : i + CHUNK] for i in range(0, len(self._held), CHUNK))

    def replace(self, table: NDArray[np.int32]) -> None:
        """Put `table[id]` in the place of every id so far.

        Raises:
            RunError: the file cannot be written.
        """
        with self._writing():
            for start in range(0, self._filed, CHUNK):
                changed = table[self._read(start)]
                assert self._file
                self._file.seek(4 * start)
                self._file.write(changed.tobytes())
        for start in range(0, len(self._held), CHUNK):
            held = np.frombuffer(self._held, np.int32)[start : start + CHUNK]
            held[:] = table[held]

    def finish(self) -> Sequences:
        """Return all sequences; nothing can be added any more.

        Raises:
            RunError: the file cannot be written.
        """
        offsets = np.frombuffer(self._ends, np.int64)
        if self._file is None:
            return Sequences(np.frombuffer(self._held, np.int32), offsets)
        self._flush()
        with self._writing(), self._file:
            self._file.flush()
            return Sequences(Mapped(self._file, np.int32, (self._filed,)), offsets)

    def _flush(self) -> None:
        with self._writing():
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed when it is mapped
                self._most = CHUNK
            self._file.seek(0, os.SEEK_END)
            self._file.write(memoryview(self._held))
        self._filed += len(self._held)
        del self._held[:]

    def _read(self, start: int) -> Ids:
        assert self._file
        self._file.seek(4 * start)
        return np.frombuffer(self._file.read(4 * min(CHUNK, self._filed - start)), np.int32)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"{self._folder} must have room for the ids of the texts, {4 * self._ends[-1]:,} bytes so far: {reason}"
            ) from error


def truncate(ids: Ids, max_length: int, keep: Keep = "last") -> Ids:
    """Cut one sequence of ids to at most `max_length`.

    Args:
        ids: int32 [T].
        max_length: ids to keep, at least 1.
        keep: "first" keeps the beginning, "last" the end.

    Returns:
        A view of `ids`, int32 [min(T, max_length)].

    Raises:
        InputError: `max_length` below 1, or another `keep`.

    >>> truncate(np.arange(5, dtype=np.int32), 2, keep="last").tolist()
    [3, 4]
    """
    _checked(max_length, keep)
    return ids[:max_length] if keep == "first" else ids[-max_length:]


def _checked(max_length: int, keep: str) -> int:
    if max_length < 1:
        raise InputError(f"max_length must be at least 1, got {max_length}; leave it out to keep texts whole")
    if keep not in ("first", "last"):
        raise InputError(f"keep must be 'first' or 'last', got {keep!r}")
    return max_length


def _spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return starts[0], starts[0]+1, ... (lengths[0] numbers), then the same for every other row, in one array."""
    shift = starts - (np.cumsum(lengths) - lengths)
    return np.repeat(shift, lengths) + np.arange(int(lengths.sum()))
