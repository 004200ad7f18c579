"""Sums of outer products of rows, over a whole sequence: gradients of the weights.

A pool function like `gemm_rows`, with the arguments `OuterArgs`. Rows are packed a chunk at a time, and the tiles of
all products run over the chunk; chunks are added up in their order, whatever the number of threads.
"""

from enum import IntEnum

from recur.compiler.controls import flush_off, flush_on
from recur.compiler.gemm import SCRATCH_ROWS, arguments, call_strip, ceiling, offset_of, share
from recur.compiler.ir import Function, Module
from recur.compiler.packing import lanes_below, masked_load, masked_store
from recur.compiler.target import Target
from recur.compiler.tiles import Tiling
from recur.compiler.vectormath import Real


class OuterArgs(IntEnum):
    """Arguments of `gemm_tn`: C_s[m][n] += sum over q of A[q][a_offsets[s] + m] B[q][n], for S slots s."""

    COUNT = 0
    """How many rows q."""
    SLOTS = 1
    """S."""
    M = 2
    """Rows of each C_s, such as hidden units."""
    N = 3
    """Columns of each C_s."""
    A = 4
    """Address of A, whose slots are padded to whole vectors; what is in the padding does not matter."""
    A_STRIDE = 5
    """From row to row of A."""
    A_OFFSETS = 6
    """Address of S i64: where in a row of A a slot starts."""
    B = 7
    """Address of B."""
    B_STRIDE = 8
    """From row to row of B."""
    B_OFFSETS = 9
    """Address of an i64 for each row of B, where in `B` it starts; 0: row q starts at q * `B_STRIDE`."""
    C = 10
    """Address of the results."""
    C_STRIDE = 11
    """From row to row of each C_s."""
    C_OFFSETS = 12
    """Address of S i64: where in `C` C_s starts."""
    BIAS = 13
    """Address of the sums of A over q, which are added to; 0: not wanted."""
    BIAS_OFFSETS = 14
    """Address of S i64: where in `BIAS` a slot's M sums start."""
    WORKSPACE = 15
    """Address of `outer_workspace` bytes, aligned to 64."""


# bytes of A in the second-level cache, and of one of its columns: the length of a chain of additions
_PACKED_BYTES = 256 << 10
_CHAIN_BYTES = 3 << 9
# what it takes to pack a number, in multiply-adds of one lane
_PACKING = 24


def outer_workspace(tiling: Tiling, threads: int, n: int) -> int:
    """Return how many bytes `gemm_tn` needs for N = n."""
    kind = tiling.kind
    vectors = -(-n // kind.lanes)
    return (_outer_part(tiling) + vectors * kind.size * _chain(kind)) * threads


def add_gemm_tn(module: Module, tiling: Tiling, target: Target) -> None:
    """Add `gemm_tn`; the module has `strip` and `put` already."""
    _add_pack_rows(module, tiling)
    _add_pack_slots(module, tiling.kind)
    _add_gemm_tn(module, tiling, target)


def _chain(kind: Real) -> int:
    return _CHAIN_BYTES // kind.bytes


def _group(kind: Real) -> int:
    """Return how many panels of A are packed together."""
    return _PACKED_BYTES // (_chain(kind) * kind.size)


def _outer_part(tiling: Tiling) -> int:
    """Bytes of a thread, without B: sums of a block, packed A, addresses of its rows and of those of C."""
    kind = tiling.kind
    return SCRATCH_ROWS * tiling.columns * kind.size + _group(kind) * kind.lanes * (_CHAIN_BYTES + 2 * 8)


def _add_pack_rows(module: Module, tiling: Tiling) -> None:
    """Add `pack_rows`: columns `first` to `last` of `count` rows of B from row q, in blocks as the tiles read them."""
    kind, nc = tiling.kind, tiling.columns
    vl = kind.lanes
    width = nc * vl
    f = module.function(
        "pack_rows",
        "ptr %to, ptr %args, ptr %b, i64 %table, i64 %stride, i64 %q, i64 %count, i64 %first, i64 %last",
        internal=True,
    )
    block = f.mul("%count", str(width))
    whole = f.let(f"sdiv i64 {f.sub('%last', '%first')}, {width}")
    rest = f.sub("%last", f.add("%first", f.mul(whole, str(width))))
    # of the vectors in the last, smaller block the last one may be a part
    full = f.let(f"sdiv i64 {rest}, {vl}")
    part = f.sub(rest, f.mul(full, str(vl)))
    mask = lanes_below(f, kind, part)
    some = f.let(f"icmp sgt i64 {part}, 0")
    width_rest = f.mul(f.add(full, f.let(f"zext i1 {some} to i64")), str(vl))
    with f.loop("0", "%count") as r:
        offset = offset_of(f, "%table", f.add("%q", r.index), "%stride")
        source = f.at("%b", f.add(offset, "%first"), kind.name)
        to = f.at("%to", f.mul(r.index, str(width)), kind.name)
        with f.loop("0", whole, carried=[("ptr", source), ("ptr", to)]) as n:
            src, dst = n.values
            vectors = [f.load(kind.vector, f.at(src, str(v * vl), kind.name), kind.bytes) for v in range(nc)]
            for v, value in enumerate(vectors):
                f.store(kind.vector, value, f.at(dst, str(v * vl), kind.name), kind.bytes)
            n.next(f.at(src, str(width), kind.name), f.at(dst, block, kind.name))
        src, _ = n.results
        dst = f.at("%to", f.add(f.mul(whole, block), f.mul(r.index, width_rest)), kind.name)
        with f.loop("0", full) as c:
            at = f.mul(c.index, str(vl))
            f.store(
                kind.vector,
                f.load(kind.vector, f.at(src, at, kind.name), kind.bytes),
                f.at(dst, at, kind.name),
                kind.bytes,
            )
            c.next()
        with f.when(some):
            at = f.mul(full, str(vl))
            f.store(
                kind.vector, masked_load(f, kind, f.at(src, at, kind.name), mask), f.at(dst, at, kind.name), kind.bytes
            )
        r.next()
    f.close()


def _add_pack_slots(module: Module, kind: Real) -> None:
    """Add `pack_panels_1` and `_4`: so many neighbouring panels of A, [count, lanes] each, and their sums over q."""
    for panels in (1, 4):
        f = module.function(
            f"pack_panels_{panels}",
            "ptr %to, ptr %a, i64 %stride, i64 %count, ptr %sums, i64 %lanes",
            internal=True,
        )
        panel = f.mul("%count", str(kind.lanes))
        to = ["%to"]
        for _ in range(panels - 1):
            to.append(f.at(to[-1], panel, kind.name))
        start = [("ptr", "%a"), *((kind.vector, "zeroinitializer") for _ in range(panels))]
        with f.loop("0", "%count", carried=start) as q:
            row, *sums = q.values
            at = f.mul(q.index, str(kind.lanes))
            for p in range(panels):
                value = f.load(kind.vector, f.at(row, str(p * kind.lanes), kind.name), kind.bytes)
                f.store(kind.vector, value, f.at(to[p], at, kind.name), kind.bytes)
                sums[p] = kind.op(f, "fadd", sums[p], value)
            q.next(f.at(row, "%stride", kind.name), *sums)
        wanted = f.let("icmp ne ptr %sums, null")
        with f.when(wanted):
            for p in range(panels):
                mask = lanes_below(f, kind, f.minimum(f.sub("%lanes", str(p * kind.lanes)), str(kind.lanes)))
                at = f.at("%sums", str(p * kind.lanes), kind.name)
                value = kind.op(f, "fadd", masked_load(f, kind, at, mask), q.results[1 + p])
                masked_store(f, kind, value, at, mask)
        f.close()


def _grid(f: Function, panels: str, blocks: str, tiling: Tiling) -> tuple[str, str]:
    """Return how many parts the rows and the columns of C are cut into: the cheapest for so many threads."""
    vl = tiling.kind.lanes
    with f.loop("1", f.add("%nt", "1"), carried=[("i64", "1"), ("i64", str(1 << 62))]) as t:
        best, least = t.values
        m = f.mul(ceiling(f, panels, f.let(f"sdiv i64 %nt, {t.index}")), str(vl))
        n = f.mul(ceiling(f, blocks, t.index), str(tiling.columns * vl))
        cost = f.add(f.mul(m, n), f.mul(f.add(m, n), str(_PACKING)))
        better = f.let(f"icmp slt i64 {cost}, {least}")
        t.next(
            f.let(f"select i1 {better}, i64 {t.index}, i64 {best}"),
            f.let(f"select i1 {better}, i64 {cost}, i64 {least}"),
        )
    return f.let(f"sdiv i64 %nt, {t.results[0]}"), t.results[0]


def _add_gemm_tn(module: Module, tiling: Tiling, target: Target) -> None:
    kind, nc = tiling.kind, tiling.columns
    vl, chain = kind.lanes, _chain(kind)
    width = nc * vl
    A = OuterArgs
    f = module.function("gemm_tn", "ptr %args, i64 %tid, i64 %nt, ptr %team")
    state = flush_on(f, target)
    a = arguments(f, OuterArgs)
    m, n = a[A.M], a[A.N]
    in_slot = ceiling(f, m, vl)
    panels = f.mul(a[A.SLOTS], in_slot)
    parts_m, parts_n = _grid(f, panels, ceiling(f, n, width), tiling)
    my_m, my_n = f.let(f"sdiv i64 %tid, {parts_n}"), f.let(f"srem i64 %tid, {parts_n}")
    idle = f.let(f"icmp sge i64 {my_m}, {parts_m}")
    first_panel = share(f, panels, my_m, parts_m)
    last_panel = f.let(f"select i1 {idle}, i64 0, i64 {share(f, panels, f.add(my_m, '1'), parts_m)}")
    blocks = ceiling(f, n, width)
    first = f.mul(share(f, blocks, my_n, parts_n), str(width))
    last = f.minimum(f.mul(share(f, blocks, f.add(my_n, "1"), parts_n), str(width)), n)
    bias = f.let(f"select i1 {f.let(f'icmp eq i64 {my_n}, 0')}, ptr {a[A.BIAS]}, ptr null")
    part = f.add(f.mul(ceiling(f, n, vl), str(kind.size * chain)), str(_outer_part(tiling)))
    sums = f.at(a[A.WORKSPACE], f.mul("%tid", part))
    packed_a = f.at(sums, str(SCRATCH_ROWS * nc * kind.size))
    rows = f.at(packed_a, str(_group(kind) * kind.size * chain))
    to = f.at(rows, str(_group(kind) * vl), "ptr")
    packed_b = f.at(to, str(_group(kind) * vl), "ptr")
    with f.loop("0", f.let(f"select i1 {idle}, i64 0, i64 {a[A.COUNT]}"), str(chain)) as q:
        size = f.minimum(f.sub(a[A.COUNT], q.index), str(chain))
        f.do(
            f"call void @pack_rows(ptr {packed_b}, ptr %args, ptr {a[A.B]}, i64 {a[A.B_OFFSETS]}, i64 {a[A.B_STRIDE]},"
            f" i64 {q.index}, i64 {size}, i64 {first}, i64 {last})"
        )
        from_a = f.at(a[A.A], f.mul(q.index, a[A.A_STRIDE]), kind.name)
        with f.loop(first_panel, last_panel, str(_group(kind))) as g:
            stop = f.minimum(last_panel, f.add(g.index, str(_group(kind))))
            height = _pack_group(f, kind, a, from_a, size, in_slot, g.index, stop, packed_a, rows, to, bias)
            with f.loop(first, last, str(width)) as c:
                columns = f.sub(last, c.index)
                vectors = f.minimum(ceiling(f, columns, vl), str(nc))
                w = f.at(packed_b, f.mul(f.sub(c.index, first), size), kind.name)
                pieces = ceiling(f, height, SCRATCH_ROWS)
                with f.loop("0", pieces) as r:
                    top = share(f, height, r.index, pieces)
                    some = f.sub(share(f, height, f.add(r.index, "1"), pieces), top)
                    call_strip(f, tiling, sums, w, vectors, f.at(rows, top, "ptr"), some, ["1", "0", size, str(vl)])
                    f.do(
                        f"call void @put(ptr {sums}, ptr {f.at(to, top, 'ptr')}, i64 {c.index}, i64 {some},"
                        f" i64 {columns}, i64 1)"
                    )
                    r.next()
                c.next()
            g.next()
        q.next()
    flush_off(f, target, state)
    f.close()


def _pack_group(
    f: Function,
    kind: Real,
    a: dict[int, str],
    from_a: str,
    size: str,
    in_slot: str,
    start: str,
    stop: str,
    packed: str,
    rows: str,
    to: str,
    bias: str,
) -> str:
    """Pack the panels `start` to `stop` of A, list their rows and those of C, and return how many there are."""
    A, vl = OuterArgs, kind.lanes
    none = f.let(f"icmp eq ptr {bias}, null")
    panel = f.mul(size, str(vl))
    first = f.let(f"sdiv i64 {start}, {in_slot}")
    with f.loop(first, ceiling(f, stop, in_slot), carried=[("i64", "0")]) as s:
        (height,) = s.values
        slot = f.mul(s.index, in_slot)
        low = f.maximum(f.sub(start, slot), "0")
        high = f.minimum(f.sub(stop, slot), in_slot)
        source = f.at(from_a, f.load("i64", f.at(a[A.A_OFFSETS], s.index, "i64")), kind.name)
        target = f.at(packed, f.mul(f.sub(slot, start), panel), kind.name)
        where = f.let(f"select i1 {none}, ptr %args, ptr {f.at(a[A.BIAS_OFFSETS], s.index, 'i64')}")
        sums = f.at(bias, f.load("i64", where), kind.name)
        # four panels at a time, for what lies together in memory to be read together
        middle = f.add(low, f.let(f"and i64 {f.sub(high, low)}, -4"))
        for begin, end, step in ((low, middle, 4), (middle, high, 1)):
            with f.loop(begin, end, str(step)) as p:
                lane = f.mul(p.index, str(vl))
                own = f.let(f"select i1 {none}, ptr null, ptr {f.at(sums, lane, kind.name)}")
                f.do(
                    f"call void @pack_panels_{step}(ptr {f.at(target, f.mul(p.index, panel), kind.name)},"
                    f" ptr {f.at(source, lane, kind.name)}, i64 {a[A.A_STRIDE]}, i64 {size}, ptr {own},"
                    f" i64 {f.sub(a[A.M], lane)})"
                )
                p.next()
        results = f.at(a[A.C], f.load("i64", f.at(a[A.C_OFFSETS], s.index, "i64")), kind.name)
        stop_m = f.minimum(f.mul(high, str(vl)), a[A.M])
        with f.loop(f.mul(low, str(vl)), stop_m, carried=[("i64", height)]) as m:
            (n,) = m.values
            row = f.add(f.mul(f.let(f"udiv i64 {m.index}, {vl}"), panel), f.let(f"urem i64 {m.index}, {vl}"))
            f.store("ptr", f.at(target, row, kind.name), f.at(rows, n, "ptr"))
            f.store("ptr", f.at(results, f.mul(m.index, a[A.C_STRIDE]), kind.name), f.at(to, n, "ptr"))
            m.next(f.add(n, "1"))
        s.next(m.results[0])
    return s.results[0]
