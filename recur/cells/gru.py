"""The gated recurrent unit in its four conventions."""

from typing import Literal

from recur.cells.cell import Cell, Gates, Products, State, sigmoid, tanh
from recur.errors import InputError


class GRU(Cell):
    r"""Gated recurrent unit, Cho et al. 2014, arXiv:1406.1078; "after" is arXiv:1406.1078v1 as cuDNN and torch have it.

    .. math::
        r_t &= \sigma(W_r x_t + b_r + U_r h_{t-1}) \\
        z_t &= \sigma(W_z x_t + b_z + U_z h_{t-1}) \\
        n_t &= \tanh(W_n x_t + b_n + r_t \odot (U_n h_{t-1})) &&\text{reset = "after"} \\
        n_t &= \tanh(W_n x_t + b_n + U_n (r_t \odot h_{t-1})) &&\text{reset = "before"} \\
        h_t &= z_t \odot h_{t-1} + (1 - z_t) \odot n_t &&\text{z = "old"} \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot n_t &&\text{z = "new"}

    Shapes: h [B, H]; each W [H, D], U [H, H], b [H]. The sign of z is a matter of naming: weights convert exactly
    (`recur.convert`). The place of the reset gate is not: no weights of one give the function of the other.

    Args:
        reset: "after" the recurrent product (torch, Keras's default) or "before" it (Cho et al. eq. 8, Haiku).
        z: what z is the share of: the "old" state (torch, Keras) or the "new" candidate (Chung et al. 2014).
    """

    gates = "r z n"

    def __init__(self, reset: Literal["after", "before"] = "after", z: Literal["old", "new"] = "old") -> None:
        if reset not in ("after", "before"):
            raise InputError(f"`reset` must be 'after' or 'before', found {reset!r}")
        if z not in ("old", "new"):
            raise InputError(f"`z` must be 'old' or 'new', found {z!r}")
        self.reset, self.z = reset, z
        self.keep = "z" if z == "old" else "-z"
        self.kernel = "gru" if (reset, z) == ("after", "old") else None

    def step(self, x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        r = sigmoid(x.r + U.r(s.h))
        z = sigmoid(x.z + U.z(s.h))
        n = tanh(x.n + r * U.n(s.h)) if self.reset == "after" else tanh(x.n + U.n(r * s.h))
        old = z if self.z == "old" else 1 - z
        return State(h=old * s.h + (1 - old) * n)
