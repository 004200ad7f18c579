"""The run folder: made without destroying anything, written file by file as a whole, read with errors that say which.

It holds config.json, model.safetensors, metrics.jsonl, metrics.json, report.html and trainer.ckpt, and can be moved.
"""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from recur.errors import InputError, RunError
from recur.files import write_atomic, write_json

FILES = {"config.json", "model.safetensors", "metrics.jsonl", "metrics.json", "report.html", "trainer.ckpt"}


def check_free(folder: Path, *, overwrite: bool) -> None:
    """See that a run can be made in `folder`, before any work is done.

    Raises:
        RunError: there is something already: a run without `overwrite`, or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; give another folder with --out")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "config.json").is_file():
            raise RunError(f"{folder} holds other files than those of a run; give another folder with --out")
        if not overwrite:
            raise RunError(
                f"{folder} holds a run already; carry it on with --resume, replace it with --overwrite, "
                "or give another folder with --out"
            )
        read_config(folder)


def create_run(folder: Path, *, overwrite: bool) -> None:
    """Make an empty run folder.

    Args:
        folder: made with its parents.
        overwrite: delete the files of a run that is there, and nothing else.

    Raises:
        RunError: as `check_free`, or the folder cannot be made.
    """
    check_free(folder, overwrite=overwrite)
    if (folder / "config.json").is_file():
        _delete_run(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} could not be made: {error.strerror}; give another folder with --out") from error


def _delete_run(folder: Path) -> None:
    members = [folder / name for name in read_config(folder).get("members", [])]
    for part in filter(Path.is_dir, [*members, folder]):
        clear_leftovers(part)
        for name in FILES:
            (part / name).unlink(missing_ok=True)
        if part != folder and not any(part.iterdir()):
            part.rmdir()


def clear_leftovers(folder: Path) -> None:
    """Delete the half-written files that a killed process left."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


def versions() -> dict[str, str]:
    """Return the versions that a run was made with."""
    return {
        "recur": version("recur"),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write config.json."""
    write_json(folder / "config.json", {"recur": "run"} | config)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        RunError: `folder` is not a run folder, or the file is damaged.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise RunError(f"{folder} is not a run folder: there is no such folder")
    if not path.is_file():
        raise RunError(f"{folder} is not a run folder: it has no config.json")
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("recur") != "run":
        raise RunError(f"{path} is not that of a run")
    return config


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read metrics.json.

    Raises:
        RunError: it is missing (the run is not finished) or damaged.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise RunError(f"{folder} is not finished: it has no metrics.json; carry it on with --resume")
    metrics: dict[str, Any] = _read_json(path)
    return metrics


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def save_model(folder: Path, model: nn.Module) -> None:
    """Write model.safetensors: tensors and nothing else."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}

    def write(beside: Path) -> None:
        try:
            save_file(state, beside)
        except SafetensorError as error:
            raise OSError(None, str(error)) from error
        # safetensors makes its files readable by their owner only, unlike all others in the folder
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)

    write_atomic(folder / "model.safetensors", write)


def load_model(folder: Path, model: nn.Module) -> None:
    """Read model.safetensors into a model of the same shape.

    Raises:
        RunError: the file is missing, damaged, not safetensors, or of another network.
    """
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run is not finished; carry it on with --resume") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or not a safetensors file: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the network in config.json: {' '.join(str(error).split())}") from error


def check_same_data(name: str, stored: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse to carry a run on with another file than it was started with.

    Raises:
        InputError: the fingerprints differ in more than the file's name.
    """
    if stored.get("sha256") != found.get("sha256"):
        raise InputError(
            f"--{name} must be the file that the run was started with ({stored.get('file')}, {stored.get('bytes')} "
            f"bytes), got another ({found.get('file')}, {found.get('bytes')} bytes)"
        )
