"""How far forecasts are off: by horizon, by origin, by column, beside the naive one, and whether they copy it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.tasks.figures import mean_interval, pearson

Floats = NDArray[np.floating[Any]]
LEAST_BLOCKS = 5
MOST_BLOCKS = 30
# a forecast of one step that gains less on the last value than this, and goes with it closer than that, is a copy
COPY_SKILL = 0.05
COPY_CORRELATION = 0.95


class Errors:
    """Sums of errors of scaled values, taken in batch by batch.

    Args:
        horizon: H.
        columns: C.
        series: n.
    """

    def __init__(self, horizon: int, columns: int, series: int) -> None:
        self.by_step = np.zeros((3, horizon))
        """Sums of squares, of absolute errors, and how many, [3, H]."""
        self.by_unit = np.zeros((3, series, columns))
        self.inside = np.zeros((2, horizon))
        """How many values lie within the interval, and its summed widths."""
        self._origins: list[tuple[NDArray[np.int64], Floats, NDArray[np.int64]]] = []
        self._first: list[Floats] = []

    def add(
        self,
        ticks: NDArray[np.int64],
        owners: NDArray[np.int64],
        point: Floats,
        target: Floats,
        last: Floats,
        interval: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Take in forecasts of scaled values.

        Args:
            ticks: times of the origins, [B].
            owners: their series, [B].
            point: [B, H, C].
            target: [B, H, C], NaN where missing.
            last: the last values before, [B, C].
            interval: lowest and highest quantile, [B, H, C] each.
        """
        there = ~np.isnan(target)
        off = np.where(there, point - target, 0).astype(np.float64)
        for number, part in enumerate((off**2, np.abs(off), there.astype(np.float64))):
            self.by_step[number] += part.sum(axis=(0, 2))
            np.add.at(self.by_unit[number], owners, part.sum(axis=1))
        self._origins.append((ticks, (off**2).sum(axis=(1, 2)), there.sum(axis=(1, 2))))
        self._first.append(np.stack([point[:, 0], target[:, 0], last])[:, there[:, 0]])
        if interval is not None:
            low, high = interval
            self.inside[0] += (there & (low <= target) & (target <= high)).sum(axis=(0, 2))
            self.inside[1] += np.where(there, high - low, 0).sum(axis=(0, 2))

    @property
    def count(self) -> float:
        """How many values were foretold."""
        return float(self.by_step[2].sum())

    @property
    def mse(self) -> float:
        """Mean of the squares."""
        return float(self.by_step[0].sum()) / self.count

    @property
    def mae(self) -> float:
        """Mean of the absolute errors."""
        return float(self.by_step[1].sum()) / self.count

    def steps(self) -> Floats:
        """Return the mean squared error at each step of the horizon, [H]."""
        means: Floats = self.by_step[0] / np.maximum(self.by_step[2], 1)
        return means

    def origins(self) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Return times of origins, rising, the sums of squares from each, and how many values."""
        times, place = np.unique(np.concatenate([ticks for ticks, _, _ in self._origins]), return_inverse=True)
        squares, counts = (np.concatenate([part[number] for part in self._origins]) for number in (1, 2))
        by_time = (np.bincount(place, part, len(times)).astype(np.float64) for part in (squares, counts))
        sums_of, counts_of = by_time
        return times.astype(np.int64), sums_of, counts_of

    def first(self) -> Floats:
        """Return forecasts of the first step, what came, and the last value before, [3, n]."""
        return np.concatenate(self._first, axis=1)

    def interval(self, other: "Errors | None" = None) -> tuple[float, float] | None:
        """Return the 95% interval of the mean squared error, or of how much larger that of `other` is.

        Neighbouring origins foretell the same steps; so blocks of origins as long as the horizon are counted as one
        (Student's t of their means). None where there are fewer than five.
        """
        _, squares, counts = self.origins()
        if other is not None:
            squares = other.origins()[1] - squares
        size = max(len(self.by_step[0]), math.ceil(len(squares) / MOST_BLOCKS))
        starts = np.arange(0, len(squares) - size + 1, size)
        if len(starts) < LEAST_BLOCKS:
            return None
        sums = (np.add.reduceat(part[: len(starts) * size], starts) for part in (squares, counts))
        squares_of, counts_of = sums
        _, half = mean_interval((squares_of / np.maximum(counts_of, 1)).tolist())
        middle = float(squares.sum() / counts.sum())
        return middle - half, middle + half


@dataclass(frozen=True)
class Coverage:
    """How many values lie within a prediction interval."""

    nominal: float
    """How many should, 0..1."""
    found: float
    """How many do."""
    width: float
    """Mean width of the interval, of scaled values."""


@dataclass(frozen=True)
class Column:
    """Errors of one column."""

    mse: float
    """Of scaled values."""
    mae: float
    """Of scaled values."""
    root_mean_square: float
    """In the column's own unit."""
    mean_absolute: float
    """In the column's own unit."""


@dataclass(frozen=True)
class Scores:
    """What forecasts are worth."""

    mse: float
    """Mean squared error of scaled values: z-scored by the training part."""
    interval: tuple[float, float] | None
    """95% interval of it, from blocks of origins; None of few."""
    mae: float
    """Mean absolute error of scaled values."""
    mase: float | None
    """Mean absolute error over that of the seasonal naive forecast one step ahead in the training part."""
    skill: float
    """1 - MSE / MSE of the naive forecast: 0 is no better than the last value."""
    gain: tuple[float, float] | None
    """95% interval of the MSE of the naive forecast minus that of the network; None of few origins."""
    beats_naive: bool
    """Whether it is better than both naive forecasts."""
    clearly: bool
    """Whether that holds for the whole interval, where there is one."""
    copies: bool
    """Whether the forecast of one step is a copy of the last value."""
    coverage: Coverage | None
    """Of the prediction interval, if there is one."""
    columns: dict[str, Column]
    windows: int
    values: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """What scores are reckoned by.

    Args:
        columns: names of what is foretold.
        deviations: of each series and column, [n, C].
        changes: mean absolute seasonal changes before the first cut, of scaled values, [n, C]; NaN if there are none.
        levels: quantiles, lowest to highest.
    """

    columns: Sequence[str]
    deviations: Floats
    changes: Floats
    levels: tuple[float, ...] = ()


def score(errors: Errors, naive: dict[str, Errors], scale: Scale) -> Scores:
    """Return what forecasts are worth.

    Args:
        errors: of the forecasts.
        naive: of "naive" and, where there is a season, of "seasonal naive", on the same origins.
        scale: what errors are reckoned by.
    """
    simple, copied = naive["naive"], copies(errors)
    unclear = _naive_notes(errors, naive)
    notes = [*unclear, *([copied] if copied else [])]
    coverage = None
    if scale.levels and errors.inside[1].sum():
        nominal = scale.levels[-1] - scale.levels[0]
        coverage = Coverage(nominal, *(float(part.sum()) / errors.count for part in errors.inside))
        if abs(coverage.found - nominal) > 0.1:
            notes.append(
                f"the {nominal:.0%} interval holds {coverage.found:.1%} of the values that it was not fitted to; do "
                "not take it at its word"
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        mase = errors.by_unit[1] / errors.by_unit[2] / scale.changes
    usable = mase[np.isfinite(mase)]
    return Scores(
        mse=errors.mse,
        interval=errors.interval(),
        mae=errors.mae,
        mase=float(usable.mean()) if len(usable) else None,
        skill=1 - errors.mse / simple.mse if simple.mse else 0.0,
        gain=errors.interval(simple),
        beats_naive=all(errors.mse < other.mse for other in naive.values()),
        clearly=not unclear,
        copies=copied is not None,
        coverage=coverage,
        columns={name: _column(errors, number, scale) for number, name in enumerate(scale.columns)},
        windows=sum(len(part[0]) for part in errors._origins),
        values=round(errors.count),
        notes=tuple(notes),
    )


def copies(errors: Errors) -> str | None:
    """Say that forecasts of one step are copies of the last value, if they are.

    They are where they are correlated with the last value by at least 0.95, closer than with what came, and their mean
    squared error is less than 5% below that of the last value.
    """
    made, came, last = errors.first()
    simple = float(((last - came) ** 2).mean()) if len(last) else 0.0
    with_last, with_truth = pearson(made, last), pearson(made, came)
    if not simple or with_last is None or with_truth is None:
        return None
    skill = 1 - float(((made - came) ** 2).mean()) / simple
    if skill > COPY_SKILL or with_last < COPY_CORRELATION or with_last <= with_truth:
        return None
    side = "below" if skill > 0 else "above"
    return (
        f"the forecast of the next step is a copy of the last value: its correlation with that is {with_last:.3f}, "
        f"with what came {with_truth:.3f}, and its squared error is {abs(skill):.1%} {side} that of repeating it"
    )


def _naive_notes(errors: Errors, naive: dict[str, Errors]) -> list[str]:
    name, other = min(naive.items(), key=lambda pair: pair[1].mse)
    reached = f"MSE {show(errors.mse)} against {show(other.mse)}"
    if errors.mse >= other.mse:
        return [f"the network does not beat the {name} forecast: {reached}"]
    gain = errors.interval(other)
    if gain is None or gain[0] > 0:
        return []
    around = f"a difference whose 95% interval is {gain[0]:.2g} to {gain[1]:.2g}"
    return [f"the network is not clearly better than the {name} forecast: {reached}, {around}"]


def show(value: float) -> str:
    """Return an error as text, with four decimals or, of a small one, four digits."""
    return f"{value:.4f}" if value >= 0.1 else f"{value:.4g}"


def _column(errors: Errors, number: int, scale: Scale) -> Column:
    squares, absolute, counts = errors.by_unit[:, :, number]
    deviations = scale.deviations[:, number].astype(np.float64)
    count = max(counts.sum(), 1)
    return Column(
        mse=float(squares.sum() / count),
        mae=float(absolute.sum() / count),
        root_mean_square=math.sqrt(float((squares * deviations**2).sum() / count)),
        mean_absolute=float((absolute * deviations).sum() / count),
    )


@dataclass(frozen=True)
class Shown:
    """One series of the test part as the report draws it, in its own unit."""

    name: str
    error: float
    """MASE, or where there is none MAE of scaled values."""
    past: Floats
    """Values before the origin, [T]."""
    truth: Floats
    """[H], NaN where missing."""
    point: Floats
    """[H]."""
    naive: Floats
    """[H]."""
    rest: dict[str, Floats] = field(default_factory=dict)
    """Other baselines, [H] each."""
    low: Floats | None = None
    """[H]."""
    high: Floats | None = None
    """[H]."""
    origin: str = ""
    """Time of the last value before."""
