"""Connectionist temporal classification: scores per step to a text that is shorter and whose places are not known.

A path has a unit or the blank at every step; the text of a path is what is left when repeats are merged and then blanks
taken out. The probability of a text is the sum over all its paths.

Source: Graves, Fernández, Gomez and Schmidhuber 2006, Connectionist Temporal Classification, ICML.
"""

import heapq
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.errors import InputError

BLANK = 0
"""The id of no unit."""

LogProbabilities = NDArray[np.float64]


def ctc_losses(scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Return -ln p(text) of each row, in nats [B]; 0, without a gradient, for a text that has no path.

    Args:
        scores: logits [B, T, C].
        lengths: steps of each row, int64 [B].
        targets: the texts' ids, int64 [B, U], none of them 0 but behind the end.
        target_lengths: int64 [B].

    >>> scores = torch.zeros(1, 2, 2)
    >>> p = ctc_losses(scores, torch.tensor([2]), torch.tensor([[1]]), torch.tensor([1])).neg().exp()
    >>> p.round(decimals=4)  # of the paths aa, a-, -a and -- three give "a"
    tensor([0.7500])
    """
    logs = scores.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(logs, targets, lengths, target_lengths, BLANK, "none", zero_infinity=True)


def needed_steps(ids: Sequence[int] | NDArray[np.integer]) -> int:
    """Return how many steps a text needs: one for each unit, and a blank between two that are alike.

    >>> needed_steps([3, 3, 4])
    4
    """
    return len(ids) + sum(int(a == b) for a, b in itertools.pairwise(ids))


def best_path(logs: LogProbabilities) -> list[int]:
    """Return the text of the most probable path, which need not be the most probable text.

    Args:
        logs: logarithms of probabilities [T, C].

    >>> best_path(np.log([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9]]))
    [1, 1]
    """
    return [unit for unit, _ in itertools.groupby(logs.argmax(axis=1).tolist()) if unit != BLANK]


def prefix_beam_search(logs: LogProbabilities, beam: int, least: float = 0.0) -> list[tuple[list[int], float]]:
    """Search for the most probable texts: of each, all paths are added up.

    Step by step every text of the beam stays as it is, by a blank or its last unit once more, or grows by a unit. Two
    numbers are kept for each: the probability of its paths that end with a blank, and of those that do not.

    Args:
        logs: logarithms of probabilities [T, C].
        beam: how many texts go on from step to step. With as many as there are, the search is exact.
        least: a text does not grow by units of less probability than this.

    Returns:
        The texts of the beam, the best first, and ln p of each, at most the true one: paths whose beginning fell out of
        the beam are missing.

    Raises:
        InputError: `beam` below 1.

    Source: Graves 2012, Supervised Sequence Labelling with Recurrent Neural Networks, section 7.5; Hannun et al. 2014,
    arXiv:1408.2873, algorithm 1.

    >>> logs = np.log([[0.6, 0.4], [0.6, 0.4]])
    >>> best_path(logs), prefix_beam_search(logs, 2)[0][0]
    ([], [1])
    """
    if beam < 1:
        raise InputError(f"`beam` must be at least 1, got {beam}")
    # probabilities as they are, brought to a sum of 1 at every step: the logarithm of what was divided by is kept
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    scale = 0.0
    for step in np.exp(logs).tolist():
        units = [unit for unit, p in enumerate(step) if unit != BLANK and p > least]
        ends: dict[tuple[int, ...], list[float]] = {}
        for text, (blank, unit_last) in kept.items():
            own = ends.setdefault(text, [0.0, 0.0])
            own[0] += (blank + unit_last) * step[BLANK]
            last = text[-1] if text else BLANK
            if text:
                own[1] += unit_last * step[last]
            for unit in units:
                # a repeat is a unit of its own only behind a blank
                ends.setdefault((*text, unit), [0.0, 0.0])[1] += (blank if unit == last else blank + unit_last) * step[
                    unit
                ]
        best = heapq.nlargest(beam, ends.items(), key=lambda end: end[1][0] + end[1][1])
        total = math.fsum(a + b for _, (a, b) in best)
        if total <= 0:
            break
        scale += math.log(total)
        kept = {text: (a / total, b / total) for text, (a, b) in best}
    found = [(list(text), math.log(a + b) + scale) for text, (a, b) in kept.items() if a + b > 0]
    return sorted(found, key=lambda one: -one[1])


def align(logs: LogProbabilities, ids: Sequence[int]) -> list[int]:
    """Return the first step of each unit in the most probable path of a text (Viterbi).

    Args:
        logs: logarithms of probabilities [T, C].
        ids: the text, which needs no more than T steps.

    Raises:
        InputError: the text needs more steps.

    >>> align(np.log([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.7, 0.3]]), [1])
    [1]
    """
    if needed_steps(ids) > len(logs):
        raise InputError(f"`ids` must need at most T = {len(logs)} steps, got {len(ids)} that need {needed_steps(ids)}")
    # places: blank, first unit, blank, second unit, ..., blank
    places = np.full(2 * len(ids) + 1, BLANK)
    places[1::2] = ids
    # from the place before the last one a unit is reached only if it differs
    skips = np.zeros(len(places), dtype=bool)
    skips[3::2] = places[3::2] != places[1:-2:2]
    scores = np.full(len(places), -np.inf)
    scores[0] = 0.0
    came = np.zeros((len(logs), len(places)), dtype=np.int64)
    for step, row in enumerate(logs):
        moved = np.stack([scores, np.append(-np.inf, scores[:-1]), np.append([-np.inf] * 2, scores)[: len(places)]])
        moved[2, ~skips] = -np.inf
        if step == 0:
            # a path begins with a blank or the first unit
            moved[:] = -np.inf
            moved[0, :2] = 0.0
        came[step] = moved.argmax(axis=0)
        scores = moved.max(axis=0) + row[places]
    place = len(places) - 1 if not ids or scores[-1] >= scores[-2] else len(places) - 2
    first = [0] * len(ids)
    for step in range(len(logs) - 1, -1, -1):
        if place % 2:
            first[place // 2] = step
        place -= came[step, place]
    return first
