"""What a run of `recur train classify` found: as values, as metrics.json, and as the table on the screen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recur.models.classifier import Classifier
from recur.tasks.baselines import Baseline, Part
from recur.tasks.classify_data import Corpus
from recur.tasks.classify_model import Probabilities
from recur.tasks.classify_options import ClassifyOptions
from recur.tasks.figures import Scores, mean_interval, wilson
from recur.tasks.training import Training


@dataclass(frozen=True)
class Trained:
    """One cell with one seed, trained."""

    options: ClassifyOptions
    model: Classifier
    training: Training
    padding_share: float
    """Share of padding in the training batches, 0..1."""
    coverage: float | None
    """Share of the vocabulary that has a pretrained vector, if there are such."""

    @property
    def name(self) -> str:
        """Cell and seed."""
        return f"{self.options.cell[0]}-{self.options.seed[0]}"

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return math.fsum(line["seconds"] for line in self.training.history)


@dataclass(frozen=True)
class Member:
    """The same, scored."""

    trained: Trained
    validation: Scores
    test: Scores
    probabilities: Probabilities
    """Of the test part, [n, C]."""


@dataclass(frozen=True)
class Result:
    """All that a run found."""

    options: ClassifyOptions
    corpus: Corpus
    test: Part
    members: list[Member]
    baselines: list[Baseline]
    growth: list[tuple[int, int, int]]
    """n, distinct n-grams and distinct 1- to n-grams of the training part; empty without baselines."""
    notes: list[str]

    @property
    def best(self) -> Member:
        """The member with the best validation accuracy; where equal, the one with the smaller validation loss."""
        return max(self.members, key=lambda m: (m.validation.accuracy, -m.validation.loss))

    @property
    def cells(self) -> dict[str, list[Member]]:
        """The members of each cell."""
        cells: dict[str, list[Member]] = {}
        for member in self.members:
            cells.setdefault(member.trained.options.cell[0], []).append(member)
        return cells


def member_metrics(result: Result, member: Member) -> dict[str, Any]:
    """Return metrics.json of one cell and seed."""
    trained, training = member.trained, member.trained.training
    history = training.history
    unfinite: dict[str, int] = {}
    for line in history:
        for name, count in line["nonfinite"].items():
            unfinite[name] = unfinite.get(name, 0) + count
    return {
        "cell": trained.options.cell[0],
        "seed": trained.options.seed[0],
        "test": asdict(member.test),
        "validation": asdict(member.validation),
        "baselines": _baselines(result),
        "parameters": trained.model.parameter_count,
        "seconds": trained.seconds,
        "seconds_per_epoch": trained.seconds / len(history),
        "epochs": len(history),
        "best_epoch": training.best_epoch,
        "padding_share": trained.padding_share,
        "clipped_steps": sum(line["clipped_steps"] for line in history),
        "skipped_steps": sum(line["skipped_steps"] for line in history),
        "nonfinite_gradients": unfinite,
        **({} if trained.coverage is None else {"vector_coverage": trained.coverage}),
        "labels": result.corpus.labels,
        "rows": _rows(result),
        "words": len(result.corpus.encoder.vocabulary.words),
        "notes": result.notes,
    }


def run_metrics(result: Result) -> dict[str, Any]:
    """Return metrics.json of a run with several members: the figures of the best one, and what sets them apart."""
    members = [member_metrics(result, member) for member in result.members]
    cells = {}
    for cell, group in result.cells.items():
        mean, half = mean_interval([m.test.accuracy for m in group])
        # a single seed has no interval of its mean, and JSON no infinity
        interval = None if math.isinf(half) else [max(0.0, mean - half), min(1.0, mean + half)]
        cells[cell] = {"test": {"accuracy": mean, "interval": interval}, "seeds": len(group)}
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


def summary(metrics: Mapping[str, Any]) -> str:
    """Return the table of a run, from its metrics.json: the networks and, below, the baselines."""
    rows = metrics["rows"]["test"]
    lines: list[Sequence[str]] = [("", "test", "95% interval", "validation", "parameters", "s/epoch")]
    members = metrics.get("members") or {f"{metrics['cell']}-{metrics['seed']}": metrics}
    for name, one in members.items():
        per_epoch = one.get("seconds_per_epoch")
        lines.append(
            (
                name,
                percent(one["test"]["accuracy"]),
                between(one["test"]["interval"]),
                percent(one["validation"]["accuracy"]),
                f"{one['parameters']:,}",
                "" if per_epoch is None else f"{per_epoch:.1f}",
            )
        )
    for cell, one in metrics.get("cells", {}).items():
        if one["seeds"] > 1:
            test = one["test"]
            lines.append((f"{cell}, mean of {one['seeds']}", percent(test["accuracy"]), between(test["interval"])))
    for name, one in metrics["baselines"].items():
        interval = wilson(round(one["accuracy"] * rows), rows)
        lines.append((f"baseline {name}", percent(one["accuracy"]), between(interval), percent(one["validation"])))
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


def percent(share: float) -> str:
    """Return a share as percent with two decimals."""
    return f"{share:.2%}"


def between(interval: Sequence[float]) -> str:
    """Return an interval of shares."""
    return f"{interval[0]:.2%} - {interval[1]:.2%}"


def _baselines(result: Result) -> dict[str, Any]:
    return {
        b.name: {"accuracy": b.test, "validation": b.validation, "seconds": b.seconds, "description": b.description}
        for b in result.baselines
    }


def _rows(result: Result) -> dict[str, int]:
    corpus = result.corpus
    parts = {"train": corpus.train, "validation": corpus.validation, "test": result.test}
    return {name: len(part.labels) for name, part in parts.items()}
