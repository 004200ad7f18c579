"""pytorch-lightning as the motor of `Training`: devices, precision, the order of the calls. Imported only to train."""

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from recur.tasks.interrupt import Interrupted
from recur.tasks.training import SizedBatches, Training


class _Loader:
    """Batches as Lightning takes them, which would see several loaders in a list."""

    def __init__(self, read: Callable[[], Iterator[Any]], length: int) -> None:
        self.read, self.length = read, length

    def __iter__(self) -> Iterator[Any]:
        return self.read()

    def __len__(self) -> int:
        return self.length


class _Module(LightningModule):
    def __init__(self, work: Training, validation: SizedBatches) -> None:
        super().__init__()
        self.model = work.model
        self.work, self.validation = work, validation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.work.optimizer

    def train_dataloader(self) -> _Loader:
        # the rest of an epoch is a whole one to Lightning, so that it never needs to resume
        return _Loader(self.work.rest_of_epoch, self.work.steps - self.work.batch)

    def val_dataloader(self) -> _Loader:
        return _Loader(lambda: iter(self.validation), len(self.validation))

    def on_train_start(self) -> None:
        self.work.begin()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.work.loss(batch)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        self.work.gradients_ready()

    def on_train_batch_end(self, *args: Any) -> None:
        self.work.step_done()

    def on_validation_epoch_start(self) -> None:
        self.work.validation_begins()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.work.validate(batch)

    def on_validation_epoch_end(self) -> None:
        self.work.validation_ends()

    def on_train_epoch_end(self) -> None:
        self.work.epoch_done()
        self.trainer.should_stop = self.work.finished


def run(training: Training, validation: SizedBatches) -> None:
    """Train until the end, or until `Training` raises."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # advice about data loaders' workers, log folders and the like, none of which are in use
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning_utilities|torch\.jit")
        trainer = Trainer(
            accelerator="cuda" if torch.cuda.is_available() else "cpu",
            devices=1,
            max_epochs=training.options.epochs - training.epoch,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
            default_root_dir=training.folder,
        )
        try:
            trainer.fit(_Module(training, validation))
        except SystemExit as error:
            # what Lightning makes of SIGTERM, and of a second Ctrl-C
            if training.stop.signum == signal.SIGTERM:
                raise Interrupted(signal.SIGTERM, training.folder) from error
            raise KeyboardInterrupt from error
