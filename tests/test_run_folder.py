import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from torch import nn

from recur import files
from recur.errors import InputError, RunError
from recur.tasks import run
from recur.tasks.run import (
    check_free,
    check_same_data,
    clear_leftovers,
    create_run,
    load_model,
    locked,
    make_folder,
    read_config,
    read_metrics,
    save_model,
    write_config,
)


def made(folder):
    create_run(folder, overwrite=False)
    write_config(folder, {"members": ["a"]})
    return folder


def test_a_run_that_is_there_is_kept_unless_told_otherwise(tmp_path):
    folder = made(tmp_path / "deep" / "run")
    with pytest.raises(RunError, match="holds a run already; carry it on with --resume, replace it with --overwrite"):
        create_run(folder, overwrite=False)
    assert (folder / "config.json").exists()


def test_overwrite_deletes_the_files_of_the_run_and_nothing_else(tmp_path):
    folder = made(tmp_path / "run")
    (folder / "a").mkdir()
    (folder / "a" / "trainer.ckpt").write_text("x")
    (folder / "b").mkdir()
    for name in ("metrics.json", ".config.json.7.tmp", "notes.txt", "b/config.json"):
        (folder / name).write_text("mine")
    create_run(folder, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["b", "notes.txt"]
    assert (folder / "b" / "config.json").read_text() == "mine"


def test_a_folder_that_is_no_run_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds other files than those of a run; give another folder with --out"):
        create_run(tmp_path, overwrite=True)
    (tmp_path / "config.json").write_text('{"name": "another program"}')
    with pytest.raises(RunError, match=r"config\.json is not that of a run"):
        create_run(tmp_path, overwrite=True)
    with pytest.raises(RunError, match="is a file; give another folder"):
        check_free(tmp_path / "thesis.txt", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run folder: it has no config.json"),
        ("{", r"config\.json is damaged: .*; train again with --overwrite"),
        ("[]", r"config\.json is not that of a run"),
        (b"\xff\xfe", r"config\.json is damaged"),
    ],
)
def test_a_config_that_is_not_right_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=message):
        read_config(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere is not a run folder: there is no such folder"):
        read_config(tmp_path / "nowhere")


def test_an_unfinished_run_has_no_metrics(tmp_path):
    with pytest.raises(RunError, match=r"is not finished: it has no metrics\.json; carry it on with --resume"):
        read_metrics(made(tmp_path / "run"))


def test_a_model_comes_back_to_the_bit_and_can_be_read_by_others(tmp_path):
    model, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    save_model(tmp_path, model.state_dict())
    load_model(tmp_path, other)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("model.safetensors", "plain")]
    assert modes[0] == modes[1]


def test_tied_weights_are_written_once_and_come_back_tied(tmp_path):
    def tied():
        model = nn.ModuleDict({"embedding": nn.Embedding(50, 40), "scores": nn.Linear(40, 50)})
        model["scores"].weight = model["embedding"].weight
        return model

    model, other = tied(), tied()
    save_model(tmp_path, model.state_dict())
    assert (tmp_path / "model.safetensors").stat().st_size < 1.5 * 4 * 50 * 40
    load_model(tmp_path, other)
    assert torch.equal(other["scores"].weight, model["scores"].weight)
    assert other["scores"].weight is other["embedding"].weight


@pytest.mark.parametrize("content", [b"", b"x" * 100, "pickle", "cut"])
def test_a_model_file_that_is_not_safetensors_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    save_model(tmp_path, nn.Linear(3, 4).state_dict())
    if content == "pickle":
        torch.save(nn.Linear(3, 4).state_dict(), path)
    else:
        path.write_bytes(path.read_bytes()[:-9] if content == "cut" else content)
    with pytest.raises(RunError, match=r"model\.safetensors is damaged or not a safetensors file"):
        load_model(tmp_path, nn.Linear(3, 4))


def test_a_model_of_another_shape_is_named(tmp_path):
    with pytest.raises(RunError, match=r"model\.safetensors is missing: the run is not finished"):
        load_model(tmp_path, nn.Linear(3, 4))
    save_model(tmp_path, nn.Linear(3, 4).state_dict())
    with pytest.raises(RunError, match=r"model\.safetensors does not fit the network in config\.json.*size mismatch"):
        load_model(tmp_path, nn.Linear(3, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_disk_keeps_the_model_before(tmp_path, monkeypatch):
    save_model(tmp_path, nn.Linear(3, 4).state_dict())
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    monkeypatch.setattr(run, "save_file", full)
    with pytest.raises(
        RunError,
        match=r"model\.safetensors could not be written: the disk is full \(No space left on device\); .* --resume",
    ):
        save_model(tmp_path, nn.Linear(3, 4).state_dict())
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_keeps_the_json_before(tmp_path, monkeypatch):
    folder = made(tmp_path / "run")
    before = (folder / "config.json").read_text()
    monkeypatch.setattr(files.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match=r"config\.json could not be written: the disk is full"):
        write_config(folder, {"x": 1})
    assert (folder / "config.json").read_text() == before


def test_leftovers_of_a_killed_process_are_cleared(tmp_path):
    for name in (".trainer.ckpt.12.tmp", "trainer.ckpt", ".lock", ".mine.tmp"):
        (tmp_path / name).write_text("x")
    clear_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".mine.tmp", "trainer.ckpt"]


def test_a_half_written_config_alone_is_no_run(tmp_path):
    (tmp_path / ".config.json.12.tmp").write_text("{")
    create_run(tmp_path, overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damaged", ["config.json", "trainer.ckpt"])
def test_overwrite_replaces_a_damaged_run_but_not_with_other_files_in_it(tmp_path, damaged):
    for name in (damaged, "metrics.jsonl", ".metrics.json.12.tmp"):
        (tmp_path / name).write_text('{"recur": ')
    with pytest.raises(RunError, match="holds the rest of a damaged run; replace it with --overwrite, or give another"):
        create_run(tmp_path, overwrite=False)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds other files than those of a run; give another folder with --out"):
        create_run(tmp_path, overwrite=True)
    assert (tmp_path / damaged).exists()
    (tmp_path / "thesis.txt").unlink()
    create_run(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_damaged_metrics_say_how_they_are_mended(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json is damaged: .*; delete it, and --resume writes it again"):
        read_metrics(tmp_path)


has_locks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")

HOLD = """
import sys, time
from pathlib import Path
from recur.tasks.run import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@has_locks
def test_a_folder_in_use_is_refused_until_its_process_is_dead(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "in\n"
            for _ in range(2):
                with (
                    pytest.raises(RunError, match=rf"run is in use by process {other.pid}; wait for it or stop it"),
                    locked(folder),
                ):
                    pass
        finally:
            other.kill()
    with locked(folder):
        assert (folder / ".lock").read_text() == str(os.getpid())
        made(folder)
        create_run(folder, overwrite=True)
        assert [p.name for p in folder.iterdir()] == [".lock"]
    assert not list(folder.iterdir())


@has_locks
def test_a_lock_that_was_deleted_before_it_was_taken_is_none(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    monkeypatch.setattr(run.fcntl, "flock", lambda *_: path.unlink())
    with pytest.raises(RunError, match="is in use by process"), locked(tmp_path):
        pass


@has_locks
def test_a_file_system_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    monkeypatch.setattr(run.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_read_only_file_system_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    folder = made(tmp_path / "run")
    (folder / ".config.json.7.tmp").touch()
    for name in ("unlink", "mkdir"):
        monkeypatch.setattr(run.Path, name, refuse)
    monkeypatch.setattr(run.os, "open", refuse)
    with pytest.raises(RunError, match="run could not be emptied: Read-only file system; give another folder with"):
        clear_leftovers(folder)
    with pytest.raises(RunError, match="new could not be made: Read-only file system; give another folder with --out"):
        make_folder(tmp_path / "new")
    monkeypatch.setattr(run.Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(RunError, match="run could not be emptied: Read-only file system"):
        create_run(folder, overwrite=True)
    with pytest.raises(RunError, match="run could not be locked: Read-only file system"), locked(folder):
        pass
    assert (folder / "config.json").is_file()


def test_other_data_than_at_the_start_are_refused():
    stored = {"file": "a.csv", "bytes": 3, "sha256": "1"}
    check_same_data("train", stored, stored | {"file": "moved.csv"})
    with pytest.raises(
        InputError, match=r"--train must be the file .* \(a\.csv, 3 bytes\), got another \(b\.csv, 4 bytes\)"
    ):
        check_same_data("train", stored, {"file": "b.csv", "bytes": 4, "sha256": "2"})


def test_what_is_written_is_plain_json(tmp_path):
    write_config(tmp_path, {"labels": ["好"]})
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {"recur": "run", "labels": ["好"]}
