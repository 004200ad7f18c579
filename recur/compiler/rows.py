"""Which rows run which steps: rows of any length, padded left or right, reversed, or starting anew half-way.

A row that starts anew at some step is, to the kernels, two rows; they are sorted by length, longest first. Steps are
counted from 0 in the order in which they run.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]


class Rows:
    """The rows of a batch as the kernels see them.

    Attributes:
        count: how many there are.
        steps: steps of the longest.
        total: steps of all.
        full: whether every step of the batch belongs to a row.
    """

    def __init__(
        self, steps: int, batch: int, row: Indices, first: Indices, length: Indices, direction: int, fresh: Indices
    ) -> None:
        """Take rows sorted by length.

        Args:
            steps: T of the batch.
            batch: B.
            row: the batch row of each, [R].
            first: the step of the batch at which each starts, [R].
            length: its number of steps, [R], each at least 1.
            direction: 1, or -1 where it runs backwards.
            fresh: whether it starts from zero instead of the batch row's initial state, [R].
        """
        self.T, self.B, self.direction = steps, batch, direction
        self.row, self.first, self.length, self.fresh = row, first, length, fresh
        self.count = len(row)
        self.steps = int(length[0]) if self.count else 0
        self.total = int(length.sum())
        self.full = self.total == steps * batch
        # rows that are still running at each step
        alive = self.count - np.searchsorted(length[::-1], np.arange(self.steps), side="right")
        self.cum = np.concatenate([np.zeros(1, np.int64), np.cumsum(alive, dtype=np.int64)])
        self.cum_address = self.cum.ctypes.data
        self.uniform = self.full and self.count == batch and not fresh.any() and bool((row == np.arange(batch)).all())
        self.plain = self.uniform and direction == 1
        self._offsets: dict[tuple[int, int], tuple[int, Indices]] = {}
        self._previous: Indices | None = None
        self._before: dict[tuple[int, ...], Indices] = {}
        self._places: tuple[Indices, Indices] | None = None

    def words(self, name: str, tensor: Tensor) -> dict[str, int]:
        """Return how a kernel finds the rows of `tensor` [T, B, ...]."""
        step, across, *_ = tensor.stride()
        found = self._offsets.get((step, across))
        if found is None:
            offsets = self.first * step + self.row * across
            found = self._offsets[step, across] = offsets.ctypes.data, offsets
        return {
            name: tensor.data_ptr(),
            f"{name}_offsets": found[0],
            f"{name}_step": step * self.direction,
        }

    def places(self) -> tuple[Indices, Indices]:
        """Return for each packed position the step of the batch and the batch row."""
        if self._places is None:
            alive = np.diff(self.cum)
            step = np.repeat(np.arange(self.steps), alive)
            number = np.arange(self.total) - self.cum[step]
            self._places = self.first[number] + self.direction * step, self.row[number]
        return self._places

    def offsets(self, tensor: Tensor) -> Indices:
        """Return for each packed position where its row lies in `tensor` [T, B, ...]."""
        step, row = self.places()
        return step * tensor.stride(0) + row * tensor.stride(1)

    def previous(self) -> Indices:
        """Return for each packed position but the first `count` the position of the row's step before."""
        if self._previous is None:
            alive = np.diff(self.cum)
            step = np.repeat(np.arange(self.steps), alive)[self.count :]
            self._previous = np.arange(self.count, self.total) - self.cum[step] + self.cum[step - 1]
        return self._previous

    def before(self, tensor: Tensor) -> Indices:
        """Return for each packed position but the first `count` where the step before lies in `tensor` [T, B, ...]."""
        strides = tensor.stride()[:2]
        found = self._before.get(strides)
        if found is None:
            found = self._before[strides] = self.offsets(tensor)[self.previous()]
        return found

    def initial(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the initial states [R, H] of the rows, given those [B, H] of the batch."""
        if self.uniform:
            return list(states)
        index, fresh = torch.from_numpy(self.row), torch.from_numpy(self.fresh.astype(bool))[:, None]
        return [value.index_select(0, index).masked_fill(fresh, 0) for value in states]

    def _last(self) -> tuple[Indices, Indices]:
        """Return the rows that come last in their batch rows, and those batch rows."""
        # the row that runs last starts latest, or earliest where it runs backwards
        best = np.full(self.B, -1, np.int64)
        order = np.argsort(self.first * self.direction, kind="stable")
        best[self.row[order]] = order
        found = best >= 0
        return best[found], np.nonzero(found)[0]

    def last_output(self, outputs: Tensor, state: Tensor) -> Tensor:
        """Return the outputs [T, B, H] at each batch row's last step, and `state` where there is none."""
        if self.uniform:
            return outputs[-1 if self.direction == 1 else 0].clone()
        last, batch = self._last()
        step = torch.from_numpy(self.first[last] + self.direction * (self.length[last] - 1))
        rows = torch.from_numpy(batch)
        return state.clone().index_copy_(0, rows, outputs[step, rows])

    def last_packed(self, packed: Tensor, state: Tensor, *, parity: bool) -> Tensor:
        """Return a state after each batch row's last step, from its values per step, or of every second step only."""
        if self.uniform:
            start = ((self.steps - 1) % 2) * self.count if parity else self.total - self.count
            return packed[start : start + self.count].clone()
        last, batch = self._last()
        end = self.length[last] - 1
        place = (end % 2) * self.count + last if parity else self.cum[end] + last
        return state.clone().index_copy_(0, torch.from_numpy(batch), packed[torch.from_numpy(place)])

    def arriving(self, given: Tensor | None, like: Tensor, width: int) -> Tensor:
        """Return the gradient of the final state [B, H] as that of the rows, [R, width], zero where there is none."""
        result = like.new_zeros(self.count, width)
        if given is not None:
            if self.uniform:
                result[:, : given.shape[1]] = given
            else:
                last, batch = (torch.from_numpy(index) for index in self._last())
                result[last, : given.shape[1]] = given[batch]
        return result

    def to_batch(self, gradient: Tensor, given: Tensor | None) -> Tensor:
        """Return the gradient of the initial state [B, H]; it is that of the final state where there is no step."""
        if self.uniform:
            return gradient.contiguous()
        result = gradient.new_zeros(self.B, gradient.shape[1]) if given is None else given.clone()
        result[torch.from_numpy(np.unique(self.row))] = 0
        own = np.nonzero(~self.fresh.astype(bool))[0]
        return result.index_copy_(0, torch.from_numpy(self.row[own]), gradient[torch.from_numpy(own)])

    def unpack(self, packed: Tensor) -> Tensor:
        """Return packed values [N, ...] as [T, B, ...], zero at steps of no row."""
        if self.uniform:
            whole = packed[: self.total].reshape(self.T, self.B, *packed.shape[1:])
            return whole.contiguous() if self.direction == 1 else whole.flip(0)
        step, row = (torch.from_numpy(index) for index in self.places())
        whole = packed.new_zeros(self.T, self.B, *packed.shape[1:])
        whole[step, row] = packed[: self.total]
        return whole

    def pack(self, whole: Tensor) -> Tensor:
        """Return values [T, B, ...] in packed order."""
        if self.uniform:
            return (whole if self.direction == 1 else whole.flip(0)).reshape(self.total, *whole.shape[2:])
        step, row = (torch.from_numpy(index) for index in self.places())
        return whole[step, row]


@lru_cache(maxsize=64)
def uniform(steps: int, batch: int, reverse: bool = False) -> Rows:
    """Return rows that all have T steps."""
    index = np.arange(batch, dtype=np.int64)
    first = np.full(batch, steps - 1 if reverse else 0, np.int64)
    return Rows(
        steps, batch, index, first, np.full(batch, steps, np.int64), -1 if reverse else 1, np.zeros(batch, np.int64)
    )


def ragged(
    steps: int,
    lengths: Sequence[int] | Tensor,
    *,
    reverse: bool = False,
    left: bool = False,
    resets: Tensor | None = None,
) -> Rows:
    """Return rows of different lengths.

    Args:
        steps: T.
        lengths: valid steps of each, [B].
        reverse: whether each runs from its last valid step to its first.
        left: whether the padding stands before the valid steps.
        resets: where the state before a step is zero instead of the one after the step before, bool [T, B]. Backwards,
            the steps from one such place to the next still belong together.
    """
    valid = np.asarray(lengths, dtype=np.int64)
    start = steps - valid if left else np.zeros_like(valid)
    row = np.nonzero(valid > 0)[0].astype(np.int64)
    first, stop = start[row], (start + valid)[row]
    fresh = np.zeros(len(row), np.int64)
    if resets is not None:
        begins = np.asarray(resets.T.cpu(), dtype=bool).copy()
        at = np.arange(steps)
        begins &= (at >= start[:, None]) & (at < (start + valid)[:, None])
        marked = begins.copy()
        begins[row, first] = True
        row, first = (index.astype(np.int64) for index in np.nonzero(begins))
        following = np.append(row[1:] == row[:-1], False)
        stop = np.where(following, np.append(first[1:], 0), (start + valid)[row])
        # backwards it is the last part of a batch row that takes up the initial state
        fresh = following.astype(np.int64) if reverse else marked[row, first].astype(np.int64)
    length = stop - first
    order = np.argsort(-length, kind="stable")
    row, first, length, fresh = row[order], first[order], length[order], fresh[order]
    if reverse:
        first = first + length - 1
    return Rows(steps, len(valid), row, first, length, -1 if reverse else 1, fresh)


def pad(value: Tensor, width: int) -> Tensor:
    """Return `value` with zeros after its last dimension up to `width`."""
    return value if value.shape[-1] == width else F.pad(value, (0, width - value.shape[-1]))
