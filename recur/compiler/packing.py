"""Weight matrices into the order in which the tiles of `recur.compiler.tiles` read them."""

from recur.compiler.ir import Function, Module
from recur.compiler.tiles import Tiling
from recur.compiler.vectormath import Real


def add_pack(module: Module, tiling: Tiling) -> None:
    """Add `pack`, which packs the blocks from `first` to before `last`.

    A panel of `lanes` units has a vector for each column c. The element of vector panel * columns + c,
    step o * inner + k and lane l is `sources[c * outer + o][unit * unit_stride + k * k_stride]` for
    unit = panel * lanes + l, and zero where that is `units` or more.
    """
    kind, nc = tiling.kind, tiling.columns
    vl = kind.lanes
    _add_lines(module, tiling)
    _add_movers(module, kind)
    f = module.function(
        "pack",
        "ptr %dst, ptr %sources, i64 %columns, i64 %outer, i64 %inner, i64 %units, i64 %unit_stride, i64 %k_stride,"
        " i64 %first, i64 %last",
    )
    panels = f.let(f"udiv i64 {f.add('%units', str(vl - 1))}, {vl}")
    vectors = f.mul(panels, "%columns")
    block = f.mul(f.mul("%outer", "%inner"), str(nc * vl))
    along = f.let("icmp eq i64 %unit_stride, 1")
    single = f.let("icmp eq i64 %columns, 1")
    lines = f.let(f"and i1 {along}, {single}")
    with f.loop("%first", "%last") as b:
        start = f.mul(b.index, str(nc))
        width = f.minimum(f.sub(vectors, start), str(nc))
        base = f.at("%dst", f.mul(b.index, block), kind.name)
        stride = f.mul(width, str(vl))
        # the vectors of a whole block lie side by side in the sources too
        inside = f.let(f"icmp sle i64 {f.mul(f.add(b.index, '1'), str(nc * vl))}, %units")
        beside = f.let(f"and i1 {lines}, {inside}")
        with f.when(beside):
            f.do(
                f"call void @pack_lines(ptr {base}, ptr %sources, i64 {f.mul(start, str(vl))}, i64 %outer, i64 %inner,"
                f" i64 %k_stride)"
            )
        with f.loop("0", f.let(f"select i1 {beside}, i64 0, i64 {width}")) as i:
            v = f.add(start, i.index)
            panel = f.let(f"udiv i64 {v}, %columns")
            column = f.let(f"urem i64 {v}, %columns")
            unit = f.mul(panel, str(vl))
            valid = f.minimum(f.sub("%units", unit), str(vl))
            source = f.at("%sources", f.mul(column, "%outer"), "ptr")
            to = f.at(base, f.mul(i.index, str(vl)), kind.name)
            with f.loop("0", "%outer", carried=[("ptr", to)]) as o:
                (to,) = o.values
                src = f.load("ptr", f.at(source, o.index, "ptr"))
                src = f.at(src, f.mul(unit, "%unit_stride"), kind.name)
                _pack_vectors(f, kind, to, stride, src, "%inner", valid)
                o.next(f.at(to, f.mul("%inner", stride), kind.name))
            i.next()
        b.next()
    f.close()


def add_pack_bf16(module: Module, tiling: Tiling) -> None:
    """Add `pack_bf16`: `pack` of float32 to pairs of bfloat16, rounded to nearest even, and `round` for rows.

    A vector has two k of each of its units, so that each of the `outer` parts takes (inner + 1) / 2 steps; behind an
    odd `inner` is a zero. For a module of its own, without `pack`.
    """
    kind, nc = tiling.kind, tiling.columns
    vl = kind.lanes
    _add_movers(module, kind)
    _add_round(module, kind)
    f = module.function(
        "pack_bf16",
        "ptr %dst, ptr %sources, i64 %columns, i64 %outer, i64 %inner, i64 %units, i64 %unit_stride, i64 %k_stride,"
        " i64 %first, i64 %last",
    )
    # some steps of float32, and the zero behind an odd number of them
    buffer = f.let(f"alloca [{(2 * vl + 1) * vl} x {kind.name}], align 64")
    panels = f.let(f"udiv i64 {f.add('%units', str(vl - 1))}, {vl}")
    vectors = f.mul(panels, "%columns")
    half = f.let(f"sdiv i64 {f.add('%inner', '1')}, 2")
    block = f.mul(f.mul("%outer", half), str(nc * vl))
    turned = ", ".join(f"i32 {n + lane}" for lane in range(vl) for n in (0, vl))
    pairs = f"<{2 * vl} x bfloat>"
    with f.loop("%first", "%last") as b:
        start = f.mul(b.index, str(nc))
        width = f.minimum(f.sub(vectors, start), str(nc))
        base = f.at("%dst", f.mul(b.index, block), kind.name)
        stride = f.mul(width, str(vl))
        with f.loop("0", width) as i:
            v = f.add(start, i.index)
            unit = f.mul(f.let(f"udiv i64 {v}, %columns"), str(vl))
            valid = f.minimum(f.sub("%units", unit), str(vl))
            source = f.at("%sources", f.mul(f.let(f"urem i64 {v}, %columns"), "%outer"), "ptr")
            with f.loop("0", "%outer", carried=[("ptr", f.at(base, f.mul(i.index, str(vl)), kind.name))]) as o:
                src = f.load("ptr", f.at(source, o.index, "ptr"))
                src = f.at(src, f.mul(unit, "%unit_stride"), kind.name)
                with f.loop("0", "%inner", str(2 * vl), carried=[("ptr", o.values[0])]) as k:
                    here = f.at(src, f.mul(k.index, "%k_stride"), kind.name)
                    count = f.minimum(f.sub("%inner", k.index), str(2 * vl))
                    _pack_vectors(f, kind, buffer, str(vl), here, count, valid)
                    f.store(kind.vector, "zeroinitializer", f.at(buffer, f.mul(count, str(vl)), kind.name), kind.bytes)
                    with f.loop("0", count, "2", carried=[("ptr", k.values[0])]) as n:
                        at = f.at(buffer, f.mul(n.index, str(vl)), kind.name)
                        low, high = (f.load(kind.vector, f.at(at, str(s), kind.name), kind.bytes) for s in (0, vl))
                        value = to_pairs(f, kind, low, high)
                        value = f.let(f"shufflevector {pairs} {value}, {pairs} poison, <{2 * vl} x i32> <{turned}>")
                        f.store(pairs, value, n.values[0], kind.bytes)
                        n.next(f.at(n.values[0], stride, kind.name))
                    k.next(n.results[0])
                o.next(k.results[0])
            i.next()
        b.next()
    f.close()


def to_pairs(f: Function, kind: Real, low: str, high: str) -> str:
    """Round two vectors to one of bfloat16, the first in its lower half."""
    name = f"@llvm.x86.avx512bf16.cvtne2ps2bf16.{8 * kind.size}"
    pairs = f"<{2 * kind.lanes} x bfloat>"
    f.module.declare(f"declare {pairs} {name}({kind.vector}, {kind.vector})")
    return f.let(f"call {pairs} {name}({kind.vector} {high}, {kind.vector} {low})")


def lanes_below(f: Function, kind: Real, count: str) -> str:
    """Return the mask of the lanes below the i64 `count`."""
    t, bits = kind.integer, f"i{kind.bits}"
    lanes = f"<{', '.join(f'{bits} {n}' for n in range(kind.lanes))}>"
    limit = count if kind.bits == 64 else f.let(f"trunc i64 {count} to {bits}")
    first = f.let(f"insertelement {t} poison, {bits} {limit}, i64 0")
    spread = f.let(f"shufflevector {t} {first}, {t} poison, <{kind.lanes} x i32> zeroinitializer")
    return f.let(f"icmp slt {t} {lanes}, {spread}")


def masked_load(f: Function, kind: Real, address: str, mask: str) -> str:
    """Load the lanes of `mask`, zero in the others, which are not touched."""
    name = f"@llvm.masked.load.{kind.suffix}.p0"
    f.module.declare(f"declare {kind.vector} {name}(ptr, i32, {kind.mask}, {kind.vector})")
    return f.let(
        f"call {kind.vector} {name}(ptr {address}, i32 {kind.bytes}, {kind.mask} {mask}, {kind.vector} zeroinitializer)"
    )


def masked_store(f: Function, kind: Real, value: str, address: str, mask: str) -> None:
    """Store the lanes of `mask`; the others are not touched."""
    name = f"@llvm.masked.store.{kind.suffix}.p0"
    f.module.declare(f"declare void {name}({kind.vector}, ptr, i32, {kind.mask})")
    f.do(f"call void {name}({kind.vector} {value}, ptr {address}, i32 {kind.bytes}, {kind.mask} {mask})")


def transpose(f: Function, kind: Real, rows: list[str]) -> list[str]:
    """Return the columns of a square of vectors."""
    vl = kind.lanes
    distance = vl // 2
    while distance:
        new = list(rows)
        for i in range(vl):
            if i & distance:
                continue
            a, b = rows[i], rows[i + distance]
            lanes = range(vl)
            low = [l - distance + vl if l & distance else l for l in lanes]
            high = [l + vl if l & distance else l + distance for l in lanes]
            new[i] = _shuffle(f, kind, a, b, low)
            new[i + distance] = _shuffle(f, kind, a, b, high)
        rows = new
        distance //= 2
    return rows


def _shuffle(f: Function, kind: Real, a: str, b: str, lanes: list[int]) -> str:
    mask = ", ".join(f"i32 {l}" for l in lanes)
    return f.let(f"shufflevector {kind.vector} {a}, {kind.vector} {b}, <{len(lanes)} x i32> <{mask}>")


def _pack_vectors(f: Function, kind: Real, to: str, stride: str, src: str, inner: str, valid: str) -> None:
    """Write vectors of `valid` units to `to`, `to` + `stride`, ... for all steps, in the way that suits the strides."""
    along = f.let("icmp eq i64 %unit_stride, 1")
    across = f.let("icmp eq i64 %k_stride, 1")
    whole = f.let(f"icmp eq i64 {valid}, {kind.lanes}")
    turns = f.let(f"and i1 {across}, {whole}")
    copies = f.let(f"and i1 {along}, {f.let(f'xor i1 {turns}, true')}")
    each = f.let(f"select i1 {f.let(f'or i1 {turns}, {copies}')}, i64 {inner}, i64 0")
    with f.when(turns):
        f.do(f"call void @pack_turn(ptr {to}, i64 {stride}, ptr {src}, i64 %unit_stride, i64 {inner})")
    with f.when(copies):
        f.do(f"call void @pack_copy(ptr {to}, i64 {stride}, ptr {src}, i64 %k_stride, i64 {inner}, i64 {valid})")
    f.do(
        f"call void @pack_each(ptr {to}, i64 {stride}, ptr {src}, i64 %unit_stride, i64 %k_stride, i64 {each},"
        f" i64 {inner}, i64 {valid})"
    )


def _add_movers(module: Module, kind: Real) -> None:
    _add_copy(module, kind)
    _add_turn(module, kind)
    _add_each(module, kind)


def _add_round(module: Module, kind: Real) -> None:
    """Add `round`: numbers of a row to pairs, in whole vectors of pairs, zero behind the last number."""
    vl = kind.lanes
    f = module.function("round", "ptr %to, ptr %from, i64 %count", internal=True)
    pairs = f"<{2 * vl} x bfloat>"
    whole = f.let(f"and i64 %count, {-2 * vl}")
    with f.loop("0", whole, str(2 * vl)) as k:
        at = f.at("%from", k.index, kind.name)
        low, high = (f.load(kind.vector, f.at(at, str(n), kind.name), kind.bytes) for n in (0, vl))
        f.store(pairs, to_pairs(f, kind, low, high), f.at("%to", k.index, "bfloat"), kind.bytes)
        k.next()
    with f.when(f.let(f"icmp slt i64 {whole}, %count")):
        at, left = f.at("%from", whole, kind.name), f.sub("%count", whole)
        low = masked_load(f, kind, at, lanes_below(f, kind, left))
        high = masked_load(f, kind, f.at(at, str(vl), kind.name), lanes_below(f, kind, f.sub(left, str(vl))))
        f.store(pairs, to_pairs(f, kind, low, high), f.at("%to", whole, "bfloat"), kind.bytes)
    f.close()


def _add_lines(module: Module, tiling: Tiling) -> None:
    """Add the case of a whole block whose vectors are neighbours: it is copied a step at a time."""
    kind, vl = tiling.kind, tiling.kind.lanes
    f = module.function(
        "pack_lines",
        "ptr %to, ptr %sources, i64 %unit, i64 %outer, i64 %inner, i64 %k_stride",
        internal=True,
    )
    with f.loop("0", "%outer", carried=[("ptr", "%to")]) as o:
        src = f.at(f.load("ptr", f.at("%sources", o.index, "ptr")), "%unit", kind.name)
        with f.loop("0", "%inner", carried=[("ptr", o.values[0]), ("ptr", src)]) as k:
            to, src = k.values
            vectors = [
                f.load(kind.vector, f.at(src, str(v * vl), kind.name), kind.bytes) for v in range(tiling.columns)
            ]
            for v, value in enumerate(vectors):
                f.store(kind.vector, value, f.at(to, str(v * vl), kind.name), kind.bytes)
            k.next(f.at(to, str(tiling.columns * vl), kind.name), f.at(src, "%k_stride", kind.name))
        o.next(k.results[0])
    f.close()


def _add_copy(module: Module, kind: Real) -> None:
    """Add the case of neighbouring units next to each other: a vector is loaded and stored."""
    f = module.function(
        "pack_copy",
        "ptr %to, i64 %stride, ptr %src, i64 %k_stride, i64 %inner, i64 %valid",
        internal=True,
    )
    whole = f.let(f"icmp eq i64 %valid, {kind.lanes}")
    stop = f.let(f"select i1 {whole}, i64 %inner, i64 0")
    with f.loop("0", stop, carried=[("ptr", "%to"), ("ptr", "%src")]) as k:
        to, src = k.values
        f.store(kind.vector, f.load(kind.vector, src, kind.bytes), to, kind.bytes)
        k.next(f.at(to, "%stride", kind.name), f.at(src, "%k_stride", kind.name))
    mask = lanes_below(f, kind, "%valid")
    with f.loop(stop, "%inner", carried=[("ptr", "%to"), ("ptr", "%src")]) as k:
        to, src = k.values
        f.store(kind.vector, masked_load(f, kind, src, mask), to, kind.bytes)
        k.next(f.at(to, "%stride", kind.name), f.at(src, "%k_stride", kind.name))
    f.close()


def _add_turn(module: Module, kind: Real) -> None:
    """Add the case of neighbouring steps next to each other: squares are transposed in registers."""
    vl = kind.lanes
    f = module.function("pack_turn", "ptr %to, i64 %stride, ptr %src, i64 %unit_stride, i64 %inner", internal=True)
    rows = ["%src"]
    for _ in range(vl - 1):
        rows.append(f.at(rows[-1], "%unit_stride", kind.name))
    stop = f.let(f"and i64 %inner, {-vl}")
    with f.loop("0", stop, str(vl), carried=[("ptr", "%to")]) as k:
        (to,) = k.values
        square = [f.load(kind.vector, f.at(row, k.index, kind.name), kind.bytes) for row in rows]
        for column in transpose(f, kind, square):
            f.store(kind.vector, column, to, kind.bytes)
            to = f.at(to, "%stride", kind.name)
        k.next(to)
    f.do(
        f"call void @pack_each(ptr {f.at('%to', '0')}, i64 %stride, ptr %src, i64 %unit_stride, i64 1, i64 {stop},"
        f" i64 %inner, i64 {vl})"
    )
    f.close()


def _add_each(module: Module, kind: Real) -> None:
    """Add the general case, element by element, for the steps from `first`."""
    f = module.function(
        "pack_each",
        "ptr %to, i64 %stride, ptr %src, i64 %unit_stride, i64 %k_stride, i64 %first, i64 %inner, i64 %valid",
        internal=True,
    )
    start = f.at("%to", f.mul("%first", "%stride"), kind.name)
    source = f.at("%src", f.mul("%first", "%k_stride"), kind.name)
    with f.loop("%first", "%inner", carried=[("ptr", start), ("ptr", source)]) as k:
        to, src = k.values
        f.store(kind.vector, "zeroinitializer", to, kind.bytes)
        with f.loop("0", "%valid", carried=[("ptr", src)]) as u:
            f.store(kind.name, f.load(kind.name, u.values[0]), f.at(to, u.index, kind.name))
            u.next(f.at(u.values[0], "%unit_stride", kind.name))
        k.next(f.at(to, "%stride", kind.name), f.at(src, "%k_stride", kind.name))
    f.close()
