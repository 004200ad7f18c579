"""`GradientFlow`: the flows of all recurrent layers of a module."""

from collections.abc import Iterator, Mapping
from typing import Any

from recur.flow.result import LayerFlow


class GradientFlow:
    """The gradient flow of a module: `flow.layers`, and the first layer's fields as its own, `flow.hidden_gradient`.

    Args:
        layers: one for each recurrent layer and direction, in the order in which they are called.
        loss: the loss that was differentiated.
        precision: the type computed in, "float32" or "float64".
        initial: the flow of the same module before it was trained, where that is known, by layer name: eigenvalues of
            the recurrent matrices by gate.
    """

    def __init__(
        self,
        layers: tuple[LayerFlow, ...],
        loss: float,
        precision: str,
        initial: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.layers, self.loss, self.precision, self.initial = layers, loss, precision, initial or {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "layers":
            raise AttributeError(name)
        return getattr(self.layers[0], name)

    def __iter__(self) -> Iterator[LayerFlow]:
        return iter(self.layers)
