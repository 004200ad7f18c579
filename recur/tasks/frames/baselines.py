"""What simple methods reach on the same sequences: the largest class, nearest mean, logistic regression, and more."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.frames import Frames
from recur.errors import MissingExtra
from recur.tasks.figures import wilson
from recur.tasks.frames.convolutions import random_convolutions
from recur.tasks.frames.parts import Part
from recur.tasks.job import Baseline

Guesses = NDArray[np.int64]
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
MOST_ROWS, MOST_FEATURES = 10_000, 4096
"""More sequences or numbers of one than simple methods learn from in little time."""


def run_baselines(
    train: Part,
    validation: Part,
    test: Part,
    classes: int,
    names: Sequence[str],
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[list[Baseline], list[str]]:
    """Train the baselines and score them; settings are chosen on the validation part, the test part is scored once.

    Args:
        train: what they learn from; of many sequences a sample.
        validation: what chooses their settings.
        test: what they are scored on.
        classes: number of classes.
        names: which of `BASELINES`; those that cannot be are left out.
        progress: called with a baseline's name before it starts.

    Returns:
        What they reached, and what a person should know of it.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    results, notes = [], []
    sample = train.sample(MOST_ROWS)
    if len(sample.labels) < len(train.labels):
        notes.append(
            f"the baselines learn from {len(sample.labels):,} of {len(train.labels):,} training sequences, drawn by "
            "chance"
        )
    for name in names:
        description, fits, run = BASELINES[name]
        if not all(map(fits, (sample.frames, validation.frames, test.frames))):
            continue
        progress(name)
        start = time.perf_counter()
        guesses = run(sample, validation, test, classes)
        chosen, reached = _accuracy(guesses[0], validation.labels), _accuracy(guesses[1], test.labels)
        rows = len(test.labels)
        interval = wilson(round(reached * rows), rows)
        results.append(Baseline(name, description, chosen, reached, time.perf_counter() - start, interval))
    return results, notes


def _majority(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    most = np.bincount(train.labels, minlength=classes).argmax()
    return [np.full(len(part.labels), most) for part in (validation, test)]


def _nearest_mean(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    learned, *others = _scaled([_means(part.frames) for part in (train, validation, test)])
    middles = np.stack([learned[train.labels == number].mean(axis=0) for number in range(classes)])
    return [((x[:, None] - middles) ** 2).sum(axis=2).argmin(axis=1) for x in others]


def _mean_and_deviation(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    tables = [np.hstack([_means(p.frames), _deviations(p.frames)]) for p in (train, validation, test)]
    return _logistic(_scaled(tables), train.labels, validation.labels)


def _flattened(train: Part, validation: Part, test: Part, classes: int) -> list[Guesses]:
    tables = [part.frames.padded(np.arange(len(part.labels)))[0] for part in (train, validation, test)]
    flat = [table.reshape(len(table), -1).astype(np.float64) for table in tables]
    # all by one deviation, as numbers that hardly vary would be stretched without end
    mean, deviation = flat[0].mean(axis=0), flat[0].std() or 1.0
    return _logistic([(table - mean) / deviation for table in flat], train.labels, validation.labels)


def _flat(frames: Frames) -> bool:
    """Say whether sequences are of one length, and not too long to be laid side by side."""
    lengths = frames.lengths
    return bool((lengths == lengths[0]).all()) and int(lengths[0]) * frames.size <= MOST_FEATURES


def _logistic(tables: list[NDArray[np.float64]], labels: Guesses, chosen: Guesses) -> list[Guesses]:
    """Return the answers of logistic regression on the second and the third table, of the best strength."""
    linear, warning = _sklearn()
    learned, *others = tables

    def candidates() -> Iterator[list[Guesses]]:
        for strength in STRENGTHS:
            model = linear.LogisticRegression(C=strength, max_iter=500)
            with warnings.catch_warnings():
                # not having converged matters little here: the validation part judges
                warnings.filterwarnings("ignore", category=warning)
                model.fit(learned, labels)
            yield [model.predict(x) for x in others]

    return max(candidates(), key=lambda guesses: _accuracy(guesses[0], chosen))


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


def _any(frames: Frames) -> bool:
    return True


BASELINES: dict[str, tuple[str, Callable[[Frames], bool], Callable[[Part, Part, Part, int], list[Guesses]]]] = {
    "majority": ("always the most frequent label of the training part", _any, _majority),
    "nearest-mean": ("the label whose average frame is nearest; knows no order", _any, _nearest_mean),
    "mean-and-deviation": (
        "logistic regression on mean and deviation of the frames; knows no order",
        _any,
        _mean_and_deviation,
    ),
    "flattened": ("logistic regression on all numbers of the sequence side by side", _flat, _flattened),
    "random-convolutions": (
        "ridge regression on what random convolutions find (after Dempster et al. 2020)",
        _any,
        random_convolutions,
    ),
}
"""By name: a line for a reader, whether it can be, and the function that answers for validation and test part."""
