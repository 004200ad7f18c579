"""`recur flow`: the gradient flow of the networks in finished run folders, on rows they did not learn from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from recur.errors import InputError
from recur.files import write_json
from recur.flow.capture import LAYERS, find_layers
from recur.flow.flow import GradientFlow
from recur.flow.measure import gradient_flow
from recur.flow.page import write_page
from recur.flow.plain import plain
from recur.tasks.checkpoint import random_state, seed_all, set_random_state
from recur.tasks.job import Predictor
from recur.tasks.predictor import load
from recur.tasks.registry import entry_of
from recur.tasks.run import make_folder, read_config, read_metrics, versions


@dataclass(frozen=True)
class FlowData:
    """What the flow is measured on.

    Args:
        file: of the kind that the run was trained on; None for the validation part of the run's training file.
        rows: so many rows, at even distances.
        columns: how the file is read, where it differs from the training file, by name.
    """

    file: Path | None = None
    rows: int = 32
    columns: dict[str, Any] = field(default_factory=dict)


def flows_of(run: str | Path, data: FlowData | None = None) -> dict[str, GradientFlow]:
    """Return the gradient flow of a finished run by the names of its networks, the best seed of each cell.

    The loss is the run's; dropout is off. Where recur and torch are those that the run was trained with, the flow knows
    the eigenvalues of its recurrent matrices at initialisation.

    Args:
        run: run folder.
        data: which rows.

    Raises:
        RunError: not a run, not finished, or damaged.
        InputError: a file or column that does not fit, or the run's own file is gone or was changed.
    """
    data = data or FlowData()
    if data.rows < 1:
        raise InputError(f"--rows must be at least 1, got {data.rows}")
    return {name: _flow(load(folder), data) for name, folder in _networks(Path(run)).items()}


def write_flows(folder: Path, flows: dict[str, GradientFlow], title: str) -> None:
    """Write flow.html, all flows over each other, and flow.json, `{"flows": {name: ...}}`, into a folder.

    Raises:
        RunError: they cannot be written.
    """
    make_folder(folder)
    write_page(folder / "flow.html", flows, title)
    write_json(folder / "flow.json", {"flows": {name: plain(flow) for name, flow in flows.items()}}, indent=None)


def _networks(folder: Path) -> dict[str, Path]:
    config = read_config(folder)
    metrics = read_metrics(folder)
    members = config.get("members")
    if not members:
        return {f"{metrics['cell']}-{metrics['seed']}": folder}
    best: dict[str, str] = {}
    figure, found = entry_of(config, folder).task.figure_of(metrics["test"]), metrics.get("members", {})

    def rank(name: str) -> tuple[float, float]:
        validation = found[name]["validation"]
        return figure.better(validation[figure.name]), -validation.get("loss", 0.0)

    for name in members:
        cell = name.rpartition("-")[0]
        if cell not in best or rank(name) > rank(best[cell]):
            best[cell] = name
    return {name: folder / name for name in best.values()}


def _flow(predictor: Predictor, data: FlowData) -> GradientFlow:
    inputs, loss, rows = predictor.example(data.file, data.rows, **data.columns)
    flow = gradient_flow(predictor.model, inputs, loss, rows=rows)
    return GradientFlow(flow.layers, flow.loss, flow.precision, _initial(predictor))


def _initial(predictor: Predictor) -> dict[str, dict[str, NDArray[np.complex128]]]:
    """Return the eigenvalues of the recurrent matrices before training, by drawing the weights anew; {} if unknown."""
    config, now = predictor.config, versions()
    if any(config.get("versions", {}).get(name) != now[name] for name in ("recur", "torch")):
        return {}
    state = random_state()
    try:
        seed_all(int(config["seed"]))
        model = entry_of(config, predictor.folder).task.build(config)
    finally:
        set_random_state(state)
    return {name: dict(matrices) for name, matrices in _eigenvalues(model)}


def _eigenvalues(model: nn.Module) -> Iterator[tuple[str, dict[str, NDArray[np.complex128]]]]:
    for layer, path in find_layers(model).items():
        if not isinstance(layer, LAYERS):
            continue
        names = layer.cell.recurrent_names
        for number, directions in enumerate(layer.weights()):
            for weights, suffix in zip(directions, ("", "_reverse"), strict=False):
                blocks = () if weights.hh is None else weights.hh.detach().double().chunk(len(names))
                values = {name: np.linalg.eigvals(block.numpy()) for name, block in zip(names, blocks, strict=False)}
                yield f"{path}.l{number}{suffix}", values
