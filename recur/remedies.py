"""What helps a recurrent network to learn to remember, as options of any model and task, and the layer that has it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from recur.errors import InputError, nearest

if TYPE_CHECKING:
    from recur.layers import GRU, LSTM, RNN, Recurrent

# cells and layers are imported inside the methods: the command line reads the options and has no use for torch

Initialisation = Literal["default", "orthogonal", "identity"]


@dataclass(frozen=True, kw_only=True)
class Remedies:
    """Options of a model's recurrent layers, and of what trains it."""

    initialisation: Initialisation = "default"
    """Start of the recurrent matrices: torch's; orthogonal, gate by gate; identity, with biases 0, for rnn-relu."""
    forget_bias: float | None = None
    """Bias that the gate which keeps the state starts at, in cells that have one; none for torch's start."""
    chrono: int = 0
    """Longest lag, in tokens, that the biases of the cell's gates start out for; 0 for torch's start."""
    chrono_inputs: bool = False
    """With --chrono, start the gate that writes out for the lag as well, as the paper does."""
    residual: bool = False
    """Have each recurrent layer but the first add its input to its outputs."""
    recurrent_dropout: float = 0.0
    """Share of the hidden-to-hidden weights zeroed in training."""
    zoneout: float = 0.0
    """Probability that a unit keeps its old state at a step, in training."""
    clip_step: float | None = None
    """Bring each entry of the gradient that is carried back in time into [-x, x] at every step."""

    def check_remedies(self, layers: int, named: Callable[[str], str] = str) -> None:
        """Raise InputError for a value out of its range, or two that exclude each other.

        Args:
            layers: how many recurrent layers there are.
            named: how an option is called in errors.
        """

        def require(name: str, holds: bool, expected: str) -> None:
            if not holds:
                raise InputError(f"{named(name)} must be {expected}, got {getattr(self, name)!r}")

        starts, start = get_args(Initialisation), self.initialisation
        if start not in starts:
            hint = nearest(str(start), list(starts))
            raise InputError(f"{named('initialisation')} must be one of {', '.join(starts)}, got {start!r}{hint}")
        chrono = isinstance(self.chrono, int) and (self.chrono == 0 or self.chrono >= 2)
        require("chrono", chrono, "0, or a whole number from 2 up")
        require("forget_bias", self.forget_bias is None or math.isfinite(self.forget_bias), "a finite number")
        require("clip_step", self.clip_step is None or 0 < self.clip_step < math.inf, "greater than 0")
        require("recurrent_dropout", 0 <= self.recurrent_dropout < 1, "from 0 up to, not including, 1")
        require("zoneout", 0 <= self.zoneout < 1, "from 0 up to, not including, 1")
        if self.chrono and self.forget_bias is not None:
            both = f"{named('chrono')} and {named('forget_bias')}"
            raise InputError(f"{both} start the same bias and must not be given together; leave one out")
        if self.chrono_inputs and not self.chrono:
            raise InputError(f"{named('chrono_inputs')} needs {named('chrono')}, the lag; leave it out")
        if self.residual and layers < 2:
            raise InputError(f"{named('residual')} needs {named('layers')} 2 or more, got {layers}")

    def check_cells(self, cells: Sequence[str], named: Callable[[str], str] = str) -> None:
        """Raise InputError for an option that none of the cells, by their names in CELLS, has a use for."""
        from recur.cells import CELLS

        known = [CELLS[name]() for name in cells if name in CELLS]
        keeping, recurrent = any(cell.keep for cell in known), any(cell.recurrent_names for cell in known)
        gate, matrices = "a gate that keeps the state", "recurrent matrices"
        for name, given, there, what in (
            ("forget_bias", self.forget_bias is not None, keeping, gate),
            ("initialisation", self.initialisation != "default", recurrent, matrices),
            ("recurrent_dropout", self.recurrent_dropout > 0, recurrent, matrices),
        ):
            if known and given and not there:
                raise InputError(f"{named(name)} needs a cell with {what}, got {', '.join(cells)}; leave it out")

    def check_no_cell(self, name: str, named: Callable[[str], str] = str) -> None:
        """Raise InputError for an option that a layer without a cell, as `ttt` is, has no use for.

        Args:
            name: of the layer.
            named: how an option is called in errors.
        """
        for option in fields(Remedies):
            if option.name != "residual" and getattr(self, option.name) != option.default:
                raise InputError(f"{named(option.name)} needs a cell of `recur.cells`, got {name}; leave it out")

    def layer(
        self, cell: str, input_size: int, hidden_size: int, layers: int, **options: Any
    ) -> "Recurrent | RNN | LSTM | GRU":
        """Return the recurrent layers with these remedies.

        Args:
            cell: a name in `recur.cells.CELLS`.
            input_size: D.
            hidden_size: H.
            layers: how many.
            **options: bidirectional, dropout, batch_first.

        Raises:
            InputError: no cell has that name.
        """
        from recur.cells import ClippedGradient, Zoneout, cell_named
        from recur.gradients.initialisation import chrono_, forget_bias_, identity_, orthogonal_
        from recur.layers import Recurrent, make

        options |= {"recurrent_dropout": self.recurrent_dropout, "residual": self.residual}
        around = inside = cell_named(cell)
        if self.zoneout:
            around = Zoneout(around, h=self.zoneout, c=self.zoneout)
        if self.clip_step is not None:
            around = ClippedGradient(around, self.clip_step)
        if around is inside:
            layer = make(cell, input_size, hidden_size, layers, **options)
        else:
            # the parameters are those of the cell without
            bias: Any = "two" if cell in ("rnn", "lstm", "gru") else True
            layer = Recurrent(around, input_size, hidden_size, layers, bias=bias, **options)
        if self.initialisation == "orthogonal":
            orthogonal_(layer)
        elif self.initialisation == "identity":
            identity_(layer)
        if self.forget_bias is not None:
            forget_bias_(layer, self.forget_bias)
        if self.chrono:
            chrono_(layer, self.chrono, inputs=self.chrono_inputs)
        return layer
