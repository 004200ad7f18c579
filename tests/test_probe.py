"""`recur probe`: networks that learn what they can remember, interruptions that change nothing, and wrong uses."""

import json
import signal

import pytest
import torch

import recur
from recur import InputError
from recur.app.main import main
from recur.tasks.interrupt import Interrupted
from recur.tasks.probe import train as probe_train
from recur.tasks.probe.options import ProbeOptions
from recur.tasks.probe.train import FreshBatches

torch.set_num_threads(1)

SMALL = {"hidden_size": 8, "validation_rows": 40, "test_rows": 60, "check_every": 5, "steps": 20, "threads": 1}
FLAGS = [word for name, value in SMALL.items() for word in ("--" + name.replace("_", "-"), str(value))]
GRID = ["--cell", "rnn,lstm", "--lag", "5,8", "--seed", "3"]


def figures(folder):
    """All that a run found but for the seconds."""
    found = json.loads((folder / "metrics.json").read_text())
    assert all(line.pop("seconds") > 0 for line in found["networks"])
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert main(["probe", "reber", "--out", str(out), *GRID, *FLAGS]) == 0
    return out


def test_what_a_run_writes(straight):
    found = figures(straight)
    assert len(found["networks"]) == 4
    assert {path.name for path in straight.iterdir() if path.is_dir()} == {
        f"{cell}-lag{lag}-seed3" for cell in ("rnn", "lstm") for lag in (5, 8)
    }
    for line in found["networks"]:
        own = straight / f"{line['cell']}-lag{line['lag']}-seed{line['seed']}"
        assert json.loads((own / "metrics.json").read_text())["test"] == line["test"]
        assert not (own / "trainer.ckpt").exists()
        right = round(line["test"]["accuracy"] * 60)
        assert line["test"]["accuracy"] == pytest.approx(right / 60)
        assert line["left"] == pytest.approx((1 - line["test"]["accuracy"]) / 0.5)
        assert line["learned"] == (line["left"] <= 0.05)
        assert line["steps"] <= 20
    page = (straight / "report.html").read_text()
    for text in ("Accuracy by lag", "rule: the last T or P", "lstm", "Fahlman (1991)"):
        assert text in page


def test_a_run_of_the_same_seeds_finds_the_same(straight, tmp_path):
    assert main(["probe", "reber", "--out", str(tmp_path / "run"), *GRID, *FLAGS]) == 0
    assert figures(tmp_path / "run") == figures(straight)


@pytest.mark.parametrize("at", [10, 27, 61])
def test_ctrl_c_leaves_what_was_done_and_resume_ends_as_if_never_stopped(straight, tmp_path, monkeypatch, capsys, at):
    out, batches, real = tmp_path / "run", [], FreshBatches.__iter__

    def stopping(self):
        for batch in real(self):
            batches.append(batch)
            if len(batches) == at:
                signal.raise_signal(signal.SIGINT)
            yield batch

    monkeypatch.setattr(FreshBatches, "__iter__", stopping)
    with pytest.raises(SystemExit) as ended:
        main(["probe", "reber", "--out", str(out), *GRID, *FLAGS])
    assert ended.value.code == 130
    assert f"recur probe --resume --out {out}" in capsys.readouterr().err
    assert not (out / "metrics.json").exists()
    done = [path for path in out.glob("*/metrics.json") if json.loads(path.read_text())]
    assert main(["probe", "--resume", "--out", str(out)]) == 0
    assert figures(out) == figures(straight)
    assert capsys.readouterr().err.count("done before") == len(done)


def test_a_crash_is_resumed_too(straight, tmp_path, monkeypatch):
    out, count, real = tmp_path / "run", [], FreshBatches.__iter__

    def crashing(self):
        for batch in real(self):
            count.append(1)
            if len(count) == 33:
                raise MemoryError
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(FreshBatches, "__iter__", crashing)
        with pytest.raises(MemoryError):
            main(["probe", "reber", "--out", str(out), *GRID, *FLAGS])
    assert main(["probe", "--resume", "--out", str(out)]) == 0
    assert figures(out) == figures(straight)


def test_what_is_learned_ends_early_and_what_cannot_be_does_not():
    found = recur.probe("reber", cell="gru", lag=(5,), seed=1, hidden_size=16, steps=400, test_rows=200, threads=1)
    (line,) = found.networks
    assert line["learned"]
    assert line["steps"] < 400
    assert found.longest("gru", 1) == 5
    # an RNN of this start passes nothing on over 150 steps
    found = recur.probe("reber", cell="rnn", lag=(150,), seed=1, hidden_size=16, steps=100, test_rows=200, threads=1)
    (line,) = found.networks
    assert not line["learned"]
    assert line["steps"] == 100
    assert found.longest("rnn", 1) == 0
    assert abs(line["test"]["accuracy"] - 0.5) < 0.15


@pytest.mark.parametrize(
    ("task", "cell"), [("adding", "adder"), ("copy", "lstm"), ("order", "mgu"), ("agreement", "gru")]
)
def test_every_task_trains_any_cell(task, cell, tmp_path):
    found = recur.probe(task, cell=cell, lag=10, seed=(1, 2), **SMALL | {"steps": 5})
    (point,) = found.points
    assert len(point.errors) == 2
    assert point.interval[1] < float("inf")
    assert f"lag {10}" in str(found)
    found.save(tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert found.probe.about.partition(":")[0] in page
    assert "http" not in page.partition("<body")[2].replace("http-equiv", "")


def test_the_loss_of_a_network_is_that_of_its_answers():
    probe = recur.data.probes.PROBES["copy"]
    options, case = ProbeOptions(lag=(4,), hidden_size=8), probe_train.Case("gru", 4, 1)
    torch.manual_seed(0)
    network = probe_train.ProbeNetwork(probe, options, case)
    objective = probe_train.ProbeObjective(probe, network)
    (batch,) = [batch for batch, _ in zip(FreshBatches(probe, options, case), range(1), strict=False)]
    measured, count = objective.measure(batch)
    assert count == 32
    scores = network(batch.inputs, 24).detach().double()
    assert scores.shape == (32, 24, 9)
    chosen = scores.log_softmax(2).gather(2, batch.targets[..., None])
    assert measured["loss"].item() == pytest.approx(-float(chosen.mean()), rel=1e-5)
    assert measured["accuracy"].item() == float((scores[:, -10:].argmax(2) == batch.targets[:, -10:]).double().mean())


def test_training_rows_are_not_those_that_are_held_out():
    probe = recur.data.probes.PROBES["adding"]
    options = ProbeOptions(lag=(9,), batch_size=50, check_every=20)
    seen = set()
    for part in (FreshBatches(probe, options, probe_train.Case("rnn", 9, seed)) for seed in (1, 2)):
        seen |= {tuple(row) for batch in part for row in batch.inputs[..., 0].tolist()}
    assert len(seen) == 2 * 20 * 50
    held_out = probe_train.held_out(probe, options, 9)
    assert not seen & {tuple(row) for row in held_out.inputs[..., 0].tolist()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ading"], "did you mean 'adding'?"),
        ([], "the task is missing: recur probe TASK, one of reber, adding, copy, order, latest, count, agreement"),
        (["reber", "--cell", "lsmt"], "did you mean 'lstm'?"),
        (["reber", "--lag", "10,4"], "--lag must be at least 5 for reber, got 4"),
        (["order", "--lag", "9"], "--lag must be at least 10 for order, got 9"),
        (["reber", "--seed", "1,1"], "--seed must name each one once, got 1, 1"),
        (["reber", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["reber", "--learning-rate", "0"], "--learning-rate must be greater than 0, got 0.0"),
        (["reber", "--resume", "--overwrite"], "is not a run folder"),
        (["--resume"], "--resume needs --out"),
        (["reber", "--lags", "10"], "--lag"),
    ],
)
def test_wrong_uses_are_answered_before_anything_is_trained(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["probe", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("metrics.json"))


def test_a_run_is_neither_replaced_nor_changed_by_mistake(straight, capsys):
    before = (straight / "metrics.json").read_bytes()
    assert main(["probe", "reber", "--out", str(straight), *GRID, *FLAGS]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["probe", "reber", "--resume", "--out", str(straight), "--hidden-size", "9"]) == 2
    assert "--hidden-size must be 8 as in the run to resume, got 9" in capsys.readouterr().err
    assert main(["probe", "adding", "--resume", "--out", str(straight)]) == 2
    assert "the task must be reber as in the run to resume, got adding" in capsys.readouterr().err
    assert main(["predict", str(straight), "x"]) == 2
    assert (straight / "metrics.json").read_bytes() == before


def test_options_are_checked_in_python_too():
    with pytest.raises(InputError, match="there is no option 'lags', did you mean 'lag'"):
        recur.probe("adding", lags=(5,))
    with pytest.raises(InputError, match="found 'adder-imput', did you mean 'adder-input'"):
        recur.probe("adding", cell="adder-imput")
    with pytest.raises(InputError, match="the task must be one of"):
        recur.probe("remember")


def test_a_stop_in_python_says_where_the_run_lies(tmp_path, monkeypatch):
    real = FreshBatches.__iter__

    def stopping(self):
        for batch in real(self):
            signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(FreshBatches, "__iter__", stopping)
    with pytest.raises(Interrupted) as stopped:
        recur.probe("reber", out=str(tmp_path / "run"), lag=5, **SMALL)
    assert stopped.value.folder == tmp_path / "run"
