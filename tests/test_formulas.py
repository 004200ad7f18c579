"""Every cell against its paper's formula, written out in plain torch."""

import math

import pytest
import torch
from torch import Tensor

from recur import Recurrent, State, cells

σ, tanh = torch.sigmoid, torch.tanh
D, H = 3, 4
Weights = dict[str, Tensor]


def zeros() -> Tensor:
    return torch.zeros(2, H, dtype=torch.float64)


def adder(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        h = h + tanh(x_t @ W["g"].T + h @ U["g"].T + b["g"])
    return h


def adder_input(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        i, g = (x_t @ W[k].T + h @ U[k].T + b[k] for k in "ig")
        h = h + σ(i) * tanh(g)
    return h


def adder_input_forget(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        i, f, g = (x_t @ W[k].T + h @ U[k].T + b[k] for k in "ifg")
        h = σ(f) * h + σ(i) * tanh(g)
    return h


def mgu(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        f = σ(x_t @ W["f"].T + h @ U["f"].T + b["f"])
        n = tanh(x_t @ W["n"].T + (f * h) @ U["n"].T + b["n"])
        h = (1 - f) * h + f * n
    return h


def ugrnn(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        g = σ(x_t @ W["g"].T + h @ U["g"].T + b["g"])
        h = g * h + (1 - g) * tanh(x_t @ W["n"].T + h @ U["n"].T + b["n"])
    return h


def fastgrnn(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        shared = x_t @ W["a"].T + h @ U["a"].T + b["a"]
        z, n = σ(shared + p["z"]), tanh(shared + p["n"])
        h = (σ(p["zeta"]) * (1 - z) + σ(p["nu"])) * n + z * h
    return h


def indrnn(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        h = (x_t @ W["a"].T + b["a"] + h @ torch.diag(p["u"])).clamp(min=0)
    return h


def coupled(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = c = zeros()
    for x_t in x:
        f, g, o = (x_t @ W[k].T + h @ U[k].T + b[k] for k in "fgo")
        c = σ(f) * c + (1 - σ(f)) * tanh(g)
        h = σ(o) * tanh(c)
    return h


def norm(v: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(v, (H,))


def rnn_layernorm(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        h = tanh(p["gamma"] * norm(x_t @ W["a"].T + b["a"] + h @ U["a"].T) + p["beta"])
    return h


def gru_layernorm(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        of_x = {k: p[f"x{k}"] * norm(x_t @ W[k].T + b[k]) + p[f"b{k}"] for k in "rzn"}
        of_h = {k: p[f"h{k}"] * norm(h @ U[k].T) for k in "rzn"}
        r, z = (σ(of_x[k] + of_h[k]) for k in "rz")
        h = z * h + (1 - z) * tanh(of_x["n"] + r * (of_h["n"] + p["d"]))
    return h


def layernorm(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = c = zeros()
    for x_t in x:
        i, f, g, o = (
            p[f"x{k}"] * norm(x_t @ W[k].T + b[k]) + p[f"h{k}"] * norm(h @ U[k].T) + p[f"b{k}"] for k in "ifgo"
        )
        c = σ(f) * c + σ(i) * tanh(g)
        h = σ(o) * tanh(p["xc"] * norm(c) + p["bc"])
    return h


def slstm(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    # without the stabiliser, eq. 8-14: the same function as long as nothing overflows
    h = c = n = zeros()
    for x_t in x:
        i, f, z, o = (x_t @ W[k].T + h @ U[k].T + b[k] for k in "ifzo")
        c = σ(f) * c + i.exp() * tanh(z)
        n = σ(f) * n + i.exp()
        h = σ(o) * c / n
    return h


def mingru(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        z = σ(x_t @ W["z"].T + b["z"])
        h = (1 - z) * h + z * (x_t @ W["n"].T + b["n"])
    return h


def minlstm(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    h = zeros()
    for x_t in x:
        f, i = σ(x_t @ W["f"].T + b["f"]), σ(x_t @ W["i"].T + b["i"])
        h = f / (f + i) * h + i / (f + i) * (x_t @ W["n"].T + b["n"])
    return h


def hgru(x: Tensor, W: Weights, U: Weights, b: Weights, p: Weights) -> Tensor:
    state, turn = zeros().to(torch.complex128), torch.exp(1j * torch.atan2(p["v"], p["u"]))
    for x_t in x:
        f, a, b_, o = (x_t @ W[k].T + b[k] for k in "fabo")
        state = σ(f) * turn * state + (1 - σ(f)) * torch.complex(a * σ(a), b_ * σ(b_))
    return σ(o) * state.real


FORMULAS = {
    "adder": adder,
    "adder-input": adder_input,
    "adder-input-forget": adder_input_forget,
    "mgu": mgu,
    "ugrnn": ugrnn,
    "fastgrnn": fastgrnn,
    "indrnn": indrnn,
    "lstm-coupled": coupled,
    "rnn-layernorm": rnn_layernorm,
    "lstm-layernorm": layernorm,
    "gru-layernorm": gru_layernorm,
    "slstm": slstm,
    "mingru": mingru,
    "minlstm": minlstm,
    "hgru": hgru,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_cell_is_its_papers_formula(name: str):
    layer = Recurrent(name, D, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()  # away from where gains and shifts start
    cell, (weights,) = layer.cell, layer.weights()[0]
    W = dict(zip(cell.gate_names, weights.ih.chunk(len(cell.gate_names)), strict=True))
    b = dict(zip(cell.gate_names, weights.bias_ih.chunk(len(cell.gate_names)), strict=True))
    names = cell.recurrent_names
    U = dict(zip(names, weights.hh.chunk(len(names)), strict=True)) if names else {}
    p = dict(zip(cell.unit_names, weights.units, strict=True)) if cell.unit_names else {}
    x = torch.randn(6, 2, D, dtype=torch.float64)
    assert torch.allclose(layer(x).state.h[0], FORMULAS[name](x, W, U, b, p), atol=1e-10)


def test_the_stabiliser_keeps_slstm_in_range():
    layer = Recurrent("slstm", 1, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(100.0)
    for size in (-100.0, 100.0):
        x = torch.full((50, 1, 1), size, requires_grad=True)
        output = layer(x).output
        output.sum().backward()
        assert output.isfinite().all()
        assert x.grad.isfinite().all()
        assert output.abs().max() <= 1


def test_cells_without_a_recurrent_matrix_have_none():
    for name in ("indrnn", "mingru", "minlstm", "hgru"):
        for bias in (True, "two"):
            assert not [n for n, _ in Recurrent(name, D, H, bias=bias).named_parameters() if "hh" in n]


def test_per_unit_parameters_start_where_the_cell_says():
    layer = Recurrent("lstm-layernorm", D, H)
    start = dict(zip(layer.cell.unit_names, layer.units_l0.tolist(), strict=True))
    assert start["xi"] == start["bf"] == [1.0] * H
    assert start["bi"] == start["bc"] == [0.0] * H
    layer.units_l0.data.fill_(9)
    layer.reset_parameters()
    assert layer.units_l0.max() == 1


def test_only_declared_gates_and_units_can_be_named():
    with pytest.raises(cells.cell.InputError, match="`recurrent` must name some of its `gates`, found 'b'"):
        type("Wrong", (cells.Cell,), {"gates": "a", "recurrent": "b", "step": lambda x, U, s: s})
    with pytest.raises(cells.cell.InputError, match="`starts` must name some of its `units`, found 'w'"):
        type("Wrong", (cells.Cell,), {"gates": "a", "starts": {"w": 1.0}, "step": lambda x, U, s: s})


def test_the_state_of_an_hgru_turns_and_keeps_its_size():
    layer = Recurrent("hgru", 1, 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[:2] = 100.0  # f = 1: nothing is forgotten, nothing comes in
        layer.units_l0.copy_(torch.tensor([[1.0, 0.0], [1.0, 3.0]]))  # by 45 and by 90 degrees
    c = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    after = layer(torch.zeros(6, 1, 1, dtype=torch.float64), State(h=0 * c, c=c, q=0 * c))
    wanted = [[math.cos((t + 1) * angle) / 2 for angle in (math.pi / 4, math.pi / 2)] for t in range(6)]
    torch.testing.assert_close(after.output[:, 0], torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)
