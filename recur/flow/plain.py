"""A gradient flow as JSON: what `recur.flow.result` says, as numbers, lists and names."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recur.files import write_json
from recur.flow.flow import GradientFlow


def plain(flow: GradientFlow) -> dict[str, Any]:
    """Return a flow as JSON has it: arrays as lists of six digits, complex numbers as [real, imaginary].

    NaN and infinity, which JSON has not, are None; in a field of logarithms that is -inf, the logarithm of 0.
    """
    return {
        "format": 1,
        "loss": _plain(flow.loss),
        "precision": flow.precision,
        "layers": [_plain(layer) for layer in flow.layers],
        "initial": _plain(flow.initial),
    }


def write_plain(path: str | Path, flow: GradientFlow) -> None:
    """Write a flow as JSON.

    Raises:
        RunError: the file cannot be written.
    """
    write_json(path, plain(flow), indent=None)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        if np.iscomplexobj(value):
            value = np.stack([value.real, value.imag], axis=-1)
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
