"""Walks through a transition diagram: many strings of exactly one length at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError

Diagram = Sequence[Sequence[tuple[str, int]]]


def walks(diagram: Diagram, length: int, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw walks of exactly `length` symbols from node 0 to the end, each one that there is equally likely.

    Args:
        diagram: the arcs (symbol, next node) of each node; the next node `len(diagram)` is the end.
        length: symbols of each walk.
        rows: how many walks.
        rng: drawn from.

    Returns:
        The symbols, int64 [rows, length], as places in `symbols(diagram)`.

    Raises:
        InputError: no walk has that length.
    """
    end, widest = len(diagram), max(map(len, diagram))
    names = symbols(diagram)
    symbol = np.zeros((end, widest), dtype=np.int64)
    after = np.full((end, widest), end)
    exists = np.zeros((end, widest))
    for node, arcs in enumerate(diagram):
        for arc, (name, following) in enumerate(arcs):
            symbol[node, arc], after[node, arc], exists[node, arc] = names.index(name), following, 1.0
    chances = _chances(after, exists, length)
    if not chances[length][0].any():
        raise InputError(f"`length` must be that of a walk through the diagram, got {length}, which none has")
    at = np.zeros(rows, dtype=np.int64)
    found = np.empty((rows, length), dtype=np.int64)
    draws = rng.random((length, rows, 1))
    for step in range(length):
        arc = (draws[step] >= chances[length - step][at]).sum(axis=1)
        found[:, step] = symbol[at, arc]
        at = after[at, arc]
    return found


def symbols(diagram: Diagram) -> list[str]:
    """Return the different symbols of a diagram, in the order of the alphabet."""
    return sorted({symbol for arcs in diagram for symbol, _ in arcs})


def _chances(after: NDArray[np.int64], exists: NDArray[np.float64], length: int) -> list[NDArray[np.float64]]:
    """Return the summed chances of each node's arcs, [nodes, arcs], for 0..length symbols that are left."""
    # shares of the numbers of walks, which themselves outgrow every float
    ways = np.zeros(len(after) + 1)
    ways[-1] = 1.0
    chances = [np.zeros_like(exists)]
    for _ in range(length):
        weights = exists * ways[after]
        total = weights.sum(axis=1, keepdims=True)
        summed = np.cumsum(weights, axis=1) / np.where(total, total, 1.0)
        # the last arc that can be taken ends at 1 exactly, so that no draw below 1 gets past it
        chances.append(np.where(summed >= 1 - 1e-12, 1.0, summed) * (total > 0))
        ways = np.append(total[:, 0] / (total.max() or 1.0), 0.0)
    return chances
