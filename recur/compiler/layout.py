"""How gradients of pre-activations lie side by side in memory, so that every matrix product reads one run of them."""

from dataclasses import dataclass

from recur.compiler.derive import Backward, Column
from recur.compiler.graph import Node


@dataclass(frozen=True)
class Gradients:
    """How gradients of pre-activations lie side by side, so that every matrix product reads one run of slots.

    `slots` lists them; `inputs` is the run (first, gates) of those of x; `runs` gives for each value that is multiplied
    the first slot and the columns.
    """

    slots: tuple[Node, ...]
    inputs: tuple[int, tuple[str, ...]]
    runs: tuple[tuple[Node, int, tuple[Column, ...]], ...]


def lay_out(derived: Backward) -> Gradients:
    """Lay the gradients out: two values' columns can share slots with x, at the two ends of its run."""
    groups: dict[Node, list[Column]] = {}
    for column in derived.columns:
        groups.setdefault(column.argument, []).append(column)
    inputs = dict(derived.inputs)

    def shared(columns: list[Column]) -> list[Column]:
        gates = {column.gate: column for column in columns if inputs.get(column.gate) is column.gradient}
        return list(gates.values())

    def rest(columns: list[Column]) -> list[Column]:
        same = shared(columns)
        return [column for column in columns if column not in same]

    ranked = sorted(groups, key=lambda argument: -len(shared(groups[argument])))
    left = groups[ranked[0]] if ranked else []
    taken = {column.gate for column in shared(left)}
    right = next(
        (groups[a] for a in ranked[1:] if shared(groups[a]) and not taken & {c.gate for c in shared(groups[a])}), []
    )
    ends = taken | {column.gate for column in shared(right)}
    alone = [gate for gate in inputs if gate not in ends]
    slots: list[Node] = [column.gradient for column in rest(left)]
    first = len(slots)
    order = [*(c.gate for c in shared(left)), *alone, *(c.gate for c in shared(right))]
    slots += [inputs[gate] for gate in order]
    runs = []
    if left:
        runs.append((left[0].argument, 0, (*rest(left), *shared(left))))
    if right:
        runs.append((right[0].argument, len(slots) - len(shared(right)), (*shared(right), *rest(right))))
        slots += [column.gradient for column in rest(right)]
    for argument, columns in groups.items():
        if columns is not left and columns is not right:
            runs.append((argument, len(slots), tuple(columns)))
            slots += [column.gradient for column in columns]
    return Gradients(tuple(slots), (first, tuple(order)), tuple(runs))
