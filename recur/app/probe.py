"""The command `recur probe`."""

import shlex
import sys
from typing import Any

from recur.app.flags import with_flags
from recur.tasks.options import make_options
from recur.tasks.probe.options import ProbeOptions


def probe(task: str | None = None, /, **given: Any) -> None:
    """Train networks on a task that needs memory, and show how far back each cell learns to remember.

    Parameters
    ----------
    task
        reber, adding, copy, order, latest, count or agreement.
    """
    # torch takes a second to import, and a mistyped flag has no use for it
    from recur.data.probes import PROBES
    from recur.errors import InputError

    if task is None and not given.get("resume"):
        raise InputError(f"the task is missing: recur probe TASK, one of {', '.join(PROBES)}")
    options = make_options(ProbeOptions, given, "recur probe")
    from recur.tasks.interrupt import Interrupted
    from recur.tasks.probe.task import resumed, run_probe

    if options.resume:
        task, options = resumed(task, given)
    assert task is not None
    try:
        found = run_probe(task, options)
    except Interrupted as stopped:
        command = shlex.join(["recur", "probe", "--resume", "--out", str(stopped.folder)])
        print(f"\nstopped; carry it on with:\n  {command}", file=sys.stderr)
        sys.exit(128 + stopped.signum)
    print(found)
    print(f"report: {options.folder(task) / 'report.html'}")


probe = with_flags(ProbeOptions, probe)
