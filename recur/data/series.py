"""Many series of numbers by time, from tables with a column for each or with a column that names them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recur.data.numbers import Floats, numeric_columns, place_of, to_numbers
from recur.data.tables import column_names, read_table
from recur.data.times import Clock, Ticks, Unit, calendar_features, parse_times, weekdays_only
from recur.errors import InputError, nearest

Uneven = Literal["error", "fill", "rows"]


@dataclass(frozen=True)
class SeriesColumns:
    """Which columns of a table are what.

    Args:
        time: of the times.
        values: of the numbers.
        series: that names the series; None for one series of all rows.
        known: of numbers that are known in advance.
        static: of numbers or names that are the same in all rows of a series.
    """

    time: str
    values: tuple[str, ...]
    series: str | None = None
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """All of them."""
        return [self.time, *([self.series] if self.series else []), *self.values, *self.known, *self.static]


@dataclass(frozen=True)
class Panel:
    """Series one behind the other, rows of each in the order of time.

    Row r of series i is in offsets[i] <= r < offsets[i + 1].
    """

    names: list[str]
    """Of the series, [n]; one empty name where no column names them."""
    offsets: NDArray[np.int64]
    """int64 [n + 1]."""
    ticks: Ticks
    """Times, int64 [N]."""
    values: Floats
    """float32 [N, C], NaN where missing."""
    known: Floats
    """float32 [N, K], NaN where missing."""
    static: list[tuple[str, ...]]
    """Texts of each series, [n][S]."""
    clock: Clock
    starts: tuple[int, ...] = ()
    """The first time of each file."""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def begins(self) -> NDArray[np.int64]:
        """The first row of each row's series, [N]."""
        return np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @property
    def ends(self) -> NDArray[np.int64]:
        """The row behind the last one of each row's series, [N]."""
        return np.repeat(self.offsets[1:], np.diff(self.offsets))

    @property
    def owners(self) -> NDArray[np.int64]:
        """The series of each row, [N]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def only(self, keep: NDArray[np.bool_], note: str) -> "Panel":
        """Return some of the series, bool [n], and say why in a note."""
        rows = keep[self.owners]
        return replace(
            self,
            names=[name for name, kept in zip(self.names, keep, strict=True) if kept],
            offsets=np.append(0, np.cumsum(np.diff(self.offsets)[keep])).astype(np.int64),
            ticks=self.ticks[rows],
            values=self.values[rows],
            known=self.known[rows],
            static=[own for own, kept in zip(self.static, keep, strict=True) if kept],
            notes=[*self.notes, note],
        )

    def with_calendar(self, names: Sequence[str]) -> "Panel":
        """Return the panel with what the calendar says as known columns behind the others."""
        added = calendar_features(self.ticks, self.clock, names)
        return replace(self, known=np.concatenate([self.known, added], axis=1))


def choose_columns(
    path: str | Path,
    time: str | None,
    values: Sequence[str],
    series: str | None,
    known: Sequence[str],
    static: Sequence[str],
) -> SeriesColumns:
    """Say which columns of a table are what, from what was asked for.

    Without `time` the first column is taken, without `values` all others in whose first 200 rows are numbers only.

    Raises:
        InputError: a column that is not there or is asked for twice, or no numbers.
    """
    names = column_names(path)
    chosen = time or (names[0] if names else "")
    taken = [chosen, *([series] if series else []), *known, *static]
    for name in [*taken, *values]:
        if [*taken, *values].count(name) > 1:
            raise InputError(f"the column {name!r} is asked for twice; leave it out of one of the options")
        if name not in names:
            raise InputError(f"{path}: there is no column {name!r}{nearest(name, names)}; it has {', '.join(names)}")
    found = tuple(values) or tuple(numeric_columns(path, [name for name in names if name not in taken]))
    return SeriesColumns(chosen, found, series, tuple(known), tuple(static))


def read_panel(paths: Sequence[str | Path], columns: SeriesColumns, uneven: Uneven = "error") -> Panel:
    """Read tables, each going on in time where the one before ends.

    Rows are brought into the order of time. A cell that is empty, or NA, NaN, null, none or ?, is a missing value.

    Args:
        paths: the tables.
        columns: what is read.
        uneven: what is done about times that are not all one step apart, the step being the most frequent distance:
            "error"; "fill" makes a grid of steps, whose cells are means of the rows in them, or missing; "rows" takes
            each row as a step.

    Raises:
        InputError: a cell that is no number or no time, two rows of one time, uneven times, or a file that does not go
            on where the one before ends.
    """
    parts = [_read(path, columns) for path in paths]
    units = {part.unit for part in parts}
    if units == {"month", "second"}:
        parts = [part.in_seconds() for part in parts]
    elif len(units) > 1:
        raise InputError(f"{paths[-1]} must have times like those of {paths[0]}, got {' and '.join(sorted(units))}s")
    for before, after, path in zip(parts, parts[1:], paths[1:], strict=False):
        if after.ticks.min() <= before.ticks.max():
            raise InputError(
                f"{path} must begin after the last time of the file before it, "
                f"{Clock(before.unit, 1).text(int(before.ticks.max()))}, "
                f"but begins at {Clock(after.unit, 1).text(int(after.ticks.min()))}"
            )
    panel = _arranged(_joined(parts), ", ".join(map(str, paths)), uneven)
    return replace(panel, starts=tuple(int(part.ticks.min()) for part in parts))


@dataclass(frozen=True)
class _Part:
    """Rows as they stand in a file."""

    ticks: Ticks
    unit: Unit
    series: list[str]
    values: Floats
    known: Floats
    static: dict[str, tuple[str, ...]]

    def in_seconds(self) -> "_Part":
        if self.unit != "month":
            return self
        seconds = self.ticks.astype("datetime64[M]").astype("datetime64[s]").astype(np.int64)
        return replace(self, ticks=seconds, unit="second")


def _read(path: str | Path, columns: SeriesColumns) -> _Part:
    table = read_table(path, list(dict.fromkeys(columns.all)), blank=True)
    cells: dict[str, list[str]] = {name: [] for name in table.columns}
    static: dict[str, tuple[str, ...]] = {}
    for row in table:
        for name, text in row.items():
            cells[name].append(text)
        if columns.static:
            own = row[columns.series] if columns.series else ""
            given = tuple(row[name] for name in columns.static)
            if static.setdefault(own, given) != given:
                raise InputError(
                    f"{path}, {table.place}: --static columns must be the same in all rows of a series, found "
                    f"{', '.join(given)} after {', '.join(static[own])}"
                )
    parsed = parse_times(cells[columns.time])
    if isinstance(parsed, int):
        found = cells[columns.time][parsed]
        raise InputError(
            f"{path}, {place_of(table, parsed)}: expected a time as {columns.time!r}, such as 2016-07-01 13:00, "
            f"2016-07 or a whole number, found {found!r}"
        )
    count = len(parsed[0])
    series = cells[columns.series] if columns.series else [""] * count
    values, known = (
        np.concatenate([to_numbers(table, [name], cells[name]) for name in names], axis=1)
        if names
        else np.zeros((count, 0), np.float32)
        for names in (columns.values, columns.known)
    )
    return _Part(*parsed, series, values, known, static or dict.fromkeys(series, ()))


def _joined(parts: list[_Part]) -> _Part:
    static: dict[str, tuple[str, ...]] = {}
    for part in parts:
        static = part.static | static
    return _Part(
        np.concatenate([part.ticks for part in parts]),
        parts[0].unit,
        [name for part in parts for name in part.series],
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.known for part in parts]),
        static,
    )


def _arranged(rows: _Part, source: str, uneven: Uneven) -> Panel:
    """Sort rows by series and time, and see that times are even."""
    numbers: dict[str, int] = {}
    owner = np.array([numbers.setdefault(name, len(numbers)) for name in rows.series])
    names = list(numbers)
    as_given = np.argsort(owner, kind="stable")
    falls = (np.diff(rows.ticks[as_given]) < 0) & (np.diff(owner[as_given]) == 0)
    notes = [f"rows of {source} were brought into the order of time"] if falls.any() else []
    order = np.lexsort((rows.ticks, owner))
    ticks, owner = rows.ticks[order], owner[order]
    same = owner[1:] == owner[:-1]
    steps = np.diff(ticks)[same]
    clock = _clock(ticks, steps, rows.unit, source, uneven)
    if uneven != "fill" and (steps <= 0).any():
        at = np.flatnonzero(same)[(steps <= 0).argmax()]
        raise InputError(
            f"{source} must have one row for each time{_of(names, owner[at])}, found two at "
            f"{clock.text(int(ticks[at]))}; name the column that tells series apart with --series, or take means with "
            "--uneven fill"
        )
    gaps = steps != clock.step
    if uneven == "error" and gaps.any():
        at = np.flatnonzero(same)[gaps.argmax()]
        raise InputError(
            f"{source} must have times {clock.step_text} apart, found {clock.text(int(ticks[at]))} and then "
            f"{clock.text(int(ticks[at + 1]))}{_of(names, owner[at])}, the first of {int(gaps.sum()):,} such places; "
            "--uneven fill makes missing values of what lies between, --uneven rows takes each row as a step"
        )
    offsets = np.append(0, np.cumsum(np.bincount(owner, minlength=len(names)))).astype(np.int64)
    static = [rows.static.get(name, ()) for name in names]
    panel = Panel(names, offsets, ticks, rows.values[order], rows.known[order], static, clock, notes=notes)
    if uneven == "fill" and gaps.any():
        return _filled(panel)
    return panel


def _of(names: list[str], owner: int) -> str:
    return f" of series {names[owner]!r}" if names[owner] else ""


def _clock(ticks: Ticks, steps: Ticks, unit: Unit, source: str, uneven: Uneven) -> Clock:
    found, counts = np.unique(steps[steps > 0], return_counts=True)
    if not len(found):
        raise InputError(f"{source} must have a series with two different times, found none")
    step = int(found[counts.argmax()])
    weekdays = uneven == "rows" and unit == "second" and step == 86400 and weekdays_only(ticks)
    return Clock(unit, step, weekdays)


def _filled(panel: Panel) -> Panel:
    """Lay the rows on a grid of steps."""
    step = panel.clock.step
    starts, lasts = panel.ticks[panel.offsets[:-1]], panel.ticks[panel.offsets[1:] - 1]
    lengths = (lasts - starts) // step + 1
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    owners = panel.owners
    cell = offsets[owners] + (panel.ticks - starts[owners]) // step
    ticks = np.repeat(starts, lengths) + step * (np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths))
    made = int(offsets[-1]) - len(np.unique(cell))
    note = f"{made:,} of {int(offsets[-1]):,} steps of {panel.clock.step_text} have no row; their values are missing"
    grid = [_means(part, cell, int(offsets[-1])) for part in (panel.values, panel.known)]
    return replace(panel, offsets=offsets, ticks=ticks, values=grid[0], known=grid[1], notes=[*panel.notes, note])


def _means(values: Floats, cell: NDArray[np.int64], size: int) -> Floats:
    seen = ~np.isnan(values)
    sums, counts = np.zeros((size, values.shape[1])), np.zeros((size, values.shape[1]))
    np.add.at(sums, cell, np.where(seen, values, 0))
    np.add.at(counts, cell, seen)
    with np.errstate(invalid="ignore"):
        return (sums / np.where(counts > 0, counts, np.nan)).astype(np.float32)
