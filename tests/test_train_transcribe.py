"""`recur train transcribe`: CTC beside the sum over all paths, from tones to their texts, and what is refused."""

import csv
import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stopping import StopsAfter

import recur
from recur.app.main import main
from recur.errors import InputError, MissingExtra
from recur.models.ctc import align, best_path, ctc_losses, needed_steps, prefix_beam_search
from recur.models.transcriber import Transcriber, TranscriberConfig
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import train_run
from recur.tasks.progress import Progress
from recur.tasks.transcribe.edits import differences, distance
from recur.tasks.transcribe.options import TranscribeOptions
from recur.tasks.transcribe.scores import count_errors
from recur.tasks.transcribe.task import TRANSCRIBE
from recur.tasks.transcribe.units import Units

soundfile = pytest.importorskip("soundfile")

RATE = 4000
PITCHES = {"a": 300, "b": 800, "c": 1500}
SMALL = {"epochs": 1, "layers": 1, "hidden_size": 8, "mels": 12, "threads": 1, "batch_size": 8, "baselines": False}


def merged(path):
    """The text of a path."""
    return tuple(unit for unit, _ in itertools.groupby(path) if unit)


def enumerated(logs):
    """Of every text the logarithm of the sum over its paths, and the best of them."""
    sums, best = {}, {}
    for path in itertools.product(range(logs.shape[1]), repeat=len(logs)):
        value = sum(logs[step, unit] for step, unit in enumerate(path))
        text = merged(path)
        sums[text] = np.logaddexp(sums.get(text, -np.inf), value)
        best[text] = max(best.get(text, (-np.inf, ())), (value, path))
    return sums, best


def drawn(seed, steps=5, units=3):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(steps, units, dtype=torch.float64, generator=generator)).log_softmax(-1)


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_every_text_with_the_sum_over_its_paths(seed):
    logs = drawn(seed).numpy()
    sums, _ = enumerated(logs)
    found = prefix_beam_search(logs, len(sums))
    assert {tuple(text): pytest.approx(value) for text, value in found} == sums
    assert tuple(found[0][0]) == max(sums, key=sums.get)
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)
    nothing = float(logs[:, 0].sum())
    assert prefix_beam_search(logs, 9, least=1.0) == [([], pytest.approx(nothing))]
    for beam in (1, 2, 3):
        text, value = prefix_beam_search(logs, beam)[0]
        assert value <= sums[tuple(text)] + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_best_path_alignment_and_losses_are_those_of_all_paths(seed):
    logs = drawn(seed)
    sums, best = enumerated(logs.numpy())
    assert tuple(best_path(logs.numpy())) == merged(max(best.values())[1])
    for text, (_, path) in best.items():
        first = [step for step, unit in enumerate(path) if unit and (step == 0 or path[step - 1] != unit)]
        assert align(logs.numpy(), text) == first
    texts = list(sums)
    padded = torch.zeros(len(texts), 5, dtype=torch.int64)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = torch.tensor(text)
    many = [torch.full((len(texts),), 5), padded, torch.tensor([len(text) for text in texts])]
    losses = ctc_losses(logs.expand(len(texts), -1, -1), *many)
    torch.testing.assert_close(losses, -torch.tensor([float(sums[text]) for text in texts], dtype=torch.float64))


def test_the_most_probable_text_may_have_another_path_than_the_best_one():
    logs = np.log([[0.6, 0.4], [0.6, 0.4]])
    assert best_path(logs) == []
    assert prefix_beam_search(logs, 2)[0] == ([1], pytest.approx(math.log(0.64)))


def test_a_repeat_needs_a_blank_between_and_a_text_without_a_path_counts_nothing():
    assert needed_steps([3, 3, 3, 4]) == 6
    scores = torch.randn(2, 3, 4, requires_grad=True)
    targets = torch.tensor([[1, 1, 2], [1, 2, 3]])
    losses = ctc_losses(scores, torch.tensor([3, 3]), targets, torch.tensor([3, 3]))
    assert losses[0] == 0
    assert losses[1] > 0
    losses.sum().backward()
    assert scores.grad[0].abs().sum() == 0
    assert scores.grad[1].abs().sum() > 0
    with pytest.raises(InputError, match="`ids` must need at most T = 3 steps, got 3 that need 4"):
        align(scores[0].detach().log_softmax(-1).numpy(), [1, 1, 2])
    with pytest.raises(InputError, match="`beam` must be at least 1, got 0"):
        prefix_beam_search(scores[0].detach().numpy(), 0)


def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(slow_distance(a[1:], b[1:]) + (a[0] != b[0]), slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1)


def test_the_least_edits_are_found_and_named():
    generator = np.random.default_rng(0)
    for _ in range(40):
        a, b = ("".join(generator.choice(list("xyz"), generator.integers(0, 6))) for _ in range(2))
        pairs = differences(a, b)
        assert distance(a, b) == slow_distance(a, b) == sum(x != y for x, y in pairs)
        assert "".join(x or "" for x, _ in pairs) == a
        assert "".join(y or "" for _, y in pairs) == b


def test_errors_are_counted_by_characters_words_and_texts():
    found = count_errors(["two one", "six", "ten"], ["two on", "sax", "ten"])
    assert found.character_error_rate == pytest.approx(2 / 13)
    assert found.word_error_rate == pytest.approx(2 / 4)
    assert found.exact == pytest.approx(1 / 3)
    assert (found.substitutions, found.deletions, found.insertions, found.characters) == (1, 1, 0, 13)
    low, high = found.interval
    assert 0 <= low < 2 / 13 < high <= 1 / 3
    assert count_errors(["ab"], ["ab"]).interval == (0.0, 0.0)


def test_units_come_back_as_the_text():
    characters = Units.build(["two  One", "one"], "character", True, 1)
    assert characters.text(characters.ids(" Two one ")) == "two one"
    assert characters.ids("tax").tolist().count(1) == 2
    words = Units.build(["two one", "one"], "word", False, 2)
    assert words.vocabulary.words == ["one"]
    assert words.ids("one two").tolist() == [2, 1]
    assert characters.name(0) == "blank"
    assert "␣" in map(characters.name, range(len(characters.vocabulary)))


def test_what_lies_behind_a_row_never_matters():
    config = TranscriberConfig(input_size=3, units=4, stack=2, hidden_size=4, deltas=True, layers=2)
    model = Transcriber(config).eval()
    frames, lengths = torch.randn(2, 7, 3), torch.tensor([7, 3])
    changed = frames.clone()
    changed[1, 3:] = 7.0
    first, second = model(frames, lengths), model(changed, lengths)
    assert first.shape == (2, 4, 4)
    assert model.steps(lengths).tolist() == [4, 2]
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1, :2], second[1, :2])
    torch.testing.assert_close(model(frames[1:, :3], lengths[1:])[0], first[1, :2])


def tones(text, seed, rate=RATE):
    """A tone for each letter, in a little noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(0.12 * rate)) / rate
    gap = np.zeros(int(0.04 * rate))
    pieces = [piece for letter in text for piece in (np.sin(2 * math.pi * PITCHES[letter] * time), gap)]
    samples = 0.3 * np.concatenate([gap, *pieces])
    return (samples + 0.003 * generator.standard_normal(len(samples))).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    """Ninety sounds of two to four tones, named in a table."""
    generator = np.random.default_rng(1)
    (tmp_path / "sounds").mkdir()
    rows = []
    for number in range(90):
        text = "".join(generator.choice(list(PITCHES), generator.integers(2, 5)))
        name = f"sounds/{number}.{('wav', 'flac')[number % 2]}"
        soundfile.write(tmp_path / name, tones(text, number), RATE)
        rows.append((name, text, f"speaker {number % 9}"))
    return write(tmp_path / "tones.csv", rows)


def write(path, rows, head=("path", "text", "speaker")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))[1:]


def run(source, tmp_path, progress=None, **options):
    given = SMALL | {"train": source, "out": tmp_path / "run"} | options
    return train_run(TRANSCRIBE, TranscribeOptions(**given), progress)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_tones_are_written_down_and_the_run_answers(table, tmp_path, capsys):
    made = run(
        table, tmp_path, epochs=9, batch_size=4, learning_rate=0.02, hidden_size=16, baselines=True, dropout=0.0,
        time_mask=0, feature_mask=0, schedule="cosine", clip_global_norm=1.0, watch_gradients=0,
    )  # fmt: skip
    found = metrics(made)
    assert found["test"]["character_error_rate"] < 0.05
    assert found["beam"]["character_error_rate"] < 0.05
    assert found["rows"] == {"train": 65, "validation": 7, "test": 18}
    assert 0.4 < found["baselines"]["constant"]["character_error_rate"] < 1
    assert sorted(found["units"]) == ["a", "b", "c"]
    page = (made / "report.html").read_text()
    for shown in ("What is written while it hears", "ln energy", "Characters mixed up most", "beam 10"):
        assert shown in page
    network = recur.load(made)
    new = [str(tmp_path / f"{text}.wav") for text in ("abc", "cca")]
    for path in new:
        soundfile.write(path, tones(Path(path).stem, 7, 8000), 8000)
    answers = network.predict([*new, tones("ba", 3)])
    assert [answer.text for answer in answers] == ["abc", "cca", "ba"]
    seconds = [second for second, _ in answers[0].units]
    assert seconds == sorted(seconds)
    assert all(abs(second - 0.04 - 0.16 * place) < 0.15 for place, second in enumerate(seconds))
    assert answers[0].log_probability < 0
    assert [answer.text for answer in network.predict(new, beam=4)] == ["abc", "cca"]
    assert network.evaluate(table).exact > 0.9
    assert "was trained on" in network.evaluate(table, beam=2).notes[0]
    capsys.readouterr()
    assert main(["predict", str(made), *new, "--beam", "3"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["abc", "cca"]
    assert main(["predict", str(made), "--file", str(table), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 90
    assert lines[0].keys() == {"path", "text", "log_probability", "units"}
    assert main(["evaluate", str(made), str(table), "--beam", "2"]) == 0
    assert "character error rate" in capsys.readouterr().out
    assert main(["flow", str(made), "--out", str(tmp_path / "flow")]) == 0
    assert (tmp_path / "flow" / "flow.html").exists()


def test_words_between_pauses_are_told_apart(table, tmp_path):
    spaced = write(tmp_path / "words.csv", [(path, " ".join(text), s) for path, text, s in rows_of(table)])
    made = run(
        spaced,
        tmp_path,
        unit="word",
        baselines=True,
        cell="gru,rnn",
        features="mfcc",
        coefficients=6,
        deltas=True,
        beam=1,
    )
    found = metrics(made)
    assert found["baselines"]["words-between-pauses"]["character_error_rate"] == 0.0
    assert set(found["members"]) == {"gru-1", "rnn-1"}
    assert "beam" not in found


def test_a_resumed_run_is_the_same_to_the_bit(table, tmp_path):
    options = {"epochs": 2, "beam": 1}
    whole = run(table, tmp_path, out=tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        run(table, tmp_path, StopsAfter(13), out=tmp_path / "cut", **options)
    train_run(TRANSCRIBE, TranscribeOptions(train=table, out=tmp_path / "cut", resume=True))
    first, second = (recur.load(made).model.state_dict() for made in (whole, tmp_path / "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert metrics(whole)["test"] == metrics(tmp_path / "cut")["test"]


def test_neither_units_nor_means_know_of_the_other_parts(table, tmp_path):
    rows = rows_of(table)
    train, other = write(tmp_path / "train.csv", rows[:40]), rows[40:60]
    strange = [(path, text + "é", speaker) for path, text, speaker in other]
    given = {"validation": write(tmp_path / "v.csv", strange), "test": write(tmp_path / "t.csv", strange), "beam": 1}
    made = run(train, tmp_path, **given)
    found = metrics(made)
    assert sorted(found["units"]) == ["a", "b", "c"]
    assert any("20 test texts have a character that no training text has" in note for note in found["notes"])
    assert any("20 test sounds are in the training file too" in note for note in found["notes"])
    again = run(train, tmp_path, validation=write(tmp_path / "v2.csv", other), out=tmp_path / "b", test=train, beam=1)
    first, second = (recur.load(one).model for one in (made, again))
    assert torch.equal(first.mean, second.mean)


def test_a_group_stays_together(table, tmp_path):
    made = run(table, tmp_path, group="speaker", beam=1)
    assert all(count % 10 == 0 for count in metrics(made)["rows"].values())
    options = TranscribeOptions(train=str(table), test=str(table), group="speaker")
    notes = TRANSCRIBE.read(options, Progress()).notes
    assert any("test sounds are of a speaker of the training part" in note for note in notes)


def test_texts_that_are_too_long_for_their_sounds_are_left_out_or_refused(table, tmp_path):
    rows = rows_of(table)
    rows[0:2] = [(path, "abc" * 40, speaker) for path, _, speaker in rows[0:2]]
    train, other = write(tmp_path / "long.csv", rows[:30]), write(tmp_path / "other.csv", [*rows[:1], *rows[30:40]])
    made = run(train, tmp_path, validation=other, test=other, beam=1)
    assert any("2 training rows left out whose texts have more units" in note for note in metrics(made)["notes"])
    assert math.isfinite(metrics(made)["test"]["loss"])
    assert metrics(made)["rows"] == {"train": 28, "validation": 11, "test": 11}
    with pytest.raises(InputError, match="no text has a unit or fewer for each step"):
        run(write(tmp_path / "all.csv", rows[:2]), tmp_path, validation=other, test=other, overwrite=True)


def test_bad_input_is_named(table, tmp_path, monkeypatch):
    rows = rows_of(table)

    def refused(told, **options):
        with pytest.raises(InputError, match=told):
            run(options.pop("train", table), tmp_path, overwrite=True, **options)

    refused(r"bad.csv, line 3: expected a value as 'text', found none", train=bad(tmp_path, rows, 1, 1, "  "))
    refused(r"bad.csv, line 3: there is no file .*gone.wav.*; paths are", train=bad(tmp_path, rows, 1, 0, "gone.wav"))
    refused("there is no column 'said'; the columns are path, text, speaker", text="said")
    refused("there is no column 'spoken'", group="spoken")
    refused("is a folder; give a table", train=tmp_path / "sounds")
    refused("there is no file", train=tmp_path / "none.csv")
    refused("--stack must be at least 1, got 0", stack=0)
    refused("--gain must be from 0 to 100", gain=-1.0)
    refused("enough sounds to cut a validation part off, got 1", train=write(tmp_path / "one.csv", rows[:1]))
    broken = tmp_path / "sounds" / "broken.wav"
    broken.write_text("no sound")
    refused(r"broken.wav must be a file of sound", train=bad(tmp_path, rows, 1, 0, "sounds/broken.wav"))
    soundfile.write(broken, tones("a", 1, 8000), 8000)
    mixed = bad(tmp_path, rows, 1, 0, "sounds/broken.wav")
    refused(r"same number of samples a second, found .*8000.*--rate 4000", train=mixed)
    made = run(mixed, tmp_path, rate=RATE, beam=1, overwrite=True)
    assert any("8,000 samples" in note for note in metrics(made)["notes"])
    network = recur.load(made)
    with pytest.raises(InputError, match="several sounds"):
        network.predict("a.wav")
    with pytest.raises(InputError, match="`beam` must be at least 1, got 0"):
        network.predict([tones("a", 1)], beam=0)
    with pytest.raises(InputError, match=r"samples must be \[n\] with n at least 100"):
        network.predict([np.zeros(3, np.float32)])
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtra, match="soundfile"):
        run(table, tmp_path, overwrite=True)


def bad(tmp_path, rows, row, column, value):
    """A table with one cell changed."""
    changed = [list(cells) for cells in rows]
    changed[row][column] = value
    return write(tmp_path / "bad.csv", changed)


@pytest.fixture
def digit_strings():
    path = Path(__file__).parent.parent / "examples" / "digit_strings.py"
    spec = importlib.util.spec_from_file_location("digit_strings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digit_strings_hear_no_recording_in_two_parts(digit_strings, tmp_path, capsys):
    generator = np.random.default_rng(0)
    source, out = tmp_path / "recordings", tmp_path / "out"
    source.mkdir()
    noises = {}
    for digit, speaker, number in itertools.product(range(10), ("ann", "bob"), (0, 4, 5, 44, 45, 49)):
        name = f"{digit}_{speaker}_{number}"
        noises[name] = 0.1 * generator.standard_normal(300)
        soundfile.write(source / f"{name}.wav", noises[name], 1000)
    digit_strings.main(recordings=source, out=out, train=12, validation=5, test=6, seed=3)
    heard = {}
    for part, count in {"train": 12, "validation": 5, "test": 6}.items():
        rows = rows_of(out / f"{part}.csv")
        assert len(rows) == count
        heard[part] = set()
        for path, text, speaker, names in rows:
            names = names.split()
            assert 3 <= len(names) <= 7
            assert text == " ".join(digit_strings.WORDS[int(name[0])] for name in names)
            assert all(name.split("_")[1] == speaker for name in names)
            samples, _ = soundfile.read(out / path)
            # a recording that is in the sound is like a piece of it, in the order that the table says
            likeness = {name: likest(samples, noise) for name, noise in noises.items()}
            assert {name for name, (value, _) in likeness.items() if value > 0.9} == set(names)
            heard[part] |= set(names)
            if len(set(names)) == len(names):
                places = [likeness[name][1] for name in names]
                assert places == sorted(places)
    assert {int(name.split("_")[2]) for name in heard["test"]} == {0, 4}
    assert {int(name.split("_")[2]) for name in heard["validation"]} == {45, 49}
    assert {int(name.split("_")[2]) for name in heard["train"]} == {5, 44}
    digit_strings.main(recordings=source, out=tmp_path / "again", train=2, validation=5, test=6, seed=3)
    assert (tmp_path / "again" / "test" / "00005.wav").read_bytes() == (out / "test" / "00005.wav").read_bytes()
    with pytest.raises(SystemExit, match="must hold recordings"):
        digit_strings.main(recordings=out, out=tmp_path / "none")


def likest(samples, piece):
    """The largest cosine of `piece` with a stretch of `samples`, and where."""
    products = np.correlate(samples, piece, "valid")
    energy = np.convolve(samples**2, np.ones(len(piece)), "valid")
    likeness = products / np.sqrt(energy.clip(1e-9) * (piece**2).sum())
    return float(likeness.max()), int(likeness.argmax())
