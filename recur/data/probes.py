"""Probes of memory: sequences whose answer hangs on what was seen long before, drawn anew as many as are wanted."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.data.reber import ALPHABET, GRAMMAR
from recur.data.walks import symbols, walks
from recur.errors import InputError, nearest

Floats = NDArray[np.float32]
Classes = NDArray[np.int64]
Answers = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """Rows of a probe.

    Args:
        inputs: what is read, float32 [B, T, D]; symbols one-hot.
        targets: the right answer after each of the last K steps, [B, K]: classes, int64, or numbers, float32.
    """

    inputs: Floats
    targets: Answers

    @property
    def ids(self) -> Classes:
        """The symbols that are read, [B, T], where the inputs are one-hot."""
        ids: Classes = self.inputs.argmax(axis=2)
        return ids


@dataclass(frozen=True)
class Probe:
    """A task that needs memory.

    Args:
        name: as it is asked for.
        about: what is read and what is asked, in a sentence.
        lag: what the lag counts.
        source: where the task comes from.
        least: the smallest lag.
        lags: those that are tried if none are given.
        symbols: what the inputs stand for, D names.
        answers: what the C classes stand for; none where the answer is a number.
        draw: (rng, rows, lag) -> rows.
        rules: what simple rules answer to rows, [B, scored] by name; the first is the best answer without reading.
        chance: the expected error of that first one: share of wrong answers, or mean squared error.
        chance_loss: lag -> the expected training loss of that first one: cross entropy in nats, or mean squared error.
        scored: how many of the last answers are scored; those before only say that nothing is asked yet.
        extra, times: so many steps are read more than `times` the lag.
    """

    name: str
    about: str
    lag: str
    source: str
    least: int
    lags: tuple[int, ...]
    symbols: tuple[str, ...]
    answers: tuple[str, ...]
    draw: Callable[[np.random.Generator, int, int], Draw]
    rules: Callable[[Draw], Mapping[str, Answers]]
    chance: float
    chance_loss: Callable[[int], float]
    scored: int = 1
    extra: int = 0
    times: int = 1

    @property
    def classes(self) -> int:
        """C, or 0 where the answer is a number."""
        return len(self.answers)

    def steps(self, lag: int) -> int:
        """Return T, the steps that are read."""
        return self.times * lag + self.extra

    def errors(self, answers: Answers, targets: Answers) -> float:
        """Return the share of wrong answers among those that are scored, or the mean squared error of numbers."""
        asked = targets[:, -self.scored :]
        if self.classes:
            return float((answers != asked).mean())
        return float(np.square(answers - asked, dtype=np.float64).mean())

    def written(self, draw: Draw) -> list[tuple[str, str]]:
        """Return rows as a person writes them: what is read, and the right answer."""
        if not self.classes:
            read = [" ".join(f"{value:.2f}{'*' if mark else ''}" for value, mark in row) for row in draw.inputs]
            return [(text, f"{target:.2f}") for text, (target,) in zip(read, draw.targets, strict=True)]
        space = " " if max(map(len, self.symbols)) > 1 else ""
        asked = draw.targets[:, -self.scored :].astype(int)
        return [
            (space.join(self.symbols[i] for i in row), "".join(self.answers[i] for i in right))
            for row, right in zip(draw.ids, asked, strict=True)
        ]


def probe_named(name: str) -> Probe:
    """Return the probe of that name.

    Raises:
        InputError: there is none; the message suggests the nearest.
    """
    if name not in PROBES:
        raise InputError(f"the task must be one of {', '.join(PROBES)}, got {name!r}{nearest(name, list(PROBES))}")
    return PROBES[name]


# --- embedded Reber grammar ---


def _draw_reber(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    start = np.full((rows, 1), ALPHABET.index("B"))
    branch = rng.choice([ALPHABET.index("T"), ALPHABET.index("P")], (rows, 1))
    places = np.array([ALPHABET.index(symbol) for symbol in symbols(GRAMMAR)])
    ids = np.hstack([start, branch, places[walks(GRAMMAR, lag, rows, rng)]])
    return Draw(_one_hot(ids, len(ALPHABET)), (branch == ALPHABET.index("P")).astype(np.int64))


def _reber_rules(draw: Draw) -> dict[str, Answers]:
    last = _last(draw.ids[:, 2:], {ALPHABET.index("T"): 0, ALPHABET.index("P"): 1})
    return {"always T": np.zeros_like(draw.targets), "the last T or P": last}


# --- adding ---


def _draw_adding(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    values, marks = rng.random((rows, lag), dtype=np.float32), np.zeros((rows, lag), dtype=np.float32)
    row, half = np.arange(rows), lag // 2
    for low, high in ((0, half), (half, lag)):
        marks[row, rng.integers(low, high, rows)] = 1
    return Draw(np.stack([values, marks], axis=2), (values * marks).sum(axis=1, keepdims=True))


def _adding_rules(draw: Draw) -> dict[str, Answers]:
    values, marks = draw.inputs[..., 0], draw.inputs[..., 1]
    second = (values * marks)[:, marks.shape[1] // 2 :].sum(axis=1, keepdims=True)
    return {"always 1": np.ones_like(draw.targets), "the second number + 1/2": second + np.float32(0.5)}


# --- copy ---

COPIED = 10  # symbols to be copied
_LETTERS = 8
_BLANK, _GO = _LETTERS, _LETTERS + 1


def _draw_copy(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    ids = np.full((rows, lag + 2 * COPIED), _BLANK)
    ids[:, :COPIED] = letters = rng.integers(0, _LETTERS, (rows, COPIED))
    ids[:, lag + COPIED - 1] = _GO
    targets = np.full_like(ids, _BLANK)
    targets[:, -COPIED:] = letters
    return Draw(_one_hot(ids, _LETTERS + 2), targets)


def _copy_rules(draw: Draw) -> dict[str, Answers]:
    return {"always the same letter": np.zeros_like(draw.targets[:, -COPIED:])}


# --- temporal order ---


def _draw_order(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    ids = rng.integers(2, 6, (rows, lag))
    kinds = rng.integers(0, 2, (rows, 2))
    for which, (low, high) in enumerate(((lag // 10, lag // 5), (2 * lag // 5, lag // 2))):
        ids[np.arange(rows), rng.integers(low, high, rows)] = kinds[:, which]
    return Draw(_one_hot(ids, 6), kinds @ np.array([[2], [1]]))


def _order_rules(draw: Draw) -> dict[str, Answers]:
    # the second of the two signals is what a shorter memory knows
    return {"always XX": np.zeros_like(draw.targets), "the second signal": _last(draw.ids, {0: 0, 1: 1})}


# --- the latest of several signals ---


def _draw_latest(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    ids = rng.integers(2, 6, (rows, 2 * lag))
    kinds = rng.integers(0, 2, (rows, lag))
    shown = rng.random((rows, lag)) < 1 / 4
    shown[:, -1] = True
    ids[:, :lag] = np.where(shown, kinds, ids[:, :lag])
    return Draw(_one_hot(ids, 6), kinds[:, -1:])


def _latest_rules(draw: Draw) -> dict[str, Answers]:
    xs, ys = ((draw.ids == signal).sum(axis=1, keepdims=True) for signal in (0, 1))
    first = _last(draw.ids[:, ::-1], {0: 0, 1: 1})
    return {
        "always X": np.zeros_like(draw.targets),
        "the first signal": first,
        "most signals": (ys > xs).astype(np.int64),
    }


# --- counting from a reset on ---

_MOST = 4  # ticks to be counted


def _draw_count(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    quarter = lag // 4
    ids = rng.integers(2, 6, (rows, lag))
    counts = rng.integers(0, _MOST + 1, (rows, 1))
    resets = rng.integers(quarter // 2, quarter, (rows, 1))
    before = np.arange(lag) < resets
    ids[before & (rng.random((rows, lag)) < 1 / 2)] = 0
    np.put_along_axis(ids, resets, 1, axis=1)
    # the places after the first quarter in random order, the first of which are ticks
    order = rng.random((rows, lag - quarter)).argsort(axis=1).argsort(axis=1)
    ids[:, quarter:][order < counts] = 0
    return Draw(_one_hot(ids, 6), counts)


def _count_rules(draw: Draw) -> dict[str, Answers]:
    ticks = (draw.ids == 0).sum(axis=1, keepdims=True)
    return {"always 0": np.zeros_like(draw.targets), "all ticks": np.minimum(ticks, _MOST)}


# --- agreement of subject and verb ---

NOUNS = {
    "cat": "cats",
    "dog": "dogs",
    "bird": "birds",
    "boy": "boys",
    "teacher": "teachers",
    "farmer": "farmers",
    "horse": "horses",
    "fox": "foxes",
}
# a clause about nouns of either number; past tenses say nothing of it. Words of a kind in capitals are drawn from WORDS
CLAUSE: tuple[tuple[tuple[str, int], ...], ...] = (
    (("which", 1),),
    (("VERB", 2), ("ADVERB", 6)),
    (("the", 3),),
    (("ADJECTIVE", 4), ("NOUN", 5), ("NOUN", 7)),
    (("NOUN", 5), ("NOUN", 7)),
    (("and", 1), ("PREPOSITION", 2)),
    (("VERB", 2),),
)
WORDS: dict[str, tuple[str, ...]] = {
    "NOUN": (*NOUNS, *NOUNS.values()),
    "VERB": ("ate", "saw", "chased", "heard", "followed", "liked"),
    "ADVERB": ("often", "never", "quickly"),
    "ADJECTIVE": ("old", "small", "grey", "clever"),
    "PREPOSITION": ("near", "behind", "with"),
    **{word: (word,) for word in ("The", "the", "which", "and")},
}
LEXICON = tuple(word for words in WORDS.values() for word in words)
_PLURAL = np.array([word in NOUNS.values() for word in LEXICON])
_NOUN = np.array([word in WORDS["NOUN"] for word in LEXICON])


def _draw_agreement(rng: np.random.Generator, rows: int, lag: int) -> Draw:
    kinds = symbols(CLAUSE)
    columns = np.hstack([np.full((rows, 1), len(kinds)), np.full((rows, 1), kinds.index("NOUN"))])
    places = np.hstack([columns, walks(CLAUSE, lag, rows, rng)])
    groups = [WORDS[kind] for kind in (*kinds, "The")]
    first = np.array([LEXICON.index(words[0]) for words in groups])
    sizes = np.array([len(words) for words in groups])
    ids = first[places] + (rng.random(places.shape) * sizes[places]).astype(np.int64)
    return Draw(_one_hot(ids, len(LEXICON)), _PLURAL[ids[:, 1:2]].astype(np.int64))


def _agreement_rules(draw: Draw) -> dict[str, Answers]:
    ids = draw.ids
    plural = (_NOUN & _PLURAL)[ids].sum(axis=1, keepdims=True)
    singular = (_NOUN & ~_PLURAL)[ids].sum(axis=1, keepdims=True)
    last = _last(ids, {i: int(_PLURAL[i]) for i in range(len(LEXICON)) if _NOUN[i]})
    return {
        "always was": np.zeros_like(draw.targets),
        "as the last noun": last,
        "as most nouns": (plural > singular).astype(np.int64),
    }


# --- what they share ---


def _one_hot(ids: Classes, size: int) -> Floats:
    vectors: Floats = np.eye(size, dtype=np.float32)[ids]
    return vectors


def _last(ids: Classes, classes: Mapping[int, int]) -> Classes:
    """Return the class of the last symbol of each row that has one, [B, 1]; 0 without any."""
    table = np.full(int(ids.max()) + 1 if ids.size else 1, -1)
    for symbol, kind in classes.items():
        if symbol < len(table):
            table[symbol] = kind
    found = table[ids][:, ::-1]
    last = np.take_along_axis(found, (found >= 0).argmax(axis=1, keepdims=True), axis=1)
    classes_of_last: Classes = np.maximum(last, 0)
    return classes_of_last


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(
            name="reber",
            about="An embedded Reber string is read up to its last symbol but one, which repeats the second: T or P?",
            lag="steps from the second symbol to the answer",
            source="Fahlman (1991); Hochreiter & Schmidhuber (1997), experiment 1",
            least=5,
            lags=(5, 10, 20, 40, 80),
            symbols=tuple(ALPHABET),
            answers=("T", "P"),
            draw=_draw_reber,
            rules=_reber_rules,
            chance=1 / 2,
            chance_loss=lambda lag: float(np.log(2)),
            extra=2,
        ),
        Probe(
            name="adding",
            about="Numbers from 0 to 1 are read, one of each half is marked: what is the sum of these two?",
            lag="steps that are read; the first marked number stands in their first half",
            source="Hochreiter & Schmidhuber (1997), experiment 4, in the form of Le et al. (2015), arXiv:1504.00941",
            least=2,
            lags=(25, 50, 100, 200),
            symbols=("value", "mark"),
            answers=(),
            draw=_draw_adding,
            rules=_adding_rules,
            # the variance of a sum of two numbers from 0 to 1
            chance=1 / 6,
            chance_loss=lambda lag: 1 / 6,
        ),
        Probe(
            name="copy",
            about=f"{COPIED} of {_LETTERS} letters are read, then blanks, then a sign: which were it, in order?",
            lag="blanks, with the sign, between the last letter and the first answer",
            source="Hochreiter & Schmidhuber (1997); Arjovsky et al. (2016), arXiv:1511.06464, section 4.1",
            least=1,
            lags=(1, 5, 10, 20),
            symbols=(*string.ascii_lowercase[:_LETTERS], "_", "?"),
            answers=(*string.ascii_lowercase[:_LETTERS], "_"),
            draw=_draw_copy,
            rules=_copy_rules,
            chance=1 - 1 / _LETTERS,
            chance_loss=lambda lag: float(COPIED * np.log(_LETTERS) / (lag + 2 * COPIED)),
            scored=COPIED,
            extra=2 * COPIED,
        ),
        Probe(
            name="order",
            about="Two signals, X or Y each, stand among other symbols: which were they, in order?",
            lag="steps that are read; the signals stand after a tenth to a fifth and two fifths to a half of them",
            source="Hochreiter & Schmidhuber (1997), experiment 6a, as in Pascanu et al. (2013), arXiv:1211.5063",
            least=10,
            lags=(25, 50, 100, 200),
            symbols=("X", "Y", "a", "b", "c", "d"),
            answers=("XX", "XY", "YX", "YY"),
            draw=_draw_order,
            rules=_order_rules,
            chance=3 / 4,
            chance_loss=lambda lag: float(np.log(4)),
        ),
        Probe(
            name="latest",
            about="Signals, X or Y each, come again and again, then only other symbols: which was the last?",
            lag="steps from the last signal to the answer; those with the signals before are as many",
            source="a flip-flop: Sussillo & Barak (2013), Neural Computation 25; Liu et al. (2023), arXiv:2306.00946",
            least=1,
            lags=(10, 25, 50, 100),
            symbols=("X", "Y", "a", "b", "c", "d"),
            answers=("X", "Y"),
            draw=_draw_latest,
            rules=_latest_rules,
            chance=1 / 2,
            chance_loss=lambda lag: float(np.log(2)),
            times=2,
        ),
        Probe(
            name="count",
            about="Ticks (+) are read, a reset (R), and more ticks among other symbols: how many came after the reset?",
            lag="steps that are read; the reset stands in their first quarter",
            source="after Gers & Schmidhuber (2000), Recurrent nets that time and count, with a reset",
            least=8,
            lags=(25, 50, 100, 200),
            symbols=("+", "R", "a", "b", "c", "d"),
            answers=tuple(map(str, range(_MOST + 1))),
            draw=_draw_count,
            rules=_count_rules,
            chance=1 - 1 / (_MOST + 1),
            chance_loss=lambda lag: float(np.log(_MOST + 1)),
        ),
        Probe(
            name="agreement",
            about="A sentence is read from its subject through a relative clause about others: was or were?",
            lag="words from the subject to the verb",
            source="after Elman (1991), Machine Learning 7, and Linzen et al. (2016), arXiv:1611.01368",
            least=4,
            lags=(4, 8, 16, 32, 64),
            symbols=LEXICON,
            answers=("was", "were"),
            draw=_draw_agreement,
            rules=_agreement_rules,
            chance=1 / 2,
            chance_loss=lambda lag: float(np.log(2)),
            extra=2,
        ),
    )
}
