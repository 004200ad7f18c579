"""From a planned step to a kernel over whole sequences, as LLVM IR.

A kernel walks: steps, stages, groups of panels (a panel is one vector of units), blocks of rows. Matrix products are calls
of `library`'s register tiles into a scratch block that stays in the nearest cache; the elementwise work of the stage
then reads it. With several threads either the rows are split, and no one waits for anyone, or the panels are, and all
meet after each stage.

Rows are sorted by length, longest first, so that those still running at a step are the first ones; what is kept
per step lies packed, step after step, `cum[t]` rows before step t. Buffers of the caller (x, y and their gradients) are
reached through a table of offsets per row and a stride per step: ragged, left-padded and reversed sequences
differ in those tables only. The only argument is an array of 64-bit words, `Source.fields` says which is which.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd, lcm

from recur.compiler import vectormath
from recur.compiler.controls import flush_off, flush_on
from recur.compiler.graph import OUTPUTS, ROW, UNITS, Node
from recur.compiler.ir import Function, Module
from recur.compiler.plan import Plan, Product, Stage, folded, used_inputs
from recur.compiler.target import Target
from recur.compiler.threads import BARRIER_IR
from recur.compiler.tiles import Tiling
from recur.compiler.vectormath import Real

ROWS = 48  # rows of a block: their scratch stays in the first-level cache
FEW = 3  # up to so many rows, a product reads many panels at once
WIDE = 64  # how many vectors it then gives


@dataclass(frozen=True)
class Source:
    """A kernel's IR, and the names of the words of its argument, in order."""

    text: str
    fields: tuple[str, ...]


def emit_forward(plan: Plan, tiling: Tiling, target: Target, *, training: bool) -> Source:
    """Return the kernel that runs `plan`, made by `plan_forward`, over a sequence."""
    return _Forward(plan, tiling, target, training).source()


def emit_backward(plan: Plan, tiling: Tiling, target: Target) -> Source:
    """Return the kernel that runs `plan`, made by `plan_backward`, back over a sequence."""
    return _Backward(plan, tiling, target).source()


class _Kernel:
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
        return []

    def wide(self, product: Product) -> int:
        return self.group * max(1, WIDE // (self.group * len(product.leaves)))

    def source(self) -> Source:
        """Write the kernel."""
        raise NotImplementedError

    def finish(self) -> Source:
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
        return self.word(dim)

    def padded(self, dim: str) -> str:
        """H or P rounded up to whole vectors."""
        return self.word(dim + "p")

    def panels(self, dim: str) -> str:
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
        with self.f.when(self.split):
            self.f.do("call void @recur_barrier(ptr %team, i64 %nt)")

    @contextmanager
    def groups(self, stage: Stage, rows: str) -> Iterator[tuple[str, str]]:
        """Write a loop over this thread's panels in groups: (first panel, how many)."""
        f = self.f
        first, last = self.range[stage.dim]
        wide = min((self.wide(product) for product in stage.products), default=WIDE * self.group)
        few = f.let(f"icmp sle i64 {rows}, {FEW}")
        step = f.let(f"select i1 {few}, i64 {wide}, i64 {self.group if stage.products else wide}")
        with f.loop(first, last, step) as loop:
            yield loop.index, f.minimum(step, f.sub(last, loop.index))

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
            f"call {kind.vector} {name}(ptr {address}, i32 {kind.bytes}, {kind.mask} {mask}, {kind.vector} zeroinitializer)"
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


class _Forward(_Kernel):
    name = "forward"

    def __init__(self, plan: Plan, tiling: Tiling, target: Target, training: bool) -> None:
        self.training = training
        self.inputs = used_inputs(plan.equation)
        self.folded = folded(plan.equation)
        super().__init__(plan, tiling, target)

    def more_columns(self) -> list[int]:
        return [len(self.inputs)]

    def _count_uses(self) -> dict[Node, int]:
        # by the equation alone, so that training and inference round alike
        uses = {node: 1 for node in self.plan.equation.new.values()}
        for node in self.plan.equation.nodes:
            for arg in node.args:
                uses[arg] = uses.get(arg, 0) + 1
        return uses

    def source(self) -> Source:
        f = self.f
        control = flush_on(f, self.target)
        self.divide()
        states = [*dict.fromkeys(self.states_read())]
        slots = [p for stage in self.plan.stages for p in stage.products if p.operand.kind == "slot"]
        chunk_rows = f.mul(self.word("chunk"), self.rows_each)
        x_rows, tables = self.tables(2 + len(states) + len(slots), chunk_rows)
        self.after_rows, self.mask_rows = tables[:2]
        self.before_rows = dict(zip(states, tables[2:], strict=False))
        self.slot_rows = {id(product): table for product, table in zip(slots, tables[2 + len(states) :], strict=True)}
        # gates' inputs of some steps at a time: shared if panels are split, else each thread's own
        own = f.mul("%tid", f.mul(chunk_rows, self.word("gx_row")))
        own = f.let(f"select i1 {self.split}, i64 0, i64 {own}")
        self.gx = self.element(self.pointer("gx"), own)
        with f.loop("0", self.word("T"), self.word("chunk")) as chunks:
            start, stop = chunks.index, f.minimum(self.word("T"), f.add(chunks.index, self.word("chunk")))
            self.project(start, stop, x_rows)
            with f.loop(start, stop, carried=[("i64", "0")]) as steps:
                count = self.step(steps.index, steps.values[0])
                steps.next(f.add(steps.values[0], count))
        flush_off(f, self.target, control)
        return self.finish()

    def states_read(self) -> Iterator[str]:
        for stage in self.plan.stages:
            yield from (str(index) for buffer, index in stage.loads.values() if buffer == "state")
            yield from (product.operand.name for product in stage.products if product.operand.kind == "state")

    def project(self, start: str, stop: str, x_rows: str) -> None:
        """Multiply the inputs of some steps with the gates' matrices."""
        f = self.f
        if not self.inputs:
            return
        with f.loop(start, stop, carried=[("i64", "0")]) as steps:
            t, q = steps.index, steps.values[0]
            count = self.mine(f.sub(self.cum(f.add(t, "1")), self.cum(t)))
            with f.loop("0", count) as loop:
                address = self.caller_row("x", self.row(loop.index), t)
                f.store("ptr", address, f.at(x_rows, f.add(q, loop.index), "ptr"))
            steps.next(f.add(q, count))
        first, last = self.range[UNITS]
        columns, lanes, inner = len(self.inputs), self.kind.lanes, self.word("D")
        out = self.element(self.gx, f.mul(first, str(columns * lanes)))
        w = self.element(self.pointer("w_x"), f.mul(f.mul(first, str(columns * lanes)), inner))
        vectors = f.mul(f.sub(last, first), str(columns))
        some = f.let(f"icmp sgt i64 {vectors}, 0")
        with f.when(some):
            self.call_product(out, self.word("gx_row"), w, vectors, x_rows, steps.results[0], "1", "0", inner)

    def step(self, t: str, q: str) -> str:
        """Write one step; q rows of this chunk came before it. Return how many rows it has."""
        f, plan = self.f, self.plan
        before = f.sub(t, "1")
        alive = f.sub(self.cum(f.add(t, "1")), self.cum(t))
        count = self.mine(alive)
        start = f.let(f"icmp eq i64 {t}, 0")
        earlier = f.let(f"select i1 {start}, i64 0, i64 {before}")
        if self.training:
            self.now, previous = self.cum(t), self.cum(earlier)
        else:
            self.now = f.mul(f.let(f"and i64 {t}, 1"), self.word("R"))
            previous = f.mul(f.let(f"and i64 {earlier}, 1"), self.word("R"))
        self.q = q
        with f.loop("0", count) as loop:
            j, row = loop.index, self.row(loop.index)
            f.store("ptr", self.caller_row("y", row, t), f.at(self.after_rows, j, "ptr"))
            if plan.equation.masks:
                f.store("ptr", self.caller_row("mask", row, t), f.at(self.mask_rows, j, "ptr"))
            for name, table in self.before_rows.items():
                initial = self.element(self.pointer(f"initial_{name}"), f.mul(row, self.word(f"initial_{name}_row")))
                if name == "h":
                    last = self.caller_row("y", row, earlier)
                else:
                    ld = self.padded(plan.equation.dim(name))
                    last = self.element(self.pointer(f"state_{name}"), f.mul(f.add(previous, row), ld))
                chosen = f.let(f"select i1 {start}, ptr {initial}, ptr {last}")
                f.store("ptr", chosen, f.at(table, j, "ptr"))
            for stage in plan.stages:
                for product in stage.products:
                    if id(product) in self.slot_rows:
                        place = self.element(self.pointer("slot"), f.mul(f.add(self.now, row), self.word("slot_row")))
                        place = self.element(place, self.slot_offset(product.operand.first))
                        f.store("ptr", place, f.at(self.slot_rows[id(product)], j, "ptr"))
        for number, stage in enumerate(plan.stages):
            self.stage(number, stage, count)
        return count

    def stage(self, number: int, stage: Stage, count: str) -> None:
        f = self.f
        with self.groups(stage, count) as (first, panels):
            with f.loop("0", count, str(ROWS)) as blocks:
                rows = f.minimum(str(ROWS), f.sub(count, blocks.index))
                for index, product in enumerate(stage.products):
                    columns, inner = len(product.leaves), self.size(product.operand.dim)
                    table = (
                        self.before_rows[product.operand.name]
                        if product.operand.kind == "state"
                        else self.slot_rows[id(product)]
                    )
                    vectors = f.mul(panels, str(columns))
                    start = f.mul(f.mul(first, str(columns * self.kind.lanes)), inner)
                    w = self.element(self.pointer(f"w_{number}_{index}"), start)
                    stride = f.mul(vectors, str(self.kind.lanes))
                    rows_at = f.at(table, blocks.index, "ptr")
                    self.call_product(self.scratch[id(product)], stride, w, vectors, rows_at, rows, "1", "0", inner)
                self.work(stage, blocks.index, rows, first, panels)
        self.barrier()

    def addresses(self, stage: Stage, j: str, block_row: str, first: str, panels: str) -> dict[str, str]:
        found = super().addresses(stage, j, block_row, first, panels)
        f = self.f
        if any(buffer == "x" for buffer, _ in stage.loads.values()):
            found["x"] = self.element(self.gx, f.mul(f.add(self.q, j), self.word("gx_row")))
        return found

    def load_value(
        self, node: Node, buffer: str, index: str | int, address: dict[str, str], unit: str, p: str, mask: str
    ) -> str:
        f, kind = self.f, self.kind
        if buffer == "x":
            number = self.inputs.index(str(index))
            place = f.add(f.mul(unit, str(len(self.inputs))), str(number * kind.lanes))
            value = self.load(address["x"], place)
            return self.with_bias(value, "bias_x", self.plan.equation.gates.index(str(index)), unit)
        if buffer in ("product", "project"):
            stage = next(s for s in self.plan.stages if any(node in product.leaves for product in s.products))
            value = self.product_value(stage, node, address, p)
            if buffer == "project" or node in self.folded:
                return value
            return self.with_bias(value, "bias_u", self.plan.equation.recurrent.index(node.name), unit)
        return super().load_value(node, buffer, index, address, unit, p, mask)

    def with_bias(self, value: str, buffer: str, number: int, unit: str) -> str:
        f = self.f
        bias = self.load(self.pointer(buffer), f.add(self.times(number, self.padded(UNITS)), unit))
        return f.let(f"fadd {self.kind.vector} {value}, {bias}")

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
        f = self.f
        if buffer == "new" and index == "h":
            self.store_masked(value, self.element(address["new h"], unit), mask)
        elif buffer == "new":
            self.keep(value, address[f"new {index}"], unit)
        elif buffer == "gate":
            number = self.plan.equation.gates.index(str(index))
            self.keep(value, address["gate"], f.add(self.times(number, self.padded(UNITS)), unit))
        else:
            super().store_value(value, buffer, index, address, unit, mask, dim, panel)


class _Backward(_Kernel):
    name = "backward"

    def __init__(self, plan: Plan, tiling: Tiling, target: Target) -> None:
        self.slot_dims = plan.gradient_dims
        super().__init__(plan, tiling, target)

    def _count_uses(self) -> dict[Node, int]:
        uses: dict[Node, int] = {}
        for stage in self.plan.stages:
            for node in stage.order:
                for arg in node.args:
                    uses[arg] = uses.get(arg, 0) + 1
            for _, _, node in stage.stores:
                uses[node] = uses.get(node, 0) + 1
        return uses

    def source(self) -> Source:
        f, plan = self.f, self.plan
        control = flush_on(f, self.target)
        self.divide()
        states = [*dict.fromkeys(str(i) for s in plan.stages for b, i in s.loads.values() if b == "state")]
        products = [product for stage in plan.stages for product in stage.products]
        _, tables = self.tables(3 + len(states) + len(products))
        self.after_rows, self.mask_rows, self.dy_rows = tables[:3]
        self.before_rows = dict(zip(states, tables[3:], strict=False))
        self.operand_rows = {id(p): table for p, table in zip(products, tables[3 + len(states) :], strict=True)}
        with f.loop(f.sub(self.word("T"), "1"), "-1", "-1", down=True) as steps:
            self.step(steps.index)
        self.last(self.word("R"))
        flush_off(f, self.target, control)
        return self.finish()

    def step(self, t: str) -> None:
        f, plan = self.f, self.plan
        later = f.add(t, "1")
        self.now = self.cum(t)
        following = self.cum(later)
        count = self.mine(f.sub(following, self.now))
        end = f.let(f"icmp eq i64 {later}, {self.word('T')}")
        after_that = f.let(f"select i1 {end}, i64 {later}, i64 {f.add(t, '2')}")
        arrived = self.mine(f.sub(self.cum(after_that), following))  # rows that ran the step after this one
        start = f.let(f"icmp eq i64 {t}, 0")
        earlier = f.let(f"select i1 {start}, i64 0, i64 {f.sub(t, '1')}")
        previous = self.cum(earlier)
        parity = f.let(f"and i64 {t}, 1")
        self.carry_write = f.mul(parity, rows := self.word("R"))
        self.carry_read = f.mul(f.sub("1", parity), rows)
        with f.loop("0", count) as loop:
            j, row = loop.index, self.row(loop.index)
            f.store("ptr", self.caller_row("y", row, t), f.at(self.after_rows, j, "ptr"))
            f.store("ptr", self.caller_row("dy", row, t), f.at(self.dy_rows, j, "ptr"))
            if plan.equation.masks:
                f.store("ptr", self.caller_row("mask", row, t), f.at(self.mask_rows, j, "ptr"))
            for name, table in self.before_rows.items():
                initial = self.element(self.pointer(f"initial_{name}"), f.mul(row, self.word(f"initial_{name}_row")))
                if name == "h":
                    last = self.caller_row("y", row, earlier)
                else:
                    ld = self.padded(plan.equation.dim(name))
                    last = self.element(self.pointer(f"state_{name}"), f.mul(f.add(previous, row), ld))
                chosen = f.let(f"select i1 {start}, ptr {initial}, ptr {last}")
                f.store("ptr", chosen, f.at(table, j, "ptr"))
            self.fill_operands(j, row, self.now, following)
        for number, stage in enumerate(plan.stages):
            self.stage(number, stage, count, arrived)

    def fill_operands(self, j: str, row: str, now: str, following: str) -> None:
        """Say where the gradients lie that the products read."""
        f = self.f
        for stage in self.plan.stages:
            for product in stage.products:
                position = f.add(following if product.delayed else now, row)
                place = self.element(self.pointer("gradient"), f.mul(position, self.word("gradient_row")))
                place = self.element(place, self.offset(self.slot_dims, product.operand.first))
                f.store("ptr", place, f.at(self.operand_rows[id(product)], j, "ptr"))

    def stage(self, number: int, stage: Stage, count: str, arrived: str) -> None:
        f = self.f
        delayed = any(product.delayed for product in stage.products)
        with self.groups(stage, count) as (first, panels):
            blocks = f.label("block"), f.label("next"), f.label("done")
            # blocks of rows, none across the border between those that ran the following step and those that start here
            entry = f._block
            f.do(f"br label %{blocks[0]}")
            f.place(blocks[0])
            head = len(f._lines)
            j0 = f"%{blocks[0]}.j"
            border = count
            fresh = "false"
            if delayed:
                inside = f.let(f"icmp slt i64 {j0}, {arrived}")
                border = f.let(f"select i1 {inside}, i64 {arrived}, i64 {count}")
                fresh = f.let(f"xor i1 {inside}, true")
            rows = f.minimum(str(ROWS), f.sub(border, j0))
            for index, product in enumerate(stage.products):
                self.back_product(number, index, product, j0, rows, first, panels, fresh)
            self.work(stage, j0, rows, first, panels)
            f.do(f"br label %{blocks[1]}")
            f.place(blocks[1])
            following = f.add(j0, rows)
            more = f.let(f"icmp slt i64 {following}, {count}")
            f.do(f"br i1 {more}, label %{blocks[0]}, label %{blocks[2]}")
            f._lines.insert(head, f"  {j0} = phi i64 [ 0, %{entry} ], [ {following}, %{blocks[1]} ]")
            f.place(blocks[2])
        self.barrier()

    def back_product(
        self, number: int, index: int, product: Product, j0: str, rows: str, first: str, panels: str, fresh: str
    ) -> None:
        """Write the product of gradients with transposed matrices, or for rows that end here the final state's gradient."""
        f, kind = self.f, self.kind
        inner = self.size(product.operand.dim)
        outer = str(product.operand.count)
        stride = f.mul(panels, str(kind.lanes))
        scratch = self.scratch[id(product)]

        def multiply() -> None:
            start = f.mul(f.mul(f.mul(first, str(kind.lanes)), inner), outer)
            w = self.element(self.pointer(f"w_{number}_{index}"), start)
            rows_at = f.at(self.operand_rows[id(product)], j0, "ptr")
            each = self.padded(product.operand.dim)
            self.call_product(scratch, stride, w, panels, rows_at, rows, outer, each, inner)

        if not product.delayed:
            multiply()
            return
        name = product.leaves[0].name
        known = f.let(f"xor i1 {fresh}, true")
        with f.when(known):
            multiply()
        with f.when(fresh), f.loop("0", rows) as loop:
            row = self.row(f.add(j0, loop.index))
            ld = self.padded(product.dim)
            source = self.element(self.pointer(f"final_{name}"), f.mul(row, ld))
            target = self.element(scratch, f.mul(loop.index, stride))
            with f.loop("0", stride, str(kind.lanes)) as copy:
                place = f.add(f.mul(first, str(kind.lanes)), copy.index)
                self.keep(self.load(source, place), target, copy.index)

    def last(self, rows: str) -> None:
        """Write what reaches the initial states."""
        f = self.f
        delayed = [
            (number, index, stage, product)
            for number, stage in enumerate(self.plan.stages)
            for index, product in enumerate(stage.products)
            if product.delayed
        ]
        count = self.mine(rows)
        with f.loop("0", count) as loop:
            self.fill_operands(loop.index, self.row(loop.index), "0", "0")
        for number, index, stage, product in delayed:
            name = product.leaves[0].name
            with self.groups(stage, count) as (first, panels), f.loop("0", count, str(ROWS)) as blocks:
                some = f.minimum(str(ROWS), f.sub(count, blocks.index))
                self.back_product(number, index, product, blocks.index, some, first, panels, "false")
                with f.loop("0", some) as loop:
                    row = self.row(f.add(blocks.index, loop.index))
                    start = f.mul(row, self.padded(product.dim))
                    target = self.element(self.pointer(f"before_{name}"), start)
                    stride = f.mul(panels, str(self.kind.lanes))
                    source = self.element(self.scratch[id(product)], f.mul(loop.index, stride))
                    with f.loop("0", stride, str(self.kind.lanes)) as copy:
                        place = f.add(f.mul(first, str(self.kind.lanes)), copy.index)
                        value = self.load(source, copy.index)
                        if name in self.plan.carries:
                            carry = self.element(self.pointer(f"carry_{name}"), start)
                            value = f.let(f"fadd {self.kind.vector} {value}, {self.load(carry, place)}")
                        self.keep(value, target, place)

    def addresses(self, stage: Stage, j: str, block_row: str, first: str, panels: str) -> dict[str, str]:
        found = super().addresses(stage, j, block_row, first, panels)
        f, plan = self.f, self.plan
        row = self.row(j)
        for buffer, index in stage.loads.values():
            if buffer != "seed":
                continue
            name = str(index)
            if name == "h":
                found["dy"] = f.load("ptr", f.at(self.dy_rows, j, "ptr"))
            elif plan.all_states:
                ld = self.word(f"d_{name}_row")
                found[f"d {name}"] = self.element(self.pointer(f"d_{name}"), f.mul(f.add(self.now, row), ld))
            if name in plan.carries:
                place = f.mul(f.add(self.carry_read, row), self.padded(plan.equation.dim(name)))
                found[f"carried {name}"] = self.element(self.pointer(f"carry_{name}"), place)
        return found

    def load_value(
        self, node: Node, buffer: str, index: str | int, address: dict[str, str], unit: str, p: str, mask: str
    ) -> str:
        f, kind, plan = self.f, self.kind, self.plan
        if buffer == "back":
            return self.product_value(self.stage_of(node), node, address, p)
        if buffer == "gradient":
            return self.load(address["gradient"], f.add(self.offset(self.slot_dims, int(index)), unit))
        if buffer != "seed":
            return super().load_value(node, buffer, index, address, unit, p, mask)
        name = str(index)
        terms = []
        stage = self.stage_of(node)
        if stage is not None:
            terms.append(self.product_value(stage, node, address, p))
        if name in plan.carries:
            terms.append(self.load(address[f"carried {name}"], unit))
        if name == "h":
            terms.append(self.load_masked(self.element(address["dy"], unit), mask))
        elif plan.all_states:
            terms.append(self.load_masked(self.element(address[f"d {name}"], unit), mask))
        total = terms[0]
        for term in terms[1:]:
            total = f.let(f"fadd {kind.vector} {total}, {term}")
        return total

    def stage_of(self, node: Node) -> Stage | None:
        return next((s for s in self.plan.stages if any(node in product.leaves for product in s.products)), None)

    def product_value(self, stage: Stage | None, node: Node, address: dict[str, str], p: str) -> str:
        assert stage is not None
        return super().product_value(stage, node, address, p)

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
        f, kind, plan = self.f, self.kind, self.plan
        if buffer == "gradient":
            self.keep(value, address["gradient"], f.add(self.offset(self.slot_dims, int(index)), unit))
        elif buffer == "carry":
            self.keep(value, address[f"carry {index}"], unit)
        elif buffer == "unit_gradient":
            number = plan.equation.units.index(str(index))
            place = f.add(self.times(number, self.padded(UNITS)), unit)
            total = f.let(f"fadd {kind.vector} {self.load(address['unit_gradient'], place)}, {value}")
            self.keep(total, address["unit_gradient"], place)
        else:
            super().store_value(value, buffer, index, address, unit, mask, dim, panel)
