"""What simple methods reach on the same sounds: one text for all, and words told apart one by one between pauses."""

import itertools
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.frames import Values
from recur.data.spectra import Spectra
from recur.errors import MissingExtra
from recur.tasks.job import Baseline, evenly
from recur.tasks.transcribe.data import Part, Speech
from recur.tasks.transcribe.edits import distance
from recur.tasks.transcribe.scores import count_errors

MOST_TEXTS, MOST_SOUNDS, MOST_SEGMENTS, MOST_WORDS = 100, 300, 5000, 200
SHARES, PAUSES, SHORTEST = (0.2, 0.3, 0.4, 0.5, 0.6), (2, 4, 8, 16), 5
FRAMES = 10
STRENGTHS = (0.001, 0.01, 0.1)

Write = Callable[[Part], list[str]]


def run_baselines(data: Speech, test: Part, say: Callable[[str], None]) -> list[Baseline]:
    """Train the baselines and score them; settings are chosen on the validation part, the test part is scored once.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    results = []
    for name, (description, learn) in BASELINES.items():
        say(f"baseline {name}")
        begun = time.perf_counter()
        write = learn(data)
        if write is None:
            say(f"baseline {name} left out: pauses do not cut the training sounds into their words")
            continue
        chosen, found = (count_errors(part.texts, write(part)) for part in (data.validation, test))
        rates = chosen.character_error_rate, found.character_error_rate
        results.append(Baseline(name, description, *rates, time.perf_counter() - begun, found.interval))
    return results


def _constant(data: Speech) -> Write:
    """Take the text of the training part from which the others, of a part at even distances, are the least far."""
    texts = data.train.texts
    frequent = [text for text, _ in Counter(texts).most_common(MOST_TEXTS)]
    others = [texts[row] for row in evenly(len(texts), MOST_TEXTS)]
    best = min(frequent, key=lambda text: sum(distance(other, text) for other in others))
    return lambda part: [best] * len(part.texts)


class Pauses:
    """Cuts sounds where they are soft.

    Args:
        spectra: says what in a frame is loudness.
        share: of the way from the soft to the loud frames of a sound; what is below is a pause.
        shortest: frames of a pause that counts.
    """

    def __init__(self, spectra: Spectra, share: float, shortest: int) -> None:
        self.spectra, self.share, self.shortest = spectra, share, shortest

    def __call__(self, frames: Values) -> list[Values]:
        """Return the pieces of a sound [T, D] between its pauses, those of a few frames left out."""
        loudness = frames.mean(axis=1) if self.spectra.features == "log-mel" else frames[:, 0]
        low, high = np.quantile(loudness, (0.05, 0.95))
        loud = loudness > low + self.share * (high - low)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]])))
        pieces: list[list[int]] = []
        for start, end in edges.reshape(-1, 2).tolist():
            if pieces and start - pieces[-1][1] < self.shortest:
                pieces[-1][1] = end
            else:
                pieces.append([start, end])
        return [frames[start:end] for start, end in pieces if end - start >= SHORTEST]


def _words_between_pauses(data: Speech) -> Write | None:
    """Learn words from the training sounds that pauses cut into as many pieces as their texts have words."""
    linear, scaled, warning = _sklearn()
    chosen = evenly(len(data.train.texts), MOST_SOUNDS)

    def fits(cut: Pauses, rows: NDArray[np.int64]) -> list[tuple[int, list[Values]]]:
        found = ((row, cut(data.train.frames[row])) for row in rows.tolist())
        return [(row, pieces) for row, pieces in found if len(pieces) == len(data.train.texts[row].split())]

    cuts = [Pauses(data.spectra, *pair) for pair in itertools.product(SHARES, PAUSES)]
    cut = max(cuts, key=lambda cut: len(fits(cut, chosen)))
    pieces: list[NDArray[np.float64]] = []
    words: list[str] = []
    for row, found in fits(cut, evenly(len(data.train.texts), MOST_SEGMENTS)):
        pieces += map(_resampled, found)
        words += data.train.texts[row].split()
        if len(words) >= MOST_SEGMENTS:
            break
    frequent = dict(Counter(words).most_common(MOST_WORDS))
    learned = [(piece, word) for piece, word in zip(pieces, words, strict=True) if frequent.get(word, 0) > 1]
    if len({word for _, word in learned}) < 2:
        return None

    def writer(strength: float) -> Write:
        model = scaled(linear(C=strength, max_iter=200))
        with warnings.catch_warnings():
            # not having converged matters little here: the validation part judges
            warnings.filterwarnings("ignore", category=warning)
            model.fit(np.stack([piece for piece, _ in learned]), [word for _, word in learned])

        def write(part: Part) -> list[str]:
            sounds = [cut(part.frames[row]) for row in range(len(part.texts))]
            every = [_resampled(piece) for sound in sounds for piece in sound]
            guesses = iter(model.predict(np.stack(every)).tolist() if every else [])
            return [" ".join(itertools.islice(guesses, len(sound))) for sound in sounds]

        return write

    def reached(write: Write) -> float:
        return count_errors(data.validation.texts, write(data.validation)).character_error_rate

    return min(map(writer, STRENGTHS), key=reached)


def _resampled(piece: Values) -> NDArray[np.float64]:
    """Return so many frames of a piece at even distances, less their mean, and the logarithm of its length."""
    frames = piece[np.linspace(0, len(piece) - 1, FRAMES).round().astype(np.int64)].astype(np.float64)
    return np.append((frames - frames.mean()).ravel(), np.log(len(piece)))


def _sklearn() -> tuple[Any, Callable[[Any], Any], type[Warning]]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra("scikit-learn", "train", "The linear baseline") from error
    return LogisticRegression, lambda model: make_pipeline(StandardScaler(), model), ConvergenceWarning


BASELINES: dict[str, tuple[str, Callable[[Speech], Write | None]]] = {
    "constant": ("for every sound the training text that is nearest to all others", _constant),
    "words-between-pauses": (
        "sounds cut at pauses, each piece told by logistic regression on ten of its frames",
        _words_between_pauses,
    ),
}
"""By name: a line for a reader, and the function that learns to write the texts of a part."""
