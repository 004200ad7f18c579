"""From a cell to its equation: `trace` runs `step` once on symbols that record what is done to them."""

import linecache
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

import torch

from recur.cells.cell import Cell, Named, State
from recur.compiler.graph import COMPARE, CONSTANT, OUTPUTS, ROW, UNITS, Equation, Graph, Node, reachable
from recur.errors import InputError

SUPPORTED = (
    "+ - * / ** with numbers and values, comparisons, sigmoid, tanh, relu, exp, log, abs, sqrt, maximum, minimum, "
    "where, clip_gradient, mean and normalize over the units"
)


class NotTraceable(InputError):
    """The equation holds something that cannot be compiled; the message shows the line and what to write instead."""


def trace(cell: Cell) -> Equation:
    """Return the equation of `cell`; the same object for an equal cell.

    Raises:
        NotTraceable: `step` does something that cannot be compiled, such as branching on a value.
    """
    key = _identity(cell)
    try:
        return _traced[key]
    except (KeyError, TypeError):
        equation = Equation.parse(_trace(cell).text)
    try:
        if len(_traced) > 256:
            _traced.clear()
        if _settled(key):
            _traced[key] = equation
    except TypeError:  # an option that cannot be hashed: traced anew each time
        pass
    return equation


_traced: dict[Any, Equation] = {}


class _Identity(tuple[Any, ...]):
    """What `_identity` returns."""


def _identity(cell: Cell) -> _Identity:
    """Return what the traced equation depends on: the code of `step`, the cell's options, and names it looks up."""
    step = getattr(cell.step, "__func__", cell.step)
    code = getattr(step, "__code__", step)
    around = tuple(c.cell_contents for c in getattr(step, "__closure__", None) or ())
    scope, names = getattr(step, "__globals__", {}), _names(code)
    # dictionaries by what they hold now
    looked_up = tuple(_plain(scope.get(name)) for name in names)
    own = tuple(_plain(getattr(type(cell), name, None)) for name in names)
    options = tuple((name, _plain(value)) for name, value in vars(cell).items())
    return _Identity((type(cell), code, around, looked_up, own, options))


def _plain(value: Any) -> Any:
    if isinstance(value, Cell):
        return _identity(value)
    return tuple(value.items()) if isinstance(value, dict) else value


@lru_cache(maxsize=256)
def _names(code: Any) -> tuple[str, ...]:
    """Return the names that code looks up, and functions inside it."""
    inner = [name for part in getattr(code, "co_consts", ()) if isinstance(part, CodeType) for name in _names(part)]
    return (*getattr(code, "co_names", ()), *inner)


def _settled(value: Any) -> bool:
    """Whether a value stays what it is: numbers, texts, and functions, classes and modules of recur and torch.

    Another function or object may read something that changes later, without a trace in `_identity`.
    """
    if isinstance(value, tuple):
        # the class and the code of a cell stay what they are
        return all(map(_settled, value[2:] if isinstance(value, _Identity) else value))
    if value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, ModuleType):
        home = value.__name__
    elif isinstance(value, FunctionType | BuiltinFunctionType | type):
        home = value.__module__ or ""
    else:
        return False
    return home.split(".")[0] in ("recur", "torch", "math", "numpy", "builtins")


def _trace(cell: Cell) -> Equation:
    graph = Graph()

    def leaf(op: str, name: str, dim: str | None = None) -> Symbol:
        return Symbol(graph.make(op, name=name, dim=dim))

    def product(gate: str) -> Callable[[Symbol], Symbol]:
        def times(vector: Symbol) -> Symbol:
            if not isinstance(vector, Symbol) or vector.node.dim != (OUTPUTS if cell.projected else UNITS):
                _refuse(f"U.{gate} is given {_kind(vector)}", "give it a state or another value of the units")
            return Symbol(graph.make("product", vector.node, name=gate))

        return times

    def project(vector: Symbol) -> Symbol:
        if not isinstance(vector, Symbol) or vector.node.dim != UNITS:
            _refuse(f"P is given {_kind(vector)}", "give it a value of the H units")
        return Symbol(graph.make("project", vector.node, dim=OUTPUTS))

    state = {
        name: leaf("state", name, OUTPUTS if name == "h" and cell.projected else UNITS) for name in cell.state_names
    }
    given: dict[str, Any] = {
        "x": Named("gate", {name: leaf("x", name) for name in cell.gate_names}),
        "U": Named("recurrent product", {name: product(name) for name in cell.recurrent_names}),
        "s": State(**state),  # type: ignore[arg-type]
        "p": Named("per-unit parameter", {name: leaf("unit", name) for name in cell.unit_names}),
        "P": project if cell.projected else None,
        "m": Named("mask", {name: leaf("mask", name) for name in cell.mask_names}),
    }
    new = cell.advance(**given)
    values: dict[str, Node] = {}
    for name, value in new.items():
        node = _node(graph, value)
        wanted = state[name].node.dim
        if node.dim != wanted:
            raise NotTraceable(
                f"cell {type(cell).__name__}: `step` must return {name} as {_KINDS[wanted]}, got {_kind(Symbol(node))}"
            )
        values[name] = node
    return Equation(
        graph,
        values,
        gates=cell.gate_names,
        recurrent=cell.recurrent_names,
        units=cell.unit_names,
        masks=cell.mask_names,
        projected=cell.projected,
    )


class Symbol:
    """A value of which only the way it is computed is known; behaves like a tensor in an equation."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> "Symbol":
        name = getattr(function, "__name__", str(function))
        method = _TORCH.get(name)
        if method is None:
            _refuse(f"torch.{name} is not among the operations that can be compiled", f"use {SUPPORTED}")
        # such as F.relu's inplace=False
        options = {key: value for key, value in (kwargs or {}).items() if not (value is None or value is False)}
        symbol = next((arg for arg in args if isinstance(arg, Symbol)), None)
        if symbol is None or not options.keys() <= {"dim", "keepdim"}:
            _refuse(f"torch.{name} is called with {', '.join(options)}", "write it with operators")
        if method == "where":
            return _where(*args)
        first, *rest = args
        if not isinstance(first, Symbol):
            first = Symbol(_node(symbol.node.graph, first))
        result: Symbol = getattr(first, method)(*rest, **options)
        return result

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> "Symbol":
        # a number of numpy meets a value
        operator = _TORCH.get({"subtract": "sub", "power": "pow"}.get(function.__name__, function.__name__))
        if method != "__call__" or kwargs or len(args) != 2 or operator is None:
            _refuse(f"numpy.{function.__name__} is given a value of the equation", f"use {SUPPORTED}")
        first = args[0] if isinstance(args[0], Symbol) else Symbol(_node(self.node.graph, args[0]))
        result: Symbol = getattr(first, operator)(args[1])
        return result

    def _binary(self, op: str, other: Any, swap: bool = False) -> "Symbol":
        graph = self.node.graph
        a, b = _node(graph, self), _node(graph, other)
        if swap:
            a, b = b, a
        if {a.dim, b.dim} >= {UNITS, OUTPUTS}:
            _refuse("a value of the H units meets one of the P projected outputs", "project the one first with P(v)")
        if op in COMPARE:
            return Symbol(graph.make(op, a, b))
        return Symbol(graph.binary(op, a, b))

    def __add__(self, other: Any) -> "Symbol":
        return self._binary("add", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> "Symbol":
        return self._binary("sub", other)

    def __rsub__(self, other: Any) -> "Symbol":
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Any) -> "Symbol":
        return self._binary("mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Symbol":
        return self._binary("div", other)

    def __rtruediv__(self, other: Any) -> "Symbol":
        return self._binary("div", other, swap=True)

    def __pow__(self, exponent: Any) -> "Symbol":
        if isinstance(exponent, Symbol):
            return (self.log() * exponent).exp()
        graph = self.node.graph
        return Symbol(graph.power(_node(graph, self), _number(exponent)))

    def __rpow__(self, base: Any) -> "Symbol":
        number = _number(base)
        if number <= 0:
            _refuse(f"{base} is taken to a power that changes at every step", "take a positive number")
        return (self * math.log(number)).exp()

    def _changed(self, op: str, other: Any) -> "Symbol":
        # a tensor of the caller's would be changed; a value computed in the step may be, and nobody sees it
        if self.node.op in ("state", "x", "unit", "mask"):
            _refuse(f"a {_LEAVES[self.node.op]} is changed in place", "compute a new value")
        return self._binary(op, other)

    def __iadd__(self, other: Any) -> "Symbol":
        return self._changed("add", other)

    def __isub__(self, other: Any) -> "Symbol":
        return self._changed("sub", other)

    def __imul__(self, other: Any) -> "Symbol":
        return self._changed("mul", other)

    def __itruediv__(self, other: Any) -> "Symbol":
        return self._changed("div", other)

    def __neg__(self) -> "Symbol":
        return self._unary("neg")

    def __pos__(self) -> "Symbol":
        return self

    def _unknown(self, *others: Any) -> NoReturn:
        _refuse("an operator is not among those that can be compiled", f"use {SUPPORTED}")

    __matmul__ = __rmatmul__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = _unknown
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = __len__ = _unknown

    def __gt__(self, other: Any) -> "Symbol":
        return self._binary("gt", other)

    def __ge__(self, other: Any) -> "Symbol":
        return self._binary("ge", other)

    def __lt__(self, other: Any) -> "Symbol":
        return self._binary("lt", other)

    def __le__(self, other: Any) -> "Symbol":
        return self._binary("le", other)

    def __eq__(self, other: object) -> "Symbol":  # type: ignore[override]
        return self._binary("eq", other)

    def __ne__(self, other: object) -> "Symbol":  # type: ignore[override]
        return self._binary("ne", other)

    __hash__ = None  # type: ignore[assignment]

    def _unary(self, op: str) -> "Symbol":
        graph = self.node.graph
        return Symbol(graph.unary(op, _node(graph, self)))

    def sigmoid(self) -> "Symbol":
        return self._unary("sigmoid")

    def tanh(self) -> "Symbol":
        return self._unary("tanh")

    def relu(self) -> "Symbol":
        return self._unary("relu")

    def exp(self) -> "Symbol":
        return self._unary("exp")

    def log(self) -> "Symbol":
        return self._unary("log")

    def sqrt(self) -> "Symbol":
        return self._unary("sqrt")

    def abs(self) -> "Symbol":
        return self._unary("abs")

    __abs__ = abs

    def clip_gradient(self, bound: float) -> "Symbol":
        if not any(node.op in ("x", "state", "product", "project") for node in reachable([self.node])):
            _refuse(
                "the gradient of something that is the same for all rows, as per-unit parameters are, is clipped",
                "clip that of the gate or state which it meets",
            )
        return Symbol(self.node.graph.clip(_node(self.node.graph, self), bound))

    def square(self) -> "Symbol":
        return self * self

    def reciprocal(self) -> "Symbol":
        return 1 / self

    def maximum(self, other: Any) -> "Symbol":
        return self._binary("max", other)

    def minimum(self, other: Any) -> "Symbol":
        return self._binary("min", other)

    def mean(self, dim: Any = None, keepdim: bool = False) -> "Symbol":
        if dim not in (-1, (-1,), [-1]) or not keepdim:
            _refuse("a mean is taken over something else than the units", "write mean(v), from recur")
        if self.node.dim not in (UNITS, OUTPUTS):
            return self
        graph = self.node.graph
        return Symbol(graph.binary("mul", graph.sum(self.node, self.node.dim), graph.share(self.node.dim)))

    def sum(self, dim: Any = None, keepdim: bool = False) -> "Symbol":
        if dim not in (-1, (-1,), [-1]) or not keepdim:
            _refuse("a sum is taken over something else than the units", "write v.sum(-1, keepdim=True)")
        if self.node.dim not in (UNITS, OUTPUTS):
            _refuse(f"a sum is taken of {_kind(self)}", "sum a value of the units")
        return Symbol(self.node.graph.sum(self.node, self.node.dim))

    def __bool__(self) -> bool:
        _refuse(
            "a Python branch asks for the value of something that changes at every step", "use where(condition, a, b)"
        )

    def __float__(self) -> float:
        _refuse("a value that changes at every step is turned into a number", "keep it in the equation")

    __int__ = __index__ = __float__

    def __iter__(self) -> NoReturn:
        _refuse("a value is taken apart", f"use {SUPPORTED}")

    def __getitem__(self, index: Any) -> NoReturn:
        _refuse("a value is indexed", "treat all units alike, or use two states")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        _refuse("a value is changed in place", "compute a new value")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("_"):
            _refuse(f"`.{name}` changes a value in place", "compute a new value")
        _refuse(f"`.{name}` is not among the operations that can be compiled", f"use {SUPPORTED}")


_LEAVES = {"state": "state", "x": "gate's input", "unit": "per-unit parameter", "mask": "mask"}
# torch functions and functionals by name, and the method that does the same
_TORCH = {
    name: name for name in ("sigmoid", "tanh", "relu", "exp", "log", "abs", "sqrt", "maximum", "minimum", "square")
}
_TORCH |= {name: name for name in ("where", "mean", "sum", "reciprocal")}
_TORCH |= {"add": "__add__", "sub": "__sub__", "mul": "__mul__", "multiply": "__mul__", "div": "__truediv__"}
_TORCH |= {"divide": "__truediv__", "true_divide": "__truediv__", "neg": "__neg__", "negative": "__neg__"}
_TORCH |= {
    "pow": "__pow__",
    "gt": "__gt__",
    "ge": "__ge__",
    "lt": "__lt__",
    "le": "__le__",
    "eq": "__eq__",
    "ne": "__ne__",
}
_TORCH |= {"expit": "sigmoid", "absolute": "abs", "rsub": "__rsub__"}


def _where(condition: Any, a: Any, b: Any) -> Symbol:
    if not isinstance(condition, Symbol) or condition.node.op not in COMPARE:
        _refuse("the condition of `where` is no comparison", "write one such as where(x.a > 0, v, w)")
    graph = condition.node.graph
    nodes = condition.node, _node(graph, a), _node(graph, b)
    if {node.dim for node in nodes} >= {UNITS, OUTPUTS}:
        _refuse("a value of the H units meets one of the P projected outputs", "project the one first with P(v)")
    return Symbol(graph.where(*nodes))


def _node(graph: Graph, value: Any) -> Node:
    if not isinstance(value, Symbol):
        return graph.const(_number(value))
    node = value.node
    # where it counts as a number, what holds is 1
    return graph.where(node, graph.const(1), graph.const(0)) if node.op in COMPARE else node


def _number(value: Any) -> float:
    size = value.numel() if isinstance(value, torch.Tensor) else getattr(value, "size", 1)
    if size == 1 and hasattr(value, "__float__") and not getattr(value, "requires_grad", False):
        return float(value)
    _refuse(
        f"{_kind(value)} stands in the equation",
        "use numbers, gates x.g, products U.g(v), states s.h and per-unit parameters p.g (`units`)",
    )


_TORCH_FOLDER = os.path.dirname(torch.__file__) + os.sep
_KINDS = {
    UNITS: "a value of the H units",
    OUTPUTS: "a value of the P projected outputs",
    ROW: "a sum or mean over the units",
    CONSTANT: "a constant",
}


def _kind(value: Any) -> str:
    if isinstance(value, Symbol):
        return _KINDS[value.node.dim]
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


def _refuse(what: str, instead: str) -> NoReturn:
    """Raise NotTraceable with the line of the equation that is at fault."""
    frame = sys._getframe(1)
    own = (__file__, Cell.advance.__code__.co_filename, _TORCH_FOLDER)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(file, line).strip()
    raise NotTraceable(
        f"{file}, line {line}: {text or '?'}\n  cannot be compiled: {what}; {instead}, "
        "or run it with backend='reference'"
    )
