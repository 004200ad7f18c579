"""What `recur show` prints: the formula and the listing are read back and computed, and must be the cell."""

import contextlib
import io
import re
import shlex
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cyclopts import App, CycloptsError
from equations import Odd, problem, run
from torch import Tensor

from recur import Cell, State, mean, relu, sigmoid, tanh, where
from recur.app.show import load_cell
from recur.app.show import show as command
from recur.cells import CELLS, GRU, LSTM, LSTMP, UGRNN, Elman, PeepholeLSTM
from recur.compiler import machine, show
from recur.compiler.costs import Formula, costs
from recur.compiler.graph import folded
from recur.compiler.target import host, named
from recur.compiler.trace import trace
from recur.errors import InputError

B, D, H, P = 3, 4, 5, 2


class Awkward(Cell):
    """What is hard to write: names of several letters, signs, powers, a mask, a state that moves on, one shared."""

    gates = "c out_1 xi"
    state = "h c old alpha"
    units = "mu xi"
    masks = "z"

    def step(x, U, s, p, m):
        g = -(tanh(x.c + U.c(s.h)) ** 3) - (s.c - (x.out_1 - 2.5e-7))
        r = (U.xi(s.alpha) + 1.5) ** 2 * abs(s.c) ** 1.25 - -0.5 * p.mu
        c = relu(g - r / (1 + abs(x.xi))) * m.z + (1 - m.z) * s.c
        a = where(x.xi > 0, where(s.c <= g, r, 2.0), 1 - (1 - p.xi * c))
        h = (mean(c * c) + 1) ** -0.5 * (a - mean(a)) + -1
        return State(h=h, c=c, old=s.h, alpha=c)


def all_cells():
    return {**CELLS, "lstm-projected": LSTMP, "odd": Odd, "awkward": Awkward}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def arguments(cell: Cell):
    """Matrices, biases, states and all else that an equation needs, by name."""
    out = P if cell.projected else H
    return SimpleNamespace(
        x=drawn(B, D),
        W={gate: drawn(H, D) for gate in cell.gate_names},
        U={gate: drawn(H, out) for gate in cell.recurrent_names},
        b={gate: drawn(H) for gate in cell.gate_names},
        b2={gate: drawn(H) for gate in cell.recurrent_names},
        p={name: drawn(H) for name in cell.unit_names},
        m={name: drawn(B, H) for name in cell.mask_names},
        s={name: drawn(B, out if name == "h" else H) for name in cell.state_names},
        P=drawn(P, H),
    )


# the formula, read back

GREEK = ("zeta", "nu", "mu", "alpha", "beta", "gamma")
NAME = rf"(?:\\tilde\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}|\\mathrm\{{[^{{}}]+\}}|\\(?:{'|'.join(GREEK)})(?![a-z])|[A-Za-z])"
INDEX = r"(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\w))?"
TOKEN = re.compile(
    rf"\s*(?:(?P<name>{NAME}'?{INDEX})|(?P<number>\d+(?:\.\d+)?)|(?P<sign>\\left\(|\\right\)|\\[A-Za-z]+|\\\\|\\,|.))"
)


class Latex:
    """Computes an expression in LaTeX; `values` holds vectors, and matrices that stand before what they multiply."""

    def __init__(self, values: dict[str, Tensor], matrices: dict[str, Tensor]) -> None:
        self.values, self.matrices = values, matrices

    def __call__(self, text: str) -> Tensor:
        text = re.sub(r"\\text\{(.*?)\}", r"\\\1", text).replace(r"\left(", "(").replace(r"\right)", ")")
        self.tokens = [(match.lastgroup, match[0].strip()) for match in TOKEN.finditer(text) if match[0].strip()]
        value = self.sum()
        assert not self.tokens
        return value

    def next(self, *signs: str) -> bool:
        """Take one of these signs, if it comes next."""
        if self.tokens and self.tokens[0] in [("sign", sign) for sign in signs]:
            self.tokens.pop(0)
            return True
        return False

    def expect(self, sign: str) -> None:
        assert self.next(sign), (sign, self.tokens)

    def sum(self):
        total = -self.product() if self.next("-") else self.product()
        while True:
            if self.next("+"):
                total = total + self.product()
            elif self.next("-"):
                total = total - self.product()
            else:
                return total

    def product(self):
        value = self.power()
        while self.next(r"\odot", r"\,", r"\cdot") or (self.tokens and self.tokens[0] == ("sign", r"\sum")):
            value = value * self.power()
        return value

    def power(self):
        value = self.single()
        if self.next("^"):
            value = value ** self.group()
        return value

    def group(self):
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value

    def single(self):
        kind, text = self.tokens.pop(0)
        if kind == "number":
            return float(text)
        if kind == "name":
            if text == r"\mathrm{N}":
                v = self.single()
                centred = v - v.mean(-1, keepdim=True)
                return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            if text in self.matrices and self.tokens[:1] != [("sign", "}")]:
                return self.power() @ self.matrices[text].T
            return self.values[text]
        functions = {r"\sigma": torch.sigmoid, r"\tanh": torch.tanh, r"\exp": torch.exp, r"\log": torch.log}
        if text in functions:
            return functions[text](self.single())
        if text in (r"\frac", r"\tfrac"):
            return self.group() / self.group()
        if text == r"\sqrt":
            return self.group() ** 0.5
        if text == r"\sum":
            return self.power().sum(-1, keepdim=True)
        if text == r"\lvert":
            value = self.sum()
            self.expect(r"\rvert")
            return abs(value)
        if text in (r"\max", r"\min"):
            self.expect("(")
            a = self.sum()
            self.expect(",")
            b = self.sum()
            self.expect(")")
            a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
            return (torch.maximum if text == r"\max" else torch.minimum)(a, b)
        assert text == "(", text
        value = self.sum()
        self.expect(")")
        return value

    def cases(self, text: str) -> Tensor:
        yes, test, no = re.fullmatch(
            r"\\begin\{cases\} (.*) & \\text\{if \} (.*) \\\\ (.*) & \\text\{otherwise\} \\end\{cases\}", text
        ).groups()
        a, sign, b = re.fullmatch(r"(.*) (>|<|=|\\ge|\\le|\\ne) (.*)", test).groups()
        compare = {">": "gt", "<": "lt", "=": "eq", r"\ge": "ge", r"\le": "le", r"\ne": "ne"}[sign]
        values = [torch.as_tensor(self(part), dtype=torch.float64) for part in (a, b, yes, no)]
        return torch.where(getattr(torch, compare)(values[0], values[1]), values[2], values[3])


def index(name: str) -> str:
    return name if len(name) == 1 else f"{{{symbol(name)}}}"


def symbol(name: str) -> str:
    if name in GREEK:
        return f"\\{name}"
    return name if len(name) == 1 else f"\\mathrm{{{name.replace('_', chr(92) + '_')}}}"


@pytest.mark.parametrize("name", all_cells())
def test_the_formula_computes_what_the_cell_does(name: str):
    check_formula(all_cells()[name]())


def check_formula(cell: Cell) -> None:
    given = arguments(cell)
    expected = cell.advance(
        SimpleNamespace(**{gate: given.x @ W.T + given.b[gate] for gate, W in given.W.items()}),
        SimpleNamespace(**{gate: lambda v, g=gate: v @ given.U[g].T + given.b2[g] for gate in given.U}),
        State(**given.s),
        SimpleNamespace(**given.p),
        lambda v: v @ given.P.T,
        SimpleNamespace(**given.m),
    )
    for node in folded(trace(cell)):
        given.b[node.name] = given.b[node.name] + given.b2[node.name]
    values = {"x_t": given.x, "H": H, "P": P}
    values |= {f"b_{index(gate)}": value for gate, value in given.b.items()}
    values |= {f"b'_{index(gate)}": value for gate, value in given.b2.items()}
    values |= {f"p_{index(key)}": value for key, value in given.p.items()}
    values |= {f"m_{{{key},t}}": value for key, value in given.m.items()}
    values |= {f"{symbol(key)}_{{t-1}}": value for key, value in given.s.items()}
    matrices = {f"W_{index(gate)}": value for gate, value in given.W.items()}
    matrices |= {f"U_{index(gate)}": value for gate, value in given.U.items()} | {"P": given.P}
    read = Latex(values, matrices)
    for line in show.latex(cell).splitlines()[1:-1]:
        left, right = line.strip().removesuffix(r" \\").split(" &= ")
        if left != r"\mathrm{N}(v)":
            assert left not in values
            values[left] = read.cases(right) if right.startswith(r"\begin") else read(right)
    for key, value in expected.items():
        assert torch.allclose(values[f"{symbol(key)}_t"], value, atol=1e-9), key


def formula(cell: Cell) -> list[str]:
    return [line.strip().removesuffix(r" \\") for line in show.latex(cell).splitlines()[1:-1]]


def test_formulas_are_those_of_the_papers():
    gate = r"{0}_t &= \sigma(W_{0} x_t + b_{0} + U_{0} h_{{t-1}})".format
    candidate = r"g_t &= \tanh(W_g x_t + b_g + U_g h_{t-1})"
    cell, output = r"c_t &= f_t \odot c_{t-1} + i_t \odot g_t", r"h_t &= o_t \odot \tanh(c_t)"
    assert formula(LSTM()) == [gate("i"), gate("f"), candidate, gate("o"), cell, output]
    assert formula(LSTMP())[-1] == r"h_t &= P (o_t \odot \tanh(c_t))"
    assert formula(PeepholeLSTM()) == [
        r"i_t &= \sigma(W_i x_t + b_i + U_i h_{t-1} + p_i \odot c_{t-1})",
        r"f_t &= \sigma(W_f x_t + b_f + U_f h_{t-1} + p_f \odot c_{t-1})",
        candidate,
        cell,
        r"o_t &= \sigma(W_o x_t + b_o + U_o h_{t-1} + p_o \odot c_t)",
        output,
    ]
    assert formula(GRU()) == [
        gate("r"),
        gate("z"),
        r"n_t &= \tanh(W_n x_t + b_n + r_t \odot (U_n h_{t-1} + b'_n))",
        r"h_t &= z_t \odot h_{t-1} + (1 - z_t) \odot n_t",
    ]
    assert formula(GRU(reset="before", z="new"))[2:] == [
        r"n_t &= \tanh(W_n x_t + b_n + U_n (r_t \odot h_{t-1}))",
        r"h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot n_t",
    ]
    lines = formula(CELLS["lstm-layernorm"]())
    assert [line.split(" &= ")[0] for line in lines] == ["i_t", "f_t", "g_t", "o_t", "c_t", "h_t", r"\mathrm{N}(v)"]
    assert lines[4] == cell
    assert r"\mathrm{N}(U_i h_{t-1} + b'_i)" in lines[0]


# the listing, run


class Matrix:
    """`U.i(v)` and `U.i.T(v)`."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, v: Tensor) -> Tensor:
        return v @ self.matrix.T

    def T(self, v: Tensor) -> Tensor:
        return v @ self.matrix

    def __rtruediv__(self, one: float) -> float:
        # P is also the number of projected outputs
        return one / len(self.matrix)


class Zeros(SimpleNamespace):
    """Gradients that no step after this one gave."""

    def __getattr__(self, name: str) -> Tensor:
        return torch.zeros(B, H, dtype=torch.float64)


def program(text: str, part: str) -> list[str]:
    """The lines of a listing's stages as Python, without those that say what is multiplied or read."""
    stages = re.findall(rf"^{part}, stage \d+\n((?:  .*\n)*)", text, flags=re.MULTILINE)
    lines = [re.split(r"\s{2,}", line.strip())[0] for stage in stages for line in stage.splitlines()]
    return [re.sub(r"(\w)'", r"\1_new", line) for line in lines if not line.startswith(("multiply", "read"))]


@pytest.mark.parametrize("name", all_cells())
def test_the_listing_computes_the_step_and_its_gradients(name: str):
    check_listing(all_cells()[name]())


def check_listing(cell: Cell) -> None:
    given, out = arguments(cell), P if cell.projected else H

    def leaves(names, *shape):
        return {key: drawn(*shape).requires_grad_() for key in names}

    x, p = leaves(cell.gate_names, B, H), leaves(cell.unit_names, H)
    s = {key: value.requires_grad_() for key, value in given.s.items()}
    U = SimpleNamespace(**{key: Matrix(matrix) for key, matrix in given.U.items()})
    project = Matrix(given.P)
    spaces = {"x": SimpleNamespace(**x), "U": U, "p": SimpleNamespace(**p), "m": SimpleNamespace(**given.m)}
    new = cell.advance(spaces["x"], U, State(**s), spaces["p"], project, spaces["m"])
    arriving = {key: torch.randn_like(value) for key, value in new.items()}
    loss = sum((value * arriving[key]).sum() for key, value in new.items())
    flat = {(kind, key): leaf for kind, named in (("x", x), ("p", p), ("s", s)) for key, leaf in named.items()}
    gradients = torch.autograd.grad(loss, list(flat.values()), allow_unused=True, materialize_grads=True)
    expected = dict(zip(flat, gradients, strict=True))

    text = show.listing(cell)
    carried = {key for key in s if re.search(rf"d{key}_new = .*ds\.{key}\b", "\n".join(program(text, "backward")))}
    env = spaces | {"s": SimpleNamespace(**s), "P": project, "H": H}
    env |= dict.fromkeys(["dP", "dP_2", "dP_3", "dP_4"], torch.zeros(B, P, dtype=torch.float64))
    env |= {key: Zeros() for key in ("dx", "dU", "dp", "pre", "gate")}
    env["ds"] = Zeros(**{key: value for key, value in arriving.items() if key != "h"})
    env["dy"] = arriving["h"]
    if "h" in carried:
        env["ds"].h = torch.zeros(B, out)
    env |= {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "mean": mean, "exp": torch.exp, "log": torch.log}
    env |= {"sqrt": torch.sqrt, "sum": lambda v: v.sum(-1, keepdim=True)}

    def number(value):
        return torch.as_tensor(value, dtype=torch.float64)

    env["maximum"] = lambda a, b: torch.maximum(a, number(b))
    env["minimum"] = lambda a, b: torch.minimum(a, number(b))
    env["where"] = lambda condition, a, b: torch.where(condition, number(a), number(b))
    with torch.no_grad():
        for line in program(text, "forward"):
            exec(line, env)
        for key, value in new.items():
            assert torch.allclose(env[f"{key}_new"], value), key
        # what comes from the step after is there at once
        for line in sorted(program(text, "backward"), key=lambda line: not re.match(r"d\w+_new = ", line)):
            exec(line, env)
            # the gradient of a final state, where no part of it comes elementwise
            state = re.match(r"d(\w+)_new = ", line)
            if state and state[1] not in carried | {"h"}:
                env[f"d{state[1]}_new"] += arriving[state[1]]
        for key in cell.gate_names:
            found = vars(env["dx"]).get(key, 0 * expected["x", key])
            assert torch.allclose(number(found).expand(B, H), expected["x", key]), f"dx.{key}"
        for key in cell.unit_names:
            found = number(vars(env["dp"]).get(key, 0.0)).expand(B, H)
            assert torch.allclose(found.sum(0), expected["p", key]), f"dp.{key}"
        # what the step before would get
        env["dy"] = torch.zeros(B, out)
        for key in s:
            (line,) = [line for line in program(text, "backward") if line.startswith(f"d{key}_new = ")]
            exec(line, env)
            assert torch.allclose(number(env[f"d{key}_new"]).expand_as(s[key]), expected["s", key]), f"ds.{key}"


def test_the_listing_names_gates_places_and_products():
    lines = [re.split(r"\s{2,}", line.strip()) for line in show.listing(GRU(reset="before")).splitlines()]
    for line in (
        ["multiply x.r x.z x.n = W x + b", "[3 H, D]"],
        ["multiply U.z(s.h) U.r(s.h)", "[2 H, H]"],
        ["z = sigmoid(x.z + U.z(s.h))", "saved"],
        ["v3 = r * s.h", "saved"],
        ["multiply U.n(v3)", "[H, H]"],
        ["dh' = U.z.T(dx.z) + U.r.T(dx.r) + ds.h + dy", "[H, 2 H], from the step after"],
    ):
        assert line in lines


def test_a_gate_that_is_called_like_something_else_is_told_apart():
    class Confusing(Cell):
        gates = "s v1 x"

        def step(x, U, s):
            a, b = sigmoid(x.s + U.s(s.h)), sigmoid(x.v1)
            return State(h=a * s.h + b * tanh(x.x * b))

    text = show.listing(Confusing())
    assert "gate.s = sigmoid(x.s + U.s(s.h))" in text
    assert "gate.v1 = sigmoid(x.v1)" in text


def test_the_graph_says_what_is_saved_and_what_comes_again():
    text = show.graph(LSTM())
    assert re.search(r"%4 = sigmoid\(%3\) +o, saved\n", text)
    assert re.search(r"%21 = tanh\(%20\) +comes again in the backward\n", text)
    assert re.search(r"%22 = %4 \* %21 +h'\n", text)
    assert re.search(r"= %\d+ \* %\d+ +dx.o, dU.o$", text, flags=re.MULTILINE)
    assert "dc'" in text


@pytest.mark.parametrize("name", all_cells())
def test_the_graph_defines_every_value_once_and_before_its_use(name: str):
    known: set[str] = set()
    for line in show.graph(all_cells()[name]()).splitlines():
        if " = %" in line or line.startswith("  %"):
            left, right = line.strip().split(" = ", 1)
            assert set(re.findall(r"%\d+", right)) <= known
            assert left not in known
            known.add(left)


# costs


def test_what_is_saved_for_the_backward():
    saved = {name: show.saved_floats(trace(cell()).text) for name, cell in all_cells().items()}
    assert saved["lstm"] == {"H": 5, "P": 0, "row": 0}
    assert saved["gru"] == {"H": 4, "P": 0, "row": 0}
    assert saved["rnn"] == saved["rnn-relu"] == {"H": 0, "P": 0, "row": 0}
    assert Counter(show.saved(LSTM())) == Counter(["i", "f", "g", "o", "c'"])
    assert show.saved(Elman()) == []


@pytest.mark.parametrize("name", all_cells())
def test_the_kernel_keeps_as_much_as_is_shown(name: str):
    cell, T, rows, width = all_cells()[name](), 3, 2, 16
    kept = run(problem(cell, T, rows, D, width, width if cell.projected else None, dtype=torch.float32)).kept
    found = show.saved_floats(trace(cell).text)
    expected = width * (found["H"] + found["P"]) + found["row"]
    assert sum(tensor[: T * rows].numel() for tensor in kept) == T * rows * expected


def test_costs_are_formulas_in_the_sizes():
    found = costs(trace(LSTM()).text)
    assert str(found.forward.products["input products"]) == str(Formula({"D H": 8})) == "8 D H"
    assert str(found.forward.products["recurrent products"]) == "8 H H"
    assert str(found.forward.elementwise) == "17 H"
    assert (str(found.forward.costly), found.forward.functions) == ("5 H", ("sigmoid", "tanh"))
    assert str(found.weights) == "4 D H + 4 H H + 8 H"
    assert found.forward.flops.at(D=10, H=20) == 8 * 200 + 8 * 400 + 17 * 20
    assert str(costs(trace(LSTMP()).text).forward.products["recurrent products"]) == "10 H P"
    assert str(Formula({})) == "0"
    many, one = (found.intensity(found.forward, {"B": rows, "D": 100, "H": 100}, 4) for rows in (1000, 1))
    # one row multiplies and adds once for each weight of four bytes
    assert 0.45 < one < 0.5
    assert many > 50


def test_sizes_give_numbers():
    text = show.listing(LSTMP(), {"B": 2, "D": 3, "H": 10, "P": 4}, torch.float64)
    assert "costs per step and row, float64, B = 2, D = 3, H = 10, P = 4" in text
    assert re.search(r"recurrent products +10 H P +400  flops\n", text)
    assert re.search(r"by the forward +6 H +60  numbers +v1 o f i g c'\n", text)
    assert "flops per byte, weights read once a step: forward 0.4, backward " in text


# kernels


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4", "aarch64"])
def test_the_code_of_both_kernels_for_any_processor(level: str):
    text = show.ir(UGRNN(), torch.float64, named(level))
    assert "define void @forward(" in text
    assert "define void @backward(" in text
    lanes = {"x86-64-v3": 4, "x86-64-v4": 8, "aarch64": 2}[level]
    assert f"<{lanes} x double>" in text
    for module in re.split(r"^(?=; UGRNN\(\), )", text, flags=re.MULTILINE)[1:]:
        assert machine.object_code(module, named(level))
    code = show.assembly(UGRNN(), torch.float32, named(level))
    assert {"x86-64-v3": "ymm", "x86-64-v4": "zmm", "aarch64": "fmla"}[level] in code


# the command line


def printed(*tokens: str) -> str:
    app = App()
    app.command(command)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        app(["show", *tokens], exit_on_error=False, print_error=False, result_action="return_none")
    return output.getvalue()


OWN = """
from recur import Cell, State, tanh, sigmoid

class Mine(Cell):
    gates = "a"
    def step(x, U, s):
        return State(h=tanh(x.a + U.a(s.h)))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_a_cell_by_name_in_every_form():
    assert printed("lstm") == show.listing(LSTM()) + "\n"
    assert printed("gru-before", "--as", "latex") == show.latex(CELLS["gru-before"]()) + "\n"
    assert printed("rnn", "--as", "graph") == show.graph(Elman()) + "\n"
    assert printed("rnn", "--as", "ir", "--dtype", "float64") == show.ir(Elman(), torch.float64, host()) + "\n"
    assert printed("rnn", "--as", "assembly", "--target", "aarch64").startswith(
        "// Elman(nonlinearity='tanh'), forward"
    )
    assert "D = 7, H = 9" in printed("lstm", "--hidden-size", "9", "--input-size", "7")
    assert "B = 1, D = 9, H = 9" in printed("lstm", "--hidden-size", "9")


def test_a_cell_in_a_file(own: Path, monkeypatch: pytest.MonkeyPatch):
    assert printed(str(own)) == printed(f"{own}:Mine") == printed("rnn").replace("Elman(nonlinearity='tanh')", "Mine()")
    monkeypatch.chdir(own.parent)
    assert printed("own.py", "--as", "latex") == printed("rnn", "--as", "latex")
    own.write_text(OWN + "class Other(Mine):\n    def __init__(self, k): self.k = k\nother = Other(3)\n")
    assert printed("own.py:other").startswith("Other(k=3): gates a; states h\n")
    # what lies beside it can be imported
    Path("user.py").write_text("import own\nfrom own import Mine\nclass Last(Mine):\n    state = 'h'\n")
    assert load_cell("user.py")[0].gates == "a"
    assert not Path("__pycache__").exists() or not list(Path("__pycache__").glob("user*"))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["lsmt"], "found 'lsmt', did you mean 'lstm'\\?; a cell of your own is path/to/file.py:ClassName"),
        (["none.py"], "CELL must name a file that is there, found none at none.py"),
        (["folder/lstm"], "CELL must be a cell's name or path/to/file.py:ClassName, got 'folder/lstm'"),
        (["lstm", "--batch", "3"], "--batch goes with --as listing and --hidden-size"),
        (["lstm", "--as", "graph", "--hidden-size", "3"], "--hidden-size goes with --as listing"),
        (["lstm", "--hidden-size", "0"], "--hidden-size must be at least 1, got 0"),
        (["lstm", "--hidden-size", "3", "--proj-size", "2"], "--proj-size must not be given for LSTM\\(\\)"),
        (["lstm", "--target", "aarch64"], "--target goes with --as ir or --as assembly, got --as listing"),
    ],
)
def test_wrong_arguments(tokens: list[str], message: str):
    with pytest.raises(InputError, match=message):
        printed(*tokens)


def test_a_form_that_is_none():
    with pytest.raises(CycloptsError, match="--as"):
        printed("lstm", "--as", "picture")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = 1", "", "own.py must define one cell, found none; a cell is a class that inherits from recur.Cell"),
        (OWN + OWN.replace("Mine", "Yours"), "", "must define one cell, found Mine, Yours; name it: .*own.py:Mine"),
        (OWN, ":Mime", "Mime in .*own.py must be a cell, found nothing of that name, did you mean 'Mine'\\?"),
        (OWN + "y = 1", ":y", "y in .*own.py must be a cell, found no cell of that name"),
        (
            OWN + "    def __init__(self, size): self.size = size",
            "",
            r"Mine in .*own.py needs size; write cell = Mine\(...\) in the file and show .*own.py:cell",
        ),
        (OWN + "    def __init__(self): self.size = 1 / 0", "", "own.py, line 8: ZeroDivisionError: division by zero"),
        ("import torch\n1 / 0", "", "own.py, line 2: ZeroDivisionError"),
        ("import nowhere_to_be_found", "", "own.py, line 1: ModuleNotFoundError: No module named"),
        ("def step(:", "", "own.py, line 1: SyntaxError"),
        ("raise SystemExit(3)", "", "own.py, line 1: SystemExit: 3"),
        (OWN.replace("x.a +", "x.b +"), "", "own.py, line 7: AttributeError: the cell has no gate 'b'"),
        (OWN.replace('gates = "a"', 'gates = "a a"'), "", "cell Mine: `gates` must be distinct names, found 'a'"),
        (
            OWN.replace("State(h=tanh(", "State(h=tanh(2 if x.a > 0 else "),
            "",
            r"(?s)own.py, line 7: return .*cannot be compiled: a Python branch .*use where\(condition, a, b\)",
        ),
    ],
)
def test_what_can_be_wrong_with_a_file(tmp_path: Path, text: str, name: str, message: str):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=message):
        printed(f"{tmp_path / 'own.py'}{name}")


def test_the_examples_of_the_page_print_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parent.parent / "docs" / "show.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    source = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)[0]
    Path("leaky.py").write_text(source)
    examples = re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) >= 3
    for line, shown in examples:
        program_name, *tokens = shlex.split(line)
        assert program_name == "recur"
        assert tokens.pop(0) == "show"
        pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, printed(*tokens).strip(), flags=re.DOTALL), line
