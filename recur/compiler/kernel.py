"""Compiled kernels at work: buffers, tables of rows, and the calls.

`forward` and `backward` take plain tensors and give plain tensors; everything about autograd is in
`recur.compiler.operator`.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recur.compiler import machine, products, threads
from recur.compiler.emit import Source, emit_backward, emit_forward
from recur.compiler.graph import UNITS, Equation
from recur.compiler.library import Library, library
from recur.compiler.plan import Plan, plan_backward, plan_forward, used_inputs
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
    sizes_of,
)

__all__ = ["Gradients", "Result", "Weights", "backward", "backward_kernel", "forward", "forward_kernel"]

# the inputs of some steps are projected at a time: so many rows, and so many bytes of results
GX_ROWS, GX_BYTES = 256, 1 << 20
# scratch up to so many bytes is kept from call to call
KEPT_BYTES = 1 << 27


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
    """
    lib = library(x.dtype)
    kernel = forward_kernel(text, x.dtype, training, gates)
    plan, equation = kernel.plan, kernel.plan.equation
    sizes = sizes_of(x.shape[-1], weights, equation, lib.VL)
    x = dense_rows(x)
    steps, batch = x.shape[:2]
    outputs = (x.new_empty if rows.full else x.new_zeros)(steps, batch, sizes.of(equation.dim("h")))
    others = [name for name in equation.states if name != "h"]
    # room for every step, so that sizes do not depend on the lengths; what no row reaches is never touched
    places = steps * batch if training else 2 * rows.count
    states = [x.new_empty(places, sizes.padded(equation.dim(name))) for name in others]
    slots = x.new_empty(places, sum(sizes.padded(node.dim) for node in plan.slots))
    numbers = x.new_empty(places, len(plan.rows))
    shown = x.new_zeros(rows.total, len(equation.gates), sizes.padded(UNITS)) if gates else None
    if rows.count:
        packed = (pack_forward if training else packed_for_inference)(plan, weights, sizes, lib)
        initial = rows.initial([dense_rows(value) for value in state])
        nt, split = share(plan, sizes, rows, lib)
        mine = rows.count if split else -(-rows.count // nt)
        gx_row = len(used_inputs(equation)) * sizes.padded(UNITS)
        chunk = max(1, min(GX_ROWS // mine, GX_BYTES // max(1, gx_row * x.element_size() * mine), rows.steps))
        scratch = _Scratch(plan, sizes, rows, lib, nt, mine, chunk * mine)
        gx = _workspace("gx", x.dtype, (1 if split else nt) * chunk * mine * gx_row)
        words = {
            "split": split,
            "chunk": chunk,
            "chunk_rows": chunk * mine,
            "gx": gx.data_ptr(),
            "gx_row": gx_row,
            "slot": slots.data_ptr(),
            "slot_row": slots.shape[1],
            "rows": numbers.data_ptr(),
            **scratch.words,
            **_common(lib, sizes, rows, packed),
            **rows.words("x", x),
            **rows.words("y", outputs),
            **_masks(masks, rows, alive := []),
            **_initial(equation, initial),
            **{f"state_{name}": value.data_ptr() for name, value in zip(others, states, strict=True)},
        }
        if shown is not None:
            words |= {"gate": shown.data_ptr(), "gate_row": shown.stride(0)}
        _call(kernel, words, nt)
        del alive
    packed_states = dict(zip(others, states, strict=True))
    final = []
    for name, value in zip(equation.states, state, strict=True):
        if name == "h":
            final.append(rows.last_output(outputs, value))
        else:
            final.append(rows.last_packed(packed_states[name][:, : value.shape[1]], value, parity=not training))
    if shown is not None:
        shown = rows.unpack(shown[..., : sizes.H])
    return Result(outputs, tuple(final), shown, (*states, slots, numbers) if training else ())


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
    lib = library(x.dtype)
    kernel = backward_kernel(text, x.dtype, bool(d_states))
    plan, equation = kernel.plan, kernel.plan.equation
    sizes = sizes_of(x.shape[-1], weights, equation, lib.VL)
    d_x = (x.new_empty if rows.full else x.new_zeros)(x.shape) if need_x else None
    d_weights = Weights(
        *(None if w is None or not need_weights else w.new_zeros(w.shape) for w in weights)  # type: ignore[arg-type]
    )
    if not rows.count:
        passed = [torch.zeros_like(v) if g is None else g.clone() for v, g in zip(state, d_final, strict=True)]
        return Gradients(d_x, d_weights, tuple(passed))
    x = dense_rows(x)
    initial = rows.initial([dense_rows(value) for value in state])
    others = [name for name in equation.states if name != "h"]
    *states, slots, numbers = kept
    packed = pack_backward(plan, weights, sizes, lib)
    nt, split = share(plan, sizes, rows, lib)
    mine = rows.count if split else -(-rows.count // nt)
    scratch = _Scratch(plan, sizes, rows, lib, nt, mine, 0)
    row = sum(sizes.padded(dim) for dim in plan.gradient_dims)
    d_slots = _workspace("gradient", x.dtype, rows.total * row).view(rows.total, row)
    d_units = x.new_zeros(rows.count, len(equation.units), sizes.padded(UNITS))
    d_outputs = x.new_zeros(y.shape[-1]).expand_as(y) if d_y is None else dense_rows(d_y)
    words = {
        "split": split,
        "slot": slots.data_ptr(),
        "slot_row": slots.shape[1],
        "rows": numbers.data_ptr(),
        "gradient": d_slots.data_ptr(),
        "gradient_row": row,
        "unit_gradient": d_units.data_ptr(),
        "unit_gradient_row": d_units.stride(0),
        **scratch.words,
        **_common(lib, sizes, rows, packed),
        **rows.words("y", y),
        **rows.words("dy", d_outputs),
        **_masks(masks, rows, alive := []),
        **_initial(equation, initial),
        **{f"state_{name}": value.data_ptr() for name, value in zip(others, states, strict=True)},
    }
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
    _call(kernel, words, nt)
    d_state = tuple(
        rows.to_batch(before[name][:, : value.shape[1]], given)
        for name, value, given in zip(equation.states, state, d_final, strict=True)
    )
    run = products.Backward(plan, sizes, rows, lib, weights, d_slots, torch.get_num_threads(), _workspace)
    if d_x is not None:
        run.inputs(d_x)
    if need_weights:
        run.weights(d_weights, x, y, dict(zip(equation.states, initial, strict=True)), dict(zip(others, states, strict=True)), slots)
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
    by_units = work > nt * 40_000 and groups >= nt
    weights = (matrix + len(plan.equation.gates) * sizes.D * sizes.H) * lib.dtype.itemsize
    if rows.count >= 4 * nt and not (by_units and weights > 1 << 19):
        return nt, 0
    if by_units:
        return min(nt, groups), 1
    return (nt, 0) if rows.count >= nt else (1, 0)


class _Scratch:
    """Room for addresses of rows, temporaries and sums."""

    def __init__(
        self, plan: Plan, sizes: Sizes, rows: Rows, lib: Library, nt: int, mine: int, chunk_rows: int
    ) -> None:
        stage_products = sum(len(stage.products) for stage in plan.stages)
        tables = chunk_rows + (4 + len(plan.equation.states) + stage_products) * mine
        row = sum(sizes.padded(node.dim) for node in plan.temporaries)
        each = -(-max(sizes.padded(UNITS), sizes.padded("P")) // lib.VL // lib.VL) * lib.VL + lib.VL
        pointers = _workspace("pointers", torch.int64, nt * tables)
        temporary = _workspace("temporary", lib.dtype, rows.count * row)
        self.sums = torch.zeros(rows.count * len(plan.sums) * each, dtype=lib.dtype)
        self.words = {
            "rows_each": mine,
            "threads": nt,
            "pointers": pointers.data_ptr(),
            "pointers_size": tables,
            "temporary": temporary.data_ptr(),
            "temporary_row": row,
            "sums": self.sums.data_ptr(),
            "sums_each": each,
        }


def _common(lib: Library, sizes: Sizes, rows: Rows, packed: Packed) -> dict[str, int]:
    shares = _share_values(lib.dtype, sizes.H, sizes.P)
    return {
        "T": rows.steps,
        "R": rows.count,
        "cum": rows.cum_address,
        "product": lib.product,
        "share_H": shares.data_ptr(),
        "share_P": shares.data_ptr() + lib.dtype.itemsize,
        **sizes.words(),
        **packed.words,
    }


@lru_cache(maxsize=64)
def _share_values(dtype: torch.dtype, *sizes: int) -> Tensor:
    return torch.tensor([1 / size for size in sizes], dtype=dtype)


def _masks(masks: Tensor | None, rows: Rows, alive: list[Any]) -> dict[str, int]:
    if masks is None:
        return {}
    masks = dense_rows(masks)
    alive.append(masks)
    return rows.words("mask", masks[0]) | {"mask_each": masks.stride(0)}


def _initial(equation: Equation, states: Sequence[Tensor]) -> dict[str, int]:
    words = {}
    for name, value in zip(equation.states, states, strict=True):
        words |= {f"initial_{name}": value.data_ptr(), f"initial_{name}_row": value.stride(0)}
    return words


def _call(kernel: Kernel, words: Mapping[str, int], nt: int) -> None:
    argument = np.array([words[name] for name in kernel.fields], np.int64)
    threads.run(kernel.address, argument.ctypes.data, nt)


class _Workspaces(threading.local):
    """Scratch that is kept between calls, one of each kind for a Python thread."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}


_workspaces = _Workspaces()


def _workspace(name: str, dtype: torch.dtype, size: int) -> Tensor:
    """Return scratch for `size` numbers; what it holds is gone at the next call."""
    buffer = _workspaces.buffers.get((name, dtype))
    if buffer is None or len(buffer) < size:
        buffer = torch.empty(max(size, 1), dtype=dtype)
        if size * dtype.itemsize <= KEPT_BYTES:
            _workspaces.buffers[name, dtype] = buffer
    return buffer[:size]
