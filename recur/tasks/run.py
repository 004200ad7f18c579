"""The run folder: made without destroying anything, written file by file as a whole, read with errors that say which.

It holds config.json, model.safetensors, metrics.jsonl, metrics.json, report.html and trainer.ckpt, and can be moved;
where gradients were watched or looked at also gradients.jsonl, flow.html and flow.json.
While a process works in it there is also .lock, with the number of the process.
"""

import dataclasses
import json
import os
import platform
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recur.errors import InputError, RunError
from recur.files import write_atomic, write_json
from recur.tasks.options import Options, flag, make_options

if sys.platform != "win32":
    import fcntl

FILES = {
    *("config.json", "model.safetensors", "metrics.jsonl", "metrics.json", "report.html", "trainer.ckpt"),
    *("gradients.jsonl", "flow.html", "flow.json"),
}
LOCK = ".lock"
LEFTOVER = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})\.\d+\.tmp")


class DamagedRun(RunError):
    """config.json is missing or cannot be understood."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder until the context is left or this process ends, however it ends.

    Where the system or the file system knows no locks, nobody is kept out.

    Args:
        folder: made with its parents.

    Raises:
        RunError: another process is in it, or it cannot be made or written.
    """
    make_folder(folder)
    path = folder / LOCK
    with _naming(folder, "locked"):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _take(file, path):
            holder = os.read(file, 20).decode() or "unknown"
            raise RunError(f"{folder} is in use by process {holder}; wait for it or stop it")
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(file)


def _take(file: int, path: Path) -> bool:
    """Lock an open file and write the number of this process into it; False if another process has it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        try:
            # who had it may have left, and deleted it, since it was opened here
            if not os.path.samestat(os.fstat(file), path.stat()):
                return False
        except FileNotFoundError:
            return False
    # on a full disk the lock holds without the number
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
    return True


def make_folder(folder: Path) -> None:
    """Make a folder with its parents; one that is there is left as it is.

    Raises:
        RunError: it cannot be made.
    """
    with _naming(folder, "made"):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _naming(folder: Path, what: str) -> Iterator[None]:
    """Turn an error of the file system into one that names the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{folder} could not be {what}: {reason}; give another folder with --out") from error


def check_free(folder: Path, *, overwrite: bool) -> None:
    """See that a run can be made in `folder`, before any work is done.

    Raises:
        RunError: there is something already: a run without `overwrite`, or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; give another folder with --out")
    found = _names(folder)
    if not found:
        return
    try:
        read_config(folder)
        held = "holds a run already; carry it on with --resume,"
    except DamagedRun:
        if not found <= FILES:
            raise RunError(f"{folder} holds other files than those of a run; give another folder with --out") from None
        held = "holds the rest of a damaged run;"
    if not overwrite:
        raise RunError(f"{folder} {held} replace it with --overwrite, or give another folder with --out")


def create_run(folder: Path, *, overwrite: bool) -> None:
    """Make an empty run folder.

    Args:
        folder: made with its parents.
        overwrite: delete the files of a run that is there, and nothing else.

    Raises:
        RunError: as `check_free`, or the folder cannot be made or emptied.
    """
    check_free(folder, overwrite=overwrite)
    make_folder(folder)
    try:
        members = [folder / name for name in read_config(folder).get("members", [])]
    except DamagedRun:
        members = []
    for part in filter(Path.is_dir, [*members, folder]):
        clear_leftovers(part)
        with _naming(part, "emptied"):
            for name in FILES & _names(part):
                (part / name).unlink()
            if part != folder and not any(part.iterdir()):
                part.rmdir()


def _names(folder: Path) -> set[str]:
    """Return the names of what is in a folder, but for the lock and half-written files."""
    if not folder.is_dir():
        return set()
    with _naming(folder, "read"):
        return {path.name for path in folder.iterdir() if path.name != LOCK and not LEFTOVER.fullmatch(path.name)}


def clear_leftovers(folder: Path) -> None:
    """Delete the half-written files that a killed process left.

    Raises:
        RunError: they cannot be deleted.
    """
    with _naming(folder, "emptied"):
        for path in folder.iterdir():
            if LEFTOVER.fullmatch(path.name):
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
        raise DamagedRun(f"{folder} is not a run folder: it has no config.json")
    try:
        config = _read_json(path)
    except ValueError as error:
        raise DamagedRun(f"{path} is damaged: {error}; train again with --overwrite") from error
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
    try:
        metrics: dict[str, Any] = _read_json(path)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}; delete it, and --resume writes it again") from error
    return metrics


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def save_model(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write model.safetensors: tensors and nothing else.

    Args:
        folder: the run.
        weights: a module's `state_dict`; tensors that are one and the same are written once.
    """
    names = {(value.data_ptr(), value.shape): name for name, value in reversed([*weights.items()])}
    state = {name: weights[name].detach().cpu().contiguous() for name in sorted(names.values())}

    def write(beside: Path) -> None:
        try:
            save_file(state, beside)
        except SafetensorError as error:
            # a full disk is known by its number alone
            number = re.search(r"\(os error (\d+)\)", f"{error}")
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(f"{error}")) from error
        # safetensors makes its files readable by their owner only, unlike all others in the folder
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)

    write_atomic(folder / "model.safetensors", write, when_full="free some space, then carry on with --resume")


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
    shared: dict[int, str] = {}
    for name, value in model.state_dict().items():
        first = shared.setdefault(value.data_ptr(), name)
        if name not in state and first in state:
            state[name] = state[first]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit the network in config.json: {' '.join(str(error).split())}") from error


def carried_on(
    cls: type[Options], folder: Path, given: Mapping[str, Any], free: Collection[str], source: str
) -> Options:
    """Return the options of the run in `folder`, with those replaced that may change and are given.

    Args:
        cls: the dataclass, with fields `out` and `resume`.
        folder: the run.
        given: options by field name.
        free: names of those that may differ from the run's.
        source: where `given` comes from, for the errors.

    Raises:
        InputError: another option that is given differs from the run's.
        RunError: there is no run.
    """
    stored = read_config(folder).get("options", {})
    options = make_options(cls, stored, str(folder / "config.json"))
    wanted = make_options(cls, dataclasses.asdict(options) | dict(given), source)  # type: ignore[call-overload]
    for name in given:
        if name not in free and getattr(wanted, name) != getattr(options, name):
            raise InputError(
                f"{flag(name)} must be {getattr(options, name)} as in the run to resume, got {getattr(wanted, name)}; "
                "leave it out, or start a new run"
            )
    return dataclasses.replace(wanted, out=str(folder), resume=True)  # type: ignore[type-var]


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
