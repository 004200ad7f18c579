"""Sequences of numbers with a label each, from tables in long or wide form and from arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.arrays import is_arrays, read_arrays
from recur.data.frames import Frames
from recur.data.numbers import Floats, carried, numeric_columns, place_of, to_numbers
from recur.data.tables import Table, column_names, read_table
from recur.data.times import parse_times
from recur.errors import InputError, nearest

CELLS_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class Layout:
    """Where the sequences of a table stand; arrays need none of it.

    Args:
        label: column of the labels.
        series: long form, a row for each step: the column that names the sequence.
        time: long form: the column that steps are sorted by; None for the order of the rows.
        numbers: columns of the numbers, each may be a pattern such as `pixel*`; () for all others that hold numbers.
        step_size: wide form, a row for each sequence: so many numbers are one step.
    """

    label: str = "label"
    series: str | None = None
    time: str | None = None
    numbers: tuple[str, ...] = ()
    step_size: int | None = None


@dataclass(frozen=True)
class Measured:
    """Sequences as a file holds them."""

    frames: Frames
    """NaN where a number is missing and none stands before it in its sequence."""
    labels: NDArray[np.str_] | None
    """Of each sequence; None where none are asked for."""
    names: list[str]
    """Of the sequences: what the column of the series says, or their number in the file from 0."""
    read: tuple[str, ...]
    """The columns that were read; () of arrays."""
    notes: list[str] = field(default_factory=list)
    named: bool = False
    """Whether a column names the sequences."""


def read_measured(path: str | Path, layout: Layout, labelled: bool = True) -> Measured:
    """Read the sequences of a file: .npz, .npy, or any table that `read_table` reads.

    Arrays are `x` [N, T, D] or [N, T] of any type of number, `y` [N] of whole numbers or texts, and, where sequences
    are shorter than T, `lengths` [N]. They stay in their type; float64 becomes float32.

    A missing number (NaN; in tables an empty cell, NA, null, none or ?) is the last one before it in its sequence; one
    with none before it stays NaN. In the wide form a row ends before its last steps without any number.

    Args:
        path: the file.
        layout: which columns of a table are what.
        labelled: False to leave labels alone.

    Raises:
        InputError: a column, array, cell, label or length that is not there or not what it must be.
    """
    if is_arrays(path):
        return _from_arrays(Path(path), labelled)
    if layout.series is None and layout.step_size is None:
        raise InputError(
            f"{path}: name the column that tells sequences apart with --series, where each row is a step, or say with "
            "--step-size how many numbers a step has, where each row is a sequence"
        )
    return (_from_long if layout.series is not None else _from_wide)(path, layout, labelled)


def _from_arrays(path: Path, labelled: bool) -> Measured:
    found = read_arrays(path, ["x", "y"] if labelled else ["x"], ["lengths"])
    x, lengths = found["x"], found.get("lengths")
    if x.ndim not in (2, 3) or 0 in x.shape or x.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: x must be numbers [N, T, D] or [N, T], none of them 0, got {x.dtype} {list(x.shape)}"
        )
    count, steps, size = (*x.shape, 1)[:3]
    if lengths is None:
        lengths = np.full(count, steps)
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"{path}: lengths must be whole numbers [N] = [{count}], got {lengths.dtype} {list(lengths.shape)}"
        )
    wrong = np.flatnonzero((lengths < 1) | (lengths > steps))
    if len(wrong):
        raise InputError(
            f"{path}: lengths must be from 1 to T = {steps}, got {lengths[wrong[0]]} in row {wrong[0]}, counted from 0"
        )
    frames = Frames.over(
        x.reshape(count * steps, size), np.arange(count, dtype=np.int64) * steps, lengths.astype(np.int64)
    )
    frames, notes = _finite(path, frames)
    labels = _labels_of(path, found["y"], count) if labelled else None
    return Measured(frames, labels, list(map(str, range(count))), (), notes)


def _finite(path: Path, frames: Frames) -> tuple[Frames, list[str]]:
    """See that all numbers are finite or missing; wide ones become float32, missing ones what stands before them."""
    if frames.values.dtype.kind != "f":
        return frames, []
    missing = False
    for row in range(len(frames)):
        with np.errstate(over="ignore"):
            own = frames[row]
        # a sum is finite where all is, and much faster than a look at each
        if not np.isfinite(own.sum(dtype=np.float64)):
            if np.isinf(own).any():
                step, column = np.argwhere(np.isinf(own))[0].tolist()
                raise InputError(
                    f"{path}: x must hold finite numbers of float32, or NaN where one is missing, got "
                    f"{frames.values[frames.starts[row] + step, column]} in row {row}, step {step}, counted from 0"
                )
            missing = True
    if not missing and frames.values.dtype.itemsize <= 4:
        return frames, []
    values = frames.values.astype(np.float32)
    if not missing:
        return Frames.over(values, frames.starts, frames.lengths), []
    return _carried(path, Frames.over(values, frames.starts, frames.lengths))


def _carried(path: str | Path, frames: Frames) -> tuple[Frames, list[str]]:
    """Fill what is missing with what stands before it, and say how much it is."""
    if not np.isnan(frames.values).any():
        return frames, []
    steps = np.concatenate([np.zeros(0, np.int64), *_places(frames)])
    count = int(np.isnan(frames.values[steps]).sum())
    if not count:
        return frames, []
    begins = np.searchsorted(frames.starts, np.arange(len(frames.values)), side="right") - 1
    values, _ = carried(frames.values, frames.starts[begins], np.nan)
    note = (
        f"{count:,} of {len(steps) * frames.size:,} numbers of {path} are missing; each is taken to be the last one "
        "before it in its sequence, or the mean of the training part where there is none"
    )
    return Frames.over(values, frames.starts, frames.lengths), [note]


def _places(frames: Frames) -> Iterator[NDArray[np.int64]]:
    return (np.arange(a, a + n) for a, n in zip(frames.starts.tolist(), frames.lengths.tolist(), strict=True))


def _labels_of(path: Path, y: NDArray[Any], count: int) -> NDArray[np.str_]:
    if y.shape != (count,) or y.dtype.kind not in "biuUS":
        raise InputError(
            f"{path}: y must be whole numbers or texts [N] = [{count}], one for each row of x, got {y.dtype} "
            f"{list(y.shape)}"
        )
    labels = np.char.strip(np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y.astype(np.str_))
    if (labels == "").any():
        raise InputError(f"{path}: y must not be empty, got nothing in row {int((labels == '').argmax())}, from 0")
    return labels


def _from_long(path: str | Path, layout: Layout, labelled: bool) -> Measured:
    assert layout.series is not None
    label = [layout.label] if labelled else []
    if layout.series in label:
        raise InputError(f"--series and --label must be two columns, got {layout.series!r} for both")
    fixed = [layout.series, *label, *([layout.time] if layout.time else [])]
    columns, notes = _chosen(path, layout, fixed)
    table = read_table(path, [*fixed, *columns], filled=[layout.series, *label], blank=True)
    numbers: dict[str, int] = {}
    labels: list[str] = []
    owners: list[int] = []
    times: list[str] = []
    cells = _Cells(table, columns)
    for row in table:
        name = row[layout.series].strip()
        owner = numbers.setdefault(name, len(numbers))
        owners.append(owner)
        if labelled:
            own = row[layout.label].strip()
            if owner == len(labels):
                labels.append(own)
            elif labels[owner] != own:
                raise InputError(
                    f"{path}, {table.place}: all rows of a sequence must have one label, found {own!r} after "
                    f"{labels[owner]!r} for {name!r}; correct it, or name another column with --series"
                )
        if layout.time:
            times.append(row[layout.time])
        cells.add(row)
    order, moved = _order(table, layout, np.array(owners), times, list(numbers))
    lengths = np.bincount(owners, minlength=len(numbers))
    frames = Frames.over(cells.numbers()[order], np.append(0, np.cumsum(lengths))[:-1], lengths)
    frames, told = _carried(path, frames)
    known = np.array(labels) if labelled else None
    return Measured(frames, known, list(numbers), tuple(columns), [*notes, *moved, *told], named=True)


def _order(
    table: Table, layout: Layout, owners: NDArray[np.int64], times: list[str], names: list[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows sequence by sequence, in the order of time, and what there is to say of it."""
    as_given = np.argsort(owners, kind="stable")
    if not layout.time:
        return as_given, []
    ticks = _ticks(table, layout.time, times)
    order = np.lexsort((ticks, owners))
    same = (np.diff(owners[order]) == 0) & (np.diff(ticks[order]) == 0)
    if same.any():
        at = order[np.flatnonzero(same)[0] + 1]
        raise InputError(
            f"{table.path}, {place_of(table, int(at))}: each step of a sequence must have a time of its own, found a "
            f"second {times[at]!r} in {names[owners[at]]!r}; take one of the two out"
        )
    if (order == as_given).all():
        return order, []
    return order, [f"rows of {table.path} were brought into the order of {layout.time!r}"]


def _ticks(table: Table, column: str, times: list[str]) -> NDArray[Any]:
    try:
        found = np.array(times, dtype=np.float64)
        if np.isfinite(found).all():
            return found
    except ValueError:
        pass
    parsed = parse_times(times)
    if isinstance(parsed, int):
        raise InputError(
            f"{table.path}, {place_of(table, parsed)}: expected a time as {column!r}, a number or a date such as "
            f"2016-07-01 13:00, found {times[parsed]!r}"
        )
    return parsed[0]


def _from_wide(path: str | Path, layout: Layout, labelled: bool) -> Measured:
    if layout.time:
        raise InputError("--time is for tables with a row for each step, with --series; leave it out")
    label = [layout.label] if labelled else []
    columns, notes = _chosen(path, layout, label)
    size = layout.step_size or 1
    if len(columns) % size:
        raise InputError(
            f"{path}: --step-size {size} must go into the {len(columns)} columns of numbers without rest; name them "
            "with --numbers"
        )
    table = read_table(path, [*label, *columns], filled=label, blank=True)
    labels, cells = [], _Cells(table, columns)
    for row in table:
        labels += [row[name].strip() for name in label]
        cells.add(row)
    values = cells.numbers()
    count, steps = len(values), len(columns) // size
    values = values.reshape(count, steps, size)
    there = np.asarray((~np.isnan(values)).any(axis=2))
    lengths = steps - there[:, ::-1].argmax(axis=1)
    empty = np.flatnonzero(~there.any(axis=1))
    if len(empty):
        bad = int(empty[0])
        raise InputError(f"{path}, {place_of(table, bad)}: expected numbers, found none in the whole row; take it out")
    frames = Frames.over(values.reshape(-1, size), np.arange(count) * steps, lengths)
    frames, told = _carried(path, frames)
    known = np.array(labels) if labelled else None
    return Measured(frames, known, list(map(str, range(count))), tuple(columns), [*notes, *told])


def _chosen(path: str | Path, layout: Layout, taken: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the columns of numbers in the order asked for, else that of the file, and what is left out."""
    names = column_names(path)
    others = [name for name in names if name not in {*taken, layout.label}]
    if not layout.numbers:
        found = numeric_columns(path, others)
        left = [name for name in others if name not in found]
        notes = [f"columns of {path} that hold no numbers are not read: {', '.join(left[:10])}"] if left else []
    else:
        found, notes = [], []
        for pattern in layout.numbers:
            fitting = [name for name in names if name == pattern] or [n for n in others if fnmatchcase(n, pattern)]
            if not fitting:
                raise InputError(
                    f"{path}: there is no column {pattern!r} for --numbers{nearest(pattern, names)}; the columns are "
                    f"{', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
                )
            found += fitting
        twice = next((name for name in found if found.count(name) > 1 or name in taken), None)
        if twice:
            raise InputError(f"the column {twice!r} is asked for twice; leave it out of --numbers")
    return found, notes


class _Cells:
    """Numbers of a table, gathered row by row; of texts no more than a few thousand are kept at a time."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self._table, self._columns = table, columns
        self._texts: list[str] = []
        self._done: list[Floats] = []
        self._rows = 0

    def add(self, row: dict[str, str]) -> None:
        """Take the numbers of a row."""
        self._texts += [row[name] for name in self._columns]
        if len(self._texts) >= CELLS_AT_A_TIME:
            self._convert()

    def numbers(self) -> Floats:
        """Return them, float32 [n, C], NaN where missing."""
        self._convert()
        return np.concatenate(self._done)

    def _convert(self) -> None:
        if self._texts:
            self._done.append(to_numbers(self._table, self._columns, self._texts, self._rows))
            self._rows += len(self._done[-1])
            self._texts = []
