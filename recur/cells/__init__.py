"""The recurrences that recur ships, each written as its equation."""

from collections.abc import Callable

from recur.cells.cell import Cell, State, exp, log, relu, sigmoid, tanh
from recur.cells.elman import Elman
from recur.cells.gru import GRU
from recur.cells.lstm import LSTM, LSTMP, Adder, AdderInput, AdderInputForget, PeepholeLSTM
from recur.errors import InputError, nearest

# what --cell and recur.layers.make know by name
CELLS: dict[str, Callable[[], Cell]] = {
    "rnn": Elman,
    "rnn-relu": lambda: Elman("relu"),
    "rnn-sigmoid": lambda: Elman("sigmoid"),
    "lstm": LSTM,
    "lstm-peephole": PeepholeLSTM,
    "gru": GRU,
    "gru-before": lambda: GRU(reset="before", z="new"),
    "adder": Adder,
    "adder-input": AdderInput,
    "adder-input-forget": AdderInputForget,
}


def cell_named(name: str) -> Cell:
    """Return the cell that `name` stands for.

    Raises:
        InputError: no cell has that name; the message suggests the nearest.
    """
    if name not in CELLS:
        raise InputError(f"`cell` must be one of {', '.join(CELLS)}, found {name!r}{nearest(name, list(CELLS))}")
    return CELLS[name]()


__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "LSTMP",
    "Adder",
    "AdderInput",
    "AdderInputForget",
    "Cell",
    "Elman",
    "PeepholeLSTM",
    "State",
    "cell_named",
    "exp",
    "log",
    "relu",
    "sigmoid",
    "tanh",
]
