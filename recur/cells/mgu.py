"""The minimal gated unit: one gate forgets and resets."""

from recur.cells.cell import Cell, Gates, Products, State, sigmoid, tanh


class MinimalGated(Cell):
    r"""Minimal gated unit, Zhou et al. 2016, arXiv:1603.09420.

    .. math::
        f_t &= \sigma(W_f x_t + b_f + U_f h_{t-1}) \\
        n_t &= \tanh(W_n x_t + b_n + U_n (f_t \odot h_{t-1})) \\
        h_t &= (1 - f_t) \odot h_{t-1} + f_t \odot n_t

    Shapes: h [B, H]; each W [H, D], U [H, H], b [H].
    """

    gates = "f n"
    keep = "-f"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        f = sigmoid(x.f + U.f(s.h))
        return State(h=(1 - f) * s.h + f * tanh(x.n + U.n(f * s.h)))
