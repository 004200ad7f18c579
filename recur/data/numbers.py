"""Cells of tables as numbers: what stands for a missing one, what is no number, and how gaps are filled."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recur.data.tables import Table, column_names, read_table, separator_hint
from recur.errors import InputError

Floats = NDArray[np.float32]
MISSING = {"", "na", "nan", "n/a", "null", "none", "?"}
LOOKED_AT = 200


def numeric_columns(path: str | Path, names: Sequence[str]) -> list[str]:
    """Return those columns of a table whose first 200 cells are numbers or missing, and not all missing.

    Args:
        path: the table.
        names: the columns that may hold numbers.

    Raises:
        InputError: there is none; with the first cell that is no number, or what seems to separate the columns.
    """
    left, columns = dict.fromkeys(names, False), column_names(path)
    wrong = f"the columns are {', '.join(columns[:20])}{separator_hint(Path(path), columns)}"
    table = read_table(path, names, blank=True)
    for row in islice(table, LOOKED_AT) if names else ():
        for name in list(left):
            text = row[name].strip()
            if text.lower() in MISSING:
                continue
            if is_number(text):
                left[name] = True
            else:
                del left[name]
                wrong = f"{table.place} has {text!r} as {name!r}"
    found = [name for name, has_numbers in left.items() if has_numbers]
    if not found:
        others = [name for name in columns if name not in names]
        besides = f" besides {', '.join(others)}" if others else ""
        raise InputError(f"{path} must have columns of numbers{besides}, found none: {wrong}")
    return found


def to_numbers(table: Table, names: Sequence[str], cells: Sequence[str], first: int = 0) -> Floats:
    """Return cells as numbers, float32 [n, C], NaN where missing.

    Args:
        table: where they come from.
        names: of the C columns.
        cells: n * C of them, row by row.
        first: the number of the first row in the table.

    Raises:
        InputError: a cell that is no number, or an infinite one; with its place.
    """
    try:
        found = np.array(cells, dtype=np.float64)
    except ValueError:
        filled = ["nan" if text.strip().lower() in MISSING else text for text in cells]
        bad = next((i for i, text in enumerate(filled) if not is_number(text)), None)
        if bad is not None:
            raise _refused(table, names, cells, first, bad, "a number", ", or nothing") from None
        found = np.array(filled, dtype=np.float64)
    with np.errstate(over="ignore"):
        numbers = found.astype(np.float32)
    if np.isinf(numbers).any():
        raise _refused(table, names, cells, first, int(np.isinf(numbers).argmax()), "a finite number")
    return numbers.reshape(-1, len(names))


def _refused(
    table: Table, names: Sequence[str], cells: Sequence[str], first: int, bad: int, expected: str, rest: str = ""
) -> InputError:
    row, column = divmod(bad, len(names))
    place = place_of(table, first + row)
    return InputError(
        f"{table.path}, {place}: expected {expected} as {names[column]!r}{rest}, found {cells[bad]!r}; correct it"
    )


def is_number(text: str) -> bool:
    """Say whether a text is a number as Python writes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def place_of(table: Table, number: int) -> str:
    """Say where row `number` stands, by reading the table again."""
    for count, _ in enumerate(table):
        if count == number:
            break
    return table.place


def carried(values: Floats, begins: NDArray[np.int64], otherwise: float = 0.0) -> tuple[Floats, NDArray[np.bool_]]:
    """Fill missing values with the last one before them in their series, or `otherwise` where there is none.

    Args:
        values: float32 [N, C], NaN where missing.
        begins: the first row of each row's series, [N].
        otherwise: what stands before the first value of a series.

    Returns:
        The filled values [N, C], and where they were missing, bool [N, C].
    """
    missing = np.isnan(values)
    if not missing.any():
        return values, missing
    rows = np.where(missing, -1, np.arange(len(values))[:, None])
    latest = np.maximum.accumulate(rows, axis=0)
    there = latest >= begins[:, None]
    filled = np.take_along_axis(values, np.maximum(latest, 0), axis=0)
    return np.where(there, filled, otherwise).astype(np.float32), missing
