"""What was derived from an equation, printed: the graph, the planned program and its costs, LLVM IR and assembly.

`recur.compiler.latex` prints the formula.
"""

from collections.abc import Callable, Mapping

import torch

from recur.cells.cell import Cell
from recur.compiler import machine
from recur.compiler.costs import costs, saved_floats, table
from recur.compiler.emit import Source
from recur.compiler.emit_backward import emit_backward
from recur.compiler.emit_forward import emit_forward
from recur.compiler.graph import Equation, Node, used_inputs
from recur.compiler.latex import latex
from recur.compiler.library import tiling
from recur.compiler.plan import Plan, Product, Stage, plan_backward, plan_forward
from recur.compiler.target import Target, host
from recur.compiler.trace import trace
from recur.compiler.wording import Wording, Words, gradient_names, matrix, number, own_names, slot_names

__all__ = ["assembly", "costs", "graph", "ir", "latex", "listing", "saved", "saved_floats"]

# where a value of a stage goes
_NOTES = {
    "new": "state, saved",
    "slot": "saved",
    "row": "saved, one number",
    "temporary": "scratch",
    "sum": "over the units",
    "gradient": "kept for dW, dU, dx",
    "carry": "to the step before",
    "unit_gradient": "added up",
}
_Lines = list[tuple[str, str]]


def saved(cell: Cell) -> list[str]:
    """Return the names of what a training step keeps for the backward, besides x and the outputs.

    >>> from recur.cells import GRU
    >>> saved(GRU())
    ['z', 'r', 'U.n(s.h)', 'n']
    """
    forward, wording = _planned(trace(cell))[::2]
    return [*wording.slots(forward), *(f"{name}'" for name in forward.equation.states if name != "h")]


def graph(cell: Cell) -> str:
    """Return the values of a step and of the backward step derived from it, a line for each.

    Raises:
        NotTraceable: the equation holds something that cannot be compiled.
    """
    equation = trace(cell)
    forward, backward, wording = _planned(equation)
    inlined = ("const", "share")
    own = [node for node in equation.nodes if node.op not in inlined]
    stages = backward.stages
    derived = {node for stage in stages for node in (*stage.order, *stage.loads)} - {*equation.nodes}
    numbers = {node: f"%{node.number}" for node in {*own, *derived} if node.op not in inlined}
    words = Words(numbers, wording.backward.columns)
    called = {node: [name] for node, name in own_names(equation).items()}
    for name, node in equation.new.items():
        if f"{name}'" not in called.setdefault(node, []):
            called[node].append(f"{name}'")
    for node, name in gradient_names(backward):
        called.setdefault(node, []).append(name)
    kept = {*forward.slots, *forward.rows, *(node for name, node in equation.new.items() if name != "h")}
    again = {node for stage in stages for node in stage.order}

    def line(node: Node) -> tuple[str, str]:
        text = words.definition(node)
        names = [name for name in called.get(node, ()) if name != text]
        if node in equation.nodes:
            names += ["saved"] * (node in kept) + ["comes again in the backward"] * (node in again)
        return f"{words(node)} = {text}", ", ".join(names)

    zeros = [(f"{name} = {number(node.value)}", "") for node, name in gradient_names(backward) if node.op == "const"]
    back = [line(node) for node in sorted(derived, key=lambda node: node.number) if node.op not in inlined]
    return "\n".join(["forward", *_columns([line(node) for node in own]), "", "backward", *_columns(back + zeros)])


def listing(cell: Cell, sizes: Mapping[str, int] | None = None, dtype: torch.dtype = torch.float32) -> str:
    """Return the planned program, forward and backward, and what it costs.

    Args:
        cell: what to show.
        sizes: B, D, H, and P of a projected cell, to give the costs as numbers too.
        dtype: of the numbers.

    Raises:
        NotTraceable: the equation holds something that cannot be compiled.
    """
    equation = trace(cell)
    forward, backward, wording = _planned(equation)
    gates = used_inputs(equation)
    parts: list[tuple[str, _Lines]] = []
    if gates:
        text = f"multiply {' '.join(f'x.{gate}' for gate in gates)} = W x + b"
        parts.append(("forward, inputs of many steps at once", [(text, _matrix("H", "D", len(gates)))]))
    for index, stage in enumerate(forward.stages):
        lines = [_multiplication(product, wording.forward) for product in stage.products]
        parts.append((f"forward, stage {index + 1}", lines + _work(stage, forward, wording.forward)))
    for index, stage in enumerate(backward.stages):
        lines = _arriving(stage, backward, wording.backward) + _work(stage, backward, wording.backward)
        parts.append((f"backward, stage {index + 1}", lines))
    width = min(72, max(len(text) for _, lines in parts for text, _ in lines))
    text = "\n\n".join("\n".join([title, *_columns(lines, width)]) for title, lines in parts)
    return f"{_declaration(cell)}\n\n{text}\n\n{table(costs(equation.text), saved(cell), sizes, dtype)}"


def ir(cell: Cell, dtype: torch.dtype = torch.float32, target: Target | None = None) -> str:
    """Return the forward kernel of a training step and the backward kernel, as two modules of LLVM assembly.

    Args:
        cell: what to compile.
        dtype: float32 or float64.
        target: the processor, by default this one.

    Raises:
        NotTraceable: the equation holds something that cannot be compiled.
        NotCompilable: kernels are not made for processors of this kind.
    """
    return _modules(cell, dtype, target or host(), ";", lambda text, _: text)


def assembly(cell: Cell, dtype: torch.dtype = torch.float32, target: Target | None = None) -> str:
    """Return the kernels as assembly for `target`; arguments and errors as for `ir`."""
    target = target or host()
    return _modules(cell, dtype, target, "//" if target.architecture == "aarch64" else "#", machine.assembly)


def _modules(cell: Cell, dtype: torch.dtype, target: Target, comment: str, text: Callable[[str, Target], str]) -> str:
    equation = trace(cell)
    parts = []
    for name, source in _sources(equation, dtype, target).items():
        head = f"{comment} {cell!r}, {name}, {str(dtype).removeprefix('torch.')}, {target.triple}, {target.cpu}"
        words = f"{comment} words of the argument: {' '.join(source.fields)}"
        parts.append(f"{head}\n{words}\n{text(source.text, target).strip()}\n")
    return "\n".join(parts)


def _sources(equation: Equation, dtype: torch.dtype, target: Target) -> dict[str, Source]:
    cut = tiling(dtype, target)
    return {
        "forward": emit_forward(plan_forward(equation.text, True), cut, target, training=True),
        "backward": emit_backward(plan_backward(equation.text), cut, target),
    }


def _planned(equation: Equation) -> tuple[Plan, Plan, Wording]:
    forward, backward = plan_forward(equation.text, True), plan_backward(equation.text)
    return forward, backward, Wording(forward, backward)


def _columns(lines: _Lines, width: int | None = None) -> list[str]:
    """Indent lines, and line up the notes at their ends."""
    if width is None:
        width = max((len(text) for text, _ in lines), default=0)
    return [f"  {text:<{width}}  {note}".rstrip() for text, note in lines]


def _declaration(cell: Cell) -> str:
    kinds = [("gates", cell.gate_names), ("states", cell.state_names)]
    kinds += [("per unit", cell.unit_names), ("masks", cell.mask_names)]
    return f"{cell!r}: " + "; ".join(f"{kind} {' '.join(names)}" for kind, names in kinds if names)


# the program


def _matrix(rows: str, columns: str, count: int) -> str:
    return f"[{count} {rows}, {columns}]" if count > 1 else f"[{rows}, {columns}]"


def _multiplication(product: Product, words: Words) -> tuple[str, str]:
    """Return a line that says which matrices are multiplied with what, and their size."""
    results = [words.definition(leaf) for leaf in product.leaves]
    return f"multiply {' '.join(results)}", _matrix(product.dim, product.operand.dim, len(results))


def _arriving(stage: Stage, plan: Plan, words: Words) -> _Lines:
    """Return what comes into a backward stage: from the step after, from outside, and through matrices."""
    assert plan.gradients is not None
    by, places = {product.leaves[0]: product for product in stage.products}, _places(stage, plan, words)
    lines: _Lines = []
    for node, (buffer, _) in stage.loads.items():
        if buffer not in ("seed", "back"):
            continue
        terms, notes = [], []
        if product := by.get(node):
            first, count = product.operand.first, product.operand.count
            run = next(run for _, start, run in plan.gradients.runs if (start, len(run)) == (first, count))
            for number, column in enumerate(run):
                terms.append(f"{matrix(column)}.T({_place('gradient', first + number, column.gradient, plan, words)})")
            notes.append(f"[{product.dim}, {count} {product.operand.dim}]".replace(" 1 ", " "))
        terms += [f"ds.{node.name}"] * (node.name in plan.carries)
        if buffer == "seed" and terms:
            notes.append("from the step after")
        terms += ["dy"] * (node.name == "h")
        total = " + ".join(terms)
        notes += places.get(words(node), ())
        lines.append((f"{words(node)} = {total}" if node in words.names else f"multiply {total}", ", ".join(notes)))
    return lines


def _work(stage: Stage, plan: Plan, words: Words) -> _Lines:
    """Return the elementwise lines of a stage; what is used once is part of the line that uses it."""
    places = _places(stage, plan, words)
    reads = [words(node) for node, (buffer, _) in stage.loads.items() if buffer in ("slot", "row", "new", "temporary")]
    values = {words(node): words.definition(node) for node in stage.order if node in words.names}
    for buffer, index, node in stage.stores:
        name = _place(buffer, index, node, plan, words)
        if name != words(node) or node.op not in ("seed", "back"):
            here = words.definition(node) if name == words(node) else words(node)
            values.setdefault(name, name if buffer == "sum" else here)
    lines = [("read " + " ".join(dict.fromkeys(reads)), "")] if reads else []
    for name, value in values.items():
        lines.append((name if value == name else f"{name} = {value}", ", ".join(places.get(name, ()))))
    return lines


def _places(stage: Stage, plan: Plan, words: Words) -> dict[str, list[str]]:
    """Return what becomes of the values that a stage stores, by their names."""
    notes: dict[str, list[str]] = {}
    for buffer, index, node in stage.stores:
        known = notes.setdefault(_place(buffer, index, node, plan, words), [])
        note = "output" if (buffer, index) == ("new", "h") else _NOTES[buffer]
        known += [part for part in note.split(", ") if part not in known]
    return notes


def _place(buffer: str, index: str | int, node: Node, plan: Plan, words: Words) -> str:
    """Return the name of what is stored somewhere: that of the place if it has one."""
    match buffer:
        case "new":
            return f"{index}'"
        case "carry":
            return f"ds.{index}"
        case "unit_gradient":
            return f"dp.{index}"
        case "sum":
            return f"sum({words(node)})"
        case "gradient":
            names = slot_names(plan)[int(index)]
            return words(node) if words(node) in names else names[0]
    return words(node)
