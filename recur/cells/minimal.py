"""minGRU and minLSTM: gates that see the input alone, so that a sequence is a linear recurrence.

With `Recurrent(..., backend="parallel")` all steps are run at once, in log2 T passes: for training on devices where a
loop over time is slow.
"""

from recur.cells.cell import Cell, Gates, State, sigmoid


class MinGRU(Cell):
    r"""Minimal GRU, Feng et al. 2024, arXiv:2410.01201, section 3.1.

    .. math::
        z_t &= \sigma(W_z x_t + b_z) \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot (W_n x_t + b_n)

    Shapes: h [B, H]; each W [H, D], b [H]. No recurrent matrix.
    """

    gates = "z n"
    recurrent = ""
    keep = "-z"

    @staticmethod
    def step(x: Gates, s: State) -> State:
        """Return h_t."""
        z = sigmoid(x.z)
        return State(h=(1 - z) * s.h + z * x.n)


class MinLSTM(Cell):
    r"""Minimal LSTM, Feng et al. 2024, arXiv:2410.01201, section 3.2.

    .. math::
        f_t &= \sigma(W_f x_t + b_f), \quad i_t = \sigma(W_i x_t + b_i) \\
        h_t &= \frac{f_t}{f_t + i_t} \odot h_{t-1} + \frac{i_t}{f_t + i_t} \odot (W_n x_t + b_n)

    Shapes: h [B, H]; each W [H, D], b [H]. No recurrent matrix.
    """

    gates = "f i n"
    recurrent = ""

    @staticmethod
    def step(x: Gates, s: State) -> State:
        """Return h_t."""
        f = sigmoid(x.f)
        i = sigmoid(x.i)
        return State(h=(f * s.h + i * x.n) / (f + i))
