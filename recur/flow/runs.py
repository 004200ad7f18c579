"""A recurrence that has run: its states step by step, gradients back through them, and the Jacobian of each step.

All is kept in the order in which steps run, t = 0 being each row's own first one, [T, B, *], zero at padded steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, Named, State
from recur.compiler.eager import step
from recur.compiler.graph import Equation, Node
from recur.flow.linear import Linear, Slopes, linear
from recur.scan import Weights, bind

# bytes of values that are held at once
CHUNK = 64 << 20

States = Mapping[str, Tensor]


@dataclass
class Swept:
    """What going back through time gave, in float64.

    `rows` squared norm of the total gradient of each state by step and row, [T, B]; `units` that of h by step and unit,
    [T, H]; `weights` norm of each step's part of the gradient of the recurrent weights, [T].
    """

    rows: dict[str, Tensor]
    units: Tensor
    weights: Tensor

    @staticmethod
    def empty(after: States) -> "Swept":
        """Return one of zeros."""
        steps, batch, hidden = after["h"].shape
        rows = {name: torch.zeros(steps, batch, dtype=torch.float64) for name in after}
        units = torch.zeros(steps, hidden, dtype=torch.float64)
        return Swept(rows, units, torch.zeros(steps, dtype=torch.float64))

    def note(self, start: int, gradients: Mapping[str, Tensor]) -> None:
        """Take down total gradients [C, B, *] of the steps from `start` on."""
        for name, value in gradients.items():
            square = value.detach() ** 2
            stop = start + len(value)
            self.rows[name][start:stop] = square.sum(2).double()
            if name == "h":
                self.units[start:stop] = square.sum(1).double()


class Run(ABC):
    """What a recurrence left.

    Args:
        name: of the layer and direction.
        cell: the cell's name.
        initial: states before the first step, [B, n] by name.
        after: states after every step, [T, B, n] by name.
        lengths: of the rows, [B].
        fresh: steps before which a row begins anew, bool [T, B], or None.
    """

    def __init__(
        self, name: str, cell: str, initial: States, after: States, lengths: Tensor, fresh: Tensor | None = None
    ) -> None:
        self.name, self.cell, self.initial, self.after = name, cell, initial, after
        self.lengths, self.fresh = lengths, fresh

    @property
    def steps(self) -> int:
        """T."""
        return len(self.after["h"])

    def before(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return the states before the steps from `start` to `stop`, [stop - start, B, n] by name."""
        result = {}
        for name, after in self.after.items():
            first = self.initial[name] if start == 0 else after[start - 1]
            value = torch.cat([first[None], after[start : stop - 1]])
            result[name] = value if self.fresh is None else value.masked_fill(self.fresh[start:stop, :, None], 0)
        return result

    def sweep(self, direct: States, last: States) -> Swept:
        """Go back through time.

        Args:
            direct: the gradient that reaches each state past the later steps, [T, B, n] by name.
            last: that of the state after each row's last step, [B, n] by name.
        """
        swept = Swept.empty(self.after)
        arriving = {name: torch.zeros_like(value) for name, value in self.initial.items()}
        ends = set(self.lengths.tolist())
        weights = self.recurrent_parameters()
        for t in reversed(range(self.steps)):
            arriving = self._reached(t, arriving, direct, last, ends)
            states = {name: v[0].detach().requires_grad_() for name, v in self.before(t, t + 1).items()}
            with torch.enable_grad():
                new = self.advance(t, slice(None), states)
            given = [(new[name], arriving[name]) for name in new if new[name].requires_grad]
            outputs, gradients = [value for value, _ in given], [gradient for _, gradient in given]
            # the new states too: one may have been made of another
            wanted = [*outputs, *states.values(), *weights]
            found = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True)
            total = dict(zip([name for name in new if new[name].requires_grad], found, strict=False))
            swept.note(t, {n: (v if total.get(n) is None else total[n])[None] for n, v in arriving.items()})
            found = found[len(outputs) :]
            back = dict(zip(states, found, strict=False))
            arriving = {n: torch.zeros_like(v) if back[n] is None else back[n] for n, v in states.items()}
            self._cut(t, arriving)
            parts = [g.double().norm() for g in found[len(states) :] if g is not None]
            swept.weights[t] = torch.stack(parts).norm() if parts else torch.nan
        return swept

    def _reached(self, t: int, arriving: States, direct: States, last: States, ends: set[int]) -> dict[str, Tensor]:
        """Return the total gradient of the states after step t."""
        result = {name: value + direct[name][t] if name in direct else value for name, value in arriving.items()}
        if t + 1 in ends:
            ended = (self.lengths == t + 1)[:, None]
            result |= {name: result[name] + torch.where(ended, value, 0) for name, value in last.items()}
        return result

    def _cut(self, t: int, arriving: dict[str, Tensor]) -> None:
        if self.fresh is not None:
            arriving |= {name: v.masked_fill(self.fresh[t, :, None], 0) for name, v in arriving.items()}

    def jacobian(self, row: int, start: int, stop: int) -> Tensor:
        """Return ds_t/ds_{t-1} of a row for the steps from `start` to `stop`, [stop - start, n, n] float64.

        Every unit of the new state asks a copy of the row of its own: one backward for all of them.
        """
        sizes = [value.shape[1] for value in self.initial.values()]
        size = sum(sizes)
        result = torch.zeros(stop - start, size, size, dtype=torch.float64, device=self.lengths.device)
        for t in range(start, stop):
            if self.fresh is not None and self.fresh[t, row]:
                continue
            states = {
                name: v[0, row].detach().expand(size, -1).clone().requires_grad_()
                for name, v in self.before(t, t + 1).items()
            }
            with torch.enable_grad():
                new = self.advance(t, torch.full((size,), row), states)
                flat = torch.cat(list(new.values()), 1)
            if flat.requires_grad:
                parts = torch.autograd.grad(flat.diagonal().sum(), list(states.values()), allow_unused=True)
                columns = [
                    flat.new_zeros(size, n) if part is None else part for part, n in zip(parts, sizes, strict=True)
                ]
                result[t - start] = torch.cat([column.double() for column in columns], 1)
        return result

    @abstractmethod
    def advance(self, t: int, rows: slice | Tensor, states: States) -> dict[str, Tensor]:
        """Take step t of some rows, a graph kept, from other states than its own."""

    @abstractmethod
    def recurrent_parameters(self) -> list[Tensor]:
        """Return the weights that meet the state, as `advance` uses them."""

    def matrices(self) -> dict[str, Tensor]:
        """Return the recurrent matrices [H, H] by gate."""
        return {}


@dataclass
class Given:
    """What a cell is run over, beside its states: input [T, B, D], weights without graph, masks [M, T, B, H]."""

    cell: Cell
    input: Tensor
    weights: Weights
    masks: Tensor | None
    text: str | None


class CellRun(Run):
    """A cell that ran over a sequence; `given.text` is its equation where it has one."""

    def __init__(self, *args: object, given: Given) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.given = given
        w = given.weights
        self.weights = w._replace(
            hh=None if w.hh is None else w.hh.detach().requires_grad_(),
            units=None if w.units is None else w.units.detach().requires_grad_(),
        )

    def advance(self, t: int, rows: slice | Tensor, states: States) -> dict[str, Tensor]:
        """Take step t by the cell's own `step`."""
        cell, weights = self.given.cell, self.weights
        U, p, P = bind(cell, weights)
        parts = F.linear(self.given.input[t, rows], weights.ih, weights.bias_ih).chunk(len(cell.gate_names), -1)
        masks = () if self.given.masks is None else self.given.masks[:, t, rows].unbind()
        x = Named("gate", dict(zip(cell.gate_names, parts, strict=True)))
        m = Named("mask", dict(zip(cell.mask_names, masks, strict=True)))
        return dict(cell.advance(x, U, State(**states), p, P, m).items())

    def recurrent_parameters(self) -> list[Tensor]:
        """Return U, or the per-unit parameters where there is none."""
        chosen = self.weights.units if self.weights.hh is None else self.weights.hh
        return [] if chosen is None else [chosen]

    def matrices(self) -> dict[str, Tensor]:
        """Return U of each gate; of a projected cell U P, [H, H]."""
        hh, hr = self.given.weights.hh, self.given.weights.hr
        if hh is None:
            return {}
        names = self.given.cell.recurrent_names
        return {
            name: (block if hr is None else block @ hr).detach().double()
            for name, block in zip(names, hh.chunk(len(names)), strict=True)
        }


class EquationRun(CellRun):
    """A cell whose equation is known: all values of its graph can be had for many steps at once."""

    def __init__(self, *args: object, given: Given) -> None:
        super().__init__(*args, given=given)
        assert given.text is not None
        self.equation = Equation.parse(given.text)
        self.linear = linear(given.text)
        self._double: Weights | None = None

    def chunks(self, rows: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of chunks of steps, the last first, such that their values fit into memory."""
        hidden = self.given.weights.ih.shape[0] // len(self.equation.gates)
        nodes = len(self.equation.nodes) if self.linear is None else self.linear.nodes
        each = nodes * hidden * (rows or self.after["h"].shape[1]) * self.after["h"].element_size()
        size = max(1, CHUNK // max(each, 1))
        for stop in range(self.steps, 0, -size):
            yield max(0, stop - size), stop

    def values(self, start: int, stop: int, row: int | None = None) -> dict[Node, Tensor]:
        """Return the nodes' values, [(stop - start) * B, H]; of one row [stop - start, H], in float64."""
        given, before = self.given, self.before(start, stop)
        weights = given.weights
        if row is None:
            x, masks = given.input[start:stop].flatten(0, 1), given.masks
            states = {name: value.flatten(0, 1) for name, value in before.items()}
            masks = None if masks is None else masks[:, start:stop].flatten(1, 2)
        else:
            weights = self.double()
            x = given.input[start:stop, row].double()
            states = {name: value[:, row].double() for name, value in before.items()}
            masks = None if given.masks is None else given.masks[:, start:stop, row].double()
        gates = self.equation.gates
        parts = F.linear(x, weights.ih, weights.bias_ih).chunk(len(gates), -1)
        named = {} if masks is None else dict(zip(self.equation.masks, masks, strict=True))
        return step(self.equation, dict(zip(gates, parts, strict=True)), weights, states, named)

    def double(self) -> Weights:
        """Return the weights in float64."""
        if self._double is None:
            self._double = Weights(*(None if w is None else w.detach().double() for w in self.given.weights))  # type: ignore[arg-type]
        return self._double

    def sweep(
        self, direct: States, last: States, look: Callable[[int, int, dict[Node, Tensor]], None] | None = None
    ) -> Swept:
        """Go back through time by the slopes; `look` is shown the nodes' values, chunk by chunk."""
        if self.linear is None:
            for start, stop in self.chunks() if look else ():
                assert look is not None
                look(start, stop, self.values(start, stop))
            return super().sweep(direct, last)
        swept = Swept.empty(self.after)
        arriving = {name: torch.zeros_like(value) for name, value in self.initial.items()}
        ends = set(self.lengths.tolist())
        stacked = _stacked(self.linear, self.given.weights, self.equation)
        batch = len(self.lengths)
        for start, stop in self.chunks():
            values = self.values(start, stop)
            if look is not None:
                look(start, stop, values)
            slopes = _by_step(self.linear.slopes(values), stop - start)
            arguments = {argument: values[argument] for argument in self.linear.arguments}
            met = {
                leaf: arriving[n].new_empty(stop - start, *arriving[n].shape) for n, leaf in self.linear.seeds.items()
            }
            met |= {
                leaf: values[argument].new_empty(stop - start, batch, values[argument].shape[-1])
                for argument, leaf in self.linear.leaves.items()
            }
            pushed = {
                argument: value.new_empty(stop - start, batch, len(stacked[argument]))
                for argument, value in arguments.items()
            }
            for t in reversed(range(stop - start)):
                arriving = self._reached(start + t, arriving, direct, last, ends)
                arriving = self._back(t, slopes, arriving, stacked, pushed, met)
                self._cut(start + t, arriving)
            swept.note(start, {name: self._total(name, slopes, met) for name in arriving})
            recurrent = [a for a in self.linear.arguments if _is_recurrent(self.linear, a)]
            pairs = [(pushed[a], arguments[a].view(stop - start, batch, -1)) for a in recurrent]
            swept.weights[start:stop] = _outer_norm(pairs)
        return swept

    def _back(
        self,
        t: int,
        slopes: Slopes,
        reached: States,
        stacked: dict[Node, Tensor],
        pushed: dict[Node, Tensor],
        met: dict[Node, Tensor],
    ) -> dict[str, Tensor]:
        """Go back step t from the gradients of its new states; products' are put to `pushed`, leaves' to `met`."""
        assert self.linear is not None
        known = {self.linear.seeds[name]: value for name, value in reached.items()}
        result: dict[str, Tensor] = {}
        for argument in self.linear.arguments:
            terms = [slope[t] * known[leaf].unsqueeze(1) for leaf, slope in slopes.products[argument].items()]
            gradient = _sum(terms).flatten(1) if terms else pushed[argument][t].zero_()
            pushed[argument][t] = gradient
            flow = gradient @ stacked[argument]
            if argument.op == "state":
                result[argument.name] = flow
            else:
                known[self.linear.leaves[argument]] = flow
        for leaf, value in known.items():
            met[leaf][t] = value
        for name, by_leaf in slopes.before.items():
            terms = [slope[t] * known[leaf] for leaf, slope in by_leaf.items()]
            terms += [result[name]] if name in result else []
            result[name] = _sum(terms) if terms else torch.zeros_like(reached[name])
        return {name: result[name] for name in reached}

    def _total(self, name: str, slopes: Slopes, met: dict[Node, Tensor]) -> Tensor:
        """Return the gradient of a state by all ways at each step of a chunk, [C, B, n]."""
        assert self.linear is not None
        by_leaf = slopes.after[name]
        if list(by_leaf) == [self.linear.seeds[name]]:
            return met[self.linear.seeds[name]]
        return _sum([slope * met[leaf] for leaf, slope in by_leaf.items()])

    def jacobian(self, row: int, start: int, stop: int) -> Tensor:
        """Return ds_t/ds_{t-1} of a row for the steps from `start` to `stop`, [stop - start, n, n] float64."""
        if self.linear is None:
            return super().jacobian(row, start, stop)
        slopes = self.linear.slopes(self.values(start, stop, row))
        stacked = _stacked(self.linear, self.double(), self.equation)
        sizes = {name: value.shape[1] for name, value in self.initial.items()}
        offsets, size = {}, 0
        for name, width in sizes.items():
            offsets[name], size = size, size + width
        device = self.lengths.device
        result = torch.zeros(stop - start, size, size, dtype=torch.float64, device=device)
        for name, seed in self.linear.seeds.items():
            rows = result[:, offsets[name] : offsets[name] + sizes[name]]
            self._rows_of(rows, seed, slopes, stacked, offsets, sizes)
        if self.fresh is not None:
            result.masked_fill_(self.fresh[start:stop, row, None, None], 0)
        return result

    def _rows_of(
        self,
        rows: Tensor,
        seed: Node,
        slopes: Slopes,
        stacked: dict[Node, Tensor],
        offsets: dict[str, int],
        sizes: dict[str, int],
    ) -> None:
        """Write the Jacobian's rows [C, n_k, n] of the new state whose gradient is `seed`."""
        assert self.linear is not None
        dense: dict[Node, Tensor] = {}  # by leaf, [C, n_k, H]
        for argument in self.linear.arguments:
            parts = []
            for leaf, slope in slopes.products[argument].items():
                matrix = stacked[argument]
                if leaf is seed:
                    # unit by unit, the slopes [C, p] times the unit's row in each of the p matrices
                    by_unit = matrix.view(slope.shape[1], -1, matrix.shape[1]).transpose(0, 1)
                    parts.append(torch.bmm(slope.permute(2, 0, 1), by_unit).transpose(0, 1))
                elif leaf in dense:
                    parts.append((dense[leaf].unsqueeze(2) * slope.unsqueeze(1)).flatten(2) @ matrix)
            if not parts:
                continue
            if argument.op == "state":
                at = offsets[argument.name]
                rows[:, :, at : at + sizes[argument.name]] = _sum(parts)
            else:
                dense[self.linear.leaves[argument]] = _sum(parts)
        for name, by_leaf in slopes.before.items():
            block = rows[:, :, offsets[name] : offsets[name] + sizes[name]]
            for leaf, slope in by_leaf.items():
                if leaf is seed:
                    block.diagonal(dim1=1, dim2=2).add_(slope)
                elif leaf in dense:
                    block.add_(dense[leaf] * slope.unsqueeze(1))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _is_recurrent(derivative: Linear, argument: Node) -> bool:
    return any(column.gate for column in derivative.columns[argument])


def _stacked(derivative: Linear, weights: Weights, equation: Equation) -> dict[Node, Tensor]:
    """Return for each argument the matrices that it is multiplied with, one above the other."""
    names = equation.recurrent
    blocks = {} if weights.hh is None else dict(zip(names, weights.hh.detach().chunk(len(names)), strict=True))
    if weights.hr is not None:
        blocks[""] = weights.hr.detach()
    return {a: torch.cat([blocks[column.gate] for column in columns]) for a, columns in derivative.columns.items()}


def _by_step(slopes: Slopes, steps: int) -> Slopes:
    def shaped(by_leaf: dict[Node, Tensor]) -> dict[Node, Tensor]:
        return {leaf: slope.reshape(steps, -1, *slope.shape[1:]) for leaf, slope in by_leaf.items()}

    return Slopes(*({name: shaped(by_leaf) for name, by_leaf in part.items()} for part in slopes))  # type: ignore[arg-type]


def _outer_norm(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the norm over all pairs of sum_b d_b v_b^T at each step, by Gram matrices; d [C, B, m], v [C, B, n]."""
    if not pairs:
        return torch.tensor(torch.nan, dtype=torch.float64)
    squares = [((d @ d.mT).double() * (v @ v.mT).double()).sum((1, 2)) for d, v in pairs]
    return _sum(squares).clamp(min=0).sqrt()
