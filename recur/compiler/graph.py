"""The equation as a graph: values, what each is computed from, and the text that says all of it."""

import math
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from recur.errors import InputError

# what a node is worth: one number per unit, per projected output, per row, or the same everywhere
UNITS, OUTPUTS, ROW, CONSTANT = "H", "P", "row", "const"

UNARY = ("neg", "sigmoid", "tanh", "relu", "exp", "log", "abs", "sqrt")
BINARY = ("add", "sub", "mul", "div", "max", "min")
COMPARE = ("gt", "ge", "lt", "le", "eq", "ne")
# those that have a number of their own
NUMBERED = ("const", "pow", "clip")


class Node:
    """One value of the equation; `args` are the values it is computed from.

    Leaves are `x`, `unit`, `mask` and `state` (`name` says which), `const` (`value`), and `share` (1 / the number of
    units). `product` is the recurrent product of gate `name` with `args[0]`, `project` the projection of `args[0]`,
    `sum` a sum over the units; the others are elementwise. `clip` is `args[0]` whose gradient is kept within `value`.
    Nodes are made by a `Graph`, equal ones only once, but for `clip`.
    """

    __slots__ = ("args", "dim", "graph", "name", "number", "op", "value")

    def __init__(
        self, graph: "Graph", number: int, op: str, args: tuple["Node", ...], name: str, value: float, dim: str
    ):
        self.graph, self.number, self.op, self.args, self.name, self.value = graph, number, op, args, name, value
        self.dim = dim

    def __repr__(self) -> str:
        inner = ", ".join(filter(None, [self.name, *(f"%{arg.number}" for arg in self.args)]))
        return f"%{self.number} = {self.op}({inner})" if self.op != "const" else f"{self.value!r}"


class Graph:
    """Nodes of one equation, each kept once; small algebraic identities are applied where nodes are made."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[tuple[Any, ...], Node] = {}

    def make(self, op: str, *args: Node, name: str = "", value: float = 0.0, dim: str | None = None) -> Node:
        """Return the node for `op` of `args`, an existing one if there is an equal one."""
        if dim is None:
            dim = self._dim(op, args)
        key = (op, *(arg.number for arg in args), name, struct.pack("<d", value), dim)
        if op == "clip":
            # clipped each for itself: two of the same value are not one
            key += (len(self.nodes),)
        if key not in self._known:
            self._known[key] = Node(self, len(self.nodes), op, args, name, value, dim)
            self.nodes.append(self._known[key])
        return self._known[key]

    @staticmethod
    def _dim(op: str, args: tuple[Node, ...]) -> str:
        if op in ("x", "unit", "mask", "product"):
            return UNITS
        if op in ("sum", "share"):
            return ROW
        if op == "project":
            return OUTPUTS
        dims = {arg.dim for arg in args} or {CONSTANT}
        if {UNITS, OUTPUTS} <= dims:
            raise InputError("a value of the H units and one of the P projected outputs are combined")
        return next(dim for dim in (UNITS, OUTPUTS, ROW, CONSTANT) if dim in dims)

    def const(self, value: float) -> Node:
        """Return the constant `value`."""
        return self.make("const", value=float(value), dim=CONSTANT)

    def unary(self, op: str, a: Node) -> Node:
        """Return `op` of a."""
        if a.op == "const" and op == "neg":
            return self.const(-a.value)
        if op == "neg" and a.op == "neg":
            return a.args[0]
        return self.make(op, a)

    def binary(self, op: str, a: Node, b: Node) -> Node:
        """Return `op` of a and b."""
        if a.op == b.op == "const":
            return self.const(_fold(op, a.value, b.value))
        match op:
            case "add" if _is(a, 0):
                return b
            case "add" | "sub" if _is(b, 0):
                return a
            case "add" if b.op == "neg":
                return self.binary("sub", a, b.args[0])
            case "add" if a.op == "neg":
                return self.binary("sub", b, a.args[0])
            case "sub" if _is(a, 0):
                return self.unary("neg", b)
            case "sub" if b.op == "neg":
                return self.binary("add", a, b.args[0])
            case "sub" if b.op == "sub" and b.args[0] is a:
                return b.args[1]
            case "mul" if _is(a, 1):
                return b
            case "mul" | "div" if _is(b, 1):
                return a
            case "mul" if a.op == "neg" and b.op == "neg":
                return self.binary("mul", a.args[0], b.args[0])
        return self.make(op, a, b)

    def power(self, a: Node, exponent: float) -> Node:
        """Return a to a constant power."""
        if exponent < 0 and (exponent == -0.5 or exponent.is_integer()):
            return self.binary("div", self.const(1), self.power(a, -exponent))
        if exponent in (0, 1):
            return a if exponent else self.const(1)
        if exponent.is_integer() and exponent <= 1024:
            # whole powers of negative numbers are numbers
            half = self.power(a, exponent // 2)
            square = self.binary("mul", half, half)
            return self.binary("mul", square, a) if exponent % 2 else square
        if exponent == 0.5:
            return self.unary("sqrt", a)
        return self.make("pow", a, value=float(exponent))

    def clip(self, a: Node, bound: float) -> Node:
        """Return a with its gradient kept in [-bound, bound]."""
        return a if a.op == "const" else self.make("clip", a, value=float(bound))

    def where(self, condition: Node, a: Node, b: Node) -> Node:
        """Return a where the condition holds and b elsewhere."""
        return a if a is b else self.make("where", condition, a, b)

    def sum(self, a: Node, over: str) -> Node:
        """Return the sum of a over the units (or outputs); what is the same for all of them is counted that often."""
        return self.make("sum", a) if a.dim == over else self.binary("div", a, self.share(over))

    def share(self, of: str) -> Node:
        """Return 1 / H or 1 / P."""
        return self.make("share", name=of)


def _is(node: Node, value: float) -> bool:
    return node.op == "const" and node.value == value


def _fold(op: str, a: float, b: float) -> float:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "div":
            return a / b if b else math.copysign(math.inf, a) if a else math.nan
        case "max":
            return max(a, b)
        case _:
            return min(a, b)


class Equation:
    """A traced cell: its declaration, and for every state the node of its new value.

    `text` says all of it in one line from which `Equation.parse` makes an equal one: it is what an exported program
    carries, and what kernels are cached under.
    """

    def __init__(
        self,
        graph: Graph,
        new: Mapping[str, Node],
        *,
        gates: Iterable[str],
        recurrent: Iterable[str],
        units: Iterable[str] = (),
        masks: Iterable[str] = (),
        projected: bool = False,
    ) -> None:
        self.graph, self.new = graph, dict(new)
        self.gates, self.recurrent = tuple(gates), tuple(recurrent)
        self.units, self.masks, self.projected = tuple(units), tuple(masks), projected
        self.states = tuple(new)
        self.text = self._text()

    def dim(self, state: str) -> str:
        """The dimension of a state: P outputs for the h of a projected cell, else H units."""
        return OUTPUTS if state == "h" and self.projected else UNITS

    @property
    def nodes(self) -> list[Node]:
        """The nodes that the new states need, each after its arguments."""
        return reachable(self.new.values())

    def _text(self) -> str:
        nodes = self.nodes
        numbers = {node: n for n, node in enumerate(nodes)}
        lines = []
        for node in nodes:
            extra = node.name or (float(node.value).hex() if node.op in NUMBERED else "-")
            lines.append(" ".join([node.op, extra, node.dim, *(str(numbers[arg]) for arg in node.args)]))
        head = [self.gates, self.recurrent, self.units, self.masks, ("1" if self.projected else "0",)]
        result = " ".join(f"{name}={numbers[node]}" for name, node in self.new.items())
        return "|".join([*(" ".join(part) for part in head), ";".join(lines), result])

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(text: str) -> "Equation":
        """Return the equation that `text` says."""
        gates, recurrent, units, masks, projected, body, result = text.split("|")
        graph, nodes = Graph(), list[Node]()
        for line in body.split(";"):
            op, extra, dim, *args = line.split(" ")
            number = op in NUMBERED
            nodes.append(
                graph.make(
                    op,
                    *(nodes[int(arg)] for arg in args),
                    name="" if number or extra == "-" else extra,
                    value=float.fromhex(extra) if number else 0.0,
                    dim=dim,
                )
            )
        new = {name: nodes[int(n)] for name, n in (pair.split("=") for pair in result.split(" "))}
        return Equation(
            graph,
            new,
            gates=gates.split(),
            recurrent=recurrent.split(),
            units=units.split(),
            masks=masks.split(),
            projected=projected == "1",
        )


def reachable(targets: Iterable[Node]) -> list[Node]:
    """Return the nodes that `targets` need, themselves included, each after its arguments."""
    seen: dict[Node, None] = {}
    stack = [(node, False) for node in reversed(list(targets))]
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen[node] = None
        else:
            stack.append((node, True))
            stack += [(arg, False) for arg in reversed(node.args)]
    return list(seen)


def unclipped(node: Node) -> Node:
    """Return the node whose value `node` has: clipping changes gradients only."""
    return unclipped(node.args[0]) if node.op == "clip" else node


def gate_values(equation: Equation) -> dict[str, Node]:
    """Return for each gate its value: the activation of its pre-activation, or that where it has no single one."""
    nodes = equation.nodes
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for arg in node.args:
            users.setdefault(arg, []).append(node)
    values = {}
    for node in nodes:
        if node.op != "x":
            continue
        value = node
        while len(users.get(value, ())) == 1 and users[value][0].op in ("add", "sub", "clip"):
            value = users[value][0]
        following = users.get(value, ())
        if len(following) == 1 and following[0].op in ("sigmoid", "tanh", "relu", "exp"):
            value = following[0]
        values[node.name] = value
    return {gate: values[gate] for gate in equation.gates if gate in values}


def folded(equation: Equation) -> set[Node]:
    """Return the products whose bias can be added to that of x: `x.g + U.g(v)`, both used only there."""
    users: dict[Node, list[Node]] = {}
    for node in equation.nodes:
        for arg in node.args:
            users.setdefault(arg, []).append(node)
    result = set()
    for node in equation.nodes:
        if node.op == "add":
            for u, x in (node.args, node.args[::-1]):
                same = u.op == "product" and x.op == "x" and u.name == x.name
                if same and len(users[u]) == len(users[x]) == 1:
                    result.add(u)
    return result


@lru_cache(maxsize=256)
def used_inputs(equation: Equation) -> tuple[str, ...]:
    """Return the gates whose x the equation uses."""
    used = {node.name for node in equation.nodes if node.op == "x"}
    return tuple(gate for gate in equation.gates if gate in used)
