"""Gradients watched in anyone's pytorch-lightning training, which stays to the bit what it was."""

import importlib
import json
import sys

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.nn import functional as F

from recur.errors import InputError, MissingExtra
from recur.lightning import GradientFlowCallback


class Sums(pl.LightningModule):
    """Learns the sum of a sequence; nothing in it knows of recur."""

    def __init__(self, cell=nn.LSTM):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.drop, self.score = cell(3, 5, batch_first=True), nn.Dropout(0.2), nn.Linear(5, 1)
        self.seen = []

    def forward(self, x):
        return self.score(self.drop(self.rnn(x)[0][:, -1]))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self(x), y)
        self.log("loss", loss)
        self.log_dict({"double": 2 * loss})
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


class Kept(Logger):
    name, version = "kept", 0

    def __init__(self):
        super().__init__()
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


def batches(n=12, steps=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n * 4, steps, 3, generator=generator)
    return torch.utils.data.DataLoader(list(zip(x, x.sum(1)[:, :1], strict=True)), batch_size=4)


def fit(tmp_path, *callbacks, module=None, logger=False, epochs=1, ckpt_path=None, **options):
    torch.manual_seed(3)
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), logger=logger, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    module = module or Sums()
    trainer.fit(module, batches(), ckpt_path=ckpt_path)
    return trainer, module


pytestmark = pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_lines_are_kept_and_training_is_what_it_was(tmp_path):
    watching = GradientFlowCallback(every=5, folder=tmp_path / "flow")
    _, watched = fit(tmp_path, watching)
    _, plain = fit(tmp_path)
    assert torch.equal(weights(watched), weights(plain))
    lines = [json.loads(line) for line in (tmp_path / "flow" / "gradients.jsonl").read_text().splitlines()]
    assert lines == watching.lines
    assert [line["step"] for line in lines] == [0, 5, 10]
    (layer,) = lines[0]["layers"]
    assert (layer["name"], layer["steps"]) == ("rnn.l0", 20)
    assert set(layer["spectral_radius"]) == set("ifgo")
    assert layer["norms"][0] > layer["norms"][-1] > 0


def test_the_gradient_by_lag_is_that_of_autograd(tmp_path):
    watching = GradientFlowCallback(every=100)
    module = Sums(nn.GRU)
    module.drop.p = 0.0
    x, y = next(iter(batches()))
    cell = nn.GRUCell(3, 5)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.rnn.state_dict().items()})
    states = [torch.zeros(4, 5)]
    for t in range(20):
        states.append(cell(x[:, t], states[-1]))
    wanted = torch.autograd.grad(F.mse_loss(module.score(states[-1]), y), states[:0:-1])
    fit(tmp_path, watching, module=module)
    found = watching.lines[0]["layers"][0]["norms"]
    assert found == pytest.approx([float(g.norm()) for g in wanted], rel=1e-4)


def test_the_logger_gets_the_main_figures_and_the_module_logs_once(tmp_path):
    logger = Kept()
    fit(tmp_path, GradientFlowCallback(every=5), logger=logger, log_every_n_steps=1)
    own = [(step, metrics) for step, metrics in logger.metrics if "gradient_flow/rnn.l0/horizon" in metrics]
    assert [step for step, _ in own] == [0, 5, 10]
    assert 0 < own[0][1]["gradient_flow/rnn.l0/spectral_radius/f"] < 2
    assert own[1][1]["gradient_flow/clipped"] == 0
    assert sum("loss" in metrics for _, metrics in logger.metrics) == 12
    assert (tmp_path / "gradients.jsonl").exists()


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_is_seen(tmp_path, algorithm):
    watching = GradientFlowCallback(every=4)
    fit(tmp_path, watching, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    clipping = watching.lines[1]["clipping"]
    assert (clipping["steps"], clipping["clipped"]) == (4, 4)
    assert 0 < clipping["kept_least"] <= clipping["kept"] < 0.5
    loose = GradientFlowCallback(every=4)
    fit(tmp_path, loose, gradient_clip_val=1e6, gradient_clip_algorithm=algorithm)
    assert loose.lines[1]["clipping"] == {"steps": 4, "clipped": 0, "kept": None, "kept_least": None}


def test_steps_are_those_of_the_optimiser(tmp_path):
    watching = GradientFlowCallback(every=2)
    fit(tmp_path, watching, accumulate_grad_batches=3, gradient_clip_val=1e6)
    assert [line["step"] for line in watching.lines] == [0, 2]
    assert watching.lines[1]["clipping"]["steps"] == 2


def test_checkpoints_hold_the_lines(tmp_path):
    straight = GradientFlowCallback(every=5)
    fit(tmp_path, straight, epochs=2)
    first, second = GradientFlowCallback(every=5), GradientFlowCallback(every=5)
    trainer, _ = fit(tmp_path, first)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    fit(tmp_path, second, epochs=2, ckpt_path=tmp_path / "x.ckpt")
    assert [line["step"] for line in second.lines] == [0, 5, 10, 15, 20]
    # Lightning does not keep the state of dropout
    assert second.lines[:3] == straight.lines[:3]


def test_a_module_that_steps_by_itself_needs_inputs_and_loss(tmp_path):
    class Manual(Sums):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(self(batch[0]), batch[1]))
            optimizer.step()

    blind = GradientFlowCallback(every=100)
    fit(tmp_path, blind, module=Manual())
    assert "`inputs` and `loss` are needed" in blind.lines[0]["unseen"]
    told = GradientFlowCallback(
        every=100, inputs=lambda batch: batch[0], loss=lambda output, batch: F.mse_loss(output, batch[1])
    )
    fit(tmp_path, told, module=Manual())
    assert told.lines[0]["layers"][0]["name"] == "rnn.l0"


def test_a_module_without_recurrence_is_trained_and_said_so(tmp_path):
    class Flat(Sums):
        def __init__(self):
            super().__init__()
            self.rnn, self.score = nn.Identity(), nn.Linear(3, 1)

        def forward(self, x):
            return self.score(x.mean(1))

    watching = GradientFlowCallback(every=100)
    fit(tmp_path, watching, module=Flat())
    assert watching.lines[0]["unseen"]


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="`every` must be at least 1 step, got 0"):
        GradientFlowCallback(every=0)
    with pytest.raises(InputError, match="`inputs` and `loss` must be given together"):
        GradientFlowCallback(inputs=lambda batch: batch)


def test_without_lightning_the_way_to_get_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    monkeypatch.delitem(sys.modules, "recur.lightning")
    with pytest.raises(MissingExtra, match=r"recur.lightning needs the package pytorch-lightning: pip install"):
        importlib.import_module("recur.lightning")
