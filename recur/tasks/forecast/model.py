"""The forecaster in its run: what it is trained by, and how its forecasts are read."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.windows import Prepared, Shape, WindowBatch, lay_out
from recur.models.forecaster import Forecaster
from recur.tasks.training import Objective

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
# windows that are foretold at a time, and paths that are drawn of each
AT_ONCE = 1024
PATHS = 100


class ForecastObjective(Objective):
    """The loss of the network's forecasts; "recursive" reads the true values in training, its own in validation.

    Args:
        model: the network.
        targets: how many of the values that it foretells are asked for; it learns all, and is validated on these.
    """

    monitor = "loss"

    def __init__(self, model: Forecaster, targets: int | None = None) -> None:
        self.model: Forecaster = model
        self.targets = targets

    def measure(self, batch: WindowBatch) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss, and the mean squared error of scaled values, over the values that are there."""
        made = self.model(*inputs(self.model, batch), self._given(batch) if self.model.training else None)
        asked = None if self.model.training else self.targets
        made, target = made[:, :, :asked], batch.target[:, :, :asked]
        there = ~target.isnan()
        off = (self.model.point(made) - target)[there]
        return {"loss": self.model.loss(made, target), "mse": off.detach().square().mean()}, int(there.sum())

    def probe(self, batch: WindowBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return the first rows of a batch, and their loss."""
        few = WindowBatch(*(part[:rows] for part in batch))
        return (*inputs(self.model, few), self._given(few)), lambda made: self.model.loss(made, few.target)

    def _given(self, batch: WindowBatch) -> Tensor | None:
        if self.model.config.form != "recursive":
            return None
        # what is missing is read as the last value before, as it is in windows
        filled, before = [], batch.window[:, -1, : self.model.config.targets]
        for step in batch.target.unbind(1):
            before = torch.where(step.isnan(), before, step)
            filled.append(before)
        return torch.stack(filled, dim=1)


def inputs(model: Forecaster, batch: WindowBatch) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return what the network reads of a batch: window, and what else it has a use for."""
    config = model.config
    return (
        batch.window,
        batch.known if config.known else None,
        batch.static if config.static else None,
        batch.channel if config.channels else None,
    )


class Made(NamedTuple):
    """Forecasts of scaled values."""

    rows: Rows
    """The origins, [B]."""
    point: Floats
    """[B, H, C]."""
    quantiles: Floats | None
    """[B, H, C, Q], rising."""
    target: Floats
    """[B, H, C], NaN where missing."""


@torch.no_grad()
def foretell(
    model: Forecaster,
    data: Prepared,
    shape: Shape,
    rows: Rows,
    levels: tuple[float, ...] = (),
    *,
    ahead: bool = True,
    seen: Callable[[float], None] = lambda share: None,
) -> Iterator[Made]:
    """Yield the forecasts from origins, some at a time.

    Args:
        model: the network; it is set to evaluation.
        data: the series.
        shape: how windows are cut.
        rows: the origins, int64 [n].
        levels: quantiles to foretell; those of a recursive network are those of drawn paths.
        ahead: see `lay_out`.
        seen: told the share that is done.
    """
    model.eval()
    per = data.targets if shape.apart else 1
    config = model.config
    paths = bool(levels) and config.form == "recursive"
    size = max(1, AT_ONCE // per // (PATHS if paths else 1))
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        batch = lay_out(data, shape, some, ahead=ahead)
        arguments, quantiles = inputs(model, batch), None
        if paths:
            drawn = model.paths(*arguments, count=PATHS, generator=generator)
            quantiles = torch.quantile(drawn, drawn.new_tensor(levels), dim=0).movedim(0, -1)
            point = quantiles[..., levels.index(0.5)] if 0.5 in levels else drawn.mean(dim=0)
        else:
            made = model(*arguments)
            point = model.point(made)
            if levels:
                quantiles = model.quantiles(made, levels)
        yield Made(
            some,
            _whole(point, len(some), shape)[:, :, : data.targets],
            None if quantiles is None else _whole(quantiles, len(some), shape)[:, :, : data.targets],
            _whole(batch.target, len(some), shape)[:, :, : data.targets],
        )
        seen((start + len(some)) / len(rows))


def _whole(values: Tensor, count: int, shape: Shape) -> Floats:
    """Return [B, H, C, ..] of rows that have one channel each, or all."""
    if shape.apart:
        values = values.view(count, -1, *values.shape[1:])[:, :, :, 0].transpose(1, 2)
    array: Floats = values.contiguous().numpy()
    return array
