"""The LSTM whose forget gate is what the input gate leaves."""

from recur.cells.cell import Cell, Gates, Products, State, sigmoid, tanh


class CoupledLSTM(Cell):
    r"""LSTM with coupled input and forget gate (CIFG), Greff et al. 2017, arXiv:1503.04069, section 3.

    .. math::
        f_t &= \sigma(W_f x_t + b_f + U_f h_{t-1}) \\
        g_t &= \tanh(W_g x_t + b_g + U_g h_{t-1}) \\
        o_t &= \sigma(W_o x_t + b_o + U_o h_{t-1}) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Shapes: h and c [B, H]; each W [H, D], U [H, H], b [H]. c stays in [-1, 1] if it starts there.
    """

    gates = "f g o"
    state = "h c"
    keep = "f"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t and c_t."""
        f = sigmoid(x.f + U.f(s.h))
        g = tanh(x.g + U.g(s.h))
        o = sigmoid(x.o + U.o(s.h))
        c = f * s.c + (1 - f) * g
        return State(h=o * tanh(c), c=c)
