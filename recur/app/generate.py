"""The command `recur generate`: text from a trained language model, as it is made."""

from pathlib import Path
from typing import Any

from recur.app.flags import with_flags
from recur.errors import InputError
from recur.tasks.generate.options import Sampling


def _generate(run: Path, /, *, prefix: str = "", **given: Any) -> None:
    """Write text with a trained language model, token by token; Ctrl-C ends it.

    Parameters
    ----------
    run
        Run folder of recur train generate.
    prefix
        What the text begins with; the start of a line by default.
    """
    from recur.tasks.run import read_config

    task = read_config(run).get("task")
    if task != "generate":
        raise InputError(f"{run} must be a run of recur train generate, got one of {task!r}")
    # torch takes a second to import
    from recur.tasks.predictor import load

    predictor: Any = load(run)
    text = predictor.generate(prefix, **given)
    print(prefix, end="", flush=True)
    try:
        for piece in text:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


generate = with_flags(Sampling, _generate)
