"""The values of an equation's nodes at many steps at once, each computed when it is asked for."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from recur.compiler.graph import OUTPUTS, UNITS, Equation, Node
from recur.compiler.interpret import evaluate
from recur.scan import Weights


class Values(dict[Node, Tensor]):
    """Nodes' values at N places, [N, H], `values[node]`.

    Args:
        equation: whose nodes.
        input: [N, D].
        weights: the layer's.
        states: before the step, [N, n] by name.
        masks: [N, H] by name.
        known: values that need not be computed.
    """

    def __init__(
        self,
        equation: Equation,
        input: Tensor,
        weights: Weights,
        states: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        known: Mapping[Node, Tensor],
    ) -> None:
        super().__init__(known)
        self._equation, self._input, self._weights, self._states, self._masks = equation, input, weights, states, masks
        self.like = next(iter(states.values()))
        hidden = weights.ih.shape[0] // len(equation.gates)
        self._sizes = {UNITS: hidden, OUTPUTS: hidden if weights.hr is None else len(weights.hr)}

    def shape(self, node: Node) -> tuple[int, int]:
        """Return (N, H) or, of a projected output, (N, P)."""
        return len(self.like), self._sizes[node.dim]

    def __missing__(self, node: Node) -> Tensor:
        value = self[node] = self._value(node)
        return value

    def _value(self, node: Node) -> Tensor:
        equation, w = self._equation, self._weights
        match node.op:
            case "state":
                return self._states[node.name]
            case "mask":
                return self._masks[node.name]
            case "const":
                return self.like.new_tensor(node.value)
            case "unit":
                assert w.units is not None
                return w.units[equation.units.index(node.name)]
            case "share":
                return self.like.new_tensor(1 / self._sizes[node.name])
            case "x":
                return F.linear(self._input, *_block(w.ih, w.bias_ih, equation.gates, node.name))
            case "product":
                assert w.hh is not None
                return F.linear(self[node.args[0]], *_block(w.hh, w.bias_hh, equation.recurrent, node.name))
            case "project":
                assert w.hr is not None
                return F.linear(self[node.args[0]], w.hr)
            case "sum":
                return self[node.args[0]].sum(-1, keepdim=True)
            case _:
                return evaluate(node, [self[arg] for arg in node.args])


def _block(matrix: Tensor, bias: Tensor | None, names: tuple[str, ...], name: str) -> tuple[Tensor, Tensor | None]:
    at, count = names.index(name), len(names)
    return matrix.chunk(count)[at], None if bias is None else bias.chunk(count)[at]
