"""Many sequences of frames of numbers, of different lengths, in one flat array, and their batches."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.batches import ByLength
from recur.errors import InputError

Values = NDArray[np.float32]
# numbers that mean and deviation are taken of at a time
COUNTED = 1 << 22


class Frames:
    """Ragged frames: sequence i is `values[starts[i] : starts[i] + lengths[i]]`, [T, D].

    Args:
        rows: the sequences, each [T, D].
        size: D.

    Raises:
        InputError: a row of another width.

    >>> frames = Frames([np.zeros((3, 2)), np.ones((1, 2))], 2)
    >>> len(frames), frames.lengths.tolist(), frames[1].tolist()
    (2, [3, 1], [[1.0, 1.0]])
    """

    def __init__(self, rows: Iterable[Values], size: int) -> None:
        kept = []
        for row in rows:
            if row.ndim != 2 or row.shape[1] != size:
                raise InputError(f"every row must be [T, D] with D = {size}, got {list(row.shape)}")
            kept.append(np.asarray(row, dtype=np.float32))
        self._lay(
            np.concatenate([np.empty((0, size), np.float32), *kept]),
            np.cumsum([0, *map(len, kept)])[:-1],
            np.array([len(row) for row in kept], dtype=np.int64),
        )

    @classmethod
    def over(cls, values: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> "Frames":
        """Return frames that lie in an array [N, D] of any type of number, which is not copied.

        Args:
            values: the numbers; they become float32 as they are read.
            starts: first row of each sequence, int64 [n].
            lengths: rows of each sequence, int64 [n].
        """
        frames = cls.__new__(cls)
        frames._lay(values, starts, lengths)
        return frames

    def _lay(self, values: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self.values, self.starts, self.lengths, self.size = values, starts, lengths, values.shape[1]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Values:
        if not 0 <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)}")
        own: Values = self._own(i).astype(np.float32, copy=False)
        return own

    def _own(self, i: int) -> NDArray[Any]:
        return self.values[self.starts[i] : self.starts[i] + self.lengths[i]]

    def take(self, rows: NDArray[np.int64]) -> "Frames":
        """Return some of the sequences; their numbers stay where they are."""
        return Frames.over(self.values, self.starts[rows], self.lengths[rows])

    def filled(self, values: NDArray[Any]) -> "Frames":
        """Return the sequences with a value [D] for each NaN."""
        if self.values.dtype.kind != "f" or not np.isnan(self.values).any():
            return self
        filled = np.where(np.isnan(self.values), values.astype(np.float32), self.values)
        return Frames.over(filled, self.starts, self.lengths)

    def known(self, *others: "Frames") -> int:
        """Return how many of these sequences are among others too."""
        seen = {hash(other[row].tobytes()) for other in others for row in range(len(other))}
        return sum(hash(self[row].tobytes()) in seen for row in range(len(self)))

    def padded(self, rows: NDArray[np.int64]) -> tuple[Values, NDArray[np.int64]]:
        """Return some sequences [B, T, D], zeros behind their ends, and their lengths [B]."""
        lengths = self.lengths[rows]
        laid = np.zeros((len(rows), int(lengths.max(initial=0)), self.size), np.float32)
        for place, row in enumerate(rows.tolist()):
            laid[place, : lengths[place]] = self._own(row)
        return laid, lengths

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and deviation of each number over all frames, float64 [D]; NaN does not count.

        What is never there has mean 0 and deviation 0.
        """
        count, mean, squares = (np.zeros(self.size) for _ in range(3))
        for block in self._blocks():
            there = ~np.isnan(block)
            found = there.sum(axis=0)
            with np.errstate(invalid="ignore"):
                own = np.nan_to_num(np.where(there, block, 0).sum(axis=0) / found)
            # Chan et al. 1979, equation 2.1
            rise, both = own - mean, np.maximum(count + found, 1)
            squares += (np.where(there, block - own, 0) ** 2).sum(axis=0) + rise**2 * count * found / both
            mean += rise * found / both
            count += found
        return mean, np.sqrt(squares / np.maximum(count, 1))

    def _blocks(self) -> Iterator[NDArray[np.float64]]:
        """Yield all frames, a good number at a time, [n, D]."""
        ends = np.cumsum(self.lengths) * self.size // COUNTED
        for rows in np.split(np.arange(len(self)), np.flatnonzero(np.diff(ends)) + 1):
            yield np.concatenate([self.values[:0], *map(self._own, rows.tolist())]).astype(np.float64)


class FrameBatch(NamedTuple):
    """Some rows, laid out for a network."""

    frames: Tensor
    """[B, T, D]; zeros behind the end of each row."""
    lengths: Tensor
    """Frames of each row, int64 [B]."""
    labels: Tensor
    """Classes, int64 [B]; -1 where none were given."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the rows in the data, int64 [B]."""


class FrameBatches(ByLength):
    """Batches of sequences of frames of like length, in the order of `ByLength`; yields a `FrameBatch`.

    Args:
        frames: n sequences.
        labels: class of each, int64 [n]; None if there are none.
        batch_size, seed, shuffle, pool: see `ByLength`.

    Raises:
        InputError: labels of another number than sequences, or a size below 1.
    """

    def __init__(
        self,
        frames: Frames,
        labels: NDArray[np.int64] | None,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        pool: int = 50,
    ) -> None:
        super().__init__((frames,), frames.lengths, batch_size, seed, shuffle, pool)
        self.labels = np.full(len(frames), -1) if labels is None else labels
        if self.labels.shape != (len(frames),):
            raise InputError(f"labels must be one for each of {len(frames)} rows, got {list(self.labels.shape)}")
        self.frames = frames

    def _batch(self, rows: NDArray[np.int64]) -> FrameBatch:
        frames, lengths = self.frames.padded(rows)
        return FrameBatch(*(torch.from_numpy(array) for array in (frames, lengths, self.labels[rows], rows)))
