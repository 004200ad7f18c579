"""Rows times packed weights for a whole sequence, to anywhere: gradients of the inputs.

A pool function `void (ptr args, i64 tid, i64 nt, ptr team)`, whose `args` is an array of int64 in the order of
`RowsArgs` (strides and offsets in elements), and whose result has the same bits for any number of threads.
"""

from enum import IntEnum

from recur.compiler.controls import flush_off, flush_on
from recur.compiler.ir import Function, Module
from recur.compiler.packing import lanes_below, masked_load, masked_store
from recur.compiler.target import Target
from recur.compiler.tiles import Tiling


class RowsArgs(IntEnum):
    """Arguments of `gemm_rows`: out[q][n] = sum over k of A[q][k] w[n][k]."""

    OUT = 0
    """Address of the result."""
    OUT_OFFSETS = 1
    """Address of an i64 for each row, where in `OUT` it starts; 0: row q starts at q * `OUT_STRIDE`."""
    OUT_STRIDE = 2
    """From row to row of the result."""
    N = 3
    """Columns of the result; nothing is written beyond them."""
    A = 4
    """Address of the rows."""
    A_STRIDE = 5
    """From row to row."""
    COUNT = 6
    """How many rows."""
    OUTER = 7
    """A row is so many parts."""
    OUTER_STRIDE = 8
    """From part to part."""
    INNER = 9
    """Of so many numbers each: K = outer * inner."""
    W = 10
    """Address of the packed weights, columns = 1 and units = N."""
    ADD = 11
    """1: the sums are added to what is there. 0: they replace it."""
    WORKSPACE = 12
    """Address of `rows_workspace` bytes, aligned to 64."""


# rows whose sums wait in the cache to be written out
SCRATCH_ROWS = 48
# bytes of rows that stay in the second-level cache while all weights pass
_ROWS_BYTES = 256 << 10


def rows_workspace(tiling: Tiling, threads: int) -> int:
    """Return how many bytes `gemm_rows` needs."""
    return _rows_part(tiling) * threads


def add_gemm_rows(module: Module, tiling: Tiling, target: Target) -> None:
    """Add `gemm_rows`, and `put` behind it; the module has `strip` already."""
    _add_put(module, tiling)
    _add_gemm_rows(module, tiling, target)


def _rows_part(tiling: Tiling) -> int:
    """Bytes of a thread: sums of a block, then addresses of rows and of where they go."""
    return SCRATCH_ROWS * (tiling.columns * tiling.kind.size + 2 * 8)


def arguments(f: Function, names: type[IntEnum]) -> dict[int, str]:
    """Load the arguments; those that are addresses only are pointers."""
    pointers = {"OUT", "A", "W", "WORKSPACE", "A_OFFSETS", "B", "C", "C_OFFSETS", "BIAS", "BIAS_OFFSETS"}
    return {int(n): f.load("ptr" if n.name in pointers else "i64", f.at("%args", str(int(n)), "i64")) for n in names}


def share(f: Function, count: str, part: str, parts: str) -> str:
    """Return where a part of `count` things starts."""
    return f.let(f"sdiv i64 {f.mul(count, part)}, {parts}")


def ceiling(f: Function, count: str, size: int | str) -> str:
    """Return how many groups of `size` hold `count` things."""
    return f.let(f"sdiv i64 {f.sub(f.add(count, str(size)), '1')}, {size}")


def offset_of(f: Function, table: str, index: str, stride: str) -> str:
    """Return `table[index]`, or `index * stride` where the table is 0."""
    none = f.let(f"icmp eq i64 {table}, 0")
    where = f.let(f"inttoptr i64 {table} to ptr")
    # where there is no table something else is read, and dropped
    where = f.let(f"select i1 {none}, ptr %args, ptr {f.at(where, index, 'i64')}")
    return f.let(f"select i1 {none}, i64 {f.mul(index, stride)}, i64 {f.load('i64', where)}")


def _add_put(module: Module, tiling: Tiling) -> None:
    """Add `put`: move sums of a block to `columns` numbers at each of the addresses `to`, or add them there."""
    kind, nc = tiling.kind, tiling.columns
    vl = kind.lanes
    f = module.function("put", "ptr %sums, ptr %to, i64 %first, i64 %count, i64 %columns, i64 %add", internal=True)
    adds = f.let("icmp ne i64 %add, 0")
    whole = f.let(f"icmp sge i64 %columns, {nc * vl}")
    for adding in (True, False):
        plain = f.let(f"and i1 {whole}, {adds if adding else f.let(f'xor i1 {adds}, true')}")
        with f.loop("0", f.let(f"select i1 {plain}, i64 %count, i64 0")) as r:
            target = f.at(f.load("ptr", f.at("%to", r.index, "ptr")), "%first", kind.name)
            source = f.at("%sums", f.mul(r.index, str(nc * vl)), kind.name)
            for v in range(nc):
                value = f.load(kind.vector, f.at(source, str(v * vl), kind.name), kind.bytes)
                at = f.at(target, str(v * vl), kind.name)
                if adding:
                    value = kind.op(f, "fadd", f.load(kind.vector, at, kind.bytes), value)
                f.store(kind.vector, value, at, kind.bytes)
            r.next()
    with f.loop("0", f.let(f"select i1 {whole}, i64 0, i64 %columns"), str(vl)) as c:
        mask = lanes_below(f, kind, f.minimum(f.sub("%columns", c.index), str(vl)))
        old = f.let(f"select i1 {adds}, {kind.mask} {mask}, {kind.mask} zeroinitializer")
        with f.loop("0", "%count") as r:
            target = f.at(f.load("ptr", f.at("%to", r.index, "ptr")), f.add("%first", c.index), kind.name)
            source = f.at("%sums", f.add(f.mul(r.index, str(nc * vl)), c.index), kind.name)
            value = f.load(kind.vector, source, kind.bytes)
            masked_store(f, kind, kind.op(f, "fadd", masked_load(f, kind, target, old), value), target, mask)
            r.next()
        c.next()
    f.close()


def call_strip(
    f: Function, tiling: Tiling, sums: str, w: str, vectors: str, rows: str, count: str, ks: list[str]
) -> None:
    """Multiply `count` rows with a block of weights; `ks` is outer, outer_stride, inner, step as in `add_products`."""
    width = tiling.columns * tiling.kind.lanes
    outer, outer_stride, inner, step = ks
    f.do(
        f"call void @strip(ptr {sums}, i64 {width}, ptr {w}, i64 {vectors}, ptr {rows}, i64 {count}, i64 {outer},"
        f" i64 {outer_stride}, i64 {inner}, i64 {step})"
    )


def _add_gemm_rows(module: Module, tiling: Tiling, target: Target) -> None:
    kind, nc = tiling.kind, tiling.columns
    width = nc * kind.lanes
    f = module.function("gemm_rows", "ptr %args, i64 %tid, i64 %nt, ptr %team")
    state = flush_on(f, target)
    a = arguments(f, RowsArgs)
    count, n, outer, inner = a[RowsArgs.COUNT], a[RowsArgs.N], a[RowsArgs.OUTER], a[RowsArgs.INNER]
    sums = f.at(a[RowsArgs.WORKSPACE], f.mul("%tid", str(_rows_part(tiling))))
    rows = f.at(sums, str(SCRATCH_ROWS * nc * kind.size))
    to = f.at(rows, str(SCRATCH_ROWS), "ptr")
    k = f.mul(outer, inner)
    block = f.mul(k, str(width))
    vectors = ceiling(f, n, kind.lanes)
    first = share(f, count, "%tid", "%nt")
    own = f.sub(share(f, count, f.add("%tid", "1"), "%nt"), first)
    # chunks of rows of about the same size, none so small that the weights are loaded for a few rows
    most = f.let(f"sdiv i64 {_ROWS_BYTES // kind.bytes}, {f.add(k, '1')}")
    most = f.minimum(f.maximum(most, str(4 * tiling.rows)), str(SCRATCH_ROWS))
    chunks = ceiling(f, own, most)
    with f.loop("0", chunks) as c:
        start = share(f, own, c.index, chunks)
        size = f.sub(share(f, own, f.add(c.index, "1"), chunks), start)
        with f.loop("0", size) as r:
            q = f.add(f.add(first, start), r.index)
            f.store("ptr", f.at(a[RowsArgs.A], f.mul(q, a[RowsArgs.A_STRIDE]), kind.name), f.at(rows, r.index, "ptr"))
            offset = offset_of(f, a[RowsArgs.OUT_OFFSETS], q, a[RowsArgs.OUT_STRIDE])
            f.store("ptr", f.at(a[RowsArgs.OUT], offset, kind.name), f.at(to, r.index, "ptr"))
            r.next()
        with f.loop("0", n, str(width), carried=[("ptr", a[RowsArgs.W]), ("i64", vectors)]) as b:
            w, left = b.values
            ks = [outer, a[RowsArgs.OUTER_STRIDE], inner, "1"]
            call_strip(f, tiling, sums, w, f.minimum(left, str(nc)), rows, size, ks)
            columns = f.sub(n, b.index)
            f.do(
                f"call void @put(ptr {sums}, ptr {to}, i64 {b.index}, i64 {size}, i64 {columns}, i64 {a[RowsArgs.ADD]})"
            )
            b.next(f.at(w, block, kind.name), f.sub(left, str(nc)))
        c.next()
    flush_off(f, target, state)
    f.close()
