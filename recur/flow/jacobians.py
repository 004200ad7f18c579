"""The Jacobians of one row's steps, made when they are asked for, and means over rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recur.flow.result import Array
from recur.flow.runs import Run

# bytes of Jacobians that are kept rather than made anew: memory that is touched the first time is slow
KEPT = 64 << 20
# bytes that are made at once, so that they are still in the cache when they are moved to their place
MADE = 8 << 20


class RowJacobians:
    """ds_t/ds_{t-1} of a row, [n, n] float64 for each of its steps; t = 0 is that by the initial state.

    Args:
        run: what ran.
        row: which row of it.
    """

    def __init__(self, run: Run, row: int) -> None:
        self.steps = int(run.lengths[row])
        self.size = sum(value.shape[1] for value in run.initial.values())
        self._run, self._row = run, row
        self._room = torch.empty(0, self.size, self.size, dtype=torch.float64, device=run.lengths.device)
        self._kept = self.steps * self.size**2 * 8 <= KEPT
        if self._kept:
            self._make(0, self.steps)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Return those of the steps from `start` to `stop`, [stop - start, n, n], of use until the next call."""
        return self._room[start:stop] if self._kept else self._make(start, stop)

    def _make(self, start: int, stop: int) -> Tensor:
        if len(self._room) < stop - start:
            self._room = self._room.new_empty(stop - start, self.size, self.size)
        size = max(1, MADE // (self.size**2 * 8))
        for at in range(start, stop, size):
            self._run.jacobian(self._row, at, self._room[at - start : min(at + size, stop) - start])
        return self._room[: stop - start]


def average(rows: Sequence[Array], steps: int) -> Array:
    """Return the mean of several rows' [n, ...], aligned at their last steps, as [T, ...]; NaN where none reaches."""
    total = np.zeros((steps, *rows[0].shape[1:]))
    count = np.zeros(steps)
    for values in rows:
        total[steps - len(values) :] += values
        count[steps - len(values) :] += 1
    total[count == 0] = np.nan
    return total / np.maximum(count, 1).reshape(-1, *[1] * (total.ndim - 1))
