"""The training loop of every task: steps, validation, early stopping, and a state that any interruption leaves whole.

`train` is the door. `Training` is all the state there is and what happens at each point of the loop; pytorch-lightning,
in `lightning.py`, drives it.
"""

import json
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from recur.errors import MissingExtra, RunError
from recur.files import write_text
from recur.flow.measure import watch_gradients
from recur.flow.result import LayerWatch
from recur.flow.watch import Watch
from recur.gradients.clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
    nonfinite_gradients,
)
from recur.tasks.checkpoint import load_checkpoint, random_state, save_checkpoint, seed_all, set_random_state
from recur.tasks.figures import Sums
from recur.tasks.interrupt import Interrupted, Stop
from recur.tasks.optimizer import WeightAverage, learning_rate, make_optimizer
from recur.tasks.options import TrainingOptions
from recur.tasks.progress import Progress
from recur.tasks.run import save_model

# so many rows of a batch tell where its gradients go
WATCHED_ROWS = 8

Figures = Mapping[str, float | None]
COUNTERS = ("epoch", "batch", "step", "halvings", "best_epoch", "clipped", "skipped")


class Objective(ABC):
    """What the loop must know of a task: its model, and how a batch is measured."""

    model: nn.Module
    """What is trained."""
    monitor: str = "loss"
    """The figure of the validation part that the best epoch is chosen by; "loss" should fall, any other rise."""

    @abstractmethod
    def measure(self, batch: Any) -> tuple[Mapping[str, Tensor], int]:
        """Return scalar means over a batch, among them "loss", and the number of items that they are means of."""

    # most tasks carry nothing from batch to batch
    def begin(self, part: Literal["train", "validation"]) -> None:  # noqa: B027
        """A pass over a part begins: forget what was carried along from batch to batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is carried from batch to batch while training, as torch.save takes it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Carry on from what `state_dict` returned."""

    def probe(self, batch: Any, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return what `gradient_flow` takes: the model's arguments for a few rows of a batch, and their loss."""
        raise NotImplementedError(f"{type(self).__name__} does not say how gradients are looked at")

    def look(self, batch: Any) -> Sequence[LayerWatch]:
        """Return what is seen of the gradients on a few rows of a batch, without dropout."""
        inputs, loss = self.probe(batch, WATCHED_ROWS)
        training = self.model.training
        self.model.eval()
        try:
            return watch_gradients(self.model, inputs, loss)
        finally:
            self.model.train(training)


Look = Callable[[Any], Sequence[LayerWatch]]
"""What is seen of the gradients on a batch; it leaves the model and all random numbers as they were."""


class SizedBatches(Protocol):
    """Batches, as many as `len` says, each time they are iterated."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


class Batches(SizedBatches, Protocol):
    """Training batches whose order is a function of the epoch alone, and which know how far they were read."""

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, counted from 0."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position: which batches of the epoch were handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position; the next iteration hands out what is left of the epoch."""


class Diverged(RunError):
    """No step of an epoch had finite gradients."""


class Training:
    """The whole state of a training, and what happens at each point of the loop.

    Args:
        objective: what is trained.
        batches: the training part.
        options: how.
        folder: where trainer.ckpt and metrics.jsonl are written.
        progress: what is shown.
        stop: the wish to stop.
        solved: see `train`.
        look: what is watched every `options.watch_gradients` steps, and after the last.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        options: TrainingOptions,
        folder: Path,
        progress: Progress,
        stop: Stop,
        solved: Callable[[Figures], bool] = lambda figures: False,
        look: Look | None = None,
    ) -> None:
        self.objective, self.model, self.batches, self.options = objective, objective.model, batches, options
        self.folder, self.progress, self.stop, self.solved = folder, progress, stop, solved
        self.optimizer = make_optimizer(self.model, options)
        self.average = WeightAverage(self.model, options.average) if options.average else None
        self.look = look
        self.watch = Watch(options.watch_gradients) if look and options.watch_gradients else None
        self._seen: Any = None
        self.epoch = self.batch = self.step = self.halvings = 0
        self.sums = Sums()
        self.validation = Sums()
        self.nonfinite: Counter[str] = Counter()
        self.clipped = self.skipped = 0
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}
        self._written = 0
        self._elapsed = 0.0
        self._started = self._saved = time.monotonic()
        self._random: dict[str, Any] | None = None
        self._skipping = False

    # --- the points of the loop, in their order ---

    def begin(self) -> None:
        """Just before the first step: what the start-up drew from the random number generators is forgotten."""
        self._started = self._saved = time.monotonic()
        if self._random is not None:
            set_random_state(self._random)

    def rest_of_epoch(self) -> Iterator[Any]:
        """Hand out the batches of this epoch that were not trained yet."""
        left = self.steps - self.batch
        while left:
            number, place = divmod(self.step, len(self.batches))
            if place == 0:
                self.batches.set_epoch(number)
            else:
                # an iterator left in the middle of a pass would begin it anew
                self.batches.load_state_dict(self.batches.state_dict())
            if place == 0 or self.batch == 0:
                self.objective.begin("train")
            for batch in islice(self.batches, left):
                left -= 1
                yield batch

    def loss(self, batch: Any) -> Tensor:
        """Measure a training batch and return its loss."""
        if self.watch and self.watch.due(self.step):
            self._watch(batch)
        self._seen = batch
        measured, count = self.objective.measure(batch)
        self.sums.add(measured, count)
        return measured["loss"]

    def gradients_ready(self) -> None:
        """After the backward pass: clip, or drop the gradients if they are not finite, so that nothing is learned."""
        bad = nonfinite_gradients(self.model.named_parameters())
        self._skipping = bool(bad)
        if bad:
            self.nonfinite.update(bad)
            self.skipped += 1
            self.optimizer.zero_grad(set_to_none=True)
            return
        kept = self._clip(list(self.model.named_parameters()))
        if self.watch:
            self.watch.stepped(kept)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate

    def _clip(self, named: list[tuple[str, nn.Parameter]]) -> float:
        """Clip as the options say and return the share of the gradients' norm that is left; 1 where none is asked."""
        options = self.options
        if (limit := options.clip_global_norm) is not None:
            norm = clip_by_global_norm(named, limit)
            self.clipped += norm > limit
            return limit / norm if norm > limit else 1.0
        if options.clip_value is None and options.clip_norm is None:
            return 1.0
        before = global_norm(named) if self.watch else 1.0
        if options.clip_value is not None:
            touched = clip_by_value(named, options.clip_value) > 0
        else:
            assert options.clip_norm is not None
            touched = clip_by_norm(named, options.clip_norm) > 0
        self.clipped += touched
        return global_norm(named) / before if touched and self.watch else 1.0

    def _watch(self, batch: Any) -> None:
        assert self.watch
        assert self.look
        look = self.look
        self.watch.take(self.step, lambda: look(batch))

    def step_done(self) -> None:
        """After the optimiser's step: count, show, save now and then, stop if asked to."""
        if self.average and not self._skipping:
            self.average.update()
        self.batch += 1
        self.step += 1
        steps, epochs = self.steps, self.options.epochs
        left = self.seconds / self.step * (steps * epochs - self.step)
        self.progress.step(self.epoch + 1, epochs, self.batch, steps, self.sums.mean("loss"), self._best_text, left)
        if self.batch == steps:
            return  # the epoch's end, after the validation, saves and stops
        if self.stop.signum is not None or time.monotonic() - self._saved >= self.options.save_seconds:
            self.save()
        if self.stop.signum is not None:
            raise Interrupted(self.stop.signum, self.folder)

    def validation_begins(self) -> None:
        """From here on the averaged weights are in place, if there are any."""
        self.validation = Sums()
        self.objective.begin("validation")
        if self.average:
            self.average.swap()

    def validate(self, batch: Any) -> None:
        """Measure a validation batch."""
        self.validation.add(*self.objective.measure(batch))

    def validation_ends(self) -> None:
        """Keep the weights if they are the best so far, and finish the epoch's line."""
        monitor = self.objective.monitor
        self.epoch += 1
        spent = sum(line["seconds"] for line in self.history)
        self.history.append(
            {
                "epoch": self.epoch,
                "train": self.sums.means(),
                "validation": self.validation.means(),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "seconds": self.seconds - spent,
                "clipped_steps": self.clipped,
                "skipped_steps": self.skipped,
                "nonfinite": dict(self.nonfinite),
            }
        )
        is_best = not self.best_epoch or self._score(self.epoch) > self._score(self.best_epoch)
        if is_best:
            self.best_epoch = self.epoch
            self.best = _copies(self.model.state_dict())
        else:
            self.halvings += 1
        self.progress.epoch(self.options.epochs, self.history[-1], monitor, is_best)
        if self.average:
            self.average.swap()

    def epoch_done(self) -> None:
        """Save, and stop if asked to."""
        if self.skipped == self.steps:
            raise Diverged(
                f"no step of epoch {self.epoch} had finite gradients; NaN or infinity in "
                f"{', '.join(self.nonfinite)}: lower --learning-rate, or set --clip-global-norm"
            )
        self.batch, self.sums, self.clipped, self.skipped, self.nonfinite = 0, Sums(), 0, 0, Counter()
        if not self.options.epoch_steps:
            self.batches.set_epoch(self.epoch)
        if self.watch and self.finished and self._seen is not None:
            self._watch(self._seen)
        self.save()
        if self.stop.signum is not None and not self.finished:
            raise Interrupted(self.stop.signum, self.folder)

    # --- figures ---

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, so many went by without improvement, or the task is solved."""
        patience = self.options.patience or math.inf
        if self.history and self.solved(self.history[-1]["validation"]):
            return True
        return self.epoch >= self.options.epochs or (self.epoch > 0 and self.epoch - self.best_epoch >= patience)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.options.epoch_steps or len(self.batches)

    @property
    def rate(self) -> float:
        """The learning rate of the step under way."""
        return learning_rate(self.options, self.step, self.steps, self.halvings)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self._elapsed + time.monotonic() - self._started

    @property
    def _best_text(self) -> str:
        if not self.history:
            return ""
        value = self.history[-1]["validation"][self.objective.monitor]
        return "" if value is None else f"validation {self.objective.monitor} {value:.4f}  "

    def _score(self, epoch: int) -> tuple[float, float]:
        figures = self.history[epoch - 1]["validation"]
        loss, value = (math.inf if figures[k] is None else figures[k] for k in ("loss", self.objective.monitor))
        # of epochs that score alike the one with the smaller loss is the better
        return (-loss if self.objective.monitor == "loss" else value, -loss)

    # --- the state ---

    def save(self) -> None:
        """Write trainer.ckpt, metrics.jsonl and, if gradients are watched, gradients.jsonl."""
        state = {
            "format": 1,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "watch": self.watch.state() if self.watch else None,
            "batches": self.batches.state_dict(),
            "objective": self.objective.state_dict(),
            "random": random_state(),
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "sums": self.sums.state(),
            "nonfinite": dict(self.nonfinite),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
        }
        save_checkpoint(self.folder / "trainer.ckpt", state)
        self._write_history()
        if self._written != self.best_epoch:
            # a run that was stopped can be used as well
            save_model(self.folder, self.best)
            self._written = self.best_epoch
        self._saved = time.monotonic()

    def load(self) -> None:
        """Carry on from trainer.ckpt.

        Raises:
            RunError: it is missing, damaged, or of another network.
        """
        path = self.folder / "trainer.ckpt"
        state = load_checkpoint(path)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
            if self.watch and state.get("watch"):
                self.watch.load(state["watch"])
            self.batches.load_state_dict(state["batches"])
            self.objective.load_state_dict(state.get("objective", {}))
            for name in COUNTERS:
                setattr(self, name, state["counters"][name])
            self.sums = Sums(*state["sums"])
            self.nonfinite = Counter(state["nonfinite"])
            self.history, self.best = state["history"], state["best"]
            self._elapsed, self._random = state["seconds"], state["random"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{path} does not fit this run: {reason}; start again with --overwrite") from error
        # lines of epochs that the checkpoint does not know of will come again
        self._write_history()

    def _write_history(self) -> None:
        lines = (json.dumps(line, allow_nan=False) + "\n" for line in self.history)
        write_text(self.folder / "metrics.jsonl", "".join(lines))
        if self.watch:
            write_text(self.folder / "gradients.jsonl", self.watch.text())


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors; those that are one and the same stay so."""
    once: dict[tuple[Any, ...], Tensor] = {}
    return {
        name: once.setdefault((value.data_ptr(), value.shape), value.detach().clone())
        for name, value in weights.items()
    }


def train(
    objective: Objective,
    batches: Batches,
    validation: SizedBatches,
    options: TrainingOptions,
    *,
    folder: Path,
    seed: int,
    resume: bool = False,
    progress: Progress | None = None,
    solved: Callable[[Figures], bool] = lambda figures: False,
    look: Look | None = None,
) -> Training:
    """Train a model, choose its best epoch by the validation part, and leave that epoch's weights in the model.

    Args:
        objective: the model, and how a batch is measured.
        batches: the training part.
        validation: batches of the validation part, not empty.
        options: epochs, step sizes, clipping and so on.
        folder: gets trainer.ckpt, at every epoch's end and now and then between, and metrics.jsonl, a line per epoch.
        seed: of everything random while training, such as dropout.
        resume: carry on from trainer.ckpt; on the same machine, with the same number of threads, the weights at the end
            are to the bit those of a run that was never stopped. Without a trainer.ckpt it starts at the beginning.
        progress: what is shown.
        solved: says of an epoch's validation figures that nothing is left to learn; training then stops.
        look: what is watched every `options.watch_gradients` steps into gradients.jsonl.

    Returns:
        The finished training, with its `history`, `best_epoch` and `seconds`.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state was saved first.
        RunError: the state cannot be written, or the checkpoint not be read.
        Diverged: no step of an epoch had finite gradients.
        MissingExtra: pytorch-lightning is not installed.
    """
    try:
        from recur.tasks.lightning import run
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("pytorch_lightning", "lightning_fabric"):
            raise
        raise MissingExtra("pytorch-lightning", "train", "training") from error
    seed_all(seed)
    with Stop() as stop:
        training = Training(objective, batches, options, folder, progress or Progress(), stop, solved, look)
        if resume and (folder / "trainer.ckpt").exists():
            training.load()
        if not training.finished:
            run(training, validation)
        if stop.signum is not None:
            # asked for in the last epoch: this network is done, what would come after it is not
            raise Interrupted(stop.signum, folder)
    training.model.load_state_dict(training.best)
    return training
