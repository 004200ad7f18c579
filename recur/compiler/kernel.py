"""Compiled kernels at work: buffers, packed weights, tables of rows, and the calls.

`forward` and `backward` take plain tensors and give plain tensors; everything about autograd is `recur.scan`'s.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from recur.compiler import machine, threads
from recur.compiler.emit import Source, emit_backward, emit_forward
from recur.compiler.graph import OUTPUTS, UNITS, Equation
from recur.compiler.library import Library, library
from recur.compiler.plan import Plan, folded, plan_backward, plan_forward
from recur.compiler.rows import Rows
from recur.compiler.vectormath import Real

GX_BYTES = 1 << 20  # inputs of so many bytes are projected at a time
GX_ROWS = 256


class Weights(NamedTuple):
    """The weights of one layer and direction, as `recur.scan.Weights`."""

    ih: Tensor
    hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    units: Tensor | None
    hr: Tensor | None


class Kernel(NamedTuple):
    """A loaded kernel: its plan, address, and the names of the words of its argument."""

    plan: Plan
    address: int
    fields: tuple[str, ...]


@lru_cache(maxsize=256)
def forward_source(text: str, kind: Real, block: int, training: bool, gates: bool) -> Source:
    """Return the IR of a forward kernel."""
    return emit_forward(plan_forward(text, training, gates), kind, block, training=training)


@lru_cache(maxsize=256)
def forward_kernel(text: str, dtype: torch.dtype, training: bool, gates: bool = False) -> Kernel:
    """Return the forward kernel of an equation, compiled now if it was not before."""
    lib = library(dtype)
    with machine.quick():
        source = forward_source(text, _kind(lib), lib.NC, training, gates)
    address = machine.load(source.text, ["forward"])["forward"]
    return Kernel(plan_forward(text, training, gates), address, source.fields)


@lru_cache(maxsize=256)
def backward_kernel(text: str, dtype: torch.dtype, all_states: bool) -> Kernel:
    """Return the backward kernel of an equation, compiled now if it was not before."""
    lib = library(dtype)
    with machine.quick():
        source = emit_backward(plan_backward(text, all_states), _kind(lib), lib.NC)
    return Kernel(plan_backward(text, all_states), machine.load(source.text, ["backward"])["backward"], source.fields)


class Result(NamedTuple):
    """What a forward run gives: outputs [T, B, H or P], final states, and what the backward needs."""

    y: Tensor
    final: tuple[Tensor, ...]
    gates: Tensor | None
    kept: tuple[Tensor, ...]  # packed states other than h, slots, row numbers


@dataclass(frozen=True)
class Sizes:
    """The sizes of a call and what follows from them."""

    D: int
    H: int
    P: int
    lanes: int

    def of(self, dim: str) -> int:
        """H or P."""
        return self.P if dim == OUTPUTS else self.H

    def padded(self, dim: str) -> int:
        """That, rounded up to whole vectors."""
        return -(-self.of(dim) // self.lanes) * self.lanes

    def words(self) -> dict[str, int]:
        """As words of a kernel's argument."""
        return {
            "D": self.D,
            "H": self.H,
            "P": self.P,
            "Hp": self.padded(UNITS),
            "Pp": self.padded(OUTPUTS),
            "panels_H": self.padded(UNITS) // self.lanes,
            "panels_P": self.padded(OUTPUTS) // self.lanes,
        }


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
    sizes = _sizes(x, weights, equation, lib.VL)
    x = _dense_rows(x)
    batch = x.shape[1]
    width = sizes.of(equation.dim("h"))
    outputs = (x.new_empty if rows.full else x.new_zeros)(x.shape[0], batch, width)
    initial = rows.initial([_dense_rows(value) for value in state])
    packed = _packed_forward(equation, plan, weights, sizes, lib)
    places = rows.total if training else 2 * rows.count
    other = [name for name in equation.states if name != "h"]
    states = [x.new_empty(places, sizes.padded(equation.dim(name))) for name in other]
    slot_row = sum(sizes.padded(node.dim) for node in plan.slots)
    slots = x.new_empty(places, slot_row)
    numbers = x.new_empty(places, len(plan.rows))
    inputs = packed.inputs
    gx_row = inputs * sizes.padded(UNITS)
    nt, split = _share(equation, plan, sizes, rows, lib)
    mine = -(-rows.count // (1 if split else nt))
    each = max(1, min(GX_ROWS // mine, GX_BYTES // max(1, gx_row * x.element_size() * mine), rows.steps))
    temporary_row = sum(sizes.padded(node.dim) for node in plan.temporaries)
    sums_each = -(-(sizes.padded(UNITS) // lib.VL) // lib.VL) * lib.VL
    tables = each * mine + (4 + len(equation.states) + len(plan.slots)) * mine
    gx = _workspace("gx", x.dtype, (1 if split else nt) * each * mine * gx_row)
    temporary = _workspace("temporary", x.dtype, rows.count * temporary_row)
    sums = _zeros(x.dtype, rows.count * len(plan.sums) * sums_each)
    pointers = _workspace("pointers", torch.int64, nt * tables)
    gate_row = len(equation.gates) * sizes.padded(UNITS)
    gate_values = x.new_zeros(rows.total, gate_row) if gates else None
    words = sizes.words() | {
        "T": rows.steps,
        "R": rows.count,
        "rows_each": mine,
        "split": split,
        "product": lib.product,
        "pointers": pointers.data_ptr(),
        "pointers_size": tables,
        "cum": rows.cum_address,
        "chunk": each,
        "chunk_rows": each * mine,
        "gx": gx.data_ptr(),
        "gx_row": gx_row,
        "slot": slots.data_ptr(),
        "slot_row": slot_row,
        "rows": numbers.data_ptr(),
        "temporary": temporary.data_ptr(),
        "temporary_row": temporary_row,
        "sums": sums.data_ptr(),
        "sums_each": sums_each,
        **_shares(lib, sizes),
        **packed.words,
        **rows.words("x", x),
        **rows.words("y", outputs),
    }
    if masks is not None:
        masks = _dense_rows(masks)
        words |= rows.words("mask", masks[0]) | {"mask_each": masks.stride(0)}
    if gate_values is not None:
        words |= {"gate": gate_values.data_ptr(), "gate_row": gate_row}
    for name, value in zip(equation.states, initial, strict=True):
        words |= {f"initial_{name}": value.data_ptr(), f"initial_{name}_row": value.stride(0)}
    for name, value in zip(other, states, strict=True):
        words[f"state_{name}"] = value.data_ptr()
    _call(kernel, words, nt)
    last = dict(zip(other, (value[:, : sizes.of(equation.dim(n))] for n, value in zip(other, states, strict=True)), strict=True))
    final = []
    for name, value in zip(equation.states, state, strict=True):
        if name == "h":
            final.append(rows.last_output(outputs, value))
        else:
            final.append(rows.last_packed(last[name], value, parity=not training))
    if gate_values is not None:
        padded = gate_values.view(rows.total, len(equation.gates), -1)[..., : sizes.H]
        gate_values = rows.unpack(padded)
    return Result(outputs, tuple(final), gate_values, (*states, slots, numbers) if training else ())


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
    gradients = plan.gradients
    assert gradients is not None
    sizes = _sizes(x, weights, equation, lib.VL)
    x = _dense_rows(x)
    initial = rows.initial([_dense_rows(value) for value in state])
    other = [name for name in equation.states if name != "h"]
    *states, slots, numbers = kept
    dims = _slot_dims(plan)
    row = sum(sizes.padded(dim) for dim in dims)
    d_slots = _workspace("gradient", x.dtype, rows.total * row).view(rows.total, row)
    packed = _packed_backward(plan, weights, sizes, lib)
    nt, split = _share(equation, plan, sizes, rows, lib)
    mine = -(-rows.count // (1 if split else nt))
    products = sum(len(stage.products) for stage in plan.stages)
    tables = (4 + len(equation.states) + products) * mine
    pointers = _workspace("pointers", torch.int64, nt * tables)
    temporary_row = sum(sizes.padded(node.dim) for node in plan.temporaries)
    temporary = _workspace("temporary", x.dtype, rows.count * temporary_row)
    sums_each = -(-(sizes.padded(UNITS) // lib.VL) // lib.VL) * lib.VL
    sums = _zeros(x.dtype, rows.count * len(plan.sums) * sums_each)
    unit_row = len(equation.units) * sizes.padded(UNITS)
    d_units = _zeros(x.dtype, rows.count * unit_row).view(rows.count, unit_row)
    d_outputs = x.new_zeros(y.shape[-1]).expand_as(y) if d_y is None else _dense_rows(d_y)
    words = sizes.words() | {
        "T": rows.steps,
        "R": rows.count,
        "rows_each": mine,
        "split": split,
        "product": lib.product,
        "pointers": pointers.data_ptr(),
        "pointers_size": tables,
        "cum": rows.cum_address,
        "slot": slots.data_ptr(),
        "slot_row": slots.shape[1],
        "rows": numbers.data_ptr(),
        "gradient": d_slots.data_ptr(),
        "gradient_row": row,
        "temporary": temporary.data_ptr(),
        "temporary_row": temporary_row,
        "sums": sums.data_ptr(),
        "sums_each": sums_each,
        "unit_gradient": d_units.data_ptr(),
        "unit_gradient_row": unit_row,
        **_shares(lib, sizes),
        **packed.words,
        **rows.words("y", y),
        **rows.words("dy", d_outputs),
    }
    if masks is not None:
        masks = _dense_rows(masks)
        words |= rows.words("mask", masks[0]) | {"mask_each": masks.stride(0)}
    for name, value in zip(other, states, strict=True):
        words[f"state_{name}"] = value.data_ptr()
    alive: list[Any] = []
    multiplied = {argument.name for argument, _, _ in gradients.runs if argument.op == "state"}
    before: dict[str, Tensor] = {}
    for name, value, given in zip(equation.states, initial, d_final, strict=True):
        words |= {f"initial_{name}": value.data_ptr(), f"initial_{name}_row": value.stride(0)}
        width = sizes.padded(equation.dim(name))
        arriving = rows.arriving(given, value, width)
        if name in plan.carries:
            carry = x.new_zeros(2, rows.count, width)
            if name not in multiplied:
                carry.copy_(arriving)
            words[f"carry_{name}"] = carry.data_ptr()
            before[name] = carry[0]
        if name in multiplied:
            before[name] = x.new_empty(rows.count, width)
            words |= {f"final_{name}": arriving.data_ptr(), f"before_{name}": before[name].data_ptr()}
        alive.append((arriving, before[name], words.get(f"carry_{name}") and carry))
        if d_states and name in d_states:
            each = rows.pack(d_states[name])
            words |= {f"d_{name}": each.data_ptr(), f"d_{name}_row": each.stride(0)}
            alive.append(each)
    _call(kernel, words, nt)
    d_state = tuple(
        rows.to_batch(before[name][:, : value.shape[1]], given)
        for name, value, given in zip(equation.states, state, d_final, strict=True)
    )
    d_x = _input_gradient(x, weights, rows, d_slots, plan, sizes, lib, nt) if need_x else None
    d_weights = Weights(None, None, None, None, None, None)  # type: ignore[arg-type]
    if need_weights:
        d_weights = _weight_gradients(x, y, initial, weights, rows, slots, states, d_slots, d_units, plan, sizes, lib)
    return Gradients(d_x, d_weights, d_state)


def _call(kernel: Kernel, words: Mapping[str, int], nt: int) -> None:
    argument = np.array([words[name] for name in kernel.fields], np.int64)
    threads.run(kernel.address, argument.ctypes.data, nt)


def _sizes(x: Tensor, weights: Weights, equation: Equation, lanes: int) -> Sizes:
    hidden = weights.ih.shape[0] // len(equation.gates)
    return Sizes(x.shape[-1], hidden, hidden if weights.hr is None else weights.hr.shape[0], lanes)


def _dense_rows(value: Tensor) -> Tensor:
    """Return `value` with the numbers of a row side by side."""
    return value if value.shape[-1] == 1 or value.stride(-1) == 1 else value.contiguous()


class _Workspaces(threading.local):
    """Scratch that is kept between calls, one of each kind for a Python thread."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}


_workspaces = _Workspaces()


def _workspace(name: str, dtype: torch.dtype, size: int) -> Tensor:
    """Return scratch of at least `size` numbers; what it holds is gone at the next call."""
    buffer = _workspaces.buffers.get((name, dtype))
    if buffer is None or len(buffer) < size or len(buffer) > 4 * size + (1 << 18):
        buffer = _workspaces.buffers[name, dtype] = torch.empty(max(size, 1), dtype=dtype)
    return buffer[:size]


def _zeros(dtype: torch.dtype, size: int) -> Tensor:
    return torch.zeros(size, dtype=dtype)


@lru_cache(maxsize=64)
def _share_values(dtype: torch.dtype, sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([1 / size for size in sizes], dtype=dtype)


def _shares(lib: Library, sizes: Sizes) -> dict[str, int]:
    values = _share_values(lib.dtype, (sizes.H, sizes.P))
    return {"share_H": values.data_ptr(), "share_P": values.data_ptr() + values.element_size()}


def _share(equation: Equation, plan: Plan, sizes: Sizes, rows: Rows, lib: Library) -> tuple[int, int]:
    """Return how many threads take part, and 1 if they share the units rather than the rows."""
    nt = torch.get_num_threads()
    products = sum(len(product.leaves) * product.operand.count for stage in plan.stages for product in stage.products)
    matrix = products * sizes.H * sizes.P
    if nt == 1 or rows.total * (matrix + 16 * sizes.H) < 1 << 18:
        return 1, 0
    groups = sizes.padded(UNITS) // lib.VL // lib.NC
    work = matrix * rows.total / rows.steps  # multiplications in a step
    by_units = work > nt * 40_000 and groups >= nt
    weights = (matrix + len(equation.gates) * sizes.D * sizes.H) * lib.dtype.itemsize
    if rows.count >= 4 * nt and not (by_units and weights > 1 << 19):
        return min(nt, rows.count), 0
    if by_units:
        return min(nt, groups), 1
    return (min(nt, rows.count), 0) if rows.count >= nt else (1, 0)


class Packed(NamedTuple):
    """Weights in the kernels' order, and the words that say where they are."""

    words: dict[str, int]
    inputs: int
    buffers: tuple[Tensor, ...]


def _pack(
    lib: Library, matrices: Sequence[Tensor], *, columns: int, units: int, inner: int, transposed: bool
) -> Tensor:
    """Pack matrices [units, inner] each, or where `transposed` [inner, units], as columns or one after the other."""
    outer = len(matrices) // columns
    size = lib.vectors(units, columns) * outer * inner * lib.VL
    packed = torch.empty(max(size, 1), dtype=lib.dtype)
    stride = matrices[0].stride(0)
    lib.pack_weights(
        packed.data_ptr(),
        [matrix.data_ptr() for matrix in matrices],
        columns=columns,
        outer=outer,
        inner=inner,
        units=units,
        unit_stride=1 if transposed else stride,
        k_stride=stride if transposed else 1,
    )
    return packed


def _blocks(equation: Equation, weights: Weights, sizes: Sizes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the matrices of the inputs and of the recurrent products, by gate; "" is the projection."""
    ih = dict(zip(equation.gates, _dense_rows(weights.ih).split(sizes.H), strict=True))
    hh: dict[str, Tensor] = {}
    if weights.hh is not None:
        hh = dict(zip(equation.recurrent, _dense_rows(weights.hh).split(sizes.H), strict=True))
    if weights.hr is not None:
        hh[""] = _dense_rows(weights.hr)
    return ih, hh


def _packed_forward(equation: Equation, plan: Plan, weights: Weights, sizes: Sizes, lib: Library) -> Packed:
    ih, hh = _blocks(equation, weights, sizes)
    names = [gate for gate in equation.gates if any(n.op == "x" and n.name == gate for n in equation.nodes)]
    buffers, words = [], {}

    def keep(name: str, buffer: Tensor) -> None:
        buffers.append(buffer)
        words[name] = buffer.data_ptr()

    if names:
        matrices = [ih[name] for name in names]
        keep("w_x", _pack(lib, matrices, columns=len(names), units=sizes.H, inner=sizes.D, transposed=False))
    for number, stage in enumerate(plan.stages):
        for index, product in enumerate(stage.products):
            matrices = [hh[gate] for (gate,) in product.sources]
            size, inner = sizes.of(product.dim), sizes.of(product.operand.dim)
            packed = _pack(lib, matrices, columns=len(matrices), units=size, inner=inner, transposed=False)
            keep(f"w_{number}_{index}", packed)
    width = sizes.padded(UNITS)
    bias_x = torch.zeros(len(equation.gates), width, dtype=lib.dtype)
    bias_u = torch.zeros(max(1, len(equation.recurrent)), width, dtype=lib.dtype)
    if weights.bias_ih is not None:
        bias_x[:, : sizes.H] = weights.bias_ih.view(-1, sizes.H)
    if weights.bias_hh is not None:
        bias_u[:, : sizes.H] = weights.bias_hh.view(-1, sizes.H)
        for node in folded(equation):
            bias_x[equation.gates.index(node.name)] += bias_u[equation.recurrent.index(node.name)]
    keep("bias_x", bias_x)
    keep("bias_u", bias_u)
    if weights.units is not None:
        units = torch.zeros(len(equation.units), width, dtype=lib.dtype)
        units[:, : sizes.H] = weights.units
        keep("units", units)
    return Packed(words, len(names), tuple(buffers))


def _packed_backward(plan: Plan, weights: Weights, sizes: Sizes, lib: Library) -> Packed:
    _, hh = _blocks(plan.equation, weights, sizes)
    buffers, words = [], {}
    for number, stage in enumerate(plan.stages):
        for index, product in enumerate(stage.products):
            matrices = [hh[gate] for gate in product.sources[0]]
            size, inner = sizes.of(product.dim), sizes.of(product.operand.dim)
            buffers.append(_pack(lib, matrices, columns=1, units=size, inner=inner, transposed=True))
            words[f"w_{number}_{index}"] = buffers[-1].data_ptr()
    if weights.units is not None:
        units = torch.zeros(len(plan.equation.units), sizes.padded(UNITS), dtype=lib.dtype)
        units[:, : sizes.H] = weights.units
        buffers.append(units)
        words["units"] = units.data_ptr()
    return Packed(words, 0, tuple(buffers))


def _slot_dims(plan: Plan) -> list[str]:
    assert plan.gradients is not None
    dims = [UNITS] * len(plan.gradients.slots)
    for _, first, columns in plan.gradients.runs:
        for number, column in enumerate(columns):
            dims[first + number] = column.product.dim
    return dims


def _kind(lib: Library) -> Real:
    return Real("float" if lib.dtype == torch.float32 else "double", lib.VL)


def _slot_offsets(plan: Plan, sizes: Sizes) -> list[int]:
    widths = [sizes.padded(dim) for dim in _slot_dims(plan)]
    return [sum(widths[:index]) for index in range(len(widths))]


def _input_gradient(
    x: Tensor, weights: Weights, rows: Rows, d_slots: Tensor, plan: Plan, sizes: Sizes, lib: Library, nt: int
) -> Tensor:
    assert plan.gradients is not None
    first, gates = plan.gradients.inputs
    offsets = _slot_offsets(plan, sizes)
    ih, _ = _blocks(plan.equation, weights, sizes)
    packed = d_slots.new_zeros(rows.total, sizes.D)
    for number, gate in enumerate(gates):
        start = offsets[first + number]
        packed += d_slots[:, start : start + sizes.H] @ ih[gate]
    return rows.unpack(packed)


def _weight_gradients(
    x: Tensor,
    y: Tensor,
    initial: Sequence[Tensor],
    weights: Weights,
    rows: Rows,
    slots: Tensor,
    states: Sequence[Tensor],
    d_slots: Tensor,
    d_units: Tensor,
    plan: Plan,
    sizes: Sizes,
    lib: Library,
) -> Weights:
    assert plan.gradients is not None
    equation, gradients = plan.equation, plan.gradients
    offsets, dims = _slot_offsets(plan, sizes), _slot_dims(plan)
    H = sizes.H
    d = Weights(*(None if w is None else torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights))
    first, gates = gradients.inputs
    xs = rows.pack(x)
    for number, gate in enumerate(gates):
        a = d_slots[:, offsets[first + number] :][:, :H]
        g = equation.gates.index(gate)
        d.ih[g * H : (g + 1) * H] += a.T @ xs
        if d.bias_ih is not None:
            d.bias_ih[g * H : (g + 1) * H] += a.sum(0)
    hs = rows.pack(y)
    for argument, start, columns in gradients.runs:
        for number, column in enumerate(columns):
            a = d_slots[:, offsets[start + number] :][:, : sizes.of(dims[start + number])]
            if argument.op == "state":
                index = equation.states.index(argument.name)
                width = sizes.of(argument.dim)
                if argument.name == "h":
                    values = hs
                else:
                    others = [name for name in equation.states if name != "h"]
                    values = states[others.index(argument.name)][:, :width]
                n0 = rows.count
                later = np.arange(n0, rows.total)
                step = np.searchsorted(rows.cum, later, side="right") - 1
                source = torch.from_numpy(later - rows.cum[step] + rows.cum[step - 1])
                total = a[:n0].T @ initial[index] + a[n0:].T @ values[source]
            else:
                place = sum(sizes.padded(node.dim) for node in plan.slots[: plan.slots.index(argument)])
                total = a.T @ slots[:, place : place + sizes.of(argument.dim)]
            if column.gate:
                g = equation.recurrent.index(column.gate)
                d.hh[g * H : (g + 1) * H] += total
                if d.bias_hh is not None:
                    d.bias_hh[g * H : (g + 1) * H] += a.sum(0)
            else:
                d.hr.add_(total)
    if d.units is not None:
        totals = torch.from_numpy(d_units.numpy().sum(0)).view(len(equation.units), -1)
        d.units.copy_(totals[:, :H])
    return d
