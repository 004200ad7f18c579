"""Gradient flow: known answers, agreement with autograd, and the module left as it was."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import recur
from recur import GRU, LSTM, RNN, Cell, InputError, Recurrent, State, gradient_flow
from recur.cells import CELLS
from recur.flow.jacobians import RowJacobians
from recur.flow.measure import _run
from recur.flow.result import GateUse
from recur.flow.sampled import sampled_lags
from recur.flow.verdict import _saturated


class Linear(Cell):
    """h = W h + x."""

    gates = "a"

    def step(x, U, s):
        return State(h=U.a(s.h) + x.a)


EYE = torch.eye(3, dtype=torch.float64)


def linear(matrix):
    layer = Recurrent(Linear, len(matrix), len(matrix), bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(torch.as_tensor(matrix, dtype=torch.float64))
    return layer


def flow_of(matrix, steps=40):
    return gradient_flow(linear(matrix), torch.randn(steps, 1, len(matrix), dtype=torch.float64))


@pytest.mark.parametrize("a", [0.5, 0.99, 1.25])
def test_a_multiple_of_the_identity_has_its_logarithm_as_exponents(a):
    flow = flow_of(a * EYE)
    np.testing.assert_allclose(flow.lyapunov, math.log(a), atol=1e-12)
    np.testing.assert_allclose(flow.lyapunov_error, 0, atol=1e-12)
    np.testing.assert_allclose(flow.log_jacobian, math.log(a) * np.arange(39, -1, -1), atol=1e-10)
    np.testing.assert_allclose(flow.step_singular_values, a, atol=1e-12)
    np.testing.assert_allclose(flow.hidden_gradient, a ** np.arange(39.0, -1, -1), rtol=1e-10)
    assert flow.verdict == ("exploding" if a > 1 else "healthy" if a == 0.99 else "vanishing")


def test_horizon_counts_steps_within_one_percent_and_a_hundred_times():
    assert flow_of(0.5 * EYE).horizon == 6  # 2^-6 > 1% > 2^-7
    assert flow_of(2 * EYE).horizon == 6
    assert flow_of(0.99 * EYE).horizon == 40


def test_a_rotation_neither_grows_nor_shrinks():
    c, s = math.cos(0.3), math.sin(0.3)
    flow = flow_of([[c, -s], [s, c]])
    np.testing.assert_allclose(flow.lyapunov, 0, atol=1e-12)
    np.testing.assert_allclose(flow.log_singular_values, 0, atol=1e-12)
    assert flow.verdict == "healthy"
    assert flow.advice == ()
    (criteria,) = flow.criteria
    assert criteria.says["largest entry"] == "vanishing"  # and wrong
    assert criteria.agrees["largest entry"] is False
    assert criteria.agrees["spectral radius"] is None


def test_a_jordan_block_grows_before_it_fades():
    matrix = 0.5 * torch.eye(4) + 6 * torch.diag(torch.ones(3), 1)
    flow = flow_of(matrix, 200)
    lags = flow.log_jacobian[::-1]
    for lag in (1, 3, 10, 50):
        power = np.linalg.matrix_power(matrix.numpy().astype(float), lag)
        assert lags[lag] == pytest.approx(math.log(np.linalg.norm(power, 2)), abs=1e-9)
    assert lags[:10].max() > math.log(100)
    assert lags[-1] < math.log(0.01)
    assert flow.verdict == "exploding"
    assert flow.lyapunov[0] < 0
    (criteria,) = flow.criteria
    assert criteria.spectral_radius == pytest.approx(0.5, abs=1e-3)
    assert criteria.says["spectral radius"] == "vanishing"
    assert criteria.agrees["spectral radius"] is True
    assert criteria.agrees["largest singular value"] is False
    assert "transient" in flow.advice[0].evidence


def test_a_shorter_truncation_is_told_by_the_distance_from_each_rows_own_end():
    x = torch.randn(40, 9, 3, dtype=torch.float64)
    flow = gradient_flow(linear(0.5 * EYE), {"input": x, "lengths": [40] + [8] * 8})
    (advice,) = [one for one in flow.advice if one.remedy == "shorter truncation"]
    assert "k2=12" in advice.argument
    # 2^-lag of nine rows for 8 steps, of one row from then on
    share = 2**-11 / (3 * (2 - 2**-7) + 2**-7)
    assert advice.evidence.startswith(f"{share:.2%} of")


def test_clipping_in_each_step_names_the_cell_and_the_option():
    (advice,) = [one for one in flow_of(2 * EYE).advice if one.remedy == "clipping in each step"]
    assert "recur.cells.ClippedGradient(cell, bound)" in advice.argument
    assert "--clip-step BOUND" in advice.argument


def test_a_nilpotent_matrix_forgets_after_as_many_steps_as_it_has_rows():
    flow = flow_of(torch.diag(torch.ones(3), 1), 10)
    np.testing.assert_allclose(flow.log_jacobian[-4:], 0, atol=1e-12)
    assert np.isneginf(flow.log_jacobian[:-4]).all()
    assert flow.horizon == 3


def test_sigmoid_at_zero_takes_a_quarter_at_every_step():
    layer = Recurrent("rnn-sigmoid", 1, 3, bias=True, dtype=torch.float64)
    weights = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight_hh_l0.copy_(weights.diag())
        layer.weight_ih_l0.zero_()
        layer.bias_ih_l0.copy_(-weights / 2)  # sigmoid(0) = 1/2 is then a fixed point
    start = torch.full((1, 1, 3), 0.5, dtype=torch.float64)
    flow = gradient_flow(layer, (torch.zeros(30, 1, 1, dtype=torch.float64), State(h=start)))
    lags = np.arange(29, -1, -1)[:, None]
    np.testing.assert_allclose(flow.log_singular_values, lags * np.log([1, 0.5, 0.25]), atol=1e-9)
    np.testing.assert_allclose(flow.lyapunov, np.log([1, 0.5, 0.25]), atol=1e-3)
    np.testing.assert_allclose(flow.step_singular_values, [[1, 0.5, 0.25]] * 30, atol=1e-9)
    (criteria,) = flow.criteria
    assert (criteria.gamma, criteria.bound) == (0.25, pytest.approx(1))


def test_an_lstm_with_open_forget_and_shut_input_gates_carries_c_unchanged():
    layer = LSTM(2, 4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[:4] = -1000  # i = 0
        layer.bias_ih_l0[4:8] = 1000  # f = 1
    start = torch.zeros(1, 3, 4, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    flow = gradient_flow(layer, (torch.randn(50, 3, 2, dtype=torch.float64), start))
    c = flow.cell_gradient["c"]
    np.testing.assert_allclose(c, c[-1], rtol=1e-12)
    assert c[-1] > 0
    products = flow.log_singular_values[:-1, :4]
    np.testing.assert_allclose(products, np.broadcast_to(products[0], products.shape), atol=1e-9)
    np.testing.assert_allclose(flow.lyapunov[:4], 0, atol=1e-9)
    assert flow.truth_table == {"keep": 1, "add": 0, "clear": 0, "overwrite": 0}
    assert np.isinf(flow.time_constants).all()
    assert flow.gates["f"].high == 1
    assert flow.gates["i"].low == 1


def test_weight_shares_are_those_written_out_by_hand():
    layer = RNN(2, 3, dtype=torch.float64, bias=False)
    x = torch.randn(3, 1, 2, dtype=torch.float64)
    v = torch.randn(3, dtype=torch.float64)
    flow = gradient_flow(layer, x, lambda output: (output[0][-1] @ v).sum())
    W, U = layer.weight_hh_l0.detach(), layer.weight_ih_l0.detach()
    h = [torch.zeros(3, dtype=torch.float64)]
    for t in range(3):
        h.append(torch.tanh(U @ x[t, 0] + W @ h[-1]))
    slope = [1 - value**2 for value in h]
    # delta_t = dL/dz_t; dL/dW = sum_t delta_t h_{t-1}^T
    delta3 = slope[3] * v
    delta2 = slope[2] * (W.T @ delta3)
    delta1 = slope[1] * (W.T @ delta2)
    parts = [torch.outer(d, before) for d, before in zip((delta1, delta2, delta3), h, strict=False)]
    output = layer(x)[0]
    (whole,) = torch.autograd.grad((output[-1] @ v).sum(), layer.weight_hh_l0)
    torch.testing.assert_close(sum(parts), whole)
    norms = np.array([float(part.norm()) for part in parts])
    np.testing.assert_allclose(flow.weight_share, norms / norms.sum(), rtol=1e-12)
    wanted = [float((W.T @ delta2).norm()), float((W.T @ delta3).norm()), float(v.norm())]
    np.testing.assert_allclose(flow.hidden_gradient, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_steps_have_the_jacobians_that_autograd_finds(name):
    layer = Recurrent(name, 3, 4, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    (one,), _ = _run(layer, x, None, None)
    jacobians = RowJacobians(one.run, 1)
    names = list(one.run.after)
    for t in (0, 1, 5):
        before = one.run.before(t, t + 1)

        def step(flat, t=t, before=before):
            parts = dict(zip(names, flat.split([before[n].shape[-1] for n in names]), strict=True))
            initial = State(**{n: part[None, None] for n, part in parts.items()})
            _, after = layer(x[t : t + 1, 1:], initial)
            return torch.cat([getattr(after, n)[0, 0] for n in names])

        flat = torch.cat([before[n][0, 1] for n in names])
        wanted = torch.autograd.functional.jacobian(step, flat)
        torch.testing.assert_close(jacobians(t, t + 1)[0].clone(), wanted, atol=1e-12, rtol=1e-9)
        back = jacobians.back(torch.eye(jacobians.size), t)
        torch.testing.assert_close(back, wanted.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "lstm-peephole"])
def test_the_whole_product_is_the_jacobian_that_autograd_finds(name):
    layer = Recurrent(name, 3, 4, dtype=torch.float64)
    x = torch.randn(7, 1, 3, dtype=torch.float64)
    flow = gradient_flow(layer, x, k=20)
    trace = layer.trace(x)
    names = layer.cell.state_names
    for t in (0, 3, 5):

        def rest(flat, t=t):
            parts = flat.split(4)
            initial = State(**{n: part[None, None] for n, part in zip(names, parts, strict=True)})
            after = layer(x[t + 1 :], initial).state
            return torch.cat([getattr(after, n)[0, 0] for n in names])

        flat = torch.cat([getattr(trace.states[0], n)[t, 0] for n in names]).detach()
        whole = torch.autograd.functional.jacobian(rest, flat)
        wanted = torch.linalg.svdvals(whole)
        np.testing.assert_allclose(flow.jacobian_singular_values[t], wanted, rtol=1e-6, atol=1e-14)
        assert flow.jacobian[t] == pytest.approx(float(torch.linalg.matrix_norm(whole[:4], 2)), rel=1e-9)


def by_hand(cell, weights, x, lengths=None):
    """The reference step by step, with graph: all states with retain_grad."""
    from recur.cells.cell import Named
    from recur.scan import bind

    U, p, P = bind(cell, weights)
    hidden = len(weights.ih) // len(cell.gate_names)
    state = State(**{n: x.new_zeros(x.shape[1], hidden) for n in cell.state_names})
    kept = []
    for step in x:
        parts = torch.nn.functional.linear(step, weights.ih, weights.bias_ih).chunk(len(cell.gate_names), -1)
        state = cell.advance(Named("gate", dict(zip(cell.gate_names, parts, strict=True))), U, state, p, P)
        for value in state:
            value.retain_grad()
        kept.append(state)
    return kept


@pytest.mark.parametrize("name", sorted(set(CELLS) - {"mingru", "minlstm"}))
def test_total_gradients_are_those_that_autograd_keeps(name):
    layer = Recurrent(name, 3, 4, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    v = torch.randn(6, 2, 4, dtype=torch.float64)
    flow = gradient_flow(layer, x, lambda output: (output.output * v).sum() + output.state.h.pow(2).sum())
    kept = by_hand(layer.cell, layer.weights()[0][0], x)
    loss = sum((state.h * w).sum() for state, w in zip(kept, v, strict=True)) + kept[-1].h.pow(2).sum()
    loss.backward()
    assert flow.loss == pytest.approx(float(loss.detach()))
    np.testing.assert_allclose(flow.hidden_gradient, [float(s.h.grad.norm()) for s in kept], rtol=1e-9)
    np.testing.assert_allclose(flow.unit_gradient, [s.h.grad.norm(dim=0).numpy() for s in kept], rtol=1e-9)
    for other in layer.cell.state_names:
        if other != "h":
            grads = [getattr(s, other).grad for s in kept]
            wanted = [0.0 if g is None else float(g.norm()) for g in grads]
            np.testing.assert_allclose(flow.cell_gradient[other], wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["lstm", "gru", "gru-before", "lstm-peephole", "lstm-layernorm"])
def test_weight_shares_are_those_of_a_copy_of_the_weights_for_each_step(name):
    layer = Recurrent(name, 3, 4, dtype=torch.float64)
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    flow = gradient_flow(layer, x)
    (one,), _ = _run(layer, x, None, None)
    v = one.last["h"]
    copies = [layer.weight_hh_l0.detach().clone().requires_grad_() for _ in x]
    state = State(**{n: x.new_zeros(1, 3, 4) for n in layer.cell.state_names})
    for copy, step in zip(copies, x, strict=True):
        state = torch.func.functional_call(layer, {"weight_hh_l0": copy}, (step[None], state)).state
    (state.h[0] * v).sum().backward()
    norms = np.array([float(copy.grad.norm()) for copy in copies])
    np.testing.assert_allclose(flow.weight_share, norms / norms.sum(), rtol=1e-8)


@pytest.mark.parametrize("name", ["lstm", "gru", "lstm-layernorm"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_padded_row_is_as_the_row_alone(name, padding):
    layer = Recurrent(name, 3, 4, bidirectional=True, dtype=torch.float64)
    x = torch.randn(9, 3, 3, dtype=torch.float64)
    lengths = [4, 9, 6]

    def loss(output):
        return output.state.h[:, -1].square().sum()

    padded = gradient_flow(layer, {"input": x, "lengths": lengths, "padding": padding}, loss, rows=2)
    alone = x[3:, 2:] if padding == "left" else x[:6, 2:]
    single = gradient_flow(layer, alone, loss)
    for a, b in zip(padded, single, strict=True):
        assert a.steps == 9
        assert b.steps == 6
        np.testing.assert_allclose(a.hidden_gradient[:6], b.hidden_gradient, rtol=1e-9)
        assert not a.hidden_gradient[6:].any()
        np.testing.assert_allclose(a.lag_gradient[:6], b.lag_gradient, rtol=1e-9)
        np.testing.assert_allclose(a.log_singular_values[3:], b.log_singular_values, rtol=1e-9, atol=1e-12)
        assert np.isnan(a.log_singular_values[:3]).all()
        np.testing.assert_allclose(a.lyapunov, b.lyapunov)
        assert (a.horizon, a.verdict) == (b.horizon, b.verdict)


def test_the_backward_direction_counts_steps_as_they_run():
    forward = LSTM(3, 4, dtype=torch.float64)
    both = LSTM(3, 4, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for name, value in forward.named_parameters():
            getattr(both, name + "_reverse").copy_(value)
    x = torch.randn(8, 2, 3, dtype=torch.float64)
    backward = gradient_flow(both, x, lambda output: output[1][0][1].sum()).layers[1]
    assert backward.name == "l0_reverse"
    alone = gradient_flow(forward, x.flip(0), lambda output: output[1][0].sum())
    np.testing.assert_allclose(backward.hidden_gradient, alone.hidden_gradient, rtol=1e-9)
    np.testing.assert_allclose(backward.log_jacobian, alone.log_jacobian, rtol=1e-9, atol=1e-12)


def test_a_lower_layer_gets_what_the_upper_one_passes_down():
    layer = LSTM(3, 4, num_layers=2, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    flow = gradient_flow(layer, x, lambda output: output[0][-1].sum())
    assert [one.name for one in flow] == ["l0", "l1"]
    weights = layer.weights()
    lower = by_hand(layer.cell, weights[0][0], x)
    upper = by_hand(layer.cell, weights[1][0], torch.stack([state.h for state in lower]))
    upper[-1].h.sum().backward()
    for one, kept in zip(flow, (lower, upper), strict=True):
        np.testing.assert_allclose(one.hidden_gradient, [float(s.h.grad.norm()) for s in kept], rtol=1e-9)


def test_resets_cut_the_flow():
    layer = Recurrent("lstm", 3, 4, dtype=torch.float64)
    x = torch.randn(8, 1, 3, dtype=torch.float64)
    resets = torch.zeros(8, 1, dtype=torch.bool)
    resets[5] = True
    flow = gradient_flow(layer, {"input": x, "resets": resets})
    alone = gradient_flow(layer, x[5:])
    np.testing.assert_allclose(flow.hidden_gradient[5:], alone.hidden_gradient, rtol=1e-9)
    assert not flow.hidden_gradient[:5].any()
    np.testing.assert_allclose(flow.log_jacobian[5:], alone.log_jacobian, rtol=1e-9, atol=1e-12)
    assert np.isneginf(flow.log_jacobian[:5]).all()


def same(a, b, **tolerance):
    for name in ("hidden_gradient", "lag_gradient", "weight_share", "log_jacobian", "log_singular_values", "lyapunov"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), err_msg=name, **tolerance)
    assert a.horizon == b.horizon


def test_float32_is_float64_rounded():
    layer = LSTM(3, 8)
    x = torch.randn(12, 2, 3)
    single = gradient_flow(layer, x)
    double = gradient_flow(layer.double(), x.double())
    assert (single.precision, double.precision) == ("float32", "float64")
    same(single, double, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torchs_layers_are_recurs(kind):
    theirs = getattr(nn, kind)(3, 5, num_layers=2, dtype=torch.float64)
    ours = getattr(recur, kind)(3, 5, num_layers=2, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(10, 2, 3, dtype=torch.float64)
    for a, b in zip(gradient_flow(theirs, x), gradient_flow(ours, x), strict=True):
        same(a, b, rtol=1e-12)
    assert type(theirs) is getattr(nn, kind)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torchs_cells_are_step_functions(kind):
    cell = getattr(nn, kind + "Cell")(3, 5, dtype=torch.float64)
    layer = getattr(nn, kind)(3, 5, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x = torch.randn(10, 2, 3, dtype=torch.float64)
    a, b = gradient_flow(cell, x), gradient_flow(layer, x)
    assert a.name == "step"
    same(a, b, rtol=1e-12)


class OwnLSTM(nn.Module):
    """A step function that holds an LSTM's weights, written by hand."""

    def __init__(self, layer):
        super().__init__()
        self.input = nn.Parameter(layer.weight_ih_l0.detach().clone())
        self.memory = nn.Parameter(layer.weight_hh_l0.detach().clone())
        self.bias = nn.Parameter((layer.bias_ih_l0 + layer.bias_hh_l0).detach())

    def forward(self, x, state):
        h, c = state
        i, f, g, o = (x @ self.input.T + h @ self.memory.T + self.bias).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


def test_a_step_function_is_as_the_layer():
    layer = LSTM(3, 5, dtype=torch.float64)
    x = torch.randn(10, 2, 3, dtype=torch.float64)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    a, b = gradient_flow(OwnLSTM(layer), x, state=(zeros, zeros)), gradient_flow(layer, x)
    same(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a.cell_gradient["c"], b.cell_gradient["c"], rtol=1e-9)
    assert [c.name for c in a.criteria] == [f"memory[{i}]" for i in range(4)]
    radii = [c.spectral_radius for c in a.criteria]
    np.testing.assert_allclose(radii, [c.spectral_radius for c in b.criteria])


def test_a_step_function_may_have_a_state_by_name():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(4, 4)

        def forward(self, x, s):
            return State(h=torch.tanh(x + self.w(s.h)))

    step = Step()
    flow = gradient_flow(step, torch.randn(9, 2, 4), state=State(h=torch.zeros(2, 4)))
    assert flow.cell == "Step"
    assert [c.name for c in flow.criteria] == ["w.weight"]


def test_a_classifier_shows_its_layers():
    from recur.models.classifier import Classifier, ClassifierConfig

    model = Classifier(ClassifierConfig(vocabulary_size=30, classes=3, cell="gru", layers=2, hidden_size=6))
    tokens = torch.randint(2, 30, (4, 12))
    lengths = torch.tensor([12, 5, 3, 0])
    target = torch.tensor([0, 1, 2, 0])
    flow = gradient_flow(model, (tokens, lengths), lambda scores: nn.functional.cross_entropy(scores, target))
    assert [one.name for one in flow] == ["recurrent.l0", "recurrent.l1"]
    wanted = nn.functional.cross_entropy(model(tokens, lengths), target)
    assert flow.loss == pytest.approx(float(wanted.detach()))
    assert gradient_flow(model, (tokens, lengths)).loss != flow.loss


def test_rows_are_averaged_in_logarithms():
    layer = LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(8, 3, 3, dtype=torch.float64)
    one, other = (gradient_flow(layer, x, rows=row) for row in (0, 2))
    both = gradient_flow(layer, x, rows=(0, 2))
    np.testing.assert_allclose(both.log_jacobian, (one.log_jacobian + other.log_jacobian) / 2, atol=1e-12)
    np.testing.assert_allclose(both.lyapunov, (one.lyapunov + other.lyapunov) / 2)
    assert both.rows == (0, 2)


def test_gates_are_those_of_the_trace():
    layer = LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 9, 3) * 4
    flow = gradient_flow(layer, {"input": x, "lengths": [9, 4]})
    gates = layer.trace(x, lengths=[9, 4]).gates[0]
    valid = torch.arange(9) < torch.tensor([[9], [4]])
    for name, value in gates.items():
        value = value[valid]
        use = flow.gates[name]
        assert use.mean == pytest.approx(float(value.mean()), abs=1e-6)
        assert use.low == pytest.approx(float((value < (-0.9 if name == "g" else 0.1)).float().mean()))
        assert use.high == pytest.approx(float((value > 0.9).float().mean()))
        assert use.histogram.sum() == pytest.approx(1)
    i, f = gates["i"][valid] > 0.5, gates["f"][valid] > 0.5
    assert flow.truth_table["overwrite"] == pytest.approx(float((i & ~f).float().mean()))
    assert sum(flow.truth_table.values()) == pytest.approx(1)
    np.testing.assert_allclose(flow.time_constants, 1 / (1 - gates["f"][valid].mean(0)), rtol=1e-4)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "lstm-layernorm"])
def test_what_is_watched_is_what_the_flow_says(name):
    layer = Recurrent(name, 3, 8, num_layers=2, dtype=torch.float64)
    inputs = {"input": torch.randn(9, 3, 3, dtype=torch.float64), "lengths": [9, 4, 7]}
    for seen, flow in zip(recur.watch_gradients(layer, inputs), gradient_flow(layer, inputs), strict=True):
        assert (seen.name, seen.cell, seen.steps) == (flow.name, flow.cell, flow.steps)
        for field in ("hidden_gradient", "lag_gradient", "weight_share"):
            np.testing.assert_allclose(getattr(seen, field), getattr(flow, field))
        assert seen.saturation == {gate: (use.low, use.high) for gate, use in flow.gates.items()}
        radii = {criteria.name: criteria.spectral_radius for criteria in flow.criteria}
        assert seen.spectral_radius == pytest.approx(radii, rel=2e-3)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x, fail=False):
        x = self.norm(x.flatten(0, 1)).view(x.shape)
        output, _ = self.layer(x)
        if fail:
            raise ValueError("by intention")
        return self.out(output[:, -1])


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_module_is_left_as_it_was(fail, training):
    model = Model().train(training)
    model.layer.weight_hh_l0.requires_grad_(False)
    model.out.weight.grad = torch.ones(1, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = torch.get_rng_state()
    x = torch.randn(5, 6, 3)
    numbers = torch.get_rng_state()
    if fail:
        with pytest.raises(ValueError, match="by intention"):
            gradient_flow(model, (x, True))
    else:
        assert [one.name for one in gradient_flow(model, x)] == ["layer.l0", "layer.l1"]
    assert torch.equal(torch.get_rng_state(), numbers)
    assert type(model.layer) is nn.LSTM
    assert model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for name, p in model.named_parameters() if name != "out.weight")
    assert torch.equal(model.out.weight.grad, torch.ones(1, 4))
    assert not model.layer.weight_hh_l0.requires_grad
    assert not model.layer._forward_pre_hooks


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(off):
    layer = LSTM(3, 4)
    with off():
        assert gradient_flow(layer, torch.randn(6, 2, 3)).hidden_gradient[0] > 0


def test_a_packed_sequence_is_its_rows():
    layer = LSTM(3, 4, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    packed = nn.utils.rnn.pack_padded_sequence(x, [6, 4])
    same(gradient_flow(layer, packed), gradient_flow(layer, {"input": x, "lengths": [6, 4]}), rtol=1e-9)


class Normed(nn.LSTM):
    """A subclass with a say in what it returns."""

    def forward(self, input):
        return super().forward(input)[0] * 2


def test_subclasses_and_parametrised_layers_of_torchs_are_followed():
    layer, x = Normed(3, 4), torch.randn(6, 2, 3)
    flow = gradient_flow(layer, x, lambda output: output[-1].sum())
    assert flow.loss == pytest.approx(float(layer(x)[-1].sum().detach()), rel=1e-5)
    assert type(layer) is Normed
    layer = nn.utils.parametrizations.spectral_norm(nn.RNN(3, 4), "weight_hh_l0").eval()
    (criteria,) = gradient_flow(layer, x).criteria
    sigma = torch.linalg.matrix_norm(layer.weight_hh_l0.detach(), 2)
    assert criteria.largest_singular_value == pytest.approx(float(sigma), rel=1e-5)


def test_gradients_are_clipped_on_the_way_and_jacobians_are_not():
    layer = Recurrent(recur.cells.ClippedGradient(CELLS["lstm"](), 1e-3), 3, 4, dtype=torch.float64)
    plain = Recurrent("lstm", 3, 4, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    flow = gradient_flow(layer, x, lambda output: output.output[-1].sum())
    kept = by_hand(layer.cell, layer.weights()[0][0], x)
    kept[-1].h.sum().backward()
    wanted = [float(s.h.grad.norm()) for s in kept]
    np.testing.assert_allclose(flow.hidden_gradient, wanted, rtol=1e-9)
    assert wanted[-2] < 1e-2 * wanted[-1]
    np.testing.assert_allclose(flow.log_jacobian, gradient_flow(plain, x).log_jacobian, rtol=1e-9, atol=1e-12)


def infinite(layer):
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1)
        layer.weight_hh_l0.fill_(1e30)
    return layer


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.GRUCell(3, 4)


BAD = {
    "hand over the step function, module.one": (Loop(), torch.randn(5, 2, 3), {}),
    "with D = 7": (nn.GRUCell(7, 4), torch.randn(5, 2, 3), {}),
    "at least 2 steps.*T = 0": (LSTM(3, 4), {"input": torch.randn(5, 2, 3), "lengths": [0, 0]}, {}),
    "no recurrent layer": (nn.Linear(3, 3), torch.randn(5, 2, 3), {}),
    "does not depend on the one": (
        type("Still", (nn.Module,), {"forward": lambda self, x, s: torch.tanh(x)})(),
        torch.randn(5, 2, 3),
        {"state": torch.zeros(2, 3)},
    ),
    "depend on the module's recurrent states": (
        LSTM(3, 4),
        torch.randn(5, 2, 3),
        {"loss": lambda output: torch.ones((), requires_grad=True) * 2},
    ),
    "was the output detached": (
        LSTM(3, 4),
        torch.randn(5, 2, 3),
        {"loss": lambda output: output[0].detach().sum()},
    ),
    r"l0: its state h must be finite, got infinity first at step 2": (
        infinite(Recurrent("rnn-relu", 3, 4)),
        torch.ones(5, 2, 3),
        {},
    ),
    "at least 2 steps.*T = 1": (LSTM(3, 4), torch.randn(1, 2, 3), {}),
    r"`rows` must be in 0..1, got 2": (LSTM(3, 4), torch.randn(5, 2, 3), {"rows": 2}),
    r"`rows` must have at least 2 steps": (
        LSTM(3, 4),
        {"input": torch.randn(5, 2, 3), "lengths": [5, 1]},
        {"rows": 1},
    ),
    "`k` must be": (LSTM(3, 4), torch.randn(5, 2, 3), {"k": 0}),
    "`every` must be": (LSTM(3, 4), torch.randn(5, 2, 3), {"every": 0}),
    "one number": (LSTM(3, 4), torch.randn(5, 2, 3), {"loss": lambda output: output[0]}),
    "must be finite, got inf": (LSTM(3, 4), torch.randn(5, 2, 3), {"loss": lambda o: o[0].square().sum() * math.inf}),
    "`input` must be": (Recurrent("lstm", 3, 4), torch.randn(5, 2, 7), {}),
    "nn.Module": (CELLS["lstm"](), torch.randn(5, 2, 3), {}),
    "`state` is for step functions": (LSTM(3, 4), torch.randn(5, 2, 3), {"state": torch.zeros(2, 4)}),
    r"step function must be numbers \[T, B, D\]": (nn.GRUCell(3, 4), torch.randn(5, 3), {}),
    "float32 or float64": (LSTM(3, 4).bfloat16(), torch.randn(5, 2, 3).bfloat16(), {}),
    "function of the module's output": (LSTM(3, 4), torch.randn(5, 2, 3), {"loss": "mse"}),
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_measured_is_refused(text):
    module, inputs, options = BAD[text]
    with pytest.raises(InputError, match=text):
        gradient_flow(module, inputs, **options)


@pytest.mark.parametrize(
    ("keep", "low", "high", "advised"),
    [
        ("f", 0.0, 0.9, False),
        ("f", 0.9, 0.0, True),
        ("-f", 0.0, 0.9, True),
        ("-f", 0.9, 0.0, False),
        ("", 0.3, 0.3, True),
    ],
)
def test_a_gate_that_stands_where_it_keeps_the_state_is_not_called_saturated(keep, low, high, advised):
    use = GateUse(0.5, np.ones(1), np.array([0.0, 1.0]), low, high)
    assert bool(list(_saturated(SimpleNamespace(gates={"f": use}), keep))) == advised


def test_spectra_at_some_steps_are_those_of_all_and_interpolated_between():
    torch.manual_seed(0)
    net, x = LSTM(3, 12, dtype=torch.float64), torch.randn(60, 2, 3, dtype=torch.float64)
    full, some = gradient_flow(net, x, every=1), gradient_flow(net, x, every=4)
    lags = np.arange(60)[::-1]
    measured = (lags <= 8) | (lags % 4 == 0) | (lags == 59)
    for name in ("log_jacobian", "log_singular_values"):
        exact, found = getattr(full, name), getattr(some, name)
        np.testing.assert_allclose(found[measured], exact[measured], atol=1e-9)
        np.testing.assert_allclose(found, exact, atol=0.5)
    # lag 10 lies half way from 8 to 12
    np.testing.assert_allclose(some.log_jacobian[49], (full.log_jacobian[51] + full.log_jacobian[47]) / 2, atol=1e-9)
    np.testing.assert_allclose(some.step_singular_values[::4], full.step_singular_values[::4])
    np.testing.assert_allclose(some.step_singular_values[-1], full.step_singular_values[-1])
    assert not np.isnan(some.step_singular_values).any()


def large(name):
    """Return a layer whose state has more than 128 entries."""
    torch.manual_seed(0)
    kind, _, start = name.partition(" ")
    net = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}[kind](8, 136 if kind != "LSTM" else 72)
    if start == "orthogonal":
        recur.orthogonal_(net)
    elif start == "bias":
        recur.forget_bias_(net, 2.0)
    elif start:
        for parameter in net.parameters():
            parameter.data *= float(start)
    return net


@pytest.mark.parametrize("name", ["RNN", "RNN orthogonal", "RNN 4", "GRU 3", "LSTM", "LSTM bias", "LSTM 3"])
def test_spectra_of_large_states_are_sampled(name):
    net, x = large(name), torch.randn(60, 2, 8)
    full, some = gradient_flow(net, x, every=1), gradient_flow(net, x)
    at = 59 - np.array(sampled_lags(60))
    assert len(at) < 20
    for field in ("log_jacobian", "log_singular_values"):
        exact, found = getattr(full, field), getattr(some, field)
        np.testing.assert_allclose(found[at], exact[at], atol=5e-3)
        np.testing.assert_allclose(found, exact, atol=0.4)
    assert abs(some.horizon - full.horizon) <= 1
    assert some.verdict == full.verdict
    assert (np.abs(some.lyapunov - full.lyapunov) < 4 * np.hypot(some.lyapunov_error, full.lyapunov_error)).all()
    np.testing.assert_allclose(some.step_singular_values, full.step_singular_values, rtol=0.3)
    np.testing.assert_allclose(some.step_singular_values[-1], full.step_singular_values[-1], rtol=2e-3)
