"""What happens when a disk is full or cannot be written, and when nobody reads the progress any more."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from torch import nn

from recur.errors import RunError
from recur.files import write_atomic, write_text
from recur.tasks.checkpoint import load_checkpoint, save_checkpoint
from recur.tasks.progress import Progress
from recur.tasks.run import create_run, locked, save_model, write_config


@pytest.fixture
def mount(tmp_path):
    """Return a function that makes a small file system of its own, or mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "recur-test", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no file system can be mounted here")
        return folder

    yield mounted
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_to_be_full(mount):
    disk = mount("size=300k")
    save_checkpoint(disk / "trainer.ckpt", {"format": 1, "values": torch.ones(9)})
    save_model(disk, nn.Linear(3, 4).state_dict())
    resume = r"could not be written: the disk is full \(No space left on device\); .* then carry on with --resume$"
    with pytest.raises(RunError, match=rf"trainer\.ckpt {resume}"):
        save_checkpoint(disk / "trainer.ckpt", {"format": 1, "values": torch.ones(200_000)})
    with pytest.raises(RunError, match=rf"model\.safetensors {resume}"):
        save_model(disk, nn.Linear(300, 400).state_dict())
    with pytest.raises(RunError, match=r"report\.html could .*the disk is full .*; free some space and try again$"):
        write_text(disk / "report.html", "x" * 500_000)
    assert load_checkpoint(disk / "trainer.ckpt")["values"].tolist() == [1.0] * 9
    assert sorted(p.name for p in disk.iterdir()) == ["model.safetensors", "trainer.ckpt"]
    with suppress(OSError):
        (disk / "rest").write_bytes(bytes(500_000))
    # a full disk can be locked all the same, but has no room for the number of the process
    with locked(disk):
        assert (disk / ".lock").read_text() == ""


def test_a_full_disk_is_known_without_one(tmp_path, monkeypatch):
    def full(state, file):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 260800 vs 260688")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"the disk is full \(No space left on device\)"):
        save_checkpoint(tmp_path / "trainer.ckpt", {"format": 1})
    assert not list(tmp_path.iterdir())


def test_a_read_only_disk_is_named(mount):
    disk = mount("size=300k")
    create_run(disk, overwrite=False)
    write_config(disk, {})
    mount("remount,ro")
    with pytest.raises(RunError, match="disk could not be emptied: Read-only file system"):
        create_run(disk, overwrite=True)
    with pytest.raises(RunError, match=r"config\.json could not be written: Read-only file system; the file before"):
        write_config(disk, {})
    with pytest.raises(RunError, match="disk could not be locked: Read-only file system"), locked(disk):
        pass


def test_another_failure_is_passed_on_in_its_words(tmp_path):
    def fail(beside):
        raise OSError(None, "odd")

    with pytest.raises(RunError, match=r"a could not be written: odd; the file before it is kept$"):
        write_atomic(tmp_path / "a", fail)


def test_progress_falls_silent_when_its_reader_has_gone():
    code = (
        "from recur.tasks.progress import Progress; p = Progress(); p.say('one'); input(); p.say('two'); p.say('three')"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stderr.readline() == "one\n"
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_the_time_left_is_that_of_one_network(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    Progress("gru").step(2, 9, 5, 10, 0.5, "", 200.0)
    assert capsys.readouterr().err.endswith("loss 0.5000  3:20 min left for this network")
