"""The compiled functions that every kernel calls: matrix products, packing of weights, sums of outer products.

One module for a dtype and a processor, compiled at the first use and kept on disk by `recur.compiler.machine`.
"""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch

from recur.compiler import machine, threads
from recur.compiler.gemm import RowsArgs, add_gemm_rows, rows_workspace
from recur.compiler.ir import Module
from recur.compiler.outer import OuterArgs, add_gemm_tn, outer_workspace
from recur.compiler.packing import add_pack, add_pack_bf16
from recur.compiler.target import Target, host
from recur.compiler.tiles import Tiling, add_products, add_products_bf16
from recur.compiler.vectormath import Real

__all__ = ["Library", "OuterArgs", "RowsArgs", "library"]

_FUNCTIONS = ("product", "pack", "gemm_rows", "gemm_tn")
_HALF = ("product_bf16", "pack_bf16")


def library(dtype: torch.dtype, target: Target | None = None) -> "Library":
    """Return the functions for float32 or float64, by default for this processor.

    Raises:
        NotCompilable: machine code cannot be made or loaded here.
    """
    return _library(dtype, target or host())


@dataclass(frozen=True)
class Library:
    """Addresses of the functions for one dtype, and the layout that they expect."""

    dtype: torch.dtype
    """float32 or float64."""
    VL: int
    """Numbers in a vector."""
    NC: int
    """Vectors in a block of packed weights."""
    MR: int
    """Rows of the tallest tile."""
    product: int
    """Rows times packed weights.

    `void (ptr out, i64 out_stride, ptr w, i64 vectors, ptr rows, i64 count, i64 outer, i64 outer_stride, i64 inner)`:
    `out[r * out_stride + v * VL + lane]` is the sum over o and k, in this order, of
    `rows[r][o * outer_stride + k] * w(v, o * inner + k, lane)`. `rows` holds pointers.
    """
    pack: int
    """Weights into blocks, those from `first` to before `last`.

    `void (ptr dst, ptr sources, i64 columns, i64 outer, i64 inner, i64 units, i64 unit_stride, i64 k_stride, i64 first,
    i64 last)`, see `recur.compiler.packing.add_pack`.
    """

    gemm_rows: int
    """Pool function: rows times packed weights to anywhere, `recur.compiler.gemm.RowsArgs`."""
    gemm_tn: int
    """Pool function: sums of outer products of rows, `recur.compiler.outer.OuterArgs`."""
    tiling: Tiling
    """How products are cut up."""
    target: Target
    """The processor."""

    @property
    def product_bf16(self) -> int:
        """`product` with weights of bfloat16 from `pack_bf16`: rows are rounded to bfloat16, sums are float32.

        0 for float64, and where the processor has no AVX512_BF16. Denormal numbers are zero.
        """
        return _half(self.target)["product_bf16"] if _has_half(self.dtype, self.target) else 0

    @property
    def pack_bf16(self) -> int:
        """`pack` of float32 to bfloat16, see `recur.compiler.packing.add_pack_bf16`; 0 where `product_bf16` is."""
        return _half(self.target)["pack_bf16"] if _has_half(self.dtype, self.target) else 0

    def vectors(self, units: int, columns: int = 1) -> int:
        """Return how many vectors the packed weights of `columns` matrices [units, K] have."""
        return -(-units // self.VL) * columns

    def blocks(self, vectors: int) -> int:
        """Return how many blocks so many vectors fill."""
        return -(-vectors // self.NC)

    def half_size(self, units: int, columns: int, outer: int, inner: int) -> int:
        """Return how many elements of 4 bytes, pairs of bfloat16, packed weights take with `half`."""
        return self.vectors(units, columns) * outer * -(-inner // 2) * self.VL

    def pack_weights(
        self,
        destination: int,
        sources: list[int],
        *,
        columns: int,
        outer: int,
        inner: int,
        units: int,
        unit_stride: int,
        k_stride: int,
        half: bool = False,
    ) -> None:
        """Pack matrices at the addresses `sources` (`columns * outer` of them) to `destination`.

        That takes `vectors(units, columns) * outer * inner * VL` numbers; with `half`, for `product_bf16`, as many
        4-byte elements as `half_size` says.
        """
        function = self.pack_bf16 if half else self.pack
        if not function:
            raise ValueError("`half` needs float32 and a processor with AVX512_BF16")
        pointers = (ctypes.c_int64 * len(sources))(*sources)
        last = self.blocks(self.vectors(units, columns))
        _packer(function)(
            destination, ctypes.addressof(pointers), columns, outer, inner, units, unit_stride, k_stride, 0, last
        )

    def rows_workspace(self, threads: int) -> int:
        """Return how many bytes `gemm_rows` needs."""
        return _rows_workspace(self.tiling, threads)

    def outer_workspace(self, threads: int, n: int) -> int:
        """Return how many bytes `gemm_tn` needs for N = n."""
        return _outer_workspace(self.tiling, threads, n)

    def run_rows(self, arguments: dict[RowsArgs, int], count: int = 1) -> None:
        """Run `gemm_rows` on `count` threads; what is not named is 0."""
        _run(self.gemm_rows, [arguments.get(name, 0) for name in _ROWS], count)

    def run_tn(self, arguments: dict[OuterArgs, int], count: int = 1) -> None:
        """Run `gemm_tn` on `count` threads; what is not named is 0."""
        _run(self.gemm_tn, [arguments.get(name, 0) for name in _OUTER], count)


# more than the calls would take
_rows_workspace, _outer_workspace = lru_cache(rows_workspace), lru_cache(outer_workspace)
# iterating over an enumeration takes longer than the call
_ROWS, _OUTER = tuple(RowsArgs), tuple(OuterArgs)


def _run(function: int, arguments: list[int], count: int) -> None:
    array = (ctypes.c_int64 * len(arguments))(*arguments)
    threads.run(function, ctypes.addressof(array), count)


_PACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 8)
_packer = lru_cache(_PACK)


def tiling(dtype: torch.dtype, target: Target) -> Tiling:
    """Return how products of this dtype are cut up for a processor."""
    kind = Real("float" if dtype == torch.float32 else "double", target.lanes(dtype))
    # SSE has no multiply-add: the product needs a register too
    fused = target.vector_bytes > 16 or target.architecture != "x86_64"
    return Tiling(kind, target.registers if fused else target.registers - 1)


def library_ir(dtype: torch.dtype, target: Target) -> str:
    """Return the module as LLVM assembly."""
    module = Module()
    cut = tiling(dtype, target)
    add_products(module, cut)
    add_pack(module, cut)
    add_gemm_rows(module, cut, target)
    add_gemm_tn(module, cut, target)
    return module.text


def half_ir(target: Target) -> str:
    """Return the module of what works on bfloat16 weights."""
    module = Module()
    cut = tiling(torch.float32, target)
    add_pack_bf16(module, cut)
    add_products_bf16(module, cut)
    return module.text


def _has_half(dtype: torch.dtype, target: Target) -> bool:
    return dtype == torch.float32 and target.has_bf16 and target.vector_bytes == 64


@lru_cache
def _library(dtype: torch.dtype, target: Target) -> Library:
    with machine.quick():
        addresses = machine.load(library_ir(dtype, target), _FUNCTIONS, target)
    cut = tiling(dtype, target)
    return Library(dtype=dtype, VL=cut.kind.lanes, NC=cut.columns, MR=cut.rows, tiling=cut, target=target, **addresses)


@lru_cache
def _half(target: Target) -> dict[str, int]:
    # a module of its own: few ask for it, and it would double the time of the first call
    with machine.quick():
        return machine.load(half_ir(target), _HALF, target)
