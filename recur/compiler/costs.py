"""What a step of a recurrence costs: flops, numbers kept and moved, as formulas in the sizes D, H and P."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from recur.compiler.graph import OUTPUTS, ROW, UNITS, Equation, Node, folded
from recur.compiler.plan import COSTLY, Plan, plan_backward, plan_forward


@dataclass(frozen=True)
class Formula:
    """A sum of products of sizes.

    >>> cost = Formula({"H H": 8}) + Formula({"H": 17})
    >>> print(cost, "=", cost.at(H=10))
    8 H H + 17 H = 970
    """

    terms: Mapping[str, int]
    """How often each product of sizes is counted: `H H`, `D H`, `H`, and `` for 1."""

    def __add__(self, other: "Formula") -> "Formula":
        names = [*self.terms, *(name for name in other.terms if name not in self.terms)]
        return Formula({name: self.terms.get(name, 0) + other.terms.get(name, 0) for name in names})

    def __mul__(self, factor: int) -> "Formula":
        return Formula({name: factor * count for name, count in self.terms.items()})

    def at(self, **sizes: int) -> int:
        """Return its value for sizes such as D=64, H=128."""
        total = 0
        for name, count in self.terms.items():
            for size in name.split():
                count *= sizes[size]
            total += count
        return total

    def __str__(self) -> str:
        terms = sorted(((name, count) for name, count in self.terms.items() if count), key=lambda t: (-len(t[0]), t[0]))
        return " + ".join(name if name and count == 1 else f"{count} {name}".strip() for name, count in terms) or "0"


@dataclass(frozen=True)
class Pass:
    """What one direction of a step costs for one row: flops, and numbers moved."""

    stages: int
    """How often all units must be known before any can go on."""
    products: dict[str, Formula] = field(default_factory=dict)
    """Flops of the matrix products, a multiplication and an addition each, by what they are for."""
    elementwise: Formula = field(default_factory=lambda: Formula({}))
    """Elementwise operations, biases included."""
    costly: Formula = field(default_factory=lambda: Formula({}))
    """Those of them that are one of `functions`."""
    functions: tuple[str, ...] = ()
    """What costs much more than a multiplication: those of sigmoid, tanh, exp, log, sqrt and pow that there are."""
    moved: Formula = field(default_factory=lambda: Formula({}))
    """Numbers read and written, each array counted once, weights not counted."""

    @property
    def flops(self) -> Formula:
        """All of them."""
        return sum(self.products.values(), self.elementwise)


@dataclass(frozen=True)
class Costs:
    """What a step costs."""

    forward: Pass
    """Of a training step; one for inference saves nothing."""
    backward: Pass
    """With the gradients of x and of all weights."""
    weights: Formula
    """Numbers in the weights, with both biases."""
    saved: Formula
    """Numbers kept per step and row for the backward, besides x and the outputs."""
    gradients: Formula
    """Numbers per step and row that the backward leaves for the gradients of x and the weights."""
    scratch: Formula
    """Numbers per row that live for one step of the forward."""
    back_scratch: Formula
    """Numbers per row that live for one step of the backward, and what passes from step to step."""

    def intensity(self, step: Pass, sizes: Mapping[str, int], itemsize: int) -> float:
        """Return flops per byte for `sizes["B"]` rows, if the weights are read once per step for all of them."""
        moved = self.weights.at(**sizes) + sizes["B"] * step.moved.at(**sizes)
        return sizes["B"] * step.flops.at(**sizes) / (itemsize * moved)


def costs(text: str) -> Costs:
    """Return what a step of the equation that `text` says costs."""
    forward, backward = plan_forward(text, True), plan_backward(text)
    equation, gradients = forward.equation, backward.gradients
    assert gradients is not None
    h = _size(equation.dim("h"))
    inputs, others = len(gradients.inputs[1]), [name for name in equation.states if name != "h"]
    saved = _sum(_numbers([*forward.slots, *forward.rows]), *(_size(equation.dim(name)) for name in others))
    kept = _sum(*map(_size, backward.gradient_dims))
    columns = [(column, argument) for argument, _, run in gradients.runs for column in run]
    through = _sum(*(_product(column.product.dim, argument.dim) for column, argument in columns))
    biased = {node for node in equation.nodes if node.op == "product"} - folded(equation)
    return Costs(
        forward=Pass(
            stages=len(forward.stages),
            products={
                "input products": Formula({"D H": 2 * inputs}),
                "recurrent products": _sum(
                    *(
                        _product(product.dim, product.operand.dim) * len(product.leaves)
                        for stage in forward.stages
                        for product in stage.products
                    )
                ),
            },
            elementwise=_sum(_elementwise(forward), Formula({UNITS: inputs + len(biased)})),
            costly=_elementwise(forward, COSTLY),
            functions=_functions(forward),
            moved=_sum(Formula({"D": 1}), h, saved),
        ),
        backward=Pass(
            stages=len(backward.stages),
            products={
                "back through U": through,
                "gradients of U": through,
                "gradients of W": Formula({"D H": 2 * inputs}),
                "gradient of x": Formula({"D H": 2 * inputs}),
            },
            elementwise=_sum(_elementwise(backward), _arriving(backward)),
            costly=_elementwise(backward, COSTLY),
            functions=_functions(backward),
            # x and its gradient, outputs and theirs
            moved=_sum(Formula({"D": 2}), h * 2, saved, kept),
        ),
        weights=_weights(equation),
        saved=saved,
        gradients=kept,
        scratch=_numbers(forward.temporaries),
        back_scratch=_sum(
            _numbers(backward.temporaries), *(_size(equation.dim(name)) * 2 for name in backward.carries)
        ),
    )


def saved_floats(text: str) -> dict[str, int]:
    """Return how many numbers per step and row are kept for the backward, besides x and the outputs.

    Args:
        text: `Equation.text`.

    Returns:
        how many of H and of P numbers, and how many single ones ("row"). LSTM: {"H": 5, "P": 0, "row": 0}.
    """
    terms = costs(text).saved.terms
    return {UNITS: terms.get(UNITS, 0), OUTPUTS: terms.get(OUTPUTS, 0), ROW: terms.get("", 0)}


def table(found: Costs, kept: Sequence[str], sizes: Mapping[str, int] | None, dtype: torch.dtype) -> str:
    """Return costs as text.

    Args:
        found: the costs.
        kept: the names of what is saved.
        sizes: B, D, H, and P of a projected cell, to give numbers too.
        dtype: of the numbers that are moved.
    """
    size = dtype.itemsize
    # what, how much, of which unit, and words about it
    rows: list[tuple[str, Formula | None, str, str]] = []
    for title, step, scratch in (
        ("forward", found.forward, found.scratch),
        ("backward", found.backward, found.back_scratch),
    ):
        rows.append((title, None, "", ""))
        rows += [(f"  {name}", flops, "flops", "") for name, flops in step.products.items() if flops.terms]
        some = f"{step.costly} of them {', '.join(step.functions)}" if step.functions else ""
        rows.append(("  elementwise", step.elementwise, "flops", some))
        rows.append(("  read and written", step.moved * size, "bytes", "every array once, without weights"))
        rows.append(("  scratch", scratch * size, "bytes", "used again at every step"))
    rows.append(("kept for the whole sequence", None, "", ""))
    rows.append(("  by the forward", found.saved, "numbers", " ".join(kept)))
    rows.append(("  by the backward", found.gradients, "numbers", "gradients of x.g and of products"))
    rows.append(("for all rows", None, "", ""))
    rows.append(("  weights", found.weights * size, "bytes", ""))
    cells = [(name, str(formula or ""), _at(formula, sizes), unit, note) for name, formula, unit, note in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    named = "".join(f", {name} = {value}" for name, value in (sizes or {}).items())
    lines = [f"costs per step and row, {str(dtype).removeprefix('torch.')}{named}"]
    for name, formula, value, unit, note in cells:
        text = f"  {name:<{widths[0]}}  {formula:<{widths[1]}}  "
        text += f"{value:>{widths[2]}}  " * bool(sizes)
        lines.append(f"{text}{unit:<{widths[3]}}  {note}".rstrip())
    if sizes:
        there, back = (found.intensity(step, sizes, size) for step in (found.forward, found.backward))
        lines.append(f"  flops per byte, weights read once a step: forward {there:.1f}, backward {back:.1f}")
    return "\n".join(lines)


def _at(formula: Formula | None, sizes: Mapping[str, int] | None) -> str:
    return f"{formula.at(**sizes):,}" if formula and sizes else ""


def _functions(plan: Plan) -> tuple[str, ...]:
    used = {node.op for stage in plan.stages for node in stage.order}
    return tuple(name for name in COSTLY if name in used)


def _size(dim: str) -> Formula:
    return Formula({dim if dim in (UNITS, OUTPUTS) else "": 1})


def _product(*dims: str) -> Formula:
    return Formula({" ".join(sorted(dims)): 2})


def _sum(*formulas: Formula) -> Formula:
    return sum(formulas, Formula({}))


def _numbers(nodes: Iterable[Node]) -> Formula:
    return _sum(*(_size(node.dim) for node in nodes))


def _elementwise(plan: Plan, only: tuple[str, ...] = ()) -> Formula:
    work = [node for stage in plan.stages for node in stage.order if node.op != "clip"]
    return _numbers(node for node in work if not only or node.op in only)


def _arriving(plan: Plan) -> Formula:
    """Count the additions in what arrives from the step after: by matrices, elementwise, and from outside."""
    multiplied = {product.leaves[0] for stage in plan.stages for product in stage.products if product.delayed}
    seeds = {node for stage in plan.stages for node, (buffer, _) in stage.loads.items() if buffer == "seed"}
    terms = {node: (node in multiplied) + (node.name in plan.carries) + (node.name == "h") for node in seeds}
    return _sum(*(_size(node.dim) * (count - 1) for node, count in terms.items() if count > 1))


def _weights(equation: Equation) -> Formula:
    h = equation.dim("h")
    counted = Formula({"D H": len(equation.gates), UNITS: len(equation.gates) + len(equation.units)})
    recurrent = Formula({" ".join(sorted((UNITS, h))): len(equation.recurrent), UNITS: len(equation.recurrent)})
    counted = counted + recurrent
    return counted + Formula({"H P": 1}) if equation.projected else counted
