import gzip
import json
import math
import signal

import numpy as np
import pytest
import torch

import recur
from recur.app.main import main
from recur.data.coders import learn_coder
from recur.data.stream import write_stream
from recur.errors import InputError
from recur.models.language import LanguageConfig, LanguageModel
from recur.tasks.checkpoint import load_checkpoint
from recur.tasks.generate import data as generate_data
from recur.tasks.generate import model as generate_model
from recur.tasks.generate.data import read_text
from recur.tasks.generate.model import BLOCK, LanguageObjective, surprise, surprise_of
from recur.tasks.generate.ngrams import KneserNey
from recur.tasks.generate.options import GenerateOptions
from recur.tasks.generate.task import GENERATE
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import train_run
from recur.tasks.progress import Progress

SMALL = {
    "hidden_size": 16,
    "embedding_size": 8,
    "batch_size": 4,
    "steps": 16,
    "threads": 1,
    "epochs": 2,
    "watch_gradients": 0,
}
SENTENCES = ["the cat sat on the mat.", "a dog ate the cat!", "my dog sat.", "the mat ate a dog?"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"{line}\n" for line in rng.choice(SENTENCES, 300)))
    return path


def train(text, out, **options):
    return train_run(GENERATE, GenerateOptions(**SMALL | {"train": text, "out": out} | options))


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(text, out, epochs=4, learning_rate=0.02, average=0.9, watch_gradients=50)


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_count_tokens_bits_and_nats(trained, text):
    found = metrics(trained)
    test, n = found["test"], len(text.read_text())
    assert found["rows"] == {
        "train": int(n * 0.9) - 1,
        "validation": int(n * 0.95) - int(n * 0.9) - 1,
        "test": n - int(n * 0.95) - 1,
    }
    assert test["tokens"] == test["characters"] - 1 == found["rows"]["test"]
    assert test["perplexity"] == pytest.approx(math.exp(test["loss"]))
    assert test["bits_per_token"] == pytest.approx(test["loss"] / math.log(2))
    assert test["bits_per_character"] == pytest.approx(test["bits_per_token"] * test["tokens"] / test["characters"])
    assert test["perplexity"] < found["baselines"]["unigram"]["perplexity"] / 2
    assert 1 < found["baselines"]["7-gram"]["perplexity"] < 2


def test_the_ids_on_disk_are_deleted_at_the_end(trained):
    assert [path.name for path in trained.parent.iterdir()] == ["run"]
    report = (trained / "report.html").read_text()
    assert "Most surprising tokens" in report
    assert "Memory" in report


def test_evaluate_reads_a_text_as_the_run_did(trained, text, tmp_path, capsys):
    whole = text.read_text()
    part = tmp_path / "part.txt.gz"
    part.write_bytes(gzip.compress(whole[int(len(whole) * 0.95) :].encode()))
    scores = recur.load(trained).evaluate(part)
    assert scores.loss == pytest.approx(metrics(trained)["test"]["loss"], rel=1e-5)
    assert not scores.notes
    assert main(["evaluate", str(trained), str(text)]) == 0
    shown = capsys.readouterr().out
    assert f"characters          {len(whole):,}" in shown
    assert "is the file that the network was trained on" in shown
    assert main(["evaluate", str(trained), str(text), "--temperature", "1"]) == 2
    assert "--temperature says how a text is written" in capsys.readouterr().err
    part.write_bytes(gzip.compress(b"the c\xc3\xa9t\n"))
    assert "1 of 7 tokens do not stand in the training text" in recur.load(trained).evaluate(part).notes[0]


def test_generate_writes_what_it_learned_and_the_same_for_a_seed(trained, capsys):
    assert main(["generate", str(trained), "--prefix", "the c", "--length", "40", "--temperature", "0"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("the cat")
    assert len(text) == len("the c") + 40 + 1
    predictor = recur.load(trained)
    one, same, other = ("".join(predictor.generate("a ", 30, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert "".join(predictor.generate("a ", 30, top_k=1)) == "".join(predictor.generate("a ", 30, temperature=0))


def test_generate_is_the_text_that_the_whole_prefix_leads_to(trained):
    predictor = recur.load(trained)
    text = "the c" + "".join(predictor.generate("the c", 20, temperature=0))
    ids = torch.from_numpy(predictor.coder.encode(text))[None]
    scores = predictor.model.scores(predictor.model(ids).hidden)[0]
    scores[:, 1] = -math.inf
    assert scores[4:-1].argmax(-1).tolist() == ids[0, 5:].tolist()


def test_predict_continues_lines(trained, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("the c\na d\n")
    assert main(["predict", str(trained), "--file", str(lines), "--length", "9", "--temperature", "0"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the cat")
    assert len(first.replace("\\n", "\n")) == 5 + 9
    assert second.startswith("a dog")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prefix", "the é ß"], "the prefix has the characters 'ßé', which the training text does not have"),
        (["--length", "0"], "`length` must be at least 1, got 0"),
        (["--temperature", "-1"], "`temperature` must be 0 or greater, got -1.0"),
        (["--top-p", "0"], "`top_p` must be above 0, at most 1, got 0"),
        (["--top-k", "0"], "`top_k` must be at least 1, got 0"),
        (["--seed", "-1"], "`seed` must be from 0 to"),
    ],
)
def test_generate_refuses(trained, capsys, flags, words):
    assert main(["generate", str(trained), *flags]) == 2
    assert words in capsys.readouterr().err


def test_generate_wants_a_language_model(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"recur": "run", "task": "classify"}))
    assert main(["generate", str(tmp_path)]) == 2
    assert "must be a run of recur train generate, got one of 'classify'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "own",
    # windows of 16 tokens leave a mini-batch of 6 open
    [{"cell": "lstm", "recurrent_dropout": 0.1}, {"cell": "ttt", "heads": 2, "mini_batch": 6, "residual": True}],
    ids=["lstm", "ttt"],
)
def test_a_run_stopped_in_an_epoch_carries_its_state_on_to_the_bit(own, text, tmp_path, monkeypatch):
    options = own | {
        **{"epochs": 2, "dropout": 0.2, "word_dropout": 0.1},
        **{"change_penalty": 1.0, "activation_penalty": 1.0, "tied": True, "average": 0.9, "baselines": False},
    }
    straight = train(text, tmp_path / "straight", **options)
    measure, calls = LanguageObjective.measure, []

    def stopping(self, batch):
        calls.append(1)
        if len(calls) == 20:
            signal.raise_signal(signal.SIGINT)
        return measure(self, batch)

    monkeypatch.setattr(LanguageObjective, "measure", stopping)
    with pytest.raises(Interrupted):
        train(text, tmp_path / "stopped", **options)
    state = load_checkpoint(tmp_path / "stopped" / "trainer.ckpt")
    assert state["counters"]["batch"] == 20
    assert any(leaf.abs().max() > 0 for leaf in state["objective"]["leaves"])
    # what was read is not read again
    monkeypatch.setattr(generate_data, "learn_coder", None)
    assert main(["train", "generate", "--resume", "--out", str(tmp_path / "stopped")]) == 0
    names = ["model.safetensors"]
    assert [(straight / n).read_bytes() for n in names] == [(tmp_path / "stopped" / n).read_bytes() for n in names]
    assert metrics(tmp_path / "stopped")["test"] == metrics(straight)["test"]


def test_a_gradient_goes_back_through_a_window_and_the_state_beyond():
    torch.manual_seed(0)
    model = LanguageModel(LanguageConfig(vocabulary_size=9, cell="gru", hidden_size=6))
    windows = [torch.randint(1, 9, (2, 5)) for _ in range(3)]
    objective = LanguageObjective(model)
    batch = type("Window", (), {})
    losses = []
    for ids in windows:
        batch.inputs, batch.targets = ids[:, :-1], ids[:, 1:]
        losses.append(objective.measure(batch)[0]["loss"])
    losses[-1].backward()
    whole, state = torch.cat([ids[:, :-1] for ids in windows], 1), None
    read = model(whole, state)
    targets = torch.cat([ids[:, 1:] for ids in windows], 1)
    each = model.losses(read.hidden, targets).view(2, 3, 4).mean((0, 2))
    torch.testing.assert_close(torch.stack([loss.detach() for loss in losses]), each)
    objective.begin("train")
    batch.inputs, batch.targets = windows[2][:, :-1], windows[2][:, 1:]
    assert float(objective.measure(batch)[0]["loss"].detach()) != pytest.approx(float(losses[2].detach()))


def test_penalties_change_the_gradient_and_not_the_loss_that_is_reported():
    torch.manual_seed(0)
    model = LanguageModel(LanguageConfig(vocabulary_size=9, cell="gru", hidden_size=6))
    batch = type("Window", (), {})
    batch.inputs, batch.targets = torch.randint(1, 9, (2, 2, 5))
    found = []
    for penalties in ((0.0, 0.0), (2.0, 1.0)):
        model.zero_grad()
        loss = LanguageObjective(model, *penalties).measure(batch)[0]["loss"]
        loss.backward()
        found.append((float(loss.detach()), model.layers[0].weight_hh_l0.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


@pytest.mark.parametrize("unit", ["words", "spaces", "bpe"])
def test_other_tokens_train_and_write(text, tmp_path, unit, capsys):
    if unit == "bpe":
        pytest.importorskip("sentencepiece")
    options = {"tokens": unit, "vocabulary": 330, "batch_size": 2, "epochs": 6, "learning_rate": 0.03}
    folder = train(text, tmp_path / "run", cell="gru", tied=True, lower=True, **options)
    found = metrics(folder)
    assert found["test"]["bits_per_character"] < 1.5
    assert found["test"]["tokens"] < found["test"]["characters"]
    assert main(["generate", str(folder), "--prefix", "the cat", "--length", "12"]) == 0
    written = capsys.readouterr().out
    assert written.startswith("the cat")
    assert set(written.lower()) <= set(text.read_text()) | {"\n"}


def test_parts_come_from_files_where_they_are_given(tmp_path):
    for name, content in (("train", "abc\n" * 60), ("validation", "abd\n" * 9), ("test", "cab\n" * 8)):
        (tmp_path / f"{name}.txt").write_text(content)
    files = {name: tmp_path / f"{name}.txt" for name in ("train", "validation", "test")}
    data = read_text(GenerateOptions(**files, out=tmp_path / "run", tokens="spaces"), Progress())
    assert {part: len(stream) for part, stream in data.parts.items()} == {"train": 120, "validation": 18, "test": 16}
    assert data.coder.tokens[2:] == ["\n", "abc"]
    assert data.notes == [
        "9 of 18 tokens of the validation part do not stand in the training part; they count as <unk>, which is hard "
        "to foretell"
    ]
    assert data.counts["train"] == [0, 0, 60, 60]
    again = read_text(GenerateOptions(**files, out=tmp_path / "run", tokens="characters"), Progress())
    assert again.coder.tokens[2:] == ["\n", "a", "b", "c"]
    again.delete()
    assert not (tmp_path / "run.tokens").exists()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "is empty; give a file with text"),
        (b"\x89PNG\0\0", {}, "is not text in UTF-8|is a binary file"),
        (b"short\n" * 10, {}, r"the train part must have more than 64 tokens, a window for each of --batch-size 4"),
        (b"abc\n" * 40, {"validation_share": 0.01}, r"the validation part must have more than 4 tokens"),
        (b" " * 500, {"tokens": "words"}, "must have tokens, got blanks only"),
        (b"abc\n" * 90, {"test_share": 0.6, "validation_share": 0.4}, "must leave something to learn from, got 1"),
        (b"abc\n" * 90, {"ngram": 1}, "--ngram must be from 2 to 12, got 1"),
        (b"abc\n" * 90, {"steps": 0}, "--steps must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, content, options, words):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        train(path, tmp_path / "run", **options)
    assert [one.name for one in tmp_path.iterdir()] == ["text.txt"]


def test_a_text_is_scored_alike_in_one_row_and_in_several(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = LanguageModel(LanguageConfig(vocabulary_size=9, cell="gru", hidden_size=6))
    ids = torch.randint(1, 9, (3 * BLOCK + 40,)).tolist()
    stream = write_stream(tmp_path / "a.stream", [ids], dtype="uint8")
    one = surprise(model, stream)
    hidden = model.eval()(torch.tensor([ids[:-1]])).hidden
    losses = model.losses(hidden, torch.tensor([ids[1:]]))[0]
    assert one.count == len(ids) - 1
    scores = one.scores(characters=len(ids))
    assert scores.interval[0] < scores.perplexity < scores.interval[1]
    assert one.total / one.count == pytest.approx(float(losses.mean()), rel=1e-5)
    assert one.excerpt == pytest.approx(losses[: len(one.excerpt)].tolist(), rel=1e-4)
    worst = sorted(one.worst, reverse=True)
    assert worst[0][0] == pytest.approx(float(losses.max()))
    assert worst[0][1] == int(losses.argmax()) + 1
    monkeypatch.setattr(generate_model, "ROW", 300)
    several = surprise(model, stream)
    assert several.count == 5 * (1539 // 5)
    assert several.total / several.count == pytest.approx(one.total / one.count, rel=0.05)


def test_an_ngram_model_is_scored_over_all_tokens_but_the_first(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 5, 1300)
    stream = write_stream(tmp_path / "a.stream", [ids], dtype="uint8")
    model = KneserNey(ids[:400] - 1, 3, 5)
    whole = model.losses(ids - 1)[1:]
    monkeypatch.setattr(generate_model, "READ", BLOCK)
    found = surprise_of(model, stream)
    assert found.count == 1299
    assert found.total == pytest.approx(whole.sum())
    assert found.excerpt == pytest.approx(whole.tolist())
    assert found.tokens.sum() == 1299


def test_the_flow_of_a_run_is_measured_on_its_validation_part(trained):
    predictor = recur.load(trained)
    example = predictor.example(None, 2)
    assert example.inputs[0].shape[0] == 2
    assert math.isfinite(float(example.loss(predictor.model(*example.inputs)).detach()))
    assert learn_coder("characters", ["ab"]).tokens[2:] == ["a", "b"]


def test_cells_are_compared_and_the_best_one_writes(text, tmp_path, capsys):
    folder = train(text, tmp_path / "run", cell=("gru", "rnn"), epochs=1, learning_rate=0.01, baselines=False)
    found = metrics(folder)
    assert set(found["members"]) == {"gru-1", "rnn-1"}
    best = min(found["members"], key=lambda name: found["members"][name]["validation"]["perplexity"])
    assert found["best"] == best
    assert recur.load(folder).config["network"]["cell"] == best.split("-")[0]
    assert not (tmp_path / "run.tokens").exists()
    report = (folder / "report.html").read_text()
    assert f"Written by {best} from the start of a line." in report


def test_a_text_that_chooses_and_scores_is_named(text, tmp_path):
    (tmp_path / "same.txt").write_bytes(text.read_bytes())
    files = {"train": text, "validation": text, "test": tmp_path / "same.txt"}
    data = read_text(GenerateOptions(**files, out=tmp_path / "run"), Progress())
    assert data.notes == ["validation and test part are the same text: the test figure is that which chose the epoch"]
    assert not read_text(GenerateOptions(train=text, out=tmp_path / "run"), Progress()).notes
