"""The Jacobians of one row's steps, made when they are asked for, and means over rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recur.flow.linear import Slopes
from recur.flow.result import Array
from recur.flow.runs import EquationRun, Run

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
        self._keeps = self.steps * self.size**2 * 8 <= KEPT
        self._back = EquationBack(run, row) if isinstance(run, EquationRun) and run.linear is not None else None

    def __call__(self, start: int, stop: int) -> Tensor:
        """Return those of the steps from `start` to `stop`, [stop - start, n, n], of use until the next call."""
        if not self._keeps:
            return self._make(start, stop)
        if not len(self._room):
            self._make(0, self.steps)
        return self._room[start:stop]

    def back(self, rows: Tensor, step: int) -> Tensor:
        """Return float32 rows [r, n] times that of a step."""
        if self._back is None:
            return rows @ self(step, step + 1)[0].float()
        return self._back(rows, step)

    def _make(self, start: int, stop: int) -> Tensor:
        if len(self._room) < stop - start:
            self._room = self._room.new_empty(stop - start, self.size, self.size)
        size = max(1, MADE // (self.size**2 * 8))
        for at in range(start, stop, size):
            self._run.jacobian(self._row, at, self._room[at - start : min(at + size, stop) - start])
        return self._room[: stop - start]


class EquationBack:
    """Rows times a step's Jacobian, by the slopes of the cell's equation.

    Args:
        run: of an equation that is linear in the gradients.
        row: which row of it.
    """

    def __init__(self, run: EquationRun, row: int) -> None:
        assert run.linear is not None
        self._run, self._row, self._linear = run, row, run.linear
        self._sizes = {name: value.shape[1] for name, value in run.initial.items()}
        self._stacked = {argument: matrix.float() for argument, matrix in run.stacked().items()}
        self._start, self._stop, self._slopes = 0, 0, Slopes({}, {}, {})

    def __call__(self, rows: Tensor, step: int) -> Tensor:
        """Return rows [r, n] times ds_t/ds_{t-1}."""
        if self._run.fresh is not None and self._run.fresh[step, self._row]:
            return torch.zeros_like(rows)
        products, before, _ = self._at(step)
        at = step - self._start
        parts = dict(zip(self._sizes, torch.split(rows, list(self._sizes.values()), 1), strict=True))
        known = {self._linear.seeds[name]: part for name, part in parts.items()}
        result: dict[str, Tensor] = {}
        for argument in self._linear.arguments:
            gradient: Tensor | None = None
            for leaf, slope in products[argument].items():
                met = known[leaf].unsqueeze(1)
                gradient = met * slope[at] if gradient is None else gradient.addcmul_(met, slope[at])
            if gradient is None:
                continue
            pushed = gradient.flatten(1) @ self._stacked[argument]
            if argument.op == "state":
                result[argument.name] = pushed
            else:
                known[self._linear.leaves[argument]] = pushed
        for name, part in parts.items():
            total = result.setdefault(name, torch.zeros_like(part))
            for leaf, slope in before[name].items():
                total.addcmul_(known[leaf], slope[at])
        return torch.cat([result[name] for name in parts], 1)

    def _at(self, step: int) -> Slopes:
        """The slopes of the chunk of steps that holds this one, float32."""
        if not self._start <= step < self._stop:
            self._start, self._stop = next(chunk for chunk in self._run.chunks(1) if chunk[0] <= step < chunk[1])
            slopes = self._linear.slopes(self._run.values(self._start, self._stop, self._row))
            for part in slopes:
                for by_leaf in part.values():
                    by_leaf.update({leaf: slope.float() for leaf, slope in by_leaf.items()})
            self._slopes = slopes
        return self._slopes


def average(rows: Sequence[Array], steps: int) -> Array:
    """Return the mean of several rows' [n, ...], aligned at their last steps, as [T, ...]; NaN where none reaches."""
    total = np.zeros((steps, *rows[0].shape[1:]))
    count = np.zeros(steps)
    for values in rows:
        total[steps - len(values) :] += values
        count[steps - len(values) :] += 1
    total[count == 0] = np.nan
    return total / np.maximum(count, 1).reshape(-1, *[1] * (total.ndim - 1))
