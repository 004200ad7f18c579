"""Figures of a run: means over batches, scores of predictions, intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Sums:
    """Means of figures over batches of different sizes; batches in which a figure is not finite are left out."""

    def __init__(self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        self.sums = dict(sums or {})
        self.counts = dict(counts or {})

    def add(self, means: Mapping[str, Any], count: int) -> None:
        """Take the means of a batch of `count` items in; a pair is a mean and the number of its own items."""
        for name, mean in means.items():
            value, items = mean if isinstance(mean, tuple) else (mean, count)
            number = float(value.detach())
            finite = math.isfinite(number)
            self.sums[name] = self.sums.get(name, 0.0) + (number * items if finite else 0.0)
            self.counts[name] = self.counts.get(name, 0) + (items if finite else 0)

    def mean(self, name: str) -> float:
        """Return the mean of a figure, NaN if there is none."""
        return self.sums[name] / self.counts[name] if self.counts.get(name) else math.nan

    def means(self) -> dict[str, float | None]:
        """Return all means; None where no batch was finite."""
        return {name: self.mean(name) if self.counts[name] else None for name in self.sums}

    def state(self) -> list[dict[str, Any]]:
        """Return the arguments that make an equal one."""
        return [self.sums, self.counts]


@dataclass(frozen=True)
class Scores:
    """What predictions of classes are worth."""

    accuracy: float
    interval: tuple[float, float]
    """95% interval of the accuracy, from the number of rows alone."""
    macro_f1: float
    """Mean of the classes' F1, each class counting alike."""
    loss: float
    """Mean of -log(probability of the true class)."""
    rows: int
    confusion: list[list[int]]
    """confusion[true][predicted], in rows."""
    notes: tuple[str, ...] = ()
    """What a person should know of the rows."""


def score(probabilities: NDArray[np.float32], labels: NDArray[np.integer[Any]]) -> Scores:
    """Score predictions.

    Args:
        probabilities: [n, C].
        labels: true classes [n] in 0..C-1, n at least 1.
    """
    classes, labels = probabilities.shape[1], labels.astype(np.int64)
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    right = confusion.diagonal()
    present = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2 * right / np.maximum(present, 1)
    own = np.clip(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-12, 1.0)
    return Scores(
        accuracy=float(right.sum() / len(labels)),
        interval=wilson(int(right.sum()), len(labels)),
        # a class that neither occurs nor is predicted has no F1
        macro_f1=float(f1[present > 0].mean()),
        loss=float(-np.log(own).mean()),
        rows=len(labels),
        confusion=confusion.tolist(),
    )


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95% score interval of a share (Wilson 1927), `right` of `rows`."""
    z = 1.959964
    share = right / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


# quantiles 0.975 of Student's t with 1, 2, ... 30 degrees of freedom
T_975 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]
T_975 += [2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95% interval (Student's t), infinite for a single value."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, math.inf
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = T_975[n - 2] if n - 1 <= len(T_975) else 1.96 + 2.5 / (n - 1)
    return mean, quantile * deviation / math.sqrt(n)


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the correlation of two series; None where one of them does not vary."""
    a, b = (np.asarray(values, dtype=np.float64) - np.mean(values) for values in (x, y))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else None


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the correlation of the ranks of two series, equal values sharing theirs; None where one does not vary."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: Sequence[float]) -> list[float]:
    array = np.asarray(values, dtype=np.float64)
    return [float((array < value).sum() + (array == value).sum() / 2) for value in array]
