"""Networks and simple forecasts on the same origins."""

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from recur.models.forecaster import Forecaster
from recur.tasks.forecast.baselines import Rival, past
from recur.tasks.forecast.data import History
from recur.tasks.forecast.model import foretell
from recur.tasks.forecast.scores import Errors, Scale, Shown

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
CHUNK = 512
# steps of the past in a picture, for each step of the horizon
PAST = 2


def network_errors(
    model: Forecaster,
    history: History,
    rows: Rows,
    levels: tuple[float, ...],
    seen: Callable[[float], None] = lambda share: None,
) -> Errors:
    """Return the errors of a network's forecasts from the origins `rows` [n]."""
    data, errors = history.prepared, _empty(history)
    for made in foretell(model, data, history.shape, rows, levels, seen=seen):
        interval = None if made.quantiles is None else (made.quantiles[..., 0], made.quantiles[..., -1])
        last = data.values[made.rows, : data.targets]
        errors.add(history.panel.ticks[made.rows], data.owners[made.rows], made.point, made.target, last, interval)
    return errors


def simple_errors(rivals: Iterable[Rival], history: History, rows: Rows) -> dict[str, tuple[Errors, float]]:
    """Return the errors of simple forecasts from the same origins, and the seconds that each took, by name."""
    found = {}
    data, observed = history.prepared, history.prepared.observed
    ahead = np.arange(1, history.shape.horizon + 1)
    for rival in rivals:
        start, errors = time.monotonic(), _empty(history)
        for some in np.array_split(rows, max(1, len(rows) // CHUNK)):
            target = observed[some[:, None] + ahead]
            last = data.values[some, : data.targets]
            errors.add(history.panel.ticks[some], data.owners[some], rival.forecast(some), target, last)
        found[rival.name] = errors, time.monotonic() - start
    return found


def _empty(history: History) -> Errors:
    return Errors(history.shape.horizon, history.targets, len(history.panel))


def scale_of(history: History, levels: tuple[float, ...]) -> Scale:
    """Return what scores are reckoned by."""
    _, deviations = history.scaler.of_series(history.panel, history.targets)
    return Scale(history.target_names, deviations, history.changes, levels)


def pictures(
    model: Forecaster,
    history: History,
    rows: Rows,
    levels: tuple[float, ...],
    errors: Errors,
    rivals: Mapping[str, Rival],
    most: int,
) -> list[Shown]:
    """Return the last forecasts of the test part, in their own units.

    Of more than `most` series and columns those with the smallest, the middle and the largest errors are taken.

    Args:
        model: the network.
        history: the series.
        rows: origins in the test part.
        levels: quantiles of the network.
        errors: of the network, by which the series are sorted.
        rivals: simple forecasts, "naive" among them.
        most: pictures.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        off = errors.by_unit[1] / errors.by_unit[2]
        mase = off / history.changes
    rank = np.where(np.isfinite(mase), mase, off)
    units = [unit for unit in np.ndindex(*rank.shape) if np.isfinite(rank[unit])]
    if len(units) > most:
        order, third = sorted(units, key=lambda unit: rank[unit]), most // 3
        count = most - 2 * third
        middle = (len(order) - count) // 2
        units = [*order[:third], *order[middle : middle + count], *order[len(order) - third :]]
    data, panel, shape = history.prepared, history.panel, history.shape
    shown = []
    for series, column in units:
        own = rows[data.owners[rows] == series][-1:]
        (made,) = foretell(model, data, shape, own, levels)
        means, deviations = (float(part[series, column]) for part in history.scaler.of_series(panel, data.targets))

        def back(values: Floats, mean: float = means, deviation: float = deviations) -> Floats:
            return values * deviation + mean

        before = past(data, max(PAST * shape.horizon, min(shape.window, 100)), own)[0, :, column]
        simple = {name: back(rival.forecast(own)[0, :, column]) for name, rival in rivals.items()}
        bounds = (None, None)
        if made.quantiles is not None:
            bounds = tuple(back(made.quantiles[0, :, column, end]) for end in (0, -1))  # type: ignore[assignment]
        name = ", ".join(filter(None, [panel.names[series], history.target_names[column]]))
        shown.append(
            Shown(
                name,
                float(rank[series, column]),
                back(before),
                back(made.target[0, :, column]),
                back(made.point[0, :, column]),
                simple.pop("naive"),
                simple,
                *bounds,
                panel.clock.text(int(panel.ticks[own[0]])),
            )
        )
    return shown
