"""What the operators are given, and whether the tensors fit together: kernels trust what they are told."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recur.compiler.graph import UNITS, Equation
from recur.compiler.plan import plan_forward
from recur.compiler.rows import Rows, ragged, uniform
from recur.compiler.target import host
from recur.compiler.weights import Weights
from recur.errors import InputError

DTYPES = (torch.float32, torch.float64)


class Call(NamedTuple):
    """What both operators begin with; shapes as for `recur.scan.scan`."""

    equation: str
    x: Tensor
    weights: Weights
    state: Sequence[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    masks: Tensor | None
    reverse: bool
    left: bool

    @staticmethod
    def of(given: Sequence[Any]) -> "tuple[Call, Sequence[Any]]":
        """Return what the arguments of an operator begin with, and the rest."""
        return Call(given[0], given[1], Weights(*given[2:8]), *given[8:14]), given[14:]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """As arguments of an operator."""
        return (self.equation, self.x, *self.weights, *self[3:])


class Expected(NamedTuple):
    """How many gates, recurrent products, per-unit parameters and masks an equation has, and its states."""

    gates: int
    recurrent: int
    units: int
    masks: int
    projected: bool
    states: tuple[str, ...]


@lru_cache(maxsize=256)
def expected(equation: str) -> Expected:
    """Return that of an equation."""
    e = Equation.parse(equation)
    return Expected(len(e.gates), len(e.recurrent), len(e.units), len(e.masks), e.projected, e.states)


def check(call: Call) -> None:
    """Refuse what kernels would read past the end of.

    Raises:
        InputError: names the tensor, what it must be, and what it is.
    """
    x, wanted = call.x, expected(call.equation)
    if x.dim() != 3 or not x.shape[0] or x.dtype not in DTYPES:
        raise InputError(f"`x` must be float32 or float64 [T, B, D] with T above 0, got {_said(x)}")
    if len(call.state) != len(wanted.states):
        raise InputError(f"`state` must be {', '.join(wanted.states)}, got {len(call.state)} tensors")
    steps, batch, width = x.shape
    hidden, outputs = _sizes(call, wanted)
    ih, hh, bias_ih, bias_hh, units, hr = call.weights
    stacked, recurrent = wanted.gates * hidden, wanted.recurrent * hidden
    _fit("ih", ih, x, (stacked, width), True)
    _fit("hh", hh, x, (recurrent, outputs), recurrent > 0)
    _fit("bias_ih", bias_ih, x, (stacked,), bias_ih is not None)
    _fit("bias_hh", bias_hh, x, (recurrent,), recurrent > 0 and bias_hh is not None)
    _fit("units", units, x, (wanted.units, hidden), wanted.units > 0)
    _fit("hr", hr, x, (outputs, hidden), wanted.projected)
    for name, value in zip(wanted.states, call.state, strict=True):
        _fit(f"state.{name}", value, x, (batch, outputs if name == "h" else hidden), True)
    _fit("masks", call.masks, x, (wanted.masks, steps, batch, hidden), wanted.masks > 0)
    if call.lengths is None and call.resets is None:
        return
    for name, given, dtype, shape in (
        ("lengths", call.lengths, torch.int64, (batch,)),
        ("resets", call.resets, torch.bool, (steps, batch)),
    ):
        if given is not None and (given.shape != shape or given.dtype is not dtype or not given.is_cpu):
            raise InputError(f"`{name}` must be {dtype} {list(shape)}, got {_said(given)}")


def check_backward(
    call: Call,
    y: Tensor,
    kept: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
) -> None:
    """Refuse what the backward would read past the end of.

    Raises:
        InputError: as above.
    """
    x, wanted = call.x, expected(call.equation)
    steps, batch, _ = x.shape
    hidden, outputs = _sizes(call, wanted)
    widths = _kept_widths(call.equation, host().lanes(x.dtype), hidden, outputs)
    states = [value for name, value in zip(wanted.states, call.state, strict=True) if name != "h"]
    if len(kept) != len(widths) or len(d_final) != len(call.state) or len(d_states) not in (0, len(states)):
        raise InputError(
            f"`kept`, `d_final` and `d_states` must be {len(widths)}, {len(call.state)} and {len(states)} or 0, "
            f"got {len(kept)}, {len(d_final)} and {len(d_states)}"
        )
    _fit("y", y, x, (steps, batch, outputs), True)
    _fit("d_y", d_y, x, (steps, batch, outputs), d_y is not None)
    for value, size in zip(kept, widths, strict=True):
        _fit("kept", value, x, (steps * batch, size), True)
    for given, final in zip(d_final, call.state, strict=True):
        _fit("d_final", given, x, final.shape, given is not None)
    for given, final in zip(d_states, states, strict=False):
        _fit("d_states", given, x, (steps, *final.shape), given is not None)


def _sizes(call: Call, wanted: Expected) -> tuple[int, int]:
    """Return H, and P or H."""
    ih, hr = call.weights.ih, call.weights.hr
    hidden = ih.shape[0] // wanted.gates if ih.dim() else 0
    outputs = hr.shape[0] if hr is not None and hr.dim() else hidden
    if not hidden or not outputs:
        raise InputError(f"`ih` must be [G*H, D] with G = {wanted.gates} and H above 0, got {_said(ih)}")
    return hidden, outputs


def _fit(name: str, value: Tensor | None, like: Tensor, shape: tuple[int, ...], wanted: bool) -> None:
    if value is None:
        if not wanted:
            return
    elif wanted and value.shape == shape and value.dtype is like.dtype and value.is_cpu:
        return
    raise InputError(f"`{name}` must be {f'{like.dtype} {list(shape)}' if wanted else None}, got {_said(value)}")


def _said(value: Tensor | None) -> str:
    return "None" if value is None else f"{value.dtype} {list(value.shape)} on {value.device}"


def kept_sizes(equation: str, lanes: int, hidden: int, outputs: int) -> tuple[int, ...]:
    """Return how many numbers each kept tensor has per step and row: states other than h, slots, row numbers."""

    def padded(size: int) -> int:
        return -(-size // lanes) * lanes

    plan = plan_forward(equation, True)
    states = [padded(hidden) for name in plan.equation.states if name != "h"]
    slots = [padded(hidden if node.dim == UNITS else outputs) for node in plan.slots]
    return (*states, sum(slots), len(plan.rows))


_kept_widths = lru_cache(maxsize=256)(kept_sizes)


def rows_of(call: Call) -> Rows:
    """Return which rows run which steps.

    Raises:
        InputError: a length is not in 0..T.
    """
    steps, batch = call.x.shape[:2]
    if call.lengths is None and call.resets is None:
        return uniform(steps, batch, call.reverse)
    lengths = (steps,) * batch if call.lengths is None else tuple(call.lengths.tolist())
    if lengths and (min(lengths) < 0 or max(lengths) > steps):
        row, length = next((row, n) for row, n in enumerate(lengths) if not 0 <= n <= steps)
        raise InputError(f"`lengths` must be in 0..T = 0..{steps}, got {length} in row {row}")
    if call.resets is not None:
        return ragged(steps, lengths, reverse=call.reverse, left=call.left, resets=call.resets)
    return _ragged(steps, lengths, call.reverse, call.left)


@lru_cache(maxsize=32)
def _ragged(steps: int, lengths: tuple[int, ...], reverse: bool, left: bool) -> Rows:
    # once for the directions, the layers and the backward of a batch
    if all(length == steps for length in lengths):
        return uniform(steps, len(lengths), reverse)
    return ragged(steps, lengths, reverse=reverse, left=left)
