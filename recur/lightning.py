"""For anyone's pytorch-lightning trainer: gradients watched while it trains."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recur.errors import InputError, MissingExtra
from recur.files import write_text
from recur.flow.measure import watch_gradients
from recur.flow.result import LayerWatch
from recur.flow.watch import Line, Watch
from recur.gradients.clipping import global_norm

try:
    from pytorch_lightning import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingExtra("pytorch-lightning", "train", "recur.lightning") from error


class GradientFlowCallback(Callback):
    """Watch how far back gradients reach while a LightningModule with recurrent layers trains.

    Every `every` steps the batch about to be trained is looked at: the norm of the loss's gradient by lag for each
    recurrent layer, torch.nn's or recur's, the spectral radius of its matrices, how much its gates are saturated, and
    what clipping did since the look before. Nothing of the training changes: weights, gradients, buffers and random
    numbers are left as they were. The lines, as those of `recur train`, go to `folder`/gradients.jsonl, the main
    figures to the trainer's logger, and both into checkpoints.

    Args:
        every: steps of the optimiser from one look to the next; a look costs about two steps of training.
        folder: where gradients.jsonl is written; the logger's folder, or the trainer's, by default.
        inputs: from a batch to the arguments of the module, a tuple of them or a dict by name.
        loss: from the module's output and the batch to the loss. Without both, `training_step` is run once more, its
            `log` calls unheard; give both where it does more than compute the loss.

    Raises:
        InputError: `every` is below 1, or only one of `inputs` and `loss` is given.

    >>> import pytorch_lightning as pl
    >>> trainer = pl.Trainer(callbacks=[GradientFlowCallback(every=100)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        every: int = 200,
        folder: str | Path | None = None,
        *,
        inputs: Callable[[Any], Any] | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise InputError(f"`every` must be at least 1 step, got {every}")
        if (inputs is None) != (loss is None):
            raise InputError("`inputs` and `loss` must be given together, or neither")
        self.watch, self.folder = Watch(every), Path(folder) if folder else None
        self._inputs, self._loss = inputs, loss
        self._norm: float | None = None

    @property
    def lines(self) -> list[Line]:
        """What was seen so far; `recur.flow.growth.growth_blocks` makes charts of it."""
        return self.watch.lines

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the batch, if it is time."""
        if not self.watch.due(trainer.global_step):
            return
        line = self.watch.take(trainer.global_step, lambda: self._look(pl_module, batch, batch_idx))
        if trainer.is_global_zero:
            self._write(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(_figures(line), step=trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Measure the gradients before they are clipped."""
        self._norm = global_norm(pl_module.named_parameters()) if trainer.gradient_clip_val else 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Count the step, if the batch ended in one, and what clipping left of its gradients."""
        if self._norm is None:
            return
        left = global_norm(pl_module.named_parameters()) if self._norm else 0.0
        # beyond rounding; a loop that has dropped its gradients by now says nothing of clipping
        self.watch.stepped(left / self._norm if 0 < left < (1 - 1e-5) * self._norm else 1.0)
        self._norm = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self.watch.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Carry on from a checkpoint."""
        self.watch.load(state_dict)

    def _look(self, module: LightningModule, batch: Any, index: int) -> tuple[LayerWatch, ...]:
        if self._inputs is not None and self._loss is not None:
            loss = self._loss
            return watch_gradients(module, self._inputs(batch), lambda output: loss(output, batch))
        if not module.automatic_optimization:
            raise InputError("`inputs` and `loss` are needed, since training_step runs the optimiser by itself")
        with _unheard(module):
            return tuple(
                replace(seen, name=seen.name.removeprefix("module."))
                for seen in watch_gradients(_Step(module), (batch, index), _loss_of)
            )

    def _write(self, trainer: Trainer) -> None:
        if self.folder is None:
            self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "gradients.jsonl", self.watch.text())


class _Step(nn.Module):
    """A module's training step, as a module."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any, index: int) -> Any:
        step = self.module.training_step
        return step(batch, index) if len(signature(step).parameters) > 1 else step(batch)


def _loss_of(output: Any) -> Any:
    return output.get("loss") if isinstance(output, Mapping) else output


@contextmanager
def _unheard(module: LightningModule) -> Iterator[None]:
    """Let the module's calls of `log` and `log_dict` go nowhere."""
    names = ("log", "log_dict")
    for name in names:
        object.__setattr__(module, name, lambda *args, **kwargs: None)
    try:
        yield
    finally:
        for name in names:
            object.__delattr__(module, name)


def _figures(line: Line) -> dict[str, float]:
    """Return the main figures of a line by name, as loggers take them."""
    found: dict[str, float | None] = {}
    for layer in line["layers"]:
        at = f"gradient_flow/{layer['name']}"
        found[f"{at}/horizon"] = layer["horizon"]
        for field in ("spectral_radius", "low", "high"):
            found |= {f"{at}/{field}/{gate}": value for gate, value in layer[field].items()}
    clipping = line["clipping"]
    if clipping["steps"]:
        found["gradient_flow/clipped"] = clipping["clipped"] / clipping["steps"]
    return {name: float(value) for name, value in found.items() if value is not None}
