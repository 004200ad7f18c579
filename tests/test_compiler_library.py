import ctypes
import mmap
import re
import sys

import pytest
import torch

from recur.compiler import machine
from recur.compiler.library import OuterArgs, RowsArgs, half_ir, library, library_ir
from recur.compiler.target import host, missing, named

pytestmark = pytest.mark.skipif(machine.available() is not None, reason="no machine code here")

LEVELS = ("host", "x86-64-v4", "x86-64-v3", "x86-64-v2", "aarch64")
# of the largest error, over the square root of the terms of a sum of products of normal numbers
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-14}
PRODUCT = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    *[ctypes.c_int64] * 4,
)


def level(name):
    return host() if name == "host" else named(name)


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request):
    return getattr(torch, request.param)


@pytest.fixture(scope="module", params=["host", "x86-64-v3"])
def functions(request, dtype):
    target = level(request.param)
    if missing(target):
        pytest.skip(f"this is no {request.param}")
    return library(dtype, target)


class Guarded:
    """Memory of numbers between two pages that may not be touched: `end` or else `start` lies against one."""

    def __init__(self, tensor, end=True):
        page = mmap.PAGESIZE
        size = tensor.numel() * tensor.element_size()
        pages = max(1, -(-size // page))
        self.map = mmap.mmap(-1, (pages + 2) * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for guard in (base, base + (pages + 1) * page):
            assert protect(guard, page, 0) == 0
        offset = page + (pages * page - size if end else 0)
        self.address = base + offset
        self.tensor = torch.frombuffer(self.map, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
        self.tensor = self.tensor.view(tensor.shape)
        self.tensor.copy_(tensor)


linux = pytest.mark.skipif(sys.platform != "linux", reason="the tests protect pages as Linux does")


def addresses(values):
    return (ctypes.c_int64 * len(values))(*values)


def pack(functions, matrices, out=None, half=False):
    """Pack [columns, outer, units, inner], of any strides; with `half` two bfloat16 to a number."""
    columns, outer, units, inner = matrices.shape
    vectors = functions.vectors(units, columns)
    if out is None:
        size = functions.half_size(units, columns, outer, inner) if half else vectors * outer * inner * functions.VL
        out = torch.full((max(1, size),), torch.nan, dtype=matrices.dtype)
    functions.pack_weights(
        out.data_ptr(),
        [matrices[c, o].data_ptr() for c in range(columns) for o in range(outer)],
        columns=columns,
        outer=outer,
        inner=inner,
        units=units,
        unit_stride=matrices.stride(2),
        k_stride=matrices.stride(3),
        half=half,
    )
    return out, vectors


def product(functions, rows, packed, vectors, inner, out=None, half=False):
    """Multiply `rows` [count, outer, any number from inner on] with packed weights."""
    count, outer, _ = rows.shape
    width = vectors * functions.VL
    out = torch.full((count, width + functions.VL), torch.nan, dtype=rows.dtype) if out is None else out
    table = addresses([rows[r].data_ptr() for r in range(count)])
    PRODUCT(functions.product_bf16 if half else functions.product)(
        out.data_ptr(),
        out.stride(0),
        packed.data_ptr(),
        vectors,
        ctypes.addressof(table),
        count,
        outer,
        rows.stride(1),
        inner,
    )
    return out


def by_unit(functions, out, columns, units):
    """Return [count, columns, units] of a product."""
    count, vl = out.shape[0], functions.VL
    panels = -(-units // vl)
    by_panel = out[:, : panels * columns * vl].reshape(count, panels, columns, vl)
    return by_panel.permute(0, 2, 1, 3).reshape(count, columns, panels * vl)[..., :units]


def difference(got, expected, terms):
    return ((got.double() - expected).abs().max() / max(1, terms) ** 0.5).item()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 13, 32])
@pytest.mark.parametrize(
    ("columns", "outer", "units", "inner"),
    [(1, 1, 1, 1), (4, 1, 37, 37), (3, 2, 16, 7), (1, 3, 100, 19), (2, 1, 130, 64), (1, 1, 650, 33), (4, 1, 64, 0)],
)
def test_product_of_packed_weights(functions, dtype, count, columns, outer, units, inner):
    matrices = torch.randn(columns, outer, units, inner, dtype=dtype)
    rows = torch.randn(count, outer, inner + 3, dtype=dtype)
    packed, vectors = pack(functions, matrices)
    out = product(functions, rows, packed, vectors, inner)
    expected = torch.einsum("couk,nok->ncu", matrices.double(), rows[..., :inner].double())
    assert difference(by_unit(functions, out, columns, units), expected, outer * inner) < TOLERANCE[dtype]
    # nothing is written beyond the last vector
    assert out[:, vectors * functions.VL :].isnan().all()


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("units", [1, 16, 37, 100, 200])
@pytest.mark.parametrize("inner", [1, 7, 37, 64])
def test_packing_does_not_depend_on_strides(functions, dtype, units, inner, columns):
    matrices = torch.randn(columns, 2, units, inner, dtype=dtype)
    expected, _ = pack(functions, matrices)
    assert not expected.isnan().any()
    turned = matrices.transpose(2, 3).contiguous().transpose(2, 3)
    spread = torch.randn(columns, 2, units, inner, 2, dtype=dtype)
    spread[..., 0] = matrices
    for other in (turned, spread[..., 0]):
        assert torch.equal(pack(functions, other)[0], expected)


def test_packed_order(functions, dtype):
    columns, units, inner = 3, functions.VL + 1, 5
    matrices = torch.randn(columns, 1, units, inner, dtype=dtype)
    packed, vectors = pack(functions, matrices)
    assert vectors == 2 * columns
    for v in range(vectors):
        block, place = divmod(v, functions.NC)
        width = min(functions.NC, vectors - block * functions.NC)
        start = block * functions.NC * inner * functions.VL
        own = packed[start : start + inner * width * functions.VL].view(inner, width, functions.VL)[:, place]
        first = v // columns * functions.VL
        lanes = min(functions.VL, units - first)
        assert torch.equal(own[:, :lanes], matrices[v % columns, 0, first : first + lanes].T)
        assert (own[:, lanes:] == 0).all()


def test_blocks_can_be_packed_in_parts(functions, dtype):
    matrices = torch.randn(4, 1, 100, 9, dtype=dtype)
    expected, vectors = pack(functions, matrices)
    out = torch.full_like(expected, torch.nan)
    sources = addresses([matrices[c, 0].data_ptr() for c in range(4)])
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 8)(functions.pack)
    blocks = functions.blocks(vectors)
    for first, last in ((2, blocks), (0, 1), (1, 2)):
        call(out.data_ptr(), ctypes.addressof(sources), 4, 1, 9, 100, 9, 1, first, last)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("units", [16, 37, 100, 200])
def test_bits_do_not_depend_on_how_rows_are_grouped(functions, dtype, units):
    inner, count = 45, 20
    packed, vectors = pack(functions, torch.randn(3, 2, units, inner, dtype=dtype))
    rows = torch.randn(count, 2, inner, dtype=dtype)
    expected = product(functions, rows, packed, vectors, inner)[:, : -functions.VL]
    for size in (1, 2, 3, 4, 5, 7):
        parts = [product(functions, part, packed, vectors, inner) for part in rows.split(size)]
        assert torch.equal(torch.cat(parts)[:, : -functions.VL], expected), size


@pytest.mark.parametrize("count", [1, 2, 3, 6, 13])
def test_nan_in_a_row_stays_in_it(functions, dtype, count):
    packed, vectors = pack(functions, torch.randn(1, 1, 64, 10, dtype=dtype))
    rows = torch.randn(count, 1, 10, dtype=dtype)
    rows[count // 2, 0, 3] = torch.nan
    out = product(functions, rows, packed, vectors, 10)[:, :64]
    assert out.isnan().any(1).nonzero().flatten().tolist() == [count // 2]
    assert out[count // 2].isnan().all()


@linux
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_product_and_pack_touch_nothing_else(functions, dtype, count, end):
    for columns, units, inner in ((1, 5, 1), (4, 37, 19), (2, 130, 16), (3, 64, 64), (1, 128, 9)):
        matrices = torch.randn(columns, 1, units, inner, dtype=dtype)
        expected, vectors = pack(functions, matrices)
        packed = Guarded(torch.empty_like(expected), end)
        for layout in (matrices, matrices.transpose(2, 3)):
            source = Guarded(layout.contiguous(), end).tensor
            source = source if layout is matrices else source.transpose(2, 3)
            pack(functions, source, packed.tensor)
            assert torch.equal(packed.tensor, expected)
        rows = Guarded(torch.randn(count, 1, inner, dtype=dtype), end)
        out = Guarded(torch.empty(count, vectors * functions.VL, dtype=dtype), end)
        product(functions, rows.tensor, packed.tensor, vectors, inner, out.tensor)
        whole = product(functions, rows.tensor, expected, vectors, inner)
        assert torch.equal(out.tensor, whole[:, : -functions.VL])


# weights of bfloat16


@pytest.fixture(scope="module")
def halves():
    functions = library(torch.float32)
    if not functions.product_bf16:
        pytest.skip("this processor has no AVX512_BF16")
    return functions


def rounded(tensor):
    return tensor.bfloat16().double()


def same_bits(a, b):
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_bfloat16_is_only_where_the_processor_has_it(name):
    if missing(named(name)):
        pytest.skip(f"this is no {name}")
    for functions in (library(torch.float32, named(name)), library(torch.float64)):
        assert functions.product_bf16 == functions.pack_bf16 == 0
        with pytest.raises(ValueError, match="`half` needs float32 and a processor with AVX512_BF16"):
            pack(functions, torch.randn(1, 1, 16, 16), half=True)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 13, 32, 65, 150])
@pytest.mark.parametrize(
    ("columns", "outer", "units", "inner"),
    [
        (1, 1, 1, 1),
        (4, 1, 37, 37),
        (3, 2, 16, 7),
        (1, 3, 100, 19),
        (2, 1, 130, 64),
        (1, 1, 650, 33),
        (4, 1, 64, 0),
        (2, 3, 37, 4097),
        (1, 400, 20, 63),
    ],
)
def test_product_bf16_of_packed_weights(halves, count, columns, outer, units, inner):
    matrices = torch.randn(columns, outer, units, inner)
    rows = torch.randn(count, outer, inner + 3)
    packed, vectors = pack(halves, matrices, half=True)
    out = product(halves, rows, packed, vectors, inner, half=True)
    expected = torch.einsum("couk,nok->ncu", rounded(matrices), rounded(rows[..., :inner]))
    # a sum is one chain, whose error grows with its length
    tolerance = TOLERANCE[torch.float32] * max(1, outer * inner / 2000)
    assert difference(by_unit(halves, out, columns, units), expected, outer * inner) < tolerance
    assert out[:, vectors * halves.VL :].isnan().all()


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("units", [1, 16, 37, 100])
@pytest.mark.parametrize("inner", [1, 7, 32, 37, 64])
def test_packing_bf16_does_not_depend_on_strides(halves, units, inner, columns):
    matrices = torch.randn(columns, 2, units, inner)
    expected, _ = pack(halves, matrices, half=True)
    turned = matrices.transpose(2, 3).contiguous().transpose(2, 3)
    spread = torch.randn(columns, 2, units, inner, 2)
    spread[..., 0] = matrices
    for other in (turned, spread[..., 0]):
        assert same_bits(pack(halves, other, half=True)[0], expected)


@pytest.mark.parametrize("inner", [5, 32, 50])
def test_packed_order_bf16(halves, inner):
    columns, units, pairs = 3, halves.VL + 1, -(-inner // 2)
    matrices = torch.randn(columns, 1, units, inner)
    # halfway between two numbers, beyond the largest, and a NaN whose upper half says infinity
    special = torch.tensor([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
    matrices[0, 0, :4, 0] = special
    packed, vectors = pack(halves, matrices, half=True)
    assert packed.numel() == halves.half_size(units, columns, 1, inner) == vectors * pairs * halves.VL
    packed = packed.view(torch.bfloat16)
    for v in range(vectors):
        block, place = divmod(v, halves.NC)
        width = min(halves.NC, vectors - block * halves.NC)
        start = 2 * block * halves.NC * pairs * halves.VL
        own = packed[start : start + 2 * pairs * width * halves.VL].view(pairs, width, halves.VL, 2)[:, place]
        steps = own.transpose(1, 2).reshape(2 * pairs, halves.VL)
        first = v // columns * halves.VL
        lanes = min(halves.VL, units - first)
        expected = matrices[v % columns, 0, first : first + lanes].bfloat16().T
        assert torch.equal(steps[:inner, :lanes].nan_to_num(7.0), expected.nan_to_num(7.0))
        assert (steps[inner:] == 0).all()
        assert (steps[:, lanes:] == 0).all()


@pytest.mark.parametrize(
    ("outer", "units", "inner"), [(2, 16, 45), (2, 37, 45), (2, 200, 45), (1, 100, 2601), (70, 40, 99)]
)
def test_bits_of_bf16_do_not_depend_on_how_rows_are_grouped(halves, outer, units, inner):
    packed, vectors = pack(halves, torch.randn(3, outer, units, inner), half=True)
    rows = torch.randn(130, outer, inner)
    expected = product(halves, rows, packed, vectors, inner, half=True)[:, : -halves.VL]
    for size in (1, 2, 3, 4, 5, 7, 40, 64):
        parts = [product(halves, part, packed, vectors, inner, half=True) for part in rows.split(size)]
        assert torch.equal(torch.cat(parts)[:, : -halves.VL], expected), size


@pytest.mark.parametrize("count", [1, 2, 3, 6, 13])
def test_nan_in_a_row_stays_in_it_with_bf16(halves, count):
    packed, vectors = pack(halves, torch.randn(1, 1, 64, 10), half=True)
    rows = torch.randn(count, 1, 10)
    rows[count // 2, 0, 3] = torch.nan
    out = product(halves, rows, packed, vectors, 10, half=True)[:, :64]
    assert out.isnan().any(1).nonzero().flatten().tolist() == [count // 2]
    assert out[count // 2].isnan().all()


@linux
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 70])
def test_product_and_pack_bf16_touch_nothing_else(halves, count, end):
    for columns, units, inner in ((1, 5, 1), (4, 37, 19), (2, 130, 16), (3, 64, 64), (1, 128, 49), (1, 20, 1001)):
        matrices = torch.randn(columns, 1, units, inner)
        expected, vectors = pack(halves, matrices, half=True)
        packed = Guarded(torch.empty_like(expected), end)
        for layout in (matrices, matrices.transpose(2, 3)):
            source = Guarded(layout.contiguous(), end).tensor
            source = source if layout is matrices else source.transpose(2, 3)
            pack(halves, source, packed.tensor, half=True)
            assert same_bits(packed.tensor, expected)
        rows = Guarded(torch.randn(count, 1, inner), end)
        out = Guarded(torch.empty(count, vectors * halves.VL), end)
        product(halves, rows.tensor, packed.tensor, vectors, inner, out.tensor, half=True)
        whole = product(halves, rows.tensor, expected, vectors, inner, half=True)
        assert torch.equal(out.tensor, whole[:, : -halves.VL])


# gradients of the inputs


def gemm_rows(functions, rows, packed, inner, n, out, *, offsets=None, add=False, threads=1):
    """Call `gemm_rows` for `rows` [count, outer, from inner on] into `out` [anything, n or more]."""
    count, outer, _ = rows.shape
    workspace = torch.empty(functions.rows_workspace(threads) + 64, dtype=torch.uint8)
    functions.run_rows(
        {
            RowsArgs.OUT: out.data_ptr(),
            RowsArgs.OUT_OFFSETS: 0 if offsets is None else offsets.data_ptr(),
            RowsArgs.OUT_STRIDE: out.stride(0),
            RowsArgs.N: n,
            RowsArgs.A: rows.data_ptr(),
            RowsArgs.A_STRIDE: rows.stride(0),
            RowsArgs.COUNT: count,
            RowsArgs.OUTER: outer,
            RowsArgs.OUTER_STRIDE: rows.stride(1),
            RowsArgs.INNER: inner,
            RowsArgs.W: packed.data_ptr(),
            RowsArgs.ADD: int(add),
            RowsArgs.WORKSPACE: -(-workspace.data_ptr() // 64) * 64,
        },
        threads,
    )


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(
    ("count", "outer", "inner", "n"), [(1, 1, 1, 1), (5, 4, 37, 100), (257, 1, 64, 37), (100, 3, 20, 64), (70, 1, 0, 9)]
)
def test_gemm_rows(functions, dtype, count, outer, inner, n, scattered, add):
    weights = torch.randn(outer, n, inner, dtype=dtype)
    packed, _ = pack(functions, weights[None])
    rows = torch.randn(count, outer, inner + 5, dtype=dtype)
    before = torch.randn(2 * count, n + 2, dtype=dtype)
    where = torch.randperm(2 * count)[:count] if scattered else torch.arange(count)
    expected = before.double().clone()
    expected[where, :n] = torch.einsum("onk,qok->qn", weights.double(), rows[..., :inner].double())
    if add:
        expected[where, :n] += before[where, :n].double()
    results = []
    for threads in (1, 2, 3):
        out = before.clone()
        offsets = where * (n + 2) if scattered else None
        gemm_rows(functions, rows, packed, inner, n, out, offsets=offsets, add=add, threads=threads)
        results.append(out)
    assert difference(results[0], expected, outer * inner) < TOLERANCE[dtype]
    assert all(torch.equal(other, results[0]) for other in results)


@linux
@pytest.mark.parametrize("end", [True, False])
def test_gemm_rows_touches_nothing_else(functions, dtype, end):
    for count, inner, n in ((1, 1, 1), (7, 37, 100), (60, 16, 64), (13, 5, 67)):
        weights = torch.randn(1, 1, n, inner, dtype=dtype)
        packed = Guarded(pack(functions, weights)[0], end)
        rows = Guarded(torch.randn(count, 1, inner, dtype=dtype), end)
        out = Guarded(torch.zeros(count, n, dtype=dtype), end)
        for add in (False, True):
            gemm_rows(functions, rows.tensor, packed.tensor, inner, n, out.tensor, add=add)
        expected = 2 * rows.tensor[:, 0].double() @ weights[0, 0].double().T
        assert difference(out.tensor, expected, inner) < 2 * TOLERANCE[dtype]


# gradients of the weights


def gemm_tn(functions, a, b, c, *, slots, m, n, a_offsets, bias=None, offsets=None, b_stride=0, threads=1):
    """Call `gemm_tn` for `a` [count, slots], `b` and `c` [slots, m, n or more]."""
    workspace = torch.empty(functions.outer_workspace(threads, n) + 64, dtype=torch.uint8)
    a_offsets = torch.tensor(a_offsets)
    c_offsets = torch.arange(slots) * c.stride(0)
    bias_offsets = torch.arange(slots) * m
    functions.run_tn(
        {
            OuterArgs.COUNT: a.shape[0],
            OuterArgs.SLOTS: slots,
            OuterArgs.M: m,
            OuterArgs.N: n,
            OuterArgs.A: a.data_ptr(),
            OuterArgs.A_STRIDE: a.stride(0),
            OuterArgs.A_OFFSETS: a_offsets.data_ptr(),
            OuterArgs.B: b.data_ptr(),
            OuterArgs.B_STRIDE: b_stride,
            OuterArgs.B_OFFSETS: 0 if offsets is None else offsets.data_ptr(),
            OuterArgs.C: c.data_ptr(),
            OuterArgs.C_STRIDE: c.stride(1),
            OuterArgs.C_OFFSETS: c_offsets.data_ptr(),
            OuterArgs.BIAS: 0 if bias is None else bias.data_ptr(),
            OuterArgs.BIAS_OFFSETS: 0 if bias is None else bias_offsets.data_ptr(),
            OuterArgs.WORKSPACE: -(-workspace.data_ptr() // 64) * 64,
        },
        threads,
    )


def slotted(functions, count, slots, m, dtype):
    """Return A with its slots, NaN in the padding, the offsets of the slots, and the slots as [slots, count, m]."""
    padded = functions.vectors(m) * functions.VL
    a = torch.full((count, slots, padded), torch.nan, dtype=dtype)
    a[..., :m] = torch.randn(count, slots, m, dtype=dtype)
    return a.view(count, -1), [s * padded for s in range(slots)], a[..., :m].transpose(0, 1)


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize(
    ("count", "slots", "m", "n"),
    [(1, 1, 1, 1), (7, 2, 37, 5), (300, 4, 64, 100), (900, 8, 5, 37), (257, 1, 100, 270), (40, 3, 130, 64)],
)
def test_gemm_tn(functions, dtype, count, slots, m, n, gathered):
    a, a_offsets, parts = slotted(functions, count, slots, m, dtype)
    b = torch.randn(2 * count, n, dtype=dtype)
    order = torch.randperm(2 * count)[:count] if gathered else torch.arange(count)
    before, bias_before = torch.randn(slots, m, n + 2, dtype=dtype), torch.randn(slots, m, dtype=dtype)
    expected = before.double().clone()
    expected[..., :n] += torch.einsum("sqm,qn->smn", parts.double(), b[order].double())
    results = []
    for threads in (1, 2, 3, 7):
        c, bias = before.clone(), bias_before.clone()
        gemm_tn(
            functions,
            a,
            b,
            c,
            slots=slots,
            m=m,
            n=n,
            a_offsets=a_offsets,
            bias=bias,
            offsets=order * n if gathered else None,
            b_stride=n,
            threads=threads,
        )
        results.append((c, bias))
    (c, bias), *others = results
    assert difference(c, expected, count) < TOLERANCE[dtype]
    assert difference(bias, bias_before.double() + parts.double().sum(1), count) < TOLERANCE[dtype]
    assert all(torch.equal(x, c) and torch.equal(y, bias) for x, y in others)


def test_gemm_tn_without_bias_and_with_nothing_to_add(functions, dtype):
    a, a_offsets, parts = slotted(functions, 9, 2, 20, dtype)
    b = torch.randn(9, 30, dtype=dtype)
    c = torch.zeros(2, 20, 30, dtype=dtype)
    gemm_tn(functions, a[:0], b, c, slots=2, m=20, n=30, a_offsets=a_offsets, b_stride=30)
    assert (c == 0).all()
    gemm_tn(functions, a, b, c, slots=2, m=20, n=30, a_offsets=a_offsets, b_stride=30)
    expected = torch.einsum("sqm,qn->smn", parts.double(), b.double())
    assert difference(c, expected, 9) < TOLERANCE[dtype]


@linux
@pytest.mark.parametrize("end", [True, False])
def test_gemm_tn_touches_nothing_else(functions, dtype, end):
    for count, slots, m, n in ((1, 1, 1, 1), (7, 2, 37, 5), (300, 1, 70, 100), (5, 4, 16, 64)):
        a, a_offsets, parts = slotted(functions, count, slots, m, dtype)
        a = Guarded(a, end)
        b = Guarded(torch.randn(count, n, dtype=dtype), end)
        c = Guarded(torch.zeros(slots, m, n, dtype=dtype), end)
        bias = Guarded(torch.zeros(slots, m, dtype=dtype), end)
        gemm_tn(
            functions,
            a.tensor,
            b.tensor,
            c.tensor,
            slots=slots,
            m=m,
            n=n,
            a_offsets=a_offsets,
            bias=bias.tensor,
            b_stride=n,
        )
        expected = torch.einsum("sqm,qn->smn", parts.double(), b.tensor.double())
        assert difference(c.tensor, expected, count) < TOLERANCE[dtype]
        assert difference(bias.tensor, parts.double().sum(1), count) < TOLERANCE[dtype]


def test_denormals_are_zero_inside_and_not_after(functions, dtype):
    tiny = torch.finfo(dtype).tiny / 4
    packed, _ = pack(functions, torch.ones(1, 1, 4, 3, dtype=dtype))
    out = torch.ones(2, 4, dtype=dtype)
    gemm_rows(functions, torch.full((2, 1, 3), tiny, dtype=dtype), packed, 3, 4, out)
    assert (out == 0).all()
    assert (torch.full((40,), tiny, dtype=dtype) * 0.5 != 0).all()


# the machine code


def inner_loops(assembly):
    """Return the instructions of the loops of every tile: those from a label to the jump back to it."""
    loops, name = {}, None
    for line in assembly.splitlines():
        line = line.strip()
        if start := re.fullmatch(r'"?_?(tile_\w+)"?:.*', line):
            name, body, labels = start[1], [], {}
            loops[name] = []
        elif name and line.startswith(".Lfunc_end"):
            name = None
        elif name and (label := re.match(r"(\.L\w+):", line)):
            labels[label[1]] = len(body)
            body.append("label")
        elif name and line and line[0] not in ".#/":
            body.append(line)
            jump = re.match(r"(?:j\w+|b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
            if jump and jump[1] in labels:
                loop = body[labels[jump[1]] :]
                if loop.count("label") == 1 and any(re.search("fmadd|fmla|mulp|dpbf16", text) for text in loop):
                    loops[name].append(loop)
    return loops


@pytest.mark.parametrize("name", LEVELS)
def test_tiles_keep_everything_in_registers(name, dtype):
    target = level(name)
    text = machine.assembly(library_ir(dtype, target), target)
    if dtype == torch.float32 and target.has_bf16:
        text += machine.assembly(half_ir(target), target)
    loops = inner_loops(text)
    assert len(loops) > 20
    for tile, bodies in loops.items():
        assert bodies, f"{tile} has no loop"
        for body in bodies:
            touching = [line for line in body if re.search(r"\(%[re][sb]p|\[sp|\[x29", line)]
            assert not touching, f"{tile} for {name} keeps values on the stack: {touching}"
            if target.vector_bytes == 64:
                assert all("zmm" in line for line in body if re.search("fmadd|dpbf16", line)), tile
            if target.vector_bytes >= 32 and tile.startswith("tile_1_"):
                # a weight is used once: it is an operand of the multiply-add, not loaded before
                assert not any(re.match(r"vmov[au]p", line) for line in body), (tile, body)
