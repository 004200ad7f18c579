"""How a cell's gates are used: means, histograms, saturation, the LSTM's truth table, time constants."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recur.cells.cell import Cell
from recur.compiler.graph import Equation, Node, gate_values
from recur.flow.result import Array, GateUse
from recur.flow.values import Values

BINS = 40
LOW, HIGH = 0.1, 0.9
# c by its gates, rounded: (i, f)
TRUTH = {"keep": (0, 1), "add": (1, 1), "clear": (0, 0), "overwrite": (1, 0)}


@dataclass
class _Tally:
    total: Tensor
    counts: Tensor
    low: int = 0
    high: int = 0


class GateTally:
    """Counts what gates do, chunk by chunk of the nodes' values.

    Args:
        equation: the cell's.
        cell: the cell, for the gate that keeps its state.
        valid: bool [T, B], which steps are a row's, or None where all are.
        bins: whether to count histograms and the truth table too.
    """

    def __init__(self, equation: Equation, cell: Cell, valid: Tensor | None, bins: bool = True) -> None:
        self._nodes = {g: n for g, n in gate_values(equation).items() if n.op in ("sigmoid", "tanh")}
        self._keep, self._valid, self._bins = cell.keep, valid, bins
        self._tallies: dict[str, _Tally] = {}
        self._truth = dict.fromkeys(TRUTH, 0)
        self._count = 0
        gates = [self._nodes.get(name) for name in ("i", "f")]
        self._is_lstm = "c" in equation.states and all(g is not None and g.op == "sigmoid" for g in gates)

    def look(self, start: int, stop: int, values: Values) -> None:
        """Count the values of the steps from `start` to `stop`, [(stop - start) * B, H]."""
        mask = None if self._valid is None else self._valid[start:stop].flatten()
        seen: dict[str, Tensor] = {}
        for name, node in self._nodes.items():
            value = values[node]
            seen[name] = value = value if mask is None else value[mask]
            if name not in self._tallies:
                self._tallies[name] = _Tally(
                    torch.zeros(value.shape[-1], dtype=torch.float64, device=value.device), torch.zeros(BINS)
                )
            tally, edge = self._tallies[name], _lowest(node)
            tally.total += value.sum(0, dtype=torch.float64)
            tally.low += int((value < (LOW if edge == 0 else -HIGH)).count_nonzero())
            tally.high += int((value > HIGH).count_nonzero())
            if self._bins:
                places = ((value - edge) * (BINS / (1 - edge))).to(torch.uint8).clamp_(max=BINS - 1)
                tally.counts += places.flatten().bincount(minlength=BINS).cpu()
        self._count += len(next(iter(seen.values()))) if seen else 0
        if self._is_lstm and self._bins:
            i, f = seen["i"] > 0.5, seen["f"] > 0.5
            both, add = i.numel(), int((i & f).count_nonzero())
            i_open, f_open = int(i.count_nonzero()), int(f.count_nonzero())
            found = {"add": add, "keep": f_open - add, "overwrite": i_open - add, "clear": both - i_open - f_open + add}
            for name, count in found.items():
                self._truth[name] += count

    def use(self) -> dict[str, GateUse]:
        """Return the use of each gate."""
        result = {}
        for name, tally in self._tallies.items():
            count = max(1, self._count * len(tally.total))
            result[name] = GateUse(
                mean=float(tally.total.sum()) / count,
                histogram=tally.counts.double().numpy() / count,
                edges=np.linspace(_lowest(self._nodes[name]), 1, BINS + 1),
                low=tally.low / count,
                high=tally.high / count,
            )
        return result

    def truth_table(self) -> dict[str, float] | None:
        """Return the share of (step, row, unit) by what c does, of an LSTM; None of others."""
        total = sum(self._truth.values())
        return {name: count / total for name, count in self._truth.items()} if self._is_lstm and total else None

    def time_constants(self) -> Array | None:
        """Return 1 / (1 - f) by unit, f the mean of the gate that keeps the state; None without such a gate."""
        gate = self._keep.lstrip("-")
        if gate not in self._tallies or self._nodes[gate].op != "sigmoid":
            return None
        kept = (self._tallies[gate].total / max(1, self._count)).cpu().numpy()
        lost = kept if self._keep.startswith("-") else 1 - kept
        with np.errstate(divide="ignore"):
            return np.asarray(1 / lost, dtype=np.float64)


def _lowest(node: Node) -> int:
    return 0 if node.op == "sigmoid" else -1
