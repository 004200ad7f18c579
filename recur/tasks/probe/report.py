"""The page of `recur probe`: accuracy or error by lag, and which lags each network learned."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recur.report import Block, Command, Fact, LineChart, Report, Section, Series, Settings, Table
from recur.tasks.options import flag
from recur.tasks.probe.flow import WHEN
from recur.tasks.probe.options import ProbeOptions
from recur.tasks.probe.result import ProbeResult, cell_text, error_of, figure, foretold_text
from recur.tasks.probe.train import LEARNED
from recur.tasks.progress import duration
from recur.tasks.run import versions


def compose_report(result: ProbeResult) -> Report:
    """Say what a run found: the figure by lag, the longest lags learned, and every network."""
    probe, options = result.probe, result.options
    longest = {cell: [result.longest(cell, seed) for seed in options.seed] for cell in options.cell}
    facts = [
        Fact(
            f"longest lag, {cell}",
            _span(lags),
            f"of {max(options.lag)}, {len(lags)} seed{'s' * (len(lags) > 1)}",
        )
        for cell, lags in longest.items()
    ]
    spent = math.fsum(line.get("seconds", 0.0) for line in result.networks)
    facts.append(Fact("training", duration(spent), f"{len(result.networks)} networks"))
    return Report(
        title=f"Probe {probe.name}: {', '.join(options.cell)}",
        lead=f"{probe.about} The lag counts {probe.lag}.",
        facts=facts,
        sections=[
            Section(_name(result), _figure_text(result), [_chart(result), _table(result)]),
            Section("Longest lag learned", "", [_longest(result)]),
            *_foretold(result),
            Section("The task", f"Source: {probe.source}.", list(_task(result))),
            Section("Every network", "", [_networks(result), _settings(result)]),
        ],
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        version=versions()["recur"],
    )


def _name(result: ProbeResult) -> str:
    return "Accuracy by lag" if result.probe.classes else "Error by lag"


def _span(lags: list[int]) -> str:
    low, high = min(lags), max(lags)
    return f"{high}" if low == high else f"{low} to {high}"


def _figure_text(result: ProbeResult) -> str:
    probe, seeds = result.probe, len(result.options.seed)
    what = "Share of right answers" if probe.classes else "Mean squared error"
    below = figure(probe, LEARNED * probe.chance)
    learned = f"accuracy of at least {below}" if probe.classes else f"error of at most {below}"
    over = f"mean over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"{what} on {result.options.test_rows:,} rows that no network was trained or chosen on, {over}. A lag is "
        f"learned from an {learned} on: {LEARNED:.0%} of the error of guessing. The rules answered the same rows."
    )


def _chart(result: ProbeResult) -> LineChart:
    probe, lags = result.probe, sorted(result.options.lag)

    def shown(error: float) -> float:
        return 1 - error if probe.classes else error

    series = [
        Series(cell, lags, [shown(point.interval[0]) for point in result.points if point.cell == cell])
        for cell in result.options.cell
    ]
    series += [
        Series(f"rule: {name}", lags, [shown(result.rules[lag][name]) for lag in lags])
        for name in result.rules[lags[0]]
    ]
    label = "accuracy" if probe.classes else "mean squared error"
    return LineChart(_name(result), "lag in steps", label, series, y_log=not probe.classes)


def _table(result: ProbeResult) -> Table:
    probe, lags = result.probe, sorted(result.options.lag)
    rows: list[list[str | float | int]] = [
        [cell, *(cell_text(probe, point) for point in result.points if point.cell == cell)]
        for cell in result.options.cell
    ]
    rows += [
        [f"rule: {name}", *(figure(probe, result.rules[lag][name]) for lag in lags)] for name in result.rules[lags[0]]
    ]
    note = "Mean with its 95% interval over the seeds (Student's t), and in brackets how many seeds learned the lag."
    return Table("Mean over the seeds", ["", *(f"lag {lag}" for lag in lags)], rows, note=note)


def _longest(result: ProbeResult) -> Table:
    seeds = result.options.seed
    rows: list[list[str | float | int]] = [
        [cell, *(result.longest(cell, seed) for seed in seeds)] for cell in result.options.cell
    ]
    return Table("By seed", ["", *(f"seed {seed}" for seed in seeds)], rows, note="0: none of the lags tried.")


def _foretold(result: ProbeResult) -> Iterator[Section]:
    if not result.options.flow:
        return
    pairs: list[list[str | float | int]] = [
        [f"{cell}, seed {seed}", result.longest(cell, seed), *_horizons(result, cell, seed)]
        for cell in result.options.cell
        for seed in result.options.seed
    ]
    counts: list[list[str | float | int]] = [
        [name, *(foretold.counts[name] for foretold in result.foretold)] for name in result.foretold[0].counts
    ]
    text = (
        "The horizon is how many steps back a change of the state still changes the last state by 1% to 100 times as "
        "much, on test rows, before and after training. A lag is foretold where the horizon covers it.\n\n"
    )
    yield Section(
        "What the gradient flow foretold",
        text + ". ".join(sentence[0].upper() + sentence[1:] for sentence in map(foretold_text, result.foretold)) + ".",
        [
            _norms(result),
            Table(
                f"Horizon on rows of lag {max(result.options.lag)}, and longest lag learned",
                ["", "longest lag learned", "horizon before training", "horizon after training"],
                pairs,
            ),
            Table("Networks by what was foretold and what came", ["", "before training", "after training"], counts),
        ],
    )


def _flow(result: ProbeResult, cell: str, seed: int, when: str) -> Mapping[str, Any] | None:
    """Return the flow of a network of the longest lag."""
    case = (cell, max(result.options.lag), seed)
    lines = [line for line in result.networks if (line["cell"], line["lag"], line["seed"]) == case]
    found: Mapping[str, Any] | None = lines[0]["flow"][when]
    return found


def _horizons(result: ProbeResult, cell: str, seed: int) -> list[float]:
    flows = [_flow(result, cell, seed, when) for when in WHEN]
    return [math.nan if flow is None else flow["horizon"] for flow in flows]


def _norms(result: ProbeResult) -> LineChart:
    seed = result.options.seed[0]
    series = []
    for when, name in zip(WHEN, ("before", "after"), strict=True):
        for cell in result.options.cell:
            flow = _flow(result, cell, seed, when)
            if flow is not None:
                norms = [-math.inf if norm is None else norm for norm in flow["log_norms"]]
                series.append(Series(f"{cell} {name}", flow["lags"], norms))
    title = f"What a change of the state changes later, before and after training on lag {max(result.options.lag)}"
    return LineChart(f"{title}, seed {seed}", "steps back", "norm of dh_last/dh", series, in_logs=True)


def _task(result: ProbeResult) -> Iterator[Block]:
    probe, lag = result.probe, min(result.options.lag)
    drawn = probe.draw(np.random.default_rng(0), 5, lag)
    yield Table("Rows of the shortest lag", ["is read", "is asked"], [list(row) for row in probe.written(drawn)])
    yield Command(shlex.join(["recur", "probe", probe.name, *_flags(result.options)]))


def _flags(options: ProbeOptions) -> Iterator[str]:
    """Yield the flags of what is not at its default and makes the result."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name not in options.plain():
            continue
        if isinstance(value, bool):
            yield flag(field.name) if value else f"--no-{flag(field.name)[2:]}"
        else:
            yield from (flag(field.name), ",".join(map(str, value)) if isinstance(value, tuple) else str(value))


def _networks(result: ProbeResult) -> Table:
    rows: list[list[str | float | int]] = [
        [
            line["cell"],
            line["lag"],
            line["seed"],
            "diverged" if line["left"] is None else figure(result.probe, error_of(result.probe, line)),
            "yes" if line["learned"] else "no",
            line.get("best_step", math.nan),
            line.get("steps", math.nan),
            line["parameters"],
            line.get("seconds", math.nan),
        ]
        for line in result.networks
    ]
    name = "accuracy" if result.probe.classes else "error"
    columns = ["cell", "lag", "seed", f"test {name}", "learned", "best step", "steps", "parameters", "seconds"]
    return Table("Networks", columns, rows)


def _settings(result: ProbeResult) -> Settings:
    shown = {
        name.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in result.options.plain().items()
    }
    return Settings({"Networks and training": shown, "Versions": versions()})
