r"""The formula of a cell in LaTeX, from its traced equation: a line for each gate, shared value and state.

What is used more than once gets a line of its own: a gate's letter if it is the gate's activation, with a tilde if it
is what the activation is taken of, else v_1, v_2, ... The second bias, `U_n h + b'_n`, stands only where it cannot be
added to the first; a layer with one bias has none there.
"""

from collections import Counter
from collections.abc import Iterator

from recur.cells.cell import Cell
from recur.compiler.graph import CONSTANT, ROW, UNITS, Equation, Node, folded
from recur.compiler.trace import trace
from recur.compiler.wording import activated, averaged, called, normalized, short

# how tightly an expression holds together; what is looser than its surroundings is put in parentheses
SUM, PRODUCT, MATRIX, CALL, ATOM = range(5)
CALLS = {"sigmoid": r"\sigma", "tanh": r"\tanh", "exp": r"\exp", "log": r"\log"}
TESTS = {"gt": ">", "ge": r"\ge", "lt": "<", "le": r"\le", "eq": "=", "ne": r"\ne"}
# xi, pi and the like are left out: a cell's `xi` is rather its x of gate i
GREEK = set("alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu rho sigma tau phi psi omega".split())


def latex(cell: Cell) -> str:
    r"""Return the formula of `cell`, for a display of LaTeX or MathJax.

    >>> from recur.cells import Elman
    >>> print(latex(Elman()))
    \begin{aligned}
      h_t &= \tanh(W_a x_t + b_a + U_a h_{t-1})
    \end{aligned}

    Raises:
        NotTraceable: the equation holds something that cannot be compiled.
    """
    return _Formula(trace(cell)).text()


class _Formula:
    """The names of an equation's values, and the lines that define them."""

    def __init__(self, equation: Equation) -> None:
        self.equation, self.folded = equation, folded(equation)
        nodes = [_simple(node) for node in equation.new.values()]
        self.epsilon: float | None = None
        self.epsilon = self._epsilon(nodes)
        self.order = self._reached(nodes)
        self.names = {node: rf"{symbol(node.name)}_{{t-1}}" for node in self.order if node.op == "state"}
        self.lines: dict[Node, str] = {}
        self._name(nodes)

    def text(self) -> str:
        r"""Return the lines, each after those that it needs: gates in the cell's order, then states, h last."""
        lines = [f"{self.names[node]} &= {self.write(node, SUM, True)}" for node in self._sorted()]
        for name, node in self.equation.new.items():
            if (left := f"{symbol(name)}_t") != self.lines.get(_simple(node)):
                lines.append(f"{left} &= {self.write(_simple(node), SUM)}")
        if self.epsilon is not None:
            mean = r"\tfrac{1}{H} \sum"
            under = rf"{mean} (v - {mean} v)^{{2}} + {number(self.epsilon)}"
            lines.append(rf"\mathrm{{N}}(v) &= \frac{{v - {mean} v}}{{\sqrt{{{under}}}}}")
        for bound in sorted({node.value for node in self.order if node.op == "clip"}):
            words = rf"\text{{with the gradient clipped to }} [-{number(bound)}, {number(bound)}]"
            lines.append(rf"\mathrm{{C}}_{{{number(bound)}}}(v) &= v \quad {words}")
        return "\\begin{aligned}\n  " + " \\\\\n  ".join(lines) + "\n\\end{aligned}"

    # which values have lines of their own

    def _name(self, targets: list[Node]) -> None:
        for name, node in reversed(list(zip(self.equation.new, targets, strict=True))):
            if node.op not in ("const", "state"):
                self._line(node, f"{symbol(name)}_t", of_state=True)
        uses = Counter(arg for node in self.order for arg in self._parts(node))
        for gate, value in called(self.equation).items():
            node = _simple(value)
            if activated(node) and node in uses:
                self._line(node, f"{symbol(gate)}_t")
            elif uses[node] > 1:
                self._line(node, rf"\tilde{{{symbol(gate)}}}_t")
        count = 0
        for node in self.order:
            inline = node.op in ("const", "share", "unit", "mask", "where", *TESTS) or short(node, self.names)
            inline |= node.op == "clip" and node.args[0] in self.names
            if node not in self.names and (node.op == "where" or (uses[node] > 1 and not inline)):
                count += 1
                self._line(node, f"v_{{{count}}}" if count > 9 else f"v_{count}")

    def _line(self, node: Node, name: str, of_state: bool = False) -> None:
        states = {f"{symbol(state)}_t" for state in self.equation.states}
        if node not in self.names and (of_state or name not in states):
            self.names[node] = self.lines[node] = name

    def _sorted(self) -> list[Node]:
        gates = [_simple(node) for node in called(self.equation).values()]
        states = [(name, _simple(node)) for name, node in self.equation.new.items()]
        # h comes last, other states after what is left to do
        rank = {node: number for number, node in enumerate(gates)}
        rank |= {node: len(self.order) * (1 + (name == "h")) + number for number, (name, node) in enumerate(states)}
        waiting = sorted(self.lines, key=lambda node: rank.get(node, len(gates)))
        done: dict[Node, None] = {}
        while waiting:
            ready = next(node for node in waiting if all(need in done for need in self._needs(node)))
            waiting.remove(ready)
            done[ready] = None
        return list(done)

    def _needs(self, node: Node) -> Iterator[Node]:
        """Yield the lines that the line of `node` refers to."""
        for part in self._parts(node):
            if part in self.lines:
                yield part
            else:
                yield from self._needs(part)

    def _reached(self, targets: list[Node]) -> list[Node]:
        """Return what is written, each after its parts."""
        seen: dict[Node, None] = {}

        def visit(node: Node) -> None:
            if node not in seen:
                for part in self._parts(node):
                    visit(part)
                seen[node] = None

        for node in targets:
            visit(node)
        return list(seen)

    def _parts(self, node: Node) -> list[Node]:
        """Return the values that the expression for `node` is made of."""
        if (normal := normalized(node)) and normal[1] == self.epsilon:
            return [_simple(normal[0])]
        if of := averaged(node):
            return [_simple(of)]
        if node.op == "mul" and node.args[0] is node.args[1]:
            return [_simple(node.args[0])]
        return [_simple(arg) for arg in node.args]

    def _epsilon(self, targets: list[Node]) -> float | None:
        """Return what is added to the variance, if the equation normalises over the H units in one way only."""
        found = {(normal[1], node.dim) for node in self._reached(targets) if (normal := normalized(node))}
        return next(iter(found))[0] if len(found) == 1 and next(iter(found))[1] == UNITS else None

    # expressions

    def write(self, node: Node, least: int = SUM, definition: bool = False) -> str:
        """Return the name of `node` or the expression for it, in parentheses if looser than `least`."""
        node = _simple(node)
        if node in self.names and not definition:
            return self.names[node]
        hold, text = self._expression(node)
        return text if hold >= least else brackets(text)

    def _expression(self, node: Node) -> tuple[int, str]:
        if (normal := normalized(node)) and normal[1] == self.epsilon:
            return CALL, rf"\mathrm{{N}}{brackets(self.write(normal[0]))}"
        if of := averaged(node):
            return PRODUCT, rf"\tfrac{{1}}{{{of.dim}}} \sum {self.write(of, CALL)}"
        match node.op, node.args:
            case "const", ():
                text = number(node.value)
                return (ATOM if text.isdigit() or text == r"\infty" else SUM if text[0] == "-" else CALL), text
            case "x", ():
                return SUM, f"W_{index(node.name)} x_t + b_{index(node.name)}"
            case "unit", ():
                return ATOM, f"p_{index(node.name)}"
            case "mask", ():
                return ATOM, f"m_{{{symbol(node.name)},t}}"
            case "share", ():
                return CALL, rf"\tfrac{{1}}{{{node.name}}}"
            case "product", (a,):
                text = f"U_{index(node.name)} {self.write(a, ATOM)}"
                return (MATRIX, text) if node in self.folded else (SUM, f"{text} + b'_{index(node.name)}")
            case "project", (a,):
                return MATRIX, f"P {self.write(a, ATOM)}"
            case "add", (a, b):
                right = self.write(b)
                return SUM, f"{self.write(a)} + {brackets(right) if right[0] == '-' else right}"
            case "sub", (a, b):
                return SUM, f"{self.write(a)} - {self.write(b, PRODUCT)}"
            case "neg", (a,):
                return SUM, f"-{self.write(a, PRODUCT)}"
            case "mul", (a, b) if a is b:
                return CALL, f"{self.write(a, ATOM)}^{{2}}"
            case "mul", _:
                return PRODUCT, self._product(node)
            case "div", (a, b):
                return CALL, rf"\frac{{{self.write(a)}}}{{{self.write(b)}}}"
            case "pow", (a,):
                return CALL, f"{self.write(a, ATOM)}^{{{number(node.value)}}}"
            case "sqrt", (a,):
                return CALL, rf"\sqrt{{{self.write(a)}}}"
            case "clip", (a,):
                return ATOM, rf"\mathrm{{C}}_{{{number(node.value)}}}{brackets(self.write(a))}"
            case "abs", (a,):
                return ATOM, rf"\lvert {self.write(a)} \rvert"
            case "relu", (a,):
                return CALL, rf"\max{brackets(f'0, {self.write(a)}')}"
            case (("max" | "min"), (a, b)):
                return CALL, rf"\{node.op}{brackets(f'{self.write(a)}, {self.write(b)}')}"
            case "sum", (a,):
                return PRODUCT, rf"\sum {self.write(a, CALL)}"
            case "where", (test, a, b):
                cases = rf"{self.write(a)} & \text{{if }} {self.write(test)} \\ {self.write(b)} & \text{{otherwise}}"
                return SUM, rf"\begin{{cases}} {cases} \end{{cases}}"
            case op, (a, b) if op in TESTS:
                return SUM, f"{self.write(a)} {TESTS[op]} {self.write(b)}"
            case op, (a,):
                return CALL, f"{CALLS[op]}{brackets(self.write(a))}"
        raise AssertionError(node)

    def _product(self, node: Node) -> str:
        """Write factors: numbers first, then values of the units."""
        factors, waiting = list[Node](), [node]
        while waiting:
            factor = waiting.pop(0)
            if factor is node or (factor.op == "mul" and factor not in self.names and not self._own(factor)):
                waiting[:0] = [_simple(arg) for arg in factor.args]
            else:
                factors.append(factor)
        scalars = sorted((f for f in factors if f.dim in (CONSTANT, ROW)), key=lambda f: f.dim == ROW)
        vectors = [factor for factor in factors if factor not in scalars]
        numbers = r" \, ".join(self.write(factor, CALL) for factor in scalars)
        return r" \, ".join(filter(None, [numbers, r" \odot ".join(self.write(factor, CALL) for factor in vectors)]))

    def _own(self, node: Node) -> bool:
        """Whether a product is written as something else than its two factors."""
        return bool(normalized(node) or averaged(node) or node.args[0] is node.args[1])


def _simple(node: Node) -> Node:
    """Return z for 1 - (1 - z), and other nodes as they are."""
    if node.op == "sub" and node.args[1].op == "sub" and node.args[0].op == "const":
        one, inner = node.args
        if inner.args[0] is one:
            return _simple(inner.args[1])
    return node


def symbol(name: str) -> str:
    r"""Return a name as LaTeX has it: a letter, \zeta, or \mathrm{name}."""
    if name in GREEK:
        return rf"\{name}"
    return name if len(name) == 1 else rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"


def index(name: str) -> str:
    """Return a name as a subscript."""
    return name if len(name) == 1 else f"{{{symbol(name)}}}"


def brackets(text: str) -> str:
    """Put parentheses around, tall ones around what is tall."""
    tall = any(part in text for part in (r"\frac", r"\sum", r"\sqrt"))
    return rf"\left({text}\right)" if tall else f"({text})"


def number(value: float) -> str:
    r"""Return a number, small and large ones as 2 \cdot 10^{-5}."""
    if value in (float("inf"), float("-inf")):
        return r"\infty" if value > 0 else r"-\infty"
    digits, _, exponent = f"{value!r}".removesuffix(".0").partition("e")
    if not exponent:
        return digits
    return (rf"{digits} \cdot " if digits != "1" else "") + f"10^{{{int(exponent)}}}"
