"""Tracing: what an equation becomes, that no two cells are confused, and what is refused with which words."""

import linecache
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equations import Odd, assert_close, by_kernel, by_reference, problem
from torch import Tensor

from recur.cells import CELLS, GRU, LSTMP, Elman, cell_named
from recur.cells.cell import Cell, State, exp, maximum, mean, relu, sigmoid, tanh, where
from recur.compiler.graph import Equation
from recur.compiler.trace import NotTraceable, trace
from recur.errors import InputError

EVERY = {**CELLS, "lstmp": LSTMP, "odd": Odd}


def one(expression: Callable, **declared) -> Cell:
    """A cell with gates a and b and states h and c, whose new h is `expression` of x, U, s and p."""

    def step(x, U, s, p):
        return State(h=expression(x, U, s, p), c=s.c + x.b)

    return type("One", (Cell,), {"gates": "a b", "state": "h c", "units": "u", "step": staticmethod(step)} | declared)()


def operations(cell: Cell) -> list[str]:
    return [node.op for node in trace(cell).nodes]


@pytest.mark.parametrize("name", EVERY)
def test_every_cell_is_traced_and_its_text_makes_an_equal_equation(name: str):
    cell = EVERY[name]()
    equation = trace(cell)
    assert equation.gates == cell.gate_names
    assert equation.recurrent == cell.recurrent_names
    assert equation.states == cell.state_names
    assert equation.units == cell.unit_names
    assert equation.projected == cell.projected
    assert equation.dim("h") == ("P" if cell.projected else "H")
    again = Equation.parse(equation.text)
    assert again.text == equation.text
    assert [node.op for node in again.nodes] == [node.op for node in equation.nodes]
    assert (again.gates, again.recurrent, again.units, again.masks) == (
        equation.gates,
        equation.recurrent,
        equation.units,
        equation.masks,
    )
    assert "\n" not in equation.text


def test_the_text_keeps_every_bit_of_a_constant():
    for value in (0.1, 1 / 3, 1e-300, -0.0, math.inf, 5e-324):
        equation = trace(one(lambda x, U, s, p, value=value: x.a + value * s.h))
        found = [node.value for node in Equation.parse(equation.text).nodes if node.op == "const"]
        assert str(value) in map(str, found)


def test_masks_and_powers_go_through_the_text():
    def step(x, m):
        return State(h=(x.a * m.k).sigmoid() ** 1.7)

    cell = type("Masked", (Cell,), {"gates": "a", "masks": "k", "step": staticmethod(step)})()
    equation = trace(cell)
    assert equation.masks == ("k",)
    assert Equation.parse(equation.text).text == equation.text
    assert [node.value for node in equation.nodes if node.op == "pow"] == [1.7]


def test_the_line_is_found_in_a_folder_named_after_torch(tmp_path):
    file = tmp_path / "torch_cell.py"
    file.write_text("def step(x, U, s):\n    return State(h=x.a.softmax(-1))\n")
    names = {"State": State}
    exec(compile(file.read_text(), str(file), "exec"), names)
    cell = type("Elsewhere", (Cell,), {"gates": "a", "step": staticmethod(names["step"])})()
    with pytest.raises(NotTraceable, match=re.escape(f"{file}, line 2: return State(h=x.a.softmax(-1))")):
        trace(cell)


def test_equal_cells_have_one_equation():
    assert trace(GRU()) is trace(GRU())
    assert trace(cell_named("rnn-relu")) is trace(Elman("relu"))


def test_a_value_that_is_written_twice_is_computed_once():
    cell = one(lambda x, U, s, p: sigmoid(x.a + U.a(s.h)) * tanh(s.c) + sigmoid(x.a + U.a(s.h)))
    assert operations(cell).count("sigmoid") == 1
    assert operations(cell).count("product") == 1


def test_options_of_a_cell_are_not_confused():
    texts = {trace(GRU(reset, z)).text for reset in ("after", "before") for z in ("old", "new")}
    assert len(texts) == 4
    assert len({trace(Elman(name)).text for name in ("tanh", "relu", "sigmoid")}) == 3
    cell = GRU("after")
    before = trace(cell).text
    cell.reset = "before"
    assert trace(cell).text == trace(GRU("before")).text != before


def test_an_option_that_cannot_be_hashed_is_seen_when_it_changes():
    class Scaled(Cell):
        gates = "a"

        def __init__(self) -> None:
            self.scale = [0.5]

        def step(self, x, U, s):
            return State(h=tanh(x.a + self.scale[0] * s.h))

    cell = Scaled()
    before = trace(cell).text
    cell.scale[0] = 0.75
    assert trace(cell).text != before


def test_variables_around_a_step_are_not_confused():
    def cell(share: float) -> Cell:
        class Leaky(Cell):
            gates = "a"

            def step(x, U, s):
                return State(h=share * s.h + tanh(x.a))

        return Leaky()

    assert trace(cell(0.5)).text != trace(cell(0.25)).text
    assert trace(cell(0.5)).text == trace(cell(0.5)).text


def test_a_variable_around_a_step_that_changes_is_seen():
    share = 0.5

    class Leaky(Cell):
        gates = "a"

        def step(x, U, s):
            return State(h=share * s.h + tanh(x.a))

    cell = Leaky()
    before = trace(cell).text
    share = 0.25
    assert trace(cell).text != before


RATE = 0.5


class Global(Cell):
    gates = "a"

    def step(x, U, s):
        return State(h=RATE * s.h + tanh(x.a))


class Inner(Cell):
    gates = "a"

    def step(x, U, s):
        return State(h=helper(s.h) + tanh(x.a))


def helper(v):
    return RATE * v


class Settings:
    rate = 0.5


class Attribute(Cell):
    gates = "a"

    def step(x, U, s):
        return State(h=Settings.rate * s.h + tanh(x.a))


def test_a_global_that_changes_is_seen(monkeypatch):
    before = trace(Global()).text
    monkeypatch.setitem(globals(), "RATE", 0.25)
    assert trace(Global()).text != before


def test_a_global_that_a_called_function_reads_is_seen(monkeypatch):
    before = trace(Inner()).text
    monkeypatch.setitem(globals(), "RATE", 0.25)
    assert trace(Inner()).text != before


class Own(Cell):
    gates = "a"
    rate = 0.5

    def step(self, x, U, s):
        inner = [self.share(v) for v in (s.h,)]
        return State(h=self.rate * inner[0] + tanh(x.a))

    def share(self, v):
        return RATE * v


def test_a_class_attribute_or_a_method_that_changes_is_seen(monkeypatch):
    first = trace(Own()).text
    monkeypatch.setattr(Own, "rate", 0.25)
    second = trace(Own()).text
    monkeypatch.setattr(Own, "share", lambda self, v: 0.75 * v)
    third = trace(Own()).text
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "RATE", 0.25)
    assert len({first, second, third, trace(Own()).text}) == 4


FUNCTIONS = {"f": tanh}


class Table(Cell):
    gates = "a"

    def step(x, U, s):
        return State(h=FUNCTIONS["f"](x.a + s.h))


def test_what_a_global_dictionary_holds_is_seen_and_is_no_reason_to_trace_anew(monkeypatch):
    before = trace(Table()).text
    with monkeypatch.context() as without:
        without.setattr("recur.compiler.trace._trace", None)
        assert trace(Table()).text == before
    monkeypatch.setitem(FUNCTIONS, "f", sigmoid)
    assert trace(Table()).text != before


def test_an_attribute_that_changes_is_seen(monkeypatch):
    before = trace(Attribute()).text
    monkeypatch.setattr(Settings, "rate", 0.25)
    assert trace(Attribute()).text != before


def test_a_class_that_is_defined_anew_under_its_name_is_not_the_old_one():
    def define(sign: str) -> Cell:
        names = {"Cell": Cell, "State": State}
        exec(f"class New(Cell):\n    gates = 'a'\n    def step(x, U, s):\n        return State(h={sign}x.a)\n", names)
        return names["New"]()

    plus, minus = define(""), define("-")
    assert trace(plus).text != trace(minus).text
    assert trace(plus).text == trace(define("")).text


def test_a_subclass_with_a_step_of_its_own_is_not_its_base():
    class Late(GRU):
        def step(self, x, U, s):
            return State(h=tanh(super().step(x, U, s).h))

    assert "tanh" in operations(Late())
    assert trace(Late()).text != trace(GRU()).text
    assert trace(Late("before")).text != trace(Late("after")).text


def test_a_subclass_with_other_gates_is_not_its_base():
    class Other(Global):
        gates = "a b"
        recurrent = "b"

    assert trace(Other()).gates == ("a", "b")
    assert trace(Other()).recurrent == ("b",)
    assert trace(Global()).gates == ("a",)


def test_defaults_of_a_step_are_not_confused():
    class Named(Cell):
        gates = "a"

        def step(x, U, s):
            def inner(v, factor=0.5):
                return factor * v

            return State(h=inner(s.h) + x.a)

    class Other(Cell):
        gates = "a"

        def step(x, U, s):
            def inner(v, factor=0.25):
                return factor * v

            return State(h=inner(s.h) + x.a)

    assert trace(Named()).text != trace(Other()).text


# what cannot be compiled: the expression, what the message says of it, and what to write instead
WIDE = torch.ones(3)
REFUSED = {
    "branch": (lambda x, U, s, p: s.h if x.a > 0 else s.c, "a Python branch asks", "use where(condition, a, b)"),
    "and": (lambda x, U, s, p: where(x.a > 0 and x.b > 0, s.h, s.c), "a Python branch asks", "use where("),
    "chain": (lambda x, U, s, p: where(0 < x.a < 1, s.h, s.c), "a Python branch asks", "use where("),
    "max": (lambda x, U, s, p: max(x.a, s.h), "a Python branch asks", "use where("),
    "float": (lambda x, U, s, p: s.h * float(x.a), "turned into a number", "keep it in the equation"),
    "int": (lambda x, U, s, p: s.h * int(x.a), "turned into a number", "keep it in the equation"),
    "item": (lambda x, U, s, p: s.h * x.a.item(), "`.item` is not among", "use + - * /"),
    "math": (lambda x, U, s, p: s.h * math.exp(x.a), "turned into a number", "keep it in the equation"),
    "numpy": (lambda x, U, s, p: s.h * np.tanh(x.a), "numpy.tanh is given a value", "use + - * /"),
    "numpy array": (lambda x, U, s, p: s.h * np.ones(3), "stands in the equation", "per-unit parameters p.g (`units`)"),
    "index": (lambda x, U, s, p: s.h + x.a[:, 0:1], "a value is indexed", "treat all units alike"),
    "loop": (lambda x, U, s, p: sum(v for v in x.a), "a value is taken apart", "use + - * /"),
    "in place": (lambda x, U, s, p: x.a.add_(1), "`.add_` changes a value in place", "compute a new value"),
    "shape": (lambda x, U, s, p: s.h * x.a.shape[0], "`.shape` is not among", "use + - * /"),
    "softmax": (lambda x, U, s, p: x.a.softmax(-1), "`.softmax` is not among", "use + - * /"),
    "method": (lambda x, U, s, p: x.a.cumsum(-1), "`.cumsum` is not among", "use + - * /"),
    "function": (lambda x, U, s, p: torch.softmax(x.a, -1), "torch.softmax is not among", "use + - * /"),
    "functional": (lambda x, U, s, p: F.softplus(x.a), "torch.softplus is not among", "use + - * /"),
    "module": (lambda x, U, s, p: torch.nn.functional.gelu(x.a), "torch.gelu is not among", "use + - * /"),
    "numpy first": (lambda x, U, s, p: np.ones(3) * s.h, "a ndarray stands", "per-unit parameters p.g (`units`)"),
    "numpy sum": (lambda x, U, s, p: s.h - np.add.reduce(x.a), "numpy.add is given a value", "use + - * /"),
    "matrix": (lambda x, U, s, p: x.a @ WIDE, "is not among", "use + - * /"),
    "matrices": (lambda x, U, s, p: x.a @ s.h, "an operator is not among", "use + - * /"),
    "remainder": (lambda x, U, s, p: x.a % 2, "an operator is not among", "use + - * /"),
    "both": (lambda x, U, s, p: where((x.a > 0) & (x.b > 0), s.h, s.c), "an operator is not among", "use + - * /"),
    "length": (lambda x, U, s, p: x.a / len(s.h), "an operator is not among", "use + - * /"),
    "out": (lambda x, U, s, p: torch.add(x.a, s.h, alpha=2), "torch.add is called with alpha", "with operators"),
    "inplace": (lambda x, U, s, p: F.relu(x.a, inplace=True), "torch.relu is called with inplace", "with operators"),
    "negative base": (lambda x, U, s, p: (-2) ** x.a, "-2 is taken to a power", "take a positive number"),
    "flat mean": (lambda x, U, s, p: s.h - x.a.mean(-1), "over something else than the units", "write mean(v)"),
    "tensor": (lambda x, U, s, p: s.h * WIDE, "a tensor of shape [3] stands", "per-unit parameters p.g (`units`)"),
    "tensor first": (
        lambda x, U, s, p: WIDE * s.h,
        "a tensor of shape [3] stands",
        "per-unit parameters p.g (`units`)",
    ),
    "text": (lambda x, U, s, p: s.h + "1", "a str stands in the equation", "use numbers"),
    "cat": (lambda x, U, s, p: torch.cat([x.a, s.h]), "torch.cat is not among", "use + - * /"),
    "dim": (lambda x, U, s, p: s.h - x.a.mean(0), "over something else than the units", "write mean(v)"),
    "no dim": (lambda x, U, s, p: s.h - x.a.mean(), "over something else than the units", "write mean(v)"),
    "sum": (lambda x, U, s, p: s.h - x.a.sum(0), "over something else than the units", "write v.sum(-1, keepdim=True)"),
    "no condition": (lambda x, U, s, p: where(x.a, s.h, s.c), "the condition of `where`", "where(x.a > 0, v, w)"),
    "product of a mean": (lambda x, U, s, p: U.a(mean(s.h)), "U.a is given a sum or mean", "give it a state"),
    "product of a number": (lambda x, U, s, p: U.a(1.0), "U.a is given a float", "give it a state"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_with_the_line_and_the_remedy(name: str):
    expression, what, instead = REFUSED[name]
    line = expression.__code__.co_firstlineno
    with pytest.raises(NotTraceable) as caught:
        trace(one(expression))
    message = str(caught.value)
    assert f"{__file__}, line {line}: " in message
    assert linecache.getline(__file__, line).strip() in message
    assert f"cannot be compiled: {what}" in message or what in message.split("cannot be compiled: ")[1]
    assert instead in message
    assert message.endswith("or run it with backend='reference'")
    assert isinstance(caught.value, InputError)


def test_a_statement_in_place_is_refused_and_a_new_value_under_the_old_name_is_not():
    class Item(Cell):
        gates = "a"

        def step(x, U, s):
            v = x.a
            v[0] = 0
            return State(h=v)

    class Plus(Cell):
        gates = "a"

        def step(x, U, s):
            v = U.a(s.h)
            v += x.a
            v *= 2.0
            v -= s.h
            v /= 4.0
            return State(h=v)

    class Plain(Cell):
        gates = "a"

        def step(x, U, s):
            return State(h=((U.a(s.h) + x.a) * 2.0 - s.h) / 4.0)

    class Own(Cell):
        gates = "a"

        def step(x, U, s):
            v = x.a
            v += s.h
            return State(h=v)

    with pytest.raises(NotTraceable, match=re.escape("v[0] = 0") + r"\n.*changed in place; compute a new value"):
        trace(Item())
    with pytest.raises(
        NotTraceable, match=re.escape("v += s.h") + r"\n.*a gate's input is changed in place; compute a"
    ):
        trace(Own())
    assert trace(Plus()).text == trace(Plain()).text


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        (lambda x, U, s, p: mean(x.a), "a sum or mean over the units"),
        (lambda x, U, s, p: x.a.sum(-1, keepdim=True), "a sum or mean over the units"),
        (lambda x, U, s, p: 1.0, "a constant"),
    ],
)
def test_a_state_must_be_a_value_of_the_units(expression, found: str):
    with pytest.raises(NotTraceable, match=f"must return h as a value of the H units, got {found}"):
        trace(one(expression))


def projected(expression: Callable) -> Cell:
    def step(x, U, s, P):
        return State(h=expression(x, U, s, P), c=s.c + x.a)

    return type("Projected", (Cell,), {"gates": "a", "state": "h c", "projected": True, "step": staticmethod(step)})()


def test_units_and_projected_outputs_are_not_mixed():
    with pytest.raises(
        NotTraceable, match=r"H units meets one of the P projected outputs; project the one first with P"
    ):
        trace(projected(lambda x, U, s, P: x.a + s.h))
    with pytest.raises(NotTraceable, match="must return h as a value of the P projected outputs, got a value of the H"):
        trace(projected(lambda x, U, s, P: x.a))
    with pytest.raises(NotTraceable, match=r"P is given a value of the P projected outputs; give it a value of the H"):
        trace(projected(lambda x, U, s, P: P(s.h)))
    with pytest.raises(NotTraceable, match=r"U.a is given a value of the H units"):
        trace(projected(lambda x, U, s, P: P(U.a(x.a))))
    with pytest.raises(
        NotTraceable, match=r"H units meets one of the P projected outputs; project the one first with P"
    ):
        trace(projected(lambda x, U, s, P: where(x.a > 0, s.h, 0.0)))
    assert "sum" in operations(projected(lambda x, U, s, P: P(x.a) * mean(U.a(s.h))))


SPELLINGS = {
    "sigmoid": [
        lambda x, U, s, p: sigmoid(x.a),
        lambda x, U, s, p: torch.sigmoid(x.a),
        lambda x, U, s, p: F.sigmoid(x.a),
    ],
    "tanh": [lambda x, U, s, p: tanh(x.a), lambda x, U, s, p: torch.tanh(x.a), lambda x, U, s, p: F.tanh(x.a)],
    "relu": [lambda x, U, s, p: relu(x.a), lambda x, U, s, p: F.relu(x.a), lambda x, U, s, p: torch.relu(x.a)],
    "exp": [lambda x, U, s, p: exp(x.a), lambda x, U, s, p: torch.exp(x.a), lambda x, U, s, p: x.a.exp()],
    "abs": [lambda x, U, s, p: abs(x.a), lambda x, U, s, p: torch.abs(x.a), lambda x, U, s, p: x.a.abs()],
    "sqrt": [lambda x, U, s, p: (x.a * x.a + 1) ** 0.5, lambda x, U, s, p: torch.sqrt(x.a**2 + 1)],
    "where": [lambda x, U, s, p: where(x.a > 0, x.a, s.h), lambda x, U, s, p: torch.where(x.a > 0, x.a, s.h)],
    "max": [lambda x, U, s, p: maximum(x.a, s.h), lambda x, U, s, p: torch.maximum(x.a, s.h)],
    "sum": [lambda x, U, s, p: x.a - mean(x.a), lambda x, U, s, p: x.a - torch.mean(x.a, dim=-1, keepdim=True)],
    "add": [lambda x, U, s, p: x.a + s.h, lambda x, U, s, p: torch.add(x.a, s.h)],
    "sub": [lambda x, U, s, p: 1 - x.a, lambda x, U, s, p: torch.sub(1, x.a), lambda x, U, s, p: torch.rsub(x.a, 1)],
    "mul": [
        lambda x, U, s, p: 2 * x.a,
        lambda x, U, s, p: torch.mul(x.a, 2),
        lambda x, U, s, p: torch.tensor(2.0) * x.a,
    ],
    "div": [lambda x, U, s, p: 1 / (2 + x.a), lambda x, U, s, p: torch.reciprocal(x.a + 2)],
    "pow": [lambda x, U, s, p: exp(x.a) ** 1.5, lambda x, U, s, p: torch.pow(x.a.exp(), 1.5)],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_an_operation_may_be_spelled_as_in_torch(name: str):
    ours, *theirs = SPELLINGS[name]
    assert name in operations(one(ours))
    for spelling in theirs:
        assert sorted(operations(one(spelling))) == sorted(operations(one(ours)))


@pytest.mark.parametrize(
    "expression",
    [
        lambda x, U, s, p: 2.0 ** tanh(x.a) + 0.1 * s.h,
        lambda x, U, s, p: exp(tanh(x.a)) ** tanh(s.h),
        lambda x, U, s, p: tanh(x.a) ** 4 - tanh(s.h) ** 7 + (2 + tanh(x.b)) ** -3,
        lambda x, U, s, p: tanh(x.a) ** -2 * 0.01 if False else 1 / (1 + x.a.square()) + 0.2 * s.h,
        lambda x, U, s, p: x.a**0 * s.h * 0.5 + x.a**1,
        lambda x, U, s, p: tanh(x.a + (s.h * 0 + 1).sum(-1, keepdim=True) * 0.01),
        lambda x, U, s, p: U.a(s.h),
        lambda x, U, s, p: U.a(p.u) + U.b(U.a(s.c)),
        lambda x, U, s, p: s.h,
        lambda x, U, s, p: s.c + 0 * x.a,
        lambda x, U, s, p: x.a + x.b,
        lambda x, U, s, p: tanh(p.u * s.h) * mean(p.u),
        lambda x, U, s, p: where(mean(x.a) > 0, s.h, 0.5) + where(x.b >= s.c, 1.0, -1.0) * tanh(x.a),
        lambda x, U, s, p: (x.a > 0) * tanh(s.h) + (s.c <= x.b) * 0.5 + np.float64(0.25) * s.h,
        lambda x, U, s, p: maximum(x.a, 0.3) + torch.minimum(s.h, torch.tensor(0.2)),
    ],
)
@pytest.mark.parametrize("c", [lambda x, s: s.c + x.b, lambda x, s: s.h, lambda x, s: x.b])
def test_what_is_traced_computes_the_same(expression: Callable, c: Callable):
    def step(x, U, s, p):
        return State(h=expression(x, U, s, p), c=c(x, s))

    cell = type("Two", (Cell,), {"gates": "a b", "state": "h c", "units": "u", "step": staticmethod(step)})()
    given = problem(cell, 4, 3, 2, 5)
    assert_close(by_kernel(given), by_reference(given))


def test_a_tensor_of_one_number_is_a_constant():
    captured: Tensor = torch.tensor(0.5)
    half = trace(one(lambda x, U, s, p: x.a + s.h * 0.5)).text
    assert trace(one(lambda x, U, s, p: x.a + s.h * captured)).text == half
    for number in (np.float64(0.5), np.float32(0.5), np.array(0.5)):
        assert trace(one(lambda x, U, s, p, number=number: x.a + s.h * number)).text == half
        assert sorted(operations(one(lambda x, U, s, p, number=number: x.a + number * s.h))) == sorted(
            operations(one(lambda x, U, s, p: x.a + s.h * 0.5))
        )


def test_a_captured_tensor_that_wants_a_gradient_is_refused():
    captured = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(NotTraceable, match=r"a tensor of shape \[\] stands in the equation.*per-unit parameters"):
        trace(one(lambda x, U, s, p: x.a + captured * s.h))
