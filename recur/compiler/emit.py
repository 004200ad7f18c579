"""From a planned step to a kernel over whole sequences, as LLVM IR.

A kernel walks: steps, stages, groups of panels (a panel is one vector of units), blocks of rows. Matrix products are
calls of `library`'s register tiles into a scratch block that stays in the nearest cache; the elementwise work of the
stage then reads it. With several threads either the rows are split, and no one waits for anyone, or the panels are,
and all meet after each stage.

Rows are sorted by length, longest first, so that those still running at a step are the first ones; what is kept
per step lies packed, step after step, `cum[t]` rows before step t. Buffers of the caller (x, y and their gradients) are
reached through a table of offsets per row and a stride per step: ragged, left-padded and reversed sequences
differ in those tables only. The only argument is an array of 64-bit words, `Source.fields` says which is which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from math import gcd, lcm

from recur.compiler import vectormath
from recur.compiler.graph import OUTPUTS, ROW, UNITS, Node
from recur.compiler.ir import Function, Module
from recur.compiler.plan import Plan, Product, Stage
from recur.compiler.target import Target
from recur.compiler.threads import BARRIER_IR
from recur.compiler.tiles import Tiling
from recur.compiler.vectormath import Real

ROWS = 48  # rows of a block: their scratch stays in the first-level cache
FEW = 3  # up to so many rows, a product reads many panels at once
WIDE = 64  # how many vectors it then gives
CACHED = 1 << 19  # and these have so many bytes of weights at most: half a second-level cache


@dataclass(frozen=True)
class Source:
    """A kernel's IR, and the names of the words of its argument, in order."""

    text: str
    fields: tuple[str, ...]


class Kernel:
    """What both directions share: arguments, addresses, the elementwise work of a stage."""

    name = ""

    def __init__(self, plan: Plan, tiling: Tiling, target: Target) -> None:
        self.plan, self.kind, self.target = plan, tiling.kind, target
        block = tiling.columns
        self.fields: list[str] = []
        self.module = Module()
        self.module.add(BARRIER_IR)
        self.f = Function(self.module, f"define void @{self.name}(ptr %a, i64 %tid, i64 %nt, ptr %team) nounwind")
        self._prologue: list[str] = []
        self._arguments: dict[str, str] = {}
        columns = [len(product.leaves) for stage in plan.stages for product in stage.products]
        # panels come in groups whose vectors fill whole tiles for every product
        self.group = lcm(1, *(block // gcd(c, block) for c in [*columns, *self.more_columns()] if c))
        self.uses = self._count_uses()
        self.scratch = {
            id(product): self.alloca(
                self.kind.size * max(ROWS * self.group, FEW * self.wide(product)) * len(product.leaves)
            )
            for stage in plan.stages
            for product in stage.products
        }

    def more_columns(self) -> list[int]:
        """Return numbers of columns of products besides those of the stages."""
        return []

    def wide(self, product: Product) -> int:
        """Return how many panels of a product are read at once where there are few rows."""
        return self.group * max(1, WIDE // (self.group * len(product.leaves)))

    def weights_of(self, product: Product) -> int:
        """Return how many bytes of weights a panel has for each number that the product reads of an operand."""
        return self.kind.size * len(product.leaves) * product.operand.count

    def source(self) -> Source:
        """Write the kernel."""
        raise NotImplementedError

    def finish(self) -> Source:
        """Close the function and return the module."""
        self.f._lines[2:2] = self._prologue
        self.f.close()
        return Source(self.module.text, tuple(self.fields))

    # arguments and addresses

    def word(self, name: str, type: str = "i64") -> str:
        """Return the value of a word of the argument, read once where the kernel starts."""
        if name not in self._arguments:
            if name not in self.fields:
                self.fields.append(name)
            address, value = f"%a.{len(self._arguments)}", f"%w.{len(self._arguments)}"
            self._prologue += [
                f"  {address} = getelementptr i64, ptr %a, i64 {self.fields.index(name)}",
                f"  {value} = load {type}, ptr {address}",
            ]
            self._arguments[name] = value
        return self._arguments[name]

    def pointer(self, name: str) -> str:
        """Return a word that is an address."""
        return self.word(name, "ptr")

    def once(self, instruction: str) -> str:
        """Return the value of an instruction on arguments alone, written once where the kernel starts."""
        if instruction not in self._arguments:
            name = f"%o.{len(self._arguments)}"
            self._prologue.append(f"  {name} = {instruction}")
            self._arguments[instruction] = name
        return self._arguments[instruction]

    def alloca(self, size: int) -> str:
        """Return the address of `size` bytes on the stack."""
        name = f"%s.{len(self._prologue)}"
        self._prologue.append(f"  {name} = alloca [{size} x i8], align 64")
        return name

    def element(self, base: str, index: str) -> str:
        """Return the address of a number."""
        return self.f.at(base, index, self.kind.name)

    def size(self, dim: str) -> str:
        """Return H or P."""
        return self.word(dim)

    def padded(self, dim: str) -> str:
        """H or P rounded up to whole vectors."""
        return self.word(dim + "p")

    def panels(self, dim: str) -> str:
        """Return how many panels H or P has."""
        return self.word("panels_" + dim)

    def offset(self, dims: list[str], index: int) -> str:
        """Return where slot `index` starts, given the dimensions of all."""
        counts = {dim: sum(d == dim for d in dims[:index]) for dim in (UNITS, OUTPUTS)}
        parts = [self.times(count, self.padded(dim)) for dim, count in counts.items() if count]
        if not parts:
            return "0"
        return parts[0] if len(parts) == 1 else self.once(f"add i64 {parts[0]}, {parts[1]}")

    def times(self, count: int, word: str) -> str:
        """Return a multiple of a word of the argument."""
        if count in (0, 1):
            return word if count else "0"
        return self.once(f"mul i64 {word}, {count}")

    # threads and rows

    def divide(self) -> None:
        """Say which rows and panels are this thread's."""
        f = self.f
        self.split = f.let(f"icmp ne i64 {self.word('split')}, 0")
        self.row0 = f.let(f"select i1 {self.split}, i64 0, i64 %tid")
        self.rstep = f.let(f"select i1 {self.split}, i64 1, i64 %nt")
        self.range: dict[str, tuple[str, str]] = {}
        for dim in {stage.dim for stage in self.plan.stages} | {UNITS}:
            panels = self.panels(dim)
            groups = f.let(f"sdiv i64 {f.add(panels, str(self.group - 1))}, {self.group}")

            def bound(share: str, panels: str = panels, groups: str = groups) -> str:
                at = f.let(f"sdiv i64 {f.mul(groups, share)}, %nt")
                return f.minimum(panels, f.mul(at, str(self.group)))

            first, last = bound("%tid"), bound(f.add("%tid", "1"))
            self.range[dim] = (
                f.let(f"select i1 {self.split}, i64 {first}, i64 0"),
                f.let(f"select i1 {self.split}, i64 {last}, i64 {panels}"),
            )
        self.strides = {id(stage): [self.stride(stage, few) for few in (True, False)] for stage in self.plan.stages}
        # nt may be less than the caller asked for: what each thread has follows from nt itself
        each = f.let(f"sdiv i64 {f.sub(f.add(self.word('R'), '%nt'), '1')}, %nt")
        self.rows_each = f.let(f"select i1 {self.split}, i64 {self.word('R')}, i64 {each}")

    def tables(self, count: int, more: str = "0") -> tuple[str, list[str]]:
        """Return room for `more` addresses, and for `count` times one for each of this thread's rows."""
        f = self.f
        size = f.add(more, f.mul(str(count), self.rows_each))
        start = f.at(self.pointer("pointers"), f.mul("%tid", size), "ptr")
        first = f.at(start, more, "ptr")
        return start, [f.at(first, f.mul(str(n), self.rows_each), "ptr") for n in range(count)]

    def mine(self, rows: str) -> str:
        """Return how many of the first `rows` rows are this thread's."""
        f = self.f
        return f.let(f"sdiv i64 {f.sub(f.add(f.sub(rows, self.row0), self.rstep), '1')}, {self.rstep}")

    def row(self, j: str) -> str:
        """Return which row this thread's row j is."""
        return self.f.add(self.row0, self.f.mul(j, self.rstep))

    def cum(self, t: str) -> str:
        """Return how many rows lie before step t."""
        return self.f.load("i64", self.f.at(self.pointer("cum"), t, "i64"))

    def caller_row(self, buffer: str, row: str, t: str) -> str:
        """Return the address of a row of the caller's buffer at step t."""
        f = self.f
        start = f.load("i64", f.at(self.pointer(f"{buffer}_offsets"), row, "i64"))
        return self.element(self.pointer(buffer), f.add(start, f.mul(t, self.word(f"{buffer}_step"))))

    def fill_rows(self, j: str, row: str, t: str, start: str, earlier: str, previous: str) -> None:
        """Say where row j's output, masks and states before step t lie; before the first step, the initial ones."""
        f = self.f
        f.store("ptr", self.caller_row("y", row, t), f.at(self.after_rows, j, "ptr"))
        if self.plan.equation.masks:
            f.store("ptr", self.caller_row("mask", row, t), f.at(self.mask_rows, j, "ptr"))
        for name, table in self.before_rows.items():
            initial = self.element(self.pointer(f"initial_{name}"), f.mul(row, self.word(f"initial_{name}_row")))
            if name == "h":
                last = self.caller_row("y", row, earlier)
            else:
                ld = self.padded(self.plan.equation.dim(name))
                last = self.element(self.pointer(f"state_{name}"), f.mul(f.add(previous, row), ld))
            chosen = f.let(f"select i1 {start}, ptr {initial}, ptr {last}")
            f.store("ptr", chosen, f.at(table, j, "ptr"))

    def call_product(
        self,
        out: str,
        out_stride: str,
        w: str,
        vectors: str,
        rows: str,
        count: str,
        outer: str,
        stride: str,
        inner: str,
    ) -> None:
        """Call the library's matrix product."""
        self.f.do(
            f"call void {self.pointer('product')}(ptr {out}, i64 {out_stride}, ptr {w}, i64 {vectors}, ptr {rows}, "
            f"i64 {count}, i64 {outer}, i64 {stride}, i64 {inner})"
        )

    def barrier(self) -> None:
        """Write a barrier, where units are split."""
        with self.f.when(self.split):
            self.f.do("call void @recur_barrier(ptr %team, i64 %nt)")

    @contextmanager
    def groups(self, stage: Stage, rows: str) -> Iterator[tuple[str, str]]:
        """Write a loop over this thread's panels in groups: (first panel, how many).

        Every other step takes them in the opposite order: it begins with the weights that are still in the cache.
        """
        f = self.f
        first, last = self.range[stage.dim]
        few = f.let(f"icmp sle i64 {rows}, {FEW}")
        step, ends = (
            f.let(f"select i1 {few}, i64 {a}, i64 {b}") for a, b in zip(*self.strides[id(stage)], strict=True)
        )
        with f.loop(first, last, step) as loop:
            at = f.let(f"select i1 {self.turned}, i64 {f.sub(ends, loop.index)}, i64 {loop.index}")
            yield at, f.minimum(step, f.sub(last, at))

    turned: str

    def stride(self, stage: Stage, few: bool) -> tuple[str, str]:
        """Return how many panels a group has, and where the first group starts plus where the last one does."""
        f = self.f
        first, last = self.range[stage.dim]
        step = str(self.group if stage.products else WIDE * self.group)
        if few and stage.products:
            each = reduce(f.add, (self.times(self.weights_of(p), self.size(p.operand.dim)) for p in stage.products))
            groups = f.maximum(f.let(f"udiv i64 {CACHED // self.group}, {each}"), "1")
            step = f.minimum(str(min(map(self.wide, stage.products))), f.mul(groups, str(self.group)))
        rest = f.let(f"srem i64 {f.sub(f.sub(last, first), '1')}, {step}")
        return step, f.sub(f.sub(f.add(first, last), "1"), rest)

    # elementwise work

    def _count_uses(self) -> dict[Node, int]:
        raise NotImplementedError

    def fused(self, node: Node, stage: Stage) -> tuple[Node, Node, str] | None:
        """Return (product, other term, signs) where an add or sub is made one instruction with a multiplication."""
        if node.op not in ("add", "sub") or node.dim == ROW:
            return None
        a, b = node.args
        for product, other, signs in (
            (a, b, "++" if node.op == "add" else "+-"),
            (b, a, "++" if node.op == "add" else "-+"),
        ):
            if product.op == "mul" and self.uses.get(product, 0) == 1 and product in stage.order:
                return product, other, signs
        return None

    def work(self, stage: Stage, j0: str, count: str, first: str, panels: str) -> None:
        """Write the elementwise work of `stage` on `count` rows and `panels` panels."""
        f, kind = self.f, self.kind
        with f.loop("0", count) as rows:
            j = f.add(j0, rows.index)
            values: dict[Node, str] = {}
            address = self.addresses(stage, j, rows.index, first, panels)
            for node, (buffer, index) in stage.loads.items():
                if buffer in ("sum", "row", "share"):
                    values[node] = self.row_value(buffer, index, address)
            for node in stage.order:
                if node.dim == ROW:
                    values[node] = self.compute(node, stage, values)
            for buffer, index, node in stage.stores:
                if buffer == "row":
                    scalar = f.let(f"extractelement {kind.vector} {self.value(node, values)}, i64 0")
                    f.store(kind.name, scalar, self.element(address["row"], str(index)))
            with f.loop("0", panels) as loop:
                self.panel(stage, dict(values), address, loop.index, first)

    def panel(self, stage: Stage, values: dict[Node, str], address: dict[str, str], p: str, first: str) -> None:
        """Write the work on one panel."""
        f, kind = self.f, self.kind
        unit = f.mul(f.add(first, p), str(kind.lanes))
        mask = self.mask(stage.dim, unit)
        for node, (buffer, index) in stage.loads.items():
            if buffer not in ("sum", "row", "share"):
                values[node] = self.load_value(node, buffer, index, address, unit, p, mask)
        skipped = {fused[0] for node in stage.order if (fused := self.fused(node, stage))}
        skipped -= {node for _, _, node in stage.stores}
        for node in stage.order:
            if node.dim != ROW and node not in skipped:
                values[node] = self.compute(node, stage, values)
        for buffer, index, node in stage.stores:
            if buffer != "row":
                self.store_value(
                    self.value(node, values), buffer, index, address, unit, mask, stage.dim, f.add(first, p)
                )

    def mask(self, dim: str, unit: str) -> str:
        """Return which lanes of the panel at `unit` are units."""
        f, lanes = self.f, self.kind.lanes
        left = f.let(f"trunc i64 {f.sub(self.size(dim), unit)} to i32")
        first = f.let(f"insertelement <{lanes} x i32> poison, i32 {left}, i64 0")
        splat = f.let(f"shufflevector <{lanes} x i32> {first}, <{lanes} x i32> poison, <{lanes} x i32> zeroinitializer")
        numbers = ", ".join(f"i32 {lane}" for lane in range(lanes))
        return f.let(f"icmp slt <{lanes} x i32> <{numbers}>, {splat}")

    def load(self, base: str, index: str) -> str:
        """Load a vector from a buffer of whole vectors."""
        return self.f.load(self.kind.vector, self.element(base, index), self.kind.size)

    def load_masked(self, address: str, mask: str) -> str:
        """Load the lanes that are units; the others are 0."""
        kind = self.kind
        name = f"@llvm.masked.load.{kind.suffix}.p0"
        self.module.declare(f"declare {kind.vector} {name}(ptr, i32, {kind.mask}, {kind.vector})")
        return self.f.let(
            f"call {kind.vector} {name}(ptr {address}, i32 {kind.bytes}, {kind.mask} {mask}, "
            f"{kind.vector} zeroinitializer)"
        )

    def store_masked(self, value: str, address: str, mask: str) -> None:
        """Store the lanes that are units."""
        kind = self.kind
        name = f"@llvm.masked.store.{kind.suffix}.p0"
        self.module.declare(f"declare void {name}({kind.vector}, ptr, i32, {kind.mask})")
        self.f.do(f"call void {name}({kind.vector} {value}, ptr {address}, i32 {kind.bytes}, {kind.mask} {mask})")

    def splat(self, scalar: str) -> str:
        """Return a vector with one number in all lanes."""
        return self.kind.broadcast(self.f, scalar)

    def reduce(self, start: str, vector: str) -> str:
        """Return start plus the sum of the lanes."""
        kind = self.kind
        name = f"@llvm.vector.reduce.fadd.{kind.suffix}"
        self.module.declare(f"declare {kind.name} {name}({kind.name}, {kind.vector})")
        return self.f.let(f"call reassoc {kind.name} {name}({kind.name} {start}, {kind.vector} {vector})")

    def row_value(self, buffer: str, index: str | int, address: dict[str, str]) -> str:
        """Return a value that is the same for all units of a row, in all lanes."""
        f, kind = self.f, self.kind
        if buffer == "share":
            return self.splat(f.load(kind.name, self.pointer(f"share_{index}")))
        if buffer == "row":
            return self.splat(f.load(kind.name, self.element(address["row"], str(index))))
        base = self.element(address["sum"], f.mul(str(index), self.word("sums_each")))
        with f.loop("0", self.word("sums_each"), str(kind.lanes), [(kind.vector, "zeroinitializer")]) as loop:
            part = self.load(base, loop.index)
            loop.next(f.let(f"fadd {kind.vector} {loop.values[0]}, {part}"))
        return self.splat(self.reduce(kind.constant(-0.0), loop.results[0]))

    def value(self, node: Node, values: dict[Node, str]) -> str:
        """Return the name of a node's value, or its text."""
        return self.kind.splat(node.value) if node.op == "const" else values[node]

    def compute(self, node: Node, stage: Stage, values: dict[Node, str]) -> str:
        """Write one elementwise operation."""
        f, kind = self.f, self.kind
        if fused := self.fused(node, stage):
            product, other, signs = fused
            a, b = (self.value(arg, values) for arg in product.args)
            c = self.value(other, values)
            if signs[0] == "-":
                a = kind.negate(f, a)
            if signs[1] == "-":
                c = kind.negate(f, c)
            return kind.fma(f, a, b, c)
        args = [self.value(arg, values) for arg in node.args]
        v = kind.vector

        def plain(operation: str) -> Callable[..., str]:
            return lambda a, b: f.let(f"{operation} {v} {a}, {b}")

        def pick(test: str) -> Callable[..., str]:
            # the one that the test prefers; NaN in either wins
            def chosen(a: str, b: str) -> str:
                better = kind.select(f, kind.compare(f, test, a, b), a, b)
                return kind.select(f, kind.compare(f, "uno", a, a), a, better)

            return chosen

        def absolute(a: str) -> str:
            self.module.declare(f"declare {v} @llvm.fabs.{kind.suffix}({v})")
            return f.let(f"call {v} @llvm.fabs.{kind.suffix}({v} {a})")

        def root(a: str) -> str:
            self.module.declare(f"declare {v} @llvm.sqrt.{kind.suffix}({v})")
            return f.let(f"call {v} @llvm.sqrt.{kind.suffix}({v} {a})")

        tests = {"gt": "ogt", "ge": "oge", "lt": "olt", "le": "ole", "eq": "oeq", "ne": "une"}
        operations: dict[str, Callable[..., str]] = {
            "add": plain("fadd"),
            "sub": plain("fsub"),
            "mul": plain("fmul"),
            "div": plain("fdiv"),
            "max": pick("ogt"),
            "min": pick("olt"),
            "neg": lambda a: kind.negate(f, a),
            "abs": absolute,
            "sqrt": root,
            "relu": lambda a: kind.at_least(f, a, 0.0),
            "clip": lambda a: a,
            "where": lambda c, a, b: kind.select(f, c, a, b),
            "pow": lambda a: vectormath.power(f, a, kind.splat(node.value), kind),
        }
        if node.op in tests:
            return kind.compare(f, tests[node.op], *args)
        if node.op in operations:
            return operations[node.op](*args)
        activation: Callable[[Function, str, Real], str] = getattr(vectormath, node.op)
        return activation(f, args[0], kind)

    # what a buffer's name means; the two directions add theirs

    def addresses(self, stage: Stage, j: str, block_row: str, first: str, panels: str) -> dict[str, str]:
        """Return the address of this row in every buffer that the stage uses."""
        f = self.f
        used = {buffer for buffer, _ in stage.loads.values()} | {buffer for buffer, _, _ in stage.stores}
        row = self.row(j)
        found: dict[str, str] = {}
        now = f.add(self.now, row)
        for name in ("slot", "gate", "gradient"):
            if name in used:
                found[name] = self.element(self.pointer(name), f.mul(now, self.word(f"{name}_row")))
        if "row" in used:
            found["row"] = self.element(self.pointer("rows"), f.mul(now, str(len(self.plan.rows))))
        if "temporary" in used:
            found["temporary"] = self.element(self.pointer("temporary"), f.mul(row, self.word("temporary_row")))
        if "unit_gradient" in used:
            found["unit_gradient"] = self.element(
                self.pointer("unit_gradient"), f.mul(row, self.word("unit_gradient_row"))
            )
        if "sum" in used:
            each = self.times(len(self.plan.sums), self.word("sums_each"))
            found["sum"] = self.element(self.pointer("sums"), f.mul(row, each))
        if "mask" in used:
            found["mask"] = f.load("ptr", f.at(self.mask_rows, j, "ptr"))
        for name in self.plan.equation.states:
            for what in ("state", "new", "carry"):
                indices = [index for buffer, index in stage.loads.values() if buffer == what]
                indices += [index for buffer, index, _ in stage.stores if buffer == what]
                if name in indices:
                    found[f"{what} {name}"] = self.state_row(what, name, j, row)
        for number, product in enumerate(stage.products):
            stride = f.mul(panels, str(len(product.leaves) * self.kind.lanes))
            found[f"product {number}"] = self.element(self.scratch[id(product)], f.mul(block_row, stride))
        return found

    def state_row(self, what: str, name: str, j: str, row: str) -> str:
        """Return the address of a row of a state: `state` before the step, `new` after it, `carry`."""
        f = self.f
        if what == "state":
            return f.load("ptr", f.at(self.before_rows[name], j, "ptr"))
        if what == "new" and name == "h":
            return f.load("ptr", f.at(self.after_rows, j, "ptr"))
        base, position = (f"state_{name}", self.now) if what == "new" else (f"carry_{name}", self.carry_write)
        return self.element(self.pointer(base), f.mul(f.add(position, row), self.padded(self.plan.equation.dim(name))))

    now: str
    carry_write: str
    mask_rows: str
    after_rows: str
    before_rows: dict[str, str]

    def product_value(self, stage: Stage, node: Node, address: dict[str, str], p: str) -> str:
        """Load what a matrix product gave."""
        f = self.f
        for number, product in enumerate(stage.products):
            if node in product.leaves:
                column = f.add(f.mul(p, str(len(product.leaves))), str(product.leaves.index(node)))
                return self.load(address[f"product {number}"], f.mul(column, str(self.kind.lanes)))
        raise AssertionError(node)

    def load_value(
        self, node: Node, buffer: str, index: str | int, address: dict[str, str], unit: str, p: str, mask: str
    ) -> str:
        """Load a vector of what a stage needs."""
        f, plan = self.f, self.plan
        match buffer:
            case "state" | "new":
                place = self.element(address[f"{buffer} {index}"], unit)
                return self.load_masked(place, mask)
            case "unit":
                number = plan.equation.units.index(str(index))
                return self.load(self.pointer("units"), f.add(self.times(number, self.padded(UNITS)), unit))
            case "mask":
                number = plan.equation.masks.index(str(index))
                start = self.times(number, self.word("mask_each"))
                return self.load_masked(self.element(address["mask"], f.add(start, unit)), mask)
            case "slot":
                return self.load(address["slot"], f.add(self.slot_offset(int(index)), unit))
            case "temporary":
                start = self.offset([node.dim for node in plan.temporaries], int(index))
                return self.load(address["temporary"], f.add(start, unit))
        raise AssertionError(buffer)

    def slot_offset(self, index: int) -> str:
        """Return where a kept slot starts in its row."""
        return self.offset([node.dim for node in self.plan.slots], index)

    def store_value(
        self,
        value: str,
        buffer: str,
        index: str | int,
        address: dict[str, str],
        unit: str,
        mask: str,
        dim: str,
        panel: str,
    ) -> None:
        """Store a vector of what a stage gives."""
        f, kind, plan = self.f, self.kind, self.plan
        match buffer:
            case "slot":
                self.keep(value, address["slot"], f.add(self.slot_offset(int(index)), unit))
            case "temporary":
                start = self.offset([node.dim for node in plan.temporaries], int(index))
                self.keep(value, address["temporary"], f.add(start, unit))
            case "sum":
                total = self.reduce(kind.constant(-0.0), kind.select(f, mask, value, kind.splat(0.0)))
                start = self.times(int(index), self.word("sums_each"))
                f.store(kind.name, total, self.element(address["sum"], f.add(start, panel)))
            case _:
                raise AssertionError(buffer)

    def keep(self, value: str, base: str, index: str) -> None:
        """Store a whole vector."""
        self.f.store(self.kind.vector, value, self.element(base, index), self.kind.size)
