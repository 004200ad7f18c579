"""From pairs of texts to a translator: parts, files, a language that is learned, resuming, scores."""

import gzip
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recur.app.main import main
from recur.data.batches import PairBatches
from recur.errors import InputError, MissingExtra
from recur.models import EncoderDecoder, EncoderDecoderConfig
from recur.tasks.bleu import bleu, sentence_bleu
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import resumed_options, train_run
from recur.tasks.predictor import load
from recur.tasks.progress import Progress
from recur.tasks.translate.data import read_corpus, split
from recur.tasks.translate.dictionary import Dictionary
from recur.tasks.translate.model import TranslateObjective, perplexity
from recur.tasks.translate.options import TranslateOptions
from recur.tasks.translate.task import TRANSLATE
from recur.tasks.writing import begin_with_frequencies

torch.set_num_threads(1)

WORDS = {"ba": "one", "di": "two", "ku": "ten", "mo": "red", "la": "sun", "te": "sea"}
SMALL = {
    "subwords": 320,
    "cell": "gru",
    "hidden_size": 8,
    "embedding_size": 8,
    "epochs": 1,
    "batch_size": 16,
    "threads": 1,
    "watch_gradients": 0,
    "baselines": False,
    "beam": 1,
}
LEARNING = SMALL | {
    "hidden_size": 32,
    "embedding_size": 16,
    "epochs": 10,
    "learning_rate": 0.01,
    "clip_global_norm": 1.0,
    "dropout": 0.0,
    "embedding_dropout": 0.0,
    "label_smoothing": 0.0,
    "baselines": True,
    "beam": 3,
}


def language(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Word by word into another language, the last word first."""
    draw = random.Random(seed)
    sources = [[draw.choice(list(WORDS)) for _ in range(draw.randint(2, 4))] for _ in range(n)]
    return [(" ".join(words), " ".join(WORDS[word] for word in reversed(words))) for words in sources]


def table(path: Path, pairs: list[tuple[str, str]], header: str | None = "source\ttarget") -> Path:
    lines = ([header] if header else []) + [f"{source}\t{target}" for source, target in pairs]
    path.write_text("\n".join(lines) + "\n")
    return path


def texts(folder: Path, name: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Write two text files; their options."""
    paths = [folder / f"{name}.{side}.gz" for side in ("ba", "en")]
    for path, side in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_bytes(gzip.compress("".join(line + "\n" for line in side).encode()))
    return {name: str(paths[0]), f"{name}_target": str(paths[1])}


def options(tmp_path: Path, **given: object) -> TranslateOptions:
    if "train" not in given:
        given["train"] = table(tmp_path / "pairs.tsv", language(60))
    return TranslateOptions(**{**SMALL, "out": tmp_path / "run", **given})


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    train = table(folder / "pairs.tsv", language(500))
    return train_run(TRANSLATE, TranslateOptions(**{**LEARNING, "train": train, "out": folder / "run"}))


def test_a_language_is_learned_and_a_dictionary_is_not_enough(learned: Path):
    found = json.loads((learned / "metrics.json").read_text())
    assert found["test"]["exact"] > 0.95
    assert found["test"]["bleu"] > 95
    assert found["beam"]["bleu"] > 95
    assert found["beam"]["beam"] == 3
    assert found["test"]["interval"][0] <= found["test"]["bleu"] <= found["test"]["interval"][1]
    assert found["test"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    assert found["baselines"]["copy"]["bleu"] < 5
    assert found["baselines"]["dictionary"]["bleu"] < 50
    assert found["test"]["perplexity"] == pytest.approx(np.exp(found["test"]["loss"]))


def test_no_test_source_was_trained_on(learned: Path):
    corpus = read_corpus(TranslateOptions(**json.loads((learned / "config.json").read_text())["options"]))
    parts = [
        {source for source, _ in pairs} for pairs in (corpus.train_file, corpus.validation.texts, corpus.test_file)
    ]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_a_predictor_translates_and_scores(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    predictor = load(learned)
    answers = predictor.predict(["ba di ku", "", "te te"], beam=2)
    assert [answer.translation for answer in answers][::2] == ["ten two one", "sea sea"]
    assert all(answer.log_probability <= 0 for answer in answers)
    other = language(30, seed=5)
    files = texts(tmp_path, "other", other)
    scores = predictor.evaluate(files["other"], target=files["other_target"], progress=Progress())
    assert scores == predictor.evaluate(table(tmp_path / "other.tsv", other))
    assert scores.exact > 0.9
    assert predictor.shown(scores).startswith("BLEU ")
    assert list(predictor.items(files["other"])) == [source for source, _ in other]
    with pytest.raises(InputError, match="a text file: give that of its translations with --target"):
        predictor.evaluate(files["other"])
    with pytest.raises(InputError, match="several texts, got a single one"):
        predictor.predict("ba")
    with pytest.raises(InputError, match="`beam` must be at least 1, got 0"):
        predictor.predict(["ba"], beam=0)
    assert main(["predict", str(learned), "ba di", "--beam", "2"]) == 0
    assert capsys.readouterr().out == "two one\n"
    assert main(["evaluate", str(learned), files["other"], "--target", files["other_target"]]) == 0
    assert "tok:13a" in capsys.readouterr().out
    assert len(predictor.example(None, 5).inputs[0]) == 5


def test_the_report_shows_attention_and_translations(learned: Path):
    page = (learned / "report.html").read_text()
    for part in (
        "Test BLEU",
        "Attention",
        "Heat map: BLEU 100.0, among the best",
        "BLEU by length of the source",
        "Best",
        "Worst",
    ):
        assert part in page
    assert any(f">▁{word}<" in page for word in WORDS)


def test_two_text_files_with_parts_of_their_own(tmp_path: Path):
    given = {
        k: v
        for i, name in enumerate(("train", "validation", "test"))
        for k, v in texts(tmp_path, name, language(40, i)).items()
    }
    folder = train_run(TRANSLATE, options(tmp_path, lowercase=True, **given))
    found = json.loads((folder / "metrics.json").read_text())
    assert found["rows"] == {"train": 40, "validation": 40, "test": 40}
    assert "case:lc" in found["test"]["signature"]
    assert sorted(json.loads((folder / "config.json").read_text())["data"]) == sorted(given)
    assert any("test sources" in note and "training file too" in note for note in found["notes"])


def test_stopped_and_carried_on_is_never_stopped(tmp_path: Path):
    class Stops(Progress):
        def epoch(self, *what: object) -> None:
            super().epoch(*what)
            raise KeyboardInterrupt

    how = {"epochs": 3, "teacher_forcing": 0.5, "teacher_forcing_schedule": "linear", "average": 0.9}
    whole = train_run(TRANSLATE, options(tmp_path, **how))
    with pytest.raises(Interrupted):
        train_run(TRANSLATE, options(tmp_path, **how | {"out": tmp_path / "cut"}), Stops())
    train_run(TRANSLATE, resumed_options(TRANSLATE, {"out": str(tmp_path / "cut")}))
    a, b = (torch.load(run / "trainer.ckpt", weights_only=True)["model"] for run in (whole, tmp_path / "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (json.loads((run / "metrics.json").read_text())["test"] for run in (whole, tmp_path / "cut"))
    assert a == b


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"subwords": 100}, "--subwords must be at least 320"),
        ({"teacher_forcing": 1.5}, "--teacher-forcing must be from 0 to 1, got 1.5"),
        ({"beam": 0}, "--beam must be at least 1"),
        ({"input_feeding": True, "attention": "none"}, "--input-feeding needs attention"),
        ({"test_target": "x"}, "--test-target needs --test"),
        ({"train_target": "x", "source": "a"}, "--source names a column of a table, but --train-target is a text file"),
        ({"source": "target"}, "--source and --target must name two columns, got 'target' twice"),
        ({"target": "tarjet"}, "no column 'tarjet', did you mean 'target'.*give|--no-header"),
        ({"train": "pairs.de"}, "--train pairs.de is one text file of a pair.*--train-target"),
        (
            {"validation": "val.de", "train_target": "t"},
            "--validation val.de is one text.*--validation-target",
        ),
        ({"max_length": 1}, "no pair is left to learn from; give a larger --max-length"),
    ],
)
def test_what_is_refused(tmp_path: Path, given: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        train_run(TRANSLATE, options(tmp_path, **given))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("package", ["sacrebleu", "sentencepiece"])
def test_what_is_not_installed_is_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}: pip install 'recur\[text\]'"):
        train_run(TRANSLATE, options(tmp_path))
    assert not (tmp_path / "run").exists()


def test_the_loss_is_the_mean_over_real_tokens(tmp_path: Path):
    given = options(tmp_path, label_smoothing=0.2)
    sizes = {"vocabulary_size": 320, "source_vocabulary_size": 320, "hidden_size": 4}
    model = EncoderDecoder(EncoderDecoderConfig(**sizes)).eval()
    part = read_corpus(given).train
    batch = next(iter(PairBatches(part.sources, part.targets, 8, seed=0)))
    figures, count = TranslateObjective(model, given, 10).measure(batch)
    total = smoothed = 0.0
    for row in range(8):
        source, target = batch.source[row : row + 1], batch.target[row, : int(batch.target_lengths[row])]
        begun = torch.cat([torch.tensor([2]), target[:-1]])[None]
        length = torch.tensor([len(target)])
        scores = model(source, batch.source_lengths[row : row + 1], begun, length)[0]
        total += float(F.cross_entropy(scores, target, reduction="sum").detach())
        smoothed += float(F.cross_entropy(scores, target, reduction="sum", label_smoothing=0.2).detach())
    assert count == int(batch.target_lengths.sum())
    assert float(figures["cross entropy"]) == pytest.approx(total / count, rel=1e-5)
    assert float(figures["loss"].detach()) == pytest.approx(smoothed / count, rel=1e-5)


def test_uneven_files_are_refused_with_their_counts(tmp_path: Path):
    given = texts(tmp_path, "train", language(30))
    Path(given["train_target"]).write_bytes(gzip.compress(b"one\ntwo\n"))
    with pytest.raises(InputError, match=r"train.ba.gz and .*train.en.gz must have as many lines.*got 30 and 2"):
        read_corpus(options(tmp_path, **given))


def test_a_table_without_header_and_with_quotes(tmp_path: Path):
    pairs = [*language(40), ('"ba" di', "two one")]
    train = table(tmp_path / "plain.tsv", pairs, header=None)
    with pytest.raises(InputError, match=r"no column 'source'.*needs --no-header"):
        read_corpus(options(tmp_path, train=train))
    with pytest.raises(InputError, match="give --no-quotes"):
        read_corpus(options(tmp_path, train=train, header=False))
    corpus = read_corpus(options(tmp_path, train=train, header=False, quotes=False))
    assert len(corpus.train.sources) + len(corpus.validation.sources) + len(list(corpus.test_file)) == 41


def test_empty_and_long_texts_are_counted(tmp_path: Path):
    pairs = [*language(40), ("", "one"), ("ba", " "), ("ba " * 50, "one")]
    corpus = read_corpus(options(tmp_path, train=table(tmp_path / "p.tsv", pairs), max_length=20))
    assert any("2 pairs" in note and "empty text left out" in note for note in corpus.notes)
    assert any("1 pair of" in note and "more than 20 subwords" in note for note in corpus.notes)
    assert int(corpus.train.sources.lengths.max()) <= 21


@pytest.mark.parametrize("shares", [(0.1, 0.2), (0.0, 0.2), (0.1, 0.0)])
def test_rows_of_a_group_stay_together(shares: tuple[float, float]):
    groups = np.random.default_rng(0).integers(0, 300, 1000).astype(np.uint64)
    parts = split(groups, *shares)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1000))
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not set(groups[one]) & set(groups[other])
    assert len(parts[2]) == pytest.approx(1000 * shares[1], abs=10)
    assert len(parts[1]) == pytest.approx((1000 - len(parts[2])) * shares[0], abs=10)


def test_a_few_rows_have_one_in_each_part():
    assert [len(part) for part in split(np.arange(3, dtype=np.uint64), 0.1, 0.2)] == [1, 1, 1]


def test_bleu_of_the_paper_by_hand():
    # 4-grams: 3 of 4; 3-grams 4 of 5; 2-grams 5 of 6; words 6 of 7; no brevity penalty
    found = bleu(["the cat is on the mat now"], ["the cat is on the mat here"])
    assert found.bleu == pytest.approx(100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25)
    assert found.interval == pytest.approx((found.bleu, found.bleu))
    short = bleu(["the cat is on the"], ["the cat is on the mat"])
    assert short.bleu == pytest.approx(100 * np.exp(1 - 6 / 5))
    assert bleu(["A b c d"], ["a b c d"], lower=True).bleu == pytest.approx(100)
    assert bleu(["A b c d"], ["a b c d"]).bleu < 90


def test_the_interval_narrows_with_more_sentences():
    draw = random.Random(1)
    pairs = [(t, t if draw.random() < 0.5 else "ba di ku mo") for _, t in language(400, seed=3)]
    widths = []
    for n in (40, 400):
        low, high = bleu(*map(list, zip(*pairs[:n], strict=True))).interval
        widths.append(high - low)
    assert 0 < widths[1] < widths[0]
    alone = sentence_bleu(["one two", "ten"], ["one two", "sea"])
    assert alone[0] == pytest.approx(100)
    assert alone[1] < 50


def test_a_dictionary_finds_the_words():
    dictionary = Dictionary(language(200))
    assert {word: dictionary.best[word] for word in WORDS} == WORDS
    assert dictionary("ba xx di") == "one xx two"
    chinese = Dictionary([("i love", "我爱。"), ("i see", "我看。"), ("love", "爱。"), ("see", "看。")])
    assert chinese.best["love"] == "爱"
    assert chinese.best["see"] == "看"


def test_a_model_begins_with_the_frequencies(tmp_path: Path):
    corpus = read_corpus(options(tmp_path))
    model = EncoderDecoder(EncoderDecoderConfig(vocabulary_size=320, source_vocabulary_size=320, hidden_size=4))
    begin_with_frequencies(model.decoder.scores, corpus.train.targets)
    chances = model.decoder.scores.bias.detach().softmax(-1)
    share = float((corpus.train.targets.values == 3).mean())
    assert float(chances[3]) == pytest.approx(share, rel=0.2)
    assert float(chances[300]) < 0.01 or 300 in corpus.train.targets.values


@pytest.mark.parametrize("schedule", ["linear", "exponential", "inverse-sigmoid"])
def test_teacher_forcing_falls_from_one_to_what_is_given(tmp_path: Path, schedule: str):
    given = options(tmp_path, teacher_forcing=0.25, teacher_forcing_schedule=schedule)
    model = EncoderDecoder(EncoderDecoderConfig(vocabulary_size=320, source_vocabulary_size=320, hidden_size=4))
    objective = TranslateObjective(model, given, 100)
    rates = []
    for step in range(101):
        objective.load_state_dict({"step": step})
        rates.append(objective.forcing)
    assert rates[0] == pytest.approx(1, abs=0.06)
    assert rates[-1] == pytest.approx(0.25, abs=0.01)
    assert sorted(rates, reverse=True) == rates
    assert objective.state_dict() == {"step": 100}


def test_a_perplexity_is_a_number_that_json_has():
    assert perplexity(np.log(8.0)) == pytest.approx(8)
    assert 1e300 < perplexity(1000.0) < float("inf")


def test_parts_cut_off_by_chance_are_no_larger_than_can_be_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recur.tasks.translate.data.MOST_CUT", 7)
    pairs = [(f"ba {i}", f"one {i}") for i in range(100)]
    corpus = read_corpus(options(tmp_path, train=table(tmp_path / "p.tsv", pairs)))
    assert len(corpus.validation.sources) == len(list(corpus.test_file)) == 7
    assert len(corpus.train.sources) == 86


def test_a_dictionary_stops_reading_when_it_has_enough():
    read = []

    def endless():
        for pair in language(10_000):
            read.append(pair)
            yield pair

    dictionary = Dictionary(endless(), most_links=2000)
    assert len(read) < 1000
    assert dictionary("ba") == "one"
