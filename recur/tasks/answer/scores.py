"""What answers are worth, over all questions and file by file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.tasks.answer.data import Part
from recur.tasks.figures import wilson
from recur.tasks.job_result import columns, percent


@dataclass(frozen=True)
class AnswerScores:
    """What answers to questions are worth."""

    accuracy: float
    """Share of right answers; one that the network does not know is wrong."""
    interval: tuple[float, float]
    """95% interval of the accuracy, from the number of questions alone."""
    loss: float
    """Mean of -log(probability of the true answer), of those that the network knows."""
    rows: int
    files: dict[str, float]
    """Accuracy in each file, by its name."""
    notes: tuple[str, ...] = ()
    """What a person should know of the questions."""


def score(probabilities: NDArray[np.float32], part: Part) -> AnswerScores:
    """Score answers.

    Args:
        probabilities: [n, C].
        part: n questions, n at least 1.
    """
    answers = part.stories.answers
    right = probabilities.argmax(axis=1) == answers
    known = np.flatnonzero(answers >= 0)
    own = np.clip(probabilities[known, answers[known]].astype(np.float64), 1e-12, 1.0)
    return AnswerScores(
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), len(right)),
        loss=float(-np.log(own).mean()) if len(known) else float("inf"),
        rows=len(right),
        files=by_file(right, part),
    )


def by_file(right: NDArray[np.bool_], part: Part) -> dict[str, float]:
    """Return the share of right answers in each file."""
    names = [question.path.name for question in part.questions]
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: float(right[own].mean()) for name, own in rows.items()}


def scores_text(scores: AnswerScores) -> str:
    """Return accuracy, loss and the files' accuracies as lines for the terminal."""
    low, high = map(percent, scores.interval)
    lines = [
        f"accuracy  {percent(scores.accuracy)}  (95% interval {low} - {high}, {scores.rows:,} questions)",
        f"loss      {scores.loss:.4f}",
        *(f"note: {note}" for note in scores.notes),
    ]
    if len(scores.files) > 1:
        lines += [
            "",
            columns([["file", "accuracy"], *([name, percent(share)] for name, share in scores.files.items())]),
        ]
    return "\n".join(lines)
