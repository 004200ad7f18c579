"""An equation linearised around states that are known: what BPTT multiplies by, at many steps at once.

Going back one step, the gradient of a state, times a number per unit, is that of each product's pre-activation; times
the matrix it is that of the product's argument. These numbers are the slopes. From them follow the reverse sweep of
BPTT, for which no graph is kept, and the step's Jacobian: diagonals, and matrices scaled by rows.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from recur.compiler.derive import Column, backward
from recur.compiler.graph import Equation, Node, reachable
from recur.compiler.interpret import evaluate
from recur.flow.values import Values


class Slopes(NamedTuple):
    """Slopes at N places, by what is multiplied: the gradient of a new state or of a product's argument, a leaf.

    `products[argument][leaf]` [N, p, H] for the p products with that argument; `before[state][leaf]` [N, H] past them;
    `after[state][leaf]` [N, H] what reaches a new state by all ways, as an LSTM's h_t is made of c_t.
    """

    products: dict[Node, dict[Node, Tensor]]
    before: dict[str, dict[Node, Tensor]]
    after: dict[str, dict[Node, Tensor]]


class Linear:
    """The derivative of an equation in the form of slopes.

    `arguments` of products stand in the order in which a step back meets them; `columns` are an argument's products,
    `leaves` the gradient of an argument that is not a state, `seeds` those of the new states.
    """

    def __init__(self, equation: Equation) -> None:
        back = backward(equation)
        graph, nodes = equation.graph, equation.nodes
        place = {node: number for number, node in enumerate(nodes)}
        self.columns: dict[Node, list[Column]] = {}
        for column in back.columns:
            self.columns.setdefault(column.argument, []).append(column)
        self.arguments = sorted(self.columns, key=lambda node: place[node], reverse=True)
        self.seeds = {name: graph.make("seed", name=name, dim=equation.dim(name)) for name in equation.states}
        self.leaves = {
            argument: graph.make("back", name=str(argument.number), dim=argument.dim)
            for argument in self.arguments
            if argument.op != "state"
        }
        self._before, self._after = back.before, back.after
        targets = (*(column.gradient for column in back.columns), *back.before.values(), *back.after.values())
        order = reachable(targets)
        following = {*self.seeds.values(), *self.leaves.values()}
        for node in order:
            if any(arg in following for arg in node.args):
                following.add(node)
        self._moving = following
        self._following = [node for node in order if node in following and node.args]
        self.nodes = len(nodes) + len(order)

    def slopes(self, values: Values) -> Slopes:
        """Return the slopes where the equation's nodes have these values."""
        one = values.like.new_ones(())
        products: dict[Node, dict[Node, Tensor]] = {argument: {} for argument in self.arguments}
        before: dict[str, dict[Node, Tensor]] = {name: {} for name in self._before}
        after: dict[str, dict[Node, Tensor]] = {name: {} for name in self._after}
        for leaf in (*self.seeds.values(), *self.leaves.values()):
            along = self._along(leaf, one, values)
            for argument, columns in self.columns.items():
                parts = [along.get(column.gradient) for column in columns]
                if any(part is not None for part in parts):
                    count, width = values.shape(columns[0].product)
                    products[argument][leaf] = stacked = values.like.new_empty(count, len(parts), width)
                    for i, part in enumerate(parts):
                        stacked[:, i] = 0 if part is None else part
            for slopes, nodes in ((before, self._before), (after, self._after)):
                for name, node in nodes.items():
                    slope = along.get(node)
                    if slope is not None:
                        slopes[name][leaf] = slope.expand(values.shape(self.seeds[name]))
        return Slopes(products, before, after)

    def _along(self, leaf: Node, one: Tensor, values: Values) -> dict[Node, Tensor]:
        """Return what the nodes that follow from a leaf are where it is 1 and all others are 0; zeros are left out."""
        found = {leaf: one}
        for node in self._following:
            moved = [arg in found for arg in node.args]
            if not any(moved):
                continue
            args = [found.get(arg) if arg in self._moving else values[arg] for arg in node.args]
            match node.op:
                case "add" | "sub" if not all(moved):
                    value = args[moved.index(True)]
                    assert value is not None
                    found[node] = -value if node.op == "sub" and moved[1] else value
                case "mul" if any(arg is one for arg in args):
                    other = args[1 if args[0] is one else 0]
                    assert other is not None
                    found[node] = other
                case "where":
                    condition, *branches = args
                    a, b = (one.new_zeros(()) if branch is None else branch for branch in branches)
                    assert condition is not None
                    found[node] = torch.where(condition, a, b)
                case _:
                    found[node] = evaluate(node, [arg for arg in args if arg is not None])
        return found


@lru_cache(maxsize=64)
def linear(text: str) -> Linear | None:
    """Return the derivative of `Equation.text`; None where a step is not linear, unit by unit between the matrices."""
    equation = Equation.parse(text)
    return None if any(node.op in ("sum", "clip") for node in equation.nodes) else Linear(equation)
