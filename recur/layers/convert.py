"""The same function in another convention: z's sign, one bias or two, Keras's layout - or the reason why there is none.

What converts exactly: the sign of the GRU's z (1 - σ(a) = σ(-a), so the rows of z change sign); an LSTM into one with
peepholes, all zero; one bias into two; two into one, unless the second stands inside the reset gate's product. What
does not: the reset gate before and after the recurrent product, as U(r ⊙ h) and r ⊙ (U h) agree only for a diagonal U.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recur.cells import GRU, LSTM, Elman, PeepholeLSTM
from recur.cells.cell import Cell
from recur.errors import InputError
from recur.layers.recurrent import Recurrent
from recur.layers.torch_nn import GRU as GRULayer
from recur.layers.torch_nn import LSTM as LSTMLayer
from recur.layers.torch_nn import RNN as RNNLayer

Layer = Recurrent | RNNLayer | LSTMLayer | GRULayer


def convert(layer: Layer, cell: Cell, *, bias: Literal["one", "two", "same"] = "same") -> Recurrent:
    """Return a layer that runs `cell` and computes exactly what `layer` does.

    Args:
        layer: RNN, LSTM, GRU or Recurrent.
        cell: the convention to reach, such as `GRU(z="new")`.
        bias: how many biases the result has; "same" keeps the number.

    Raises:
        InputError: no weights make `cell` compute the same function; the message says why.
    """
    if not isinstance(cell, Cell):
        raise InputError(f"`cell` must be a cell, such as GRU(z='new'), got {cell!r}")
    source = layer.cell
    negated, no_peepholes = _difference(source, cell)
    if bias == "same":
        bias = "two" if not isinstance(layer, Recurrent) or layer.bias == "two" else "one"
    result = Recurrent(
        cell,
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=bias if layer.bias else False,
        batch_first=layer.batch_first,
        dropout=layer.dropout,
        bidirectional=layer.bidirectional,
        proj_size=layer.proj_size,
        recurrent_dropout=layer.recurrent_dropout,
        residual=layer.residual,
        backend="reference" if layer.backend == "reference" else "auto",
        checkpoint=layer.checkpoint,
        device=next(layer.parameters()).device,
        dtype=next(layer.parameters()).dtype,
    )
    weights = dict(layer.named_parameters())
    with torch.no_grad():
        for name, target in result.named_parameters():
            kind, _, suffix = name.rpartition("_l")
            if kind == "units" and no_peepholes:
                target.zero_()
                continue
            if kind == "bias_hh" and name not in weights:
                target.zero_()
                continue
            value = weights[name].clone()
            if kind == "bias_ih" and bias == "one" and f"bias_hh_l{suffix}" in weights:
                value += _movable(weights[f"bias_hh_l{suffix}"], source)
            if kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                for gate, block in zip(source.gate_names, value.chunk(len(source.gate_names)), strict=True):
                    if gate in negated:
                        block.neg_()
            target.copy_(value)
    return result.train(layer.training)


def from_keras(
    weights: Sequence[np.ndarray], cell: str, *, activation: str = "tanh", reset_after: bool = True
) -> Recurrent:
    """Return the layer for a Keras layer's `get_weights()`.

    Args:
        weights: kernel [D, G*H], recurrent kernel [H, G*H] and, with `use_bias`, the bias [G*H]; for a GRU with
            `reset_after=True`, Keras's default, [2, 3H].
        cell: "rnn" for SimpleRNN, "lstm", or "gru".
        activation: SimpleRNN's.
        reset_after: a GRU's, where it has no bias whose shape would tell.

    Returns:
        a `Recurrent` with `batch_first=True`, Keras's layout of data.

    Raises:
        InputError: `weights` are not those of such a layer, or `cell` is another.
    """
    order = _keras_order(cell)
    arrays = [torch.from_numpy(np.array(array)) for array in weights]
    if len(arrays) not in (2, 3) or arrays[0].dim() != 2 or arrays[1].dim() != 2:
        raise InputError(f"`weights` must be kernel, recurrent kernel and maybe bias, got {[a.shape for a in weights]}")
    hidden = arrays[1].shape[0]
    if arrays[0].shape[1] != len(order) * hidden or arrays[1].shape[1] != len(order) * hidden:
        raise InputError(
            f"`weights` of a {cell} with H = {hidden} must be [D, {len(order)}H] and [H, {len(order)}H], "
            f"got {list(arrays[0].shape)} and {list(arrays[1].shape)}"
        )
    two = len(arrays) == 3 and arrays[2].dim() == 2
    if len(arrays) == 3 and list(arrays[2].shape) not in (
        [len(order) * hidden],
        *([[2, 3 * hidden]] * (cell == "gru")),
    ):
        raise InputError(
            f"`weights` of a {cell} with H = {hidden} must have a bias of {len(order)}H, got {list(arrays[2].shape)}"
        )
    if cell != "rnn" and activation != "tanh":
        raise InputError(f"`activation` is SimpleRNN's; recur's {cell} has tanh, got {activation!r}")
    if len(arrays) == 3:
        reset_after = two
    equation = {"rnn": Elman(activation), "lstm": LSTM(), "gru": GRU("after" if reset_after else "before")}[cell]
    bias: Literal["one", "two"] | bool = False if len(arrays) == 2 else "two" if two else "one"
    layer = Recurrent(equation, arrays[0].shape[0], hidden, bias=bias, batch_first=True, dtype=arrays[0].dtype)
    rows = [_reorder(arrays[0].T, order), _reorder(arrays[1].T, order)]
    if len(arrays) == 3:
        rows += [_reorder(row, order) for row in (arrays[2] if two else arrays[2][None])]
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), rows, strict=True):
            parameter.copy_(value)
    return layer


def to_keras(layer: Layer) -> list[np.ndarray]:
    """Return a one-layer, one-direction layer's weights as Keras's `set_weights` wants them.

    Returns:
        kernel [D, G*H], recurrent kernel [H, G*H] and, if the layer has biases, one [G*H]; for a GRU with the reset
        after the product two, [2, 3H].

    Raises:
        InputError: Keras has no such layer, or the layer is stacked, bidirectional or projected.
    """
    cell = layer.cell
    names = {Elman: "rnn", LSTM: "lstm", GRU: "gru"}
    if type(cell) not in names or layer.num_layers > 1 or layer.bidirectional or layer.proj_size:
        raise InputError(f"`layer` must be one layer and direction of Elman, LSTM or GRU for Keras, got {layer!r}")
    after = isinstance(cell, GRU) and cell.reset == "after"
    if isinstance(cell, GRU) and cell.z == "new":
        layer = convert(layer, GRU(cell.reset, "old"), bias="same")
    layer = convert(layer, layer.cell, bias="two" if after else "one")
    order = _keras_order(names[type(cell)])
    inverse = [order.index(i) for i in range(len(order))]
    w_ih, w_hh, *biases = (_reorder(parameter.detach(), inverse) for parameter in layer.parameters())
    arrays = [w_ih.T, w_hh.T] + ([torch.stack(biases)] if after and biases else biases)
    return [array.cpu().contiguous().numpy() for array in arrays]


def _difference(source: Cell, target: Cell) -> tuple[set[str], bool]:
    """Return the gates whose sign differs and whether peepholes are added; refuse what has no equivalent."""
    if type(source) is type(target) is GRU:
        assert isinstance(source, GRU)
        assert isinstance(target, GRU)
        if source.reset != target.reset:
            raise InputError(
                f"a GRU with the reset gate {source.reset} the recurrent product has no equivalent with it "
                f"{target.reset}: U(r * h) and r * (U h) agree only for a diagonal U, so no choice of weights gives "
                f"the same function; use GRU(reset={source.reset!r}), or train anew"
            )
        return ({"z"} if source.z != target.z else set()), False
    if type(source) is LSTM and type(target) is PeepholeLSTM:
        return set(), True
    if type(source) is type(target) and _options(source) == _options(target):
        return set(), False
    raise InputError(f"{source!r} and {target!r} are different functions: no weights of one give the other")


def _options(cell: Cell) -> dict[str, Any]:
    return {name: value for name, value in vars(cell).items() if name not in ("kernel", "keep")}


def _movable(bias_hh: Tensor, cell: Cell) -> Tensor:
    """Return the second bias as a part of the first, where it stands beside it."""
    if isinstance(cell, GRU) and cell.reset == "after" and bias_hh.chunk(3)[2].any():
        raise InputError(
            "the candidate's second bias stands inside the reset gate's product, r * (U h + b), and cannot move into "
            "the first unless it is zero: keep bias='two'"
        )
    return bias_hh


def _keras_order(cell: str) -> list[int]:
    """Return Keras's gates in recur's order: its GRU stacks z, r, h where recur and torch stack r, z, n."""
    orders = {"rnn": [0], "lstm": [0, 1, 2, 3], "gru": [1, 0, 2]}
    if cell not in orders:
        raise InputError(f"`cell` must be 'rnn', 'lstm' or 'gru' for Keras, got {cell!r}")
    return orders[cell]


def _reorder(rows: Tensor, order: list[int]) -> Tensor:
    blocks = rows.chunk(len(order))
    return torch.cat([blocks[index] for index in order])
