"""What series are scaled by, all of it learned of given rows alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.numbers import carried
from recur.data.series import Panel
from recur.data.windows import Prepared
from recur.errors import InputError

Floats = NDArray[np.float32]
MOST_NAMES = 50


@dataclass(frozen=True)
class Scaler:
    """Means and deviations of the training part, by series and column; static columns as numbers.

    The deviation of a column that does not change is 1; it is 0 of one without values, all of which count as missing.
    """

    names: list[str]
    """Of the series."""
    means: Floats
    """[n, V]."""
    deviations: Floats
    """[n, V]."""
    known: tuple[list[float], list[float]]
    """Means and deviations of what is known in advance."""
    static: list[dict[str, Any]]
    """Of each static column: mean and deviation, or the names that each have a number of their own."""

    @classmethod
    def fit(cls, panel: Panel, learned: NDArray[np.bool_]) -> "Scaler":
        """Learn from the rows `learned`, bool [N], alone."""
        means, deviations = _moments(panel.values, panel.owners, len(panel), learned)
        known, spread = _moments(panel.known, np.zeros_like(panel.owners), 1, learned)
        static = [_static(column) for column in zip(*panel.static, strict=True)]
        return cls(list(panel.names), means, deviations, (known[0].tolist(), spread[0].tolist()), static)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"means": self.means.tolist(), "deviations": self.deviations.tolist()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Scaler":
        """Make it from `plain`."""
        arrays = {name: np.array(plain[name], dtype=np.float32) for name in ("means", "deviations")}
        known = tuple(map(list, plain["known"]))
        return cls(list(plain["names"]), **arrays, known=known, static=list(plain["static"]))  # type: ignore[arg-type]

    def with_new(self, panel: Panel, rows: NDArray[np.bool_]) -> "Scaler":
        """Return a scaler that knows all series of a panel: those it did not know by their rows `rows`, bool [N]."""
        known = set(self.names)
        new = [number for number, name in enumerate(panel.names) if name not in known]
        if not new:
            return self
        means, deviations = _moments(panel.values, panel.owners, len(panel), rows)
        return replace(
            self,
            names=[*self.names, *(panel.names[number] for number in new)],
            means=np.append(self.means, means[new], axis=0),
            deviations=np.append(self.deviations, deviations[new], axis=0),
        )

    def places(self, panel: Panel) -> NDArray[np.int64]:
        """Return which of `names` the series of a panel are, [n]."""
        numbers = {name: number for number, name in enumerate(self.names)}
        return np.array([numbers[name] for name in panel.names], dtype=np.int64)

    def prepare(self, panel: Panel, targets: int) -> Prepared:
        """Scale the series of a panel, all of which it knows, and fill what is missing."""
        rows = self.places(panel)[panel.owners]
        deviations = self.deviations[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.where(deviations > 0, (panel.values - self.means[rows]) / deviations, np.nan)
        values, missing = carried(scaled.astype(np.float32), panel.begins)
        means, spread = (np.array(part, dtype=np.float32) for part in self.known)
        known, _ = carried(((panel.known - means) / np.where(spread > 0, spread, 1)).astype(np.float32), panel.begins)
        static = [
            np.concatenate([_as_numbers(*pair) for pair in zip(self.static, own, strict=True)] or [[]])
            for own in panel.static
        ]
        return Prepared(
            values,
            missing,
            known,
            np.array(static, dtype=np.float32),
            panel.begins,
            panel.ends,
            panel.owners,
            targets,
        )

    def of_series(self, panel: Panel, targets: int) -> tuple[Floats, Floats]:
        """Return means and deviations of the targets for the series of a panel, [n, C] each."""
        rows = self.places(panel)
        return self.means[rows, :targets], self.deviations[rows, :targets]


def changes(data: Prepared, season: int, count: int, learned: NDArray[np.bool_]) -> Floats:
    """Return the mean absolute seasonal change of each series and column within some rows, [n, C]; NaN of none.

    Args:
        data: the series.
        season: steps of a season.
        count: n, how many series there are.
        learned: which rows, bool [N].
    """
    rows = np.flatnonzero(learned)
    rows = rows[rows - data.begins[rows] >= season]
    seen = data.observed
    change = np.abs(seen[rows] - seen[rows - season])
    there = ~np.isnan(change)
    sums, counts = np.zeros((2, count, data.targets))
    np.add.at(sums, data.owners[rows], np.where(there, change, 0))
    np.add.at(counts, data.owners[rows], there)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums > 0, sums / counts, np.nan).astype(np.float32)


def _moments(values: Floats, owners: NDArray[np.int64], count: int, rows: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return means and deviations of some rows, by their owner, [count, V]; 0 and 1 where there is none."""
    values, owners = values[rows].astype(np.float64), owners[rows]
    seen = ~np.isnan(values)
    filled = np.where(seen, values, 0)
    number = _sums(seen, owners, count)
    seen_any = number > 0
    number = np.maximum(number, 1)
    means = _sums(filled, owners, count) / number
    spread = np.where(seen, values - means[owners], 0)
    deviations = np.sqrt(_sums(spread**2, owners, count) / number)
    # a column that does not change has a deviation of rounding errors
    still = deviations <= 1e-7 * np.abs(means)
    deviations = np.where(seen_any, np.where(still, 1, deviations), 0)
    return means.astype(np.float32), deviations.astype(np.float32)


def _sums(values: NDArray[Any], owners: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    columns = [np.bincount(owners, column, count) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0))


def _static(column: Sequence[str]) -> dict[str, Any]:
    try:
        numbers = np.array(column, dtype=np.float64)
    except ValueError:
        names = sorted(set(column))
        if len(names) > MOST_NAMES:
            raise InputError(
                f"a --static column of names must have at most {MOST_NAMES} different ones, got {len(names)}"
            ) from None
        return {"names": names}
    deviation = float(numbers.std())
    return {"mean": float(numbers.mean()), "deviation": deviation or 1.0}


def _as_numbers(column: Mapping[str, Any], text: str) -> list[float]:
    if "names" in column:
        return [float(text == name) for name in column["names"]]
    try:
        return [(float(text) - column["mean"]) / column["deviation"]]
    except ValueError:
        raise InputError(f"a --static column had numbers in training, got {text!r}") from None
