"""HGRU: a linear recurrence whose state turns at every step, as fast as each unit learns to."""

from recur.cells.cell import Cell, Gates, State, Units, sigmoid


class HGRU(Cell):
    r"""The recurrence of HGRN, Qin et al. 2023, arXiv:2311.04823, section 3, with complex states :math:`c + iq`.

    .. math::
        f_t &= \sigma(W_f x_t + b_f), \quad o_t = \sigma(W_o x_t + b_o) \\
        c_t + i q_t &= f_t \odot e^{i\theta} \odot (c_{t-1} + i q_{t-1})
            + (1 - f_t) \odot (\mathrm{SiLU}(W_a x_t + b_a) + i\, \mathrm{SiLU}(W_b x_t + b_b)) \\
        h_t &= o_t \odot c_t

    The gates see the input alone; the angle :math:`\theta` of a unit is that of its parameters (u, v). What a unit
    has seen comes round again after :math:`2 \pi / \theta` steps, so that a few of them tell lags apart. Without the
    lower bounds of the forget gates, and with the real part alone read: theirs reads both and maps them back.

    Shapes: h, c and q [B, H]; each W [H, D], b, u and v [H]. No recurrent matrix.
    """

    gates = "f a b o"
    recurrent = ""
    state = "h c q"
    units = "u v"
    # v is drawn around 0, so that most units turn slowly
    starts = {"u": 0.25}  # noqa: RUF012 - read only
    keep = "f"

    @staticmethod
    def step(x: Gates, s: State, p: Units) -> State:
        """Return h_t, c_t and q_t."""
        f = sigmoid(x.f)
        norm = (p.u * p.u + p.v * p.v) ** -0.5
        cosine, sine = p.u * norm, p.v * norm
        c = f * (cosine * s.c - sine * s.q) + (1 - f) * x.a * sigmoid(x.a)
        q = f * (sine * s.c + cosine * s.q) + (1 - f) * x.b * sigmoid(x.b)
        return State(h=sigmoid(x.o) * c, c=c, q=q)
