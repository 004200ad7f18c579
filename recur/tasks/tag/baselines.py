"""Simple taggers that see one word at a time: what a network must beat."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from recur.tasks.tag.words import Tagged

Tags = NDArray[np.int32]
LONGEST = 5  # letters of an ending
RARE = 10  # words up to so frequent are like those that training never saw


class Lexicon:
    """How often each word of the training part has each tag.

    Args:
        train: the training part.
    """

    def __init__(self, train: Tagged) -> None:
        count = len(train.names)
        pairs = train.sentences.values.astype(np.int64) * count + train.tags.values
        keys, often = np.unique(pairs, return_counts=True)
        self.overall = int(np.bincount(train.tags.values, minlength=count).argmax())
        forms, tags = keys // count, keys % count
        # by form, then by how often, equal ones by the number of the tag: the last of a form is its tag
        order = np.lexsort((-tags, often, forms))
        last = np.append(np.diff(forms[order]) > 0, True)
        chosen = (array[order][last].tolist() for array in (forms, tags))
        self.best = {train.forms[form]: tag for form, tag in zip(*chosen, strict=True)}
        totals = np.bincount(train.sentences.values, minlength=len(train.forms))
        rare = (array[totals[forms] <= RARE].tolist() for array in (forms, tags, often))
        self._rare = [(train.forms[form], tag, count) for form, tag, count in zip(*rare, strict=True)]

    def by_ending(self) -> Callable[[str], int]:
        """Return what says the tag of an unknown word: the most frequent one of rare words with its longest ending.

        Words are told apart as well by whether they begin with a capital letter and whether they hold a digit.
        """
        counts: defaultdict[tuple[bool, bool, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        for form, tag, count in self._rare:
            for key in _endings(form):
                counts[key][tag] += count
        best = {key: min(tags, key=lambda tag: (-tags[tag], tag)) for key, tags in counts.items()}
        return lambda form: next((best[key] for key in _endings(form) if key in best), self.overall)

    def tag(self, data: Tagged, unknown: Callable[[str], int]) -> Tags:
        """Return the tag of every word of some sentences, int32 [N]."""
        table = np.array([self.best[f] if f in self.best else unknown(f) for f in data.forms], dtype=np.int32)
        return table[data.sentences.values]


def _endings(form: str) -> Iterator[tuple[bool, bool, str]]:
    """Yield what an unknown word is known by, the longest ending first, the empty one last."""
    capital, digit, low = form[:1].isupper(), any(map(str.isdigit, form)), form.lower()
    for length in range(min(LONGEST, len(low)), -1, -1):
        yield capital, digit, low[len(low) - length :]


def run_baselines(train: Tagged, parts: list[Tagged]) -> Iterator[tuple[str, str, list[Tags], float]]:
    """Yield the name of each baseline, what it does, its tags of each part's words, and its seconds."""
    started = time.monotonic()
    lexicon = Lexicon(train)
    most, ending = train.names[lexicon.overall], lexicon.by_ending()

    def majority(part: Tagged) -> Tags:
        return np.full(len(part.sentences.values), lexicon.overall, dtype=np.int32)

    taggers: list[tuple[str, str, Callable[[Tagged], Tags]]] = [
        ("majority", f"{most} for every word", majority),
        (
            "word",
            f"each word's most frequent tag, {most} for unknown words",
            lambda part: lexicon.tag(part, lambda form: lexicon.overall),
        ),
        (
            "word-or-ending",
            "each word's most frequent tag, for unknown words that of their ending",
            lambda part: lexicon.tag(part, ending),
        ),
    ]
    for name, description, tags in taggers:
        found = [tags(part) for part in parts]
        yield name, description, found, time.monotonic() - started
        started = time.monotonic()
