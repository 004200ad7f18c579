"""The report of a run: the comparison first, then how it was learned, then what the task draws, then the details."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from recur.flow.growth import TEXT, growth_blocks, horizon_chart
from recur.report import (
    Bar,
    BarChart,
    Block,
    Command,
    Fact,
    LineChart,
    Note,
    Report,
    Section,
    Series,
    Settings,
    Table,
)
from recur.tasks.job import Member, Result
from recur.tasks.job_result import between, seeds_interval
from recur.tasks.options import TrainingOptions
from recur.tasks.progress import duration
from recur.tasks.run import versions

HORIZON = (
    "How many steps back the gradient of the loss stays within 1% and 100 times of that at the end, in one batch now "
    "and then; the report of each network has more."
)

# what a note warns of rather than tells
WARNINGS = ("training file too", "copy of the last value", "does not beat")


def compose_report(result: Result[Any], files: Mapping[str, Any]) -> Report:
    """Say what a run found.

    Args:
        result: what it found.
        files: fingerprints of the data.
    """
    own = result.task.report(result)
    return Report(
        title=f"{', '.join(result.cells)} on {files['train']['file']}",
        lead=" ".join(filter(None, [own.lead, _rival(result)])),
        facts=list(_facts(result)),
        sections=[
            Section("Comparison", _comparison_text(result), [*_comparison(result), *_warnings(result)]),
            Section("Learning", _learning_text(result), list(_learning(result))),
            *_memory(result),
            *own.sections,
            Section("Use it", own.tried_on, [Command(shlex.join(own.command))]),
            Section("Details", "", [*own.data, _settings(result)]),
        ],
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        version=versions()["recur"],
    )


def _rival(result: Result[Any]) -> str:
    """Say how the best network stands to the strongest baseline."""
    strongest, figure, best = result.strongest, result.figure, result.best
    if strongest is None or strongest.test is None:
        return ""
    text = f"The strongest baseline, {strongest.name}, reaches {figure.show(strongest.test)}"
    interval = getattr(best.test, "interval", None)
    value = result.value(best.test)
    low, high = interval or (value, value)
    if low <= strongest.test <= high:
        return f"{text}: no clear difference."
    return f"{text}, which is {'more' if strongest.test > value else 'less'}."


def _facts(result: Result[Any]) -> Iterator[Fact]:
    best, figure = result.best, result.figure
    name, interval = figure.title, getattr(best.test, "interval", None)
    counted = f"{result.rows['test']:,} {figure.unit}"
    around = f"95% interval {between(figure, interval)}, {counted}" if interval else counted
    yield Fact(f"test {name}", figure.show(result.value(best.test)), around)
    parts = f"{result.rows['validation']:,} {figure.unit}"
    yield Fact(f"validation {name}", figure.show(result.value(best.validation)), parts)
    if result.strongest:
        yield Fact("strongest baseline", figure.show(result.strongest.test or 0.0), result.strongest.name)
    yield Fact("parameters", f"{best.trained.parameters:,}")
    seconds = math.fsum(m.trained.seconds for m in result.members)
    yield Fact("training", duration(seconds), f"{sum(len(m.trained.training.history) for m in result.members)} epochs")


def _comparison_text(result: Result[Any]) -> str:
    seeds = max(len(group) for group in result.cells.values())
    figure = result.figure
    sense = "" if figure.rising else "; less is better"
    text = f"Test {figure.title}{sense}. The test part was scored once, at the end."
    if seeds > 1:
        return f"{text} The whiskers of the networks are 95% intervals of the mean over {seeds} seeds (Student's t)."
    if getattr(result.best.test, "interval", None) is not None:
        return f"{text} The whiskers are 95% intervals for the number of test {figure.unit}."
    return text


def _comparison(result: Result[Any]) -> Iterator[Block]:
    figure = result.figure
    name = figure.title
    bars = []
    for cell, group in result.cells.items():
        if len(group) > 1:
            mean, interval = seeds_interval(figure, [result.value(m.test) for m in group])
            note = f"{len(group)} seeds"
        else:
            mean, interval, note = result.value(group[0].test), getattr(group[0].test, "interval", None), ""
        low, high = interval or (None, None)
        bars.append(Bar(cell, mean, low, high, own=True, note=note))
    for baseline in result.baselines:
        low, high = baseline.interval or (None, None)
        bars.append(Bar(baseline.name, baseline.test or 0.0, low, high, note=baseline.description))
    yield BarChart(f"Test {name}", bars, as_percent=figure.share)
    if len(result.members) > 1:
        yield Table(
            "Every network",
            ["", f"test {name}", f"validation {name}", "parameters", "best epoch", "seconds"],
            [
                [
                    m.trained.name,
                    figure.show(result.value(m.test)),
                    figure.show(result.value(m.validation)),
                    m.trained.parameters,
                    m.trained.training.best_epoch,
                    round(m.trained.seconds),
                ]
                for m in result.members
            ],
            note=f"The best on the validation part, {result.best.trained.name}, is the one that predicts.",
        )


def _warnings(result: Result[Any]) -> list[Block]:
    return [Note("warning" if any(mark in note for mark in WARNINGS) else "info", note) for note in result.notes]


def _learning_text(result: Result[Any]) -> str:
    skipped = sum(line["skipped_steps"] for m in result.members for line in m.trained.training.history)
    monitor = result.best.trained.setup.objective.monitor
    text = f"The network of the epoch with the best validation {monitor} is kept."
    return f"{text} {skipped} steps with gradients that were not finite were left out." if skipped else text


def _learning(result: Result[Any]) -> Iterator[Block]:
    history = result.best.trained.training.history
    figures = [name for name in reversed(history[0]["validation"]) if name in history[0]["train"]]
    if len(result.members) == 1:
        marks = [(result.best.trained.training.best_epoch, "kept")]
        for figure in figures:
            series = [_series(result.best, part, figure, part) for part in ("train", "validation")]
            yield LineChart(figure.capitalize(), "epoch", figure, series, marks=marks)
        return
    for figure in figures:
        series = [_series(m, "validation", figure, m.trained.name) for m in result.members]
        yield LineChart(f"Validation {figure}", "epoch", figure, series)


def _series(member: Member, part: str, figure: str, name: str) -> Series:
    history = member.trained.training.history
    values = [line[part][figure] for line in history]
    return Series(name, [line["epoch"] for line in history], [float("nan") if v is None else v for v in values])


def _memory(result: Result[Any]) -> Iterator[Section]:
    """Yield how memory grew while training; of several networks only how far back each reached."""
    watched = {m.trained.name: m.trained.training.watch.lines for m in result.members if m.trained.training.watch}
    if len(result.members) == 1 and watched:
        yield Section("Memory", TEXT, list(growth_blocks(*watched.values())))
    elif watched:
        yield Section("Memory", HORIZON, [horizon_chart(watched)])


def _settings(result: Result[Any]) -> Settings:
    training = {field.name for field in dataclasses.fields(TrainingOptions)}
    groups: dict[str, dict[str, str]] = {"Data and network": {}, "Training": {}, "Versions": versions()}
    for name, value in result.options.plain().items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        groups["Training" if name in training else "Data and network"][name.replace("_", " ")] = shown
    return Settings(groups)
