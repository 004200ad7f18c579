"""From a graph to a schedule: which matrix products and which elementwise work a step consists of, in which order.

A step runs in stages. Within a stage, each panel of units is on its own: its share of the matrix products, then the
elementwise work on it. A new stage begins where something needs all units of a value computed in this step: another
matrix product (`U.n(r * s.h)`), or a sum over the units. Forward and backward steps are planned by the same rules.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from recur.compiler.derive import Backward, Column, backward
from recur.compiler.graph import COMPARE, ROW, UNITS, Equation, Node, folded, gate_values, reachable, unclipped
from recur.compiler.layout import Gradients, lay_out

LEAVES = ("const", "share", "x", "state", "unit", "mask", "product", "project", "seed", "back")
# what is worth keeping for the backward rather than computing again
COSTLY = ("sigmoid", "tanh", "exp", "log", "sqrt", "pow")


@dataclass(frozen=True)
class Operand:
    """The vectors that a product multiplies: a `state` before, a stored `slot`, or a run of `gradient` slots."""

    kind: str
    name: str = ""
    first: int = 0
    count: int = 1
    dim: str = UNITS


@dataclass(frozen=True)
class Product:
    """Matrix products of one operand; `leaves` are the nodes they give, one for each column.

    `sources[column]` names the matrices, gate by gate ("" is the projection), whose products with the operand's parts
    are summed. Where `delayed`, the operand is of the step that ran before.
    """

    operand: Operand
    leaves: tuple[Node, ...]
    sources: tuple[tuple[str, ...], ...]
    dim: str
    delayed: bool
    transposed: bool


@dataclass
class Stage:
    """One stage of a step: products, then `order` computed elementwise, then `stores`: (buffer, index, node)."""

    phase: int
    dim: str
    products: list[Product] = field(default_factory=list)
    order: list[Node] = field(default_factory=list)
    stores: list[tuple[str, str | int, Node]] = field(default_factory=list)
    loads: dict[Node, tuple[str, str | int]] = field(default_factory=dict)

    @property
    def ready(self) -> set[Node]:
        """The nodes whose value is at hand in this stage."""
        return set(self.order) | set(self.loads)


@dataclass
class Plan:
    """A planned step.

    `slots` are values kept per step, `rows` numbers kept per step and row; `temporaries` live for a step.

    Buffers that `loads` and `stores` name: `x` gate, `product` (product, column), `state` and `new` name, `unit` name,
    `mask` name, `slot` index, `row` index, `temporary` index, `sum` index, `seed` name, `carry` name, `gradient` index,
    `unit_gradient` name, `gate` name.
    """

    equation: Equation
    stages: list[Stage]
    slots: list[Node]
    rows: list[Node]
    temporaries: list[Node]
    sums: list[Node]
    gradients: Gradients | None = None
    carries: tuple[str, ...] = ()
    all_states: bool = False

    @cached_property
    def folded_gates(self) -> tuple[str, ...]:
        """The gates whose recurrent bias is added to that of the input."""
        return tuple(node.name for node in folded(self.equation))

    @cached_property
    def gradient_dims(self) -> list[str]:
        """The dimension of each gradient slot."""
        assert self.gradients is not None
        dims = [UNITS] * len(self.gradients.slots)
        for _, first, columns in self.gradients.runs:
            dims[first : first + len(columns)] = [column.product.dim for column in columns]
        return dims

    @cached_property
    def multiplied_states(self) -> set[str]:
        """The states that matrices are multiplied with."""
        assert self.gradients is not None
        return {argument.name for argument, _, _ in self.gradients.runs if argument.op == "state"}


class _Planner:
    """Puts nodes into stages on demand."""

    def __init__(self, homes: Mapping[Node, int], available: Mapping[Node, tuple[str, str | int]]) -> None:
        self.homes, self.available = homes, available
        self.stages: dict[tuple[int, str], Stage] = {}
        self.temporaries: list[Node] = []
        self.sums: list[Node] = []

    def stage(self, phase: int, dim: str) -> Stage:
        return self.stages.setdefault((phase, dim), Stage(phase, dim))

    def home(self, node: Node) -> Stage:
        return self.stage(self.homes[node], node.dim)

    def need(self, node: Node, stage: Stage) -> None:
        """Make the value of `node` available in `stage`."""
        if node in stage.loads or node in stage.order or node.op == "const":
            return
        if node in self.available:
            stage.loads[node] = self.available[node]
        elif node.op == "share":
            stage.loads[node] = ("share", node.name)
        elif node.op == "sum":
            self._sum(node)
            stage.loads[node] = ("sum", self.sums.index(node))
        elif (
            node.dim == ROW
            or node.op in COMPARE
            or self._at_hand(node)
            or self.homes.get(node, stage.phase) == stage.phase
        ):
            for arg in node.args:
                self.need(arg, stage)
            stage.order.append(node)
        else:
            if node not in self.temporaries:
                home = self.home(node)
                self.need(node, home)
                home.stores.append(("temporary", len(self.temporaries), node))
                self.temporaries.append(node)
            stage.loads[node] = ("temporary", self.temporaries.index(node))

    def _at_hand(self, node: Node, deep: int = 3) -> bool:
        """Whether computing a value of an earlier stage again costs less than keeping it for this one."""
        if node in self.available or node.op == "const":
            passing = ("product", "project", "seed", "back")
            return node.op == "const" or self.available[node][0] not in passing
        return (
            deep > 0
            and node.op not in (*COSTLY, *LEAVES, "sum")
            and all(self._at_hand(arg, deep - 1) for arg in node.args)
        )

    def _sum(self, node: Node) -> None:
        if node in self.sums:
            return
        self.sums.append(node)
        (arg,) = node.args
        home = self.stage(self.homes.get(arg, 0), arg.dim)
        self.need(arg, home)
        home.stores.append(("sum", self.sums.index(node), arg))

    def put(self, node: Node, dim: str, buffer: str, index: str | int) -> Stage:
        """Store the value of `node` where it is computed; `dim` says where if it is the same for all units."""
        stage = self.stage(self.homes.get(node, 0), dim)
        self.need(node, stage)
        stage.stores.append((buffer, index, node))
        return stage

    def ordered(self) -> list[Stage]:
        return [self.stages[key] for key in sorted(self.stages)]


def _homes(nodes: Iterable[Node], first: Mapping[Node, int]) -> dict[Node, int]:
    """Return the phase in which each node can be computed, given that of some leaves."""
    homes: dict[Node, int] = {}
    for node in nodes:
        if node in first:
            homes[node] = first[node]
            continue
        homes[node] = max((homes[arg] for arg in node.args), default=0)
        if node.op == "sum" or (node.op in ("product", "project") and unclipped(node.args[0]).op != "state"):
            homes[node] += 1
    return homes


@lru_cache(maxsize=512)
def plan_forward(text: str, training: bool, gates: bool = False) -> Plan:
    """Plan a forward step of the equation that `text` says.

    Args:
        text: `Equation.text`.
        training: whether to keep what the backward needs.
        gates: whether to hand out the gates' values.
    """
    equation = Equation.parse(text)
    nodes = equation.nodes
    operands = [node.args[0] for node in nodes if node.op in ("product", "project")]
    slots = list(dict.fromkeys(operand for operand in operands if unclipped(operand).op != "state"))
    rows: list[Node] = []
    if training:
        slots, rows = _saved(equation, slots)
    available = {node: (node.op, node.name) for node in nodes if node.op in ("x", "state", "unit", "mask")}
    planner = _Planner(_homes(nodes, {}), available)
    for node in nodes:
        if node.op in ("product", "project"):
            available[node] = (node.op, node.name)
    # a value that is stored anyway is read back from there
    for name, node in equation.new.items():
        if node not in available:
            planner.put(node, equation.dim(name), "new", name)
        else:
            planner.put(node, node.dim, "new", name)
    for index, node in enumerate(slots):
        planner.put(node, node.dim, "slot", index)
    for index, node in enumerate(rows):
        planner.put(node, UNITS, "row", index)
    if gates:
        for name, node in gate_values(equation).items():
            planner.put(node, node.dim, "gate", name)
    stored: dict[Node, tuple[str, str | int]] = {node: ("slot", index) for index, node in enumerate(slots)}
    stored |= {node: ("new", name) for name, node in equation.new.items() if node not in available}
    _reuse(planner, stored)
    for operand, columns in _columns(nodes).items():
        before = unclipped(operand)
        source = (
            Operand("state", before.name, dim=operand.dim)
            if before.op == "state"
            else Operand("slot", first=slots.index(operand), dim=operand.dim)
        )
        stage = planner.stage(planner.homes[columns[0]], columns[0].dim)
        used = [node for node in columns if any(node in s.loads for s in planner.stages.values())]
        stage.products.append(
            Product(
                source, tuple(used), tuple((node.name,) for node in used), columns[0].dim, before.op == "state", False
            )
        )
        _local(planner, used, stage)
    return Plan(equation, planner.ordered(), slots, rows, planner.temporaries, planner.sums)


def _columns(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """Return the product nodes by what they multiply."""
    columns: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.op in ("product", "project"):
            columns.setdefault(node.args[0], []).append(node)
    return columns


def _local(planner: _Planner, leaves: Iterable[Node], home: Stage) -> None:
    """See that a product's result, at hand only in its own stage, reaches later stages through a temporary."""
    for leaf in leaves:
        for stage in planner.ordered():
            if stage is not home and leaf in stage.loads:
                if leaf not in planner.temporaries:
                    home.loads.setdefault(leaf, (leaf.op, leaf.name))
                    home.stores.append(("temporary", len(planner.temporaries), leaf))
                    planner.temporaries.append(leaf)
                stage.loads[leaf] = ("temporary", planner.temporaries.index(leaf))


def _reuse(planner: _Planner, stored: Mapping[Node, tuple[str, str | int]]) -> None:
    """Read temporaries from where their value is stored for good, and drop them."""
    keep = [node for node in planner.temporaries if node not in stored]
    for stage in planner.stages.values():
        for node, (buffer, _) in list(stage.loads.items()):
            if buffer == "temporary":
                stage.loads[node] = stored[node] if node in stored else ("temporary", keep.index(node))
        stage.stores = [
            (buffer, keep.index(node) if buffer == "temporary" else index, node)
            for buffer, index, node in stage.stores
            if buffer != "temporary" or node in keep
        ]
    planner.temporaries[:] = keep


@lru_cache(maxsize=256)
def _derived(text: str) -> Backward:
    return backward(Equation.parse(text))


def _saved(equation: Equation, slots: list[Node]) -> tuple[list[Node], list[Node]]:
    """Return what the forward keeps for the backward: values per unit, and numbers per row."""
    own = set(equation.nodes)
    derived = _derived(equation.text)
    targets = [*derived.inputs.values(), *(c.gradient for c in derived.columns), *derived.before.values()]
    targets += derived.units.values()
    wanted = {arg for node in reachable(targets) if node not in own for arg in node.args if arg in own}
    wanted |= {node for node in targets if node in own}
    free = set(slots) | set(equation.new.values())
    kept: list[Node] = list(slots)

    def bases(node: Node) -> set[Node]:
        if node in free or node.op in ("const", "share", "state", "unit", "mask"):
            return set()
        if node.op in ("x", "product", "project", "sum"):
            return {node}
        below = set().union(*(bases(arg) for arg in node.args))
        return {node} if below and node.op in COSTLY else below

    def save(node: Node) -> None:
        free.add(node)
        kept.append(node)

    order = sorted(wanted, key=lambda node: (node.op not in ("x", "product", "project", "sum", *COSTLY), node.number))
    for node in order:
        missing = bases(node)
        if len(missing) == 1 or node.op in COMPARE:
            for base in sorted(missing, key=lambda base: base.number):
                save(base)
        elif missing:
            save(node)
    return [node for node in kept if node.dim != ROW], [node for node in kept if node.dim == ROW]


@lru_cache(maxsize=512)
def plan_backward(text: str, all_states: bool = False) -> Plan:
    """Plan a step of BPTT for the equation that `text` says.

    Args:
        text: `Equation.text`.
        all_states: whether gradients of the states other than h come in for every step.
    """
    forward = plan_forward(text, True)
    equation, derived = forward.equation, _derived(text)
    own = set(equation.nodes)
    gradients = lay_out(derived)
    runs = {argument: (first, columns) for argument, first, columns in gradients.runs}
    targets = [*gradients.slots, *derived.before.values(), *derived.units.values()]
    nodes = [node for node in reachable(targets) if node not in own]
    available: dict[Node, tuple[str, str | int]] = {}
    available |= {node: (node.op, node.name) for node in own if node.op in ("state", "unit", "mask")}
    available |= {node: ("slot", index) for index, node in enumerate(forward.slots)}
    available |= {node: ("row", index) for index, node in enumerate(forward.rows)}
    available |= {node: ("new", name) for name, node in equation.new.items() if node.op != "state"}
    available |= {node: (node.op, node.name) for node in nodes if node.op in ("seed", "back")}
    homes: dict[Node, int] = {}
    arguments = {str(argument.number): argument for argument in runs}
    for node in _by_dependence(nodes, arguments, runs):
        if node.op == "back":
            homes[node] = 1 + max(homes[column.gradient] for column in runs[arguments[node.name]][1])
        elif node.op == "sum":
            homes[node] = 1 + homes.get(node.args[0], 0)
        else:
            homes[node] = max((homes.get(arg, 0) for arg in node.args), default=0)
    planner = _Planner(homes, available)
    for index, node in enumerate(gradients.slots):
        planner.put(node, _slot_dim(gradients, index), "gradient", index)
    multiplied = {argument.name for argument in runs if argument.op == "state"}
    carries = tuple(
        name
        for name in equation.states
        if name not in multiplied or not (derived.before[name].op == "const" and derived.before[name].value == 0)
    )
    for name in carries:
        planner.put(derived.before[name], equation.dim(name), "carry", name)
    for name, node in derived.units.items():
        planner.put(node, UNITS, "unit_gradient", name)
    _reuse(planner, {node: ("gradient", index) for index, node in enumerate(gradients.slots)})
    for argument, (first, columns) in runs.items():
        operand = Operand("gradient", first=first, count=len(columns), dim=columns[0].product.dim)
        sources = (tuple(column.gate for column in columns),)
        if argument.op == "state":
            leaf = equation.graph.make("seed", name=argument.name, dim=argument.dim)
            stage = planner.stage(0, argument.dim)
            stage.products.append(Product(operand, (leaf,), sources, argument.dim, True, True))
        else:
            leaf = equation.graph.make("back", name=str(argument.number), dim=argument.dim)
            if leaf not in homes:  # a product of masks: nothing flows back
                continue
            stage = planner.stage(homes[leaf], argument.dim)
            stage.products.append(Product(operand, (leaf,), sources, argument.dim, False, True))
            _local(planner, [leaf], stage)
    for leaf in [node for node in nodes if node.op == "seed"]:
        _local(planner, [leaf], planner.stage(0, leaf.dim))
    stages = [stage for stage in planner.ordered() if stage.products or stage.stores]
    return Plan(
        equation, stages, forward.slots, forward.rows, planner.temporaries, planner.sums, gradients, carries, all_states
    )


def _by_dependence(
    nodes: list[Node], arguments: Mapping[str, Node], runs: Mapping[Node, tuple[int, tuple[Column, ...]]]
) -> list[Node]:
    """Return `nodes` so that `back` comes after the gradients that it is the product of."""
    inside = set(nodes)
    done: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node in done or node not in inside:
            return
        before = node.args
        if node.op == "back":
            before = tuple(column.gradient for column in runs[arguments[node.name]][1])
        for arg in before:
            visit(arg)
        done[node] = None

    for node in nodes:
        visit(node)
    return list(done)


def _slot_dim(gradients: Gradients, index: int) -> str:
    for _, first, columns in gradients.runs:
        if first <= index < first + len(columns):
            return columns[0].product.dim
    return UNITS
