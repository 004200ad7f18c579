"""What follows from the gradients of the pre-activations by matrix products alone: those of inputs and weights."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recur.compiler.gemm import RowsArgs
from recur.compiler.graph import unclipped
from recur.compiler.library import Library
from recur.compiler.outer import OuterArgs
from recur.compiler.plan import Plan
from recur.compiler.rows import Indices, Rows
from recur.compiler.weights import Sizes, Weights, pack_inputs


class Backward(NamedTuple):
    """The gradients of the pre-activations, `slots` [N, ...] in packed order, and what is needed to go on from them."""

    plan: Plan
    sizes: Sizes
    rows: Rows
    lib: Library
    given: Weights
    slots: Tensor
    threads: int
    workspace: Callable[[str, torch.dtype, int], Tensor]

    def inputs(self, d_x: Tensor) -> None:
        """Write the gradient of x [T, B, D] into `d_x`, which is zero where there is no step."""
        assert self.plan.gradients is not None
        first, gates = self.plan.gradients.inputs
        if not gates:
            d_x.zero_()
            return
        w = pack_inputs(self.plan, self.given, self.sizes, self.lib, self.workspace)
        offsets = None if self.rows.plain else self.rows.offsets(d_x)
        nt = self._threads(len(gates) * self.sizes.H * self.sizes.D)
        space = self._space(self.lib.rows_workspace(nt))
        self.lib.run_rows(
            {
                RowsArgs.OUT: d_x.data_ptr(),
                RowsArgs.OUT_OFFSETS: 0 if offsets is None else offsets.ctypes.data,
                RowsArgs.OUT_STRIDE: self.sizes.D,
                RowsArgs.N: self.sizes.D,
                RowsArgs.A: self._slot(first),
                RowsArgs.A_STRIDE: self.slots.stride(0),
                RowsArgs.COUNT: self.rows.total,
                RowsArgs.OUTER: len(gates),
                RowsArgs.OUTER_STRIDE: self.sizes.padded("H"),
                RowsArgs.INNER: self.sizes.H,
                RowsArgs.W: w.data_ptr(),
                RowsArgs.WORKSPACE: space.data_ptr(),
            },
            nt,
        )

    def weights(
        self,
        d: Weights,
        x: Tensor,
        y: Tensor,
        initial: Mapping[str, Tensor],
        states: Mapping[str, Tensor],
        kept: Tensor,
    ) -> None:
        """Add the gradients of the matrices and biases to `d`.

        Args:
            d: where they go.
            x: [T, B, D].
            y: the outputs [T, B, H].
            initial: initial states of the rows [R, H], by name.
            states: the other states after every step, packed.
            kept: the slots that the forward kept.
        """
        plan, rows, sizes = self.plan, self.rows, self.sizes
        assert plan.gradients is not None
        equation = plan.equation
        first, gates = plan.gradients.inputs
        numbers = [equation.gates.index(gate) for gate in gates]
        along = rows.plain and x.stride(0) == x.shape[1] * x.stride(1)
        offsets = None if along else rows.offsets(x)
        slots = list(range(first, first + len(gates)))
        self._outer(d.ih, d.bias_ih, slots, numbers, (x, x.stride(1), offsets))
        for argument, start, columns in plan.gradients.runs:
            if columns[0].gate:
                matrix, bias = d.hh, d.bias_hh
                targets = [equation.recurrent.index(column.gate) for column in columns]
            else:
                matrix, bias, targets = d.hr, None, [0]
            assert matrix is not None
            slots = list(range(start, start + len(columns)))
            before = unclipped(argument)
            if before.op != "state":
                place = sum(sizes.padded(node.dim) for node in plan.slots[: plan.slots.index(argument)])
                self._outer(matrix, bias, slots, targets, (kept[:, place:], kept.stride(0), None))
                continue
            after = y if before.name == "h" else states[before.name]
            value = initial[before.name]
            if value.data_ptr() % value.element_size():  # of a caller: it must be whole numbers away from `after`
                value = value.clone()
            source = self._before(value, after, before.name == "h")
            self._outer(matrix, bias, slots, targets, source)

    def _before(self, initial: Tensor, after: Tensor, outputs: bool) -> tuple[Tensor, int, Indices]:
        """Return where the state before each step lies: the initial one, or that after the step before."""
        rows, size = self.rows, after.element_size()
        first = (initial.data_ptr() - after.data_ptr()) // size + np.arange(rows.count) * initial.stride(0)
        others = rows.before(after) if outputs else rows.previous() * after.stride(0)
        return after, after.stride(-2), np.concatenate([first, others])

    def _outer(
        self,
        target: Tensor,
        bias: Tensor | None,
        slots: Sequence[int],
        numbers: Sequence[int],
        source: tuple[Tensor, int, Indices | None],
    ) -> None:
        """Add sums over packed positions of products of slots and source rows to the blocks `numbers` of `target`."""
        if len(set(numbers)) < len(numbers):  # one after the other where they meet in one block
            for slot, number in zip(slots, numbers, strict=True):
                self._outer(target, bias, [slot], [number], source)
            return
        if not slots:
            return
        values, stride, offsets = source
        size = self.sizes.of(self.plan.gradient_dims[slots[0]])
        width = target.shape[1]
        places, at = _places(tuple(self.plan.gradient_dims), self.sizes, tuple(slots), tuple(numbers), size, width)
        nt = self._threads(len(slots) * size * width)
        space = self._space(self.lib.outer_workspace(nt, width))
        self.lib.run_tn(
            {
                OuterArgs.COUNT: self.rows.total,
                OuterArgs.SLOTS: len(slots),
                OuterArgs.M: size,
                OuterArgs.N: width,
                OuterArgs.A: self._slot(0),
                OuterArgs.A_STRIDE: self.slots.stride(0),
                OuterArgs.A_OFFSETS: at,
                OuterArgs.B: values.data_ptr(),
                OuterArgs.B_STRIDE: stride,
                OuterArgs.B_OFFSETS: 0 if offsets is None else offsets.ctypes.data,
                OuterArgs.C: target.data_ptr(),
                OuterArgs.C_STRIDE: width,
                OuterArgs.C_OFFSETS: at + places.strides[0],
                OuterArgs.BIAS: 0 if bias is None else bias.data_ptr(),
                OuterArgs.BIAS_OFFSETS: at + 2 * places.strides[0],
                OuterArgs.WORKSPACE: space.data_ptr(),
            },
            nt,
        )

    def _offset(self, slot: int) -> int:
        return _offsets(tuple(self.plan.gradient_dims), self.sizes)[slot]

    def _slot(self, slot: int) -> int:
        return self.slots.data_ptr() + self._offset(slot) * self.slots.element_size()

    def _space(self, size: int) -> Tensor:
        return self.workspace("products", torch.float64, -(-size // 8))

    def _threads(self, multiplications: int) -> int:
        return self.threads if self.rows.total * multiplications > 1 << 18 else 1


@lru_cache(maxsize=256)
def _places(
    dims: tuple[str, ...], sizes: Sizes, slots: tuple[int, ...], numbers: tuple[int, ...], size: int, width: int
) -> tuple[Indices, int]:
    """Return where slots start, the blocks of their matrices and those of their biases, and the table's address."""
    offsets = _offsets(dims, sizes)
    blocks = [[offsets[slot] for slot in slots], [n * size * width for n in numbers], [n * size for n in numbers]]
    places = np.array(blocks, np.int64)
    return places, places.ctypes.data


@lru_cache(maxsize=256)
def _offsets(dims: tuple[str, ...], sizes: Sizes) -> list[int]:
    """Return where each slot starts, and where the last one ends."""
    return list(accumulate((sizes.padded(dim) for dim in dims), initial=0))
