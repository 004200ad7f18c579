"""The update gate network: the simplest unit with a gate."""

from recur.cells.cell import Cell, Gates, Products, State, sigmoid, tanh


class UGRNN(Cell):
    r"""Update gate recurrent network, Collins et al. 2017, arXiv:1611.09913.

    .. math::
        g_t &= \sigma(W_g x_t + b_g + U_g h_{t-1}) \\
        n_t &= \tanh(W_n x_t + b_n + U_n h_{t-1}) \\
        h_t &= g_t \odot h_{t-1} + (1 - g_t) \odot n_t

    Shapes: h [B, H]; each W [H, D], U [H, H], b [H].
    """

    gates = "g n"
    keep = "g"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        g = sigmoid(x.g + U.g(s.h))
        return State(h=g * s.h + (1 - g) * tanh(x.n + U.n(s.h)))
