"""Reverse mode on the graph of an equation: from one step of a recurrence to one step of its BPTT.

Going back through time, a step receives `seed k`, the gradient of the loss with respect to each new state k. What it
gives is, per gate and recurrent product, the gradient of the pre-activation - from which those of the weights, the
inputs and the states before follow as matrix products - and the part of the gradient of each state before that
passes by the matrices, elementwise.
"""

from dataclasses import dataclass

from recur.compiler.graph import CONSTANT, ROW, Equation, Graph, Node


@dataclass(frozen=True)
class Column:
    """A matrix product of the equation, `U.gate(argument)` or with gate "" `P(argument)`, and its gradient."""

    gate: str
    argument: Node
    product: Node
    gradient: Node


@dataclass(frozen=True)
class Backward:
    """One step back in time; every node is in the equation's own graph, after the nodes of the equation.

    Leaves of its own: `seed k`, and `back n`, the gradient that reaches value number n through the matrices
    it is multiplied with, summed over them.
    """

    inputs: dict[str, Node]  # gate -> gradient of x.gate
    columns: tuple[Column, ...]
    before: dict[str, Node]  # state -> elementwise part of the gradient of the state before
    units: dict[str, Node]  # per-unit parameter -> its gradient, to be summed over rows and steps
    after: dict[str, Node]  # new state -> its gradient by all ways, those within the step too


def backward(equation: Equation) -> Backward:
    """Return the derivative of `equation`."""
    graph = equation.graph
    adjoints: dict[Node, Node] = {}

    def give(node: Node, gradient: Node | None, user: Node) -> None:
        if gradient is None or node.dim == CONSTANT or node.op in ("share", "mask"):
            return
        if node.dim == ROW and user.dim != ROW:  # one number met every unit
            gradient = graph.sum(gradient, user.dim)
        known = adjoints.get(node)
        adjoints[node] = gradient if known is None else graph.binary("add", known, gradient)

    nodes = equation.nodes
    for name, node in equation.new.items():
        give(node, graph.make("seed", name=name, dim=equation.dim(name)), node)
    columns: list[Column] = []
    for node in reversed(nodes):
        gradient = adjoints.get(node)
        if gradient is None:
            continue
        if node.op in ("product", "project"):
            argument = node.args[0]
            columns.append(Column(node.name, argument, node, gradient))
            if argument.op != "state" and not any(c.argument is argument for c in columns[:-1]):
                give(argument, graph.make("back", name=str(argument.number), dim=argument.dim), argument)
        else:
            for argument, part in _parts(graph, node, gradient):
                give(argument, part, node)
    of = {(node.op, node.name): adjoints[node] for node in nodes if node in adjoints}
    zero = graph.const(0)
    return Backward(
        inputs={gate: of.get(("x", gate), zero) for gate in equation.gates if ("x", gate) in of},
        columns=tuple(reversed(columns)),
        before={name: of.get(("state", name), zero) for name in equation.states},
        units={name: of[("unit", name)] for name in equation.units if ("unit", name) in of},
        after={name: adjoints.get(node, zero) for name, node in equation.new.items()},
    )


def _parts(graph: Graph, node: Node, g: Node) -> list[tuple[Node, Node]]:
    """Return what each argument of `node` receives when `node` receives g."""

    def mul(a: Node, b: Node) -> Node:
        return graph.binary("mul", a, b)

    def sub(a: Node, b: Node) -> Node:
        return graph.binary("sub", a, b)

    zero, one = graph.const(0), graph.const(1)
    match node.op, node.args:
        case "add", (a, b):
            return [(a, g), (b, g)]
        case "sub", (a, b):
            return [(a, g), (b, graph.unary("neg", g))]
        case "mul", (a, b):
            return [(a, mul(g, b)), (b, mul(g, a))]
        case "div", (a, b):
            share = graph.binary("div", g, b)
            return [(a, share), (b, graph.unary("neg", mul(share, node)))]
        case "neg", (a,):
            return [(a, graph.unary("neg", g))]
        case "sigmoid", (a,):
            return [(a, mul(g, mul(node, sub(one, node))))]
        case "tanh", (a,):
            return [(a, mul(g, sub(one, mul(node, node))))]
        case "relu", (a,):
            return [(a, graph.where(graph.make("gt", node, zero), g, zero))]
        case "exp", (a,):
            return [(a, mul(g, node))]
        case "log", (a,):
            return [(a, graph.binary("div", g, a))]
        case "sqrt", (a,):
            return [(a, graph.binary("div", mul(g, graph.const(0.5)), node))]
        case "abs", (a,):
            minus = graph.where(graph.make("lt", a, zero), graph.unary("neg", g), zero)
            return [(a, graph.where(graph.make("gt", a, zero), g, minus))]
        case "pow", (a,):
            slope = mul(graph.const(node.value), graph.power(a, node.value - 1))
            return [(a, mul(g, slope))]
        case (("max" | "min"), (a, b)):
            # torch shares the gradient where both are equal
            tie = graph.where(graph.make("eq", a, b), mul(g, graph.const(0.5)), zero)
            first = graph.make("gt" if node.op == "max" else "lt", a, b)
            second = graph.make("lt" if node.op == "max" else "gt", a, b)
            return [(a, graph.where(first, g, tie)), (b, graph.where(second, g, tie))]
        case "clip", (a,):
            below = graph.binary("min", g, graph.const(node.value))
            return [(a, graph.binary("max", below, graph.const(-node.value)))]
        case "where", (condition, a, b):
            return [(a, graph.where(condition, g, zero)), (b, graph.where(condition, zero, g))]
        case "sum", (a,):
            return [(a, g)]
    return []
