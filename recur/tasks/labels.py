"""What tasks share that give each row one label: answers, scores as text, and what the report draws of mistakes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.report import Block, Confusion, Table
from recur.tasks.figures import Scores
from recur.tasks.job_result import columns, percent

MOST_CLASSES = 30


@dataclass(frozen=True)
class Prediction:
    """What a network says of a row."""

    label: str
    """The most probable class."""
    probability: float
    """Its probability."""
    probabilities: dict[str, float]
    """That of every class."""


def predictions(labels: Sequence[str], probabilities: NDArray[np.float32]) -> Iterator[Prediction]:
    """Yield the answer for each row of probabilities [n, C]."""
    for row in probabilities.tolist():
        best = max(range(len(row)), key=row.__getitem__)
        yield Prediction(labels[best], row[best], dict(zip(labels, row, strict=True)))


def scores_text(labels: Sequence[str], scores: Scores, unit: str) -> str:
    """Return accuracy, F1, loss and the confusion as lines for the terminal."""
    low, high = map(percent, scores.interval)
    counts = [[name, *map(str, row)] for name, row in zip(labels, scores.confusion, strict=True)]
    lines = [
        f"accuracy  {percent(scores.accuracy)}  (95% interval {low} - {high}, {scores.rows:,} {unit})",
        f"macro F1  {scores.macro_f1:.4f}",
        f"loss      {scores.loss:.4f}",
        "",
        *(f"note: {note}" for note in scores.notes),
        columns([["true \\ predicted", *labels], *counts]),
    ]
    return "\n".join(lines)


def confusion_block(labels: Sequence[str], confusion: Sequence[Sequence[int]], unit: str) -> Block:
    """Return the confusion of the classes; of many the most frequent mix-ups."""
    counts = np.array(confusion)
    if len(labels) <= MOST_CLASSES:
        return Confusion(list(labels), counts.tolist())
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST_CLASSES]
    pairs = [np.unravel_index(i, errors.shape) for i in order if errors.flat[i]]
    rows: list[list[str | float | int]] = [[labels[t], labels[p], int(errors[t, p])] for t, p in pairs]
    return Table("Most frequent mix-ups", ["true", "predicted", unit], rows)


def surest_mistakes(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that are wrong, those of the most confidence first."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != truth)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
