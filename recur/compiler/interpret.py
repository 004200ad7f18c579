"""The planned stages run in torch, slowly: what stands between the equation and the machine code, for tests.

What holds here for the plan and fails in the kernel is the emitter's fault; what fails here is the planner's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recur.cells.cell import clip_gradient
from recur.compiler.graph import OUTPUTS, UNITS, Node
from recur.compiler.plan import Stage, plan_backward, plan_forward


@dataclass
class Tape:
    """What a forward run leaves: states [T + 1, B, H] by name, slots and row numbers per step."""

    states: dict[str, Tensor]
    slots: list[dict[int, Tensor]] = field(default_factory=list)
    rows: list[dict[int, Tensor]] = field(default_factory=list)


@dataclass
class Matrices:
    """Weights by name: `ih` and `hh` gate -> [H, K], biases gate -> [H], `units` name -> [H], `hr` [P, H] or None."""

    ih: Mapping[str, Tensor]
    hh: Mapping[str, Tensor]
    bias_ih: Mapping[str, Tensor]
    bias_hh: Mapping[str, Tensor]
    units: Mapping[str, Tensor]
    hr: Tensor | None = None

    def product(self, gate: str) -> Tensor:
        """The matrix of a product: U of `gate`, or the projection for ""."""
        if gate:
            return self.hh[gate]
        assert self.hr is not None
        return self.hr


def forward(text: str, x: Tensor, weights: Matrices, state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tape:
    """Run the planned forward steps over x [T, B, D]; states and masks by name."""
    plan = plan_forward(text, True)
    tape = Tape({name: value[None] for name, value in state.items()})
    for t in range(len(x)):
        before = {name: values[-1] for name, values in tape.states.items()}
        memory: dict[tuple[str, str | int], Tensor] = {("state", name): value for name, value in before.items()}
        memory |= {("x", gate): x[t] @ matrix.T + weights.bias_ih[gate] for gate, matrix in weights.ih.items()}
        memory |= {("mask", name): value[t] for name, value in masks.items()}
        for stage in plan.stages:
            leaves = {}
            for product in stage.products:
                kind = product.operand.kind
                operand = memory[
                    ("state", product.operand.name) if kind == "state" else ("slot", product.operand.first)
                ]
                for leaf, (gate,) in zip(product.leaves, product.sources, strict=True):
                    leaves[leaf] = operand @ weights.product(gate).T
                    if gate:
                        leaves[leaf] = leaves[leaf] + weights.bias_hh[gate]
            _stage(stage, memory, leaves, weights)
        for name in tape.states:
            tape.states[name] = torch.cat([tape.states[name], memory["new", name][None]])
        tape.slots.append({int(i): v for (buffer, i), v in memory.items() if buffer == "slot"})
        tape.rows.append({int(i): v for (buffer, i), v in memory.items() if buffer == "row"})
    return tape


def backward(
    text: str, tape: Tape, weights: Matrices, masks: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> tuple[list[list[Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """Run the planned steps of BPTT.

    Args:
        text: `Equation.text`.
        tape: what the forward left.
        weights: as for the forward.
        masks: as for the forward.
        given: gradients of all states after every step, [T, B, H] by name; the last includes that of the final state.

    Returns:
        the gradient slots of every step, the gradients of the initial states, and of the per-unit parameters.
    """
    plan = plan_backward(text, True)
    assert plan.gradients is not None
    steps = len(tape.slots)
    units = {name: torch.zeros_like(value) for name, value in weights.units.items()}
    slots: list[list[Tensor]] = [[] for _ in range(steps)]
    arriving = {name: torch.zeros_like(values[0]) for name, values in tape.states.items()}
    for t in reversed(range(steps)):
        memory: dict[tuple[str, str | int], Tensor] = {("state", name): v[t] for name, v in tape.states.items()}
        memory |= {("new", name): v[t + 1] for name, v in tape.states.items()}
        memory |= {("slot", i): v for i, v in tape.slots[t].items()}
        memory |= {("row", i): v for i, v in tape.rows[t].items()}
        memory |= {("seed", name): arriving[name] + given[name][t] for name in arriving}
        memory |= {("mask", name): value[t] for name, value in masks.items()}
        for stage in plan.stages:
            leaves = {}
            for product in stage.products:
                if not product.delayed:
                    parts = [memory["gradient", product.operand.first + i] for i in range(product.operand.count)]
                    leaves[product.leaves[0]] = _back(parts, product.sources[0], weights)
            _stage(stage, memory, leaves, weights)
        slots[t] = [memory["gradient", i] for i in range(len(plan.gradients.slots))]
        arriving = {name: memory.get(("carry", name), torch.zeros_like(v)) for name, v in arriving.items()}
        for argument, first, columns in plan.gradients.runs:
            if argument.op == "state":
                run = slots[t][first : first + len(columns)]
                arriving[argument.name] = arriving[argument.name] + _back(run, [c.gate for c in columns], weights)
        for name in units:
            if ("unit_gradient", name) in memory:
                units[name] = units[name] + memory["unit_gradient", name].sum(0)
    return slots, arriving, units


def _back(parts: list[Tensor], gates: "list[str] | tuple[str, ...]", weights: Matrices) -> Tensor:
    return torch.stack([part @ weights.product(gate) for part, gate in zip(parts, gates, strict=True)]).sum(0)


def _stage(
    stage: Stage, memory: dict[tuple[str, str | int], Tensor], leaves: Mapping[Node, Tensor], weights: Matrices
) -> None:
    like = next(value for (buffer, _), value in memory.items() if buffer in ("state", "new"))
    hidden = len(next(iter(weights.ih.values())))
    sizes = {UNITS: hidden, OUTPUTS: hidden if weights.hr is None else len(weights.hr)}
    values: dict[Node, Tensor] = {}
    for node, (buffer, index) in stage.loads.items():
        if node in leaves:
            values[node] = leaves[node]
        elif buffer == "unit":
            values[node] = weights.units[str(index)]
        elif buffer == "share":
            values[node] = like.new_tensor(1 / sizes[str(index)])
        else:
            values[node] = memory[buffer, index]

    def value(node: Node) -> Tensor:
        return like.new_tensor(node.value) if node.op == "const" else values[node]

    for node in stage.order:
        values[node] = evaluate(node, [value(arg) for arg in node.args])
    for buffer, index, node in stage.stores:
        stored = value(node)
        memory[buffer, index] = stored.sum(-1, keepdim=True) if buffer == "sum" else stored
        if buffer in ("gradient", "carry"):
            memory[buffer, index] = stored.expand(len(like), sizes[stage.dim])


def evaluate(node: Node, args: list[Tensor]) -> Tensor:
    """Return an elementwise node's value from those of its arguments."""
    match node.op, args:
        case ("add", [a, b]):
            return a + b
        case ("sub", [a, b]):
            return a - b
        case ("mul", [a, b]):
            return a * b
        case ("div", [a, b]):
            return a / b
        case ("max", [a, b]):
            return torch.maximum(a, b)
        case ("min", [a, b]):
            return torch.minimum(a, b)
        case ("where", [condition, a, b]):
            return torch.where(condition, a, b)
        case ("clip", [a]):
            return clip_gradient(a, node.value)
        case ("pow", [a]):
            return a**node.value
        case (("gt" | "ge" | "lt" | "le" | "eq" | "ne"), [a, b]):
            return getattr(torch, node.op)(a, b)  # type: ignore[no-any-return]
        case (_, [a]):
            return getattr(torch, node.op)(a)  # type: ignore[no-any-return]
    raise AssertionError(node)
