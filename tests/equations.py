"""What the tests of the compiler share: one problem, solved by the reference, the interpreter and the kernels.

Each solution is a dictionary of named tensors: the outputs `y`, the final states, and all gradients under random
cotangents on the outputs and on every final state.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recur.cells.cell import Cell, State, exp, maximum, mean, normalize, sigmoid, tanh, where
from recur.compiler import interpret, kernel
from recur.compiler.graph import unclipped
from recur.compiler.plan import plan_backward, plan_forward
from recur.compiler.rows import Rows, ragged, uniform
from recur.compiler.trace import trace
from recur.scan import Weights, scan

# largest difference accepted, relative to the largest number of a tensor or 1: sums in another order
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}


class Odd(Cell):
    """Three states, three recurrent stages, a mean, kinks, and the product of gate a twice, of b with two values."""

    gates = "a b d"
    state = "h c e"

    def step(x, U, s):
        a = tanh(x.a + U.a(s.h) + U.b(s.c))
        b = sigmoid(U.a(a * s.e) + x.b)
        d = exp(-abs(x.d + U.d(b * a))) / (1 + b)
        return State(h=normalize(a + d) * s.c, c=where(b > 0.5, d, s.c * a), e=maximum(a, s.h) - mean(d))


@dataclass
class Problem:
    """A cell, its arguments, and the gradients that come in."""

    cell: Cell
    x: Tensor
    weights: Weights
    state: State
    d_y: Tensor
    d_final: State
    lengths: list[int] | None = None
    reverse: bool = False
    masks: Tensor | None = None

    @property
    def rows(self) -> Rows:
        steps, batch = self.x.shape[:2]
        if self.lengths is None:
            return uniform(steps, batch, self.reverse)
        return ragged(steps, self.lengths, reverse=self.reverse)

    @property
    def text(self) -> str:
        return trace(self.cell).text

    def to(self, dtype: torch.dtype) -> "Problem":
        return self.map(lambda value: value.to(dtype))

    def map(self, function) -> "Problem":
        """The problem with `function` applied to every tensor."""
        return replace(
            self,
            x=function(self.x),
            weights=Weights(*(None if w is None else function(w) for w in self.weights)),
            state=self.state.map(function),
            d_y=function(self.d_y),
            d_final=self.d_final.map(function),
            masks=None if self.masks is None else function(self.masks),
        )

    def only(self, row: int) -> "Problem":
        """The problem of one row of the batch."""
        one = slice(row, row + 1)
        return replace(
            self,
            x=self.x[:, one],
            state=self.state.map(lambda value: value[one]),
            d_y=self.d_y[:, one],
            d_final=self.d_final.map(lambda value: value[one]),
            lengths=None if self.lengths is None else self.lengths[one],
            masks=None if self.masks is None else self.masks[:, :, one],
        )


def problem(
    cell: Cell,
    T: int,
    B: int,
    D: int,
    H: int,
    P: int | None = None,
    *,
    bias: bool = True,
    lengths: list[int] | None = None,
    reverse: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Problem:
    """Draw a problem; weights keep the states of size 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    P = (P or -(-H // 2)) if cell.projected else H
    G, R, K, M = (len(names) for names in (cell.gate_names, cell.recurrent_names, cell.unit_names, cell.mask_names))
    sizes = {name: P if name == "h" else H for name in cell.state_names}
    weights = Weights(
        ih=draw(G * H, D) / D**0.5,
        hh=draw(R * H, P) / P**0.5 if R else None,
        bias_ih=0.5 * draw(G * H) if bias else None,
        bias_hh=0.5 * draw(R * H) if R and bias else None,
        units=1 + 0.5 * draw(K, H) if K else None,
        hr=draw(P, H) / H**0.5 if cell.projected else None,
    )
    return Problem(
        cell=cell,
        x=draw(T, B, D),
        weights=weights,
        state=State(**{name: 0.5 * draw(B, size) for name, size in sizes.items()}),
        d_y=draw(T, B, P),
        d_final=State(**{name: draw(B, size) for name, size in sizes.items()}),
        lengths=lengths,
        reverse=reverse,
        masks=(torch.rand((M, T, B, H), generator=generator, dtype=torch.float64) > 0.3).to(dtype) if M else None,
    )


def named(problem: Problem, y: Tensor, final, d_x: Tensor, d_weights, d_state) -> dict[str, Tensor]:
    """One solution: outputs, final states and gradients by name."""
    names = problem.cell.state_names
    found = {"y": y, **{f"final {name}": value for name, value in zip(names, final, strict=True)}, "d x": d_x}
    found |= {f"d {name}": value for name, value in zip(Weights._fields, d_weights, strict=True) if value is not None}
    return found | {f"d initial {name}": value for name, value in zip(names, d_state, strict=True)}


def by_reference(problem: Problem) -> dict[str, Tensor]:
    """The equation in a Python loop, and autograd."""
    given = problem.map(lambda value: value.detach().clone().requires_grad_(value.is_floating_point()))
    lengths = None if given.lengths is None else torch.tensor(given.lengths)
    arguments = (given.cell, given.x, given.weights, given.state, lengths)
    y, final = scan(*arguments, reverse=given.reverse, masks=given.masks, backend="reference")[:2]
    loss = (y * problem.d_y).sum()
    for value, gradient in zip(final, problem.d_final, strict=True):
        loss = loss + (value * gradient).sum()
    weights = [w for w in given.weights if w is not None]
    leaves = [given.x, *weights, *given.state]
    gradients = iter(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    d_x = next(gradients)
    d_weights = [None if w is None else next(gradients) for w in given.weights]
    return {name: value.detach() for name, value in named(problem, y, final, d_x, d_weights, list(gradients)).items()}


def run(problem: Problem, *, rows: Rows | None = None, training: bool = True) -> kernel.Result:
    """The forward kernel."""
    return kernel.forward(
        problem.text,
        problem.x,
        kernel.Weights(*problem.weights),
        list(problem.state),
        rows or problem.rows,
        problem.masks,
        training=training,
    )


def by_kernel(problem: Problem, *, rows: Rows | None = None) -> dict[str, Tensor]:
    """The compiled kernels, forward and backward."""
    rows = rows or problem.rows
    result = run(problem, rows=rows)
    gradients = kernel.backward(
        problem.text,
        problem.x,
        kernel.Weights(*problem.weights),
        list(problem.state),
        rows,
        result.y,
        result.kept,
        problem.d_y,
        list(problem.d_final),
        problem.masks,
    )
    return named(problem, result.y, result.final, gradients.x, gradients.weights, gradients.state)


def by_interpreter(problem: Problem) -> dict[str, Tensor]:
    """The plan, run by the interpreter; all rows must be full, and run forwards."""
    cell, weights, text = problem.cell, problem.weights, problem.text
    H = len(weights.ih) // len(cell.gate_names)

    def blocks(matrix: Tensor | None, names: tuple[str, ...]) -> dict[str, Tensor]:
        if not names:
            return {}
        return dict(zip(names, weights.ih.new_zeros(len(names), H) if matrix is None else matrix.split(H), strict=True))

    units = {} if weights.units is None else dict(zip(cell.unit_names, weights.units, strict=True))
    matrices = interpret.Matrices(
        ih=blocks(weights.ih, cell.gate_names),
        hh=blocks(weights.hh, cell.recurrent_names),
        bias_ih=blocks(weights.bias_ih, cell.gate_names),
        bias_hh=blocks(weights.bias_hh, cell.recurrent_names),
        units=units,
        hr=weights.hr,
    )
    masks = {} if problem.masks is None else dict(zip(cell.mask_names, problem.masks, strict=True))
    tape = interpret.forward(text, problem.x, matrices, dict(problem.state.items()), masks)
    given = {name: problem.x.new_zeros(values[1:].shape) for name, values in tape.states.items()}
    given["h"] += problem.d_y
    for name, value in problem.d_final.items():
        given[name][-1] += value
    slots, before, d_units = interpret.backward(text, tape, matrices, masks, given)

    gradients, kept = plan_backward(text, True).gradients, plan_forward(text, True).slots
    d = {name: None if w is None else torch.zeros_like(w) for name, w in weights._asdict().items()}
    first, gates = gradients.inputs
    d_x = torch.zeros_like(problem.x)

    def of(names: tuple[str, ...], gate: str) -> slice:
        return slice(names.index(gate) * H, (names.index(gate) + 1) * H)

    for t, step in enumerate(slots):
        for gate, slot in zip(gates, step[first:], strict=False):
            a = slot.expand(len(slot), H)
            d["ih"][of(cell.gate_names, gate)] += a.T @ problem.x[t]
            if d["bias_ih"] is not None:
                d["bias_ih"][of(cell.gate_names, gate)] += a.sum(0)
            d_x[t] += a @ matrices.ih[gate]
        for argument, start, columns in gradients.runs:
            source = unclipped(argument)
            value = tape.states[source.name][t] if source.op == "state" else tape.slots[t][kept.index(argument)]
            value = value.expand(problem.x.shape[1], -1)
            for column, slot in zip(columns, step[start:], strict=False):
                a = slot.expand(len(slot), len(matrices.product(column.gate)))
                if not column.gate:
                    d["hr"] += a.T @ value
                    continue
                place = of(cell.recurrent_names, column.gate)
                d["hh"][place] += a.T @ value
                if d["bias_hh"] is not None:
                    d["bias_hh"][place] += a.sum(0)
    if weights.units is not None:
        d["units"] = torch.stack([d_units[name] for name in cell.unit_names])
    final = [values[-1] for values in tape.states.values()]
    return named(problem, tape.states["h"][1:], final, d_x, d.values(), list(before.values()))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float | None = None) -> None:
    """Compare two solutions, tensor by tensor."""
    assert list(found) == list(expected)
    for name, value in found.items():
        wanted = expected[name]
        assert value.shape == wanted.shape, f"{name}: {list(value.shape)} is not {list(wanted.shape)}"
        allowed = TOLERANCE[value.dtype] if tolerance is None else tolerance
        size = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
        difference = (value.double() - wanted.double()).abs().max().item() if wanted.numel() else 0.0
        assert difference <= allowed * size, f"{name} differs by {difference:.2g}, largest number {size:.2g}"


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare two solutions bit by bit; NaN is NaN."""
    assert list(found) == list(expected)
    for name, value in found.items():
        same = torch.equal(value.nan_to_num(7.0), expected[name].nan_to_num(7.0))
        assert same, f"{name} differs by {(value - expected[name]).abs().max().item():.2g}"
