"""Values and expressions in the equation's own words: `x.i`, `U.i(s.h)`, `c'` after the step, `dx.i` for a gradient."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from recur.compiler.derive import Column
from recur.compiler.graph import CONSTANT, Equation, Node, gate_values, reachable
from recur.compiler.plan import Plan

LEAVES = {"x": "x", "state": "s", "unit": "p", "mask": "m"}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
TESTS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
FUNCTIONS = {"max": "maximum", "min": "minimum"}
# gates called so would be taken for something else
_TAKEN = re.compile(r"x|U|s|p|P|m|dy|dx|dU|dP|ds|dp|pre|gate|[vd]\d+")
# how tightly an expression holds together; what is looser than its surroundings is put in parentheses
TEST, SUM, PRODUCT, SIGN, POWER, ATOM = range(6)


class Words:
    """Writes nodes as expressions; those in `names` by their name."""

    def __init__(self, names: Mapping[Node, str], columns: Mapping[str, Sequence[Column]]) -> None:
        self.names, self.columns = names, columns

    def __call__(self, node: Node, least: int = TEST) -> str:
        """Return the name of `node`, or the expression for it, in parentheses if looser than `least`."""
        if node in self.names:
            return self.names[node]
        hold, text = self._expression(node)
        return text if hold >= least else f"({text})"

    def definition(self, node: Node) -> str:
        """Return how `node` is computed, whether it has a name or not."""
        return self._expression(node)[1]

    def _expression(self, node: Node) -> tuple[int, str]:
        if of := averaged(node):
            return ATOM, f"mean({self(of)})"
        match node.op, node.args:
            case "const", ():
                return (ATOM if node.value >= 0 else SIGN), number(node.value)
            case op, () if op in LEAVES:
                return ATOM, f"{LEAVES[op]}.{node.name}"
            case "seed", ():
                return ATOM, f"d{node.name}'"
            case "share", ():
                return PRODUCT, f"1 / {node.name}"
            case "product", (a,):
                return ATOM, f"U.{node.name}({self(a)})"
            case "project", (a,):
                return ATOM, f"P({self(a)})"
            case "back", ():
                terms = [f"{matrix(column)}.T({self(column.gradient)})" for column in self.columns[node.name]]
                return (SUM if len(terms) > 1 else ATOM), " + ".join(terms)
            case "neg", (a,):
                return SIGN, f"-{self(a, POWER)}"
            case "pow", (a,):
                return POWER, f"{self(a, ATOM)} ** {number(node.value)}"
            case "clip", (a,):
                return ATOM, f"clip_gradient({self(a)}, {number(node.value)})"
            case (("add" | "sub"), (a, b)):
                return SUM, f"{self(a, SUM)} {SIGNS[node.op]} {self(b, PRODUCT)}"
            case (("mul" | "div"), (a, b)):
                return PRODUCT, f"{self(a, PRODUCT)} {SIGNS[node.op]} {self(b, POWER)}"
            case op, (a, b) if op in TESTS:
                return TEST, f"{self(a, SUM)} {TESTS[op]} {self(b, SUM)}"
        return ATOM, f"{FUNCTIONS.get(node.op, node.op)}({', '.join(self(arg) for arg in node.args)})"


class Wording:
    """The words for a planned equation: `forward` and `backward` write expressions of the two steps."""

    def __init__(self, forward: Plan, backward: Plan) -> None:
        assert backward.gradients is not None
        equation = forward.equation
        columns = {str(argument.number): columns for argument, _, columns in backward.gradients.runs}
        names = own_names(equation)
        self._count: Counter[str] = Counter()
        self._name_rest(names, forward)
        self.forward = Words(dict(names), columns)
        self._name_gradients(names, backward)
        self._name_rest(names, backward)
        self.backward = Words(names, columns)

    def slots(self, plan: Plan) -> list[str]:
        """Return the names of what the forward keeps for the backward: values, and numbers per row."""
        return [self.forward(node) for node in (*plan.slots, *plan.rows)]

    def _name_gradients(self, names: dict[Node, str], plan: Plan) -> None:
        names |= {node: f"d{node.name}'" for stage in plan.stages for node in stage.loads if node.op == "seed"}
        for node, name in gradient_names(plan):
            if node.op != "const":
                names.setdefault(node, name)

    def _name_rest(self, names: dict[Node, str], plan: Plan) -> None:
        """Name what is stored, and what is used more than once, unless it is as short as a name."""
        own = set(plan.equation.nodes)
        stored = {*plan.slots, *plan.rows, *plan.temporaries}
        uses = Counter(arg for node in {node for stage in plan.stages for node in stage.order} for arg in node.args)
        uses.update(node for stage in plan.stages for buffer, _, node in stage.stores if buffer == "sum")
        for node in dict.fromkeys(node for stage in plan.stages for node in (*stage.loads, *stage.order)):
            plain = node.op in ("const", "share", "sum", "product", "project") or node.dim == CONSTANT
            if node in names or plain or (node not in stored and (uses[node] < 2 or short(node, names))):
                continue
            letter = "v" if node in own else "d"
            self._count[letter] += 1
            names[node] = f"{letter}{self._count[letter]}"


def own_names(equation: Equation) -> dict[Node, str]:
    """Return the names that the equation gives: to its arguments, the new states `h'` and the gates."""
    nodes = equation.nodes
    names = {node: f"{LEAVES[node.op]}.{node.name}" for node in nodes if node.op in LEAVES}
    for name, node in equation.new.items():
        if node.op != "const":
            names.setdefault(node, f"{name}'")
    for gate, node in called(equation).items():
        word = f"gate.{gate}" if _TAKEN.fullmatch(gate) else gate
        names.setdefault(node, word if activated(node) else f"pre.{gate}")
    return names


def gradient_names(plan: Plan) -> list[tuple[Node, str]]:
    """Return what a backward step gives, with a name for each of the roles it has."""
    assert plan.gradients is not None
    given = list(zip(plan.gradients.slots, slot_names(plan), strict=True))
    roles = [(node, name) for node, names in given for name in names]
    for stage in plan.stages:
        roles += [(node, f"ds.{index}") for buffer, index, node in stage.stores if buffer == "carry"]
        roles += [(node, f"dp.{index}") for buffer, index, node in stage.stores if buffer == "unit_gradient"]
    return roles


def slot_names(plan: Plan) -> list[list[str]]:
    """Return for each slot of gradients what it is the gradient of: of `x.g`, of the product `U.g`, or of both."""
    assert plan.gradients is not None
    first, gates = plan.gradients.inputs
    names: list[list[str]] = [[] for _ in plan.gradients.slots]
    for number, gate in enumerate(gates):
        names[first + number].append(f"dx.{gate}")
    for _, start, columns in plan.gradients.runs:
        for number, column in enumerate(columns):
            names[start + number].append(f"d{matrix(column)}")
    taken = Counter[str]()
    for own in names:
        for number, name in enumerate(own):
            taken[name] += 1
            # a gate whose matrix is multiplied with several values
            own[number] = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return names


def matrix(column: Column) -> str:
    """Return `U.g`, or `P` for the projection."""
    return f"U.{column.gate}" if column.gate else "P"


def number(value: float) -> str:
    """Return a number, whole ones without a point."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def called(equation: Equation) -> dict[str, Node]:
    """Return for each gate what goes by its name: its activation, also of a normalised sum, or the sum itself."""
    users: dict[Node, dict[Node, None]] = {}
    waiting, seen = list(equation.new.values()), set[Node]()
    while waiting:
        node = waiting.pop()
        normal = normalized(node)
        if node not in seen:
            seen.add(node)
            for part in (normal[0],) if normal else node.args:
                users.setdefault(part, {})[node] = None
                waiting.append(part)
    found = gate_values(equation)
    for gate, value in found.items():
        node = value if activated(value) else next(n for n in equation.nodes if (n.op, n.name) == ("x", gate))
        while not activated(node) and node not in equation.new.values() and len(users[node]) == 1:
            (node,) = users[node]
        if activated(node) and {leaf.name for leaf in reachable([node]) if leaf.op == "x"} == {gate}:
            found[gate] = node
    return found


def averaged(node: Node) -> Node | None:
    """Return what `node` is the mean of over the units, if it is one."""
    if node.op == "mul":
        for total, share in (node.args, node.args[::-1]):
            if total.op == "sum" and share.op == "share" and share.name == total.args[0].dim:
                return total.args[0]
    return None


def normalized(node: Node) -> tuple[Node, float] | None:
    """Return v and epsilon if `node` is (v - mean v) / sqrt(mean (v - mean v)^2 + epsilon)."""
    if node.op != "mul":
        return None
    for centred, inverse in (node.args, node.args[::-1]):
        if centred.op == "sub" and averaged(centred.args[1]) is centred.args[0] and inverse.op == "div":
            one, root = inverse.args
            if one.op == "const" and one.value == 1 and root.op == "sqrt" and root.args[0].op == "add":
                variance, epsilon = root.args[0].args
                square = averaged(variance)
                if square and square.op == "mul" and set(square.args) == {centred} and epsilon.op == "const":
                    return centred.args[0], epsilon.value
    return None


def short(node: Node, names: Mapping[Node, str]) -> bool:
    """Whether `node` is worth no name, such as 1 - z."""
    named = [arg for arg in node.args if arg in names]
    others = [arg for arg in node.args if arg not in names]
    return node.op in ("neg", "add", "sub", "div") and len(named) == 1 and all(arg.op == "const" for arg in others)


def activated(node: Node) -> bool:
    """Whether a gate's value is an activation, and no sum that goes into one."""
    return node.op in ("sigmoid", "tanh", "relu", "exp")
