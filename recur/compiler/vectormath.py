"""exp, log, tanh, sigmoid and power of whole vectors, written in line into a kernel.

Accurate to about 2 units in the last place; NaN stays NaN, the infinities have their limits, tanh keeps the sign of
zero. Results below 2^-125 (2^-1021 for doubles) may be zero. The coefficients are minimax fits made with mpmath by the
Remez algorithm (error weighted by |r| + 0.02), rounded to the type; `contract` is the only fast-math flag.
"""

import math
import struct
from dataclasses import dataclass

from recur.compiler.ir import Function

# (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2, ascending
EXP = {
    "float": (0.5000000061867931, 0.16666540550410608, 0.04166627528748243, 0.008367007584806128,
              0.0013947140255679527),
    "double": (0.5, 0.16666666666666677, 0.0416666666666667, 0.008333333333321265, 0.0013888888888866225,
               0.00019841269887519374, 2.480158736223764e-05, 2.75572424168032e-06, 2.755724106135728e-07,
               2.510977856385994e-08, 2.092502509191579e-09),
}  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 as a polynomial of s^2, s = (m - 1) / (m + 1), sqrt(1/2) <= m <= sqrt(2), ascending
LOG = {
    "float": (0.6666666654838328, 0.4000012650589866, 0.28550315071541327, 0.23343781552518286),
    "double": (0.666666666666667, 0.3999999999989215, 0.28571428629232826, 0.22222210613558593, 0.18182926455232104,
               0.15330499349884374, 0.14631354698858245),
}  # fmt: skip
# ln(2) in two parts, the first with so few bits that its product with any exponent is exact
LN2 = {
    "float": (0.693145751953125, 1.4286068203094173e-06),
    "double": (0.6931471803691238, 1.9082149292705877e-10),
}


@dataclass(frozen=True)
class Real:
    """A vector type: `name` is "float" or "double", `lanes` how many of them."""

    name: str = "float"
    lanes: int = 16

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return 32 if self.name == "float" else 64

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return self.bits // 8

    @property
    def size(self) -> int:
        """Bytes of the vector."""
        return self.lanes * self.bytes

    @property
    def mantissa(self) -> int:
        """Stored bits of the mantissa."""
        return 23 if self.name == "float" else 52

    @property
    def bias(self) -> int:
        """What is added to an exponent when it is stored."""
        return 127 if self.name == "float" else 1023

    @property
    def vector(self) -> str:
        """The type as text, `<16 x float>`."""
        return f"<{self.lanes} x {self.name}>"

    @property
    def integer(self) -> str:
        """The vector of integers of the same width, `<16 x i32>`."""
        return f"<{self.lanes} x i{self.bits}>"

    @property
    def mask(self) -> str:
        """The vector of truth values, `<16 x i1>`."""
        return f"<{self.lanes} x i1>"

    @property
    def suffix(self) -> str:
        """How names of intrinsics end, `v16f32`."""
        return f"v{self.lanes}f{self.bits}"

    def constant(self, value: float) -> str:
        """Return the exact text of `value`, rounded to the type."""
        if self.name == "float" and math.isfinite(value):
            value = struct.unpack("f", struct.pack("f", value))[0]
        return f"0x{struct.unpack('Q', struct.pack('d', value))[0]:016X}"

    def splat(self, value: float) -> str:
        """Return a vector of `value` in every lane, as text."""
        return f"splat ({self.name} {self.constant(value)})"

    def splat_bits(self, value: int) -> str:
        """Return a vector of the integer `value` in every lane, as text."""
        return f"splat (i{self.bits} {value})"

    def broadcast(self, f: Function, scalar: str) -> str:
        """Return a vector with the value `scalar` in every lane."""
        first = f.let(f"insertelement {self.vector} poison, {self.name} {scalar}, i64 0")
        return f.let(f"shufflevector {self.vector} {first}, {self.vector} poison, <{self.lanes} x i32> zeroinitializer")

    def op(self, f: Function, operation: str, a: str, b: str) -> str:
        """Return a and b under `fadd`, `fsub`, `fmul` or `fdiv`."""
        return f.let(f"{operation} contract {self.vector} {a}, {b}")

    def fma(self, f: Function, a: str, b: str, c: str) -> str:
        """Return a * b + c, in one rounding where the processor can."""
        t, name = self.vector, f"@llvm.fmuladd.{self.suffix}"
        f.module.declare(f"declare {t} {name}({t}, {t}, {t})")
        return f.let(f"call contract {t} {name}({t} {a}, {t} {b}, {t} {c})")

    def negate(self, f: Function, a: str) -> str:
        """Return -a."""
        return f.let(f"fneg {self.vector} {a}")

    def select(self, f: Function, condition: str, a: str, b: str) -> str:
        """Return a where `condition` holds, else b."""
        return f.let(f"select {self.mask} {condition}, {self.vector} {a}, {self.vector} {b}")

    def compare(self, f: Function, test: str, a: str, b: str) -> str:
        """Return where `test`, such as `olt`, holds between a and b."""
        return f.let(f"fcmp {test} {self.vector} {a}, {b}")

    def at_most(self, f: Function, value: str, bound: float) -> str:
        """Return the smaller of both; NaN stays NaN, because it is not above the bound."""
        return self.select(f, self.compare(f, "olt", self.splat(bound), value), self.splat(bound), value)

    def at_least(self, f: Function, value: str, bound: float) -> str:
        """Return the larger of both; NaN stays NaN."""
        return self.select(f, self.compare(f, "ogt", self.splat(bound), value), self.splat(bound), value)

    def polynomial(self, f: Function, x: str, ascending: tuple[float, ...]) -> str:
        """Return the polynomial of x with these coefficients (Horner: the processor overlaps neighbouring vectors)."""
        value = self.splat(ascending[-1])
        for coefficient in reversed(ascending[:-1]):
            value = self.fma(f, value, x, self.splat(coefficient))
        return value

    def as_integer(self, f: Function, value: str) -> str:
        """Return the bits."""
        return f.let(f"bitcast {self.vector} {value} to {self.integer}")

    def as_real(self, f: Function, value: str) -> str:
        """Return the number that has these bits."""
        return f.let(f"bitcast {self.integer} {value} to {self.vector}")


def exp(f: Function, v: str, kind: Real) -> str:
    """Return e^v."""
    return _exp(f, v, kind, 1)


def sigmoid(f: Function, v: str, kind: Real) -> str:
    """Return 1 / (1 + e^-v), relatively accurate on both sides."""
    one = kind.splat(1.0)
    return kind.op(f, "fdiv", one, kind.op(f, "fadd", one, _exp(f, v, kind, -1)))


def tanh(f: Function, v: str, kind: Real) -> str:
    """Return tanh(v) = e / (e + 2) with e = e^2v - 1, relatively accurate near 0."""
    bound = 10.0 if kind.name == "float" else 20.0
    v = kind.at_least(f, kind.at_most(f, v, bound), -bound)
    # e needs no second part of ln(2): where the exponent is large, e / (e + 2) hardly depends on it
    n, scale = _power_of_two(f, kind.fma(f, v, kind.splat(2 / math.log(2)), kind.splat(_magic(kind))), kind)
    r = kind.fma(f, n, kind.splat(-math.log(2) / 2), v)
    coefficients = tuple(c * 2 ** (k + 2) for k, c in enumerate(EXP[kind.name]))
    q = kind.op(f, "fmul", r, kind.polynomial(f, r, (2.0, *coefficients)))
    # written as scale * q - (1 - scale), because -0 - 0 is -0
    e = kind.fma(f, scale, q, kind.negate(f, kind.op(f, "fsub", kind.splat(1.0), scale)))
    return kind.op(f, "fdiv", e, kind.op(f, "fadd", e, kind.splat(2.0)))


def log(f: Function, v: str, kind: Real) -> str:
    """Return the natural logarithm of v; -inf at 0, NaN below."""
    zero, infinity = kind.splat(0.0), kind.splat(math.inf)
    tiny = kind.compare(f, "olt", v, kind.splat(2.0 ** (1 - kind.bias)))
    lifted = kind.select(f, tiny, kind.op(f, "fmul", v, kind.splat(2.0 ** (kind.mantissa + 1))), v)
    # v = m 2^n with sqrt(1/2) <= m < sqrt(2)
    root = struct.unpack("i", struct.pack("f", math.sqrt(0.5)))[0]
    if kind.name == "double":
        root = struct.unpack("q", struct.pack("d", math.sqrt(0.5)))[0]
    bits = kind.as_integer(f, lifted)
    n = f.let(f"sub {kind.integer} {bits}, {kind.splat_bits(root)}")
    n = f.let(f"ashr {kind.integer} {n}, {kind.splat_bits(kind.mantissa)}")
    m = f.let(f"sub {kind.integer} {bits}, {f.let(f'shl {kind.integer} {n}, {kind.splat_bits(kind.mantissa)}')}")
    m = kind.as_real(f, m)
    # the integer n as a number: in the last bits of a large one
    large = 1.5 * 2.0**kind.mantissa
    large_bits = struct.unpack("i", struct.pack("f", large))[0]
    if kind.name == "double":
        large_bits = struct.unpack("q", struct.pack("d", large))[0]
    n = kind.as_real(f, f.let(f"add {kind.integer} {n}, {kind.splat_bits(large_bits)}"))
    n = kind.op(f, "fsub", n, kind.splat(large))
    shift = kind.select(f, tiny, kind.splat(-(kind.mantissa + 1.0)), zero)
    n = kind.op(f, "fadd", n, shift)
    x = kind.op(f, "fsub", m, kind.splat(1.0))
    s = kind.op(f, "fdiv", x, kind.op(f, "fadd", x, kind.splat(2.0)))
    z = kind.op(f, "fmul", s, s)
    rest = kind.op(f, "fmul", z, kind.polynomial(f, z, LOG[kind.name]))
    # log(1 + x) = x - (x^2/2 - s (x^2/2 + rest)), where x^2/2 carries the rounding errors of s
    half = kind.op(f, "fmul", kind.op(f, "fmul", x, x), kind.splat(0.5))
    high, low = LN2[kind.name]
    inner = kind.fma(f, s, kind.op(f, "fadd", half, rest), kind.op(f, "fmul", n, kind.splat(low)))
    value = kind.op(f, "fsub", x, kind.op(f, "fsub", half, inner))
    value = kind.fma(f, n, kind.splat(high), value)
    special = kind.select(f, kind.compare(f, "ogt", v, zero), v, kind.splat(math.nan))
    special = kind.select(f, kind.compare(f, "oeq", v, zero), kind.splat(-math.inf), special)
    inside = f.let(f"and {kind.mask} {kind.compare(f, 'ogt', v, zero)}, {kind.compare(f, 'olt', v, infinity)}")
    return kind.select(f, inside, value, special)


def power(f: Function, v: str, exponent: str, kind: Real) -> str:
    """Return v^exponent = e^(exponent log v) for v >= 0; NaN below, and error grows with |exponent log v|.

    `exponent` is a vector, such as `kind.splat(1.5)`. For whole exponents multiply instead.
    """
    return exp(f, kind.op(f, "fmul", exponent, log(f, v, kind)), kind)


def _magic(kind: Real, shift: int = 0) -> float:
    """Return the number whose sum with n holds n - shift, as an exponent is stored, in its last bits."""
    return 1.5 * 2.0**kind.mantissa + kind.bias - shift


def _power_of_two(f: Function, t: str, kind: Real, shift: int = 0) -> tuple[str, str]:
    """Return n and 2^(n - shift), from t = n + magic."""
    n = kind.op(f, "fsub", t, kind.splat(_magic(kind, shift)))
    bits = f.let(f"shl {kind.integer} {kind.as_integer(f, t)}, {kind.splat_bits(kind.mantissa)}")
    return n, kind.as_real(f, bits)


def _exp(f: Function, v: str, kind: Real, sign: int) -> str:
    """Return e^(sign v) = 2^(n-1) 2 e^r by the method of Cody and Waite; 2^n itself can be too large for the type."""
    bound = (kind.bias - 0.6) * math.log(2)  # from here on 2^(n-1) is stored as 0
    v = kind.at_least(f, v, -bound) if sign > 0 else kind.at_most(f, v, bound)
    t = kind.fma(f, v, kind.splat(sign / math.log(2)), kind.splat(_magic(kind, 1)))
    # above, n stays and r grows, so that the product becomes infinite
    n, scale = _power_of_two(f, kind.at_most(f, t, _magic(kind) + kind.bias), kind, 1)
    r = v
    for part in LN2[kind.name]:
        r = kind.fma(f, n, kind.splat(-sign * part), r)
    coefficients = (1.0, 1.0, *EXP[kind.name])
    p = kind.polynomial(f, r, tuple(2 * c * sign**k for k, c in enumerate(coefficients)))
    return kind.op(f, "fmul", p, scale)
