"""sLSTM: exponential gates, kept in range by a running maximum."""

from recur.cells.cell import Cell, Gates, Products, State, exp, log, maximum, minimum, sigmoid, tanh


class SLSTM(Cell):
    r"""Scalar LSTM of xLSTM, Beck et al. 2024, arXiv:2405.04517, eq. 8-17, one head.

    .. math::
        z_t &= \tanh(W_z x_t + b_z + U_z h_{t-1}), \quad o_t = \sigma(W_o x_t + b_o + U_o h_{t-1}) \\
        \tilde\imath_t &= W_i x_t + b_i + U_i h_{t-1}, \quad
            \tilde f_t = \log \sigma(W_f x_t + b_f + U_f h_{t-1}) \\
        m_t &= \max(\tilde f_t + m_{t-1},\, \tilde\imath_t) \\
        i_t &= \exp(\tilde\imath_t - m_t), \quad f_t = \exp(\tilde f_t + m_{t-1} - m_t) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot z_t, \quad n_t = f_t \odot n_{t-1} + i_t \\
        h_t &= o_t \odot c_t / n_t

    m only keeps the exponentials in range: c / n does not depend on it. Shapes: h, c, n, m [B, H]; each W [H, D],
    U [H, H], b [H]. h lies in [-1, 1].
    """

    gates = "i f z o"
    state = "h c n m"
    keep = "f"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t, c_t, n_t and m_t."""
        z = tanh(x.z + U.z(s.h))
        o = sigmoid(x.o + U.o(s.h))
        i = x.i + U.i(s.h)
        a = x.f + U.f(s.h)
        # log σ(a), without overflow on either side
        f = minimum(a, 0) - log(1 + exp(-abs(a)))
        m = maximum(f + s.m, i)
        i = exp(i - m)
        f = exp(f + s.m - m)
        c = f * s.c + i * z
        n = f * s.n + i
        # n is 0 only where i has underflowed in every step so far, and then c is 0 too
        return State(h=o * c / maximum(n, 1e-30), c=c, n=n, m=m)
