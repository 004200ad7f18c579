"""`GradientFlow`: the flows of all recurrent layers of a module."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recur.errors import InputError
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

    def save(
        self, path: str | Path, also: "Mapping[str, GradientFlow] | None" = None, *, name: str | None = None
    ) -> None:
        """Write the flow as one HTML page that opens offline, or, where `path` ends in .json, as JSON.

        Args:
            path: the file, replaced if it is there.
            also: other flows to lay over it in the page, by name.
            name: what the page calls this one; the name of its first cell by default.

        Raises:
            InputError: two flows of one name, or `also` with a .json file.
            RunError: the file cannot be written.
        """
        from recur.flow.page import write_page
        from recur.flow.plain import write_plain

        own, others = name or self.layers[0].cell, dict(also or {})
        if Path(path).suffix == ".json":
            if others:
                raise InputError("`also` goes with a page, got a .json file; save each flow to one of its own")
            write_plain(path, self)
            return
        if own in others:
            raise InputError(f"`also` must have other names than {own!r}, which is this flow's; give it another name=")
        write_page(path, {own: self} | others)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it: NaN and infinity are null, complex numbers [real, imaginary]."""
        from recur.flow.plain import plain

        return plain(self)

    def summary(self) -> str:
        """Return it in plain words: each layer's verdict and gates, then what to do about it."""
        from recur.flow.words import summary

        return summary(self)

    def __repr__(self) -> str:
        return f"GradientFlow({', '.join(f'{layer.name}: {layer.verdict}' for layer in self.layers)})"

    def __iter__(self) -> Iterator[LayerFlow]:
        return iter(self.layers)
