"""Compiled kernels at work: buffers, tables of rows, and the calls.

`forward` and `backward` take plain tensors and give plain tensors; everything about autograd is in
`recur.compiler.operator`.
"""

import ctypes
from collections.abc import Mapping, Sequence
from functools import lru_cache
from threading import local
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recur.compiler import machine, memory, products, threads
from recur.compiler.choice import Choice
from recur.compiler.emit import Source
from recur.compiler.emit_backward import emit_backward
from recur.compiler.emit_forward import emit_forward
from recur.compiler.graph import OUTPUTS, UNITS, used_inputs
from recur.compiler.library import Library, library
from recur.compiler.plan import Plan, plan_backward, plan_forward
from recur.compiler.rows import Rows
from recur.compiler.target import host
from recur.compiler.weights import (
    Packed,
    Sizes,
    Weights,
    dense_rows,
    pack_backward,
    pack_forward,
    packed_for_inference,
)

__all__ = ["Gradients", "Result", "Weights", "backward", "backward_kernel", "forward", "forward_kernel"]

# the inputs of some steps are projected at a time: so many rows, and so many bytes of results
GX_ROWS, GX_BYTES = 256, 1 << 21
# scratch up to so many bytes is kept from call to call
KEPT_BYTES = 1 << 25


class Kernel(NamedTuple):
    """A loaded kernel: its plan, address, and the names of the words of its argument."""

    plan: Plan
    address: int
    fields: tuple[str, ...]


@lru_cache(maxsize=256)
def forward_kernel(text: str, dtype: torch.dtype, training: bool, gates: bool = False) -> Kernel:
    """Return the forward kernel of an equation, compiled now if it was not before.

    Raises:
        NotCompilable: machine code cannot be made or loaded here.
    """
    with machine.quick():
        plan = plan_forward(text, training, gates)
        source = emit_forward(plan, library(dtype).tiling, host(), training=training)
    return _load(plan, source, "forward")


@lru_cache(maxsize=256)
def backward_kernel(text: str, dtype: torch.dtype, all_states: bool) -> Kernel:
    """Return the backward kernel of an equation, compiled now if it was not before.

    Raises:
        NotCompilable: machine code cannot be made or loaded here.
    """
    with machine.quick():
        plan = plan_backward(text, all_states)
        source = emit_backward(plan, library(dtype).tiling, host())
    return _load(plan, source, "backward")


def _load(plan: Plan, source: Source, name: str) -> Kernel:
    return Kernel(plan, machine.load(source.text, [name])[name], source.fields)


class Result(NamedTuple):
    """What a forward run gives: outputs [T, B, H or P], final states, gates, and what the backward needs."""

    y: Tensor
    final: tuple[Tensor, ...]
    gates: Tensor | None
    kept: tuple[Tensor, ...]  # packed states other than h, slots, row numbers


def forward(
    text: str,
    x: Tensor,
    weights: Weights,
    state: Sequence[Tensor],
    rows: Rows,
    masks: Tensor | None = None,
    *,
    training: bool,
    gates: bool = False,
    half: bool = False,
) -> Result:
    """Run the equation over a sequence.

    Args:
        text: `Equation.text`.
        x: [T, B, D].
        weights: of this layer and direction.
        state: the initial states, [B, H] each, in the equation's order.
        rows: which rows run which steps.
        masks: per-step masks [M, T, B, H] or None.
        training: whether to keep what `backward` needs.
        gates: whether to return the gates' values, [T, B, G, H].
        half: whether to keep the weights as bfloat16; acts on float32 without training, where the processor can.
    """
    half = half and not training and library(x.dtype).product_bf16 != 0
    nt = torch.get_num_threads()
    frame = _forward_frame(text, x.dtype, training, gates, half, x.shape[-1], *_hidden(weights), rows, nt)
    plan, sizes, equation, lib = frame.plan, frame.sizes, frame.plan.equation, frame.lib
    x, masks = dense_rows(x), None if masks is None else dense_rows(masks)
    steps, batch = x.shape[:2]
    outputs = memory.empty(x.dtype, steps, batch, sizes.of(equation.dim("h")))
    if not rows.full:
        outputs.zero_()
    # room for every step, so that sizes do not depend on the lengths; what no row reaches is never touched
    places = steps * batch if training else 2 * rows.count
    states = {name: memory.empty(x.dtype, places, sizes.padded(equation.dim(name))) for name in frame.others}
    if training or frame.slot_row:
        slots = memory.empty(x.dtype, places, frame.slot_row)
        numbers = torch.empty(places, len(plan.rows), dtype=x.dtype)
    else:
        slots = numbers = outputs  # not written to
    shown = x.new_zeros(rows.total, len(equation.gates), sizes.padded(UNITS)) if gates else None
    if rows.count:
        packed = (
            pack_forward(plan, weights, sizes, lib, workspace)
            if training
            else packed_for_inference(plan, weights, sizes, lib)
        )
        initial = rows.initial([dense_rows(value) for value in state])
        words = frame.words(slots, numbers, rows, outputs, masks, initial, states, packed)
        words |= rows.words("x", x)
        if shown is not None:
            words |= {"gate": shown.data_ptr(), "gate_row": shown.stride(0)}
        frame.call(words)
    final = []
    for name, value in zip(equation.states, state, strict=True):
        if name == "h":
            final.append(rows.last_output(outputs, value))
        else:
            final.append(rows.last_packed(states[name][:, : value.shape[1]], value, parity=not training))
    if shown is not None:
        shown = rows.unpack(shown[..., : sizes.H])
    return Result(outputs, tuple(final), shown, (*states.values(), slots, numbers) if training else ())


class Gradients(NamedTuple):
    """Gradients, as the arguments of `forward`; None where not wanted or not there."""

    x: Tensor | None
    weights: Weights
    state: tuple[Tensor, ...]


def backward(
    text: str,
    x: Tensor,
    weights: Weights,
    state: Sequence[Tensor],
    rows: Rows,
    y: Tensor,
    kept: Sequence[Tensor],
    d_y: Tensor | None,
    d_final: Sequence[Tensor | None],
    masks: Tensor | None = None,
    *,
    d_states: Mapping[str, Tensor] | None = None,
    need_x: bool = True,
    need_weights: bool = True,
) -> Gradients:
    """Run BPTT.

    Args:
        text: `Equation.text`.
        x: as for `forward`, and so weights, state, rows and masks.
        weights: see there.
        state: see there.
        rows: see there.
        y: the outputs of `forward`.
        kept: what it kept.
        d_y: gradient of the outputs [T, B, H] or None.
        d_final: gradients of the final states, [B, H] or None each.
        masks: see there.
        d_states: gradients of the states other than h after every step, [T, B, H] by name.
        need_x: whether the gradient of x is wanted.
        need_weights: whether those of the weights are.
    """
    frame = _backward_frame(
        text, x.dtype, bool(d_states), x.shape[-1], *_hidden(weights), rows, torch.get_num_threads()
    )
    plan, sizes, equation, lib = frame.plan, frame.sizes, frame.plan.equation, frame.lib
    d_x = memory.empty(x.dtype, *x.shape) if need_x else None
    if d_x is not None and not rows.full:
        d_x.zero_()
    d_weights = Weights(
        *(None if w is None or not need_weights else _zeros_like(w) for w in weights)  # type: ignore[arg-type]
    )
    if not rows.count:
        passed = [torch.zeros_like(v) if g is None else g.clone() for v, g in zip(state, d_final, strict=True)]
        return Gradients(d_x, d_weights, tuple(passed))
    x, masks = dense_rows(x), None if masks is None else dense_rows(masks)
    initial = rows.initial([dense_rows(value) for value in state])
    *given_states, slots, numbers = kept
    states = dict(zip(frame.others, given_states, strict=True))
    packed = pack_backward(plan, weights, sizes, lib, workspace)
    d_slots = memory.empty(x.dtype, rows.total, frame.gradient_row)
    d_units = x.new_zeros(rows.count, len(equation.units), sizes.padded(UNITS))
    d_outputs = x.new_zeros(y.shape[-1]).expand_as(y) if d_y is None else dense_rows(d_y)
    words = frame.words(slots, numbers, rows, y, masks, initial, states, packed)
    words |= {
        "gradient": d_slots.data_ptr(),
        "unit_gradient": d_units.data_ptr(),
        "unit_gradient_row": d_units.stride(0),
    }
    words |= rows.words("dy", d_outputs)
    alive: list[Tensor] = []
    multiplied = plan.multiplied_states
    before: dict[str, Tensor] = {}
    for name, value, given in zip(equation.states, initial, d_final, strict=True):
        width = sizes.padded(equation.dim(name))
        arriving = rows.arriving(given, value, width)
        if name in plan.carries:
            carry = x.new_zeros(2, rows.count, width)
            if name not in multiplied:
                carry.copy_(arriving)
            words[f"carry_{name}"] = carry.data_ptr()
            before[name] = carry[0]
            alive.append(carry)
        if name in multiplied:
            before[name] = x.new_empty(rows.count, width)
            words |= {f"final_{name}": arriving.data_ptr(), f"before_{name}": before[name].data_ptr()}
            alive.append(arriving)
        if d_states and name != "h":
            each = rows.pack(d_states[name]) if name in d_states else x.new_zeros(1, width).expand(rows.total, width)
            each = dense_rows(each)
            words |= {f"d_{name}": each.data_ptr(), f"d_{name}_row": each.stride(0)}
            alive.append(each)
    frame.call(words)
    d_state = tuple(
        rows.to_batch(before[name][:, : value.shape[1]], given)
        for name, value, given in zip(equation.states, state, d_final, strict=True)
    )
    run = products.Backward(plan, sizes, rows, lib, weights, d_slots, torch.get_num_threads(), workspace)
    if d_x is not None:
        run.inputs(d_x)
    if need_weights:
        run.weights(d_weights, x, y, dict(zip(equation.states, initial, strict=True)), states, slots)
        if d_weights.units is not None:
            # summed in the order of the rows, whatever the number of threads
            d_weights.units.copy_(torch.from_numpy(d_units.numpy().sum(0))[:, : sizes.H])
    return Gradients(d_x, d_weights, d_state)


def share(plan: Plan, sizes: Sizes, rows: Rows, lib: Library) -> tuple[int, int]:
    """Return how many threads take part, and 1 if they share the units rather than the rows.

    Sharing the rows needs no waiting; sharing the units halves the weights that each thread reads, and all must meet at
    every step.
    """
    nt = torch.get_num_threads()
    if nt == 1:
        return 1, 0
    columns = sum(len(product.leaves) * product.operand.count for stage in plan.stages for product in stage.products)
    matrix = columns * sizes.H * sizes.P
    if rows.total * (matrix + 16 * sizes.H) < 1 << 18:
        return 1, 0
    groups = sizes.padded(UNITS) // lib.VL // lib.NC
    work = matrix * rows.total / rows.steps  # multiplications in a step
    by_units = work > nt * 20_000 and groups >= nt
    weights = (matrix + len(plan.equation.gates) * sizes.D * sizes.H) * lib.dtype.itemsize
    if rows.count >= 4 * nt and not (by_units and weights > 1 << 19):
        return nt, 0
    if by_units:
        return min(nt, groups), 1
    return (nt, 0) if rows.count >= nt else (1, 0)


class Frame:
    """What the calls of a kernel for some sizes and rows have in common."""

    def __init__(self, kernel: Kernel, sizes: Sizes, rows: Rows, lib: Library) -> None:
        self.kernel, self.plan, self.sizes, self.lib = kernel, kernel.plan, sizes, lib
        plan, equation = self.plan, self.plan.equation
        self.initial_words = [(f"initial_{name}", f"initial_{name}_row") for name in equation.states]
        self.others = [name for name in equation.states if name != "h"]
        self.slot_row = sum(sizes.padded(node.dim) for node in plan.slots)
        self.gradient_row = 0 if plan.gradients is None else sum(sizes.padded(dim) for dim in plan.gradient_dims)
        self.dtype = lib.dtype
        self.places = {name: place for place, name in enumerate(kernel.fields)}
        if not rows.count:
            return
        self.nt, split = share(plan, sizes, rows, lib)
        # with so few rows a step is so short that meetings count
        self.choice = Choice(self.nt) if split and rows.count < 4 * self.nt else None
        mine = rows.count if split else -(-rows.count // self.nt)
        gx_row = len(used_inputs(equation)) * sizes.padded(UNITS)
        shares = 1 if split else self.nt
        step_bytes = gx_row * lib.dtype.itemsize * mine * shares
        chunk = max(1, min(GX_ROWS // mine, GX_BYTES // max(1, step_bytes), rows.steps))
        tables = 4 + len(equation.states) + sum(len(stage.products) for stage in plan.stages)
        temporary_row = sum(sizes.padded(node.dim) for node in plan.temporaries)
        panels = max(sizes.padded(UNITS), sizes.padded(OUTPUTS)) // lib.VL
        sums_each = -(-panels // lib.VL) * lib.VL
        # so much is enough for any number of threads up to nt
        most = self.nt * rows.count if split else rows.count + self.nt
        self.pointers = (chunk + tables) * most
        self.gx = chunk * (rows.count if split else most) * gx_row
        self.temporary = rows.count * temporary_row
        self.sums = rows.count * len(plan.sums) * sums_each
        inverse = _share_values(lib.dtype, sizes.H, sizes.P)
        constant = {
            "split": split,
            "chunk": chunk,
            "gx_row": gx_row,
            "slot_row": self.slot_row,
            "gradient_row": self.gradient_row,
            "temporary_row": temporary_row,
            "sums_each": sums_each,
            "T": rows.steps,
            "R": rows.count,
            "cum": rows.cum_address,
            "product": lib.product_bf16 if sizes.half else lib.product,
            "share_H": inverse.data_ptr(),
            "share_P": inverse.data_ptr() + lib.dtype.itemsize,
            **sizes.words(),
        }
        self.template = np.array([constant.get(name, 0) for name in kernel.fields], np.int64)
        self._argument, self._constant = ctypes.c_int64 * len(kernel.fields), self.template.tobytes()

    def words(
        self,
        slots: Tensor,
        numbers: Tensor,
        rows: Rows,
        y: Tensor,
        masks: Tensor | None,
        initial: Sequence[Tensor],
        states: Mapping[str, Tensor],
        packed: Packed,
    ) -> dict[str, int]:
        """Return the words that both directions have, besides the constant ones."""
        words = {"slot": slots.data_ptr(), "rows": numbers.data_ptr(), **packed.words, **rows.words("y", y)}
        for (place, row), value in zip(self.initial_words, initial, strict=True):
            words[place], words[row] = value.data_ptr(), value.stride(0)
        for name, value in states.items():
            words[f"state_{name}"] = value.data_ptr()
        if masks is not None:
            words |= rows.words("mask", masks[0]) | {"mask_each": masks.stride(0)}
        return words

    def call(self, words: Mapping[str, int]) -> None:
        """Run the kernel."""
        # much quicker to fill than an array of numpy
        argument = self._argument.from_buffer_copy(self._constant)
        places = self.places
        # large ones are not kept by `workspace`, and must live until the kernel is done
        scratch = {"pointers": workspace("pointers", torch.int64, self.pointers)}
        if "gx" in places:
            scratch["gx"] = workspace("gx", self.dtype, self.gx)
        if self.temporary:
            scratch["temporary"] = workspace("temporary", self.dtype, self.temporary)
        if self.sums:
            scratch["sums"] = workspace("sums", self.dtype, self.sums).zero_()
        for name, buffer in scratch.items():
            argument[places[name]] = buffer.data_ptr()
        for name, value in words.items():
            place = places.get(name)
            if place is not None:
                argument[place] = value
        if self.choice is None:
            threads.run(self.kernel.address, ctypes.addressof(argument), self.nt)
            return
        nt, start = self.choice.next(), perf_counter()
        threads.run(self.kernel.address, ctypes.addressof(argument), nt)
        self.choice.took(nt, perf_counter() - start)


@lru_cache(maxsize=64)
def _forward_frame(
    text: str,
    dtype: torch.dtype,
    training: bool,
    gates: bool,
    half: bool,
    width: int,
    rows_ih: int,
    outputs: int,
    rows: Rows,
    nt: int,
) -> Frame:
    kernel = forward_kernel(text, dtype, training, gates)
    return Frame(kernel, _sizes(kernel, width, rows_ih, outputs, dtype, half), rows, library(dtype))


@lru_cache(maxsize=64)
def _backward_frame(
    text: str, dtype: torch.dtype, all_states: bool, width: int, rows_ih: int, outputs: int, rows: Rows, nt: int
) -> Frame:
    kernel = backward_kernel(text, dtype, all_states)
    return Frame(kernel, _sizes(kernel, width, rows_ih, outputs, dtype), rows, library(dtype))


def _zeros_like(value: Tensor) -> Tensor:
    return torch.zeros_like(value, memory_format=torch.contiguous_format)


def _hidden(weights: Weights) -> tuple[int, int]:
    return weights.ih.shape[0], 0 if weights.hr is None else weights.hr.shape[0]


def _sizes(kernel: Kernel, width: int, rows_ih: int, outputs: int, dtype: torch.dtype, half: bool = False) -> Sizes:
    hidden = rows_ih // len(kernel.plan.equation.gates)
    return Sizes(width, hidden, outputs or hidden, library(dtype).VL, half)


@lru_cache(maxsize=64)
def _share_values(dtype: torch.dtype, *sizes: int) -> Tensor:
    return torch.tensor([1 / size for size in sizes], dtype=dtype)


class _Workspaces(local):
    """Scratch that is kept between calls, one of each kind for a Python thread."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}


_workspaces = _Workspaces()


def workspace(name: str, dtype: torch.dtype, size: int) -> Tensor:
    """Return scratch for `size` numbers; what it holds is gone at the next call."""
    buffer = _workspaces.buffers.get((name, dtype))
    if buffer is None or buffer.numel() < size:
        buffer = torch.empty(max(size, 1), dtype=dtype)
        if size * dtype.itemsize <= KEPT_BYTES:
            _workspaces.buffers[name, dtype] = buffer
    return buffer
