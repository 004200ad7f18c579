"""What tasks share that give each row one label: how parts are cut, answers, scores as text, pictures of mistakes."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError
from recur.report import Block, Confusion, Table
from recur.tasks.figures import Scores
from recur.tasks.job_result import columns, percent

Rows = NDArray[np.integer[Any]]
MOST_CLASSES = 30
SHOWN_LABELS = 10


def in_order(names: Iterable[str]) -> list[str]:
    """Return different labels in the order of their classes: by number where all are whole numbers, else as texts."""
    names = set(names)
    numeric = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numeric else None)


def class_numbers(found: Sequence[str], labels: Sequence[str], place: Callable[[int], str]) -> NDArray[np.int64]:
    """Return the number of each label's class.

    Args:
        found: the labels [n].
        labels: the classes.
        place: where the label of a row stands.

    Raises:
        InputError: a label is not among the classes.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    for row, label in enumerate(found):
        if label not in numbers:
            shown = ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
            raise InputError(
                f"{place(row)}: the label {str(label)!r} is not among those of the training data, {shown}; correct it, "
                "or take such rows out"
            )
    return np.array([numbers[label] for label in found], dtype=np.int64)


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


def split(numbers: Rows, validation: float, test: float) -> tuple[Rows, Rows, Rows]:
    """Cut rows into training, validation and test part by chance, each class in the same shares.

    The cut is a function of the arguments alone: runs with other seeds have the same parts.

    Args:
        numbers: class of each row [n].
        validation: share of what is no test part, may be 0.
        test: share, may be 0.

    Returns:
        The row numbers of each part, rising. A class of two rows or more has one in the validation part at least, and
        of three or more in the test part, if there are such parts.
    """
    generator = np.random.default_rng(0)
    parts: tuple[list[Rows], ...] = ([], [], [])
    for number in np.flatnonzero(np.bincount(numbers)):
        rows = generator.permutation(np.flatnonzero(numbers == number))
        n_test = min(max(1, round(test * len(rows))), len(rows) - 2) if test and len(rows) > 2 else 0
        left = len(rows) - n_test
        n_validation = min(max(1, round(validation * left)), left - 1) if validation else 0
        for part, piece in zip(parts, np.split(rows, [left - n_validation, left]), strict=True):
            part.append(piece)
    train, validation_rows, test_rows = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation_rows, test_rows
