"""Layers: who owns the weights."""

from typing import Any

from recur.cells.cell import Cell
from recur.layers.checkpoint import checkpoint_plan
from recur.layers.convert import convert, from_keras, to_keras
from recur.layers.info import BackendInfo, backend_info
from recur.layers.plan import CheckpointPlan
from recur.layers.recurrent import Output, Recurrent
from recur.layers.replace import replace
from recur.layers.sequential import AllOutputs, LastOutput, OutputMap
from recur.layers.stack import Trace
from recur.layers.step import GRUCell, LSTMCell, RNNCell
from recur.layers.torch_nn import GRU, LSTM, RNN


def make(
    cell: str | Cell | type[Cell], input_size: int, hidden_size: int, num_layers: int = 1, **options: Any
) -> Recurrent | RNN | LSTM | GRU:
    """Return the layer for a cell: RNN, LSTM or GRU where one stands for it, `Recurrent` elsewhere.

    Args:
        cell: a name in `recur.cells.CELLS`, a cell, or a class of one.
        input_size: D.
        hidden_size: H.
        num_layers: layers.
        **options: bidirectional, dropout, recurrent_dropout, residual, batch_first, backend,
            checkpoint.

    Raises:
        InputError: no cell has that name; the message suggests the nearest.
    """
    standard: dict[Any, type[RNN | LSTM | GRU]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
    layer = standard.get(cell) if isinstance(cell, str) else None
    if layer is not None:
        return layer(input_size, hidden_size, num_layers, **options)
    return Recurrent(cell, input_size, hidden_size, num_layers, **options)


__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AllOutputs",
    "BackendInfo",
    "CheckpointPlan",
    "GRUCell",
    "LSTMCell",
    "LastOutput",
    "Output",
    "OutputMap",
    "RNNCell",
    "Recurrent",
    "Trace",
    "backend_info",
    "checkpoint_plan",
    "convert",
    "from_keras",
    "make",
    "replace",
    "to_keras",
]
