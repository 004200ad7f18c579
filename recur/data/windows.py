"""Windows of series: what a forecast is made from, and what it is to foretell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.batches import ByLength

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class WindowBatch(NamedTuple):
    """Some windows, laid out for a network; B is windows times channels where each channel is forecast by itself."""

    window: Tensor
    """What was seen, [B, L, D]: the values to forecast, other values, and where asked for whether each was missing."""
    known: Tensor
    """What is known in advance, [B, L + H, K]."""
    static: Tensor
    """[B, S]."""
    channel: Tensor
    """Numbers of the channels, int64 [B]."""
    target: Tensor
    """[B, H, C], NaN where missing; where forecasts are fed back all values, [B, H, V]."""
    origin: Tensor
    """Rows of the panel that the windows end with, int64 [B]."""


@dataclass(frozen=True)
class Prepared:
    """Series as a network reads them: scaled, and without gaps.

    Series lie one behind the other; every array has a row for each of their steps.
    """

    values: Floats
    """float32 [N, V], the targets first."""
    missing: NDArray[np.bool_]
    """bool [N, V]."""
    known: Floats
    """float32 [N, K]."""
    static: Floats
    """float32 [n, S]."""
    begins: Rows
    """The first row of each row's series, [N]."""
    ends: Rows
    """The row behind the last one of each row's series, [N]."""
    owners: Rows
    """The series of each row, [N]."""
    targets: int
    """How many of the values are forecast."""

    @property
    def observed(self) -> Floats:
        """The targets, NaN where missing, [N, targets]."""
        return np.where(self.missing[:, : self.targets], np.nan, self.values[:, : self.targets]).astype(np.float32)


@dataclass(frozen=True)
class Shape:
    """How windows are cut.

    Args:
        window: L, steps that are seen.
        horizon: H, steps that are foretold.
        apart: each channel by itself, as a row of its own.
        flags: whether a value was missing is an input of its own.
        fed: not the targets alone are foretold but all values, for a network that reads its own forecasts.
    """

    window: int
    horizon: int
    apart: bool = True
    flags: bool = False
    fed: bool = False


def origins(data: Prepared, shape: Shape, first: NDArray[np.bool_], last: NDArray[np.bool_], every: int = 1) -> Rows:
    """Return the rows that windows end with, int64 [n]: a whole window before, and a target in the horizon after it.

    Args:
        data: the series.
        shape: how windows are cut.
        first: where the first step of a horizon may lie, bool [N].
        last: where its last step may lie, bool [N].
        every: take each so-many-th of a series; series begin one later than the one before, so that together they
            have all phases of a season.
    """
    rows = np.arange(len(data.values))
    if len(rows) <= shape.horizon:
        return rows[:0]
    rows = rows[: -shape.horizon]
    whole = (rows - data.begins[: len(rows)] >= shape.window - 1) & (rows + shape.horizon < data.ends[: len(rows)])
    rows = rows[whole]
    rows = rows[first[rows + 1] & last[rows + shape.horizon]]
    seen = np.append(0, np.cumsum((~data.missing[:, : data.targets]).any(axis=1)))
    rows = rows[seen[rows + shape.horizon + 1] > seen[rows + 1]]
    if every > 1 and len(rows):
        owners = data.owners[rows]
        starts = np.flatnonzero(np.append(True, np.diff(owners) > 0))
        place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
        rows = rows[(place + owners) % every == 0]
    return rows


def lay_out(data: Prepared, shape: Shape, rows: Rows, *, ahead: bool = True) -> WindowBatch:
    """Lay windows out for a network.

    Steps before the begin of a series are 0 and count as missing.

    Args:
        data: the series.
        shape: how windows are cut.
        rows: the windows' last steps, int64 [n].
        ahead: False where the series end there: nothing is known of the horizon.
    """
    index = rows[:, None] + np.arange(1 - shape.window, 1)
    before = index < data.begins[rows][:, None]
    index = np.maximum(index, 0)
    values, missing = data.values[index], data.missing[index]
    if before.any():
        values, missing = np.where(before[..., None], 0, values), missing | before[..., None]
    further = np.minimum(rows[:, None] + np.arange(1 - shape.window, shape.horizon + 1), len(data.values) - 1)
    known = data.known[np.maximum(further, 0)]
    foretold = data.values.shape[1] if shape.fed else data.targets
    if ahead:
        coming = rows[:, None] + np.arange(1, shape.horizon + 1)
        target = np.where(data.missing[coming, :foretold], np.nan, data.values[coming, :foretold]).astype(np.float32)
    else:
        target = np.full((len(rows), shape.horizon, foretold), np.nan, np.float32)
    static, channel = data.static[data.owners[rows]], np.zeros(len(rows), np.int64)
    if shape.apart:
        values, missing = _apart(values, data.targets), _apart(missing, data.targets)
        target = target.transpose(0, 2, 1).reshape(-1, shape.horizon, 1)
        channel = np.tile(np.arange(data.targets), len(rows))
        known, static, rows = (np.repeat(part, data.targets, axis=0) for part in (known, static, rows))
    inputs = np.concatenate([values, missing], axis=2, dtype=np.float32) if shape.flags else values
    arrays: Sequence[NDArray[np.generic]] = (inputs.astype(np.float32), known, static, channel, target, rows)
    return WindowBatch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def _apart(values: NDArray[np.generic], targets: int) -> NDArray[np.generic]:
    """Turn [n, L, V] into a row for each target, [n * targets, L, 1 + others], the others being no targets."""
    count, steps, width = values.shape
    own = values[..., :targets].transpose(0, 2, 1)[..., None]
    others = np.broadcast_to(values[:, None, :, targets:], (count, targets, steps, width - targets))
    return np.concatenate([own, others], axis=3).reshape(count * targets, steps, 1 + width - targets)


class WindowBatches(ByLength):
    """Batches of windows, in the order of `ByLength`; yields a `WindowBatch`.

    Args:
        data: the series.
        shape: how windows are cut.
        rows: the windows' last steps, int64 [n].
        batch_size: windows of a batch, each with all of its channels.
        seed, shuffle: see `ByLength`.
    """

    def __init__(
        self, data: Prepared, shape: Shape, rows: Rows, batch_size: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        super().__init__((), np.zeros(len(rows), np.int64), batch_size, seed, shuffle, 50)
        self.data, self.shape, self.rows = data, shape, rows

    def _batch(self, rows: Rows) -> WindowBatch:
        return lay_out(self.data, self.shape, self.rows[rows])
