"""Linear recurrences without a loop over time, `Recurrent(..., backend="parallel")`, for devices where a loop is slow.

A cell whose new state is a_t ⊙ h_{t-1} + b_t, with a_t and b_t made of the input alone, is run for all steps at once:
two steps in a row are one of the same form, and so the state after 2^k steps follows from those after 2^(k-1). minGRU
and minLSTM are such cells (Feng et al. 2024, arXiv:2410.01201, section 3). The paper scans logarithms (Heinsen 2023,
arXiv:2311.06281), which needs b_t > 0; this takes any sign, and 0.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, State
from recur.compiler.derive import backward
from recur.compiler.eager import valid_steps
from recur.compiler.graph import Equation, Node, reachable
from recur.compiler.interpret import evaluate
from recur.compiler.trace import trace
from recur.errors import InputError
from recur.scan import Scanned, Weights


def parallel(
    cell: Cell,
    input: Tensor,
    weights: Weights,
    state: State,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
    left: bool = False,
    resets: Tensor | None = None,
    masks: Tensor | None = None,
) -> Scanned:
    """Run a cell that is linear in its state; arguments, shapes and numbers as `recur.scan.scan`, to rounding.

    It does log2 T passes over [T, B, H] where a loop does one, and keeps two such tensors for the backward, which costs
    the same. On a CPU the compiled kernel is faster.

    Raises:
        InputError: the cell is not linear in its state.
    """
    slope = _slope(trace(cell).text, type(cell).__name__)
    steps, batch = input.shape[:2]
    valid = valid_steps(steps, batch, lengths, left, input.device)
    if lengths is not None:
        input = input.masked_fill(~valid, 0)  # NaN too
    parts = F.linear(input, weights.ih, weights.bias_ih).to(weights.ih.dtype).chunk(len(cell.gate_names), dim=-1)
    leaves = {("x", name): part for name, part in zip(cell.gate_names, parts, strict=True)}
    if weights.units is not None:
        leaves |= {("unit", name): row for name, row in zip(cell.unit_names, weights.units.unbind(), strict=True)}
    if masks is not None:
        leaves |= {("mask", name): mask for name, mask in zip(cell.mask_names, masks.unbind(), strict=True)}
    leaves |= {("state", "h"): torch.zeros_like(state.h), ("seed", "h"): torch.ones_like(state.h)}
    a = _value(slope, leaves).expand_as(parts[0])
    b = _value(trace(cell).new["h"], leaves).expand_as(parts[0])
    if resets is not None:
        fresh = resets[..., None] & valid
        if reverse:
            # backwards, a row begins anew after its mark; and nothing is cut off where no valid step comes before
            fresh = F.pad(fresh[1:] & valid[:-1], (0, 0, 0, 0, 0, 1))
        a = a.masked_fill(fresh, 0)
    if lengths is not None:
        a, b = torch.where(valid, a, 1), torch.where(valid, b, 0)
    h = linear_recurrence(a.flip(0), b.flip(0), state.h).flip(0) if reverse else linear_recurrence(a, b, state.h)
    output = h if lengths is None else h.masked_fill(~valid, 0)
    return Scanned(output, State(h=h[0 if reverse else -1]))


def linear_recurrence(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """Return h_t = a_t ⊙ h_{t-1} + b_t for every step, [T, B, H], in log2 T passes instead of T steps.

    Args:
        a: factors [T, B, H].
        b: what is added, [T, B, H].
        h: the state before the first step, [B, H].

    >>> linear_recurrence(torch.full((3, 1, 1), 0.5), torch.ones(3, 1, 1), torch.full((1, 1), 2.0)).flatten()
    tensor([2., 2., 2.])
    """
    result: Tensor = _Recurrence.apply(a, b, h)  # type: ignore[no-untyped-call]
    return result


class _Recurrence(torch.autograd.Function):
    """The gradient of a linear recurrence is the same recurrence, backwards: only a and the states are kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
        b = torch.cat([(a[:1] * h + b[:1]), b[1:]])
        distance = 1
        while distance < len(a):
            # steps t - distance + 1 to t as one: h_t = a_t h_{t - distance} + b_t
            b = torch.cat([b[:distance], a[distance:] * b[:-distance] + b[distance:]])
            if 2 * distance < len(a):
                a = torch.cat([a[:distance], a[distance:] * a[:-distance]])
            distance *= 2
        return b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        a, _, h = inputs
        ctx.save_for_backward(a, h, output)
        ctx.save_for_forward(a, h, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, output = ctx.saved_tensors
        # the gradient of b_t is that of h_t by all ways: grad_t + a_{t+1} times that of b_{t+1}
        later = torch.cat([a[1:], torch.zeros_like(a[:1])])
        d = linear_recurrence(later.flip(0), grad.flip(0), torch.zeros_like(h)).flip(0)
        return d * torch.cat([h[None], output[:-1]]), d, d[0] * a[0]

    @staticmethod
    def jvp(ctx: Any, d_a: Tensor | None, d_b: Tensor | None, d_h: Tensor | None) -> Tensor:
        a, h, output = ctx.saved_tensors
        added = torch.zeros_like(output) if d_b is None else d_b
        if d_a is not None:
            added = added + d_a * torch.cat([h[None], output[:-1]])
        return linear_recurrence(a, added, torch.zeros_like(h) if d_h is None else d_h)


@lru_cache(maxsize=64)
def _slope(text: str, name: str) -> Node:
    """Return the derivative of h_t with respect to h_{t-1}, times `seed h`."""
    equation = Equation.parse(text)
    slope = backward(equation).before["h"]
    matrices = {"product", "project"} & {node.op for node in equation.nodes}
    clipped = any(node.op == "clip" for node in equation.nodes)
    if equation.states != ("h",) or matrices or clipped or {"state", "sum"} & {node.op for node in reachable([slope])}:
        raise InputError(
            "`backend` 'parallel' runs cells of one state with h_t = a_t * h_(t-1) + b_t, where a_t and b_t are made "
            f"of the input alone, such as mingru and minlstm; {name} is not one: use 'auto'"
        )
    return slope


def _value(target: Node, leaves: dict[tuple[str, str], Tensor]) -> Tensor:
    """Evaluate a node of the equation for all steps at once."""
    values: dict[Node, Tensor] = {}
    like = leaves["state", "h"]
    for node in reachable([target]):
        if node.op == "const":
            values[node] = like.new_tensor(node.value)
        elif node.op == "share":
            values[node] = like.new_tensor(1 / like.shape[-1])
        elif node.op == "sum":
            values[node] = values[node.args[0]].sum(-1, keepdim=True)
        elif (node.op, node.name) in leaves:
            values[node] = leaves[node.op, node.name]
        else:
            values[node] = evaluate(node, [values[arg] for arg in node.args])
    return values[target]
