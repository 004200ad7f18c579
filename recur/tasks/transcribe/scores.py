"""What the texts of sounds are worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recur.data.batches import PairBatches
from recur.models.transcriber import Transcriber
from recur.tasks.decoding import GREEDY, Search
from recur.tasks.figures import Sums
from recur.tasks.many_to_one import evaluating
from recur.tasks.transcribe.data import Part
from recur.tasks.transcribe.edits import differences, distance
from recur.tasks.transcribe.model import TranscribeObjective, Written, transcribe
from recur.tasks.transcribe.units import Units

RESAMPLES = 1000


@dataclass(frozen=True)
class Errors:
    """How far texts are from what was said."""

    character_error_rate: float
    """Least edits of characters, as a share of the characters that were said; may be more than 1."""
    interval: tuple[float, float]
    """95% interval of it: the recordings drawn again, with replacement."""
    word_error_rate: float
    """The same of words."""
    exact: float
    """Share of texts without an error."""
    substitutions: int
    """Of characters."""
    deletions: int
    """Characters that were said and not written."""
    insertions: int
    """Characters that were written and not said."""
    characters: int
    """That were said."""
    rows: int


@dataclass(frozen=True)
class TranscribeScores(Errors):
    """The same, with what a network gives the true texts."""

    beam: int
    """Width of the beam of the texts; 1 for greedy ones."""
    loss: float
    """-ln p of the true texts for each unit, in nats."""
    notes: tuple[str, ...] = ()
    """What a person should know of the rows."""


@dataclass(frozen=True)
class Transcribed:
    """Scores, and what they are the scores of."""

    scores: TranscribeScores
    texts: list[str]
    written: list[Written]


def count_errors(truth: Sequence[str], texts: Sequence[str]) -> Errors:
    """Compare texts with what was said.

    >>> count_errors(["a cat", "dog"], ["a bat", "do g"]).character_error_rate
    0.25
    """
    pairs = [differences(*pair) for pair in zip(truth, texts, strict=True)]
    wrong = np.array([sum(a != b for a, b in row) for row in pairs])
    sizes = np.array([len(text) for text in truth])
    words = [(a.split(), b.split()) for a, b in zip(truth, texts, strict=True)]
    every = [pair for row in pairs for pair in row if pair[0] != pair[1]]
    deletions, insertions = (sum(pair[side] is None for pair in every) for side in (1, 0))
    return Errors(
        character_error_rate=float(wrong.sum() / sizes.sum()),
        interval=_interval(wrong, sizes),
        word_error_rate=sum(distance(a, b) for a, b in words) / sum(len(a) for a, _ in words),
        exact=float((wrong == 0).mean()),
        substitutions=len(every) - deletions - insertions,
        deletions=deletions,
        insertions=insertions,
        characters=int(sizes.sum()),
        rows=len(pairs),
    )


def _interval(wrong: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    drawn = (generator.integers(0, len(wrong), len(wrong)) for _ in range(RESAMPLES))
    low, high = np.quantile([wrong[rows].sum() / sizes[rows].sum() for rows in drawn], (0.025, 0.975)).tolist()
    return low, high


def score(
    model: Transcriber,
    units: Units,
    part: Part,
    search: Search = GREEDY,
    *,
    batch_size: int = 64,
    shown: Callable[[float], None] = lambda done: None,
    notes: Sequence[str] = (),
) -> Transcribed:
    """Write the texts of a part and score them; the arguments are those of `transcribe`."""
    written = transcribe(model, part.frames, search, batch_size, shown)
    texts = [units.text(one.ids) for one in written]
    errors = count_errors(part.texts, texts)
    scores = TranscribeScores(**vars(errors), beam=search.beam, loss=_loss(model, part, batch_size), notes=tuple(notes))
    return Transcribed(scores, texts, written)


def _loss(model: Transcriber, part: Part, batch_size: int) -> float:
    sums, objective = Sums(), TranscribeObjective(model)
    with evaluating(model):
        for batch in PairBatches(part.frames, part.targets, batch_size, seed=0, shuffle=False):
            sums.add(*objective.measure(batch))
    return sums.mean("loss")
