"""What the report of a forecaster draws: forecasts beside what came, and errors by step and by origin."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recur.report import Band, Block, LineChart, Note, Section, Series, Table
from recur.tasks.forecast.data import History
from recur.tasks.forecast.scores import Errors, Scores, Shown, show
from recur.tasks.job import Result, TaskReport

MOST_POINTS = 100


@dataclass(frozen=True)
class Drawn:
    """What the report draws besides the scores."""

    rivals: dict[str, Errors]
    """Of the simple forecasts, on the test part."""
    shown: list[Shown]


def report(result: Result[History]) -> TaskReport:
    """Say how far the best network is off, whether it beats the naive forecast, and show both."""
    best, history = result.best, result.data
    scores: Scores = best.test
    shape, clock = history.shape, history.panel.clock
    if scores.beats_naive and scores.clearly:
        beaten = "It beats the naive forecasts"
    elif scores.beats_naive:
        beaten = "It is not clearly better than a naive forecast"
    else:
        beaten = "It does not beat a naive forecast, and is of no use as it is"
    if scores.copies:
        beaten += ", and its next step is a copy of the last value"
    side = "below" if scores.skill > 0 else "above"
    rest = f": its squared error is {abs(scores.skill):.1%} {side} that of the last value."
    return TaskReport(
        lead=f"{best.trained.name} foretells {shape.horizon} steps of {clock.step_text} from {shape.window}, with a "
        f"mean squared error of {show(scores.mse)} of scaled values. {beaten}{rest}",
        sections=[
            Section(
                "Forecasts", _forecasts_text(result), [_forecast(shown, shape.horizon) for shown in result.extra.shown]
            ),
            Section(
                "Error by step",
                "Mean squared error of scaled values over all windows of the test part, at each step of the horizon.",
                list(_by_step(result)),
            ),
            Section(
                "Backtest",
                "The same network forecasts from each time of the test part, with all that lies before it.",
                list(_backtest(result)),
            ),
        ],
        data=[_columns(result), _data_table(result)],
        command=["recur", "predict", str(result.options.folder)],
        tried_on="To go on where the table ends; --file for another table:",
    )


def _forecasts_text(result: Result[History]) -> str:
    count = len(result.data.panel) * result.data.targets
    text = "The last forecast of the test part, beside what came and the naive forecast, in the series' own unit."
    if count > len(result.extra.shown):
        text += f" Of {count:,} series those with the smallest, the middle and the largest errors, in this order."
    return text


def _forecast(shown: Shown, horizon: int) -> LineChart:
    past = np.arange(1 - len(shown.past), 1)
    ahead = np.arange(0, horizon + 1)
    last = shown.past[-1:]

    def from_here(values: "np.ndarray[tuple[int], np.dtype[np.floating]]") -> list[float]:
        return [float(value) for value in np.concatenate([last, values])]

    series = [
        Series("what came", [*past.tolist(), *ahead[1:].tolist()], [*map(float, shown.past), *map(float, shown.truth)]),
        Series("forecast", ahead.tolist(), from_here(shown.point)),
        Series("naive", ahead.tolist(), from_here(shown.naive)),
    ]
    if "seasonal naive" in shown.rest:
        series.append(Series("seasonal naive", ahead.tolist(), from_here(shown.rest["seasonal naive"])))
    bands = []
    if shown.low is not None and shown.high is not None:
        bands.append(Band("interval", ahead.tolist(), from_here(shown.low), from_here(shown.high), colour=1))
    title = shown.name or "the series"
    return LineChart(
        f"{title} from {shown.origin}",
        "steps from the last value seen",
        title,
        series,
        marks=[(0, "seen")],
        bands=bands,
    )


def _by_step(result: Result[History]) -> Iterator[Block]:
    steps = range(1, result.data.shape.horizon + 1)
    lines = [Series(result.best.trained.name, list(steps), result.best.shown.steps())]
    lines += [Series(name, list(steps), errors.steps()) for name, errors in result.extra.rivals.items()]
    if len(steps) > 1:
        yield LineChart("Error by step", "step of the horizon", "mean squared error", lines)
    coverage = result.best.test.coverage
    if coverage is None:
        return
    nominal, inside = coverage.nominal, result.best.shown
    found = inside.inside[0] / np.maximum(inside.by_step[2], 1)
    yield Note(
        "info" if abs(coverage.found - nominal) <= 0.1 else "warning",
        f"{coverage.found:.1%} of the test values lie in the interval that should hold {nominal:.0%} of them; its mean "
        f"width is {coverage.width:.3f} deviations.",
    )
    if len(steps) > 1:
        yield LineChart(
            "Share of values in the interval",
            "step of the horizon",
            "share",
            [Series("found", list(steps), found), Series("nominal", list(steps), [nominal] * len(steps))],
        )


def _backtest(result: Result[History]) -> Iterator[Block]:
    clock = result.data.panel.clock
    naive = result.extra.rivals["naive"]
    lines, times = [], naive.origins()[0]
    for name, errors in ((result.best.trained.name, result.best.shown), *result.extra.rivals.items()):
        if name not in (result.best.trained.name, "naive", "linear"):
            continue
        _, squares, counts = errors.origins()
        edges = np.unique(np.linspace(0, len(squares), min(MOST_POINTS, len(squares)) + 1).astype(int))[:-1]
        means = np.add.reduceat(squares, edges) / np.maximum(np.add.reduceat(counts, edges), 1)
        lines.append(Series(name, edges.tolist(), means))
    first, last = clock.text(int(times[0])), clock.text(int(times[-1]))
    yield LineChart("Error by origin", f"origin, from {first} to {last}", "mean squared error", lines)


def _columns(result: Result[History]) -> Table:
    rows: list[list[str | float | int]] = [
        [name, one.mse, one.mae, one.root_mean_square, one.mean_absolute]
        for name, one in result.best.test.columns.items()
    ]
    return Table(
        "By column",
        ["", "MSE, scaled", "MAE, scaled", "root mean square", "mean absolute"],
        rows,
        note="Scaled by mean and deviation of the training part; the last two in the column's own unit.",
    )


def _data_table(result: Result[History]) -> Table:
    history, clock = result.data, result.data.panel.clock
    scores: Scores = result.best.test
    rows: list[list[str | float | int]] = [
        ["series", f"{len(history.panel):,}"],
        ["step", clock.step_text],
        ["season", f"{history.season} steps"],
        ["first time of the validation part", clock.text(history.cuts[0])],
        ["first time of the test part", clock.text(history.cuts[1])],
        ["missing values", f"{float(history.prepared.missing[:, : history.targets].mean()):.2%}"],
        ["known in advance", ", ".join((*history.columns.known, *history.calendar)) or "nothing"],
        ["MAE on the test part, scaled", f"{scores.mae:.4f}"],
        ["MASE on the test part", "none" if scores.mase is None else f"{scores.mase:.3f}"],
    ]
    rows += [[f"{part} windows", f"{count:,}"] for part, count in result.rows.items()]
    return Table("Data", ["", "value"], rows)
