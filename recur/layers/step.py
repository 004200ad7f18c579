"""One step at a time: the cell modules that stand in for torch.nn's, and one for any cell."""

from typing import ClassVar

from torch import nn

from recur.cells import GRU as GRUEquation
from recur.cells import LSTM as LSTMEquation
from recur.cells import Elman
from recur.cells.cell import Cell


class RNNCell(nn.RNNCell):
    """One step of an Elman network, in place of `torch.nn.RNNCell`: x [B, D], h [B, H] -> h [B, H]."""

    __jit_unused_properties__: ClassVar[list[str]] = ["cell"]  # torch.jit.script leaves it out

    @property
    def cell(self) -> Cell:
        """The equation of this step."""
        return Elman(self.nonlinearity)


class LSTMCell(nn.LSTMCell):
    """One step of an LSTM, in place of `torch.nn.LSTMCell`: x [B, D], (h, c) [B, H] -> (h, c) [B, H]."""

    __jit_unused_properties__: ClassVar[list[str]] = ["cell"]  # torch.jit.script leaves it out

    @property
    def cell(self) -> Cell:
        """The equation of this step."""
        return LSTMEquation()


class GRUCell(nn.GRUCell):
    """One step of a GRU, in place of `torch.nn.GRUCell`: x [B, D], h [B, H] -> h [B, H]."""

    __jit_unused_properties__: ClassVar[list[str]] = ["cell"]  # torch.jit.script leaves it out

    @property
    def cell(self) -> Cell:
        """The equation of this step."""
        return GRUEquation()
