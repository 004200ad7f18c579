"""Batches of sequences of like length, so that little of a batch is padding."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recur.data.sequences import Sequences
from recur.errors import InputError


class Batch(NamedTuple):
    """Some rows, laid out for a network."""

    tokens: Tensor
    """Ids, int64 [B, T]; 0 behind the end of each row."""
    lengths: Tensor
    """Ids in each row, int64 [B]; 0 for an empty text."""
    labels: Tensor
    """Classes, int64 [B]; -1 where none were given."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the rows in the data, int64 [B]."""


class PairBatch(NamedTuple):
    """Some pairs of rows, laid out for a network."""

    source: Tensor
    """Ids, int64 [B, S]; 0 behind the end of each row."""
    source_lengths: Tensor
    """int64 [B]."""
    target: Tensor
    """Ids, int64 [B, T]; 0 behind the end of each row."""
    target_lengths: Tensor
    """int64 [B]."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the pairs in the data, int64 [B]."""


class ByLength(ABC):
    """Batches of rows of like length: each `iter()` is an epoch, in which every row comes exactly once.

    With `shuffle`, the rows are shuffled, cut into even pools of about `pool` batches, sorted by length in each pool
    and cut into batches; the batches of the whole epoch are shuffled. The longest rows of all, a batch for each pool,
    form a pool of their own. The order is a function of seed and epoch alone. Without `shuffle` the rows come sorted by
    length, the same in every epoch.

    The place in the epoch is part of the object: `state_dict()` between two batches and `load_state_dict()` on a new
    object go on with the batch that would have come next. `iter()` after a whole epoch begins the next one; after an
    epoch left halfway it begins the same one again. One iterator at a time.

    Args:
        lengths: what rows are sorted by, int64 [n].
        ids: of all rows together, by which other data are known.
        batch_size: rows of a batch; the last batch cut may have fewer.
        seed: of the order.
        shuffle: False for evaluation and prediction.
        pool: batches sorted together, about; more of them give less padding and less random neighbours.

    Raises:
        InputError: a size below 1.
    """

    def __init__(
        self, lengths: NDArray[np.int64], ids: int, batch_size: int, seed: int, shuffle: bool, pool: int
    ) -> None:
        for name, value in (("batch_size", batch_size), ("pool", pool)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self._lengths, self._ids = lengths, ids
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.pool = pool
        self.epoch = 0
        self.delivered = 0
        self._resumed = False

    @abstractmethod
    def _batch(self, rows: NDArray[np.int64]) -> Any:
        """Lay some rows out."""

    @abstractmethod
    def _cells(self, rows: NDArray[np.int64]) -> tuple[int, int]:
        """Return how many ids some rows have, and how many cells their rectangles."""

    def __len__(self) -> int:
        return -(-len(self._lengths) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        # the caller may stop asking after the last batch, so the next epoch begins here and not behind the loop
        if len(self) and self.delivered >= len(self):
            self.set_epoch(self.epoch + 1)
        elif not self._resumed:
            self.delivered = 0
        self._resumed = False
        plan = self._plan()
        while self.delivered < len(plan):
            rows = plan[self.delivered]
            self.delivered += 1
            yield self._batch(rows)

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin the epoch of this number."""
        self.epoch, self.delivered, self._resumed = epoch, 0, False

    @property
    def padding_share(self) -> float:
        """The share of padding among all cells of the epoch's rectangles, 0..1; counted without laying them out."""
        counts = [self._cells(rows) for rows in self._plan()]
        cells = sum(cells for _, cells in counts)
        return 1 - sum(ids for ids, _ in counts) / cells if cells else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch, and what it was counted in: plain numbers."""
        return {"epoch": self.epoch, "delivered": self.delivered, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` returned.

        Raises:
            InputError: the place belongs to other data or another batch size, seed or pool.
        """
        if state["of"] != self._identity():
            saved, here = (", ".join(f"{k} {v}" for k, v in x.items()) for x in (state["of"], self._identity()))
            raise InputError(
                f"the saved place in the data belongs to {saved}, but the data are now {here}; "
                "resume with the data and options of the start, or begin a new run"
            )
        self.epoch, self.delivered, self._resumed = state["epoch"], state["delivered"], True

    def _identity(self) -> dict[str, int]:
        return {
            "rows": len(self._lengths),
            "ids": self._ids,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": int(self.shuffle),
            "pool": self.pool,
        }

    def _plan(self) -> list[NDArray[np.int64]]:
        """Return the row numbers of each batch of the epoch."""
        lengths = self._lengths
        if not self.shuffle:
            return self._cut(np.argsort(lengths, kind="stable"))
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(lengths))
        order = order[np.argsort(lengths[order], kind="stable")]
        # texts have a long tail: left in the pools, a few very long rows would stretch one batch in every pool
        pools = max(1, round(len(self) / self.pool))
        batches = len(self) - pools
        rest = generator.permutation(order[: batches * self.batch_size])
        number = np.arange(len(rest)) // self.batch_size * pools // max(1, batches)
        rest = rest[np.lexsort((lengths[rest], number))]
        plan = self._cut(np.concatenate((rest, order[len(rest) :])))
        return [plan[i] for i in generator.permutation(len(plan))]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


class LengthBatches(ByLength):
    """Batches of sequences of like length, in the order of `ByLength`; yields a `Batch`.

    Args:
        sequences: ids of n rows.
        labels: class of each row, n whole numbers; None if there are none.
        batch_size, seed, shuffle, pool: see `ByLength`.

    Raises:
        InputError: labels of another number than rows, or a size below 1.

    >>> batches = LengthBatches(Sequences.of([[2], [3, 4, 5], [6, 7]]), [0, 1, 0], 2, seed=0, shuffle=False)
    >>> [batch.tokens.tolist() for batch in batches]
    [[[2, 0], [6, 7]], [[3, 4, 5]]]
    """

    def __init__(
        self,
        sequences: Sequences,
        labels: ArrayLike | None,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        pool: int = 50,
    ) -> None:
        super().__init__(sequences.lengths, len(sequences.values), batch_size, seed, shuffle, pool)
        rows = len(sequences)
        self.labels = np.full(rows, -1, dtype=np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
        if self.labels.shape != (rows,):
            raise InputError(
                f"labels must be one for each of the {rows} sequences, got shape {list(self.labels.shape)}"
            )
        self.sequences = sequences

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        tokens, lengths = self.sequences.padded(rows)
        return Batch(*(torch.from_numpy(array) for array in (tokens, lengths, self.labels[rows], rows)))

    def _cells(self, rows: NDArray[np.int64]) -> tuple[int, int]:
        return _cells(self._lengths[rows])


class PairBatches(ByLength):
    """Batches of pairs of sequences, of like length in both; in the order of `ByLength`, yields a `PairBatch`.

    Args:
        sources: ids of n rows.
        targets: ids of n rows.
        batch_size, seed, shuffle, pool: see `ByLength`; rows are sorted by the source, those alike by the target.

    Raises:
        InputError: not as many sources as targets, or a size below 1.

    >>> batches = PairBatches(Sequences.of([[5], [6, 7]]), Sequences.of([[8, 9], [4]]), 2, seed=0, shuffle=False)
    >>> [(batch.source.tolist(), batch.target.tolist()) for batch in batches]
    [([[5, 0], [6, 7]], [[8, 9], [4, 0]])]
    """

    def __init__(
        self, sources: Sequences, targets: Sequences, batch_size: int, seed: int, shuffle: bool = True, pool: int = 50
    ) -> None:
        if len(sources) != len(targets):
            raise InputError(f"targets must be one for each of the {len(sources)} sources, got {len(targets)}")
        both = sources.lengths * (int(targets.lengths.max(initial=0)) + 1) + targets.lengths
        super().__init__(both, len(sources.values) + len(targets.values), batch_size, seed, shuffle, pool)
        self.sources, self.targets = sources, targets

    def _batch(self, rows: NDArray[np.int64]) -> PairBatch:
        arrays = (*self.sources.padded(rows), *self.targets.padded(rows), rows)
        return PairBatch(*(torch.from_numpy(array) for array in arrays))

    def _cells(self, rows: NDArray[np.int64]) -> tuple[int, int]:
        pairs = [_cells(part.lengths[rows]) for part in (self.sources, self.targets)]
        return pairs[0][0] + pairs[1][0], pairs[0][1] + pairs[1][1]


def _cells(lengths: NDArray[np.int64]) -> tuple[int, int]:
    return int(lengths.sum()), len(lengths) * max(1, int(lengths.max()))
