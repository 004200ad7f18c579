"""Zoneout against its formula, and masks of a cell of one's own."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from recur import Cell, InputError, Recurrent, State, sigmoid, tanh
from recur.cells import CELLS, GRU, LSTM, LSTMP, SLSTM, Zoneout
from recur.cells.zoneout import masks_for
from recur.compiler.trace import trace


def lstm_step(layer: Recurrent, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-12 if a.dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("training", [True, False])
def test_zoneout_is_its_formula(backend: str, training: bool):
    layer = Recurrent(Zoneout(LSTM, h=0.3, c=0.6), 3, 4, backend=backend).double().train(training)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    torch.manual_seed(5)
    output, final = layer(x)
    torch.manual_seed(5)
    keep_h, keep_c = (torch.full((6, 2, 4), rate, dtype=torch.float64) for rate in (0.3, 0.6))
    if training:
        keep_h, keep_c = torch.bernoulli(keep_h), torch.bernoulli(keep_c)
    h = c = torch.zeros(2, 4, dtype=torch.float64)
    for t in range(6):
        # Krueger et al. 2016, eq. 5 and 6: the new output is made of the cell's own memory, not of the one kept
        new_h, new_c = lstm_step(layer, x[t], h, c)
        h, c = keep_h[t] * h + (1 - keep_h[t]) * new_h, keep_c[t] * c + (1 - keep_c[t]) * new_c
        assert close(output[t], h)
    assert close(final.c[0], c)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    "cell", [Zoneout(LSTM, h=0.3, c=0.6), Zoneout(GRU, h=0.5), Zoneout(SLSTM), Zoneout(LSTMP, h=0)]
)
def test_gradcheck_of_drawn_masks(backend: str, cell: Cell):
    proj = {"proj_size": 2} if cell.projected else {}
    layer = Recurrent(cell, 2, 3, 2, bidirectional=True, backend=backend, **proj).double()
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = dict(layer.named_parameters())

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        given = dict(zip(weights, values, strict=True))
        output, final = torch.func.functional_call(layer, given, (x,), {"lengths": [3, 2]})
        return (output, *final)

    assert torch.autograd.gradcheck(run, (x, *weights.values()))


def test_both_backends_draw_the_same_and_a_seed_settles_it():
    x = torch.randn(20, 3, 4)
    layer = Recurrent(Zoneout(LSTM, h=0.3, c=0.3), 4, 5, 2, bidirectional=True)

    def run(seed: int, backend: str) -> Tensor:
        layer.backend = backend
        torch.manual_seed(seed)
        return layer(x, lengths=[20, 7, 0]).output

    assert torch.equal(run(1, "auto"), run(1, "auto"))
    assert close(run(1, "auto"), run(1, "reference"))
    assert not close(run(1, "auto"), run(2, "auto"))
    layer.eval()
    assert torch.equal(run(1, "auto"), run(2, "auto"))


def test_every_layer_and_direction_has_its_own_masks(monkeypatch: pytest.MonkeyPatch):
    drawn = []

    def note(*args: object, **options: object) -> Tensor | None:
        drawn.append(masks_for(*args, **options))
        return drawn[-1]

    monkeypatch.setattr("recur.layers.stack.masks_for", note)
    Recurrent(Zoneout(GRU, h=0.5), 4, 5, 2, bidirectional=True)(torch.randn(7, 3, 4))
    assert [mask.shape for mask in drawn] == [(1, 7, 3, 5)] * 4
    assert all(not torch.equal(a, b) for n, a in enumerate(drawn) for b in drawn[:n])


def test_masks_are_one_as_often_as_they_should_and_one_row_serves_in_evaluation():
    cell, like = Zoneout(LSTM, h=0.1, c=0.7), torch.empty(50, 20)
    masks = masks_for(cell, 30, like, draw=True)
    assert set(masks.unique().tolist()) == {0, 1}
    assert masks.mean((1, 2, 3)).tolist() == pytest.approx([0.1, 0.7], abs=0.01)
    expected = masks_for(cell, 30, like, draw=False)
    assert expected.shape == (2, 30, 50, 20)
    assert torch.equal(expected[1], torch.full((30, 50, 20), 0.7))
    assert expected.untyped_storage().nbytes() == 2 * 20 * 4
    assert masks_for(LSTM(), 3, like, draw=True) is None


def test_a_memory_of_several_states_is_kept_together():
    layer = Recurrent(Zoneout(SLSTM, h=0, c=1), 3, 4)
    state = State(**{name: torch.rand(1, 2, 4) for name in "hcnm"})
    after = layer(torch.randn(5, 2, 3), state).state
    assert all(torch.equal(getattr(after, name), getattr(state, name)) for name in "cnm")
    assert not torch.equal(after.h, state.h)


def test_it_stands_for_the_cell_in_all_that_a_layer_asks():
    cell = Zoneout(CELLS["lstm-peephole"](), h=0.25)
    assert repr(cell) == "Zoneout(PeepholeLSTM(), h=0.25, c=0.1)"
    assert (cell.gate_names, cell.state_names, cell.unit_names) == (tuple("ifgo"), ("h", "c"), tuple("ifo"))
    assert (cell.mask_names, cell.keep, cell.torch_kernel) == (("h", "c"), "f", None)
    assert Zoneout(GRU, h=0.2).mask_names == ("h",)
    assert Zoneout(LSTM, h=0, c=0).mask_names == ()
    # a cell in a cell is traced once, not at every call
    assert trace(Zoneout(LSTM)) is trace(Zoneout(LSTM()))
    assert trace(Zoneout(GRU())) is not trace(Zoneout(GRU("before")))


def test_two_layers_of_masks():
    class Dropped(LSTM):
        masks = "d"
        mask_rates: ClassVar = {"d": 0.5}

        def step(x, U, s, m):
            c = sigmoid(x.f) * s.c + sigmoid(x.i) * m.d * tanh(x.g)
            return State(h=tanh(c), c=c)

    cell = Zoneout(Dropped, h=0.2, c=0.3)
    assert dict(cell.mask_rates) == {"h": 0.2, "c": 0.3, "d": 0.5}
    assert Recurrent(cell, 3, 4)(torch.randn(5, 2, 3)).output.isfinite().all()
    with pytest.raises(InputError, match="`cell` must have no mask 'c' of its own, got Zoneout"):
        Zoneout(Zoneout(LSTM, h=0), h=0)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_dropout_of_the_candidate_is_a_cell_of_ten_lines(backend: str):
    class Dropped(LSTM):
        """Recurrent dropout without memory loss, Semeniuta et al. 2016, arXiv:1603.05118, eq. 6."""

        masks = "d"
        mask_rates: ClassVar = {"d": 0.75}

        def step(x, U, s, m):
            i, f, o = sigmoid(x.i + U.i(s.h)), sigmoid(x.f + U.f(s.h)), sigmoid(x.o + U.o(s.h))
            g = tanh(x.g + U.g(s.h)) * m.d / 0.75
            c = f * s.c + i * g
            return State(h=o * tanh(c), c=c)

    layer, x = Recurrent(Dropped, 3, 4, backend=backend), torch.randn(6, 2, 3)
    plain = Recurrent("lstm", 3, 4)
    plain.load_state_dict(layer.state_dict())
    assert close(layer.eval()(x).output, plain(x).output)
    torch.manual_seed(5)
    output = layer.train()(x).output
    torch.manual_seed(5)
    mask = torch.empty(6, 2, 4).bernoulli_(0.75)
    h = c = torch.zeros(2, 4)
    for t in range(6):
        i, f, g, o = (x[t] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh() * mask[t] / 0.75
        h = o.sigmoid() * c.tanh()
        assert close(output[t], h)


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match=r"`h` must be a probability in 0..1, got 1.5"):
        Zoneout(LSTM, h=1.5)
    with pytest.raises(InputError, match=r"`h` must be 0 for LSTMP\(\), whose output is projected, got 0.1"):
        Zoneout(LSTMP)

    class Masked(Cell):
        gates = "a"
        masks = "k"

        def step(x, s, m):
            return State(h=m.k * s.h + x.a)

    with pytest.raises(InputError, match=r"`mask_rates` must give the probability of 1, .* of k, got None for 'k'"):
        Recurrent(Masked, 2, 3)(torch.zeros(1, 1, 2))
