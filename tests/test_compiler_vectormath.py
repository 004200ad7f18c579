import ctypes
import math

import pytest
import torch

from recur.compiler import machine, vectormath
from recur.compiler.controls import flush_off, flush_on
from recur.compiler.ir import Module
from recur.compiler.target import host
from recur.compiler.vectormath import Real

pytestmark = pytest.mark.skipif(machine.available() is not None, reason="no machine code here")

FUNCTIONS = ("exp", "log", "tanh", "sigmoid")
DTYPES = {"float": torch.float32, "double": torch.float64}
# units in the last place; the reference of float64 is torch, which is off by up to one itself
ULPS = {("float", "exp"): 1.0, ("float", "log"): 1.0, ("float", "tanh"): 2.0, ("float", "sigmoid"): 2.0}
INF, NAN = math.inf, math.nan


def compiled(kind, power=None):
    """Return functions from tensor to tensor, whose length is a multiple of the lanes."""
    module = Module()
    for name in FUNCTIONS + (("power",) if power is not None else ()):
        f = module.function(name, "ptr %x, ptr %y, i64 %n")
        with f.loop("0", "%n", str(kind.lanes)) as loop:
            v = f.load(kind.vector, f.at("%x", loop.index, kind.name), kind.bytes)
            if name == "power":
                v = vectormath.power(f, v, kind.splat(power), kind)
            else:
                v = getattr(vectormath, name)(f, v, kind)
            f.store(kind.vector, v, f.at("%y", loop.index, kind.name), kind.bytes)
            loop.next()
        f.close()
    names = FUNCTIONS + (("power",) if power is not None else ())
    addresses = machine.load(module.text, names)

    def caller(name):
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(addresses[name])

        def run(x):
            padded = torch.nn.functional.pad(x.to(DTYPES[kind.name]), (0, -x.numel() % kind.lanes)).contiguous()
            y = torch.empty_like(padded)
            call(padded.data_ptr(), y.data_ptr(), padded.numel())
            return y[: x.numel()]

        return run

    return {name: caller(name) for name in names}


@pytest.fixture(scope="module", params=["float", "double"])
def kind(request):
    return Real(request.param, host().lanes(DTYPES[request.param]))


@pytest.fixture(scope="module")
def functions(kind):
    return compiled(kind)


def ulps(got, expected, dtype):
    info = torch.finfo(dtype)
    return ((got.double() - expected).abs() / (info.eps * expected.abs().clamp_min(info.tiny))).max().item()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_two_units_in_the_last_place(functions, kind, name):
    dtype = DTYPES[kind.name]
    large = 86.6 if kind.name == "float" else 707.7
    ranges = [(-large, large), (-30, 30), (-1, 1), (-1e-3, 1e-3), (-1e-30, 1e-30)]
    if name == "log":
        ranges = [(1e-30, 1e30), (1e-3, 4), (0.5, 1.5), (0.999, 1.001), (1e-37, 1e-35)]
    for low, high in ranges:
        x = torch.linspace(low, high, 40_000, dtype=torch.float64).to(dtype)
        expected = getattr(torch, name)(x.double())
        assert ulps(functions[name](x), expected, dtype) <= ULPS.get((kind.name, name), 2.0) + 0.5, (low, high)


def test_limits_and_zeros(functions, kind):
    x = torch.tensor([INF, -INF, NAN, 0.0, -0.0, 2000.0, -2000.0])
    expected = {
        "exp": [INF, 0, NAN, 1, 1, INF, 0],
        "sigmoid": [1, 0, NAN, 0.5, 0.5, 1, 0],
        "tanh": [1, -1, NAN, 0, -0.0, 1, -1],
        "log": [INF, NAN, NAN, -INF, -INF, None, NAN],
    }
    for name, values in expected.items():
        for got, value in zip(functions[name](x).tolist(), values, strict=True):
            if value is not None:
                assert got == value or (math.isnan(got) and math.isnan(value)), (name, got, value)
                assert math.isnan(value) or math.copysign(1, got) == math.copysign(1, value), name


def test_a_nan_stays_in_its_lane(functions, kind):
    x = torch.linspace(0.1, 2, 3 * kind.lanes)
    x[kind.lanes + 1] = NAN
    for function in functions.values():
        assert function(x).isnan().nonzero().tolist() == [[kind.lanes + 1]]


def test_denormals_and_the_largest_numbers(functions, kind):
    dtype = DTYPES[kind.name]
    info = torch.finfo(dtype)
    tiny = torch.tensor([info.tiny / 8, info.tiny, -info.tiny / 8], dtype=dtype)
    assert torch.equal(functions["tanh"](tiny), tiny)
    assert functions["exp"](tiny).tolist() == [1, 1, 1]
    assert functions["log"](tiny[:2]).tolist() == pytest.approx(tiny[:2].double().log().tolist(), rel=1e-6)
    # up to where the result is too large for the type
    top = math.log(info.max)
    x = torch.linspace(top - 0.4, top - 1e-4, 1000, dtype=torch.float64).to(dtype)
    assert ulps(functions["exp"](x), x.double().exp(), dtype) <= 1.5
    assert functions["exp"](torch.tensor([top + 0.01])).item() == INF


@pytest.mark.parametrize("exponent", [0.5, -1.5, 3.7])
def test_power(kind, exponent):
    x = torch.linspace(0.01, 50, 5000, dtype=DTYPES[kind.name])
    tolerance = 4e-6 if kind.name == "float" else 1e-14
    torch.testing.assert_close(
        compiled(kind, exponent)["power"](x).double(), x.double() ** exponent, rtol=tolerance, atol=0
    )


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 32])
def test_any_number_of_lanes_gives_the_same_bits(kind, functions, lanes):
    x = torch.linspace(-12, 12, 320)
    narrow = compiled(Real(kind.name, lanes))
    for name in FUNCTIONS:
        torch.testing.assert_close(narrow[name](x), functions[name](x), rtol=0, atol=0, equal_nan=True)


def test_denormals_are_zero_between_flush_on_and_off():
    module = Module()
    f = module.function("half", "ptr %x, i64 %flush")
    wanted = f.let("icmp ne i64 %flush, 0")
    with f.when(wanted):
        f.do("call void @flushed(ptr %x)")
    f.store("float", f.let(f"fmul float {f.load('float', '%x')}, 0.5"), "%x")
    f.close()
    f = module.function("flushed", "ptr %x", internal=True)
    state = flush_on(f, host())
    f.do("call void @halve(ptr %x)")
    flush_off(f, host(), state)
    f.close()
    f = module.function("halve", "ptr %x", internal=True)
    f.store("float", f.let(f"fmul float {f.load('float', '%x')}, 0.5"), "%x")
    f.close()
    half = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(machine.load(module.text, ["half"])["half"])
    for flush, expected in ((0, 0.5), (1, 0.0), (0, 0.5)):
        x = torch.tensor([1e-39])
        half(x.data_ptr(), flush)
        assert x.item() == pytest.approx(1e-39 * expected, rel=1e-3)


def test_constants_are_exact():
    assert Real("float", 4).constant(0.1) == "0x3FB99999A0000000"
    assert Real("double", 4).constant(0.1) == "0x3FB999999999999A"
    assert Real("float", 4).splat(-INF) == "splat (float 0xFFF0000000000000)"
