"""The one operation: a cell over a sequence, in one direction, with rows of any length.

`scan` has two backends that give the same numbers: "reference", the equation itself in a Python loop, for any cell; and
"torch", the kernels behind torch.nn, for the cells that they know. Nothing above this file knows which one runs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recur.cells.cell import Cell, Gates, Products, Projection, State, Units
from recur.errors import InputError

BACKENDS = ("auto", "reference", "torch")

# what shuts a gate for good: sigmoid of ±SHUT is exactly 0 or 1 whatever else is added; float16 has no larger number
SHUT, SHUT_FLOAT16 = 1e30, 3e4
# for each kernel that needs it, the sign of SHUT for every gate: c is held and h is 0, a ReLU network's h is 0
SHUTTING = {"lstm": (-1, 1, 0, -1), "rnn_relu": (-1,)}


class Weights(NamedTuple):
    """The weights of one layer and direction; shapes as in torch.nn, G gates stacked in the cell's order.

    `ih` [G*H, D]; `hh` [G'*H, R] for the G' gates with a recurrent product, R = P where the cell is projected and H
    elsewhere, or None where G' = 0; `bias_ih` [G*H] or None; `bias_hh` [G'*H] or None; `units` [K, H] for K per-unit
    parameters or None; `hr` [P, H] or None.
    """

    ih: Tensor
    hh: Tensor | None
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    units: Tensor | None = None
    hr: Tensor | None = None


def scan(
    cell: Cell,
    input: Tensor,
    weights: Weights,
    state: State,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Run `cell` over a sequence.

    Args:
        cell: the recurrence.
        input: [T, B, D].
        weights: the layer's weights for this direction.
        state: the state before the first step, each tensor [B, H] (h [B, P] where projected).
        lengths: valid steps of each row, [B] int64 in 0..T, or None where all have T. Padded steps change nothing.
        reverse: start at each row's last valid step and go backwards.
        backend: "reference", "torch", or "auto": torch where it has the cell.

    Returns:
        the outputs [T, B, H], zero at padded steps, and the state after each row's last step in scan order; a row of
        length 0 keeps its initial state.

    Raises:
        InputError: the backend does not exist or does not have the cell.
    """
    if backend not in BACKENDS:
        raise InputError(f"`backend` must be one of {', '.join(BACKENDS)}, found {backend!r}")
    kernel = cell.torch_kernel
    if backend == "torch" and kernel is None:
        raise InputError(f"`backend` 'torch' has no kernel for {cell!r}; use 'auto' or 'reference'")
    if backend == "reference" or kernel is None:
        return _reference(cell, input, weights, state, lengths, reverse)
    return _torch(kernel, input, weights, state, lengths, reverse)


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Return the mask [T, B, 1] that is True where a row has a valid step."""
    return (torch.arange(steps, device=lengths.device)[:, None] < lengths).unsqueeze(-1)


def bind(cell: Cell, weights: Weights) -> tuple[Products, Units, Projection | None]:
    """Return what an equation calls: U with a product for each gate, p, and P."""
    names = cell.recurrent_names
    blocks = () if weights.hh is None else weights.hh.chunk(len(names))
    biases: Sequence[Tensor | None] = [None] * len(blocks)
    if weights.bias_hh is not None:
        biases = weights.bias_hh.chunk(len(blocks))

    def product(block: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        return lambda vector: F.linear(vector, block, bias)

    U = Products("gate", dict(zip(names, map(product, blocks, biases), strict=True)))
    rows = () if weights.units is None else weights.units.unbind()
    p = Units("per-unit parameter", dict(zip(cell.unit_names, rows, strict=True)))
    hr = weights.hr
    return U, p, None if hr is None else lambda vector: F.linear(vector, hr)


def _reference(
    cell: Cell, input: Tensor, weights: Weights, state: State, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    steps, batch = input.shape[:2]
    if not steps:
        raise InputError("`input` must have at least one step, got T = 0")
    U, p, P = bind(cell, weights)
    if lengths is not None:
        input = input.masked_fill(~valid_steps(lengths, steps), 0)  # whatever stands in the padding, NaN too
    ends = [steps] * batch if lengths is None else lengths.tolist()
    gates = F.linear(input, weights.ih, weights.bias_ih).chunk(len(cell.gate_names), dim=-1)
    outputs: list[Tensor] = [state.h] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        rows = [row for row, end in enumerate(ends) if t < end]
        x = [gate[t] for gate in gates]
        if len(rows) == batch:
            outputs[t] = (state := _advance(cell, x, U, state, p, P)).h
            continue
        # the rows that have ended take no part, so that nothing flows back from them
        index = torch.tensor(rows, dtype=torch.int64, device=input.device)
        outputs[t] = torch.zeros_like(state.h)
        if rows:
            new = _advance(cell, [gate[index] for gate in x], U, state.map(lambda value: value[index]), p, P)  # noqa: B023
            outputs[t] = outputs[t].index_copy(0, index, new.h)
            state = State(**{name: value.index_copy(0, index, getattr(new, name)) for name, value in state.items()})
    return torch.stack(outputs), state


def _advance(cell: Cell, gates: list[Tensor], U: Products, state: State, p: Units, P: Projection | None) -> State:
    """Take one step, and see that the cell returns states of the right size and leaves those before alone."""
    versions = [value._version for value in state if not value.is_inference()]
    new = cell.advance(Gates("gate", dict(zip(cell.gate_names, gates, strict=True))), U, state, p, P)
    if versions != [value._version for value in state if not value.is_inference()]:
        raise InputError(f"cell {type(cell).__name__}: `step` must not change the state in place; return new values")
    for (name, value), before in zip(new.items(), state, strict=True):
        if value.shape != before.shape:
            raise InputError(
                f"cell {type(cell).__name__}: `step` must return {name} of shape {list(before.shape)}, "
                f"got {list(value.shape)}"
            )
    return new


def _torch(
    kernel: str, input: Tensor, weights: Weights, state: State, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    if lengths is None or not bool((lengths < input.shape[0]).any()):
        output, after = _run_kernel(kernel, input.flip(0) if reverse else input, weights, state)
        return output.flip(0) if reverse else output, after

    padded = (~valid_steps(lengths, input.shape[0])).flatten()
    order = _flip(lengths, input.shape[0]) if reverse else None
    flag = kernel in SHUTTING
    input = _Arrange.apply(input, order, padded.nonzero().squeeze(1), flag)  # type: ignore[no-untyped-call]
    if flag:
        # a further input, 1 at padded steps, shuts the gates there: nothing comes out, and nothing can overflow
        half = weights.ih.dtype == torch.float16 or torch.is_autocast_enabled(input.device.type)
        signs = weights.ih.new_tensor(SHUTTING[kernel]) * (SHUT_FLOAT16 if half else SHUT)
        column = signs.repeat_interleave(len(weights.ih) // len(signs))[:, None]
        weights = weights._replace(ih=torch.cat([weights.ih, column], dim=1))
    output, after = _run_kernel(kernel, input, weights, state)
    if not flag:
        output = output.masked_fill(padded.view(*output.shape[:2], 1), 0)
    last = output.gather(0, (lengths - 1).clamp(min=0)[None, :, None].expand(1, -1, output.shape[-1])).squeeze(0)
    h = torch.where((lengths > 0)[:, None], last, state.h)
    after = State(**{name: h if name == "h" else value for name, value in after.items()})
    if order is not None:
        output = _Arrange.apply(output, order, None, False)  # type: ignore[no-untyped-call]
    return output, after


def _run_kernel(kernel: str, input: Tensor, weights: Weights, state: State) -> tuple[Tensor, State]:
    assert weights.hh is not None
    flat = [weights.ih, weights.hh]
    if weights.bias_ih is not None:
        # the kernels know two biases or none
        zero = weights.bias_ih.new_zeros(()).expand_as(weights.bias_ih)
        flat += [weights.bias_ih, zero if weights.bias_hh is None else weights.bias_hh]
    if weights.hr is not None:
        flat.append(weights.hr)
    options = (flat, weights.bias_ih is not None, 1, 0.0, torch.is_grad_enabled(), False, False)
    initial = tuple(value.unsqueeze(0) for value in state)
    if kernel == "lstm":
        output, *final = torch._VF.lstm(input, initial, *options)
    else:
        output, *final = getattr(torch._VF, kernel)(input, *initial, *options)
    return output, State(**{name: value.squeeze(0) for (name, _), value in zip(state.items(), final, strict=True)})


def _flip(lengths: Tensor, steps: int) -> Tensor:
    """Return where in [T * B] each step of the rows comes from when every row's valid steps are reversed."""
    step = torch.arange(steps, device=lengths.device)[:, None]
    row = torch.arange(len(lengths), device=lengths.device)
    return (torch.where(step < lengths, lengths - 1 - step, step) * len(lengths) + row).flatten()


class _Arrange(torch.autograd.Function):
    """Steps [T, B, D] in another order, with zeros at padded ones, in one pass.

    `order` [T * B] must be its own inverse; `padded` lists steps of [T * B]; `flag` appends a feature that is 1 there.
    Nothing flows back from padded steps, so the backward pass needs only the order.
    """

    @staticmethod
    def forward(ctx: Any, sequence: Tensor, order: Tensor | None, padded: Tensor | None, flag: bool) -> Tensor:
        steps, batch, size = sequence.shape
        ctx.order, ctx.size = order, size
        rows = sequence.reshape(-1, size)
        result = rows.new_empty(len(rows), size + flag)
        result[:, :size] = rows if order is None else rows.index_select(0, order)
        if padded is not None:
            result[padded, :size] = 0
        if flag:
            result[:, size] = 0
            result[padded, size] = 1
        return result.view(steps, batch, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad = grad[..., : ctx.size]
        if ctx.order is not None:
            grad = _Arrange.apply(grad, ctx.order, None, False)  # type: ignore[no-untyped-call]
        return grad, None, None, None
