"""FastGRNN: a gate and a candidate that share their matrices."""

from recur.cells.cell import Cell, Gates, Products, State, Units, sigmoid, tanh


class FastGRNN(Cell):
    r"""Fast gated recurrent network, Kusupati et al. 2018, arXiv:1901.02358, section 3.2.

    .. math::
        z_t &= \sigma(W x_t + U h_{t-1} + b_z) \\
        n_t &= \tanh(W x_t + U h_{t-1} + b_n) \\
        h_t &= (\sigma(\zeta) (1 - z_t) + \sigma(\nu)) \odot n_t + z_t \odot h_{t-1}

    The paper's scalars ζ and ν, kept in (0, 1) by σ, are one for each unit here. Shapes: h [B, H]; W [H, D], U [H, H];
    b_z, b_n, ζ, ν [H]. The layer's bias, if it has one, adds to both b_z and b_n.
    """

    gates = "a"
    units = "z n zeta nu"
    starts = {"z": 1.0, "n": 1.0, "zeta": 1.0, "nu": -4.0}  # noqa: RUF012 - read only, as in the authors' code

    @staticmethod
    def step(x: Gates, U: Products, s: State, p: Units) -> State:
        """Return h_t."""
        a = x.a + U.a(s.h)
        z = sigmoid(a + p.z)
        n = tanh(a + p.n)
        return State(h=(sigmoid(p.zeta) * (1 - z) + sigmoid(p.nu)) * n + z * s.h)
