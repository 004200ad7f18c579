"""Where weights start, when that decides how far back a network can learn to remember."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recur.cells.cell import Cell
from recur.errors import InputError
from recur.layers import Recurrent
from recur.layers.torch_nn import equation_of, weights_of
from recur.scan import Weights

Layer = Recurrent | nn.RNN | nn.LSTM | nn.GRU


@torch.no_grad()
def orthogonal_(layer: Layer, gain: float = 1.0) -> bool:
    """Draw the recurrent matrix of every gate orthogonal, each by itself: all its singular values are `gain`.

    What passes through such a matrix, forward or backward, keeps its length however many steps there are; what shrinks
    it then is the activation's slope alone (Saxe et al. 2014, arXiv:1312.6120, section 3). A matrix that is drawn
    orthogonal for all gates at once, [G*H, H], leaves each gate's own [H, H] with singular values below 1.

    Args:
        layer: any recurrent layer of recur's or torch.nn's.
        gain: the singular values, above 0. A projected cell's U [H, P] gets orthonormal columns (P <= H) times `gain`.

    Returns:
        whether the cell has recurrent matrices; IndRNN or minGRU, say, have none and are left alone.

    Raises:
        InputError: `layer` is no recurrent layer, or `gain` no positive number.

    >>> layer = GRU(3, 5)
    >>> orthogonal_(layer)
    True
    >>> [round(float(block.T.mm(block).trace()), 4) for block in layer.weight_hh_l0.detach().chunk(3)]
    [5.0, 5.0, 5.0]
    """
    if not (math.isfinite(gain) and gain > 0):
        raise InputError(f"`gain` must be a number above 0, got {gain}")
    cell, weights = _parts(layer)
    for block in _matrices(cell, weights):
        nn.init.orthogonal_(block, gain)
    return bool(cell.recurrent_names)


@torch.no_grad()
def identity_(layer: Layer, scale: float = 1.0) -> bool:
    """Start every gate's recurrent matrix at `scale` times the identity, and all biases at 0.

    An Elman network with ReLU then copies its state from step to step and adds its input, until it learns to do
    otherwise: the IRNN of Le et al. 2015, arXiv:1504.00941, section 3, meant for `RNN(..., nonlinearity="relu")` or the
    cell "rnn-relu". For short memories they take a scale below 1.

    Args:
        layer: any recurrent layer of recur's or torch.nn's.
        scale: what stands on the diagonal.

    Returns:
        whether the cell has recurrent matrices; one that has none is left alone.

    Raises:
        InputError: `layer` is no recurrent layer, its recurrent matrices are not square as the cell is projected, or
            `scale` is no finite number.
    """
    if not math.isfinite(scale):
        raise InputError(f"`scale` must be a finite number, got {scale}")
    cell, weights = _parts(layer)
    if cell.projected:
        raise InputError(f"`layer` must have square recurrent matrices to start at the identity, got {cell!r}")
    if not cell.recurrent_names:
        return False
    for block in _matrices(cell, weights):
        nn.init.eye_(block).mul_(scale)
    for one in weights:
        for bias in (one.bias_ih, one.bias_hh):
            if bias is not None:
                bias.zero_()
    return True


def forget_bias_(layer: Layer, value: float = 1.0) -> bool:
    """Start the bias of the gate that keeps the state at `value`, so that at first it is open by σ(value).

    A memory that is not written to is kept for about 1 + exp(value) steps (Gers et al. 2000, Neural Computation 12(10);
    Jozefowicz et al. 2015, An empirical exploration of recurrent network architectures). Where the gate keeps the state
    when it is shut, as the GRU's z in one convention, the sign is turned. With two biases the first gets the value, the
    second 0.

    Args:
        layer: any recurrent layer of recur's or torch.nn's.
        value: the total bias of the gate.

    Returns:
        whether the cell has such a gate (`Cell.keep`); an Elman network, say, has none and is left alone.

    Raises:
        InputError: `layer` is no recurrent layer or has no biases, or `value` is no finite number.
    """
    if not math.isfinite(value):
        raise InputError(f"`value` must be a finite number, got {value}")
    cell, weights = _parts(layer)
    for one in weights if cell.keep else []:
        _start(cell, one, cell.keep, value, "the forget bias")
    return bool(cell.keep)


def chrono_(layer: Layer, longest: int, *, inputs: bool = False) -> bool:
    """Draw the biases of the gate that keeps the state so that its units remember for 2 to `longest` steps.

    A gate that stays at f keeps a memory for about 1 / (1 - f) steps; with b = log u, u uniform in 1..longest - 1,
    σ(b) gives time constants spread evenly up to `longest` (Tallec and Ollivier 2018, arXiv:1804.11188, eq. 16). With
    `inputs` the gate that writes starts at -b, as theirs does: a memory of u steps takes in a share of about 1/u of
    each, so that over them it is not flooded.

    Args:
        layer: any recurrent layer of recur's or torch.nn's.
        longest: the longest lag to be remembered, in steps, at least 2.
        inputs: also start the gate that writes (`Cell.write`), where the cell has one, even if it has none that keeps.

    Returns:
        whether the cell has such a gate (`Cell.keep`, `Cell.write`); an Elman network, say, has none and is left alone.

    Raises:
        InputError: `layer` is no recurrent layer or has no biases, or `longest` is below 2.
    """
    if longest < 2:
        raise InputError(f"`longest` must be at least 2 steps, got {longest}")
    cell, weights = _parts(layer)
    write = cell.write if inputs else ""
    for one in weights if cell.keep or write else []:
        # with 2 as the longest, all are 2
        biases = one.ih.new_empty(len(one.ih) // len(cell.gate_names)).uniform_(1, max(longest - 1, 1)).log_()
        for gate, values in ((cell.keep, biases), (write, -biases)):
            if gate:
                _start(cell, one, gate, values, "chrono initialisation")
    return bool(cell.keep or write)


@torch.no_grad()
def _start(cell: Cell, weights: Weights, gate: str, values: Tensor | float, what: str) -> None:
    """Start a gate's biases at `values`, with the sign before its name; the second bias at 0."""
    if weights.bias_ih is None:
        raise InputError(f"{what} sets biases, and the layer has none: use bias=True")
    name, names, recurrent = gate.lstrip("-"), cell.gate_names, cell.recurrent_names
    bias = weights.bias_ih.chunk(len(names))[names.index(name)]
    bias.copy_(torch.as_tensor(-values if gate.startswith("-") else values))
    if weights.bias_hh is not None and name in recurrent:
        weights.bias_hh.chunk(len(recurrent))[recurrent.index(name)].zero_()


def _parts(layer: Layer) -> tuple[Cell, list[Weights]]:
    """Return the cell, and the weights of every layer and direction."""
    if isinstance(layer, Recurrent):
        cell, weights = layer.cell, layer.weights()
    elif isinstance(layer, nn.RNN | nn.LSTM | nn.GRU):
        cell, weights = equation_of(layer), weights_of(layer)
    else:
        raise InputError(f"`layer` must be a recurrent layer of recur's or torch.nn's, got {type(layer).__name__}")
    return cell, [one for directions in weights for one in directions]


def _matrices(cell: Cell, weights: list[Weights]) -> Iterator[Tensor]:
    """Yield the recurrent matrix of each gate, [H, H], of every layer and direction."""
    for one in weights:
        if one.hh is not None:
            yield from one.hh.chunk(len(cell.recurrent_names))
