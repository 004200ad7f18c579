"""The run of any task: cells and seeds trained one after the other in a run folder, scored once, and reported."""

import dataclasses
import signal
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from recur.cells import CELLS
from recur.data.sources import watched
from recur.data.tables import fingerprint
from recur.errors import InputError, nearest
from recur.files import write_json
from recur.report import write_report
from recur.tasks.checkpoint import seed_all
from recur.tasks.interrupt import Interrupted
from recur.tasks.job import D, O, Result, Task, Trained, count_parameters
from recur.tasks.job_report import compose_report
from recur.tasks.job_result import member_metrics, run_metrics
from recur.tasks.options import make_options
from recur.tasks.progress import Progress
from recur.tasks.run import (
    carried_on,
    check_free,
    check_same_data,
    clear_leftovers,
    create_run,
    locked,
    make_folder,
    read_config,
    versions,
    write_config,
)
from recur.tasks.training import train


def train_run(task: Task[O, D], options: O, progress: Progress | None = None) -> Path:
    """Train a network for each cell and seed, score them and the baselines on the test part, and write the run.

    Args:
        task: which job.
        options: what to do; with `resume` those of the run in `out`, from which a value given must not differ.
        progress: what is shown; a bar or lines on standard error by default.

    Returns:
        The run folder. With several cells or seeds it holds a run folder CELL-SEED for each of them.

    Raises:
        InputError: an option or a file is not right.
        RunError: the folder is in use, or cannot be read or written.
        Interrupted: Ctrl-C or SIGTERM; `resume` carries the run on.
        MissingExtra: a package is not installed.
    """
    if options.resume:
        options = resumed_options(task, options.changed())
    options.check()
    for cell in options.cell:
        _check_cell(cell, task.layers)
    if options.threads:
        torch.set_num_threads(options.threads)
    folder, progress = options.folder, progress or Progress()
    if not options.resume:
        check_free(folder, overwrite=options.overwrite)
    elif (folder / "metrics.json").is_file():
        progress.say(f"{folder} is finished; nothing is left to do")
        return folder
    progress.say(f"reading {options.train}")
    with watched(progress.reading):
        data = task.read(options, progress)
    for note in data.notes:
        progress.say(f"note: {note}")
    with locked(folder):
        origin = _open_run(task, options)
        try:
            trained = [_train_member(task, member, data, origin, progress) for member in _members(options)]
            _write_results(_score(task, options, data, trained, progress), origin)
        except (Interrupted, KeyboardInterrupt) as stopped:
            # what is to be resumed is the whole run
            signum = stopped.signum if isinstance(stopped, Interrupted) else signal.SIGINT
            raise Interrupted(signum, folder) from stopped
    return folder


def resumed_options(task: Task[O, Any], given: Mapping[str, Any]) -> O:
    """Return the options of the run in `given["out"]`, with paths, threads and the like replaced by those given.

    Raises:
        InputError: another option that is given differs from the run's.
        RunError: there is no run.
    """
    if not given.get("out") and not given.get("train"):
        raise InputError("--resume needs --out, the run folder to carry on")
    source = f"recur train {task.name} --resume"
    cls: type[O] = task.options
    folder = make_options(cls, {"train": ""} | dict(given), source).folder
    return carried_on(cls, folder, given, (*cls.PATHS, *cls.FREE), source)


def _check_cell(name: str, layers: Sequence[str]) -> None:
    known = [*CELLS, *layers]
    if name not in known:
        raise InputError(f"--cell must be one of {', '.join(known)}, found {name!r}{nearest(name, known)}")


def _members(options: O) -> list[O]:
    """Return the options of each cell and seed, each with its own folder."""
    pairs = [(cell, seed) for cell in options.cell for seed in options.seed]
    if len(pairs) == 1:
        return [dataclasses.replace(options, out=str(options.folder))]
    return [
        dataclasses.replace(options, cell=(cell,), seed=(seed,), out=str(options.folder / f"{cell}-{seed}"))
        for cell, seed in pairs
    ]


def _open_run(task: Task[O, Any], options: O) -> dict[str, Any]:
    """Make the folder and write its first config.json, or see that the data are those that it was started with.

    Returns:
        what config.json says of where the run comes from.
    """
    folder, members = options.folder, _members(options)
    files = {name: getattr(options, name) for name in options.PATHS}
    origin: dict[str, Any] = {
        "task": task.name,
        "options": options.plain(),
        "data": {name: fingerprint(path) for name, path in files.items() if path},
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if options.resume:
        clear_leftovers(folder)
        stored = read_config(folder).get("data", {})
        for name, found in origin["data"].items():
            check_same_data(name, stored.get(name, {}), found)
        return origin
    create_run(folder, overwrite=options.overwrite)
    named = {"members": [member.folder.name for member in members]} if len(members) > 1 else {}
    write_config(folder, origin | named)
    return origin


def _train_member(task: Task[O, D], options: O, data: D, origin: dict[str, Any], progress: Progress) -> Trained:
    """Train one cell with one seed in its own folder, from the start or from where it was stopped."""
    (cell,), (seed,), folder = options.cell, options.seed, options.folder
    make_folder(folder)
    clear_leftovers(folder)
    seed_all(seed)
    progress.label = f"{cell}, seed {seed}  "
    setup = task.setup(options, data)
    objective = setup.objective
    if not (options.resume and (folder / "trainer.ckpt").exists()):
        own = {"seed": seed, "parameters": count_parameters(objective.model), **setup.config}
        write_config(folder, origin | {"options": options.plain()} | own)
    training = train(
        objective,
        setup.batches,
        setup.validation,
        options,
        folder=folder,
        seed=seed,
        resume=options.resume,
        progress=progress,
        look=objective.look,
    )
    progress.label = ""
    return Trained(options, setup, training)


def _score(task: Task[O, D], options: O, data: D, trained: list[Trained], progress: Progress) -> Result[D]:
    with watched(progress.reading):
        scored = task.score(options, data, trained, progress)
    for note in scored.notes:
        progress.say(f"note: {note}")
    notes = [*data.notes, *scored.notes]
    return Result(task, options, data, scored.members, scored.baselines, scored.rows, notes, scored.extra)


def _write_results(result: Result[Any], origin: dict[str, Any]) -> None:
    for member in result.members:
        folder = member.trained.options.folder
        alone = dataclasses.replace(result, members=[member])
        write_report(folder / "report.html", compose_report(alone, origin["data"]))
        write_json(folder / "metrics.json", member_metrics(result, member))
    if len(result.members) > 1:
        write_report(result.options.folder / "report.html", compose_report(result, origin["data"]))
        write_json(result.options.folder / "metrics.json", run_metrics(result))
