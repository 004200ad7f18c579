"""The simple recurrent network: one state, one gate, any activation."""

from collections.abc import Callable

from torch import Tensor

from recur.cells.cell import Cell, Gates, Products, State, relu, sigmoid, tanh
from recur.errors import InputError, nearest

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid}


class Elman(Cell):
    r"""Simple recurrent network, Elman 1990, "Finding structure in time", Cognitive Science 14, 179-211.

    .. math:: h_t = \phi(W x_t + b + U h_{t-1})

    Shapes: x_t [B, D], h [B, H], W [H, D], U [H, H], b [H]. The state h is Elman's context units.

    Args:
        nonlinearity: φ: "tanh", "relu", "sigmoid", or a function of a tensor, elementwise.
    """

    gates = "a"

    def __init__(self, nonlinearity: str | Callable[[Tensor], Tensor] = "tanh") -> None:
        if isinstance(nonlinearity, str) and nonlinearity not in ACTIVATIONS:
            raise InputError(
                f"`nonlinearity` must be one of {', '.join(ACTIVATIONS)} or a function, found {nonlinearity!r}"
                + nearest(nonlinearity, list(ACTIVATIONS))
            )
        self.nonlinearity = nonlinearity
        self.kernel = {"tanh": "rnn_tanh", "relu": "rnn_relu"}.get(str(nonlinearity))

    def step(self, x: Gates, U: Products, s: State) -> State:
        """Return h_t."""
        activation = ACTIVATIONS[self.nonlinearity] if isinstance(self.nonlinearity, str) else self.nonlinearity
        return State(h=activation(x.a + U.a(s.h)))
