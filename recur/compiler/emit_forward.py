"""The forward kernel: the inputs of some steps projected at a time, then those steps one by one."""

from collections.abc import Iterator

from recur.compiler.controls import flush_off, flush_on
from recur.compiler.emit import ROWS, Kernel, Source
from recur.compiler.graph import UNITS, Node, folded, used_inputs
from recur.compiler.plan import Plan, Stage
from recur.compiler.target import Target
from recur.compiler.tiles import Tiling


def emit_forward(plan: Plan, tiling: Tiling, target: Target, *, training: bool) -> Source:
    """Return the kernel that runs `plan`, made by `plan_forward`, over a sequence."""
    return Forward(plan, tiling, target, training).source()


class Forward(Kernel):
    """The kernel that runs a step of `plan_forward` over a sequence."""

    name = "forward"

    def __init__(self, plan: Plan, tiling: Tiling, target: Target, training: bool) -> None:
        self.training = training
        self.inputs = used_inputs(plan.equation)
        self.folded = folded(plan.equation)
        super().__init__(plan, tiling, target)

    def more_columns(self) -> list[int]:
        """Return the number of gates that read the input."""
        return [len(self.inputs)]

    def _count_uses(self) -> dict[Node, int]:
        # by the equation alone, so that training and inference round alike
        uses = dict.fromkeys(self.plan.equation.new.values(), 1)
        for node in self.plan.equation.nodes:
            for arg in node.args:
                uses[arg] = uses.get(arg, 0) + 1
        return uses

    def source(self) -> Source:
        """Write the kernel."""
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
        """Yield the states that the step reads."""
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
        w = self.element(self.pointer("w_x"), f.mul(f.mul(first, str(columns * lanes)), self.word("D_packed")))
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
        self.turned = f.let(f"trunc i64 {t} to i1")
        with f.loop("0", count) as loop:
            j, row = loop.index, self.row(loop.index)
            self.fill_rows(j, row, t, start, earlier, previous)
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
        """Write one stage of a step."""
        f = self.f
        with self.groups(stage, count) as (first, panels), f.loop("0", count, str(ROWS)) as blocks:
            rows = f.minimum(str(ROWS), f.sub(count, blocks.index))
            for index, product in enumerate(stage.products):
                columns, inner = len(product.leaves), self.size(product.operand.dim)
                table = (
                    self.before_rows[product.operand.name]
                    if product.operand.kind == "state"
                    else self.slot_rows[id(product)]
                )
                vectors = f.mul(panels, str(columns))
                packed = self.word(product.operand.dim + "_packed")
                start = f.mul(f.mul(first, str(columns * self.kind.lanes)), packed)
                w = self.element(self.pointer(f"w_{number}_{index}"), start)
                stride = f.mul(vectors, str(self.kind.lanes))
                rows_at = f.at(table, blocks.index, "ptr")
                self.call_product(self.scratch[id(product)], stride, w, vectors, rows_at, rows, "1", "0", inner)
            self.work(stage, blocks.index, rows, first, panels)
        self.barrier()

    def addresses(self, stage: Stage, j: str, block_row: str, first: str, panels: str) -> dict[str, str]:
        """Add the projected inputs."""
        found = super().addresses(stage, j, block_row, first, panels)
        f = self.f
        if any(buffer == "x" for buffer, _ in stage.loads.values()):
            found["x"] = self.element(self.gx, f.mul(f.add(self.q, j), self.word("gx_row")))
        return found

    def load_value(
        self, node: Node, buffer: str, index: str | int, address: dict[str, str], unit: str, p: str, mask: str
    ) -> str:
        """Load projected inputs and products, or as in the base class."""
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
        """Add a bias."""
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
        """Store states and gates, or as in the base class."""
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
