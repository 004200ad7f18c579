"""Clipping at every step back in time: against BPTT by hand, on both backends, and where gradients explode."""

import math

import pytest
import torch
from equations import assert_close, by_interpreter, by_kernel, by_reference, problem
from torch import Tensor

import recur
from recur import Cell, InputError, Recurrent, State, clip_gradient, sigmoid, tanh
from recur.cells import CELLS, GRU, LSTM, LSTMP, ClippedGradient, Elman, Zoneout
from recur.compiler import show
from recur.compiler.trace import NotTraceable, trace


class Graves(Cell):
    """Graves 2013, section 2.1: the LSTM's gradients clipped before its activations."""

    gates = "i f g o"
    state = "h c"

    def step(x, U, s):
        i = sigmoid(clip_gradient(x.i + U.i(s.h), 0.1))
        f = sigmoid(clip_gradient(x.f + U.f(s.h), 0.1))
        g = tanh(clip_gradient(x.g + U.g(s.h), 0.1))
        o = sigmoid(clip_gradient(x.o + U.o(s.h), 0.1))
        c = f * s.c + i * g
        return State(h=o * tanh(c), c=c)


class Twice(Cell):
    """The same value clipped twice, and clipped again: each for itself. And what is multiplied, clipped."""

    gates = "a b"

    def step(x, U, s):
        a = tanh(x.a + U.a(clip_gradient(s.h, 0.1)) + U.b(clip_gradient(s.h, 0.1)))
        b = clip_gradient(a, 0.3)
        return State(h=b + tanh(U.b(clip_gradient(a * s.h, 0.05)) + x.b) * clip_gradient(b, 0.02))


CASES = {
    **{name: lambda make=make: ClippedGradient(make(), 0.05) for name, make in CELLS.items()},
    "projected": lambda: ClippedGradient(LSTMP, 0.05),
    "zoneout": lambda: ClippedGradient(Zoneout(LSTM, h=0.2, c=0.3), 0.05),
    "zoneout outside": lambda: Zoneout(ClippedGradient(GRU, 0.05), h=0.3),
    "activations": Graves,
    "twice": Twice,
}


def test_it_is_bptt_with_a_clamp_at_every_step():
    for backend in ("auto", "reference"):
        layer = Recurrent(ClippedGradient(Elman, 0.3), 3, 4, backend=backend).double()
        with torch.no_grad():
            layer.weight_hh_l0.mul_(6)
        x, h = torch.randn(6, 2, 3, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)
        state = State(h=h.requires_grad_())
        output, final = layer(x, state)
        d_y, d_final = torch.randn_like(output), torch.randn_like(h)
        ((output * d_y).sum() + (final.h * d_final).sum()).backward()
        h_before = torch.cat([h.detach(), output.detach()])
        carried, d_u, most = d_final[0], torch.zeros(4, 4, dtype=torch.float64), 0.0
        for t in reversed(range(6)):
            # what the loss says of h_t itself is not clipped, what comes back through the steps is
            d_a = (carried + d_y[t]) * (1 - output[t].detach() ** 2)
            d_u += d_a.T @ h_before[t]
            most = max(most, float((d_a @ layer.weight_hh_l0.detach()).abs().max()))
            carried = (d_a @ layer.weight_hh_l0.detach()).clamp(-0.3, 0.3)
        assert most > 0.6
        torch.testing.assert_close(layer.weight_hh_l0.grad, d_u)
        torch.testing.assert_close(h.grad[0], carried)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{}, {"lengths": [9, 0, 4, 1], "reverse": True}], ids=["full", "ragged"])
def test_kernels_give_what_the_equation_gives(name: str, options: dict):
    given = problem(CASES[name](), 9, 4, 3, 6, **options)
    expected = by_reference(given)
    assert_close(by_kernel(given), expected)
    if not options:
        assert_close(by_interpreter(given), expected)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru-before"])
def test_only_gradients_are_other_and_only_where_they_are_large(name: str):
    plain = Recurrent(name, 3, 16, 2)
    x = torch.randn(30, 4, 3)

    def run(bound: float) -> tuple[Tensor, list[Tensor]]:
        layer = Recurrent(ClippedGradient(CELLS[name](), bound), 3, 16, 2)
        layer.load_state_dict(plain.state_dict())
        output = layer(x).output
        output.square().sum().backward()
        return output, [value.grad for value in layer.parameters()]

    output = plain(x)[0] if name != "gru-before" else plain(x).output
    output.square().sum().backward()
    expected = [value.grad for value in plain.parameters()]
    for bound, same in ((1e6, True), (1e-3, False)):
        found, gradients = run(bound)
        assert torch.equal(found, output)
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(gradients, expected, strict=True)) == same


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_what_explodes_stays_in_bounds(backend: str):
    steps, hidden, bound = 200, 8, 0.5
    norms = {}
    for cell in (Elman("relu"), ClippedGradient(Elman("relu"), bound)):
        layer = Recurrent(cell, 3, hidden, backend=backend)
        recur.identity_(layer, 1.5)
        with torch.no_grad():
            layer.weight_ih_l0.zero_()
            layer.bias_ih_l0.fill_(1e-30)  # h > 0, and finite after 200 steps
        state = State(h=torch.zeros(1, 2, hidden, requires_grad=True))
        layer(torch.zeros(steps, 2, 3), state).output[-1].sum().backward()
        norms[type(cell)] = [float(value.grad.double().norm()) for value in (state.h, layer.bias_ih_l0)]
    count = math.sqrt(2 * hidden)
    assert norms[Elman][0] == pytest.approx(1.5**steps * count, rel=1e-4)
    assert norms[ClippedGradient][0] == pytest.approx(bound * count)
    # the last step's is 1, the others' are clipped
    assert norms[ClippedGradient][1] == pytest.approx((1 + bound * (steps - 1)) * 2 * math.sqrt(hidden), rel=1e-5)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_transforms_agree_and_what_cannot_be_is_refused(backend: str):
    layer = Recurrent(ClippedGradient(GRU, 0.01), 3, 4, backend=backend).double()
    plain = Recurrent(GRU(), 3, 4).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return layer(x).output.square().sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    # row by row, by vmap
    rows = torch.func.vmap(torch.func.grad(lambda row: loss(row[:, None])), 1, 1)(x)
    torch.testing.assert_close(rows, expected)
    # forward mode is the value's, and nothing is clipped
    tangents = [torch.func.jvp(lambda x: one(x).output, (x,), (x.cos(),))[1] for one in (layer, plain)]  # noqa: B023
    torch.testing.assert_close(*tangents)
    (again,) = torch.autograd.grad(loss(x), x, create_graph=True)
    torch.testing.assert_close(again, expected)
    refused = "a gradient that `clip_gradient` has clipped .* cannot be differentiated again"
    with pytest.raises(InputError, match=refused):
        torch.autograd.grad(again.square().sum(), x)
    for transform in (torch.func.hessian(loss), torch.func.jacrev(torch.func.grad(loss))):
        with pytest.raises(InputError, match=refused):
            transform(x)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_it_is_compiled_and_exported_by_torch(backend: str):
    layer = Recurrent(ClippedGradient(Elman, 0.01), 3, 4, backend=backend)
    x = torch.randn(5, 2, 3)
    layer(x).output.sum().backward()
    expected = [value.grad.clone() for value in layer.parameters()]
    layer.zero_grad()
    torch.compile(layer, fullgraph=True, backend="aot_eager")(x).output.sum().backward()
    assert all(torch.allclose(a, b.grad, atol=1e-6) for a, b in zip(expected, layer.parameters(), strict=True))
    exported = torch.export.export(layer, (x,)).module()
    assert torch.allclose(exported(x).output, layer(x).output, atol=1e-6)


def test_a_stream_and_a_trace_are_those_of_the_cell():
    layer, plain = Recurrent(ClippedGradient(LSTM, 0.1), 3, 4), Recurrent(LSTM(), 3, 4)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(6, 2, 3)
    stream = layer.stream(2)
    output = torch.stack([stream.step(one) for one in x])
    assert torch.allclose(output, plain(x).output, atol=1e-6)
    assert torch.equal(layer.trace(x).gates[0]["f"], plain.trace(x).gates[0]["f"])
    # through the clipping of the activations, too, a gate is its activation
    gate = Recurrent(Graves, 3, 4).trace(x).gates[0]["f"]
    assert 0 < gate.min() < gate.max() < 1


@pytest.mark.parametrize("name", ["lstm", "rnn-layernorm"])
def test_a_flow_shows_clipped_gradients_and_the_jacobians_of_the_values(name: str):
    layer, plain = Recurrent(ClippedGradient(CELLS[name](), 1e-3), 3, 8), Recurrent(CELLS[name](), 3, 8)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(20, 2, 3)
    clipped, whole = (recur.gradient_flow(one, x, loss=lambda found: found.output.sum()) for one in (layer, plain))
    assert clipped.log_jacobian == pytest.approx(whole.log_jacobian, abs=1e-4)
    # of the first step: what the loss says of it, 1, and no more than the bound by way of the steps after it
    first = layer(x[:1]).state.map(lambda value: value.detach().requires_grad_())
    loss = layer(x[1:], first).output.sum() + first.h.sum()
    (gradient,) = torch.autograd.grad(loss, first.h)
    assert 0 < (gradient - 1).abs().max() <= 1.001e-3
    assert abs(clipped.hidden_gradient[0] / math.sqrt(2 * 8) - 1) <= 1.001e-3
    assert abs(whole.hidden_gradient[0] / math.sqrt(2 * 8) - 1) > 0.01


def test_it_is_shown():
    cell = ClippedGradient(Elman, 0.5)
    assert show.latex(cell).splitlines()[1:3] == [
        r"  h_t &= \tanh(W_a x_t + b_a + U_a \mathrm{C}_{0.5}(h_{t-1})) \\",
        r"  \mathrm{C}_{0.5}(v) &= v \quad \text{with the gradient clipped to } [-0.5, 0.5]",
    ]
    assert "ds.h = maximum(minimum(U.a.T(dx.a), 0.5), -0.5)  to the step before" in show.listing(cell)
    assert "clip_gradient" in show.graph(cell)
    # nothing more is kept
    assert show.saved(cell) == show.saved(Elman())
    assert show.saved(ClippedGradient(LSTM, 1)) == show.saved(LSTM())


def test_it_stands_for_the_cell_in_all_that_a_layer_asks():
    cell = ClippedGradient(CELLS["lstm-peephole"](), 2)
    assert repr(cell) == "ClippedGradient(PeepholeLSTM(), bound=2.0)"
    assert (cell.gate_names, cell.state_names, cell.unit_names) == (tuple("ifgo"), ("h", "c"), tuple("ifo"))
    assert (cell.keep, cell.torch_kernel) == ("f", None)
    masked = ClippedGradient(Zoneout(LSTM, h=0.2), 1)
    assert dict(masked.mask_rates) == {"h": 0.2, "c": 0.1}
    assert trace(ClippedGradient(LSTM, 1)) is trace(ClippedGradient(LSTM(), 1.0))
    assert trace(ClippedGradient(LSTM, 1)) is not trace(ClippedGradient(LSTM, 2))


def test_what_is_wrong_is_named():
    for bound in (0, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(InputError, match="`bound` must be a number above 0, got "):
            ClippedGradient(LSTM, bound)
    with pytest.raises(InputError, match="`bound` must be a number above 0, got 0"):
        clip_gradient(torch.ones(3), 0)
    with pytest.raises(InputError, match="`backend` 'parallel' runs cells of one state"):
        Recurrent(ClippedGradient(CELLS["mingru"](), 1), 3, 4, backend="parallel")(torch.randn(5, 2, 3))

    class Unit(Cell):
        gates = "a"
        units = "k"

        def step(x, U, s, p):
            return State(h=tanh(x.a + sigmoid(clip_gradient(p.k, 1.0)) * s.h))

    with pytest.raises(
        NotTraceable, match=r"something that is the same for all rows, .*clip that of the gate or state"
    ):
        Recurrent(Unit, 3, 4)(torch.randn(5, 2, 3))
