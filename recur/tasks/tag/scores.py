"""What predicted tags are worth: by word, by words that training knew or not, by tag, and by span."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.sequences import Sequences
from recur.tasks.figures import wilson
from recur.tasks.tag.spans import Compared, Found, SpanScheme
from recur.tasks.tag.words import Tagged

MOST_LABELS = 100  # of a table of confusion
LISTED = 30  # pairs of tags


@dataclass(frozen=True)
class Guesses:
    """The tags of every word of some sentences, in flat arrays, one word after the other."""

    tags: NDArray[np.int32]
    """Predicted tags [N]."""
    probability: NDArray[np.float32]
    """Of the predicted tag [N]."""
    own: NDArray[np.float32]
    """Of the true tag [N]; 0 where it is none that the network knows, or none is given."""


@dataclass(frozen=True)
class TagScores:
    """What predictions of tags are worth."""

    accuracy: float
    """The share of the words that got their tag."""
    interval: tuple[float, float]
    """95% interval of what is chosen by: of the accuracy, from the number of words alone, or of the span F1, from
    drawing the sentences anew."""
    unknown_accuracy: float | None
    """The same of the words that the training part does not have; None if there are none."""
    known_accuracy: float | None
    """The same of all others."""
    unknown: int
    """How many words the training part does not have."""
    sentence_accuracy: float
    """The share of the sentences without a mistake."""
    macro_f1: float
    """Mean of the tags' F1, each tag counting alike."""
    loss: float
    """Mean of -log(probability of the true tag)."""
    words: int
    sentences: int
    labels: list[str]
    """The tags, in the order of their numbers."""
    counts: list[tuple[int, int, int]]
    """Of each tag how many words got it rightly, got it, and have it."""
    confusion: list[list[int]] | None
    """confusion[true][predicted], in words; None from so many tags on that nobody would look at it."""
    mistaken: list[tuple[str, str, int]]
    """What is most often taken for what: true tag, predicted tag, words."""
    f1: float | None = None
    """F1 of spans, if the tags mark spans."""
    spans: dict[str, Any] | None = None
    """Precision, recall, F1 and counts of all spans and, under "types", of each type."""
    notes: tuple[str, ...] = ()
    """What a person should know of the sentences."""

    @property
    def by_tag(self) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each tag that occurs or was predicted, and how many words have it."""
        rows = zip(self.labels, self.counts, strict=True)
        return [{"tag": name} | Found(*counts).plain() for name, counts in rows if any(counts)]


def score(guesses: Guesses, data: Tagged, known: NDArray[np.bool_]) -> TagScores:
    """Score predictions.

    Args:
        guesses: of every word of `data`.
        data: sentences with their true tags, those that the network does not know numbered last.
        known: of each form of `data`, whether the training part has it [F].
    """
    predicted, true, labels = guesses.tags, data.tags.values, data.names
    count = len(labels)
    right = predicted == true
    parts = (true[right], predicted, true)
    counts = np.stack([np.bincount(part, minlength=count) for part in parts], axis=1)
    # pairs rather than a table: a column such as lemma has thousands of tags
    pairs, often = np.unique(true.astype(np.int64) * count + predicted, return_counts=True)
    wrong_pairs = pairs // count != pairs % count
    worst = np.argsort(-often[wrong_pairs], kind="stable")[:LISTED]
    listed = zip(pairs[wrong_pairs][worst].tolist(), often[wrong_pairs][worst].tolist(), strict=True)
    table = None
    if count <= MOST_LABELS:
        table = np.bincount(true.astype(np.int64) * count + predicted, minlength=count**2).reshape(count, count)
    bounds = data.sentences.offsets
    wrong = np.concatenate([[0], np.cumsum(~right)])
    spans = compare(predicted, data)
    return TagScores(
        accuracy=float(right.mean()),
        interval=reached(predicted, data)[1],
        unknown_accuracy=_share(right[~known[data.sentences.values]]),
        known_accuracy=_share(right[known[data.sentences.values]]),
        unknown=int((~known[data.sentences.values]).sum()),
        sentence_accuracy=float((wrong[bounds[1:]] == wrong[bounds[:-1]]).mean()),
        macro_f1=_macro_f1(counts),
        loss=float(-np.log(np.clip(guesses.own.astype(np.float64), 1e-12, 1.0)).mean()),
        words=len(true),
        sentences=len(data),
        labels=list(labels),
        counts=[tuple(row) for row in counts.tolist()],
        confusion=None if table is None else table.tolist(),
        mistaken=[(labels[pair // count], labels[pair % count], words) for pair, words in listed],
        f1=spans.total.f1 if spans else None,
        spans=spans.total.plain() | {"types": {k: s.plain() for k, s in spans.by_type.items()}} if spans else None,
    )


def reached(predicted: NDArray[np.int32], data: Tagged) -> tuple[float, tuple[float, float]]:
    """Return the figure that taggers are compared by, the F1 of spans or else the accuracy, and its 95% interval.

    That of F1 is from drawing the sentences anew, that of the accuracy from the number of words alone.
    """
    if spans := compare(predicted, data):
        return spans.total.f1, spans.interval(data.sentences.offsets)
    right = int((predicted == data.tags.values).sum())
    return right / len(predicted), wilson(right, len(predicted))


def compare(predicted: NDArray[np.int32], data: Tagged) -> Compared | None:
    """Return the spans, if the tags mark spans."""
    if not SpanScheme.is_spans(data.names):
        return None
    return SpanScheme(data.names).compare(Sequences(predicted, data.sentences.offsets), data.tags)


def _macro_f1(counts: NDArray[np.int64]) -> float:
    right, present = counts[:, 0], counts[:, 1] + counts[:, 2]
    # a tag that neither occurs nor is predicted has no F1
    return float((2 * right / np.maximum(present, 1))[present > 0].mean())


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
