"""Real processes are killed in the middle of an epoch, carried on, and must end as one that never was."""

import csv
import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import recur
from recur.app.main import main
from recur.tasks.checkpoint import load_checkpoint

torch.set_num_threads(1)

# every source of randomness and every part of the state is in use
OPTIONS = [
    *("--layers", "2", "--hidden-size", "8", "--embedding-size", "6", "--batch-size", "4", "--no-baselines"),
    *("--dropout", "0.3", "--word-dropout", "0.1", "--recurrent-dropout", "0.1", "--embedding-dropout", "0.1"),
    *("--zoneout", "0.1", "--clip-step", "0.5", "--initialisation", "orthogonal", "--forget-bias", "1", "--residual"),
    *("--schedule", "cosine", "--clip-global-norm", "1", "--average", "0.9", "--threads", "1", "--save-seconds", "0"),
    *("--watch-gradients", "7"),
]
SHORT = ["--epochs", "1", *OPTIONS]
LONG = ["--epochs", "3", *OPTIONS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """100 texts whose class is whether "good" comes before "bad"."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(100):
            words = rng.choices(["a", "the", "film", "it", "was", "very"], k=rng.randint(1, 6))
            words += ["good", "bad"] if i % 2 else ["bad", "good"]
            writer.writerow([" ".join([*words, *rng.choices(["and", "so"], k=rng.randint(0, 3))]), i % 2])
    return path


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The same run, never stopped, for two cells and two seeds."""
    out = tmp_path_factory.mktemp("straight") / "run"
    members = ["--cell", "gru,rnn", "--seed", "1,2"]
    assert main(["train", "classify", "--train", str(data), "--out", str(out), *members, *LONG]) == 0
    return out


def stopped(data, out, signum, when, *more):
    """Start a run in a process of its own and send it a signal as soon as `when` holds."""
    command = [sys.executable, "-m", "recur.app.main", "train", "classify", "--train", str(data), "--out", str(out)]
    with subprocess.Popen([*command, *LONG, *more], stderr=subprocess.PIPE, text=True) as process:
        while not when() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert not (out / "metrics.json").exists(), errors
    return process.returncode, errors


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_run_killed_in_an_epoch_ends_as_if_it_never_was(data, straight, tmp_path):
    out = tmp_path / "run"
    code, _ = stopped(data, out, signal.SIGKILL, lambda: lines(out / "metrics.jsonl") == 1, "--cell", "gru")
    assert code == -signal.SIGKILL
    before = load_checkpoint(out / "trainer.ckpt")["counters"]
    assert before["epoch"] >= 1
    assert main(["train", "classify", "--resume", "--out", str(out)]) == 0
    assert (out / "model.safetensors").read_bytes() == (straight / "gru-1" / "model.safetensors").read_bytes()
    assert (out / "gradients.jsonl").read_bytes() == (straight / "gru-1" / "gradients.jsonl").read_bytes()
    kept = [json.loads(line) | {"seconds": 0} for line in (out / "metrics.jsonl").read_text().splitlines()]
    other = [
        json.loads(line) | {"seconds": 0} for line in (straight / "gru-1" / "metrics.jsonl").read_text().splitlines()
    ]
    assert kept == other


def test_ctrl_c_in_the_second_of_several_members_says_how_to_go_on(data, straight, tmp_path, capsys):
    out = tmp_path / "run"
    many = ("--cell", "gru,rnn", "--seed", "1,2")
    code, errors = stopped(data, out, signal.SIGINT, (out / "gru-2" / "trainer.ckpt").exists, *many)
    assert code == 130
    assert f"stopped; carry it on with:\n  recur train classify --resume --out {out}" in errors
    assert "Traceback" not in errors
    counters = load_checkpoint(out / "gru-2" / "trainer.ckpt")["counters"]
    assert counters["batch"] > 0
    assert main(["train", "classify", "--resume", "--out", str(out)]) == 0
    for name in ("gru-1", "gru-2", "rnn-1", "rnn-2"):
        assert (out / name / "model.safetensors").read_bytes() == (straight / name / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["train", "classify", "--resume", "--out", str(out)]) == 0
    assert "is finished; nothing is left to do" in capsys.readouterr().err


def test_resuming_refuses_other_options_and_other_data(data, straight, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "classify", "--train", str(data), "--out", str(out), *SHORT])
    (out / "metrics.json").unlink()
    resume = ["train", "classify", "--resume", "--out", str(out)]
    assert main([*resume, "--hidden-size", "9"]) == 2
    assert "--hidden-size must be 8 as in the run to resume, got 9" in capsys.readouterr().err
    other = tmp_path / "other.csv"
    other.write_bytes(data.read_bytes() + b"more,1\n")
    assert main([*resume, "--train", str(other)]) == 2
    assert "--train must be the file that the run was started with (reviews.csv" in capsys.readouterr().err
    moved = tmp_path / "moved.csv"
    moved.write_bytes(data.read_bytes())
    assert main([*resume, "--train", str(moved)]) == 0
    assert (out / "metrics.json").exists()


def test_a_stopped_run_answers_as_after_its_best_epoch_so_far(data, tmp_path, capsys):
    out = tmp_path / "run"
    code, errors = stopped(data, out, signal.SIGINT, lambda: lines(out / "metrics.jsonl") >= 1)
    assert code == 130
    assert "answers as it did after its best epoch so far" in errors
    best = load_checkpoint(out / "trainer.ckpt")["best"]
    model = recur.load(out).model
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert main(["predict", str(out), "a good film"]) == 0


def test_there_must_be_a_run_to_resume(tmp_path, capsys):
    assert main(["train", "classify", "--resume"]) == 2
    assert "--resume needs --out" in capsys.readouterr().err
    assert main(["train", "classify", "--resume", "--out", str(tmp_path / "none")]) == 2
    assert "is not a run folder: there is no such folder" in capsys.readouterr().err


def test_a_damaged_checkpoint_of_a_run_is_named(data, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "classify", "--train", str(data), "--out", str(out), *SHORT])
    (out / "metrics.json").unlink()
    (out / "trainer.ckpt").write_bytes(b"PK damaged")
    assert main(["train", "classify", "--resume", "--out", str(out)]) == 2
    assert "trainer.ckpt is damaged and cannot be resumed; start again with --overwrite" in capsys.readouterr().err
