"""Where weights start: time constants, matrices gate by gate, and what both do to the gradient 100 steps back."""

import math

import pytest
import torch
from torch import Tensor, nn

import recur
from recur import InputError, Recurrent, chrono_, forget_bias_, identity_, orthogonal_
from recur.cells import CELLS, GRU, Zoneout


def total_biases(layer: nn.Module, gate: int) -> list[Tensor]:
    """The biases of a gate, both together, of every layer and direction; by the names of the parameters."""
    found: dict[str, Tensor] = {}
    for name, value in layer.named_parameters():
        if name.startswith("bias"):
            suffix = name.split("_l")[1]
            found[suffix] = found.get(suffix, 0) + value.chunk(len(value) // layer.hidden_size)[gate]
    return list(found.values())


def matrices(layer: nn.Module) -> list[Tensor]:
    """Every gate's recurrent matrix of every layer and direction."""
    stacked = [value.detach() for name, value in layer.named_parameters() if name.startswith("weight_hh")]
    return [block for value in stacked for block in value.chunk(len(value) // layer.hidden_size)]


LAYERS = {
    "RNN": lambda: recur.RNN(3, 16, 2, bidirectional=True),
    "LSTM": lambda: recur.LSTM(3, 16, 2),
    "GRU": lambda: recur.GRU(3, 16, bias=False),
    "projected": lambda: recur.LSTM(3, 16, proj_size=5),
    "torch.nn.RNN": lambda: nn.RNN(3, 16),
    "torch.nn.LSTM": lambda: nn.LSTM(3, 16, 2, bidirectional=True),
    "torch.nn.GRU": lambda: nn.GRU(3, 16),
    "wrapped": lambda: Recurrent(Zoneout(CELLS["lstm"]()), 3, 16, bias="two"),
} | {name: lambda name=name: Recurrent(name, 3, 16) for name in CELLS}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_every_gate_has_an_orthogonal_matrix_of_its_own(name: str, gain: float):
    layer = LAYERS[name]()
    before = {key: value.clone() for key, value in layer.named_parameters()}
    blocks = matrices(layer)
    assert orthogonal_(layer, gain) == (len(blocks) > 0)
    for block in blocks:
        torch.testing.assert_close(torch.linalg.svdvals(block), torch.full((block.shape[1],), gain))
    assert not any(torch.equal(a, b) for n, a in enumerate(blocks) for b in blocks[:n])
    changed = [key for key, value in layer.named_parameters() if not torch.equal(value, before[key])]
    assert all("weight_hh" in key for key in changed)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "projected"])
def test_every_gate_starts_at_the_identity_and_without_bias(name: str):
    layer = LAYERS[name]()
    blocks = matrices(layer)
    before = {key: value.clone() for key, value in layer.named_parameters()}
    assert identity_(layer, 0.5) == (len(blocks) > 0)
    assert all(torch.equal(block, 0.5 * torch.eye(16)) for block in blocks)
    for key, value in layer.named_parameters():
        if "bias" in key and blocks:
            assert not value.any()
        elif "weight_hh" not in key:
            assert torch.equal(value, before[key])


def test_an_irnn_copies_its_state():
    layer = recur.RNN(3, 8, nonlinearity="relu")
    identity_(layer)
    h = torch.rand(1, 2, 8)
    assert torch.equal(layer(torch.zeros(50, 2, 3), h)[1], h)


@pytest.mark.parametrize(
    ("layer", "gate", "sign"),
    [
        (lambda: recur.LSTM(3, 16, 2, bidirectional=True), 1, 1),
        (lambda: nn.LSTM(3, 16, proj_size=5), 1, 1),
        (lambda: nn.GRU(3, 16), 1, 1),
        (lambda: Recurrent(GRU("before", "new"), 3, 16, bias="two"), 1, -1),
        (lambda: Recurrent("mgu", 3, 16), 0, -1),
        (lambda: Recurrent("ugrnn", 3, 16), 0, 1),
        (lambda: Recurrent("mingru", 3, 16, bias="two"), 0, -1),
        (lambda: Recurrent("adder-input-forget", 3, 16), 1, 1),
    ],
)
def test_the_bias_of_the_gate_that_keeps_is_the_value(layer, gate, sign):
    layer = layer()
    others = [number for number in range(len(layer.bias_ih_l0) // 16) if number != gate]
    before = [total_biases(layer, number) for number in others]
    assert forget_bias_(layer, 2.5)
    for bias in total_biases(layer, gate):
        assert torch.equal(bias, torch.full((16,), 2.5 * sign))
    for a, b in zip(before, [total_biases(layer, number) for number in others], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def carried(layer: nn.Module) -> float:
    """The norm of the gradient that the first of 100 inputs gets of the last output, over that of the last input."""
    x = torch.randn(100, 8, 3, requires_grad=True)
    output = layer(x)[0]
    (gradient,) = torch.autograd.grad((output[-1] * torch.randn(8, 64)).sum(), x)
    return float(gradient[0].norm() / gradient[-1].norm())


def test_what_orthogonal_and_identity_matrices_do_to_the_gradient_after_100_steps():
    default, orthogonal = recur.RNN(3, 64), recur.RNN(3, 64)
    orthogonal_(orthogonal)
    assert carried(default) < 1e-15
    assert carried(orthogonal) > 1e5 * carried(default)
    default, identity = (recur.RNN(3, 64, nonlinearity="relu") for _ in range(2))
    identity_(identity)
    assert carried(default) < 1e-15
    assert 0.1 < carried(identity) < 10


def test_what_the_forget_bias_and_chrono_do_to_the_gradient_after_100_steps():
    found = {}
    for name, start in (("default", lambda _: None), ("1", forget_bias_), ("chrono", lambda one: chrono_(one, 100))):
        layer = recur.LSTM(3, 64)
        start(layer)
        found[name] = carried(layer)
    assert found["1"] > 1e5 * found["default"]
    assert found["chrono"] > 1e5 * found["1"]
    assert found["chrono"] > 0.01


@pytest.mark.parametrize(
    ("layer", "gate", "sign"),
    [
        (lambda: recur.LSTM(3, 2000, 2, bidirectional=True), 1, 1),
        (lambda: recur.GRU(3, 2000), 1, 1),
        (lambda: Recurrent(GRU("before", "new"), 3, 2000), 1, -1),
        (lambda: Recurrent("lstm-peephole", 3, 2000), 1, 1),
        (lambda: nn.LSTM(3, 2000), 1, 1),
    ],
)
def test_time_constants_spread_up_to_the_longest(layer, gate, sign):
    layer = layer()
    before = {name: value.clone() for name, value in layer.named_parameters()}
    assert chrono_(layer, 100)
    for bias in total_biases(layer, gate):
        steps = 1 / (1 - torch.sigmoid(bias * sign))
        assert 2 <= steps.min() < 5
        assert 95 < steps.max() <= 100
        assert abs(steps.mean() - 51) < 3
    changed = [name for name, value in layer.named_parameters() if not torch.equal(value, before[name])]
    assert all("bias" in name for name in changed)


@pytest.mark.parametrize(
    ("layer", "keep", "write"),
    [
        (lambda: recur.LSTM(3, 16, 2, bidirectional=True), 1, 0),
        (lambda: nn.LSTM(3, 16), 1, 0),
        (lambda: Recurrent("adder-input-forget", 3, 16), 1, 0),
        (lambda: Recurrent(Zoneout(CELLS["lstm-peephole"]()), 3, 16), 1, 0),
        (lambda: Recurrent("adder-input", 3, 16), None, 0),
        (lambda: recur.GRU(3, 16), 1, None),
    ],
)
def test_units_that_remember_longer_start_out_writing_less(layer, keep, write):
    layer = layer()
    assert chrono_(layer, 100, inputs=True)
    if keep is not None and write is not None:
        for kept, written in zip(total_biases(layer, keep), total_biases(layer, write), strict=True):
            assert torch.equal(kept, -written)
    for written in total_biases(layer, write) if write is not None else []:
        assert -math.log(99) <= written.min() < written.max() <= 0


def test_a_cell_without_such_a_gate_is_left_alone():
    layer = recur.RNN(3, 4)
    before = [value.clone() for value in layer.parameters()]
    assert not chrono_(layer, 100, inputs=True)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="`longest` must be at least 2 steps, got 1"):
        chrono_(recur.LSTM(3, 4), 1)
    with pytest.raises(InputError, match="the layer has none: use bias=True"):
        chrono_(recur.LSTM(3, 4, bias=False), 10)
    with pytest.raises(InputError, match="the forget bias sets biases, and the layer has none"):
        forget_bias_(nn.GRU(3, 4, bias=False))
    with pytest.raises(InputError, match="`value` must be a finite number, got inf"):
        forget_bias_(recur.LSTM(3, 4), math.inf)
    with pytest.raises(InputError, match=r"`gain` must be a number above 0, got 0"):
        orthogonal_(recur.LSTM(3, 4), 0)
    with pytest.raises(InputError, match="`scale` must be a finite number, got nan"):
        identity_(recur.LSTM(3, 4), math.nan)
    with pytest.raises(InputError, match=r"must have square recurrent matrices to start at the identity, got LSTMP"):
        identity_(recur.LSTM(3, 4, proj_size=2))
    with pytest.raises(InputError, match=r"`layer` must be a recurrent layer of recur's or torch.nn's, got Linear"):
        orthogonal_(nn.Linear(3, 4))
