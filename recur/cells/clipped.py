"""Gradient clipping at every step back in time, around any cell."""

import math
from collections.abc import Mapping

from recur.cells.cell import Cell, Gates, Products, Projection, State, Units, clip_gradient, stand_for
from recur.errors import InputError


class ClippedGradient(Cell):
    r"""Any cell whose gradient is clipped at every step on its way back in time, after Graves 2013, arXiv:1308.0850,
    section 2.1.

    .. math::
        s_t = \mathrm{cell}(x_t, s_{t-1}), \qquad
        \frac{\partial L}{\partial s_{t-1}} = g_{t-1} + \min\Big(b,\, \max\Big(-b,\,
            \Big(\frac{\partial s_t}{\partial s_{t-1}}\Big)^{\!\top} \frac{\partial L}{\partial s_t}\Big)\Big)

    g_{t-1} is what the loss says of s_{t-1} by other ways than the steps after it. The outputs are the cell's own. What
    is carried back can no longer explode, whatever the length; unlike clipping of the whole gradient, which is scaled
    once at the end, a step at which it would explode does not drown the others. Graves clips where the activations are
    applied, which an equation can do with `recur.clip_gradient`. The result is the gradient of no function: it does not
    agree with differences where something is clipped, and is not differentiated again.

    Shapes: as the cell; s is all of its states.

    Args:
        cell: the cell, or a class of one.
        bound: b, the largest absolute value of a number of the gradient that is carried back. Gradients shrink with the
            size of a batch if the loss is a mean over it.

    Raises:
        InputError: `bound` is no positive number.

    >>> layer = Recurrent(ClippedGradient(CELLS["rnn"](), bound=1.0), input_size=4, hidden_size=8)
    >>> layer(torch.randn(5, 2, 4)).output.shape
    torch.Size([5, 2, 8])
    """

    gates = ""

    def __init__(self, cell: Cell | type[Cell], bound: float) -> None:
        if not isinstance(bound, int | float) or not 0 < bound < math.inf:
            raise InputError(f"`bound` must be a number above 0, got {bound!r}")
        self.cell, self.bound = stand_for(self, cell), float(bound)

    @property
    def mask_rates(self) -> Mapping[str, float]:
        """The probability of 1 of each mask of the cell, by name."""
        return self.cell.mask_rates

    def step(self, x: Gates, U: Products, s: State, p: Units, P: Projection | None, m: Units) -> State:
        """Return the cell's states after one step."""
        return self.cell.advance(x, U, s.map(lambda value: clip_gradient(value, self.bound)), p, P, m)

    def __repr__(self) -> str:
        return f"ClippedGradient({self.cell!r}, bound={self.bound})"
