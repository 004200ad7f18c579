"""From tables to scaled series, cut in time: whatever is learned of them is learned before the cut."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recur.data.series import Panel, SeriesColumns, choose_columns, read_panel
from recur.data.windows import Prepared, Shape, origins
from recur.errors import InputError, nearest
from recur.tasks.forecast.options import ForecastOptions
from recur.tasks.forecast.scaling import Scaler, changes

Floats = NDArray[np.float32]
# steps of training below which a note says that they are few
FEW_STEPS = 200
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class History:
    """Series of a run, and where they are cut in time."""

    panel: Panel
    columns: SeriesColumns
    """`values` with the targets first."""
    calendar: tuple[str, ...]
    targets: int
    cuts: tuple[int, int, int]
    """First time of the validation part, of the test part, and behind it."""
    scaler: Scaler
    prepared: Prepared
    shape: Shape
    season: int
    changes: Floats
    """Mean absolute seasonal changes of scaled values before the first cut, [n, C]; NaN of none."""
    notes: list[str] = field(default_factory=list)

    def within(self, part: str) -> NDArray[np.bool_]:
        """Return which rows are of a part, bool [N]."""
        return within(self.panel.ticks, self.cuts, part)

    def origins(self, part: str, every: int = 1) -> NDArray[np.int64]:
        """Return the rows that windows end with whose horizon lies in a part, and in it alone."""
        inside = self.within(part)
        return origins(self.prepared, self.shape, inside, inside, every)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the columns that are foretold."""
        return self.columns.values[: self.targets]


def within(ticks: NDArray[np.int64], cuts: tuple[int, int, int], part: str) -> NDArray[np.bool_]:
    """Return which times are of a part, bool [N]."""
    validation, test, end = cuts
    low, high = {"train": (None, validation), "validation": (validation, test), "test": (test, end)}[part]
    return (ticks < high) & (ticks >= low if low is not None else True)


def read_history(options: ForecastOptions) -> History:
    """Read the tables and cut them in time.

    Raises:
        InputError: a file, a column, a cell or a time that is not right, or a part that is too short.
    """
    columns = ordered(
        choose_columns(options.train, options.time, options.values, options.series, options.known, options.static),
        options.target,
    )
    targets = len(options.target) or len(columns.values)
    files = [path for path in (options.train, options.validation, options.test) if path]
    panel = read_panel(files, columns, options.uneven)
    calendar: tuple[str, ...] = options.calendar
    if calendar == ("auto",):
        calendar = panel.clock.calendar
    panel = panel.with_calendar(calendar)
    cuts = _cuts(panel, options)
    panel = _with_past(panel, cuts, targets)
    learned = within(panel.ticks, cuts, "train")
    scaler = Scaler.fit(panel, learned)
    prepared = scaler.prepare(panel, targets)
    season = options.season or panel.clock.season or _period(prepared, learned)
    # what a recursive network reads in the horizon, it has to foretell
    fed = options.form == "recursive" and targets < len(columns.values)
    shape = Shape(
        _window(options, int(np.unique(panel.ticks[learned]).size), season),
        options.horizon,
        apart=not options.together and not fed,
        fed=fed,
        flags=bool(prepared.missing[learned].any()),
    )
    history = History(
        panel,
        columns,
        calendar,
        targets,
        cuts,
        scaler,
        prepared,
        shape,
        season,
        changes(prepared, season, len(panel), learned),
        list(panel.notes),
    )
    _check_parts(history, options)
    history.notes.extend(_data_notes(history, options))
    return history


def ordered(columns: SeriesColumns, target: Sequence[str]) -> SeriesColumns:
    """Bring the targets to the front of the values.

    Raises:
        InputError: a target that is no value.
    """
    for name in target:
        if name not in columns.values:
            raise InputError(
                f"--target {name!r} must be one of the values that are read, {', '.join(columns.values)}"
                f"{nearest(name, list(columns.values))}"
            )
    values = (*target, *(name for name in columns.values if name not in target))
    return SeriesColumns(columns.time, values, columns.series, columns.known, columns.static)


def _cuts(panel: Panel, options: ForecastOptions) -> tuple[int, int, int]:
    """Return the first times of validation part and test part, and the one behind them."""
    times = np.unique(panel.ticks)
    end = int(times[-1]) + 1
    if options.split:
        whole = sum(options.split)
        if whole > len(times):
            raise InputError(
                f"--split {','.join(map(str, options.split))} needs {whole:,} times, {options.train} has {len(times):,}"
            )
        ends = np.append(times, end)[np.cumsum(options.split)]
        return int(ends[0]), int(ends[1]), int(ends[2])
    starts = list(panel.starts)
    test = starts.pop() if options.test else int(times[-max(1, round(len(times) * options.test_share))])
    left = times[times < test]
    if options.validation:
        validation = starts.pop()
    else:
        # the share is one of all times, where all are in one file
        count = max(1, round((len(left) if options.test else len(times)) * options.validation_share))
        validation = int(left[-count]) if len(left) >= count else test
    return validation, test, end


def _with_past(panel: Panel, cuts: tuple[int, int, int], targets: int) -> Panel:
    """Leave out series without a value in the training part: there is nothing to scale them by."""
    there = within(panel.ticks, cuts, "train") & ~np.isnan(panel.values[:, :targets]).all(axis=1)
    keep = np.zeros(len(panel), dtype=bool)
    keep[panel.owners[there]] = True
    if keep.all() or not keep.any():
        return panel
    unseen = [panel.names[i] for i in np.flatnonzero(~keep)[:3]]
    note = (
        f"{int((~keep).sum()):,} of {len(keep):,} series, such as {', '.join(unseen)}, have no values in the training "
        "part and are left out"
    )
    return panel.only(keep, note)


def _window(options: ForecastOptions, times: int, season: int) -> int:
    if options.window is not None:
        return options.window
    window = max(1, min(max(24, 4 * options.horizon), times // 4))
    # segments of the same phase of the season, and a divisor of it to cut them by
    whole = options.segment or (season if season <= window else 1)
    return max(1, window // whole) * whole


def _check_parts(history: History, options: ForecastOptions) -> None:
    shape = history.shape
    for part in PARTS:
        if len(history.origins(part)):
            continue
        steps = int(np.unique(history.panel.ticks[history.within(part)]).size)
        needed = shape.horizon + (shape.window if part == "train" else 0)
        what = (
            f"--window {shape.window} and --horizon {shape.horizon}"
            if part == "train"
            else (f"--horizon {shape.horizon} behind a window of {shape.window}")
        )
        raise InputError(
            f"the {part} part must have room for a forecast, {needed:,} steps for {what}, with values to foretell, got "
            f"{steps:,} steps; lower --horizon or --window, or cut otherwise with --split or the shares"
        )


def _data_notes(history: History, options: ForecastOptions) -> list[str]:
    prepared, panel = history.prepared, history.panel
    notes = []
    stride = options.stride
    if stride > 1 and stride % history.season == 0 and history.season > 1 and len(panel) == 1:
        notes.append(
            f"--stride {stride} is a multiple of the season of {history.season} steps: all windows begin in the same "
            f"phase of it; --stride {stride - 1} has them all"
        )
    if history.shape.fed:
        others = ", ".join(history.columns.values[history.targets :])
        notes.append(f"--form recursive reads its own forecasts: it foretells {others} too, which are not scored")
    if share := float(prepared.missing[:, : history.targets].mean()):
        notes.append(
            f"{share:.1%} of the values are missing: as input the last one before is carried on and marked, as "
            "something to foretell they do not count"
        )
    batches = -(-len(history.origins("train", stride)) // options.batch_size)
    each = options.epoch_steps or batches
    if each * options.epochs < FEW_STEPS:
        notes.append(
            f"{options.epochs} epochs of {each} steps are little for a network to learn from; try --epochs "
            f"{-(-FEW_STEPS // each)}"
        )
    later = panel.ticks >= history.cuts[2]
    if later.any():
        notes.append(f"{len(np.unique(panel.ticks[later])):,} times behind the test part of --split are left out")
    return notes


def _period(prepared: Prepared, learned: NDArray[np.bool_]) -> int:
    """Return the lag at which changes of the first series are most alike, 1 where none is alike enough."""
    rows = np.flatnonzero(learned & (prepared.owners == 0))
    changes = np.diff(prepared.values[rows, 0].astype(np.float64))
    size = len(changes)
    if size < 8 or not changes.std():
        return 1
    changes = changes - changes.mean()
    spectrum = np.abs(np.fft.rfft(changes, 2 * size)) ** 2
    alike = np.fft.irfft(spectrum)[: min(size // 3, 400)]
    alike /= alike[0]
    lags = [lag for lag in range(2, len(alike) - 1) if alike[lag] == max(alike[lag - 1 : lag + 2])]
    best = max(lags, key=lambda lag: alike[lag], default=1)
    return best if best > 1 and alike[best] > 0.3 else 1
