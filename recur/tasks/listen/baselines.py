"""What simple methods reach on the same sounds: the largest class, the nearest mean, logistic regression."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.frames import Frames
from recur.errors import MissingExtra
from recur.tasks.figures import wilson
from recur.tasks.job import Baseline
from recur.tasks.listen.data import Part

Guesses = NDArray[np.int64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def run_baselines(
    train: Part, validation: Part, test: Part, classes: int, progress: Callable[[str], None] = lambda name: None
) -> list[Baseline]:
    """Train the baselines and score them; settings are chosen on the validation part, the test part is scored once.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    results = []
    for name, (description, run) in BASELINES.items():
        progress(name)
        start = time.perf_counter()
        guesses = run(train, validation, test, classes)
        chosen, reached = _accuracy(guesses[0], validation.labels), _accuracy(guesses[1], test.labels)
        rows = len(test.labels)
        interval = wilson(round(reached * rows), rows)
        results.append(Baseline(name, description, chosen, reached, time.perf_counter() - start, interval))
    return results


def _majority(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    most = np.bincount(train.labels, minlength=classes).argmax()
    return [np.full(len(part.labels), most) for part in (validation, test)]


def _nearest_mean(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    learned, *others = _scaled([_means(part.frames) for part in (train, validation, test)])
    middles = np.stack([learned[train.labels == number].mean(axis=0) for number in range(classes)])
    return [((x[:, None] - middles) ** 2).sum(axis=2).argmin(axis=1) for x in others]


def _logistic(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    linear, warning = _sklearn()
    learned, *others = _scaled(
        [np.hstack([_means(p.frames), _deviations(p.frames)]) for p in (train, validation, test)]
    )

    def candidates() -> Iterator[list[Guesses]]:
        for strength in STRENGTHS:
            model = linear.LogisticRegression(C=strength, max_iter=500)
            with warnings.catch_warnings():
                # not having converged matters little here: the validation part judges
                warnings.filterwarnings("ignore", category=warning)
                model.fit(learned, train.labels)
            yield [model.predict(x) for x in others]

    return max(candidates(), key=lambda guesses: _accuracy(guesses[0], validation.labels))


def _means(frames: Frames) -> NDArray[np.float64]:
    return np.stack([frames[row].mean(axis=0, dtype=np.float64) for row in range(len(frames))])


def _deviations(frames: Frames) -> NDArray[np.float64]:
    return np.stack([frames[row].std(axis=0, dtype=np.float64) for row in range(len(frames))])


def _scaled(tables: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Bring the columns of the first table to mean 0 and deviation 1, and the others with it."""
    mean, deviation = tables[0].mean(axis=0), tables[0].std(axis=0)
    return [(table - mean) / np.where(deviation > 0, deviation, 1.0) for table in tables]


def _accuracy(guesses: Guesses, labels: NDArray[np.int64]) -> float:
    return float((guesses == labels).mean())


def _sklearn() -> tuple[Any, type[Warning]]:
    try:
        from sklearn import linear_model
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise MissingExtra("scikit-learn", "train", "The linear baseline") from error
    return linear_model, ConvergenceWarning


BASELINES: dict[str, tuple[str, Callable[[Part, Part, Part, int], list[Guesses]]]] = {
    "majority": ("always the most frequent label of the training part", _majority),
    "nearest-mean": ("the label whose sounds' average frame is nearest; knows no order", _nearest_mean),
    "mean-and-deviation": ("logistic regression on mean and deviation of the frames; knows no order", _logistic),
}
"""By name: a line for a reader, and the function that returns the answers on validation and test part."""
