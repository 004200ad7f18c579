"""IndRNN: every unit remembers only itself."""

from recur.cells.cell import Cell, Gates, State, Units, relu


class IndRNN(Cell):
    r"""Independently recurrent network, Li et al. 2018, arXiv:1803.04831, eq. 2.

    .. math:: h_t = \max(0,\, W x_t + b + u \odot h_{t-1})

    The recurrent matrix is diagonal, so the gradient of unit k through T steps is at most u_k to the power T: it can be
    kept in bounds unit by unit. Shapes: h [B, H]; W [H, D], b and u [H].
    """

    gates = "a"
    recurrent = ""
    units = "u"
    starts = {"u": 1.0}  # noqa: RUF012 - read only

    @staticmethod
    def step(x: Gates, s: State, p: Units) -> State:
        """Return h_t."""
        return State(h=relu(x.a + p.u * s.h))
