"""What simple methods reach on the same pictures: the most frequent answer, the nearest picture, a line by frame."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.pictures import Clips
from recur.errors import MissingExtra
from recur.tasks.caption.data import Captions, Part
from recur.tasks.caption.scores import figure_name, resampled, texts_scores
from recur.tasks.job import Baseline

SIDE = 16  # places that each side of a picture is averaged to
FRAMES = 8  # of a clip that are compared, at even distances
MOST_FRAMES = 20_000  # that a linear method learns from
CHUNK = 256

Features = NDArray[np.float32]


def caption_baselines(
    encoder: Captions, train: Part, validation: Part, test: Part, say: Callable[[str], None]
) -> list[Baseline]:
    """Score the most frequent caption, and that of the nearest training picture."""

    def frequent() -> list[list[str]]:
        counts = Counter(text for picture in train.pictures for text in picture.texts)
        most = min(counts, key=lambda text: (-counts[text], text))
        return [[most] * len(part.pictures) for part in (validation, test)]

    def nearest() -> list[list[str]]:
        known = _features(train.clips)
        return [
            [train.pictures[row].texts[0] for row in _nearest(known, _features(part.clips))]
            for part in (validation, test)
        ]

    name = figure_name(len(test.targets) / len(test.pictures))
    results = []
    for baseline, description, answer in (
        ("frequent", "the most frequent training caption", frequent),
        ("nearest", f"a caption of the training picture with the nearest pixels, {SIDE} x {SIDE} means", nearest),
    ):
        say(baseline)
        begun = time.perf_counter()
        scores = [
            texts_scores(encoder, texts, [picture.texts for picture in part.pictures])
            for part, texts in zip((validation, test), answer(), strict=True)
        ]
        reached = [float(getattr(one, name)) for one in scores]
        interval = getattr(scores[1], f"{name}_interval")
        results.append(Baseline(baseline, description, reached[0], reached[1], time.perf_counter() - begun, interval))
    return results


def label_baselines(train: Part, validation: Part, test: Part, say: Callable[[str], None]) -> list[Baseline]:
    """Score the most frequent label, and logistic regression on the pixels of each frame by itself.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    truth = train.targets.values

    def frequent() -> list[NDArray[Any]]:
        most = np.bincount(truth).argmax()
        return [np.full(len(part.targets.values), most) for part in (validation, test)]

    def linear() -> list[NDArray[Any]]:
        chosen = np.unique(np.linspace(0, len(truth) - 1, min(MOST_FRAMES, len(truth))).astype(np.int64))
        model, warning = _logistic()
        with warnings.catch_warnings():
            # not having converged matters little here
            warnings.filterwarnings("ignore", category=warning)
            model.fit(_means([train.clips.values[chosen]]), truth[chosen])
        return [model.predict(_means(part.clips.parts())) for part in (validation, test)]

    results = []
    for baseline, description, answer in (
        ("frequent", "the most frequent training label", frequent),
        ("linear", f"logistic regression on the pixels of the frame, {SIDE} x {SIDE} means; knows no order", linear),
    ):
        say(baseline)
        begun = time.perf_counter()
        found = zip((validation, test), answer(), strict=True)
        right = [
            np.add.reduceat((given == part.targets.values).astype(np.float64), part.targets.offsets[:-1])
            for part, given in found
        ]
        reached = [float(r.sum() / len(p.targets.values)) for r, p in zip(right, (validation, test), strict=True)]
        interval = resampled(right[1], test.targets.lengths.astype(np.float64))
        results.append(Baseline(baseline, description, reached[0], reached[1], time.perf_counter() - begun, interval))
    return results


def _means(parts: Iterable[NDArray[np.uint8]]) -> Features:
    """Return the means of `SIDE` x `SIDE` parts of pictures [N, C, H, W], some at a time, 0..1, [N, features]."""
    result = []
    for pixels in parts:
        rows, columns = (_edges(size) for size in pixels.shape[2:])
        part = pixels.astype(np.float32)
        sums = np.add.reduceat(np.add.reduceat(part, rows[:-1], axis=2), columns[:-1], axis=3)
        result.append((sums / (255 * np.outer(np.diff(rows), np.diff(columns)))).reshape(len(part), -1))
    return np.concatenate(result)


def _edges(size: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, size, min(SIDE, size) + 1).round().astype(np.int64))


def _features(clips: Clips) -> Features:
    """Return the means of some frames of each clip, side by side."""
    places = np.linspace(0, 1, min(FRAMES, int(clips.lengths.max())))
    chosen = clips.offsets[:-1, None] + np.rint(places * (clips.lengths[:, None] - 1)).astype(np.int64)
    rows = (chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK))
    return _means(clips.values[part.ravel()] for part in rows).reshape(len(clips), -1)


def _nearest(known: Features, asked: Features) -> Sequence[int]:
    squares = np.square(known).sum(1)
    found: list[int] = []
    for start in range(0, len(asked), CHUNK):
        # the square of what is asked is the same for all that is known
        found += (squares - 2 * asked[start : start + CHUNK] @ known.T).argmin(1).tolist()
    return found


def _logistic() -> tuple[Any, type[Warning]]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("scikit-learn", "train", "The linear baseline") from error
    return LogisticRegression(max_iter=200), ConvergenceWarning
