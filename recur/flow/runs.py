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
from recur.compiler.graph import Equation, Node, gate_values
from recur.flow.linear import Linear, Slopes, linear
from recur.flow.values import Values
from recur.scan import Weights, bind

# bytes of values that are held at once
CHUNK = 64 << 20
# a power of two, so that nothing is rounded
UNCLIPPED = 2.0**-60

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
            value = after[start - 1 : stop - 1] if start else torch.cat([self.initial[name][None], after[: stop - 1]])
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

    def jacobian(self, row: int, start: int, out: Tensor) -> None:
        """Write ds_t/ds_{t-1} of a row for C steps from `start` on to `out`, [C, n, n] float64.

        Every unit of the new state asks a copy of the row of its own: one backward for all of them.
        """
        out.zero_()
        size = out.shape[-1]
        for t in range(start, start + len(out)):
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
                # the derivative of the values: so small that nothing which clips gradients has a say in it
                seed = UNCLIPPED * flat.diagonal().sum()
                parts = torch.autograd.grad(seed, list(states.values()), allow_unused=True)
                columns = [
                    torch.zeros_like(value) if part is None else part
                    for part, value in zip(parts, states.values(), strict=True)
                ]
                out[t - start] = torch.cat(columns, 1) / UNCLIPPED

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
    """What a cell is run over, beside its states: input [T, B, D], weights without graph, masks [M, T, B, H].

    `text` is its equation, where it has one, and `gates` [T, B, G, H] their values, where they are known.
    """

    cell: Cell
    input: Tensor
    weights: Weights
    masks: Tensor | None
    text: str | None
    gates: Tensor | None = None


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

    def values(self, start: int, stop: int, row: int | None = None) -> Values:
        """Return the nodes' values, [(stop - start) * B, H]; of one row [stop - start, H], in float64."""
        given, before = self.given, self.before(start, stop)
        if row is None:
            known = {}
            if given.gates is not None:
                gates = dict(zip(self.equation.gates, given.gates[start:stop].flatten(0, 1).unbind(1), strict=True))
                known = {node: gates[name] for name, node in gate_values(self.equation).items()}
            masks = None if given.masks is None else given.masks[:, start:stop].flatten(1, 2)
            states = {name: value.flatten(0, 1) for name, value in before.items()}
            input, weights = given.input[start:stop].flatten(0, 1), given.weights
        else:
            known, weights = {}, self.double()
            masks = None if given.masks is None else given.masks[:, start:stop, row].double()
            states = {name: value[:, row].double() for name, value in before.items()}
            input = given.input[start:stop, row].double()
        named = {} if masks is None else dict(zip(self.equation.masks, masks, strict=True))
        return Values(self.equation, input, weights, states, named, known)

    def double(self) -> Weights:
        """Return the weights in float64."""
        if self._double is None:
            self._double = Weights(*(None if w is None else w.detach().double() for w in self.given.weights))  # type: ignore[arg-type]
        return self._double

    def stacked(self) -> dict[Node, Tensor]:
        """Return for each argument of products the matrices that it is multiplied with, one above the other."""
        assert self.linear is not None
        return _stacked(self.linear, self.given.weights, self.equation)

    def sweep(self, direct: States, last: States, look: Callable[[int, int, Values], None] | None = None) -> Swept:
        """Go back through time by the slopes; `look` is shown the nodes' values, chunk by chunk."""
        if self.linear is None:
            for start, stop in self.chunks() if look else ():
                assert look is not None
                look(start, stop, self.values(start, stop))
            return super().sweep(direct, last)
        swept = Swept.empty(self.after)
        arriving = {name: torch.zeros_like(value) for name, value in self.initial.items()}
        ends = set(self.lengths.tolist())
        stacked = self.stacked()
        for start, stop in self.chunks():
            values = self.values(start, stop)
            if look is not None:
                look(start, stop, values)
            chunk = _Chunk(self.linear, values, stacked, stop - start)
            for t in reversed(range(stop - start)):
                reached = self._reached(start + t, arriving, direct, last, ends)
                arriving = chunk.back(t, reached)
                self._cut(start + t, arriving)
            swept.note(start, chunk.totals())
            swept.weights[start:stop] = chunk.weight_norms()
        return swept

    def jacobian(self, row: int, start: int, out: Tensor) -> None:
        """Write ds_t/ds_{t-1} of a row for C steps from `start` on to `out`, [C, n, n] float64."""
        if self.linear is None:
            super().jacobian(row, start, out)
            return
        stop = start + len(out)
        slopes = self.linear.slopes(self.values(start, stop, row))
        stacked = _stacked(self.linear, self.double(), self.equation)
        places, size = {}, 0
        for name, value in self.initial.items():
            places[name], size = slice(size, size + value.shape[1]), size + value.shape[1]
        for name, seed in self.linear.seeds.items():
            rows = out[:, places[name]]
            _write_rows(self.linear, slopes, stacked, seed, {at: rows[:, :, place] for at, place in places.items()})
        if self.fresh is not None:
            out.masked_fill_(self.fresh[start:stop, row, None, None], 0)


def _write_rows(
    derivative: Linear, slopes: Slopes, stacked: dict[Node, Tensor], seed: Node, blocks: dict[str, Tensor]
) -> None:
    """Write the Jacobian's rows of the new state whose gradient is `seed`, `blocks` [C, n_k, n] by state before."""
    dense: dict[Node, Tensor] = {}  # the gradient of an argument, by leaf, [C, n_k, H]
    written = set()
    for argument in derivative.arguments:
        parts = []
        for leaf, slope in slopes.products[argument].items():
            if leaf is seed:
                parts.append(_scaled(slope, stacked[argument]))
            elif leaf in dense:
                parts.append((dense[leaf].unsqueeze(2) * slope.unsqueeze(1)).flatten(2) @ stacked[argument])
        if parts and argument.op == "state":
            blocks[argument.name].copy_(_sum(parts))
            written.add(argument.name)
        elif parts:
            dense[derivative.leaves[argument]] = _sum(parts)
    for name, block in blocks.items():
        if name not in written:
            block.zero_()
        for leaf, slope in slopes.before[name].items():
            if leaf is seed:
                block.diagonal(dim1=1, dim2=2).add_(slope)
            elif leaf in dense:
                block.add_(dense[leaf] * slope.unsqueeze(1))


def _scaled(slope: Tensor, stacked: Tensor) -> Tensor:
    """Return the sum of p matrices, stacked, each scaled by rows by the slopes [C, p, H]: [C, H, R]."""
    count, products, hidden = slope.shape
    if products == 1:
        return slope.view(count, hidden, 1) * stacked
    # unit by unit, the slopes [C, p] times the unit's row in each of the matrices
    by_unit = stacked.view(products, hidden, -1).transpose(0, 1).contiguous()
    return torch.bmm(slope.permute(2, 0, 1).contiguous(), by_unit).transpose(0, 1)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _stacked(derivative: Linear, weights: Weights, equation: Equation) -> dict[Node, Tensor]:
    """Return for each argument the matrices that it is multiplied with, one above the other."""
    names = equation.recurrent
    blocks = {} if weights.hh is None else dict(zip(names, weights.hh.detach().chunk(len(names)), strict=True))
    if weights.hr is not None:
        blocks[""] = weights.hr.detach()
    return {a: torch.cat([blocks[column.gate] for column in columns]) for a, columns in derivative.columns.items()}


class _Chunk:
    """The sweep over C steps whose values are known."""

    def __init__(self, derivative: Linear, values: Values, stacked: dict[Node, Tensor], steps: int) -> None:
        self._linear, self._stacked = derivative, stacked
        slopes = derivative.slopes(values)
        self._products = {a: _by_step(by_leaf, steps) for a, by_leaf in slopes.products.items()}
        self._before = {name: _by_step(by_leaf, steps) for name, by_leaf in slopes.before.items()}
        self._after = {name: _by_step(by_leaf, steps) for name, by_leaf in slopes.after.items()}
        # the gradients of new states and of products' arguments, and of the products, at each step
        leaves = (*derivative.seeds.values(), *derivative.leaves.values())
        like, batch = values.like, len(values.like) // steps
        self._met = {leaf: like.new_empty(steps, batch, values.shape(leaf)[1]) for leaf in leaves}
        self._arguments = {a: values[a].reshape(steps, batch, -1) for a in derivative.arguments}
        self._pushed = {a: like.new_empty(steps, batch, len(stacked[a])) for a in derivative.arguments}

    def back(self, t: int, reached: States) -> dict[str, Tensor]:
        """Go back one step from the total gradients of its new states to those of the states before."""
        known = {leaf: met[t] for leaf, met in self._met.items()}
        for name, value in reached.items():
            known[self._linear.seeds[name]].copy_(value)
        result: dict[str, Tensor] = {}
        for argument in self._linear.arguments:
            gradient = self._pushed[argument][t]
            terms = [(slope[t], known[leaf]) for leaf, slope in self._products[argument].items()]
            _weighted(terms, gradient.view(len(gradient), len(self._linear.columns[argument]), -1), 1)
            if argument.op == "state":
                result[argument.name] = gradient @ self._stacked[argument]
            else:
                torch.mm(gradient, self._stacked[argument], out=known[self._linear.leaves[argument]])
        for state, by_leaf in self._before.items():
            if state not in result:
                result[state] = torch.zeros_like(reached[state])
            for leaf, slope in by_leaf.items():
                result[state].addcmul_(slope[t], known[leaf])
        return {name: result[name] for name in reached}

    def totals(self) -> dict[str, Tensor]:
        """Return the gradients of the new states by all ways, within the step too, [C, B, n]."""
        found = {}
        for name, seed in self._linear.seeds.items():
            by_leaf = self._after[name]
            plain = list(by_leaf) == [seed]
            found[name] = self._met[seed] if plain else _sum([s * self._met[leaf] for leaf, s in by_leaf.items()])
        return found

    def weight_norms(self) -> Tensor:
        """Return the norm of each step's part of the gradient of the recurrent weights, [C]."""
        recurrent = [a for a, columns in self._linear.columns.items() if any(column.gate for column in columns)]
        return _outer_norm([(self._pushed[a], self._arguments[a]) for a in recurrent])


def _by_step(by_leaf: dict[Node, Tensor], steps: int) -> dict[Node, Tensor]:
    return {leaf: slope.reshape(steps, -1, *slope.shape[1:]) for leaf, slope in by_leaf.items()}


def _weighted(terms: Sequence[tuple[Tensor, Tensor]], out: Tensor, dim: int) -> None:
    """Write the sum of a * b, b without `dim`, to `out`."""
    if not terms:
        out.zero_()
    for i, (a, b) in enumerate(terms):
        if i == 0:
            torch.mul(a, b.unsqueeze(dim), out=out)
        else:
            out.addcmul_(a, b.unsqueeze(dim))


def _outer_norm(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the norm over all pairs of sum_b d_b v_b^T at each step, by Gram matrices; d [C, B, m], v [C, B, n]."""
    if not pairs:
        return torch.tensor(torch.nan, dtype=torch.float64)
    squares = [((d @ d.mT).double() * (v @ v.mT).double()).sum((1, 2)) for d, v in pairs]
    return _sum(squares).clamp(min=0).sqrt()
