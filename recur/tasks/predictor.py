"""`recur.load(run)`: a trained network from its run folder, ready to predict."""

from pathlib import Path

from recur.errors import InputError, RunError
from recur.tasks.job import Predictor
from recur.tasks.registry import entry_of
from recur.tasks.run import load_model, read_config, read_metrics


def load(run: str | Path) -> Predictor:
    """Read a trained network.

    Args:
        run: a run folder, wherever it lies now; of a run with several cells or seeds the network that was best on the
            validation part is taken. Nothing that is read can hold code.

    Returns:
        The predictor of the run's task.

    Raises:
        RunError: not a finished run, or a damaged file; the message names it.

    Example:
        >>> recur.load("runs/reviews").predict(["a film to remember"])[0].label  # doctest: +SKIP
        'pos'
    """
    folder = Path(run)
    config = read_config(folder)
    if members := config.get("members"):
        best = str(read_metrics(folder).get("best"))
        if best not in members:
            raise RunError(f"{folder / 'metrics.json'} must name one of the members {', '.join(members)}, got {best!r}")
        folder = folder / best
        config = read_config(folder)
    task = entry_of(config, folder).task
    try:
        model = task.build(config)
        predictor = task.load(folder, config, model)
    except (KeyError, TypeError, InputError) as error:
        raise RunError(
            f"{folder / 'config.json'} is not that of a run of {task.name}, or damaged: {error!r}"
        ) from error
    load_model(folder, model)
    model.eval()
    return predictor
