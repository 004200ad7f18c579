"""What a run found: as metrics.json, and as the table on the screen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from recur.tasks.figures import mean_interval
from recur.tasks.job import Figure, Member, Result


def member_metrics(result: Result[Any], member: Member) -> dict[str, Any]:
    """Return metrics.json of one cell and seed."""
    trained, training = member.trained, member.trained.training
    history = training.history
    unfinite: dict[str, int] = {}
    for line in history:
        for name, count in line["nonfinite"].items():
            unfinite[name] = unfinite.get(name, 0) + count
    return {
        "task": result.task.name,
        "cell": trained.options.cell[0],
        "seed": trained.options.seed[0],
        "test": asdict(member.test),
        "validation": asdict(member.validation),
        "baselines": _baselines(result),
        "parameters": trained.parameters,
        "seconds": trained.seconds,
        "seconds_per_epoch": trained.seconds / len(history),
        "epochs": len(history),
        "best_epoch": training.best_epoch,
        "clipped_steps": sum(line["clipped_steps"] for line in history),
        "skipped_steps": sum(line["skipped_steps"] for line in history),
        "nonfinite_gradients": unfinite,
        **trained.setup.facts,
        **result.task.facts(result, member),
        "rows": result.rows,
        "notes": result.notes,
    }


def run_metrics(result: Result[Any]) -> dict[str, Any]:
    """Return metrics.json of a run with several members: the figures of the best one, and what sets them apart."""
    members = [member_metrics(result, member) for member in result.members]
    figure = result.figure
    cells = {}
    for cell, group in result.cells.items():
        mean, interval = seeds_interval(figure, [result.value(m.test) for m in group])
        cells[cell] = {"test": {figure.name: mean, "interval": interval}, "seeds": len(group)}
    shared = member_metrics(result, result.best)
    return shared | {
        "best": result.best.trained.name,
        "seconds": sum(member["seconds"] for member in members),
        "cells": cells,
        "members": {
            m.trained.name: {
                key: line[key]
                for key in ("test", "validation", "parameters", "seconds", "seconds_per_epoch", "best_epoch")
            }
            for m, line in zip(result.members, members, strict=True)
        },
    }


def seeds_interval(figure: Figure, values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the mean over seeds and its 95% interval (Student's t); None for a single seed."""
    mean, half = mean_interval(values)
    if math.isinf(half):
        return mean, None
    low, high = mean - half, mean + half
    return mean, (max(0.0, low), min(1.0, high)) if figure.share else (low, high)


def summary(metrics: Mapping[str, Any], figure: Figure) -> str:
    """Return the table of a run, from its metrics.json: the networks and, below, the baselines."""
    head = [figure.title, "test", "95% interval", "validation", "parameters", "s/epoch"]
    lines: list[Sequence[str]] = [head]
    members = metrics.get("members") or {f"{metrics['cell']}-{metrics['seed']}": metrics}
    for name, one in members.items():
        test, per_epoch = one["test"], one.get("seconds_per_epoch")
        lines.append(
            (
                name,
                figure.show(test[figure.name]),
                between(figure, test.get("interval")),
                figure.show(one["validation"][figure.name]),
                f"{one['parameters']:,}",
                "" if per_epoch is None else f"{per_epoch:.1f}",
            )
        )
    for cell, one in metrics.get("cells", {}).items():
        if one["seeds"] > 1:
            test = one["test"]
            name = f"{cell}, mean of {one['seeds']}"
            lines.append((name, figure.show(test[figure.name]), between(figure, test["interval"])))
    for name, one in metrics["baselines"].items():
        shown = ("" if value is None else figure.show(value) for value in (one[figure.name], one["validation"]))
        test, validation = shown
        lines.append((f"baseline {name}", test, between(figure, one["interval"]), validation))
    return columns(lines)


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Set lines of cells out in columns, the first to the left, the others to the right."""
    width = max(map(len, lines))
    full = [[*line, *[""] * (width - len(line))] for line in lines]
    sizes = [max(map(len, column)) for column in zip(*full, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(sizes[0]), *(cell.rjust(size) for cell, size in zip(line[1:], sizes[1:], strict=True))]
        ).rstrip()
        for line in full
    )


def between(figure: Figure, interval: Sequence[float] | None) -> str:
    """Return an interval as text, nothing for none."""
    return "" if interval is None else f"{figure.show(interval[0])} - {figure.show(interval[1])}"


def percent(share: float) -> str:
    """Return a share as percent with two decimals."""
    return f"{share:.2%}"


def _baselines(result: Result[Any]) -> dict[str, Any]:
    name = result.figure.name
    return {
        b.name: {
            name: b.test,
            "interval": b.interval,
            "validation": b.validation,
            "seconds": b.seconds,
            "description": b.description,
        }
        for b in result.baselines
    }
