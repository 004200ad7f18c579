"""The backward kernel: BPTT step by step, down to the gradients of the pre-activations and of the initial states."""

from recur.compiler.controls import flush_off, flush_on
from recur.compiler.emit import ROWS, Kernel, Source
from recur.compiler.graph import UNITS, Node
from recur.compiler.plan import Plan, Product, Stage
from recur.compiler.target import Target
from recur.compiler.tiles import Tiling


def emit_backward(plan: Plan, tiling: Tiling, target: Target) -> Source:
    """Return the kernel that runs `plan`, made by `plan_backward`, back over a sequence."""
    return Backward(plan, tiling, target).source()


class Backward(Kernel):
    """The kernel that runs a step of `plan_backward` back over a sequence."""

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
        """Write the kernel."""
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
        self.turned = "true"  # step 0 was not
        self.last(self.word("R"))
        flush_off(f, self.target, control)
        return self.finish()

    def step(self, t: str) -> None:
        """Write one step back."""
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
        self.turned = f.let(f"trunc i64 {t} to i1")
        self.carry_write = f.mul(parity, rows := self.word("R"))
        self.carry_read = f.mul(f.sub("1", parity), rows)
        with f.loop("0", count) as loop:
            j, row = loop.index, self.row(loop.index)
            self.fill_rows(j, row, t, start, earlier, previous)
            f.store("ptr", self.caller_row("dy", row, t), f.at(self.dy_rows, j, "ptr"))
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
        """Write one stage of a step."""
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
        """Write the product of gradients and matrices; rows that end here take the final state's gradient."""
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
        """Add what arrives from the step after, and from the caller."""
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
        """Load gradients, or as in the base class."""
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
        """Return the stage that has the product of this leaf."""
        return next((s for s in self.plan.stages if any(node in product.leaves for product in s.products)), None)

    def product_value(self, stage: Stage | None, node: Node, address: dict[str, str], p: str) -> str:
        """Load what a matrix product gave."""
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
        """Store gradients, or as in the base class."""
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
