"""Which states to keep so that a long computation is run backwards with little memory and few forward steps.

A sequence of n segments is reversed: the last is run again and differentiated, then the one before it, and so on, each
from a state that was kept at its beginning or is computed again from one kept before. With s places for states the
binomial schedule takes the fewest forward runs: n segments, no more than (s + r choose s), need each at most r of them.

Griewank and Walther 2000, Algorithm 799: revolve, ACM TOMS 26(1), equations 3 and 4; treeverse, Griewank 1992.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import comb
from typing import NamedTuple


class Action(NamedTuple):
    """One piece of a reversal; segments are counted from 0, and the state at `start` is at hand.

    "keep": run the segments from `start` up to, not including, `stop`, and keep the state there. "turn": run them, then
    segment `stop` itself, and differentiate that. "drop": the state at `start` is needed no more.
    """

    kind: str
    start: int
    stop: int


def advances(segments: int, places: int) -> int:
    """Return how many segments are run forward, besides those that are differentiated, to reverse `segments`.

    Args:
        segments: n, at least 1.
        places: for states, the initial one included, at least 1.
    """
    runs = _runs(segments, places)
    return runs * segments - comb(places + runs, places + 1)


def kept_at(segments: int, places: int) -> list[int]:
    """Return where the first run through all segments keeps the state, the beginning left out; in rising order."""
    found: list[int] = []
    start = 0
    while segments - start > 1 and len(found) + 1 < places:
        start += _split(segments - start, places - len(found))
        found.append(start)
    return found


def reversal(segments: int, places: int) -> Iterator[Action]:
    """Yield what is done after that first run, for the last segment to be differentiated first."""
    borders = [0, *kept_at(segments, places), segments]
    parts = list(pairwise(borders))
    while parts:
        start, stop = parts.pop()
        # this part's own state and those before it are held
        left = places - len(parts) - 1
        if stop - start > 1 and left:
            middle = start + _split(stop - start, left + 1)
            yield Action("keep", start, middle)
            parts += [(start, middle), (middle, stop)]
            continue
        for segment in reversed(range(start, stop)):
            yield Action("turn", start, segment)
        yield Action("drop", start, start)


def _runs(segments: int, places: int) -> int:
    """Return r, the smallest number with (places + r choose places) >= segments."""
    if segments == 1:
        return 0
    low, high = 0, 1
    while comb(places + high, places) < segments:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if comb(places + middle, places) >= segments else (middle, high)
    return high


def _split(segments: int, places: int) -> int:
    """Return how many segments are run before the next state is kept."""
    runs = _runs(segments, places)
    # before it each segment is run r - 1 times more, behind it, with one place less, r times
    return max(1, min(comb(places + runs - 1, places), segments - comb(places + runs - 2, places - 1)))
