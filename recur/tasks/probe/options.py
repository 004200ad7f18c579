"""The options of `recur probe`: every field is a flag and a line of config.json."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recur.errors import InputError
from recur.tasks.options import Optimizer, Schedule, TrainingOptions, flag, require

if TYPE_CHECKING:
    # it brings torch, which takes a second to import, and the flags have no use for it
    from recur.data.probes import Probe

# what may differ when a run is carried on: where it is, and how fast it goes
FREE_ON_RESUME = ("out", "resume", "overwrite", "threads")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Which networks are trained, on which lags, and how."""

    cell: tuple[str, ...] = ("rnn", "lstm", "gru")
    """Recurrent cells that are compared."""
    lag: tuple[int, ...] = ()
    """Lags that are tried, in steps; some that suit the task unless given."""
    seed: tuple[int, ...] = (1, 2, 3)
    """Seeds of the start weights and of the training data; one network is trained for each."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 64
    """Units of each layer."""
    chrono: bool = True
    """Start the gates that keep and that write out for the lag, in cells that have such."""
    steps: int = 3000
    """Most training steps of a network; it stops when the task is solved."""
    check_every: int = 100
    """Steps between two looks at the validation rows; --steps is rounded up to a multiple."""
    batch_size: int = 32
    """Rows per step, drawn anew for each."""
    learning_rate: float = 0.003
    """Step size at the start of the schedule."""
    optimizer: Optimizer = "adam"
    """Rule of the step; sgd has momentum 0.9."""
    schedule: Schedule = "constant"
    """Course of the learning rate: constant; cosine or linear down to 0 at the last step; plateau halves it whenever
    the validation rows show no improvement."""
    clip_global_norm: float = 1.0
    """Scale all gradients together to a 2-norm of at most x."""
    validation_rows: int = 500
    """Rows that choose the best look of a network and say whether it is solved; the same for all networks of a lag."""
    test_rows: int = 2000
    """Rows that a network is scored on, once, at the end; the same for all networks of a lag."""
    flow: bool = True
    """Measure the gradient flow of each network before and after training, to compare what it foretells."""
    threads: int | None = None
    """Processor threads; none for torch's choice."""
    out: str | None = None
    """Run folder; runs/probe-TASK by default."""
    resume: bool = False
    """Carry the run in --out on where it was stopped; its options are those it was started with."""
    overwrite: bool = False
    """Replace the run in --out."""

    def __post_init__(self) -> None:
        for name in ("cell", "lag", "seed"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(value))

    def folder(self, task: str) -> Path:
        """Return the run folder."""
        return Path(self.out or Path("runs", f"probe-{task}"))

    def training(self) -> TrainingOptions:
        """Return how one network is trained: an epoch ends with a look at the validation rows."""
        return TrainingOptions(
            epochs=-(-self.steps // self.check_every),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            schedule=self.schedule,
            clip_global_norm=self.clip_global_norm,
            threads=self.threads,
        )

    def check(self, probe: "Probe") -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        for name in ("steps", "check_every", "layers", "hidden_size", "validation_rows", "test_rows"):
            require(self, name, lambda value: value >= 1, "at least 1")
        self.training().check()
        for name in ("cell", "lag", "seed"):
            values = getattr(self, name)
            require(self, name, lambda value: len(value) > 0, "given")
            if len(set(values)) < len(values):
                raise InputError(f"{flag(name)} must name each one once, got {', '.join(map(str, values))}")
        require(self, "seed", lambda seeds: min(seeds) >= 0 and max(seeds) < 2**32, "from 0 to 4294967295")
        if min(self.lag) < probe.least:
            raise InputError(f"--lag must be at least {probe.least} for {probe.name}, got {min(self.lag)}")
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite must not be given together; leave one out")

    def plain(self) -> dict[str, Any]:
        """Return the options that make the result, as JSON has them: without --resume, --overwrite and --out."""
        values = dataclasses.asdict(self)
        for name in ("resume", "overwrite", "out"):
            del values[name]
        return values
