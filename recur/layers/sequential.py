"""Recurrent layers inside `nn.Sequential`, where one module's result is the next one's input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from recur.cells.cell import State
from recur.errors import InputError
from recur.layers.recurrent import Recurrent

Lengths = Tensor | Sequence[int] | None


class AllOutputs(nn.Module):
    """Keep a layer's outputs of all steps and drop its final state (Keras: `return_sequences=True`).

    Args:
        layer: RNN, LSTM, GRU or Recurrent. A call may give it `lengths`.

    A PackedSequence in gives a PackedSequence out, so rows of different length pass through a Sequential.

    Example:
        >>> net = nn.Sequential(AllOutputs(LSTM(4, 8, batch_first=True)), LastOutput(LSTM(8, 8, batch_first=True)))
        >>> net(torch.randn(2, 5, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Any, *, lengths: Lengths = None) -> Any:
        """Return the outputs, laid out as the input: [T, B, H], [B, T, H], or packed."""
        return _run(self.layer, input, lengths)[0]


class LastOutput(nn.Module):
    """Keep a layer's output at each row's own last step: [B, H * directions] (Keras: the default).

    Of a bidirectional layer that is the forward direction after the row's last step beside the backward direction after
    its first, both of the last layer.

    Args:
        layer: RNN, LSTM, GRU or Recurrent. A call may give it `lengths`.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Any, *, lengths: Lengths = None) -> Tensor:
        """Return [B, H * directions]."""
        state = _run(self.layer, input, lengths)[1]
        h = state.h if isinstance(state, State) else state[0] if isinstance(state, tuple) else state
        return torch.cat(h[-2:].unbind() if self.layer.bidirectional else h[-1:].unbind(), dim=-1)


class OutputMap(nn.Module):
    """Map every step's output, o_t = W_ho h_t + b, with the same weights at each step.

    Args:
        hidden_size: H, the size of what comes in.
        output_size: O, the size of what goes out.
        bias: whether b is added.
        softmax: whether o_t is turned into probabilities, y_t = softmax(o_t).
    """

    def __init__(self, hidden_size: int, output_size: int, *, bias: bool = False, softmax: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, output_size, bias)
        self.softmax = softmax

    def forward(self, input: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """Return `[*, O]` for `[*, H]`, or packed for packed."""
        if isinstance(input, PackedSequence):
            return PackedSequence(self._map(input.data), *input[1:])
        return self._map(input)

    def _map(self, h: Tensor) -> Tensor:
        o: Tensor = self.linear(h)
        return o.softmax(-1) if self.softmax else o


def _run(layer: nn.Module, input: Any, lengths: Lengths) -> tuple[Any, Any]:
    if not isinstance(layer, Recurrent | nn.RNNBase):
        raise InputError(f"`layer` must be RNN, LSTM, GRU or Recurrent, got {type(layer).__name__}")
    if isinstance(layer, Recurrent) and isinstance(input, PackedSequence):
        if lengths is not None:
            raise InputError("`lengths` must not be given with a PackedSequence, which holds its own")
        dense, valid = pad_packed_sequence(input, layer.batch_first)
        output, state = layer(dense, lengths=valid)
        return pack_padded_sequence(output, valid, layer.batch_first, enforce_sorted=False), state
    result: tuple[Any, Any] = layer(input) if lengths is None else layer(input, lengths=lengths)
    return result
