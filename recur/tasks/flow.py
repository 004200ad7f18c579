"""`recur flow`: the gradient flow of the networks in finished run folders, on rows they did not learn from."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from recur.data.batches import LengthBatches
from recur.data.tables import fingerprint
from recur.errors import InputError, RunError
from recur.files import write_json
from recur.flow.flow import GradientFlow
from recur.flow.measure import gradient_flow
from recur.flow.page import write_page
from recur.flow.plain import plain
from recur.models.classifier import Classifier, ClassifierConfig
from recur.tasks.checkpoint import random_state, seed_all, set_random_state
from recur.tasks.classify_data import LabelledFile, read_labelled, split
from recur.tasks.classify_model import Trained, read_trained
from recur.tasks.run import make_folder, read_config, read_metrics, versions

LONGEST = 4  # rows whose Jacobians are taken, the longest ones


@dataclass(frozen=True)
class FlowData:
    """What the flow is measured on.

    Args:
        file: table of labelled texts; None for the validation part of the run's training file.
        rows: so many rows, at even distances.
        text, label: columns; those of the training file by default.
    """

    file: Path | None = None
    rows: int = 32
    text: str | None = None
    label: str | None = None


def flows_of(run: str | Path, data: FlowData | None = None) -> dict[str, GradientFlow]:
    """Return the gradient flow of a finished run by the names of its networks, the best seed of each cell.

    The loss is the run's, cross entropy; dropout is off. Where recur and torch are those that the run was trained with,
    the flow knows the eigenvalues of its recurrent matrices at initialisation.

    Args:
        run: folder of a run of `recur train classify`.
        data: which rows.

    Raises:
        RunError: not such a run, not finished, or damaged.
        InputError: a file, column or label that does not fit, or the run's own file is gone or was changed.
    """
    data = data or FlowData()
    if data.rows < 1:
        raise InputError(f"--rows must be at least 1, got {data.rows}")
    return {name: _flow(read_trained(folder), data) for name, folder in _networks(Path(run)).items()}


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
    if config.get("task") != "classify":
        raise RunError(f"{folder} must be a run of recur train classify, got one of {config.get('task')!r}")
    metrics = read_metrics(folder)
    members = config.get("members")
    if not members:
        return {f"{metrics['cell']}-{metrics['seed']}": folder}
    best: dict[str, str] = {}
    found = metrics.get("members", {})
    for name in members:
        cell = name.rpartition("-")[0]
        if cell not in best or _rank(found, name) > _rank(found, best[cell]):
            best[cell] = name
    return {name: folder / name for name in best.values()}


def _rank(members: dict[str, Any], name: str) -> tuple[float, float]:
    validation = members[name]["validation"]
    return validation["accuracy"], -validation["loss"]


def _flow(trained: Trained, data: FlowData) -> GradientFlow:
    options = trained.config.get("options", {})
    file = _file(trained, data)
    part, _ = read_labelled(file, trained.encoder, trained.labels)
    if not len(part.labels):
        raise InputError(f"{file.path} must have at least one row, got none")
    (batch,) = LengthBatches(part.sequences, part.labels, len(part.labels), seed=0, shuffle=False)
    lengths = batch.lengths.tolist()
    if max(lengths) < 2:
        raise InputError(
            f"{file.path}: the {len(lengths)} texts looked at must have one of at least 2 tokens, for a gradient to "
            f"flow through; the longest has {max(lengths)}"
        )
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    rows = [row for row in order[:LONGEST] if lengths[row] >= 2]
    inputs = (batch.tokens, batch.lengths)
    flow = gradient_flow(trained.model, inputs, lambda scores: F.cross_entropy(scores, batch.labels), rows=rows)
    return GradientFlow(flow.layers, flow.loss, flow.precision, _initial(trained, options))


def _file(trained: Trained, data: FlowData) -> LabelledFile:
    """Return the rows to look at, at even distances through the file or the validation part."""
    options = trained.config.get("options", {})
    columns = (data.text or str(options.get("text", "text")), data.label or str(options.get("label", "label")))
    if data.file is not None:
        file = LabelledFile(str(data.file), *columns)
        rows = np.arange(sum(1 for _ in file))
    else:
        path = str(options.get("train", ""))
        known = trained.config.get("data", {}).get("train", {})
        if not Path(path).is_file() or fingerprint(path)["sha256"] != known.get("sha256"):
            raise InputError(
                f"the run's training file, {path}, is not there, or was changed; give rows with --data FILE"
            )
        file = LabelledFile(path, *columns, bool(options.get("skip_bad_rows")))
        numbers = {label: number for number, label in enumerate(trained.labels)}
        labels = np.array([numbers[label] for _, label in file], dtype=np.int64)
        _, rows, _ = split(labels, options["validation"], 0.0 if options.get("test") else options["test_share"])
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(data.rows, len(rows))).astype(np.int64)) if len(rows) else rows
    return dataclasses.replace(file, rows=rows[chosen])


def _initial(trained: Trained, options: dict[str, Any]) -> dict[str, dict[str, NDArray[np.complex128]]]:
    """Return the eigenvalues of the recurrent matrices before training, by drawing the weights anew; {} if unknown."""
    then, now = trained.config.get("versions", {}), versions()
    if any(then.get(name) != now[name] for name in ("recur", "torch")):
        return {}
    config = ClassifierConfig(**trained.config["network"])
    matrix = torch.zeros(config.vocabulary_size, config.embedding_size) if options.get("vectors") else None
    state = random_state()
    try:
        seed_all(int(trained.config["seed"]))
        model = Classifier(config, matrix=matrix)
    finally:
        set_random_state(state)
    return {name: dict(matrices) for name, matrices in _eigenvalues(model)}


def _eigenvalues(model: Classifier) -> Iterator[tuple[str, dict[str, NDArray[np.complex128]]]]:
    names = model.recurrent.cell.recurrent_names
    for number, directions in enumerate(model.recurrent.weights()):
        for weights, suffix in zip(directions, ("", "_reverse"), strict=False):
            blocks = () if weights.hh is None else weights.hh.detach().double().chunk(len(names))
            values = {name: np.linalg.eigvals(block.numpy()) for name, block in zip(names, blocks, strict=False)}
            yield f"recurrent.l{number}{suffix}", values
