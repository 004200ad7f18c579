"""Batches of sequences of like length, so that little of a batch is padding."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recur.data.sequences import Sequences
from recur.errors import InputError

Rows = NDArray[np.integer[Any]]


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
    """Ids, int64 [B, S], or frames [B, S, D]; 0 behind the end of each row."""
    source_lengths: Tensor
    """int64 [B]."""
    target: Tensor
    """Ids, int64 [B, T]; 0 behind the end of each row."""
    target_lengths: Tensor
    """int64 [B]."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the pairs in the data, int64 [B]."""


class Ragged(Protocol):
    """Rows of different length."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each row, int64 [n]."""


class Padded(Ragged, Protocol):
    """Such rows that can be laid out."""

    def __len__(self) -> int: ...

    def padded(self, rows: NDArray[np.int64], /) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return some rows in a rectangle [B, T, ...], zeros behind their ends, and their lengths [B]."""
        ...


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
        parts: the sequences that make up a row, one of each.
        keys: what rows are sorted by, int64 [n].
        batch_size: rows of a batch; the last batch cut may have fewer.
        seed: of the order.
        shuffle: False for evaluation and prediction.
        pool: batches sorted together, about; more of them give less padding and less random neighbours.

    Raises:
        InputError: a size below 1.
    """

    def __init__(
        self,
        parts: tuple[Ragged, ...],
        keys: NDArray[np.int64],
        batch_size: int,
        seed: int,
        shuffle: bool,
        pool: int,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("pool", pool)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self._parts, self._keys = parts, _narrow(keys)
        self._ids = sum(int(part.lengths.sum()) for part in parts)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.pool = pool
        self.epoch = 0
        self.delivered = 0
        self._resumed = False
        self._planned: tuple[int, Rows, Rows] | None = None

    @abstractmethod
    def _batch(self, rows: NDArray[np.int64]) -> Any:
        """Lay some rows out."""

    def __len__(self) -> int:
        return -(-len(self._keys) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        # the caller may stop asking after the last batch, so the next epoch begins here and not behind the loop
        if len(self) and self.delivered >= len(self):
            self.set_epoch(self.epoch + 1)
        elif not self._resumed:
            self.delivered = 0
        self._resumed = False
        order, turns = self._plan()
        while self.delivered < len(turns):
            start = int(turns[self.delivered]) * self.batch_size
            self.delivered += 1
            yield self._batch(order[start : start + self.batch_size].astype(np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` begin the epoch of this number."""
        self.epoch, self.delivered, self._resumed = epoch, 0, False

    @property
    def padding_share(self) -> float:
        """The share of padding among all cells of the epoch's rectangles, 0..1; counted without laying them out."""
        if not len(self):
            return 0.0
        order, _ = self._plan()
        starts = np.arange(0, len(order), self.batch_size)
        sizes = np.diff(starts, append=len(order))
        longest = (np.maximum.reduceat(_narrow(part.lengths)[order], starts) for part in self._parts)
        cells = sum(int((np.maximum(steps, 1) * sizes).sum()) for steps in longest)
        return 1 - self._ids / cells

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
            "rows": len(self._keys),
            "ids": self._ids,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": int(self.shuffle),
            "pool": self.pool,
        }

    def _plan(self) -> tuple[Rows, Rows]:
        """Return the rows in the order in which they are cut into batches, and the batches in that of their turns."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = None  # its memory is needed for the next one
            self._planned = (self.epoch, *self._drawn())
        return self._planned[1:]

    def _drawn(self) -> tuple[Rows, Rows]:
        keys = self._keys
        if not self.shuffle:
            return _narrow(np.argsort(keys, kind="stable")), np.arange(len(self))
        generator = np.random.default_rng([self.seed, self.epoch])
        order = _narrow(generator.permutation(len(keys)))
        order = order[np.argsort(keys[order], kind="stable")]
        # texts have a long tail: left in the pools, a few very long rows would stretch one batch in every pool
        pools = max(1, round(len(self) / self.pool))
        batches = len(self) - pools
        rest = order[: batches * self.batch_size]
        rest[:] = generator.permutation(rest)
        # pool p has the batches b with p = b * pools // batches
        for ends in itertools.pairwise(-(-p * batches // pools) * self.batch_size for p in range(pools + 1)):
            pool = rest[slice(*ends)]
            pool[:] = pool[np.argsort(keys[pool], kind="stable")]
        return order, generator.permutation(len(self))


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
        super().__init__((sequences,), sequences.lengths, batch_size, seed, shuffle, pool)
        rows = len(sequences)
        # as narrow as they come: a batch's are widened, not all
        self.labels = np.full(rows, -1, dtype=np.int8) if labels is None else np.asarray(labels)
        if self.labels.dtype.kind not in "iu":
            self.labels = self.labels.astype(np.int64)
        if self.labels.shape != (rows,):
            raise InputError(
                f"labels must be one for each of the {rows} sequences, got shape {list(self.labels.shape)}"
            )
        self.sequences = sequences

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        tokens, lengths = self.sequences.padded(rows)
        arrays = (tokens, lengths, self.labels[rows].astype(np.int64), rows)
        return Batch(*(torch.from_numpy(array) for array in arrays))


class PairBatches(ByLength):
    """Batches of pairs of sequences, of like length in both; in the order of `ByLength`, yields a `PairBatch`.

    Args:
        sources: ids or frames of n rows.
        targets: ids of n rows.
        batch_size, seed, shuffle, pool: see `ByLength`; rows are sorted by the source, those alike by the target.

    Raises:
        InputError: not as many sources as targets, or a size below 1.

    >>> batches = PairBatches(Sequences.of([[5], [6, 7]]), Sequences.of([[8, 9], [4]]), 2, seed=0, shuffle=False)
    >>> [(batch.source.tolist(), batch.target.tolist()) for batch in batches]
    [([[5, 0], [6, 7]], [[8, 9], [4, 0]])]
    """

    def __init__(
        self, sources: Padded, targets: Sequences, batch_size: int, seed: int, shuffle: bool = True, pool: int = 50
    ) -> None:
        if len(sources) != len(targets):
            raise InputError(f"targets must be one for each of the {len(sources)} sources, got {len(targets)}")
        both = sources.lengths * (int(targets.lengths.max(initial=0)) + 1) + targets.lengths
        super().__init__((sources, targets), both, batch_size, seed, shuffle, pool)
        self.sources, self.targets = sources, targets

    def _batch(self, rows: NDArray[np.int64]) -> PairBatch:
        arrays = (*self.sources.padded(rows), *self.targets.padded(rows), rows)
        return PairBatch(*(torch.from_numpy(array) for array in arrays))


def _narrow(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers from 0 on in the smallest type that holds them: a sort of two bytes is much faster."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
