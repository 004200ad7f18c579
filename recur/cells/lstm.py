"""Long short-term memory: the standard cell, peepholes, projection, and the steps that lead to it."""

from recur.cells.cell import Cell, Gates, Products, Projection, State, Units, sigmoid, tanh


class LSTM(Cell):
    r"""Long short-term memory with forget gate, Gers et al. 2000, Neural Computation 12(10), after Hochreiter &
    Schmidhuber 1997, Neural Computation 9(8); torch's gate order.

    .. math::
        i_t &= \sigma(W_i x_t + b_i + U_i h_{t-1}) \\
        f_t &= \sigma(W_f x_t + b_f + U_f h_{t-1}) \\
        g_t &= \tanh(W_g x_t + b_g + U_g h_{t-1}) \\
        o_t &= \sigma(W_o x_t + b_o + U_o h_{t-1}) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Shapes: h and c [B, H]; each W [H, D], U [H, H], b [H]. h lies in [-1, 1]; c is unbounded.
    """

    gates = "i f g o"
    state = "h c"
    keep = "f"
    write = "i"
    kernel = "lstm"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t and c_t."""
        i = sigmoid(x.i + U.i(s.h))
        f = sigmoid(x.f + U.f(s.h))
        g = tanh(x.g + U.g(s.h))
        o = sigmoid(x.o + U.o(s.h))
        c = f * s.c + i * g
        return State(h=o * tanh(c), c=c)


class LSTMP(Cell):
    r"""LSTM with a projected output, Sak et al. 2014, arXiv:1402.1128 (torch's `proj_size`).

    .. math:: h_t = P (o_t \odot \tanh(c_t)) \quad\text{with gates and}\ c_t\ \text{as in LSTM}

    Shapes: h [B, P], c [B, H]; each U [H, P]; P [P, H].
    """

    gates = "i f g o"
    state = "h c"
    keep = "f"
    write = "i"
    projected = True
    kernel = "lstm"

    @staticmethod
    def step(x: Gates, U: Products, s: State, P: Projection) -> State:
        """Return h_t and c_t."""
        i = sigmoid(x.i + U.i(s.h))
        f = sigmoid(x.f + U.f(s.h))
        g = tanh(x.g + U.g(s.h))
        o = sigmoid(x.o + U.o(s.h))
        c = f * s.c + i * g
        return State(h=P(o * tanh(c)), c=c)


class PeepholeLSTM(Cell):
    r"""LSTM whose gates also see the cell state, Gers & Schmidhuber 2000, "Recurrent nets that time and count".

    .. math::
        i_t &= \sigma(W_i x_t + b_i + U_i h_{t-1} + p_i \odot c_{t-1}) \\
        f_t &= \sigma(W_f x_t + b_f + U_f h_{t-1} + p_f \odot c_{t-1}) \\
        g_t &= \tanh(W_g x_t + b_g + U_g h_{t-1}) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        o_t &= \sigma(W_o x_t + b_o + U_o h_{t-1} + p_o \odot c_t) \\
        h_t &= o_t \odot \tanh(c_t)

    Shapes: as LSTM, and p_i, p_f, p_o [H].
    """

    gates = "i f g o"
    state = "h c"
    keep = "f"
    write = "i"
    units = "i f o"

    @staticmethod
    def step(x: Gates, U: Products, s: State, p: Units) -> State:
        """Return h_t and c_t."""
        i = sigmoid(x.i + U.i(s.h) + p.i * s.c)
        f = sigmoid(x.f + U.f(s.h) + p.f * s.c)
        g = tanh(x.g + U.g(s.h))
        c = f * s.c + i * g
        o = sigmoid(x.o + U.o(s.h) + p.o * c)
        return State(h=o * tanh(c), c=c)


class Adder(Cell):
    r"""First rung of the ladder to the LSTM: a memory that only adds.

    .. math:: h_t = h_{t-1} + \tanh(W_g x_t + b_g + U_g h_{t-1})

    The memory C of the LSTM is its own output here. dh_t/dh_{t-1} contains the identity: with U = 0 nothing fades, and
    nothing is ever forgotten either, so that h may grow without bound. Shapes: h [B, H].
    """

    gates = "g"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        return State(h=s.h + tanh(x.g + U.g(s.h)))


class AdderInput(Cell):
    r"""Second rung: an input gate decides what is written.

    .. math::
        i_t &= \sigma(W_i x_t + b_i + U_i h_{t-1}) \\
        h_t &= h_{t-1} + i_t \odot \tanh(W_g x_t + b_g + U_g h_{t-1})

    Shapes: h [B, H].
    """

    gates = "i g"
    write = "i"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        i = sigmoid(x.i + U.i(s.h))
        return State(h=s.h + i * tanh(x.g + U.g(s.h)))


class AdderInputForget(Cell):
    r"""Third rung: a forget gate decides what is kept. With an output gate and tanh it is the LSTM, the fourth rung.

    .. math::
        i_t &= \sigma(W_i x_t + b_i + U_i h_{t-1}) \\
        f_t &= \sigma(W_f x_t + b_f + U_f h_{t-1}) \\
        h_t &= f_t \odot h_{t-1} + i_t \odot \tanh(W_g x_t + b_g + U_g h_{t-1})

    Shapes: h [B, H].
    """

    gates = "i f g"
    keep = "f"
    write = "i"

    @staticmethod
    def step(x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        i = sigmoid(x.i + U.i(s.h))
        f = sigmoid(x.f + U.f(s.h))
        return State(h=f * s.h + i * tanh(x.g + U.g(s.h)))
