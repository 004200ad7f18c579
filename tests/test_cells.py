"""Cells: what a declaration must be, and what the equations are known to do."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

import recur
from recur import CELLS, Cell, InputError, Recurrent, State, sigmoid, tanh
from recur.cells import GRU, LSTM, Elman, PeepholeLSTM, cell_named
from recur.cells.cell import Gates, Products, Units

BIG = 1e4  # a gate's input at which sigmoid is exactly 0 or 1


def step(cell: Cell, inputs: dict[str, Tensor], state: State, p: dict[str, Tensor] | None = None) -> State:
    """One step with given gate inputs and no recurrent product."""
    zero = Products("gate", dict.fromkeys(cell.gate_names, torch.zeros_like))
    return cell.advance(Gates("gate", inputs), zero, state, Units("unit", p or {}), None)


def gate_inputs(**open_or_shut: float) -> dict[str, Tensor]:
    return {name: torch.full((1, 3), value) for name, value in open_or_shut.items()}


@pytest.mark.parametrize(
    ("i", "f", "meaning"),
    [(0, 1, "memory only"), (1, 1, "both"), (0, 0, "clear"), (1, 0, "overwrite")],
)
@pytest.mark.parametrize("cell", [LSTM(), PeepholeLSTM(), cell_named("adder-input-forget")])
def test_truth_table_of_input_and_forget_gate(cell: Cell, i: int, f: int, meaning: str):
    old, new = torch.tensor([[0.5, -2.0, 7.0]]), torch.tensor([[0.3, -0.9, 2.0]])
    inputs = gate_inputs(i=BIG * (2 * i - 1), f=BIG * (2 * f - 1), o=BIG) | {"g": new}
    state = State(h=old) if cell.state == "h" else State(h=torch.zeros(1, 3), c=old)
    after = step(cell, inputs, state, {name: torch.zeros(3) for name in cell.unit_names})
    memory = after.h if cell.state == "h" else after.c
    expected = {"memory only": old, "both": old + tanh(new), "clear": 0 * old, "overwrite": tanh(new)}[meaning]
    assert torch.equal(memory, expected)


@pytest.mark.parametrize(("open_", "share"), [(False, 0.0), (True, 1.0)])
def test_output_gate_shut_gives_zero_and_open_gives_the_memory(open_: bool, share: float):
    c = torch.tensor([[0.5, -2.0, 7.0]])
    inputs = gate_inputs(i=-BIG, f=BIG, o=BIG if open_ else -BIG, g=0.0)
    after = step(LSTM(), inputs, State(h=torch.zeros(1, 3), c=c))
    assert torch.equal(after.h, share * tanh(c))


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("z", ["old", "new"])
@pytest.mark.parametrize("open_", [False, True])
def test_update_gate_keeps_or_replaces_the_state(reset: str, z: str, open_: bool):
    old, new = torch.tensor([[0.5, -0.2, 0.7]]), torch.tensor([[0.3, -0.9, 2.0]])
    inputs = gate_inputs(r=-BIG, z=BIG if open_ else -BIG) | {"n": new}
    after = step(GRU(reset, z), inputs, State(h=old))
    assert torch.equal(after.h, old if (z == "old") == open_ else tanh(new))


@pytest.mark.parametrize("reset", ["after", "before"])
def test_reset_gate_shut_hides_the_state_but_not_the_input(reset: str):
    double = Products("gate", {"r": torch.zeros_like, "z": torch.zeros_like, "n": lambda v: 2 * v})
    new, h = torch.tensor([[0.3]]), torch.tensor([[0.5]])
    x = Gates("gate", {"r": torch.tensor([[-BIG]]), "z": torch.tensor([[-BIG]]), "n": new})
    after = GRU(reset, "old").advance(x, double, State(h=h), Units("unit", {}), None)
    assert torch.equal(after.h, tanh(new))


@pytest.mark.parametrize("name", ["rnn", "lstm", "lstm-peephole", "gru", "gru-before"])
def test_h_stays_within_one_for_any_input(name: str):
    layer = Recurrent(name, 3, 5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=10)
    output, state = layer(100 * torch.randn(50, 4, 3))
    assert output.abs().max() <= 1
    assert state.h.abs().max() <= 1


def test_an_adder_grows_without_bound_and_an_lstm_memory_too():
    layer = Recurrent("adder", 1, 1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
    output, _ = layer(torch.ones(200, 1, 1))
    assert output[-1] > 150


def test_the_ladder_ends_at_the_lstm():
    """With its output gate open and tanh left out, the LSTM's memory is the third rung's state."""
    x = torch.randn(6, 2, 3)
    third, lstm = Recurrent("adder-input-forget", 3, 4), Recurrent("lstm", 3, 4)
    with torch.no_grad():
        for a in (third.weight_hh_l0, lstm.weight_hh_l0):  # the two read different states: h and c
            a.zero_()
        lstm.weight_ih_l0[:12] = third.weight_ih_l0
        lstm.bias_ih_l0[:12] = third.bias_ih_l0
    assert torch.allclose(third(x).state.h, lstm(x).state.c, atol=1e-6)


@pytest.mark.parametrize(
    ("nonlinearity", "function"),
    [("sigmoid", torch.sigmoid), ("tanh", torch.tanh), ("relu", torch.relu), (torch.sin, torch.sin)],
)
@pytest.mark.parametrize("bias", [False, "one", "two"])
def test_elman_is_its_formula(nonlinearity, function, bias):
    # what is no operation of the equation language runs on the reference
    backend = "auto" if isinstance(nonlinearity, str) else "reference"
    layer = Recurrent(Elman(nonlinearity), 3, 4, bias=bias, backend=backend)
    x, h = torch.randn(5, 2, 3), torch.zeros(2, 4)
    for x_t in x:
        a = x_t @ layer.weight_ih_l0.T + h @ layer.weight_hh_l0.T
        a = a if bias is False else a + layer.bias_ih_l0
        h = function(a + layer.bias_hh_l0 if bias == "two" else a)
    assert torch.allclose(layer(x).state.h[0], h, atol=1e-6)


def test_peepholes_are_their_formula():
    layer, x = Recurrent("lstm-peephole", 3, 4), torch.randn(5, 2, 3)
    h = c = torch.zeros(2, 4)
    p_i, p_f, p_o = layer.units_l0
    for x_t in x:
        a = (x_t @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T).chunk(4, -1)
        i, f, g = torch.sigmoid(a[0] + p_i * c), torch.sigmoid(a[1] + p_f * c), torch.tanh(a[2])
        c = f * c + i * g
        h = torch.sigmoid(a[3] + p_o * c) * torch.tanh(c)
    assert torch.allclose(layer(x).state.c[0], c, atol=1e-6)
    assert torch.allclose(layer(x).state.h[0], h, atol=1e-6)


@pytest.mark.parametrize("z", ["old", "new"])
def test_reset_before_is_its_formula(z: str):
    layer, x, h = Recurrent(GRU("before", z), 3, 4), torch.randn(5, 2, 3), torch.zeros(2, 4)
    U_r, U_z, U_n = layer.weight_hh_l0.chunk(3)
    for x_t in x:
        a = (x_t @ layer.weight_ih_l0.T + layer.bias_ih_l0).chunk(3, -1)
        r, u = torch.sigmoid(a[0] + h @ U_r.T), torch.sigmoid(a[1] + h @ U_z.T)
        n = torch.tanh(a[2] + (r * h) @ U_n.T)
        h = (1 - u) * h + u * n if z == "new" else u * h + (1 - u) * n
    assert torch.allclose(layer(x).state.h[0], h, atol=1e-6)


def test_a_cell_of_ten_lines_runs_without_self_and_without_registration():
    class Leaky(Cell):
        gates = "a k"
        units = "w"

        def step(x, U, s, p):
            k = sigmoid(x.k + p.w * s.h)
            return State(h=k * s.h + (1 - k) * tanh(x.a + U.a(s.h)))

    layer = Recurrent(Leaky, 3, 4, num_layers=2, bidirectional=True, batch_first=True)
    output, state = layer(torch.randn(2, 5, 3), lengths=[5, 2])
    assert output.shape == (2, 5, 8)
    assert state.h.shape == (4, 2, 4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"state": "h"}, "must define `step"),
        ({"step": lambda x, U, s: s}, "must name its gates"),
        ({"gates": "a a", "step": lambda x, U, s: s}, "`gates` must be distinct names, found 'a'"),
        ({"gates": "a-b", "step": lambda x, U, s: s}, "`gates` must be distinct names, found 'a-b'"),
        ({"gates": "a", "state": "c", "step": lambda x, U, s: s}, "`state` must name the output `h`, found 'c'"),
        ({"gates": "a", "step": lambda x, U, s, weights: s}, "may ask for x, U, s, p, P and m, found 'weights'"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_is_written(body: dict, message: str):
    with pytest.raises(InputError, match=message):
        type("Wrong", (Cell,), body)


def test_a_step_that_returns_something_else_is_named():
    class Bare(Cell):
        gates = "a"

        def step(x, U, s):
            return tanh(x.a)

    class Other(Cell):
        gates = "a"

        def step(x, U, s):
            return State(c=tanh(x.a))

    with pytest.raises(InputError, match=r"cell Bare: `step` must return State\(h=...\), found (Tensor|Symbol)"):
        Recurrent(Bare, 2, 2)(torch.zeros(1, 1, 2))
    with pytest.raises(InputError, match=r"cell Other: .* found c"):
        Recurrent(Other, 2, 2)(torch.zeros(1, 1, 2))


def test_an_undeclared_gate_is_named():
    class Wrong(Cell):
        gates = "a"

        def step(x, U, s):
            return State(h=tanh(x.b))

    with pytest.raises(AttributeError, match="the cell has no gate 'b'; it declares: a"):
        Recurrent(Wrong, 2, 2)(torch.zeros(1, 1, 2))


def test_an_unknown_cell_suggests_the_nearest():
    with pytest.raises(InputError, match=r"`cell` must be one of rnn, .* found 'lsmt', did you mean 'lstm'\?"):
        cell_named("lsmt")
    with pytest.raises(InputError, match="`nonlinearity` must be one of tanh, relu, sigmoid"):
        Elman("tahn")
    with pytest.raises(InputError, match="`reset` must be 'after' or 'before', found 'no'"):
        GRU("no")
    with pytest.raises(InputError, match="`z` must be 'old' or 'new', found 'no'"):
        GRU(z="no")


def test_a_state_is_read_by_name_copied_and_pickled():
    state = State(h=torch.ones(2), c=torch.zeros(2))
    for twin in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert torch.equal(twin.h, state.h)
        assert torch.equal(twin.c, state.c)
    with pytest.raises(AttributeError, match="the state holds h, c, not 'd'"):
        _ = state.d
    with pytest.raises(AttributeError, match="not changed in place"):
        state.h = state.c


def test_every_named_cell_has_its_source_and_formula():
    for make in CELLS.values():
        text = type(make()).__doc__
        assert ".. math::" in text
        assert "Shapes" in text


def test_the_package_exports_what_an_equation_needs():
    assert all(hasattr(recur, name) for name in recur.__all__)
    assert sorted(name for names in recur._HOMES.values() for name in names) == sorted(recur.__all__)
