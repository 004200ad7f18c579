"""`recur probe`: how far back networks learn to remember, for each cell, lag and seed."""

import dataclasses
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from recur.cells import cell_named
from recur.data.probes import Probe, probe_named
from recur.errors import InputError
from recur.files import write_json
from recur.report import write_report
from recur.tasks.interrupt import Interrupted
from recur.tasks.options import make_options
from recur.tasks.probe.options import FREE_ON_RESUME, ProbeOptions
from recur.tasks.probe.report import compose_report
from recur.tasks.probe.result import ProbeResult, verdict
from recur.tasks.probe.train import Case, held_out, train_case
from recur.tasks.progress import Progress, duration
from recur.tasks.run import (
    carried_on,
    check_free,
    clear_leftovers,
    create_run,
    locked,
    make_folder,
    read_config,
    read_metrics,
    versions,
    write_config,
)

__all__ = ["ProbeOptions", "probe", "resumed", "run_probe"]


def probe(task: str, **options: Any) -> ProbeResult:
    """Train networks on a task that needs memory, for each cell, lag and seed, and say which lags they learn.

    Args:
        task: "reber", "adding", "copy", "order", "latest", "count" or "agreement".
        **options: the fields of `recur.tasks.probe.options.ProbeOptions`; without `out` nothing is kept on disk.

    Returns:
        What was found; `print(result)` shows the table, `result.save("x.html")` writes the page.

    Raises:
        InputError: an unknown task, option or cell, or a value out of its range.
        RunError: the folder cannot be read or written.
        Interrupted: Ctrl-C or SIGTERM; with `out`, `resume=True` carries on.
        MissingExtra: pytorch-lightning is not installed.
    """
    if options.get("out") is not None:
        options["out"] = os.fspath(options["out"])
    made = make_options(ProbeOptions, options, "recur.probe")
    if made.out is not None:
        return run_probe(task, made)
    with tempfile.TemporaryDirectory() as folder:
        return run_probe(task, dataclasses.replace(made, out=folder))


def run_probe(task: str, options: ProbeOptions, progress: Progress | None = None) -> ProbeResult:
    """Train the networks that are still to be trained, and write the run.

    Args:
        task: a name in `recur.data.probes.PROBES`.
        options: what to do; with `resume` those of the run, see `resumed`.
        progress: what is shown; on standard error by default.

    Returns:
        What was found. The run folder holds metrics.json, report.html, and a folder for each network.

    Raises:
        InputError, RunError, Interrupted, MissingExtra: as `probe`.
    """
    task_of = probe_named(task)
    if not options.lag:
        options = dataclasses.replace(options, lag=task_of.lags)
    options.check(task_of)
    for cell in options.cell:
        _check_cell(cell)
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.folder(task)
    if not options.resume:
        check_free(folder, overwrite=options.overwrite)
    with locked(folder):
        if not options.resume:
            create_run(folder, overwrite=options.overwrite)
            _write_config(folder, task, options)
        clear_leftovers(folder)
        try:
            lines = _train_all(task_of, options, folder, progress or Progress())
        except KeyboardInterrupt as stopped:
            raise Interrupted(signal.SIGINT, folder) from stopped
        except Interrupted as stopped:
            # what is to be resumed is the whole run
            raise Interrupted(stopped.signum, folder) from stopped
        found = ProbeResult(task_of, options, lines, {lag: _rules(task_of, options, lag) for lag in options.lag})
        write_report(folder / "report.html", compose_report(found))
        write_json(folder / "metrics.json", found.as_json())
    return found


def resumed(task: str | None, given: Mapping[str, Any]) -> tuple[str, ProbeOptions]:
    """Return the task and the options of the run to be carried on.

    Raises:
        InputError: another task or option is given than the run has.
        RunError: there is no run.
    """
    if not given.get("out") and not task:
        raise InputError("--resume needs --out, the run folder to carry on")
    folder = make_options(ProbeOptions, given, "recur probe --resume").folder(task or "")
    stored = read_config(folder)
    if stored.get("task") != "probe":
        raise InputError(
            f"--out must be the folder of a probe, got {folder}, which holds a run of {stored.get('task')}"
        )
    if task not in (None, stored["probe"]):
        raise InputError(f"the task must be {stored['probe']} as in the run to resume, got {task}")
    return stored["probe"], carried_on(ProbeOptions, folder, given, FREE_ON_RESUME, "recur probe --resume")


def _check_cell(name: str) -> None:
    try:
        if cell_named(name).projected:
            raise InputError(f"`cell` must be one without a projection, got {name!r}")
    except InputError as error:
        raise InputError(str(error).replace("`cell`", "--cell")) from None


def _cases(options: ProbeOptions) -> list[Case]:
    """Return the networks in the order of training: short lags first, so that an early end leaves something whole."""
    return [Case(cell, lag, seed) for lag in sorted(options.lag) for cell in options.cell for seed in options.seed]


def _write_config(folder: Path, task: str, options: ProbeOptions) -> None:
    write_config(
        folder,
        {
            "task": "probe",
            "probe": task,
            "options": options.plain(),
            "members": [case.name for case in _cases(options)],
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _train_all(task: Probe, options: ProbeOptions, folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Train the networks that are not done, each in its own folder; a network's metrics.json says that it is."""
    cases, lines, show = _cases(options), [], _Progress(task, options, progress)
    for number, case in enumerate(cases, 1):
        own = folder / case.name
        done = (own / "metrics.json").is_file()
        if done:
            lines.append(read_metrics(own))
        else:
            make_folder(own)
            clear_leftovers(own)
            show.begins(case, cases[number:])
            lines.append(train_case(task, options, case, own, resume=True, progress=show))
            write_json(own / "metrics.json", lines[-1])
            # a state that nothing will ever carry on from
            (own / "trainer.ckpt").unlink(missing_ok=True)
        show.say(f"{number}/{len(cases)}  {case.name}: {verdict(task, lines[-1])}{', done before' if done else ''}")
    return lines


class _Progress(Progress):
    """What is shown of many short trainings: the running one, what is done, and the time that the rest will take."""

    def __init__(self, task: Probe, options: ProbeOptions, shown: Progress) -> None:
        super().__init__(stream=shown.stream)
        self._steps = options.training().epochs * options.check_every
        self._task, self._after = task, 0.0

    def begins(self, case: Case, after: Sequence[Case]) -> None:
        """Name the network that is trained now, and those after it."""
        self.label = f"{case.name}  "
        self._after = sum(self._task.steps(other.lag) for other in after) / self._task.steps(case.lag)
        self._started = time.monotonic()

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, best: str, left: float) -> None:
        """Redraw the line; the time left is that of all networks, should none of them end early."""
        if not self._due():
            return
        done = (epoch - 1) * steps + step
        each = (time.monotonic() - self._started) / done
        rest = duration(left + each * self._steps * self._after)
        self._rewrite(f"{self.label}step {done}/{self._steps}  loss {loss:.4f}  at most {rest} left")

    def epoch(self, epochs: int, line: dict[str, Any], monitor: str, is_best: bool) -> None:
        """Leave the lines of single looks out."""


def _rules(task: Probe, options: ProbeOptions, lag: int) -> dict[str, float]:
    """Return the errors of the simple rules on the test rows of a lag."""
    draw = held_out(task, options, lag)
    return {name: task.errors(answers, draw.targets) for name, answers in task.rules(draw).items()}
