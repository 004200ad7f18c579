"""The least insertions, deletions and substitutions from one sequence to another."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def distance(truth: Sequence[T], found: Sequence[T]) -> int:
    """Return the number of the least edits.

    Source: Levenshtein 1966, Soviet Physics Doklady 10(8); row by row as Wagner and Fischer 1974, J. ACM 21(1).

    >>> distance("kitten", "sitting")
    3
    """
    return _table(truth, found)[-1][-1]


def differences(truth: Sequence[T], found: Sequence[T]) -> list[tuple[T | None, T | None]]:
    """Return pairs of what should be and what is, None where nothing stands beside; `distance` of them differ.

    >>> differences("bat", "at")
    [('b', None), ('a', 'a'), ('t', 't')]
    """
    table = _table(truth, found)
    i, j = len(truth), len(found)
    pairs: list[tuple[T | None, T | None]] = []
    while i or j:
        here = table[i][j]
        if i and j and here == table[i - 1][j - 1] + (truth[i - 1] != found[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((truth[i], found[j]))
        elif i and here == table[i - 1][j] + 1:
            i -= 1
            pairs.append((truth[i], None))
        else:
            j -= 1
            pairs.append((None, found[j]))
    return pairs[::-1]


def _table(truth: Sequence[T], found: Sequence[T]) -> list[list[int]]:
    """Return the distances of all beginnings, [len(truth) + 1][len(found) + 1]."""
    table = [list(range(len(found) + 1))]
    for number, item in enumerate(truth, start=1):
        above, row = table[-1], [number]
        for place, other in enumerate(found):
            row.append(min(above[place] + (item != other), above[place + 1] + 1, row[place] + 1))
        table.append(row)
    return table
