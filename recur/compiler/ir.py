"""LLVM IR as text: a small builder with names, loops and branches, enough to write kernels in and nothing more.

Values are strings such as `%7` or `0.5`; types are written out. Loops carry their values as phi nodes, so that the
text needs no optimisation passes before machine code is made from it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Module:
    """The text of an LLVM module under construction."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._declared: set[str] = set()

    def declare(self, text: str) -> None:
        """Add a declaration such as `declare <16 x float> @llvm.fabs.v16f32(<16 x float>)`, once."""
        self._declared.add(text)

    def add(self, text: str) -> None:
        """Add a whole definition."""
        self._parts.append(text)

    def function(self, name: str, parameters: str, *, returns: str = "void", internal: bool = False) -> "Function":
        """Start a function; `parameters` as in LLVM, such as `ptr %args, i64 %n`. `close` it when it is complete."""
        linkage = "internal " if internal else ""
        return Function(self, f"define {linkage}{returns} @{name}({parameters}) nounwind")

    @property
    def text(self) -> str:
        """The module as LLVM assembly."""
        return "\n".join([*sorted(self._declared), *self._parts, ""])


class Loop:
    """A counted loop while its body is written: `index`, `values` carried into the round, and after it `results`."""

    def __init__(self, index: str, values: list[str]) -> None:
        self.index, self.values = index, values
        self.results: list[str] = []
        self._next: Sequence[str] | None = None

    def next(self, *values: str) -> None:
        """Say what the carried values are in the next round."""
        self._next = values


class Function:
    """A function under construction: `let` names a value, `do` is an instruction without one."""

    def __init__(self, module: Module, head: str) -> None:
        self.module = module
        self._lines = [head + " {", "entry:"]
        self._count = 0
        self._block = "entry"

    def let(self, instruction: str) -> str:
        """Append an instruction and return the name of its value."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {instruction}")
        return name

    def do(self, instruction: str) -> None:
        """Append an instruction that has no value."""
        self._lines.append(f"  {instruction}")

    def label(self, hint: str) -> str:
        """Return a fresh label; `place` puts it."""
        self._count += 1
        return f"{hint}{self._count}"

    def place(self, label: str) -> None:
        """Start the block `label`."""
        self._lines.append(f"{label}:")
        self._block = label

    def close(self, result: str = "void") -> None:
        """Return `result`, such as `i64 %v7`, and add the function to its module."""
        self._lines += [f"  ret {result}", "}"]
        self.module.add("\n".join(self._lines))

    # addresses and numbers

    def at(self, base: str, index: str, type: str = "i8") -> str:
        """Return the address of element `index` of an array of `type` at `base`."""
        return base if index == "0" else self.let(f"getelementptr {type}, ptr {base}, i64 {index}")

    def load(self, type: str, address: str, align: int | None = None) -> str:
        """Load a value."""
        return self.let(f"load {type}, ptr {address}" + (f", align {align}" if align else ""))

    def store(self, type: str, value: str, address: str, align: int | None = None) -> None:
        """Store a value."""
        self.do(f"store {type} {value}, ptr {address}" + (f", align {align}" if align else ""))

    def add(self, a: str, b: str) -> str:
        """Return a + b, 64 bits."""
        if a == "0" or b == "0":
            return b if a == "0" else a
        return self.let(f"add i64 {a}, {b}")

    def sub(self, a: str, b: str) -> str:
        """Return a - b, 64 bits."""
        return a if b == "0" else self.let(f"sub i64 {a}, {b}")

    def mul(self, a: str, b: str) -> str:
        """Return a * b, 64 bits."""
        if a == "1" or b == "1":
            return b if a == "1" else a
        return self.let(f"mul i64 {a}, {b}")

    def minimum(self, a: str, b: str) -> str:
        """Return the smaller of a and b, 64 bits."""
        less = self.let(f"icmp slt i64 {a}, {b}")
        return self.let(f"select i1 {less}, i64 {a}, i64 {b}")

    def maximum(self, a: str, b: str) -> str:
        """Return the larger of a and b, 64 bits."""
        more = self.let(f"icmp sgt i64 {a}, {b}")
        return self.let(f"select i1 {more}, i64 {a}, i64 {b}")

    # control

    @contextmanager
    def loop(
        self, start: str, stop: str, step: str = "1", carried: Sequence[tuple[str, str]] = (), down: bool = False
    ) -> Iterator[Loop]:
        """Write a loop over start, start + step, ... while below `stop` (while above, with `down` and a negative step).

        `carried` lists (type, first value); the body calls `loop.next(...)` with as many values.
        """
        body, latch, done = self.label("body"), self.label("latch"), self.label("done")
        test = "sgt" if down else "slt"
        before = self._block
        enter = self.let(f"icmp {test} i64 {start}, {stop}")
        self.do(f"br i1 {enter}, label %{body}, label %{done}")
        self.place(body)
        index = f"%{body}.i"
        values = [f"%{body}.c{n}" for n in range(len(carried))]
        head = len(self._lines)
        loop = Loop(index, values)
        yield loop
        following = list(loop._next or [])
        if len(following) != len(carried):
            raise ValueError("the body must say the next value of everything that the loop carries")
        self.do(f"br label %{latch}")
        self.place(latch)
        after = self.let(f"add i64 {index}, {step}")
        again = self.let(f"icmp {test} i64 {after}, {stop}")
        self.do(f"br i1 {again}, label %{body}, label %{done}")
        phis = [f"  {index} = phi i64 [ {start}, %{before} ], [ {after}, %{latch} ]"]
        phis += [
            f"  {value} = phi {type} [ {first}, %{before} ], [ {new}, %{latch} ]"
            for value, (type, first), new in zip(values, carried, following, strict=True)
        ]
        self._lines[head:head] = phis
        self.place(done)
        loop.results = [
            self.let(f"phi {type} [ {first}, %{before} ], [ {new}, %{latch} ]")
            for (type, first), new in zip(carried, following, strict=True)
        ]

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Write a block that runs only where the i1 `condition` holds."""
        yes, done = self.label("yes"), self.label("done")
        self.do(f"br i1 {condition}, label %{yes}, label %{done}")
        self.place(yes)
        yield
        self.do(f"br label %{done}")
        self.place(done)
