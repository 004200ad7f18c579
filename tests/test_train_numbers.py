"""`recur train classify` on numbers: long and wide tables, arrays, their parts, and what is refused."""

import csv
import gzip
import json
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
from recur.errors import InputError
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.classify.task import CLASSIFY
from recur.tasks.frames.baselines import run_baselines
from recur.tasks.frames.convolutions import random_convolutions
from recur.tasks.frames.parts import Part
from recur.tasks.frames.report import beginnings
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import train_run
from recur.tasks.numbers.data import scaling
from recur.tasks.numbers.task import NUMBERS

SMALL = {"epochs": 1, "hidden_size": 6, "threads": 1, "batch_size": 8, "baselines": False, "watch_gradients": 0}


def waves(count=48, seed=0, steps=12):
    """Bytes [N, T, 2], labels and lengths: the first number rises or falls, the second is noise; steps vary."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(steps // 2, steps + 1, count)
    x, y = np.zeros((count, steps, 2), np.uint8), np.arange(count) % 2
    for row, length in enumerate(lengths):
        line = np.linspace(20, 220, length) + generator.integers(-15, 16, length)
        x[row, :length, 0] = line if y[row] else line[::-1]
        x[row, :length, 1] = generator.integers(0, 256, length)
    return x, y, lengths


def write_long(path, x, y, lengths, times=True, order=None):
    rows = [[f"s{i}", t, ("fall", "rise")[y[i]], *x[i, t]] for i in range(len(x)) for t in range(lengths[i])]
    if order is not None:
        rows = [rows[i] for i in order(len(rows))]
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        csv.writer(file).writerows([["id", "t", "label", "a", "b"], *rows])
    return path


def write_wide(path, x, y, lengths):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *(f"n{i}" for i in range(x[0].size))])
        for values, label, length in zip(x, y, lengths, strict=True):
            row = list(map(str, values.flatten()))
            row[length * 2 :] = [""] * (len(row) - length * 2)
            writer.writerow([("fall", "rise")[label], *row])
    return path


@pytest.fixture
def arrays(tmp_path):
    x, y, lengths = waves()
    np.savez(tmp_path / "waves.npz", x=x, y=y, lengths=lengths)
    return tmp_path / "waves.npz"


def run(source, tmp_path, **options):
    return train_run(NUMBERS, ClassifyOptions(**(SMALL | {"train": source, "out": tmp_path / "run"} | options)))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_all_forms_hold_the_same_sequences(tmp_path):
    x, y, lengths = waves(10)
    np.savez(tmp_path / "plain.npz", x=x, y=y, lengths=lengths)
    np.savez_compressed(tmp_path / "packed.npz", x=np.asfortranarray(x.astype(">f8")), y=y.astype("S"), lengths=lengths)
    shuffled = np.random.default_rng(1).permutation
    long = Layout(series="id", time="t")
    found = [
        read_measured(tmp_path / "plain.npz", Layout()),
        read_measured(tmp_path / "packed.npz", Layout()),
        read_measured(write_long(tmp_path / "long.csv", x, y, lengths), Layout(series="id", numbers=("a", "b"))),
        read_measured(write_long(tmp_path / "mixed.csv.gz", x, y, lengths, order=shuffled), long),
        read_measured(write_wide(tmp_path / "wide.csv", x, y, lengths), Layout(step_size=2)),
    ]
    for one in found:
        order = [one.names.index(f"s{i}") if one.names[0][0] == "s" else i for i in range(10)]
        for row, place in enumerate(order):
            assert one.frames[place].dtype == np.float32
            assert np.array_equal(one.frames[place], x[row, : lengths[row]])
    # bytes stay bytes
    assert [one.frames.values.dtype for one in found[:2]] == [np.uint8, np.float32]
    assert found[0].labels.tolist() == found[1].labels.tolist() == list(map(str, y))
    assert found[2].labels[:2].tolist() == ["fall", "rise"]
    assert "brought into the order of 't'" in found[3].notes[0]
    assert found[4].read[:2] == ("n0", "n1")


def test_missing_numbers_are_those_before(tmp_path):
    table = tmp_path / "gaps.csv"
    table.write_text("id,label,a,b,note\n1,x,,5,u\n1,x,2,,u\n2,y,NA,7,u\n1,x,nan,6,v\n2,y,9,8,v\n")
    found = read_measured(table, Layout(series="id"))
    assert found.read == ("a", "b")
    np.testing.assert_array_equal(found.frames[0], [[np.nan, 5], [2, 5], [2, 6]])
    np.testing.assert_array_equal(found.frames[1], [[np.nan, 7], [9, 8]])
    assert "hold no numbers are not read: note" in found.notes[0]
    assert found.notes[1].startswith("4 of 10 numbers")
    np.testing.assert_array_equal(found.frames.filled(np.array([3.0, 0]))[1][0], [3, 7])
    values = np.array([[[1.0], [np.nan], [4.0]], [[np.nan], [2.0], [np.nan]]])
    np.savez(tmp_path / "gaps.npz", x=values, y=np.array(["u", "v"]), lengths=[3, 2])
    arrays = read_measured(tmp_path / "gaps.npz", Layout())
    np.testing.assert_array_equal(arrays.frames[0][:, 0], [1, 1, 4])
    np.testing.assert_array_equal(arrays.frames[1][:, 0], [np.nan, 2])
    assert arrays.notes[0].startswith("2 of 5 numbers")


def test_moments_are_those_of_all_frames_and_pass_over_gaps(monkeypatch):
    monkeypatch.setattr("recur.data.frames.COUNTED", 64)
    x = 1e4 + np.random.default_rng(0).standard_normal((40, 9, 3))
    lengths = np.arange(40) % 9 + 1
    x[5, 0, 1] = np.nan
    frames = Frames.over(x.reshape(-1, 3), np.arange(40) * 9, lengths)
    mean, deviation = frames.moments()
    whole = np.concatenate([row[:n] for row, n in zip(x, lengths, strict=True)])
    np.testing.assert_allclose(mean, np.nanmean(whole, axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, np.nanstd(whole, axis=0), rtol=1e-9)
    half = frames.take(np.arange(0, 40, 2))
    assert half.lengths.tolist() == lengths[::2].tolist()
    assert np.array_equal(half[3], frames[6])
    together = scaling(mean, deviation, "together")
    np.testing.assert_allclose(together[1], np.nanstd(whole[~np.isnan(whole).any(1)]), rtol=1e-2)
    assert scaling(np.array([5.0, 2.0]), np.array([0.0, 3.0]), "each")[1].tolist() == [1.0, 3.0]


@pytest.mark.parametrize("form", ["npz", "long", "wide"])
def test_waves_are_told_apart_and_the_run_answers(form, tmp_path, capsys):
    x, y, lengths = waves(72)
    new, truth, ends = waves(20, seed=1)
    files, options = {}, {"npz": {}, "long": {"series": "id", "time": "t"}, "wide": {"step_size": 2}}[form]
    for name, own in (("train", (x, y, lengths)), ("new", (new, truth, ends))):
        file = tmp_path / f"{name}.{'npz' if form == 'npz' else 'csv'}"
        if form == "npz":
            np.savez(file, x=own[0], y=own[1], lengths=own[2])
        else:
            (write_long if form == "long" else write_wide)(file, *own)
        files[name] = file
    made = run(files["train"], tmp_path, epochs=8, learning_rate=0.03, dropout=0.0, **options)
    found = metrics(made)
    assert found["rows"] == {"train": 52, "validation": 6, "test": 14}
    assert found["test"]["accuracy"] > 0.9
    assert found["numbers"] == 2
    network = recur.load(made)
    # mean and deviation are those of the training part, not of all
    whole = np.concatenate([row[:n] for row, n in zip(x, lengths, strict=True)])
    assert not np.allclose(network.model.mean, whole.mean(0), atol=1e-3)
    assert np.allclose(network.model.mean, whole.mean(0), atol=10)
    given = [values[:end] for values, end in zip(new, ends, strict=True)]
    answers = network.predict(given)
    right = np.mean(
        [a.label == ("fall", "rise", "0", "1")[t + 2 * (form == "npz")] for a, t in zip(answers, truth, strict=True)]
    )
    assert right == network.evaluate(files["new"]).accuracy > 0.9
    assert "was trained on" in network.evaluate(files["train"]).notes[0]
    page = (made / "report.html").read_text()
    assert "What it says while it reads" in page
    capsys.readouterr()
    assert main(["predict", str(made), "--file", str(files["new"])]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [answer.label for answer in answers]
    assert lines[3][2] == ("s3" if form == "long" else "3")
    assert main(["predict", str(made), "--file", str(files["new"]), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[0])["probabilities"]) == {a.label for a in answers}
    assert main(["evaluate", str(made), str(files["new"])]) == 0
    assert "20 sequences" in capsys.readouterr().out
    assert main(["flow", str(made), "--rows", "4", "--out", str(tmp_path / "flow")]) == 0
    assert (tmp_path / "flow" / "flow.html").exists()


def test_a_resumed_run_is_the_same_to_the_bit(arrays, tmp_path):
    options = SMALL | {"train": arrays, "epochs": 2, "shift": 2, "stretch": 0.2, "time_mask": 2, "average": 0.9}
    whole = train_run(NUMBERS, ClassifyOptions(**options, out=tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train_run(NUMBERS, ClassifyOptions(**options, out=tmp_path / "cut"), StopsAfter(4))
    assert main(["train", "classify", "--resume", "--out", str(tmp_path / "cut")]) == 0
    first, second = (recur.load(made).model.state_dict() for made in (whole, tmp_path / "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_command_line_tells_numbers_from_texts(arrays, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--overwrite", "--epochs", "1", "--hidden-size", "4", "--no-baselines"]
    assert main(["train", "classify", "--train", str(arrays), "--cell", "rnn,gru", *out]) == 0
    assert {"rnn", "gru"} == set(metrics(tmp_path / "run")["cells"])
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "a b,x\nc d,y\n" * 12)
    assert main(["train", "classify", "--train", str(texts), *out]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), str(texts), "--series", "id"]) == 2
    assert "--series is no flag" in capsys.readouterr().err
    for given, told in (
        (["--train", str(arrays), "--vocabulary", "5"], "--vocabulary is for texts, and"),
        (["--train", str(texts), "--shift", "5"], "--shift is for sequences of numbers, and"),
        (["--train", str(texts), "--numbers", "a"], "name the column that tells sequences apart with --series"),
        (["--train", str(texts), "--series", "a", "--step-size", "2"], "must not be given together"),
    ):
        assert main(["train", "classify", *given, *out]) == 2
        assert told in capsys.readouterr().err


def test_bad_tables_are_named(tmp_path):
    def refused(text, told, **layout):
        table = tmp_path / "bad.csv"
        table.write_text(text)
        with pytest.raises(InputError, match=told):
            read_measured(table, Layout(**layout))

    long = {"series": "id"}
    refused(
        "id,label,a\n1,x,1\n1,y,2\n", r"line 3: all rows of a sequence must have one label, found 'y' after", **long
    )
    refused(
        "id,label,a\n1,x,1\n2,y,b\n", r"line 3: expected a number as 'a', or nothing, found 'b'", numbers=("a",), **long
    )
    refused("id,label,a\n1,x,1\n2,y,inf\n", r"line 3: expected a finite number as 'a', found 'inf'", **long)
    refused("id,label,a\n1,x,1\n2,y,1e39\n", r"line 3: expected a finite number", **long)
    refused("id,label,a\n1,x,1\n,y,1\n", r"line 3: expected a value as 'id'", **long)
    refused("id,label,a\n1,x,u\n", r"must have columns of numbers besides id, label", **long)
    refused(
        "id,label,a\n1,x,1\n", r"no column 'c\*' for --numbers.*the columns are id, label, a", numbers=("c*",), **long
    )
    refused("id,label,a\n1,x,1\n", r"'a' is asked for twice", numbers=("a", "?"), **long)
    refused("id,t,label,a\n1,5,x,1\n1,5,x,2\n", r"line 3: each step .* a second '5' in '1'", time="t", **long)
    refused("id,t,label,a\n1,5,x,1\n1,u,x,2\n", r"line 3: expected a time as 't'", time="t", **long)
    refused("label,a,b,c\nx,1,2,3\n", r"--step-size 2 must go into the 3 columns", step_size=2)
    refused("label,a,b\nx,1,2\ny,,\n", r"line 3: expected numbers, found none in the whole row", step_size=1)
    refused("label,a,b\nx,1,2\n", r"--time is for tables", step_size=1, time="a")


def test_bad_arrays_are_named(tmp_path):
    x, y, _lengths = waves(6)

    def refused(told, **arrays):
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(InputError, match=told):
            read_measured(tmp_path / "bad.npz", Layout())

    refused("must have an array 'y', found x", x=x)
    refused(r"y must be whole numbers or texts \[N\] = \[6\]", x=x, y=y[:4])
    refused(r"y must be whole numbers or texts", x=x, y=y / 2)
    refused("found Python objects", x=x, y=y.astype(object))
    refused("y must not be empty, got nothing in row 2", x=x, y=np.array(["a", "b", "", "a", "b", "a"]))
    refused("lengths must be from 1 to T = 12, got 13 in row 1", x=x, y=y, lengths=[1, 13, 1, 1, 1, 1])
    refused(r"lengths must be whole numbers \[N\] = \[6\]", x=x, y=y, lengths=[1.5] * 6)
    refused(r"x must be numbers \[N, T, D\] or \[N, T\]", x=x.ravel(), y=y)
    infinite = x.astype(np.float64)
    infinite[1, 2, 1] = np.inf
    refused("got inf in row 1, step 2", x=infinite, y=y)
    # what lies behind an end is not read
    infinite[1, 2, 1], infinite[2, 11, 0] = 0, np.nan
    np.savez(tmp_path / "good.npz", x=infinite, y=y, lengths=[11] * 6)
    assert not read_measured(tmp_path / "good.npz", Layout()).notes
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    with pytest.raises(InputError, match="expected arrays of NumPy"):
        read_measured(tmp_path / "cut.npz", Layout())
    np.save(tmp_path / "alone.npy", x)
    assert len(read_measured(tmp_path / "alone.npy", Layout(), labelled=False).frames) == 6
    with pytest.raises(InputError, match="must have an array 'y'"):
        read_measured(tmp_path / "alone.npy", Layout())


def test_a_run_refuses_what_does_not_fit(arrays, tmp_path):
    x, y, _lengths = waves(48)

    def refused(told, **options):
        with pytest.raises(InputError, match=told):
            run(options.pop("train", arrays), tmp_path, overwrite=True, **options)

    np.savez(tmp_path / "one.npz", x=x, y=np.zeros(48, int))
    refused("must hold at least two labels, got only '0'", train=tmp_path / "one.npz")
    np.savez(tmp_path / "all.npz", x=x, y=np.arange(48))
    refused("a label of its own for each of 48", train=tmp_path / "all.npz")
    np.savez(tmp_path / "test.npz", x=x, y=y + 1)
    refused(r"test.npz, row 1: the label '2' is not among those of the training data, 0, 1", test=tmp_path / "test.npz")
    np.savez(tmp_path / "test.npz", x=x[..., :1], y=y)
    refused("test.npz must have 2 numbers in a step, as the training file has, got 1", test=tmp_path / "test.npz")
    network = recur.load(run(arrays, tmp_path))
    for given, told in (
        ([np.zeros((3, 1))], r"sequence 0, .* must be numbers \[T, D\] with D = 2"),
        ([np.zeros((3, 2)), np.full((3, 2), np.inf)], "sequence 1, .* finite"),
        (["text"], "must be arrays of numbers, got the text 'text'; give a file"),
    ):
        with pytest.raises(InputError, match=told):
            network.predict(given)
    # a gap is what stands before it, or the mean
    gap = np.array([[np.nan, 5.0], [3.0, np.nan]])
    filled = np.array([[float(network.model.mean[0]), 5.0], [3.0, 5.0]], np.float32)
    assert network.predict([gap]) == network.predict([filled])


def test_nothing_of_test_or_validation_reaches_the_network(tmp_path):
    x, y, _lengths = waves(60)
    weights = []
    for changed in (False, True):
        values = {"train": x[:40], "validation": x[40:50], "test": x[50:]}
        if changed:
            values |= {name: 255 - values[name] for name in ("validation", "test")}
        labels = {"train": y[:40], "validation": y[40:50], "test": y[50:]}
        for name, own in values.items():
            np.savez(tmp_path / f"{name}.npz", x=own, y=labels[name])
        files = {name: tmp_path / f"{name}.npz" for name in values}
        made = run(files.pop("train"), tmp_path / str(changed), **files)
        weights.append(recur.load(made).model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_simple_methods_know_what_they_can(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    # a step up or down at any place: no mean knows it
    rows = []
    for label in labels:
        place = generator.integers(8, 22)
        step = np.where(np.arange(30) < place, 0.0, 1.0)
        rows.append((step if label else 1 - step)[:, None] + 0.05 * generator.standard_normal((30, 1)))
    part = Part(Frames(rows, 1), labels, list(map(str, range(60))))
    parts = [Part(part.frames.take(i), labels[i], [str(n) for n in i]) for i in np.split(np.arange(60), [30, 45])]
    found, notes = run_baselines(*parts, 2, ["majority", "flattened", "random-convolutions"])
    reached = {one.name: one.test for one in found}
    assert reached["majority"] <= 0.6
    assert reached["random-convolutions"] >= 0.9
    assert reached["flattened"] >= 0.9
    assert not notes
    uneven = parts[0]._replace(frames=Frames([row[: 10 + n % 9] for n, row in enumerate(rows[:30])], 1))
    assert [one.name for one in run_baselines(uneven, *parts[1:], 2, ["flattened", "majority"])[0]] == ["majority"]
    alone = random_convolutions(uneven, uneven, uneven, 2)[0]
    one_by_one = np.concatenate(
        [
            random_convolutions(uneven, uneven, Part(uneven.frames.take(np.array([n])), labels[[n]], ["n"]), 2)[1]
            for n in range(3)
        ]
    )
    assert np.array_equal(alone[:3], one_by_one)


def test_beginnings_are_answered_as_if_they_were_all(arrays, tmp_path):
    network = recur.load(run(arrays, tmp_path, bidirectional=True, dropout=0.5))
    sequence = waves(1)[0][0].astype(np.float32)
    network.model.train()
    ends, found = beginnings(network.model, sequence)
    assert network.model.training
    assert ends.tolist() == list(range(1, 13))
    alone = network.predict([sequence[:5]])[0]
    assert found[4].max() == pytest.approx(alone.probability, abs=1e-6)


def test_bytes_are_not_widened_but_in_batches(arrays):
    frames = read_measured(arrays, Layout()).frames
    (batch,) = FrameBatches(frames.take(np.arange(8)), None, 8, seed=0, shuffle=False)
    assert batch.frames.dtype == torch.float32
    assert isinstance(frames.values.base, np.ndarray)
    assert frames.values.dtype == np.uint8
    assert frames.take(np.arange(4)).values is frames.values


@pytest.mark.parametrize("by", ["rows", "pixels"])
def test_the_script_writes_pictures_as_sequences(by, tmp_path):
    script = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "mnist_rows.py"))
    images, labels = np.arange(4 * 28 * 28).reshape(4, 28, 28).astype(np.uint8), np.array([3, 1, 3, 9], np.uint8)
    for name in ("train", "t10k"):
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    script["main"](data=tmp_path, out=tmp_path / "out", by=by)
    found = read_measured(tmp_path / "out" / {"rows": "test.npz", "pixels": "pixels-test.npz"}[by], Layout())
    assert found.labels.tolist() == ["3", "1", "3", "9"]
    wanted = images[2] if by == "rows" else images[2].reshape(784, 1)
    assert np.array_equal(found.frames[2], wanted)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(ValueError, match="must be an idx file of bytes"):
        script["main"](data=tmp_path, out=tmp_path / "out", by=by)


def test_the_task_on_texts_names_the_one_on_numbers(tmp_path):
    with pytest.raises(InputError, match=r"x\.npz is asked for as numbers; give recur\.tasks\.numbers\.task\.NUMBERS"):
        train_run(CLASSIFY, ClassifyOptions(train=str(tmp_path / "x.npz"), out=str(tmp_path / "run")))
