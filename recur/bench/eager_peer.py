"""A cell written by hand in torch, a loop over the steps with all products of h in one; and torch.compile of it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from recur.bench.peers import Work, layer_work
from recur.bench.problem import Problem
from recur.cells import Cell, State
from recur.cells.cell import Gates, Products, Units


def build(problem: Problem, mode: str, threads: int) -> Work | None:
    """Return the work of the loop, for cells that torch.nn does not have."""
    return None if problem.standard else layer_work(problem, EagerLoop(problem), mode)


def build_compiled(problem: Problem, mode: str, threads: int) -> Work | None:
    """Return the work of torch.compile's version of the loop."""
    if problem.standard:
        return None
    layer = EagerLoop(problem)
    # torch.compile does not follow the equation's attributes; it gets the tensor operations that they stand for
    layer.step = make_fx(lambda x, values, matrices, units: layer.eager_step(x, values, matrices, units))(
        *layer.example()
    )
    layer.compile(dynamic=False)
    return layer_work(problem, layer, mode)


class EagerLoop(nn.Module):
    """A layer with the problem's weights, called like torch.nn's; products that can be one are."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        for name, value in problem.weights.items():
            self.register_parameter(f"{name}_l0", nn.Parameter(value.clone()))
        self.of_h = _products_of_h(problem.cell)
        self.others = [name for name in problem.cell.recurrent_names if name not in self.of_h]
        self.step: Any = self.eager_step

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run over x [T, B, I] and return the outputs [T, B, H] and the final states [1, B, H]."""
        weights, cell = dict(self.named_parameters()), self.problem.cell
        gates = F.linear(x, weights["weight_ih_l0"], weights["bias_ih_l0"])
        zeros = x.new_zeros(x.shape[1], self.problem.shape.H)
        values = [zeros for _ in cell.state_names] if state is None else [value[0] for value in state]
        matrices, units = self._matrices(weights.get("weight_hh_l0")), list(weights.get("units_l0", ()))
        outputs, h = [], cell.state_names.index("h")
        for step in gates.unbind():
            values = self.step(step, values, matrices, units)
            outputs.append(values[h])
        return torch.stack(outputs), tuple(value[None] for value in values)

    def example(self) -> tuple[Any, ...]:
        """Return arguments of `step`."""
        (_, B, _, H), cell = vars(self.problem.shape).values(), self.problem.cell
        states = [torch.zeros(B, H) for _ in cell.state_names]
        matrices = self._matrices(self.problem.weights.get("weight_hh"))
        return torch.zeros(B, len(cell.gate_names) * H), states, matrices, list(self.problem.weights.get("units", ()))

    def _matrices(self, stacked: Tensor | None) -> list[Tensor]:
        """Return the matrices, transposed: that of all products with h, if there are any, and the others one by one."""
        if stacked is None:
            return []
        blocks = dict(zip(self.problem.cell.recurrent_names, torch.split(stacked, self.problem.shape.H), strict=True))
        merged = [torch.cat([blocks[name] for name in self.of_h]).t()] if self.of_h else []
        return merged + [blocks[name].t() for name in self.others]

    def eager_step(
        self, x: Tensor, values: list[Tensor], matrices: Sequence[Tensor], units: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the states after a step of which the input's gates [B, G*H] are `x`."""
        cell, H = self.problem.cell, self.problem.shape.H
        before = State(**dict(zip(cell.state_names, values, strict=True)))
        products = dict(zip(self.others, map(_product, matrices[bool(self.of_h) :]), strict=True))
        if self.of_h:
            parts = torch.split(before.h @ matrices[0], H, dim=-1)
            products |= {name: _given(part) for name, part in zip(self.of_h, parts, strict=True)}
        named = Gates("gate", dict(zip(cell.gate_names, torch.split(x, H, dim=-1), strict=True)))
        parameters = Units("per-unit parameter", dict(zip(cell.unit_names, units, strict=True)))
        return list(cell.advance(named, Products("gate", products), before, parameters, None))


def _product(matrix: Tensor) -> Any:
    return lambda vector: vector @ matrix


def _given(part: Tensor) -> Any:
    return lambda vector: part


def _products_of_h(cell: Cell) -> list[str]:
    """Return the gates whose recurrent product is always that of h, found by taking a step."""
    zeros = torch.zeros(1, 1)
    state = State(**{name: zeros.clone() for name in cell.state_names})
    seen: dict[str, list[Tensor]] = {name: [] for name in cell.recurrent_names}

    def record(name: str) -> Any:
        def product(vector: Tensor) -> Tensor:
            seen[name].append(vector)
            return zeros

        return product

    x = Gates("gate", dict.fromkeys(cell.gate_names, zeros))
    units = Units("per-unit parameter", dict.fromkeys(cell.unit_names, zeros[0]))
    cell.advance(x, Products("gate", {name: record(name) for name in seen}), state, units, None)
    return [name for name, vectors in seen.items() if vectors and all(vector is state.h for vector in vectors)]
