"""Weights in the order in which kernels read them, packed again only when they have changed."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recur.compiler.graph import OUTPUTS, UNITS, Equation, used_inputs
from recur.compiler.library import Library
from recur.compiler.plan import Plan


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


@dataclass(frozen=True)
class Sizes:
    """The sizes of a call and what follows from them."""

    D: int
    H: int
    P: int
    lanes: int
    half: bool = False
    """Whether the forward's weights are stored as bfloat16, two in the place of one."""

    def of(self, dim: str) -> int:
        """H or P."""
        return self.P if dim == OUTPUTS else self.H

    def padded(self, dim: str) -> int:
        """That, rounded up to whole vectors."""
        return -(-self.of(dim) // self.lanes) * self.lanes

    def packed(self, inner: int) -> int:
        """How many numbers hold the weights of one unit."""
        return -(-inner // 2) if self.half else inner

    def words(self) -> dict[str, int]:
        """As words of a kernel's argument."""
        units, outputs = self.padded(UNITS), self.padded(OUTPUTS)
        return {
            "D_packed": self.packed(self.D),
            "H_packed": self.packed(self.H),
            "P_packed": self.packed(self.P),
            "D": self.D,
            "H": self.H,
            "P": self.P,
            "Hp": units,
            "Pp": outputs,
            "panels_H": units // self.lanes,
            "panels_P": outputs // self.lanes,
        }


class Packed(NamedTuple):
    """Packed weights, and the words of a kernel's argument that say where they are."""

    words: dict[str, int]
    buffers: tuple[Tensor, ...]


class Blocks(NamedTuple):
    """Some of the matrices that are stacked in a weight: it, and where each of them starts."""

    weight: Tensor
    addresses: list[int]


def inputs_of(equation: Equation, weights: Weights, gates: Sequence[str]) -> Blocks:
    """Return the matrices of the inputs of some gates."""
    return _blocks(weights.ih, equation.gates, gates)


def recurrent_of(equation: Equation, weights: Weights, gates: Sequence[str]) -> Blocks:
    """Return the matrices of the recurrent products of some gates, or of "", the projection."""
    weight = weights.hr if "" in gates else weights.hh
    assert weight is not None
    return _blocks(weight, ("",) if "" in gates else equation.recurrent, gates)


def _blocks(weight: Tensor, names: Sequence[str], wanted: Sequence[str]) -> Blocks:
    weight = dense_rows(weight)
    start, each = weight.data_ptr(), weight.shape[0] // len(names) * weight.stride(0) * weight.element_size()
    return Blocks(weight, [start + names.index(name) * each for name in wanted])


def dense_rows(value: Tensor) -> Tensor:
    """Return `value` with the numbers of a row side by side."""
    return value if value.shape[-1] == 1 or value.stride(-1) == 1 else value.contiguous()


# where packed weights go: scratch by name, type and size
Room = Callable[[str, torch.dtype, int], Tensor]


def lasting(name: str, dtype: torch.dtype, size: int) -> Tensor:
    """Return room for packed weights that are kept."""
    return torch.empty(max(size, 1), dtype=dtype)


def pack(
    lib: Library,
    blocks: Blocks,
    *,
    columns: int,
    units: int,
    inner: int,
    transposed: bool,
    room: Room,
    name: str,
    half: bool = False,
) -> Tensor:
    """Pack matrices [units, inner] each, or where `transposed` [inner, units], as columns or one after the other."""
    outer = len(blocks.addresses) // columns
    each = -(-inner // 2) if half else inner
    packed = room(name, lib.dtype, lib.vectors(units, columns) * outer * each * lib.VL)
    stride = blocks.weight.stride(0)
    lib.pack_weights(
        packed.data_ptr(),
        blocks.addresses,
        columns=columns,
        outer=outer,
        inner=inner,
        units=units,
        unit_stride=1 if transposed else stride,
        k_stride=stride if transposed else 1,
        half=half,
    )
    return packed


def pack_forward(plan: Plan, weights: Weights, sizes: Sizes, lib: Library, room: Room) -> Packed:
    """Pack what the forward kernel reads."""
    equation = plan.equation
    buffers: dict[str, Tensor] = {}
    if names := used_inputs(equation):
        blocks = inputs_of(equation, weights, names)
        buffers["w_x"] = pack(
            lib,
            blocks,
            columns=len(names),
            units=sizes.H,
            inner=sizes.D,
            transposed=False,
            room=room,
            name="w_x",
            half=sizes.half,
        )
    for number, stage in enumerate(plan.stages):
        for index, product in enumerate(stage.products):
            blocks = recurrent_of(equation, weights, [gate for (gate,) in product.sources])
            size, inner = sizes.of(product.dim), sizes.of(product.operand.dim)
            name = f"w_{number}_{index}"
            buffers[name] = pack(
                lib,
                blocks,
                columns=len(product.sources),
                units=size,
                inner=inner,
                transposed=False,
                room=room,
                name=name,
                half=sizes.half,
            )
    # numpy: on so few numbers torch's operators cost more than the work
    gates, width = len(equation.gates), sizes.padded(UNITS)
    count = gates + len(equation.recurrent) + len(equation.units)
    small = lasting("small", lib.dtype, count * width)
    table = small.numpy().reshape(count, width)
    table[:] = 0
    if weights.bias_ih is not None:
        table[:gates, : sizes.H] = weights.bias_ih.detach().numpy().reshape(-1, sizes.H)
    if weights.bias_hh is not None:
        table[gates : gates + len(equation.recurrent), : sizes.H] = (
            weights.bias_hh.detach().numpy().reshape(-1, sizes.H)
        )
        for name in plan.folded_gates:
            table[equation.gates.index(name)] += table[gates + equation.recurrent.index(name)]
    if weights.units is not None:
        table[count - len(equation.units) :, : sizes.H] = weights.units.detach().numpy()
    row = width * lib.dtype.itemsize
    packed = _packed(buffers, small)
    packed.words["bias_x"] = small.data_ptr()
    packed.words["bias_u"] = small.data_ptr() + gates * row
    packed.words["units"] = small.data_ptr() + (count - len(equation.units)) * row
    return packed


def pack_backward(plan: Plan, weights: Weights, sizes: Sizes, lib: Library, room: Room) -> Packed:
    """Pack what the backward kernel reads."""
    buffers: dict[str, Tensor] = {}
    for number, stage in enumerate(plan.stages):
        for index, product in enumerate(stage.products):
            blocks = recurrent_of(plan.equation, weights, product.sources[0])
            size, inner = sizes.of(product.dim), sizes.of(product.operand.dim)
            name = f"v_{number}_{index}"
            buffers[f"w_{number}_{index}"] = pack(
                lib, blocks, columns=1, units=size, inner=inner, transposed=True, room=room, name=name
            )
    if weights.units is not None:
        buffers["units"] = _padded(weights.units, sizes.padded(UNITS))
    return _packed(buffers)


def pack_inputs(plan: Plan, weights: Weights, sizes: Sizes, lib: Library, room: Room) -> Tensor:
    """Pack what the gradient of the inputs is made with."""
    assert plan.gradients is not None
    blocks = inputs_of(plan.equation, weights, plan.gradients.inputs[1])
    return pack(lib, blocks, columns=1, units=sizes.D, inner=sizes.H, transposed=True, room=room, name="inputs")


def _padded(value: Tensor, width: int) -> Tensor:
    result = torch.zeros(len(value), width, dtype=value.dtype)
    result[:, : value.shape[1]] = value
    return result


def _packed(buffers: dict[str, Tensor], *more: Tensor) -> Packed:
    return Packed({name: buffer.data_ptr() for name, buffer in buffers.items()}, (*buffers.values(), *more))


class _Seen(NamedTuple):
    """A weight as it was when it was packed; `sample` are some of its numbers, `view` where they are now."""

    weight: "weakref.ref[Tensor]"
    version: int
    address: int
    view: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"
    sample: bytes

    def unchanged(self, weight: Tensor | None) -> bool:
        """Whether `weight` is this one and still the same."""
        return (
            weight is not None
            and self.weight() is weight
            and weight._version == self.version
            and weight.data_ptr() == self.address
            # `weight.data` can be written to without the version telling
            and self.view.tobytes() == self.sample
        )


_kept: dict[tuple[int, str, torch.dtype, bool], tuple[tuple[_Seen | None, ...], Packed]] = {}


def packed_for_inference(plan: Plan, weights: Weights, sizes: Sizes, lib: Library) -> Packed:
    """Return `pack_forward` of the weights, that of the last call if they are the same and unchanged."""
    key = (id(weights.ih), plan.equation.text, lib.dtype, sizes.half)
    kept = _kept.get(key)
    if kept is not None:
        for weight, seen in zip(weights, kept[0], strict=True):
            if weight is not None if seen is None else not seen.unchanged(weight):
                break
        else:
            return kept[1]
    packed = pack_forward(plan, weights, sizes, lib, lasting)
    # inference tensors have no version, and of others a sample cannot be looked at in place
    if all(w is None or (not w.is_inference() and w.is_contiguous()) for w in weights):
        _kept[key] = tuple(None if w is None else _see(w, key) for w in weights), packed
    return packed


def _see(weight: Tensor, key: tuple[int, str, torch.dtype, bool]) -> _Seen:
    flat = weight.detach().numpy().reshape(-1)
    view = flat[:: max(1, flat.size // 61)]
    forget = weakref.ref(weight, lambda _: _kept.pop(key, None) and None)
    return _Seen(forget, weight._version, weight.data_ptr(), view, view.tobytes())
