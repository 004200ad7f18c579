"""recur: recurrent networks on PyTorch, a recurrence written once, as its equation."""

from typing import TYPE_CHECKING, Any

from recur.cells import CELLS, Cell, State, exp, log, relu, sigmoid, tanh
from recur.errors import InputError, MissingExtra, RecurError, RunError
from recur.layers import (
    GRU,
    LSTM,
    RNN,
    AllOutputs,
    GRUCell,
    LastOutput,
    LSTMCell,
    OutputMap,
    Recurrent,
    RNNCell,
    convert,
    from_keras,
    replace,
    to_keras,
)

if TYPE_CHECKING:
    from recur.load import load as load

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "RNN",
    "AllOutputs",
    "Cell",
    "GRUCell",
    "InputError",
    "LSTMCell",
    "LastOutput",
    "MissingExtra",
    "OutputMap",
    "RNNCell",
    "RecurError",
    "Recurrent",
    "RunError",
    "State",
    "convert",
    "exp",
    "from_keras",
    "load",
    "log",
    "relu",
    "replace",
    "sigmoid",
    "tanh",
    "to_keras",
]


def __getattr__(name: str) -> Any:
    # the tasks are not needed to use the layers
    if name == "load":
        from recur.load import load

        return load
    raise AttributeError(f"module 'recur' has no attribute {name!r}")
