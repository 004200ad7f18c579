"""A trained forecaster: it goes on where a table ends, and is scored on tables."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recur.data.series import Panel, SeriesColumns, Uneven, read_panel
from recur.data.times import Clock
from recur.data.windows import Shape, lay_out
from recur.errors import InputError
from recur.models.forecaster import Forecaster
from recur.tasks.forecast.baselines import simple
from recur.tasks.forecast.data import History
from recur.tasks.forecast.model import ForecastObjective, foretell
from recur.tasks.forecast.scaling import Scaler, changes
from recur.tasks.forecast.scores import Scores, score
from recur.tasks.forecast.scoring import network_errors, scale_of, simple_errors
from recur.tasks.job import Example, Predictor, evenly


@dataclass(frozen=True)
class Foretold:
    """The steps behind the end of a series."""

    series: str
    """Its name; empty where there is one only."""
    times: list[str]
    """[H]."""
    values: dict[str, list[float]]
    """By column, [H]."""
    quantiles: dict[str, dict[str, list[float]]]
    """By column and level, [H]; empty where single values are foretold."""


@dataclass(frozen=True)
class Ended:
    """A series of a panel that is to be gone on with."""

    panel: Panel
    series: int
    last: int
    """The row of its last values."""


class ForecastPredictor(Predictor):
    """A trained forecaster.

    Args:
        folder, config, model: as for every predictor.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], model: Forecaster) -> None:
        super().__init__(folder, config, model)
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in config["columns"].items()
        }
        self.columns = SeriesColumns(**fields)
        self.scaler = Scaler.of(config["scaler"])
        self.clock = Clock(**config["clock"])
        self.calendar, self.targets = tuple(config["calendar"]), int(config["targets"])
        network = model.config
        apart, fed = bool(config["apart"]), network.targets > self.targets
        self.shape = Shape(network.window, network.horizon, apart, network.flags, fed)
        self.levels: tuple[float, ...] = network.quantiles
        self.season = int(config["season"])
        self.uneven: Uneven = self.options.get("uneven", "error")

    @property
    def heading(self) -> str:
        """The names of the columns that `line` writes."""
        return _csv([["time", "series", "value", *(f"q{level:g}" for level in self.levels)]])

    def items(self, file: str | Path) -> Iterator[Ended]:
        """Yield the series of a table; rows at the end whose values are all missing are steps to foretell.

        Raises:
            InputError: the table is not like that of the training, or has too little of what is known in advance.
        """
        yield from self._ended(self._panel([file]))

    def own(self) -> Iterator[Ended]:
        """Yield the series of the run's own tables.

        Raises:
            InputError: they are gone or were changed.
        """
        yield from self._ended(self._panel(self._files()))

    def predict(self, items: Iterable[Ended]) -> list[Foretold]:
        """Go on with series: H steps behind the end of each.

        Args:
            items: series as `items` and `own` yield them.

        Raises:
            InputError: something else.
        """
        found: list[Foretold] = []
        groups: dict[int, list[Ended]] = {}
        for item in items:
            if not isinstance(item, Ended):
                raise InputError(f"a forecaster goes on with the series of a table, --file, got {item!r}")
            groups.setdefault(id(item.panel), []).append(item)
        for group in groups.values():
            found.extend(self._foretold(group))
        return found

    def line(self, item: Ended, answer: Foretold) -> str:
        """Return a line of CSV for each step and column: time, series, value and quantiles."""
        rows = []
        for column, values in answer.values.items():
            # a table with one column and many series is told apart by these, any other by its columns too
            name = answer.series if answer.series and self.targets == 1 else column
            if answer.series and self.targets > 1:
                name = f"{answer.series} {column}"
            levels = answer.quantiles.get(column, {}).values()
            for number, (time, value) in enumerate(zip(answer.times, values, strict=True)):
                rows.append([time, name, f"{value:.6g}", *(f"{level[number]:.6g}" for level in levels)])
        return _csv(rows)

    def json(self, item: Ended, answer: Foretold) -> dict[str, Any]:
        """Return an answer as JSON."""
        return dataclasses.asdict(answer)

    def evaluate(self, file: str | Path) -> Scores:
        """Forecast from each time of a table that has a window before it and a horizon behind it.

        Raises:
            InputError: the table is not like that of the training, or too short.
        """
        history = self._history(self._panel([file]))
        rows, new = history.origins("test"), self._new(history.panel)
        if not len(rows):
            raise InputError(
                f"{file} must have more than {self.shape.window + self.shape.horizon - 1} steps of a series, a window "
                f"of {self.shape.window} and a horizon of {self.shape.horizon}, with values to foretell"
            )
        naive = {name: errors for name, (errors, _) in simple_errors(simple(history).values(), history, rows).items()}
        found = score(network_errors(self.model, history, rows, self.levels), naive, scale_of(history, self.levels))
        return dataclasses.replace(found, notes=(*self.warn_if_learned(file), *new, *found.notes))

    def shown(self, scores: Scores) -> str:
        """Return the errors, on scaled values and in each column's own unit."""
        around = f"  (95% interval {scores.interval[0]:.4f} - {scores.interval[1]:.4f})" if scores.interval else ""
        lines = [
            f"MSE      {scores.mse:.4f}{around}, {scores.windows:,} windows, values scaled by the training part",
            f"MAE      {scores.mae:.4f}",
            *([] if scores.mase is None else [f"MASE     {scores.mase:.4f}"]),
            f"skill    {abs(scores.skill):.1%} {'below' if scores.skill > 0 else 'above'} the MSE of the last value",
        ]
        if scores.coverage:
            lines.append(
                f"coverage {scores.coverage.found:.1%} of the values in the {scores.coverage.nominal:.0%} interval"
            )
        lines += [
            f"{name}: mean absolute error {one.mean_absolute:.4g}, root mean square {one.root_mean_square:.4g}"
            for name, one in scores.columns.items()
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in scores.notes)])

    def example(self, file: Path | None, rows: int) -> Example:
        """Return windows at even distances through a table, or through the validation part of the run's own.

        Raises:
            InputError: the table is too short, or the run's own is gone or was changed.
        """
        if file is not None:
            history, part = self._history(self._panel([file])), "test"
        else:
            history = self._history(self._panel(self._files()), tuple(self.config["cuts"]))
            part = "validation"
        found = history.origins(part)
        if not len(found):
            raise InputError(f"{file} must have more than {self.shape.window + self.shape.horizon - 1} steps")
        chosen = found[evenly(len(found), rows)]
        batch = lay_out(history.prepared, self.shape, chosen)
        return Example(*ForecastObjective(self.model).probe(batch, rows), None)

    def _panel(self, files: list[Any]) -> Panel:
        panel = read_panel(files, self.columns, self.uneven)
        if (panel.clock.unit, panel.clock.step) != (self.clock.unit, self.clock.step):
            raise InputError(
                f"{files[0]} must have times {self.clock.step_text} apart as in training, got {panel.clock.step_text}"
            )
        return panel.with_calendar(self.calendar)

    def _files(self) -> list[str]:
        names = [name for name in ("train", "validation", "test") if self.options.get(name)]
        return [self.own_file(name, "give a table with --file") for name in names]

    def _history(self, panel: Panel, cuts: tuple[int, int, int] | None = None) -> History:
        first, last = int(panel.ticks.min()), int(panel.ticks.max())
        # a series that is new has nothing before its first forecast but its first window
        early = np.arange(len(panel.ticks)) - panel.begins < self.shape.window
        scaler = self.scaler.with_new(panel, early)
        prepared, places = scaler.prepare(panel, self.targets), scaler.places(panel)
        known = np.array(self.config["changes"], dtype=np.float32)
        found = changes(prepared, self.season, len(panel), early)
        seen = places < len(known)
        found[seen] = known[places[seen]]
        return History(
            panel,
            self.columns,
            self.calendar,
            self.targets,
            # all of it is test, but nothing is learned of it
            cuts or (first, first, last + 1),
            scaler,
            prepared,
            self.shape,
            self.season,
            found,
        )

    def _new(self, panel: Panel) -> list[str]:
        """Say which series of a panel were not there in training."""
        known = set(self.scaler.names)
        new = [name for name in panel.names if name not in known]
        if not new:
            return []
        return [
            f"{len(new):,} of {len(panel):,} series, such as {', '.join(new[:3])}, were not there in training: each is "
            f"scaled by its own first {self.shape.window} steps"
        ]

    def _ended(self, panel: Panel) -> Iterator[Ended]:
        known = len(self.columns.known) > 0
        for number, (first, stop) in enumerate(
            zip(panel.offsets[:-1].tolist(), panel.offsets[1:].tolist(), strict=True)
        ):
            there = np.flatnonzero(~np.isnan(panel.values[first:stop]).all(axis=1))
            name = f" of series {panel.names[number]!r}" if panel.names[number] else ""
            if not len(there):
                raise InputError(f"the rows{name} must have values to go on from, got none")
            last = first + int(there[-1])
            if known and stop - last - 1 < self.shape.horizon:
                raise InputError(
                    f"--known columns must reach {self.shape.horizon} steps beyond the last values{name}, in rows "
                    f"whose values are empty, got {stop - last - 1}"
                )
            yield Ended(panel, number, last)

    def _foretold(self, items: list[Ended]) -> Iterator[Foretold]:
        """Yield the forecasts of series of one panel."""
        panel, horizon = items[0].panel, self.shape.horizon
        ends = [int(panel.offsets[item.series + 1]) for item in items]
        whole = _lengthened(panel, items, horizon, self.clock, self.calendar)
        # all that is there of a new series lies before its forecast
        scaler = self.scaler.with_new(whole, np.ones(len(whole.ticks), dtype=bool))
        prepared = scaler.prepare(whole, self.targets)
        rows = whole.offsets[1:] - 1 - horizon
        assert len(ends) == len(rows)
        means, deviations = scaler.of_series(whole, self.targets)
        made = list(foretell(self.model, prepared, self.shape, rows, self.levels, ahead=False))
        points = np.concatenate([part.point for part in made])
        quantiles = None
        if self.levels:
            quantiles = np.concatenate([part.quantiles for part in made if part.quantiles is not None])
        names = self.columns.values[: self.targets]
        for number in range(len(items)):
            times = [self.clock.text(int(tick)) for tick in whole.ticks[rows[number] + 1 : rows[number] + 1 + horizon]]
            # a column without a value in training has no deviation, and no forecast
            point = points[number] * deviations[number] + means[number]
            point[:, deviations[number] == 0] = np.nan
            bounds: dict[str, dict[str, list[float]]] = {}
            if quantiles is not None:
                own = quantiles[number] * deviations[number][:, None] + means[number][:, None]
                bounds = {
                    name: {f"{level:g}": own[:, c, q].tolist() for q, level in enumerate(self.levels)}
                    for c, name in enumerate(names)
                }
            values = {name: point[:, c].tolist() for c, name in enumerate(names)}
            yield Foretold(whole.names[number], times, values, bounds)


def _lengthened(panel: Panel, items: list[Ended], horizon: int, clock: Clock, calendar: tuple[str, ...]) -> Panel:
    """Return the series up to their last values, and a horizon of missing ones behind each."""
    ticks, values, known, offsets = [], [], [], [0]
    width = panel.known.shape[1] - 2 * len(calendar)
    for item in items:
        first, stop = int(panel.offsets[item.series]), int(panel.offsets[item.series + 1])
        behind = slice(item.last + 1, min(stop, item.last + 1 + horizon))
        count = behind.stop - behind.start
        later = panel.ticks[behind]
        last = int(later[-1]) if count else int(panel.ticks[item.last])
        ticks.append(np.concatenate([panel.ticks[first : item.last + 1], later, clock.after(last, horizon - count)]))
        empty = np.full((horizon, panel.values.shape[1]), np.nan, np.float32)
        values.append(np.concatenate([panel.values[first : item.last + 1], empty]))
        missing = np.full((horizon - count, width), np.nan, np.float32)
        known.append(np.concatenate([panel.known[first : behind.stop, :width], missing]))
        offsets.append(offsets[-1] + len(ticks[-1]))
    chosen = [item.series for item in items]
    joined = Panel(
        [panel.names[number] for number in chosen],
        np.array(offsets, dtype=np.int64),
        np.concatenate(ticks),
        np.concatenate(values),
        np.concatenate(known),
        [panel.static[number] for number in chosen],
        clock,
    )
    return joined.with_calendar(calendar)


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")
