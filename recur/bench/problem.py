"""What every library is given at a point - the same weights, the same input - and what each must answer."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recur.bench.options import Shape
from recur.cells import Cell, cell_named
from recur.errors import InputError, RecurError
from recur.layers import make

Results = dict[str, np.ndarray[Any, Any]]

# of the largest number in a tensor. Sums of float32 in any order stay within a few 1e-6 of float64 at these sizes; a
# gate in the wrong place is off by more than 1e-2. Equations that lose digits, as by normalising, may lose ten times
# what they lose in torch
TOLERANCE, LOST = 3e-5, 10


class Truth(NamedTuple):
    """The right answer, and how far off each part may be, as a share of its largest number."""

    values: Results
    allowed: dict[str, float]

    def only(self, *names: str) -> "Truth":
        """Return a part of it."""
        return Truth({name: self.values[name] for name in names}, self.allowed)


class WrongResult(RecurError):
    """A library's numbers are not those of the equation, so that its time means nothing."""


@dataclass(frozen=True)
class Problem:
    """A cell with its weights, an input, and what comes from above in the backward pass.

    `standard` says that the cell is torch's LSTM, GRU or RNN, with torch's two biases.
    """

    name: str
    cell: Cell
    shape: Shape

    @property
    def standard(self) -> bool:
        """Whether other libraries have this cell."""
        return self.name in ("lstm", "gru", "rnn")

    @property
    def states(self) -> tuple[str, ...]:
        """The states' names, h first."""
        return self.cell.state_names

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights by torch's names without the layer: weight_ih [G*H, I], weight_hh [G'*H, H], bias_ih, ..."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = self.layer()
        return {name.removesuffix("_l0"): value.detach() for name, value in layer.named_parameters()}

    @cached_property
    def input(self) -> Tensor:
        """The input [T, B, I]."""
        return self._random(1, self.shape.T, self.shape.B, self.shape.I)

    @cached_property
    def above(self) -> list[Tensor]:
        """The gradients with regard to the outputs [T, B, H] and each final state [1, B, H]."""
        T, B, H = self.shape.T, self.shape.B, self.shape.H
        return [self._random(2, T, B, H), *(self._random(3 + i, 1, B, H) for i in range(len(self.states)))]

    def layer(self, **options: Any) -> nn.Module:
        """Return recur's layer for the cell, with weights of its own."""
        return make(self.name if self.standard else self.cell, self.shape.I, self.shape.H, **options)

    def truth(self, train: bool) -> Truth:
        """Return the right answer, computed in float64: by torch.nn if it has the cell, else by the equation."""
        if self.standard:
            values = self._answer(torch_layer(self), torch.float64, train)
            return Truth(values, dict.fromkeys(values, TOLERANCE))
        layer = load_weights(self.layer(backend="reference"), self.weights)
        rounded = self._answer(layer, torch.float32, train)
        values = self._answer(layer, torch.float64, train)
        return Truth(values, {name: max(TOLERANCE, LOST * _error(rounded[name], values[name])) for name in values})

    def check(self, got: Results, truth: Truth) -> None:
        """Compare an answer with the right one.

        Raises:
            WrongResult: something is missing, has another shape, or is too far off.
        """
        for name, right in truth.values.items():
            # two biases that are only added up are one in some libraries
            if name not in got and name == "dbias_hh" and self.name != "gru":
                continue
            if name not in got or got[name].shape != right.shape:
                found = f"of shape {got[name].shape}" if name in got else "missing"
                raise WrongResult(f"{name} must have shape {right.shape}, but is {found}")
            error, allowed = _error(got[name], right), truth.allowed[name]
            if not error <= allowed:
                raise WrongResult(f"{name} is off by {error:.1e} of its largest value, allowed is {allowed:.0e}")

    def _answer(self, layer: nn.Module, dtype: torch.dtype, train: bool) -> Results:
        x = self.input.to(dtype).requires_grad_(train)
        with torch.set_grad_enabled(train):
            return layer_results(self, layer.to(dtype), x, [value.to(dtype) for value in self.above] if train else None)

    def _random(self, seed: int, *sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def _error(got: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    return float(np.abs(got - right).max() / max(np.abs(right).max(), 1e-30))


def load_cell(name: str) -> Cell:
    """Return the cell for a name, or for FILE.py:CLASS.

    Raises:
        InputError: there is no such name, file or class, or the class is no cell.
    """
    path, colon, wanted = name.rpartition(":")
    if not colon:
        try:
            cell = cell_named(name)
        except InputError as error:
            raise InputError(f"--cells: {error}; a cell of your own is FILE.py:CLASS") from None
        if cell.projected:
            raise InputError(f"--cells {name}: cells with a projection are not measured")
        return cell
    if not Path(path).is_file():
        raise InputError(f"--cells {name}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--cells {name}: {path} must be a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, wanted, None)
    if not (isinstance(found, type) and issubclass(found, Cell)) or found.projected:
        raise InputError(f"--cells {name}: {wanted} must be a class of recur.Cell without projection, got {found!r}")
    return found()


def torch_layer(problem: Problem) -> nn.Module:
    """Return the layer of torch.nn with the problem's weights."""
    kind: Callable[[int, int], nn.Module] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[problem.name]
    return load_weights(kind(problem.shape.I, problem.shape.H), problem.weights)


def load_weights(layer: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Give a layer these weights."""
    layer.load_state_dict({f"{name}_l0": value for name, value in weights.items()})
    return layer


def forward(layer: nn.Module, x: Tensor, *state: Any) -> list[Tensor]:
    """Run a layer of torch.nn or recur and return its outputs and final states, h first."""
    output, final = layer(x, *state)
    return [output, *((final,) if isinstance(final, Tensor) else final)]


def layer_results(problem: Problem, layer: nn.Module, x: Tensor, above: list[Tensor] | None) -> Results:
    """Run a layer, backward too if there is something from above, and name what comes out."""
    values = forward(layer, x)
    names = ["y", *problem.states]
    if above is not None:
        parameters = dict(layer.named_parameters())
        names += ["dx", *(f"d{name.removesuffix('_l0')}" for name in parameters)]
        values += torch.autograd.grad(values, [x, *parameters.values()], above)
    return named(problem, names, [value.detach().numpy() for value in values])


def named(problem: Problem, names: list[str], values: list[Any]) -> Results:
    """Name arrays, states of any layout as [B, H]."""
    B, H = problem.shape.B, problem.shape.H
    pairs = zip(names, map(np.asarray, values), strict=True)
    return {name: value.reshape(B, H) if name in problem.states else value for name, value in pairs}
