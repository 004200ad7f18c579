"""Resets, left padding, states and gates of every step, the parallel form, and what runs here."""

import pytest
import torch
from torch import Tensor

import recur
from recur import Cell, InputError, Recurrent, State, sigmoid
from recur.cells import LSTMP

BACKENDS = ["auto", "reference"]
LAYERS = {
    **{kind: (lambda kind=kind, **o: getattr(recur, kind)(4, 5, 2, **o)) for kind in ("RNN", "LSTM", "GRU")},
    **{
        name: (lambda name=name, **o: Recurrent(name, 4, 5, 2, **o))
        for name in ("lstm-layernorm", "gru-before", "slstm")
    },
    "LSTMP": lambda **o: Recurrent(LSTMP, 4, 5, 2, proj_size=3, **o),
}


def flat(final) -> list[Tensor]:
    return [final] if isinstance(final, Tensor) else list(final)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-10 if a.dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_what_follows_a_reset_is_a_row_of_its_own(name: str, backend: str, batch_first: bool):
    layer = LAYERS[name](backend=backend, batch_first=batch_first).double()
    x = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[0, [3, 4]] = True
    resets[1, 7] = True

    def run(x: Tensor, *rest: object, **options: object) -> tuple[Tensor, list[Tensor]]:
        if not batch_first:
            x = x.transpose(0, 1)
        output, final = layer(x, *rest, **options)
        return output if batch_first else output.transpose(0, 1), flat(final)

    given = resets if batch_first else resets.T
    output, final = run(x, resets=given)
    pieces = [run(x[:1, :3]), run(x[:1, 3:4]), run(x[:1, 4:])]
    assert close(output[:1], torch.cat([piece[0] for piece in pieces], dim=1))
    assert all(close(a[:, :1], b) for a, b in zip(final, pieces[-1][1], strict=True))
    assert close(output[1:], torch.cat([run(x[1:, :7])[0], run(x[1:, 7:])[0]], dim=1))
    # nothing flows back over the border
    output[0, 4:].sum().backward()
    assert not x.grad[0, :4].any()
    assert x.grad[0, 4:].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backward_direction_is_cut_at_the_same_places(backend: str):
    layer, x = recur.LSTM(4, 5, bidirectional=True, backend=backend), torch.randn(9, 1, 4)
    resets = torch.zeros(9, 1, dtype=torch.bool)
    resets[[3, 7]] = True
    output, final = layer(x, resets=resets, lengths=[8])
    pieces = [layer(part) for part in (x[:3], x[3:7], x[7:8])]
    assert close(output[:8], torch.cat([piece[0] for piece in pieces]))
    assert not output[8:].any()
    for a, first, last in zip(final, pieces[0][1], pieces[-1][1], strict=True):
        assert close(a, torch.stack([last[0], first[1]]))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_left_padding_is_right_padding_moved(name: str, backend: str, bidirectional: bool):
    layer = LAYERS[name](backend=backend, bidirectional=bidirectional)
    lengths = [3, 7, 0, 5]
    right = torch.randn(7, 4, 4)
    left = torch.full_like(right, torch.nan)
    for row, length in enumerate(lengths):
        left[7 - length :, row] = right[:length, row]
    a, a_final = layer(right, lengths=lengths)
    b, b_final = layer(left, lengths=lengths, padding="left")
    for row, length in enumerate(lengths):
        assert close(b[7 - length :, row], a[:length, row])
        assert not b[: 7 - length, row].any()
    assert all(close(x, y) for x, y in zip(flat(a_final), flat(b_final), strict=True))


@pytest.mark.parametrize("layer", [recur.GRU(4, 5), Recurrent("mgu", 4, 5)])
def test_what_is_wrong_is_named(layer):
    x = torch.zeros(7, 2, 4)
    with pytest.raises(InputError, match=r"`padding` must be 'right' or 'left', got 'lefft', did you mean 'left'?"):
        layer(x, lengths=[7, 7], padding="lefft")
    with pytest.raises(InputError, match=r"`resets` must be a tensor of torch.bool, got torch.float32"):
        layer(x, resets=torch.zeros(7, 2))
    with pytest.raises(InputError, match=r"`resets` must be \[T, B\] = \[7, 2\], got \[2, 7\]"):
        layer(x, resets=torch.zeros(2, 7, dtype=torch.bool))
    x[1, 0, 2] = torch.nan
    with pytest.raises(InputError, match="`input` must hold numbers, got NaN in row 0, step 1, feature 2"):
        layer(x, lengths=[6, 7], padding="left")
    layer(x, lengths=[5, 7], padding="left")


def test_resets_need_a_batch_and_no_packing():
    layer = recur.LSTM(4, 5)
    with pytest.raises(InputError, match=r"`resets` needs a batch of rows, got an input of shape \[7, 4\]"):
        layer(torch.zeros(7, 4), resets=torch.zeros(7, dtype=torch.bool))
    with pytest.raises(InputError, match=r"`input` must be a batch of rows \[T, B, D\], got shape \[7, 4\]"):
        layer.trace(torch.zeros(7, 4))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_trace_has_the_states_of_every_step_layer_and_direction(name: str, backend: str, batch_first: bool):
    layer = LAYERS[name](backend=backend, bidirectional=True, batch_first=batch_first)
    x = torch.randn(3, 7, 4) if batch_first else torch.randn(7, 3, 4)
    lengths = [7, 4, 0]
    output, final = layer(x, lengths=lengths)
    trace = layer.trace(x, lengths=lengths)
    assert torch.equal(trace.output, output)
    assert all(torch.equal(a, b) for a, b in zip(trace.state, flat(final), strict=True))
    assert len(trace.states) == len(trace.gates) == 4
    width = trace.states[2].h.shape[-1]
    assert torch.equal(trace.states[2].h, output[..., :width])
    assert torch.equal(trace.states[3].h, output[..., width:])
    for number, (states, gates) in enumerate(zip(trace.states, trace.gates, strict=True)):
        assert list(gates) == list(layer.cell.gate_names)
        for value in [*states, *gates.values()]:
            rows = value if batch_first else value.transpose(0, 1)
            assert rows.shape[:2] == (3, 7)
            assert not rows[1, 4:].any()
            assert not rows[2].any()
        for state, last in zip(states, trace.state, strict=True):
            rows = state if batch_first else state.transpose(0, 1)
            assert close(rows[1, 0 if number % 2 else 3], last[number, 1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gates_are_their_formula_and_states_have_a_gradient(backend: str):
    layer, x = recur.LSTM(4, 5, backend=backend), torch.randn(6, 2, 4)
    trace = layer.trace(x)
    h = torch.cat([torch.zeros(1, 2, 5), trace.output[:-1]])
    both = torch.nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
    both = both + torch.nn.functional.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)
    for (name, value), expected in zip(trace.gates[0].items(), both.chunk(4, -1), strict=True):
        assert close(value, expected.tanh() if name == "g" else expected.sigmoid())
        assert not value.requires_grad
    c = torch.zeros(2, 5)
    for t in range(6):
        c = trace.gates[0]["f"][t] * c + trace.gates[0]["i"][t] * trace.gates[0]["g"][t]
        assert close(trace.states[0].c[t], c)
    (trace.states[0].c ** 2).sum().backward()
    ours = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    layer.backend = "reference"
    (layer.trace(x).states[0].c ** 2).sum().backward()
    assert all(close(a, b.grad) for a, b in zip(ours, layer.parameters(), strict=True))


class Leaky(Cell):
    """Linear in its state, with a factor of either sign from a per-unit parameter and a gate."""

    gates = "a b"
    recurrent = ""
    units = "k"

    def step(x, s, p):
        return State(h=p.k * (2 * sigmoid(x.a) - 1.5) * s.h - 0.1 * s.h + x.b)


@pytest.mark.parametrize("cell", ["mingru", "minlstm", Leaky])
@pytest.mark.parametrize("case", ["plain", "lengths", "left", "resets"])
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_the_parallel_form_is_the_step_form_with_its_gradients(cell, case: str, steps: int):
    layer = Recurrent(cell, 4, 5, 2, bidirectional=True).double()
    x = torch.randn(steps, 3, 4, dtype=torch.float64)
    options = {}
    if case != "plain":
        options["lengths"] = [steps, (steps + 1) // 2, 0]
        x[-1, 2] = torch.nan
    if case == "left":
        options["padding"] = "left"
    if case == "resets":
        options["resets"] = torch.rand(steps, 3) < 0.4
    state = State(h=torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True))
    x.requires_grad_()
    results = []
    for backend in ("parallel", "reference"):
        layer.backend = backend
        output, final = layer(x, state, **options)
        torch.manual_seed(1)
        loss = (output * torch.randn_like(output)).sum() + (final.h * torch.randn_like(final.h)).sum()
        results.append([output, final.h, *torch.autograd.grad(loss, [x, state.h, *layer.parameters()])])
    for a, b in zip(*results, strict=True):
        assert close(a.nan_to_num(), b.nan_to_num())


def test_the_parallel_form_passes_gradcheck_and_transforms():
    layer = Recurrent("mingru", 2, 3, backend="parallel").double()
    x = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        return layer(x).output

    assert torch.autograd.gradcheck(run, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, (x,))
    rows = torch.func.vmap(lambda row: layer(row[:, None]).output[:, 0], in_dims=1, out_dims=1)(x)
    assert close(rows, run(x))


def test_a_long_sequence_in_parallel_neither_overflows_nor_drifts():
    layer, x = Recurrent("minlstm", 3, 8), 10 * torch.randn(5000, 2, 3)
    expected = layer(x).output
    layer.backend = "parallel"
    assert torch.allclose(layer(x).output, expected, rtol=1e-5, atol=1e-5)
    # a trace has no parallel form; it is the loop's
    assert torch.equal(layer.trace(x).output, expected)


def test_the_parallel_form_says_which_cells_it_runs():
    for name in ("lstm", "indrnn", "gru"):
        with pytest.raises(InputError, match=r"`backend` 'parallel' runs cells of one state with h_t = a_t \* h"):
            Recurrent(name, 4, 5, backend="parallel")(torch.zeros(2, 1, 4))
    with pytest.raises(
        InputError, match="`backend` must be one of auto, reference, cpu, cpu-bfloat16, torch, parallel, got 'cuda'"
    ):
        Recurrent("mingru", 4, 5, backend="cuda")


def test_backend_info_says_what_runs_here_and_why(monkeypatch: pytest.MonkeyPatch):
    from recur.compiler import machine

    monkeypatch.delenv("RECUR_BACKEND", raising=False)
    info = recur.backend_info()
    assert info.backend == ("cpu" if machine.available() is None else "torch")
    assert info.threads == torch.get_num_threads()
    assert [line.split()[0] for line in str(info).splitlines()][:2] == ["backend", "environment"]
    assert f"torch {torch.__version__}" in repr(info)
    monkeypatch.setenv("RECUR_BACKEND", "reference")
    info = recur.backend_info()
    assert (info.backend, info.reason) == ("reference", "RECUR_BACKEND says so")
    assert "RECUR_BACKEND=reference" in str(info)
    monkeypatch.setenv("RECUR_BACKEND", "gpu")
    with pytest.raises(
        InputError, match="RECUR_BACKEND must be one of auto, reference, cpu, cpu-bfloat16, torch, found 'gpu'"
    ):
        recur.backend_info()
    monkeypatch.delenv("RECUR_BACKEND")
    monkeypatch.setattr(machine, "available", lambda: "no compiler today")
    assert str(recur.backend_info()).startswith("backend      torch: no compiler today")
