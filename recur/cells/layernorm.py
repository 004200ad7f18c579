"""Elman network, LSTM and GRU with layer normalisation inside the step."""

from recur.cells.cell import Cell, Gates, Products, State, Units, normalize, sigmoid, tanh


class LayerNormElman(Cell):
    r"""Simple recurrent network with layer normalisation, Ba et al. 2016, arXiv:1607.06450, eq. 3 and 4.

    .. math:: h_t = \tanh(\gamma \odot N(W x_t + b + U h_{t-1}) + \beta)

    N brings the H units of a row to mean 0 and variance 1, so that a larger U does not make h larger. Shapes: h [B, H];
    W [H, D], U [H, H]; b, γ, β [H].
    """

    gates = "a"
    units = "gamma beta"
    starts = {"gamma": 1.0, "beta": 0.0}  # noqa: RUF012 - read only

    @staticmethod
    def step(x: Gates, U: Products, s: State, p: Units) -> State:
        """Return h_t."""
        return State(h=tanh(p.gamma * normalize(x.a + U.a(s.h)) + p.beta))


class LayerNormLSTM(Cell):
    r"""LSTM with layer normalisation, Ba et al. 2016, arXiv:1607.06450, eq. 20-22; each gate normalised by itself.

    .. math::
        a_k &= \alpha_k \odot N(W_k x_t + b_k) + \gamma_k \odot N(U_k h_{t-1}) + \beta_k
            \quad\text{for}\ k = i, f, g, o \\
        c_t &= \sigma(a_f) \odot c_{t-1} + \sigma(a_i) \odot \tanh(a_g) \\
        h_t &= \sigma(a_o) \odot \tanh(\alpha_c \odot N(c_t) + \beta_c)

    N brings the H units of a row to mean 0 and variance 1. The paper normalises the four gates' products together;
    by gate, a large one does not drown the others. Shapes: h and c [B, H]; each W [H, D], U [H, H]; b, α, γ, β [H].
    """

    gates = "i f g o"
    state = "h c"
    units = "xi xf xg xo hi hf hg ho bi bf bg bo xc bc"
    # gains start at 1, shifts at 0, that of the forget gate at 1
    starts = {  # noqa: RUF012 - read only
        **dict.fromkeys("xi xf xg xo hi hf hg ho xc bf".split(), 1.0),
        **dict.fromkeys("bi bg bo bc".split(), 0.0),
    }

    @staticmethod
    def step(x: Gates, U: Products, s: State, p: Units) -> State:
        """Return h_t and c_t."""
        i = sigmoid(p.xi * normalize(x.i) + p.hi * normalize(U.i(s.h)) + p.bi)
        f = sigmoid(p.xf * normalize(x.f) + p.hf * normalize(U.f(s.h)) + p.bf)
        g = tanh(p.xg * normalize(x.g) + p.hg * normalize(U.g(s.h)) + p.bg)
        o = sigmoid(p.xo * normalize(x.o) + p.ho * normalize(U.o(s.h)) + p.bo)
        c = f * s.c + i * g
        return State(h=o * tanh(p.xc * normalize(c) + p.bc), c=c)


class LayerNormGRU(Cell):
    r"""GRU with layer normalisation, Ba et al. 2016, arXiv:1607.06450, supplementary material; each gate normalised by
    itself. The reset gate stands after the product, and z is the share of the old state, as torch's.

    .. math::
        a_k &= \alpha_k \odot N(W_k x_t + b_k) + \gamma_k \odot N(U_k h_{t-1}) + \beta_k
            \quad\text{for}\ k = r, z \\
        n_t &= \tanh(\alpha_n \odot N(W_n x_t + b_n) + \beta_n
            + \sigma(a_r) \odot (\gamma_n \odot N(U_n h_{t-1}) + \delta)) \\
        h_t &= \sigma(a_z) \odot h_{t-1} + (1 - \sigma(a_z)) \odot n_t

    N brings the H units of a row to mean 0 and variance 1. Shapes: h [B, H]; each W [H, D], U [H, H];
    b, α, γ, β, δ [H].
    """

    gates = "r z n"
    units = "xr xz xn hr hz hn br bz bn d"
    # gains start at 1, shifts at 0
    starts = {  # noqa: RUF012 - read only
        **dict.fromkeys("xr xz xn hr hz hn".split(), 1.0),
        **dict.fromkeys("br bz bn d".split(), 0.0),
    }

    @staticmethod
    def step(x: Gates, U: Products, s: State, p: Units) -> State:
        """Return h_t."""
        r = sigmoid(p.xr * normalize(x.r) + p.hr * normalize(U.r(s.h)) + p.br)
        z = sigmoid(p.xz * normalize(x.z) + p.hz * normalize(U.z(s.h)) + p.bz)
        n = tanh(p.xn * normalize(x.n) + p.bn + r * (p.hn * normalize(U.n(s.h)) + p.d))
        return State(h=z * s.h + (1 - z) * n)
