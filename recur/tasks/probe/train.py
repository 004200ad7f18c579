"""One network of `recur probe`: trained on rows drawn anew for every step, scored on rows held out."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.data.probes import Draw, Probe
from recur.gradients.initialisation import chrono_
from recur.layers import make
from recur.tasks.checkpoint import seed_all
from recur.tasks.figures import Sums
from recur.tasks.probe.flow import foretell
from recur.tasks.probe.options import ProbeOptions
from recur.tasks.progress import Progress
from recur.tasks.training import Diverged, Objective, train

# what is left of the error of guessing: from the first on a lag counts as learned, at the second training stops
LEARNED = 0.05
SOLVED = 0.025
# the parts never share a random number
_TRAINING, _VALIDATION, _TEST = range(3)
_ROWS_AT_ONCE = 250


class Case(NamedTuple):
    """Which network of a run."""

    cell: str
    lag: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.cell}-lag{self.lag}-seed{self.seed}"


class Rows(NamedTuple):
    """A batch: what is read [B, T, D], and the answers [B, K]."""

    inputs: Tensor
    targets: Tensor


class ProbeNetwork(nn.Module):
    """A recurrent network that answers after every step: classes or a number.

    Args:
        probe: the task.
        options: cell sizes.
        case: its cell and lag.
    """

    def __init__(self, probe: Probe, options: ProbeOptions, case: Case) -> None:
        super().__init__()
        size = options.hidden_size
        self.recurrent = make(case.cell, len(probe.symbols), size, options.layers, batch_first=True)
        if options.chrono:
            chrono_(self.recurrent, probe.steps(case.lag), inputs=True)
        self.answer = nn.Linear(size, max(1, probe.classes))

    def forward(self, inputs: Tensor, answers: int = 1) -> Tensor:
        """Return what is answered after each of the last steps.

        Args:
            inputs: [B, T, D].
            answers: K, how many steps.

        Returns:
            Logits [B, K, C], or numbers [B, K, 1].
        """
        found: Tensor = self.answer(self.recurrent(inputs)[0][:, -answers:])
        return found


class ProbeObjective(Objective):
    """What the training loop must know of a probe: its network, and how a batch is measured."""

    def __init__(self, probe: Probe, model: nn.Module) -> None:
        self.task, self.model = probe, model
        self.monitor = "accuracy" if probe.classes else "loss"

    def measure(self, batch: Rows) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss, and for classes the accuracy of the answers that are scored."""
        inputs, targets = batch
        found = self.model(inputs, targets.shape[1])
        if not self.task.classes:
            return {"loss": F.mse_loss(found[..., 0], targets)}, len(targets)
        right = found.argmax(dim=2)[:, -self.task.scored :] == targets[:, -self.task.scored :]
        return {
            "loss": F.cross_entropy(found.flatten(0, 1), targets.flatten()),
            "accuracy": right.double().mean(),
        }, len(targets)

    def left(self, figures: Mapping[str, float | None]) -> float:
        """Return the error as a share of that of guessing: 0 is perfect, 1 is nothing learned; NaN if not finite."""
        value = figures[self.monitor]
        if value is None:
            return math.nan
        return (1 - value if self.task.classes else value) / self.task.chance


class FreshBatches:
    """Training batches that never come twice: each is a function of seed, lag and its number."""

    def __init__(self, probe: Probe, options: ProbeOptions, case: Case) -> None:
        self.probe, self.rows, self.count, self.case = probe, options.batch_size, options.check_every, case
        self.epoch = self.delivered = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Rows]:
        while self.delivered < self.count:
            number = self.epoch * self.count + self.delivered
            self.delivered += 1
            yield _rows(draw_part(self.probe, self.case.lag, self.rows, _TRAINING, self.case.seed, number))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.delivered = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"epoch": self.epoch, "delivered": self.delivered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        self.epoch, self.delivered = state["epoch"], state["delivered"]


def draw_part(probe: Probe, lag: int, rows: int, part: int, *numbers: int) -> Draw:
    """Draw rows of a part; the same arguments give the same rows."""
    return probe.draw(np.random.default_rng([part, lag, *numbers]), rows, lag)


def held_out(probe: Probe, options: ProbeOptions, lag: int) -> Draw:
    """Return the rows that all networks of a lag are scored on."""
    return draw_part(probe, lag, options.test_rows, _TEST)


def _rows(draw: Draw) -> Rows:
    return Rows(torch.from_numpy(draw.inputs), torch.from_numpy(draw.targets))


def _cut(draw: Draw) -> list[Rows]:
    rows = _rows(draw)
    starts = range(0, len(rows.inputs), _ROWS_AT_ONCE)
    return [Rows(*(part[start : start + _ROWS_AT_ONCE] for part in rows)) for start in starts]


def train_case(
    probe: Probe, options: ProbeOptions, case: Case, folder: Path, *, resume: bool, progress: Progress
) -> dict[str, Any]:
    """Train a network and score it.

    Args:
        probe: the task.
        options: how.
        case: which network.
        folder: gets the state for resuming.
        resume: carry on from that state.
        progress: what is shown.

    Returns:
        The line of the network in metrics.json.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state was saved.
        RunError: the state cannot be read or written.
    """
    seed_all(case.seed)
    model = ProbeNetwork(probe, options, case)
    objective = ProbeObjective(probe, model)
    batches = FreshBatches(probe, options, case)
    test = held_out(probe, options, case.lag)
    flow = {"initial": _foretell(model, test) if options.flow else None, "trained": None}
    line: dict[str, Any] = {**case._asdict(), "parameters": sum(p.numel() for p in model.parameters()), "flow": flow}
    try:
        training = train(
            objective,
            batches,
            _cut(draw_part(probe, case.lag, options.validation_rows, _VALIDATION)),
            options.training(),
            folder=folder,
            seed=case.seed,
            resume=resume,
            progress=progress,
            solved=lambda figures: objective.left(figures) <= SOLVED,
        )
    except Diverged as error:
        return line | {"diverged": str(error), "learned": False, "left": None, "test": None}
    figures = _measure(objective, test)
    left = objective.left(figures)
    flow["trained"] = _foretell(model, test) if options.flow else None
    return line | {
        "steps": training.step,
        "best_step": training.best_epoch * options.check_every,
        "seconds": training.seconds,
        "test": figures,
        "left": None if math.isnan(left) else left,
        "learned": left <= LEARNED,
    }


def _foretell(model: ProbeNetwork, draw: Draw) -> dict[str, Any] | None:
    return foretell(model.recurrent, _rows(draw).inputs)


def _measure(objective: ProbeObjective, draw: Draw) -> dict[str, float | None]:
    sums = Sums()
    objective.model.eval()
    with torch.no_grad():
        for batch in _cut(draw):
            sums.add(*objective.measure(batch))
    return sums.means()
