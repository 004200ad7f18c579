"""`recur train listen`: from files of sound to listeners, their frames, their parts and what is refused."""

import json
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from stopping import StopsAfter

import recur
from recur.app.main import main
from recur.data.frames import FrameBatches, Frames
from recur.data.measured import Layout, read_measured
from recur.data.sound import labelled_sounds, read_sound, resample
from recur.data.spectra import Spectra, cosine_transform, mel_bank, mel_edges
from recur.data.tables import fingerprint
from recur.errors import InputError
from recur.models.frames import deltas
from recur.models.listener import Listener, ListenerConfig
from recur.tasks.frames.augment import Augmentation
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import train_run
from recur.tasks.listen.options import ListenOptions
from recur.tasks.listen.task import LISTEN

soundfile = pytest.importorskip("soundfile")

SMALL = {"epochs": 1, "hidden_size": 6, "mels": 12, "threads": 1, "batch_size": 8, "baselines": False}
RATE = 4000
PITCHES = {"low": 200, "high": 900}


def tone(pitch, seconds=0.15, rate=RATE, seed=0):
    """A sine with a little noise."""
    time = np.arange(int(seconds * rate)) / rate
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * np.sin(2 * math.pi * pitch * time) + noise).astype(np.float32)


def write(path, samples, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
def folder(tmp_path):
    """Twelve sounds of each pitch, in a folder each; a list beside them that is no sound."""
    root = tmp_path / "tones"
    for label, pitch in PITCHES.items():
        for number in range(12):
            samples = tone(pitch + 5 * number, 0.1 + 0.01 * number, seed=number)
            write(root / label / f"{label}_{number}.{('wav', 'flac')[number % 2]}", samples)
    (root / "readme.txt").write_text("tones")
    return root


def run(source, tmp_path, **options):
    return train_run(LISTEN, ListenOptions(**(SMALL | {"train": source, "out": tmp_path / "run"} | options)))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_tones_are_told_apart_and_the_run_answers(folder, tmp_path, capsys):
    made = run(folder, tmp_path, epochs=6, learning_rate=0.02, baselines=True)
    found = metrics(made)
    assert found["test"]["accuracy"] == 1.0
    assert found["rows"] == {"train": 18, "validation": 2, "test": 4}
    assert found["baselines"]["majority"]["accuracy"] == 0.5
    assert found["baselines"]["nearest-mean"]["accuracy"] == 1.0
    assert found["baselines"]["mean-and-deviation"]["accuracy"] == 1.0
    page = (made / "report.html").read_text()
    assert "gate f" in page
    assert "ln energy" in page
    new = [str(write(tmp_path / f"{label}.ogg", tone(pitch, 0.5))) for label, pitch in PITCHES.items()]
    network = recur.load(made)
    assert [answer.label for answer in network.predict(new)] == ["low", "high"]
    # samples and another rate of the same sound
    assert network.predict([tone(900)])[0].label == "high"
    assert network.predict([write(tmp_path / "fast.wav", tone(200, rate=16000), 16000)])[0].label == "low"
    assert network.evaluate(folder).accuracy == 1.0
    assert "was trained on" in network.evaluate(folder).notes[0]
    capsys.readouterr()
    assert main(["predict", str(made), *new]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["low", "high"]
    assert main(["predict", str(made), "--file", str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 24
    assert main(["evaluate", str(made), str(folder)]) == 0
    assert "100.00%" in capsys.readouterr().out
    assert main(["flow", str(made), "--out", str(tmp_path / "flow")]) == 0
    assert (tmp_path / "flow" / "flow.html").exists()


def test_a_table_names_sounds_labels_and_the_test_part(folder, tmp_path):
    lines = [f"{p.relative_to(tmp_path)}\t{p.parent.name}" for p in sorted(folder.rglob("*_*"))]
    table = tmp_path / "sounds.tsv"
    table.write_text("file\tpitch\n" + "\n".join(lines) + "\n")
    made = run(table, tmp_path, sound="file", label="pitch", test_pattern=r"_[0-2]\.", cell="rnn", features="mfcc",
               coefficients=5, deltas=True, bidirectional=False, layers=2)  # fmt: skip
    assert metrics(made)["rows"]["test"] == 6
    assert "the state h" in (made / "report.html").read_text()
    assert recur.load(made).evaluate(table).rows == 24


def test_labels_come_from_names_by_a_pattern(folder):
    found = labelled_sounds(folder, pattern=r"(?P<label>[a-z])\w+_")
    assert {sound.label for sound in found} == {"l", "h"}
    with pytest.raises(InputError, match=r"high_0.wav has no label: --pattern low does not fit|must have the group"):
        labelled_sounds(folder, pattern="low")
    with pytest.raises(InputError, match="does not fit its name"):
        labelled_sounds(folder, pattern="(?P<label>low)")
    with pytest.raises(InputError, match="regular expression"):
        labelled_sounds(folder, pattern="(")


def test_a_resumed_run_is_the_same_to_the_bit(folder, tmp_path):
    options = SMALL | {"train": folder, "epochs": 2, "dropout": 0.3}
    whole = train_run(LISTEN, ListenOptions(**options, out=tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train_run(LISTEN, ListenOptions(**options, out=tmp_path / "cut"), StopsAfter(4))
    train_run(LISTEN, ListenOptions(train=folder, out=tmp_path / "cut", resume=True))
    first, second = (recur.load(made).model.state_dict() for made in (whole, tmp_path / "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    write(folder / "low" / "more.wav", tone(200))
    (tmp_path / "cut" / "metrics.json").unlink()
    with pytest.raises(InputError, match="--train must be the file that the run was started with"):
        train_run(LISTEN, ListenOptions(train=folder, out=tmp_path / "cut", resume=True))


def test_bad_sounds_are_named(folder, tmp_path):
    def refused(text, **options):
        with pytest.raises(InputError, match=text):
            run(options.pop("train", folder), tmp_path, overwrite=True, **options)

    refused("--test-pattern must fit some of the 24 sounds", test_pattern="nothing")
    refused("only 'high'", pattern="(?P<label>high)", train=folder / "high")
    refused(r"high_0.wav has no label: put it into a sub-folder", train=folder / "high")
    refused("must be fewer, or --window-ms longer", mels=200)
    refused("there is no file", train=tmp_path / "tone")
    bad = folder / "low" / "new.wav"
    bad.write_text("no sound")
    refused(r"new.wav must be a file of sound \(WAV, FLAC, OGG\), found")
    write(bad, np.zeros(0, np.float32))
    refused("new.wav must hold sound, found none|new.wav is too short")
    write(bad, tone(200, 0.02))
    refused(r"new.wav is too short: it has 80 samples, 20.0 ms, and must have 100, a frame of 25 ms")
    write(bad, tone(200), 8000)
    refused(r"same number of samples a second, found .*4000 in .*8000 in .*new.wav.*--rate 4000")
    assert any("8,000 samples" in note for note in metrics(run(folder, tmp_path, rate=RATE, overwrite=True))["notes"])
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(r"must hold files that end in \.wav, \.flac, \.ogg, found no files", train=empty)
    with pytest.raises(InputError, match="several sounds"):
        recur.load(tmp_path / "run").predict("a.wav")


def test_a_table_that_names_no_file_is_refused(tmp_path):
    table = tmp_path / "sounds.csv"
    table.write_text("path,label\ngone.wav,low\n")
    with pytest.raises(InputError, match=r"sounds.csv, line 2: there is no file .*gone.wav"):
        labelled_sounds(table)
    with pytest.raises(InputError, match="no column 'file'; the columns are path, label"):
        labelled_sounds(table, sound="file")
    with pytest.raises(InputError, match="--pattern is for folders"):
        labelled_sounds(table, pattern="(?P<label>a)")


def test_channels_become_their_mean(tmp_path):
    left = tone(200)
    samples, rate = read_sound(write(tmp_path / "two.wav", np.stack([left, -left], axis=1)))
    assert rate == RATE
    assert np.abs(samples).max() < 1e-4


def test_the_channel_of_a_tone_is_the_loudest():
    spectra = Spectra(rate=8000, mels=20)
    frames = spectra(tone(1000, 0.5, 8000))
    middles = mel_edges(20, 8000)[1:-1]
    assert frames.shape == (51, 20)
    assert frames[25].argmax() == (middles - 1000).abs().argmin()
    # twice the amplitude is four times the energy, in every feature as `gain` says
    for kind in ("log-mel", "mfcc"):
        one = Spectra(rate=8000, mels=20, features=kind)
        rise = one(2 * tone(1000, 0.5, 8000)) - one(tone(1000, 0.5, 8000))
        torch.testing.assert_close(
            torch.from_numpy(rise[25]), math.log(4) * one.gain(), atol=2e-4, rtol=0, check_dtype=False
        )


def test_mel_channels_and_cosines_are_those_of_the_formulas():
    bank = mel_bank(10, 8000, 512)
    # between the first and the last middle every frequency is shared out whole
    edges, hertz = mel_edges(10, 8000), torch.linspace(0, 4000, 257, dtype=torch.float64)
    inside = (hertz >= edges[1]) & (hertz <= edges[-2])
    torch.testing.assert_close(bank[inside].sum(1), torch.ones(int(inside.sum())))
    cosines = cosine_transform(8, 8)
    squares = cosines.T @ cosines
    torch.testing.assert_close(squares, torch.diag(torch.tensor([2.0] + 7 * [1.0])), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(16000, 8000), (8000, 16000), (11025, 8000)])
def test_resampling_keeps_a_tone_and_drops_what_does_not_fit(old, new):
    samples = tone(600, 0.5, old, seed=1)
    clean = (0.3 * np.sin(2 * math.pi * 600 * np.arange(len(samples)) / old)).astype(np.float32)
    made = resample(clean, old, new)
    wanted = 0.3 * np.sin(2 * math.pi * 600 * np.arange(len(made)) / new)
    assert len(made) == -(-len(samples) * new // old)
    assert np.abs(made - wanted)[200:-200].max() < 0.003
    if new < old:
        high = np.sin(2 * math.pi * (new / 2 + 900) * np.arange(len(samples)) / old).astype(np.float32)
        assert np.abs(resample(high, old, new))[200:-200].max() < 0.02


def test_deltas_are_slopes_and_know_where_a_row_ends():
    line = torch.arange(8.0)[None, :, None].repeat(2, 1, 1)
    line[1, 5:] = 99.0
    slopes = deltas(line, torch.tensor([8, 5]))
    torch.testing.assert_close(slopes[0, 2:6, 0], torch.ones(4))
    torch.testing.assert_close(slopes[1, :5, 0], torch.tensor([0.5, 0.8, 1.0, 0.8, 0.5]))


def test_what_lies_behind_a_row_never_matters():
    model = Listener(ListenerConfig(input_size=3, classes=2, hidden_size=4, bidirectional=True, deltas=True)).eval()
    frames = torch.randn(2, 6, 3)
    changed = frames.clone()
    changed[1, 4:] = 7.0
    lengths = torch.tensor([6, 4])
    torch.testing.assert_close(model(frames, lengths), model(changed, lengths))


def test_mean_and_deviation_are_those_of_the_training_frames():
    model = Listener(ListenerConfig(input_size=3, classes=2, hidden_size=4))
    frames = 5 + 3 * torch.randn(500, 3)
    model.fit(frames)
    seen = model.inputs(frames[None], torch.tensor([500]))[0]
    torch.testing.assert_close(seen.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, unbiased=False), torch.ones(3))


def test_augmentation_hides_moves_and_stretches_within_its_limits():
    frames, lengths = torch.randn(64, 30, 5), torch.randint(20, 31, (64,))
    mean, louder = torch.full((5,), 9.0), torch.ones(5)
    same, kept = Augmentation(masks=0)(frames, lengths, mean, louder)
    assert torch.equal(kept, lengths)
    torch.testing.assert_close(same[0, : lengths[0]], frames[0, : lengths[0]])
    hidden, _ = Augmentation(time_mask=4, feature_mask=2, masks=1)(frames, lengths, mean, louder)
    shown = hidden == 9.0
    times = shown.all(2).sum(1)
    features = torch.stack([row[:n].all(0).sum() for row, n in zip(shown, lengths, strict=True)])
    assert times.max() == 4
    assert features.max() == 2
    assert min(times.min(), features.min()) == 0
    _, stretched = Augmentation(stretch=0.2, masks=0)(frames, lengths, mean, louder)
    share = stretched / lengths
    assert 0.75 < share.min() < 0.9
    assert 1.1 < share.max() < 1.25
    ramp = torch.arange(30.0)[None, :, None].repeat(64, 1, 5)
    moved, _ = Augmentation(shift=3, masks=0)(ramp, torch.full((64,), 30), mean, louder)
    assert set((moved[:, 10, 0] - 10).tolist()) == {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    loud, _ = Augmentation(gain=10.0, masks=0)(torch.zeros_like(ramp), torch.full((64,), 30), mean, louder)
    assert 1.5 < loud.max() <= math.log(10) + 1e-5


def test_batches_of_frames_give_each_row_once_and_go_on_from_a_place():
    frames = Frames([np.full((n % 7 + 1, 2), n, np.float32) for n in range(20)], 2)
    batches = FrameBatches(frames, np.arange(20), 6, seed=1)
    seen = list(batches)
    assert sorted(torch.cat([batch.index for batch in seen]).tolist()) == list(range(20))
    assert all((batch.frames[:, 0, 0].long() == batch.labels).all() for batch in seen)
    again = FrameBatches(frames, np.arange(20), 6, seed=1)
    next(iter(again))
    other = FrameBatches(frames, np.arange(20), 6, seed=1)
    other.load_state_dict(again.state_dict())
    assert [b.index.tolist() for b in other] == [b.index.tolist() for b in seen[1:]]


def test_a_folder_is_known_by_names_and_contents(tmp_path):
    for name in ("a/x", "a/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    first = fingerprint(tmp_path / "a")
    assert first["bytes"] == 6
    (tmp_path / "a" / ".hidden").write_text("no matter")
    assert fingerprint(tmp_path / "a") == first
    (tmp_path / "a" / "y").rename(tmp_path / "a" / "z")
    assert fingerprint(tmp_path / "a")["sha256"] != first["sha256"]
    (tmp_path / "a" / "z").rename(tmp_path / "a" / "y")
    (tmp_path / "a" / "y").write_text("a/Y")
    assert fingerprint(tmp_path / "a")["sha256"] != first["sha256"]


@pytest.mark.parametrize("arrays", [False, True])
def test_the_script_writes_frames_as_sequences_of_numbers(folder, tmp_path, arrays):
    script = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "sound_frames.py"))
    script["main"](data=folder, test=r"_[0-2]\.", out=tmp_path / "out", coefficients=5, arrays=arrays)
    kind, layout = ("npz", Layout()) if arrays else ("csv.gz", Layout(series="sound"))
    train, test = (read_measured(tmp_path / "out" / f"{part}.{kind}", layout) for part in ("train", "test"))
    assert (len(train.frames), len(test.frames)) == (18, 6)
    sound = next(one for one in labelled_sounds(folder) if re.search(r"_[0-2]\.", str(one.path)))
    samples, rate = read_sound(sound.path)
    frames = Spectra(rate, features="mfcc", coefficients=5)(samples)
    assert test.labels[0] == sound.label
    np.testing.assert_allclose(test.frames[0], frames, atol=1e-4)
