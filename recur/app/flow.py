"""The command `recur flow`: how far back a trained network remembers, why it stops, and what to do about it."""

from pathlib import Path
from typing import Any

from recur.errors import InputError
from recur.tasks.registry import check_known, entry_of


def flow(
    run: Path,
    /,
    *,
    data: Path | None = None,
    rows: int = 32,
    out: Path | None = None,
    against: Path | None = None,
    **given: Any,
) -> None:
    """Show how gradients flow through a trained network: flow.html, flow.json, and a summary.

    Of a run with several cells the best seed of each is shown, laid over each other.

    Parameters
    ----------
    run
        Run folder of a trained network.
    data
        File to look at, of the kind that the run was trained on; the validation part of the run's training file by
        default.
    rows
        How many of its rows.
    out
        Folder for flow.html and flow.json; the run's by default.
    against
        Another run, to be laid over this one.
    """
    # torch takes a second to import
    from recur.flow.words import summary
    from recur.tasks.flow import FlowData, flows_of, write_flows
    from recur.tasks.run import read_config

    if against is not None and against.resolve() == run.resolve():
        raise InputError(f"--against must be another run than {run}")
    kind = entry_of(read_config(run), run).columns
    check_known([kind], given, run)
    asked = FlowData(data, rows, given)
    flows = flows_of(run, asked)
    if against is not None:
        flows = {f"{run.name} {name}": one for name, one in flows.items()}
        other = against.name if against.name != run.name else str(against)
        flows |= {f"{other} {name}": one for name, one in flows_of(against, asked).items()}
    folder = out or run
    write_flows(folder, flows, f"Gradient flow of {', '.join(flows)}")
    for name, one in flows.items():
        print(f"{name}\n{summary(one)}\n")
    print(f"page: {folder / 'flow.html'}")
