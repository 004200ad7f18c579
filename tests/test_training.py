import io
import json
import math
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from recur.data import LengthBatches, Sequences
from recur.errors import InputError, MissingExtra, RunError
from recur.tasks import checkpoint
from recur.tasks.interrupt import Interrupted
from recur.tasks.optimizer import WeightAverage, learning_rate
from recur.tasks.options import TrainingOptions
from recur.tasks.progress import Progress, duration
from recur.tasks.training import Objective, train

torch.set_num_threads(1)


class Rows:
    """Eight batches of a noisy line, in an order that is a function of the epoch; `at` is called before each."""

    def __init__(self, at=lambda epoch, i: None):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(8, 4, 3, generator=generator)
        self.y = self.x.sum(-1, keepdim=True)
        self.epoch, self.done, self.at = 0, 0, at

    def __len__(self):
        return 8

    def set_epoch(self, epoch):
        self.epoch, self.done = epoch, 0

    def __iter__(self):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.done < 8:
            self.done += 1
            self.at(self.epoch, self.done)
            yield self.x[order[self.done - 1]], self.y[order[self.done - 1]]

    def state_dict(self):
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state):
        self.epoch, self.done = state["epoch"], state["done"]


class Line(Objective):
    monitor = "loss"

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 1))

    def measure(self, batch):
        x, y = batch
        return {"loss": (self.model(x) - y).square().mean()}, len(x)


def fit(folder, *, at=lambda epoch, i: None, resume=False, objective=None, **options):
    folder.mkdir(exist_ok=True)
    objective = objective or Line()
    given = TrainingOptions(**{"epochs": 3, "learning_rate": 0.01} | options)
    validation = Rows()
    return train(
        objective,
        Rows(at),
        list(zip(validation.x, validation.y, strict=True)),
        given,
        folder=folder,
        seed=7,
        resume=resume,
        progress=Progress(stream=io.StringIO()),
    )


def fit_in_rounds(folder, steps, *, at=lambda n: None, resume=False):
    """Train on passes of 5 batches in rounds of `steps`; return the training and the rows of each batch."""
    folder.mkdir(exist_ok=True)
    seen = []

    class Watched(LengthBatches):
        def _batch(self, rows):
            at(len(seen))
            seen.append(sorted(rows.tolist()))
            return batches.x[rows], batches.y[rows]

    batches = Watched(Sequences.of([[1] * (1 + i % 3) for i in range(20)]), None, 4, seed=2)
    batches.x, batches.y = Rows().x.reshape(32, 3), Rows().y.reshape(32, 1)
    given = TrainingOptions(epochs=6, epoch_steps=steps, learning_rate=0.01)
    how = {"folder": folder, "seed": 7, "resume": resume, "progress": Progress(stream=io.StringIO())}
    validation = list(zip(Rows().x, Rows().y, strict=True))
    return train(Line(), batches, validation, given, **how), seen


@pytest.mark.parametrize("steps", [3, 5, 7, 12])
def test_rounds_of_steps_go_through_the_same_passes(tmp_path, steps):
    training, seen = fit_in_rounds(tmp_path, steps)
    assert len(seen) == 6 * steps == training.step
    assert [line["epoch"] for line in training.history] == [1, 2, 3, 4, 5, 6]
    for start in range(0, len(seen) - 4, 5):
        assert sorted(row for rows in seen[start : start + 5] for row in rows) == list(range(20))
    # with rounds of a pass it is what it is without
    _, whole = fit_in_rounds(tmp_path / "whole", 5)
    assert seen[:30] == whole[: len(seen)]


@pytest.mark.parametrize(("steps", "stop"), [(3, 7), (7, 5), (7, 9), (12, 30)])
def test_rounds_of_steps_resume_to_the_bit(tmp_path, steps, stop):
    straight, seen = fit_in_rounds(tmp_path / "straight", steps)

    def interrupt(number):
        if number == stop:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_in_rounds(tmp_path / "run", steps, at=interrupt)
    resumed, rest = fit_in_rounds(tmp_path / "run", steps, resume=True)
    assert rest == seen[stop + 1 :]
    assert torch.equal(weights(resumed), weights(straight))
    assert [line["validation"] for line in resumed.history] == [line["validation"] for line in straight.history]


def weights(training):
    return torch.cat([p.detach().flatten() for p in training.model.state_dict().values()])


def test_it_learns_and_writes_a_line_per_epoch(tmp_path, capsys):
    training = fit(tmp_path, epochs=15, learning_rate=0.05)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 16))
    assert lines[-1]["validation"]["loss"] < 0.1 * Rows().y.var()
    assert training.history == lines
    assert {p.name for p in tmp_path.iterdir()} == {"trainer.ckpt", "metrics.jsonl", "model.safetensors"}
    assert capsys.readouterr() == ("", "")


def test_the_best_epoch_is_what_remains(tmp_path):
    training = fit(tmp_path, epochs=6, learning_rate=0.2, optimizer="sgd")
    losses = [line["validation"]["loss"] for line in training.history]
    assert training.best_epoch == 1 + losses.index(min(losses))
    training.model.eval()
    rows = Rows()
    left = training.objective.measure((rows.x, rows.y))[0]["loss"].item()
    assert left == pytest.approx(min(losses), rel=1e-6)


CASES = {
    "adam": {},
    "cosine, average": {"schedule": "cosine", "warmup": 0.5, "average": 0.9, "optimizer": "adamw", "weight_decay": 0.1},
    "plateau, clipped": {"schedule": "plateau", "optimizer": "sgd", "clip_global_norm": 0.5},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 5), (1, 8), (2, 7)])
def test_a_run_that_was_stopped_ends_as_if_it_never_was(tmp_path, options, epoch, batch):
    straight = fit(tmp_path / "straight", **options)

    def stop(e, i):
        if (e, i) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped; the state is saved in"):
        fit(tmp_path / "stopped", at=stop, **options)
    torch.rand(3)  # whatever was drawn meanwhile
    resumed = fit(tmp_path / "stopped", resume=True, **options)
    assert torch.equal(weights(resumed), weights(straight))
    for line, other in zip(resumed.history, straight.history, strict=True):
        assert line | {"seconds": 0} == other | {"seconds": 0}


def test_a_finished_run_is_only_loaded_on_resume(tmp_path):
    straight = fit(tmp_path)
    again = fit(tmp_path, resume=True, at=lambda e, i: pytest.fail("trained again"))
    assert torch.equal(weights(again), weights(straight))


def test_lines_beyond_the_checkpoint_are_cut(tmp_path):
    fit(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(before + '{"epoch": 4}\n{"ep')
    fit(tmp_path, resume=True)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_sigterm_saves_as_ctrl_c_does(tmp_path):
    with pytest.raises(Interrupted) as caught:
        fit(tmp_path, at=lambda e, i: os.kill(os.getpid(), signal.SIGTERM) if i == 2 else None)
    assert caught.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert (tmp_path / "trainer.ckpt").exists()


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored

    def twice(e, i):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, at=twice)
    assert signal.signal(signal.SIGINT, before) == signal.default_int_handler


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop_in_the_last_validation_is_heard(tmp_path, signum):
    whole = fit(tmp_path / "whole", epochs=2)

    class Line2(Line):
        def measure(self, batch):
            measured = super().measure(batch)
            if not self.model.training and epochs[-1] == 1:
                epochs.append(2)  # once
                os.kill(os.getpid(), signum)
            return measured

    epochs: list[int] = []
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path / "run", at=lambda epoch, i: epochs.append(epoch), objective=Line2(), epochs=2)
    assert stopped.value.signum == signum
    resumed = fit(tmp_path / "run", resume=True, epochs=2)
    assert len(resumed.history) == 2
    assert torch.equal(weights(whole), weights(resumed))


def test_early_stopping_counts_epochs_without_improvement(tmp_path):
    training = fit(tmp_path, epochs=50, patience=2, learning_rate=1e-9)
    best = training.best_epoch
    assert len(training.history) == best + 2 < 50


class Spoiled(Line):
    """Its loss is infinite at the steps given."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.step = steps, 0

    def measure(self, batch):
        measured, count = super().measure(batch)
        if self.model.training:
            self.step += 1
            if self.step in self.steps:
                return {"loss": measured["loss"] * math.inf}, count
        return measured, count


def test_steps_with_nonfinite_gradients_are_skipped_named_and_counted(tmp_path):
    training = fit(tmp_path, epochs=2, objective=Spoiled({2, 3, 9}))
    first, second = training.history
    assert first["nonfinite"]["0.weight"] == 2
    assert second["nonfinite"]["3.bias"] == 1
    assert (first["skipped_steps"], second["skipped_steps"]) == (2, 1)
    assert weights(training).isfinite().all()
    assert math.isfinite(first["train"]["loss"])


def test_an_epoch_without_a_finite_step_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"no step of epoch 1 had finite gradients.*0\.weight.*--clip-global-norm"):
        fit(tmp_path, objective=Spoiled(set(range(100))))


@pytest.mark.parametrize("clip", ["clip_value", "clip_norm", "clip_global_norm"])
def test_clipped_steps_are_counted(tmp_path, clip):
    assert fit(tmp_path, epochs=1, **{clip: 1e-6}).history[0]["clipped_steps"] == 8


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    fit(tmp_path, epochs=1)
    before = (tmp_path / "trainer.ckpt").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(RunError, match=r"trainer\.ckpt could not be written: .*the file before it is kept"):
        fit(tmp_path, epochs=2, resume=True)
    assert (tmp_path / "trainer.ckpt").read_bytes() == before
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    fit(tmp_path, epochs=1)
    path = tmp_path / "trainer.ckpt"
    path.write_bytes(path.read_bytes()[:-500] if damage is None else damage)
    with pytest.raises(RunError, match=r"trainer\.ckpt is damaged and cannot be resumed; start again with --overwrite"):
        fit(tmp_path, epochs=2, resume=True)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"format": 1, "model": Bad()}, tmp_path / "trainer.ckpt")
    with pytest.raises(RunError, match="damaged"):
        fit(tmp_path, resume=True)
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    fit(tmp_path, epochs=1)
    other = Line()
    other.model = nn.Linear(3, 1)
    with pytest.raises(RunError, match=r"trainer\.ckpt does not fit this run"):
        fit(tmp_path, epochs=2, resume=True, objective=other)


def test_without_lightning_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "recur.tasks.lightning", raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(
        MissingExtra, match=r"training needs the package pytorch-lightning: pip install 'recur\[train\]'"
    ):
        fit(tmp_path)


def test_learning_rates_of_the_schedules():
    def rates(**options):
        given = TrainingOptions(epochs=2, learning_rate=1.0, **options)
        return [learning_rate(given, step, 4, halvings=3) for step in range(8)]

    assert rates(schedule="constant") == [1.0] * 8
    assert rates()[::4] == [1.0, 0.5]
    assert rates(schedule="cosine")[::4] == pytest.approx([1.0, 0.5])
    assert rates(schedule="plateau") == [0.125] * 8
    assert rates(warmup=0.75)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_the_average_of_weights_can_be_swapped_in_and_out():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.1)
    nn.init.constant_(model.weight, 2.0)
    average.update()
    average.swap()
    assert model.weight.item() == pytest.approx(1.9)
    average.swap()
    assert model.weight.item() == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "--learning-rate must be greater than 0, got -1.0"),
        ({"clip_norm": 0.0}, "--clip-norm must be greater than 0, got 0.0"),
        ({"average": 1.0}, "--average must be from 0 up to, not including, 1, got 1.0"),
        ({"epochs": 2, "warmup": 2.0}, "--warmup must be fewer than all 2 epochs, got 2.0"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "--clip-value and --clip-norm must not be given together"),
    ],
)
def test_training_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        TrainingOptions(**options).check()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_work_of_known_size_shows_the_time_left(monkeypatch):
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        clock = iter(range(100, 1000, 20))  # looked at twice each time
        monkeypatch.setattr("recur.tasks.progress.time.monotonic", partial(next, clock))
        progress = Progress(stream=stream)
        for done in (0, 25, 50, 75, 100):
            progress.reading(Path("folder/a.csv"), done, 100)
    assert "reading a.csv  25%  2:00 min left" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")  # nothing is left of it
    lines = ["25%  2:00 min left", "50%  1:20 min left", "75%  40 s left"]
    assert pipe.getvalue().splitlines() == [f"reading a.csv  {line}" for line in lines]


def test_a_terminal_shows_a_bar_and_anything_else_a_line_per_epoch():
    terminal, pipe = Terminal(), io.StringIO()
    line = {"epoch": 2, "train": {"loss": 0.5}, "validation": {"accuracy": None}, "seconds": 1.0, "nonfinite": {"w": 3}}
    for stream in (terminal, pipe):
        progress = Progress("gru", stream)
        progress.step(2, 9, 5, 10, 0.5, "validation accuracy 0.9000  ", 61.0)
        progress.epoch(9, line, "accuracy", False)
    assert "epoch 2/9 ━━━━━━━━━━           5/10  loss 0.5000  validation accu" in terminal.getvalue()
    assert pipe.getvalue() == (
        "gru  epoch 2/9  loss 0.5000  validation accuracy -    1.0 s  3 gradients not finite, steps skipped\n"
    )


def test_durations_as_people_say_them():
    assert [duration(s) for s in (4.4, 200, 3900)] == ["4 s", "3:20 min", "1:05 h"]
