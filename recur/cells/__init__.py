"""The recurrences that recur ships, each written as its equation."""

from collections.abc import Callable

from recur.cells.cell import (
    Cell,
    State,
    clip_gradient,
    exp,
    log,
    maximum,
    mean,
    minimum,
    normalize,
    relu,
    sigmoid,
    tanh,
    where,
)
from recur.cells.clipped import ClippedGradient
from recur.cells.coupled import CoupledLSTM
from recur.cells.elman import Elman
from recur.cells.fastgrnn import FastGRNN
from recur.cells.gru import GRU
from recur.cells.hgru import HGRU
from recur.cells.indrnn import IndRNN
from recur.cells.layernorm import LayerNormElman, LayerNormGRU, LayerNormLSTM
from recur.cells.lstm import LSTM, LSTMP, Adder, AdderInput, AdderInputForget, PeepholeLSTM
from recur.cells.mgu import MinimalGated
from recur.cells.minimal import MinGRU, MinLSTM
from recur.cells.slstm import SLSTM
from recur.cells.ugrnn import UGRNN
from recur.cells.zoneout import Zoneout
from recur.errors import InputError, nearest

# what --cell and recur.layers.make know by name
CELLS: dict[str, Callable[[], Cell]] = {
    "rnn": Elman,
    "rnn-relu": lambda: Elman("relu"),
    "rnn-sigmoid": lambda: Elman("sigmoid"),
    "rnn-layernorm": LayerNormElman,
    "lstm": LSTM,
    "lstm-peephole": PeepholeLSTM,
    "lstm-coupled": CoupledLSTM,
    "lstm-layernorm": LayerNormLSTM,
    "slstm": SLSTM,
    "gru": GRU,
    "gru-before": lambda: GRU(reset="before", z="new"),
    "gru-layernorm": LayerNormGRU,
    "mgu": MinimalGated,
    "ugrnn": UGRNN,
    "fastgrnn": FastGRNN,
    "indrnn": IndRNN,
    "hgru": HGRU,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
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
    "HGRU",
    "LSTM",
    "LSTMP",
    "SLSTM",
    "UGRNN",
    "Adder",
    "AdderInput",
    "AdderInputForget",
    "Cell",
    "ClippedGradient",
    "CoupledLSTM",
    "Elman",
    "FastGRNN",
    "IndRNN",
    "LayerNormElman",
    "LayerNormGRU",
    "LayerNormLSTM",
    "MinGRU",
    "MinLSTM",
    "MinimalGated",
    "PeepholeLSTM",
    "State",
    "Zoneout",
    "cell_named",
    "clip_gradient",
    "exp",
    "log",
    "maximum",
    "mean",
    "minimum",
    "normalize",
    "relu",
    "sigmoid",
    "tanh",
    "where",
]
