"""Matrix products of rows with packed weights, in tiles that stay in registers: what all kernels spend their time in.

Weights are packed in blocks of `Tiling.columns` vectors: block b lies `columns * K * lanes` elements after the one
before, and holds for each of the K steps its vectors side by side. Every element of a product is one chain of
multiply-adds over k = 0, 1, ..., K - 1 from 0, so that its bits do not depend on the tile that it fell into.

Where the processor multiplies pairs of bfloat16 the same tiles are made a second time: a step is then a pair of k,
which takes the 4 bytes of a float32, and rows are rounded to pairs on the stack before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from recur.compiler.ir import Function, Module
from recur.compiler.vectormath import Real

# more rows than this take their blocks of weights one by one
_FEW_ROWS = 3
_MOST_SUMS = 24
_MOST_BLOCKS = 6


@dataclass(frozen=True)
class Tiling:
    """How products are cut up for a processor: `kind` of its vectors, and its number of vector `registers`."""

    kind: Real
    registers: int

    @property
    def columns(self) -> int:
        """Vectors in a block of weights."""
        return 4 if self.registers >= 32 else 2

    @property
    def rows(self) -> int:
        """Most rows of a tile."""
        return max(rows for rows in range(1, self.registers) if self.fits(rows, self.columns))

    def fits(self, rows: int, vectors: int) -> bool:
        """Whether the sums, the smaller side and one element of the other side have registers; else time doubles."""
        return rows * vectors + min(rows, vectors) + 1 <= self.registers

    def blocks(self, rows: int) -> int:
        """Return how many blocks a tile of `rows` rows spans: a few rows of one block do not keep the adders busy."""
        if rows > _FEW_ROWS:
            return 1
        return max(n for n in range(1, _MOST_BLOCKS + 1) if n == 1 or self._fits_few(rows, n * self.columns))

    def tiles(self) -> Iterator[tuple[int, int, int]]:
        """Yield (rows, whole blocks, vectors of the last, smaller block) of all tiles."""
        for rows in range(1, self.rows + 1):
            yield rows, 1, 0
            for rest in range(1, self.columns):
                yield rows, 0, rest
            if rows <= _FEW_ROWS:
                for blocks in range(1, self.blocks(rows) + 1):
                    for rest in range(self.columns):
                        if (blocks, rest) != (1, 0) and self._fits_few(rows, blocks * self.columns + rest):
                            yield rows, blocks, rest

    def _fits_few(self, rows: int, vectors: int) -> bool:
        return self.fits(rows, vectors) and rows * vectors <= _MOST_SUMS

    def slot(self, rows: int, blocks: int, rest: int) -> int:
        """Return where the table of tiles has this one; null where there is none."""
        return ((rows - 1) * (_MOST_BLOCKS + 1) + blocks) * self.columns + rest


# ptr %out, i64 %out_stride, ptr %w, i64 %block: elements from block to block, ptr %rows, i64 %outer, i64 %outer_stride,
# i64 %inner, i64 %step: elements from k to k + 1 in a row
_TILE = "ptr %out, i64 %out_stride, ptr %w, i64 %block, ptr %rows, i64 %outer, i64 %outer_stride, i64 %inner, i64 %step"
# of pairs, i64 %done: steps whose sums are in %out already, to be added to
_TILE_PAIRS = f"{_TILE}, i64 %done"

# the pairs of bfloat16 of some rows on the stack, and how many rows that can be
_PAIRS_ROOM = 1 << 14
_PAIRS_ROWS = 64
_ZEROS = "@zeros"


def add_products(module: Module, tiling: Tiling) -> None:
    """Add the function `product`, its tiles, and `strip` behind it, which can step through rows by more than 1."""
    _add_tiles(module, tiling, False)
    _add_strip(module, tiling, False)
    f = module.function(
        "product",
        "ptr %out, i64 %out_stride, ptr %w, i64 %vectors, ptr %rows, i64 %count, i64 %outer, i64 %outer_stride,"
        " i64 %inner",
    )
    f.do(
        "call void @strip(ptr %out, i64 %out_stride, ptr %w, i64 %vectors, ptr %rows, i64 %count, i64 %outer,"
        " i64 %outer_stride, i64 %inner, i64 1)"
    )
    f.close()


def add_products_bf16(module: Module, tiling: Tiling) -> None:
    """Add the function `product_bf16`: `product` with the weights of `recur.compiler.packing.add_pack_bf16`.

    Rows are float32 in memory and bfloat16 in the products, which are summed up in float32. Rows that are too long for
    the stack are taken in pieces: sums wait in `out`. The module has `round` from `add_pack_bf16` too.
    """
    kind = tiling.kind
    widest = max(blocks * tiling.columns + rest for _, blocks, rest in tiling.tiles())
    module.add(f"{_ZEROS} = internal constant [{widest * kind.lanes} x {kind.name}] zeroinitializer")
    _add_tiles(module, tiling, True)
    _add_strip(module, tiling, True)
    f = module.function(
        "product_bf16",
        "ptr %out, i64 %out_stride, ptr %w, i64 %vectors, ptr %rows, i64 %count, i64 %outer, i64 %outer_stride,"
        " i64 %inner",
    )
    buffer = f.let(f"alloca [{_PAIRS_ROOM} x i32], align 64")
    table = f.let(f"alloca [{_PAIRS_ROWS} x ptr], align 64")
    half = f.let(f"sdiv i64 {f.add('%inner', '1')}, 2")
    steps = f.mul("%outer", half)
    some = f.maximum(half, "1")
    most = f.maximum(_balanced(f, "%count", str(_PAIRS_ROWS)), "1")
    with f.loop("0", "%count", most) as g:
        size = f.minimum(f.sub("%count", g.index), most)
        # whole parts of the rows where there is room, else pieces of one; what is behind a row keeps rows from
        # falling on the same sets of the cache, and the last vector of a row may be written whole
        room = f.let(f"udiv i64 {_PAIRS_ROOM}, {size}")
        room = f.sub(f.let(f"and i64 {room}, {-kind.lanes}"), str(kind.lanes))
        parts = f.maximum(f.let(f"udiv i64 {room}, {some}"), "1")
        # of which each but the last ends with a whole vector
        piece = f.let(f"and i64 {f.add(_balanced(f, some, room), str(kind.lanes - 1))}, {-kind.lanes}")
        source = f.at("%rows", g.index, "ptr")
        out = f.at("%out", f.mul(g.index, "%out_stride"), kind.name)
        with f.loop("0", f.maximum("%outer", "1"), parts) as o, f.loop("0", some, piece) as k:
            width = f.minimum(parts, f.sub("%outer", o.index))
            length = f.minimum(piece, f.sub(half, k.index))
            each = f.mul(width, length)
            stride = f.let(f"and i64 {f.add(each, str(2 * kind.lanes - 1))}, {-kind.lanes}")
            first = f.let(f"shl i64 {k.index}, 1")
            numbers = f.minimum(f.let(f"shl i64 {length}, 1"), f.sub("%inner", first))
            with f.loop("0", size) as r:
                row = f.load("ptr", f.at(source, r.index, "ptr"))
                pairs = f.at(buffer, f.mul(r.index, stride), "i32")
                f.store("ptr", pairs, f.at(table, r.index, "ptr"))
                with f.loop("0", width) as p:
                    at = f.add(f.mul(f.add(o.index, p.index), "%outer_stride"), first)
                    to = f.at(pairs, f.mul(p.index, length), "i32")
                    f.do(f"call void @round(ptr {to}, ptr {f.at(row, at, kind.name)}, i64 {numbers})")
                    p.next()
                r.next()
            done = f.add(f.mul(o.index, half), k.index)
            f.do(
                f"call void @strip_bf16(ptr {out}, i64 %out_stride, ptr %w, i64 %vectors, ptr {table}, i64 {size},"
                f" i64 1, i64 0, i64 {each}, i64 1, i64 {steps}, i64 {done})"
            )
            k.next()
            o.next()
        g.next()
    f.close()


def _balanced(f: Function, count: str, most: str) -> str:
    """Return the size of the largest of as few parts as `count` things have, of `most` at most."""
    parts = f.let(f"sdiv i64 {f.sub(f.add(count, most), '1')}, {most}")
    parts = f.maximum(parts, "1")
    return f.let(f"sdiv i64 {f.sub(f.add(count, parts), '1')}, {parts}")


def _name(rows: int, blocks: int, rest: int, pairs: bool) -> str:
    return f"tile_{rows}_{blocks}_{rest}{'_bf16' * pairs}"


def _add_tiles(module: Module, tiling: Tiling, pairs: bool) -> None:
    """Add all tiles, and the table of them."""
    for tile in tiling.tiles():
        _add_tile(module, tiling, *tile, pairs)
    have = {tiling.slot(*tile): _name(*tile, pairs) for tile in tiling.tiles()}
    size = tiling.slot(tiling.rows + 1, 0, 0)
    entries = ", ".join(f"ptr @{have[n]}" if n in have else "ptr null" for n in range(size))
    module.add(f"@tiles{'_bf16' * pairs} = internal constant [{size} x ptr] [{entries}]")


def _add_tile(module: Module, tiling: Tiling, rows: int, blocks: int, rest: int, pairs: bool) -> None:
    """Add the product of `rows` rows with so many blocks and vectors."""
    kind, vl = tiling.kind, tiling.kind.lanes
    widths = [tiling.columns] * blocks + [rest] * (rest > 0)
    columns = [(b, v) for b, width in enumerate(widths) for v in range(width)]
    f = module.function(_name(rows, blocks, rest, pairs), _TILE_PAIRS if pairs else _TILE, internal=True)
    row = [f.load("ptr", f.at("%rows", str(r), "ptr")) for r in range(rows)]
    starts = ["%w"]
    for _ in widths[1:]:
        starts.append(f.at(starts[-1], "%block", kind.name))
    sums = [(kind.vector, "zeroinitializer")] * (rows * len(columns))
    if pairs:
        starts = [f.at(p, f.mul("%done", str(w * vl)), kind.name) for p, w in zip(starts, widths, strict=True)]
        fresh = f.let("icmp eq i64 %done, 0")
        before = f.let(f"select i1 {fresh}, ptr {_ZEROS}, ptr %out")
        stride = f.let(f"select i1 {fresh}, i64 0, i64 %out_stride")
        for r in range(rows):
            old = f.at(before, f.mul(str(r), stride) if r else "0", kind.name)
            for n in range(len(columns)):
                value = f.load(kind.vector, f.at(old, str(n * vl), kind.name), kind.bytes)
                sums[r * len(columns) + n] = (kind.vector, value)
    span = f.mul("%inner", "%step")
    with f.loop("0", "%outer", carried=[("i64", "0"), *(("ptr", s) for s in starts), *sums]) as outer:
        first, *state = outer.values
        types = ["ptr"] * len(starts) + [kind.vector] * len(sums)
        with f.loop(first, f.add(first, span), "%step", carried=list(zip(types, state, strict=True))) as inner:
            at, total = inner.values[: len(starts)], inner.values[len(starts) :]
            total = _step(f, kind, pairs, [f.at(p, inner.index, kind.name) for p in row], at, columns, total)
            inner.next(*(f.at(p, str(w * vl), kind.name) for p, w in zip(at, widths, strict=True)), *total)
        outer.next(f.add(first, "%outer_stride"), *inner.results)
    total = outer.results[1 + len(starts) :]
    for r in range(rows):
        out = f.at("%out", f.mul(str(r), "%out_stride") if r else "0", kind.name)
        for n in range(len(columns)):
            f.store(kind.vector, total[r * len(columns) + n], f.at(out, str(n * vl), kind.name), kind.bytes)
    f.close()


def _step(
    f: Function,
    kind: Real,
    pairs: bool,
    row: list[str],
    at: list[str],
    columns: list[tuple[int, int]],
    total: list[str],
) -> list[str]:
    """Add one k to all sums; the side with fewer vectors is loaded first, the other streams past it."""

    def weights(n: int) -> str:
        block, v = columns[n]
        return f.load(kind.vector, f.at(at[block], str(v * kind.lanes), kind.name), kind.bytes)

    def spread(r: int) -> str:
        return kind.broadcast(f, f.load(kind.name, row[r], kind.bytes))

    def add(held: str, streamed: str, to: str) -> str:
        return _add_pairs(f, kind, held, streamed, to) if pairs else kind.fma(f, streamed, held, to)

    total = list(total)
    # the one weight of a tile is read by the instruction: LLVM swaps the sides of a multiply-add, but not of pairs
    if len(columns) <= len(row) and not (pairs and len(row) == 1):
        held = [weights(n) for n in range(len(columns))]
        for r in range(len(row)):
            x = spread(r)
            for n, w in enumerate(held):
                total[r * len(columns) + n] = add(w, x, total[r * len(columns) + n])
    else:
        held = [spread(r) for r in range(len(row))]
        for n in range(len(columns)):
            w = weights(n)
            for r, x in enumerate(held):
                total[r * len(columns) + n] = add(x, w, total[r * len(columns) + n])
    return total


def _add_pairs(f: Function, kind: Real, held: str, streamed: str, to: str) -> str:
    """Add the products of two vectors of pairs; what is streamed can be read by the instruction itself."""
    name = f"@llvm.x86.avx512bf16.dpbf16ps.{8 * kind.size}"
    pairs = f"<{2 * kind.lanes} x bfloat>"
    f.module.declare(f"declare {kind.vector} {name}({kind.vector}, {pairs}, {pairs})")
    a, b = (f.let(f"bitcast {kind.vector} {value} to {pairs}") for value in (held, streamed))
    return f.let(f"call {kind.vector} {name}({kind.vector} {to}, {pairs} {a}, {pairs} {b})")


def _add_strip(module: Module, tiling: Tiling, pairs: bool) -> None:
    """Add `strip`: `product` with the step of the rows as its last argument.

    Blocks of weights are the outer loop, rows in balanced groups the inner one: the block stays in the cache.
    Of pairs there are two arguments more: the steps of the packed weights, and those that are done already.
    """
    f = module.function(
        f"strip{'_bf16' * pairs}",
        "ptr %out, i64 %out_stride, ptr %w, i64 %vectors, ptr %rows, i64 %count, i64 %outer, i64 %outer_stride,"
        f" i64 %inner, i64 %step{', i64 %steps, i64 %done' * pairs}",
        internal=True,
    )
    any_rows = f.let("icmp sgt i64 %count, 0")
    with f.when(any_rows):
        _write_strip(f, tiling, pairs)
    f.close()


def _write_strip(f: Function, tiling: Tiling, pairs: bool) -> None:
    kind, nc, mr = tiling.kind, tiling.columns, tiling.rows
    tiles = f"@tiles{'_bf16' * pairs}"
    block = f.mul("%steps" if pairs else f.mul("%outer", "%inner"), str(nc * kind.lanes))
    # groups of rows: 32 = 6 + 6 + 5 + 5 + 5 + 5
    parts = f.let(f"udiv i64 {f.add('%count', str(mr - 1))}, {mr}")
    low = f.let(f"udiv i64 %count, {parts}")
    taller = f.let(f"urem i64 %count, {parts}")
    # groups of blocks, as many as `Tiling.blocks` says
    widest = "1"
    for rows in range(_FEW_ROWS, 0, -1):
        few = f.let(f"icmp eq i64 %count, {rows}")
        widest = f.let(f"select i1 {few}, i64 {tiling.blocks(rows)}, i64 {widest}")
    whole = f.let(f"udiv i64 %vectors, {nc}")
    rest = f.let(f"urem i64 %vectors, {nc}")
    spans = f.let(f"udiv i64 {f.sub(f.add(whole, widest), '1')}, {widest}")
    some = f.let(f"icmp ugt i64 {spans}, 1")
    divisor = f.let(f"select i1 {some}, i64 {spans}, i64 1")
    short = f.let(f"udiv i64 {whole}, {divisor}")
    wider = f.let(f"urem i64 {whole}, {divisor}")
    # the smaller block at the end joins the last group where there is a tile for both, and only with a few rows
    slot = f.add(f.mul(f.sub(low, "1"), str((_MOST_BLOCKS + 1) * nc)), f.add(f.mul(short, str(nc)), rest))
    joint = f.load("ptr", f.at(tiles, slot, "ptr"))
    joins = f.let(f"icmp ne ptr {joint}, null")
    single = f.let(f"icmp ule i64 %count, {_FEW_ROWS}")
    joins = f.let(f"and i1 {joins}, {single}")
    rounds = f.let(f"select i1 {joins}, i64 {divisor}, i64 {f.add(spans, '1')}")
    with f.loop("0", rounds, carried=[("ptr", "%w"), ("ptr", "%out")]) as g:
        w, out = g.values
        more = f.let(f"icmp ult i64 {g.index}, {wider}")
        blocks = f.add(short, f.let(f"zext i1 {more} to i64"))
        over = f.let(f"icmp uge i64 {g.index}, {spans}")
        blocks = f.let(f"select i1 {over}, i64 0, i64 {blocks}")
        last = f.let(f"icmp eq i64 {g.index}, {f.sub(rounds, '1')}")
        own = f.let(f"select i1 {last}, i64 {rest}, i64 0")
        column = f.add(f.mul(blocks, str(nc)), own)
        any_ = f.let(f"icmp ne i64 {column}, 0")
        height = f.let(f"select i1 {any_}, i64 {parts}, i64 0")
        with f.loop("0", height, carried=[("ptr", "%rows"), ("ptr", out)]) as r:
            row, target = r.values
            tall = f.let(f"icmp ult i64 {r.index}, {taller}")
            size = f.add(low, f.let(f"zext i1 {tall} to i64"))
            slot = f.add(f.mul(f.sub(size, "1"), str((_MOST_BLOCKS + 1) * nc)), column)
            tile = f.load("ptr", f.at(tiles, slot, "ptr"))
            f.do(
                f"call void {tile}(ptr {target}, i64 %out_stride, ptr {w}, i64 {block}, ptr {row}, i64 %outer,"
                f" i64 %outer_stride, i64 %inner, i64 %step{', i64 %done' * pairs})"
            )
            r.next(f.at(row, size, "ptr"), f.at(target, f.mul(size, "%out_stride"), kind.name))
        g.next(f.at(w, f.mul(blocks, block), kind.name), f.at(out, f.mul(blocks, str(nc * kind.lanes)), kind.name))
