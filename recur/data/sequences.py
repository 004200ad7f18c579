"""Many sequences of ids of different lengths in two flat arrays."""

from array import array
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError

Keep = Literal["first", "last"]
Ids = NDArray[np.int32]


class Sequences:
    """Ragged int32 ids: sequence i is `values[offsets[i] : offsets[i + 1]]`. Four bytes per id and eight per sequence.

    Args:
        values: all ids, one sequence after the other, int32 [N].
        offsets: where each sequence starts, and N at the end, int64 [n + 1].

    Raises:
        InputError: `offsets` does not run from 0 to N without falling.

    >>> rows = Sequences.of([[5, 6, 7], [], [8]])
    >>> len(rows), rows[0].tolist(), rows.lengths.tolist()
    (3, [5, 6, 7], [3, 0, 1])
    """

    def __init__(self, values: NDArray[np.int32], offsets: NDArray[np.int64]) -> None:
        self.values: Ids = np.ascontiguousarray(values, dtype=np.int32)
        self.offsets: NDArray[np.int64] = np.ascontiguousarray(offsets, dtype=np.int64)
        ends = self.offsets[[0, -1]].tolist() if self.offsets.ndim == 1 and len(self.offsets) else None
        if ends != [0, self.values.size] or self.values.ndim != 1 or (np.diff(self.offsets) < 0).any():
            raise InputError(
                f"offsets must be one row of numbers that rise from 0 to {self.values.size}, the number of values, "
                f"got shape {self.offsets.shape} with the ends {ends}"
            )

    @classmethod
    def of(cls, rows: Iterable[Iterable[int] | Ids]) -> "Sequences":
        """Gather sequences of ids one by one; only the flat result is held in memory."""
        values, offsets = array("i"), array("q", [0])
        for row in rows:
            if isinstance(row, np.ndarray):
                values.frombytes(row.astype(np.int32, copy=False).tobytes())
            else:
                values.extend(row)
            offsets.append(len(values))
        return cls(np.frombuffer(values, dtype=np.int32), np.frombuffer(offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Ids:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)}")
        i %= len(self)
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[Ids]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of ids of each sequence, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, index: NDArray[np.int64]) -> "Sequences":
        """Return the sequences numbered by `index` [m] in that order, copied."""
        return self._cut(self.offsets[:-1][index], self.lengths[index])

    def truncate(self, max_length: int, keep: Keep = "last") -> "Sequences":
        """Return every sequence cut to at most `max_length` ids, its first or its last ones; see `truncate`."""
        lengths = np.minimum(self.lengths, _checked(max_length, keep))
        starts = self.offsets[:-1] if keep == "first" else self.offsets[1:] - lengths
        return self._cut(starts, lengths)

    def padded(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lay the sequences numbered by `index` [B] out in a rectangle.

        Returns:
            The ids, int64 [B, T], 0 (the padding) behind the end of each row; T is the longest length, at least 1.
            The lengths, int64 [B].
        """
        lengths = self.offsets[index + 1] - self.offsets[index]
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        table = np.zeros((len(lengths), len(steps)), dtype=np.int64)
        # row by row, a boolean mask reads the rectangle in the order in which the flat ids come
        table[steps < lengths[:, None]] = self.values[_spans(self.offsets[index], lengths)]
        return table, lengths

    def _cut(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> "Sequences":
        return Sequences(self.values[_spans(starts, lengths)], np.concatenate(([0], np.cumsum(lengths))))


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
