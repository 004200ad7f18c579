"""Many sequences of frames of numbers, of different lengths, in one flat array, and their batches."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.batches import ByLength
from recur.errors import InputError

Values = NDArray[np.float32]


class Frames:
    """Ragged frames: sequence i is `values[offsets[i] : offsets[i + 1]]`, [T, D].

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
        self.size = size
        self.values: Values = np.concatenate([np.empty((0, size), np.float32), *kept])
        self.offsets = np.cumsum([0, *map(len, kept)])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Values:
        if not 0 <= i < len(self):
            raise IndexError(f"sequence {i} of {len(self)}")
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The frames of each sequence, int64 [n]."""
        return np.diff(self.offsets)

    def padded(self, rows: NDArray[np.int64]) -> tuple[Values, NDArray[np.int64]]:
        """Return some sequences [B, T, D], zeros behind their ends, and their lengths [B]."""
        lengths = self.lengths[rows]
        laid = np.zeros((len(rows), int(lengths.max(initial=0)), self.size), np.float32)
        for place, row in enumerate(rows.tolist()):
            laid[place, : lengths[place]] = self[row]
        return laid, lengths


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
