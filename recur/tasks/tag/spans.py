"""Spans of words that BIO tags mark, and how many of them are found: the count of conlleval."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.data.sequences import Sequences

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """How many spans were found exactly, both ends and the type; of a tag, how many words."""

    right: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """The share of the predicted spans that are right, 0 if there are none."""
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """The share of the true spans that were found, 0 if there are none."""
        return self.right / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of the two; 0 where no span is right."""
        return 2 * self.right / (self.predicted + self.true) if self.right else 0.0

    def plain(self) -> dict[str, float | int]:
        """Return counts and shares, for metrics.json."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return shares | {"right": self.right, "predicted": self.predicted, "true": self.true}


class SpanScheme:
    """Tags such as O, B-PER and I-PER as spans, read as conlleval and seqeval do.

    B begins a span and I goes on in it; in BIOES, E ends one and S is one alone; L and U are other names for E and S,
    and M for I. A span begins as well at any tag whose type is another than that before it, and at an I or E behind an
    O, E or S, so that IOB (where B stands only between neighbours of a type) and broken sequences have spans, too.

    Args:
        names: the tags by number, for which `is_spans` holds.

    >>> scheme = SpanScheme(["O", "B-PER", "I-PER"])
    >>> scheme.spans(Sequences.of([[1, 2, 0, 1]])).tolist()       # first and last word (counted through), type
    [[0, 1, 0], [3, 3, 0]]
    """

    def __init__(self, names: Sequence[str]) -> None:
        # one more than there are tags: what is before and behind a sentence is outside
        prefixes = np.array([*(_prefix(name) for name in names), "O"])
        kinds = [name.partition("-")[2] for name in names]
        self.types = sorted({kind for kind, prefix in zip(kinds, prefixes, strict=False) if prefix != "O"})
        number = {kind: i for i, kind in enumerate(self.types)}
        self._outside = len(names)
        outside = prefixes == "O"
        self._type = np.array([*(number.get(kind, -1) for kind in kinds), -1])
        self._type[outside] = -1
        before, after = np.meshgrid(np.arange(len(prefixes)), np.arange(len(prefixes)), indexing="ij")
        p, q = prefixes[before], prefixes[after]
        other = self._type[before] != self._type[after]
        closed = np.isin(p, ["E", "S", "O"])
        self._starts = ~outside[after] & (np.isin(q, ["B", "S"]) | closed | other)
        self._ends = ~outside[before] & (np.isin(p, ["E", "S"]) | np.isin(q, ["B", "S", "O"]) | other)

    @staticmethod
    def is_spans(names: Sequence[str]) -> bool:
        """Whether tags mark spans: O, and letters of BIO, BIOES or BILOU with a type behind a hyphen."""
        marked = [name for name in names if name != "O"]
        return bool(marked) and len(marked) < len(names) and all(re.fullmatch(r"[BIESLUM]-.+", n) for n in marked)

    def spans(self, tags: Sequences) -> Array:
        """Return the spans, int64 [n, 3]: numbers of the first and the last word, counted through, and of the type."""
        lengths = tags.lengths
        sentence = np.repeat(np.arange(len(lengths)), lengths)
        # a step outside before the first word and behind every sentence
        place = np.arange(len(sentence)) + sentence + 1
        flat = np.full(len(sentence) + len(lengths) + 1, self._outside, dtype=np.int64)
        flat[place] = tags.values
        word = np.zeros(len(flat), dtype=np.int64)
        word[place] = np.arange(len(sentence))
        first = np.flatnonzero(self._starts[flat[:-1], flat[1:]]) + 1
        last = np.flatnonzero(self._ends[flat[:-1], flat[1:]])
        return np.stack([word[first], word[last], self._type[flat[first]]], axis=1)

    def compare(self, predicted: Sequences, true: Sequences) -> "Compared":
        """Return the spans of both, and those that are right."""
        found, wanted = self.spans(predicted), self.spans(true)
        # two spans of one sequence of tags never share a word, so that start, end and type are one number
        keys = [(s[:, 0] * (len(true.values) + 1) + s[:, 1]) * len(self.types) + s[:, 2] for s in (found, wanted)]
        return Compared(wanted[np.isin(keys[1], keys[0])], found, wanted, self.types)


class Compared(NamedTuple):
    """Spans, int64 [n, 3] as `SpanScheme.spans` has them."""

    right: Array
    predicted: Array
    true: Array
    types: list[str]

    @property
    def total(self) -> Found:
        """The count of all spans."""
        return Found(len(self.right), len(self.predicted), len(self.true))

    @property
    def by_type(self) -> dict[str, Found]:
        """The count of each type."""
        counts = [np.bincount(part[:, 2], minlength=len(self.types)).tolist() for part in self[:3]]
        return {kind: Found(*numbers) for kind, *numbers in zip(self.types, *counts, strict=True)}

    def interval(self, offsets: Array, draws: int = 500) -> tuple[float, float]:
        """Return the 95% interval of F1 if the sentences are drawn anew, with replacement (Efron 1979).

        Args:
            offsets: where each sentence's words start, and their number at the end, [n + 1].
            draws: how often.
        """
        n = len(offsets) - 1
        sentence = [np.searchsorted(offsets, part[:, 0], side="right") - 1 for part in self[:3]]
        right, predicted, true = (np.bincount(numbers, minlength=n) for numbers in sentence)
        generator, figures = np.random.default_rng(0), []
        for _ in range(draws):
            drawn = np.bincount(generator.integers(n, size=n), minlength=n)
            figures.append(Found(int(drawn @ right), int(drawn @ predicted), int(drawn @ true)).f1)
        low, high = np.quantile(figures, (0.025, 0.975)).tolist()
        return low, high


def _prefix(name: str) -> str:
    letter, hyphen, kind = name.partition("-")
    if not (hyphen and kind and letter in "BIESLUM"):
        return "O"
    return {"L": "E", "U": "S", "M": "I"}.get(letter, letter)
