"""Chrono initialisation: time constants where they should be, in every convention of the gate."""

import pytest
import torch

import recur
from recur import InputError, Recurrent
from recur.cells import GRU
from recur.gradients.initialisation import chrono_


@pytest.mark.parametrize(
    ("layer", "gate", "sign"),
    [
        (lambda: recur.LSTM(3, 2000, 2, bidirectional=True), 1, 1),
        (lambda: recur.GRU(3, 2000), 1, 1),
        (lambda: Recurrent(GRU("before", "new"), 3, 2000), 1, -1),
        (lambda: Recurrent("lstm-peephole", 3, 2000), 1, 1),
    ],
)
def test_time_constants_spread_up_to_the_longest(layer, gate, sign):
    layer = layer()
    before = {name: value.clone() for name, value in layer.named_parameters()}
    assert chrono_(layer, 100)
    for directions in layer.weights():
        for weights in directions:
            bias = weights.bias_ih.chunk(len(layer.cell.gate_names))[gate] * sign
            if weights.bias_hh is not None:
                bias = bias + weights.bias_hh.chunk(len(layer.cell.gate_names))[gate]
            steps = 1 / (1 - torch.sigmoid(bias))
            assert 2 <= steps.min() < 5
            assert 95 < steps.max() <= 100
            assert abs(steps.mean() - 51) < 3
    changed = [name for name, value in layer.named_parameters() if not torch.equal(value, before[name])]
    assert all("bias" in name for name in changed)


def test_a_cell_without_such_a_gate_is_left_alone():
    layer = recur.RNN(3, 4)
    before = [value.clone() for value in layer.parameters()]
    assert not chrono_(layer, 100)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="`longest` must be at least 2 steps, got 1"):
        chrono_(recur.LSTM(3, 4), 1)
    with pytest.raises(InputError, match="the layer has none: use bias=True"):
        chrono_(recur.LSTM(3, 4, bias=False), 10)
