"""Where weights start, when that decides how far back a network can learn to remember."""

import torch

from recur.errors import InputError
from recur.layers import GRU, LSTM, RNN, Recurrent


@torch.no_grad()
def chrono_(layer: Recurrent | RNN | LSTM | GRU, longest: int) -> bool:
    """Draw the biases of the gate that keeps the state so that its units remember for 2 to `longest` steps.

    A gate that stays at f keeps a memory for about 1 / (1 - f) steps; with b = log u, u uniform in 1..longest - 1,
    σ(b) gives time constants spread evenly up to `longest` (Tallec and Ollivier 2018, arXiv:1804.11188, eq. 16; the
    input gate is left as it is).

    Args:
        layer: any recurrent layer.
        longest: the longest lag to be remembered, in steps, at least 2.

    Returns:
        whether the cell has such a gate (`Cell.keep`); an Elman network, say, has none and is left alone.

    Raises:
        InputError: `longest` is below 2, or the layer has no biases.
    """
    if longest < 2:
        raise InputError(f"`longest` must be at least 2 steps, got {longest}")
    gate = layer.cell.keep.lstrip("-")
    if not gate:
        return False
    names, recurrent = layer.cell.gate_names, layer.cell.recurrent_names
    for weights in (one for directions in layer.weights() for one in directions):
        if weights.bias_ih is None:
            raise InputError("chrono initialisation sets biases, and the layer has none: use bias=True")
        bias = weights.bias_ih.chunk(len(names))[names.index(gate)]
        bias.copy_(torch.empty_like(bias).uniform_(1, max(longest - 1, 1)).log_())
        if layer.cell.keep.startswith("-"):
            bias.neg_()
        if weights.bias_hh is not None and gate in recurrent:
            weights.bias_hh.chunk(len(recurrent))[recurrent.index(gate)].zero_()
    return True
