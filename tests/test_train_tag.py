"""`recur train tag`: from files of tagged sentences to taggers, their scores, and spans counted as conlleval does."""

import json
import re
import signal

import numpy as np
import pytest
import torch

import recur
from recur.data.sequences import Sequences
from recur.errors import InputError
from recur.tasks.figures import Sums
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_result import summary
from recur.tasks.job_run import train_run
from recur.tasks.progress import Progress
from recur.tasks.tag.baselines import Lexicon, run_baselines
from recur.tasks.tag.data import split
from recur.tasks.tag.options import TagOptions
from recur.tasks.tag.scores import Guesses, reached, score
from recur.tasks.tag.spans import SpanScheme
from recur.tasks.tag.task import TAG
from recur.tasks.tag.words import Encoder, TagBatches, Tagged

SMALL = {"epochs": 1, "hidden_size": 8, "embedding_size": 6, "character_size": 4, "character_hidden": 4, "threads": 1}
SMALL |= {"batch_size": 8}
PLACES, PEOPLE = ["Rome", "Oslo", "New York"], ["Ann", "Bob", "Zoe"]


def sentences(count, seed=0):
    """Sentences with places and people; who stands behind "in" is a place, whatever the name."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        person, place = rng.choice(PEOPLE), rng.choice(PLACES + PEOPLE)
        first, second = [person, "lives", "in"], [*place.split(), "now" if number % 2 else f"since{number}x{seed}"]
        tags = ["B-LOC", *["I-LOC"] * (len(second) - 2), "O"]
        yield first + second, ["B-PER", "O", "O", *tags]


def parts_of_speech(count, seed=0):
    """The same words with tags that mark no spans."""
    names = {"B-PER": "PROPN", "B-LOC": "PROPN", "I-LOC": "PROPN", "O": "X"}
    return ((words, [names[tag] for tag in tags]) for words, tags in sentences(count, seed))


def columns(path, rows):
    text = "".join("".join(f"{w}\t{t}\n" for w, t in zip(words, tags, strict=True)) + "\n" for words, tags in rows)
    path.write_text(text, encoding="utf-8")
    return path


def json_lines(path, rows):
    path.write_text("".join(json.dumps({"words": words, "tags": tags}) + "\n" for words, tags in rows))
    return path


@pytest.fixture
def files(tmp_path):
    return columns(tmp_path / "train.bio", sentences(80)), json_lines(tmp_path / "test.jsonl", sentences(30, seed=1))


def run(files, tmp_path, **options):
    train, test = files
    return train_run(TAG, TagOptions(**(SMALL | {"train": train, "test": test, "out": tmp_path / "run"} | options)))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def spans(names, *rows):
    """Return type, first and last word of each span, as seqeval's get_entities has them."""
    scheme = SpanScheme(names)
    numbers = Sequences.of([names.index(tag) for tag in row.split()] for row in rows)
    return [(scheme.types[kind], first, last) for first, last, kind in scheme.spans(numbers).tolist()]


BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = [*BIO, "E-PER", "S-PER", "E-LOC", "S-LOC"]


@pytest.mark.parametrize(
    ("names", "row", "found"),
    [
        (BIO, "B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        (BIO, "B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        (BIO, "I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        (BIO, "B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
        (BIO, "O O", []),
        (BIO, "O I-PER", [("PER", 1, 1)]),
        (BIOES, "S-PER B-LOC I-LOC E-LOC S-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),
        (BIOES, "B-PER E-PER E-PER I-PER", [("PER", 0, 1), ("PER", 2, 2), ("PER", 3, 3)]),
        (BIOES, "S-PER I-PER O E-LOC", [("PER", 0, 0), ("PER", 1, 1), ("LOC", 3, 3)]),
        (["O", "B-A", "I-A", "L-A", "U-A"], "U-A B-A I-A L-A U-A", [("A", 0, 0), ("A", 1, 3), ("A", 4, 4)]),
    ],
)
def test_spans_are_those_of_conlleval(names, row, found):
    assert spans(names, row) == found


def test_spans_end_with_their_sentence():
    assert spans(BIO, "O B-PER", "I-PER", "O", "I-PER I-PER") == [("PER", 1, 1), ("PER", 2, 2), ("PER", 4, 5)]


def by_definition(tags):
    """Return the spans of a sentence by conlleval's rules, word by word."""
    found, start, before = [], 0, ("O", "")
    for i, tag in enumerate([*tags, "O"]):
        (p, kind), (q, other) = before, (tag[0], tag[2:])
        ends = p in "ES" or (p in "BI" and q in "BSO") or (p != "O" and kind != other)
        starts = q in "BS" or (p in "ESO" and q in "EI") or (q != "O" and kind != other)
        if ends:
            found.append((kind, start, i - 1))
        if starts:
            start = i
        before = (q, other)
    return found


def test_spans_of_any_tags_are_those_found_word_by_word():
    rng = np.random.default_rng(0)
    for _ in range(200):
        row = rng.choice(BIOES, size=rng.integers(1, 9)).tolist()
        assert spans(BIOES, " ".join(row)) == by_definition(row), row


@pytest.mark.parametrize(
    ("names", "holds"),
    [
        (BIO, True),
        (BIOES, True),
        (["O"], False),
        (["NOUN", "O"], False),
        (["B-PER", "I-PER"], False),
        (["VB", "X"], False),
    ],
)
def test_tags_that_mark_spans_are_known(names, holds):
    assert SpanScheme.is_spans(names) == holds


def test_precision_recall_and_f1_of_spans():
    scheme = SpanScheme(BIO)
    true, found = ("B-PER I-PER O B-LOC", "B-PER I-PER"), ("B-PER I-PER O B-PER", "B-PER O")
    numbers = [Sequences.of([BIO.index(tag) for tag in row.split()] for row in rows) for rows in (found, true)]
    compared = scheme.compare(*numbers)
    total = compared.total
    assert (total.right, total.predicted, total.true) == (1, 3, 3)
    assert total.precision == total.recall == total.f1 == pytest.approx(1 / 3)
    assert {kind: one.plain()["right"] for kind, one in compared.by_type.items()} == {"LOC": 0, "PER": 1}
    assert compared.by_type["LOC"].f1 == 0
    low, high = compared.interval(numbers[1].offsets)
    assert low == 0 < total.f1 < high <= 0.5


def tagged(rows, names=None):
    data = Tagged.of(rows)
    return data.renamed(names or sorted(data.names))


def test_scores_by_hand():
    data = tagged([(["a", "b"], ["X", "Y"]), (["c"], ["Z"])], ["X", "Y"])
    guesses = Guesses(np.array([0, 0, 1], np.int32), np.ones(3, np.float32), np.array([0.5, 0.25, 0], np.float32))
    known = np.array([form in ("a", "b") for form in data.forms])
    found = score(guesses, data, known)
    assert (found.accuracy, found.unknown, found.unknown_accuracy, found.known_accuracy) == (1 / 3, 1, 0, 0.5)
    assert (found.sentence_accuracy, found.words, found.sentences) == (0, 3, 2)
    assert found.labels == ["X", "Y", "Z"]
    assert found.confusion == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert found.macro_f1 == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert found.loss == pytest.approx(-(np.log(0.5) + np.log(0.25) + np.log(1e-12)) / 3)
    assert found.counts == [(1, 2, 1), (0, 1, 1), (0, 0, 1)]
    assert found.mistaken == [("Y", "X", 1), ("Z", "Y", 1)]
    assert found.f1 is None
    assert found.interval == reached(guesses.tags, data)[1]


def test_thousands_of_tags_make_no_table():
    words = [f"w{number}" for number in range(3000)]
    data = tagged([(words, words)])
    predicted = np.where(np.arange(3000) < 2990, data.tags.values, data.tags.values[0]).astype(np.int32)
    found = score(Guesses(predicted, np.ones(3000), np.ones(3000)), data, np.ones(3001, dtype=bool))
    assert found.confusion is None
    assert len(found.mistaken) == 10
    assert found.by_tag[0] == {
        "tag": "w0",
        "right": 1,
        "predicted": 11,
        "true": 1,
        "recall": 1,
        "precision": 1 / 11,
        "f1": 1 / 6,
    }


def test_baselines_by_hand():
    train = tagged([("the dog runs".split(), list("DNV")), ("the runs last".split(), list("DNV")), (["runs"], ["V"])])
    test = tagged([("The dog barks runs".split(), list("DNVV"))], train.names)
    found = {name: "".join(train.names[t] for t in tags[0]) for name, _, tags, _ in run_baselines(train, [test])}
    assert found == {"majority": "VVVV", "word": "VNVV", "word-or-ending": "VNVV"}
    ending = Lexicon(tagged([(["walking", "ring", "Anna", "Sofia", "23", "1st"], list("VNPPMM"))])).by_ending()
    numbers = {name: number for number, name in enumerate("MNPV")}
    assert [ending(word) for word in ("talking", "boring", "Maria", "45", "2nd")] == [numbers[tag] for tag in "VNPMM"]


def test_what_a_batch_holds_and_what_it_spells_once():
    data = tagged([("a b a".split(), list("XYX")), (["B"], ["Y"]), ("a".split(), ["X"])])
    encoder = Encoder.of(data, data.names, size=None, min_count=1, lower=True)
    assert encoder.words.words == ["a", "b"]
    assert set(encoder.characters.words) == {"a", "b", "B"}
    (batch,) = TagBatches(data, encoder.table(data.forms), 3, shuffle=False)
    words, lengths, spelled, letters, letter_lengths = batch.inputs
    assert (batch.index.tolist(), lengths.tolist()) == ([1, 2, 0], [1, 1, 3])
    assert words.tolist() == [[3, 0, 0], [2, 0, 0], [2, 3, 2]]
    assert batch.tags.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert letter_lengths.tolist() == [0, 1, 1, 1]
    seen = [
        ["".join(encoder.characters.token(c) for c in letters[i, : letter_lengths[i]]) for i in row] for row in spelled
    ]
    assert seen == [["B", "", ""], ["a", "", ""], ["a", "b", "a"]]
    few = batch.first(2)
    assert few.inputs.words.tolist() == [[3], [2]]


def test_long_words_are_read_at_both_ends_and_given_words_are_known_but_not_learned():
    data = tagged([(["a" * 30 + "b" * 30], ["X"])])
    encoder = Encoder.of(data, ["X"], size=None, min_count=1, lower=True, more=["Up", "down", "down"])
    assert encoder.words.words[1:] == ["down"]
    assert encoder.table([data.forms[1]]).letters.lengths.tolist() == [40]
    assert encoder.knows([data.forms[1].upper(), "down", "else"]).tolist() == [True, False, False]


def test_a_cut_is_by_chance_and_the_same_each_time():
    train, validation, test = split(50, 0.1, 0.2)
    assert sorted([*train, *validation, *test]) == list(range(50))
    assert (len(validation), len(test)) == (4, 10)
    assert split(50, 0.1, 0.2)[2].tolist() == test.tolist()
    assert [len(part) for part in split(50, 0.0, 0.0)] == [50, 0, 0]


def test_a_mean_may_have_items_of_its_own():
    sums = Sums()
    sums.add({"loss": torch.tensor(1.0), "f1": (torch.tensor(0.5), 2)}, 10)
    sums.add({"loss": torch.tensor(2.0), "f1": (torch.tensor(1.0), 6)}, 10)
    assert sums.means() == {"loss": 1.5, "f1": 0.875}


def test_a_network_learns_spans_and_every_number_of_its_run_agrees(files, tmp_path):
    folder = run(files, tmp_path, epochs=8, learning_rate=0.03, crf=True)
    found = metrics(folder)
    assert found["test"]["f1"] > 0.95
    assert found["test"]["spans"]["types"]["LOC"]["true"] == 30
    low, high = found["test"]["interval"]
    assert low <= found["test"]["f1"] <= high
    best = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][found["best_epoch"] - 1]
    assert best["validation"]["f1"] == pytest.approx(found["validation"]["f1"], abs=1e-6)
    assert best["validation"]["accuracy"] == pytest.approx(found["validation"]["accuracy"], abs=1e-6)
    assert best["validation"]["loss"] == pytest.approx(found["validation"]["loss"], abs=1.0)
    assert set(found["baselines"]) == {"majority", "word", "word-or-ending"}
    assert found["baselines"]["majority"]["f1"] == 0
    assert found["sentences"] == {"train": 72, "validation": 8, "test": 30}
    assert found["rows"]["test"] == found["test"]["words"]
    table = summary(found, TAG.figure_of(found["test"]))
    assert table.startswith("f1 ")
    page = (folder / "report.html").read_text()
    assert "Worst sentences" in page
    assert "Confusion" in page
    predictor = recur.load(folder)
    scores = predictor.evaluate(files[1])
    assert scores.f1 == found["test"]["f1"]
    assert scores.loss == pytest.approx(found["test"]["loss"], rel=1e-5)
    assert predictor.shown(scores).startswith("span F1 ")


def test_a_run_answers_sentences_and_files_of_any_kind(files, tmp_path):
    predictor = recur.load(run(files, tmp_path))
    (answer, empty, whole) = predictor.predict(["Ann lives in Rome", "", ["New York"]])
    assert answer.words == ["Ann", "lives", "in", "Rome"]
    assert len(answer.tags) == len(answer.probabilities) == 4
    assert empty.tags == []
    assert len(whole.tags) == 1
    lines = predictor.line("", answer).split("\n")
    assert lines[0] == f"Ann\t{answer.tags[0]}"
    assert predictor.json("", answer)["words"] == answer.words
    assert predictor.predict([]) == []
    with pytest.raises(InputError, match="`items` must be several sentences, got a single one"):
        predictor.predict("Ann")
    text = tmp_path / "some.txt"
    text.write_text("Ann lives\nin Rome\n")
    assert [item.split() for item in predictor.items(text)] == [["Ann", "lives"], ["in", "Rome"]]
    assert list(predictor.items(text, format="columns")) == [["Ann", "in"]]
    assert next(iter(predictor.items(files[1]))) == next(sentences(1, seed=1))[0]
    with pytest.raises(InputError, match="`colum` is no column of a file of tags; there are format, column"):
        predictor.evaluate(files[1], colum="x")


def test_parts_of_speech_are_chosen_by_accuracy_and_their_flow_is_seen(tmp_path):
    train = columns(tmp_path / "train.txt", parts_of_speech(60))
    folder = run(
        (train, None),
        tmp_path,
        test=None,
        cell="gru",
        layers=2,
        bidirectional=False,
        characters=False,
        watch_gradients=2,
    )
    found = metrics(folder)
    assert summary(found, TAG.figure_of(found["test"])).startswith("accuracy ")
    assert found["sentences"] == {"train": 43, "validation": 5, "test": 12}
    assert any("no --test given: 12 sentences" in note for note in found["notes"])
    example = recur.load(folder).example(None, 3)
    assert recur.gradient_flow(recur.load(folder).model, example.inputs, example.loss, rows=example.rows).verdict
    assert (folder / "gradients.jsonl").read_text()


class Stopping(Progress):
    """Stops the run in the middle of its second epoch."""

    def step(self, epoch, epochs, batch, *rest):
        if (epoch, batch) == (2, 3):
            signal.raise_signal(signal.SIGINT)
        super().step(epoch, epochs, batch, *rest)


def test_the_same_seed_gives_the_same_weights_and_a_stopped_run_is_carried_on_to_them(files, tmp_path):
    options = {"epochs": 3, "dropout": 0.2, "word_dropout": 0.3, "baselines": False}
    whole = run(files, tmp_path, out=tmp_path / "whole", **options)
    other = run(files, tmp_path, out=tmp_path / "other", seed=2, **options)
    train, test = files
    given = TagOptions(**(SMALL | options | {"train": train, "test": test, "out": tmp_path / "stopped"}))
    with pytest.raises(Interrupted):
        train_run(TAG, given, Stopping())
    assert not (tmp_path / "stopped" / "metrics.json").exists()
    again = train_run(TAG, TagOptions(train=train, out=tmp_path / "stopped", resume=True))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, again, other)]
    assert weights[0] == weights[1] != weights[2]
    assert metrics(again)["test"] == metrics(whole)["test"]


def test_given_vectors_make_words_known_that_training_lacks(files, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("lives 1 0 0\nparis 0 1 0\n")
    folder = run(files, tmp_path, vectors=vectors, freeze_embedding=True)
    found = metrics(folder)
    assert found["vector_coverage"] == 1 / found["vocabulary"]
    model, encoder = recur.load(folder).model, recur.load(folder).encoder
    assert encoder.words.words[-1] == "paris"
    torch.testing.assert_close(model.embedding.word.weight[encoder.words.ids(["paris"])[0]], torch.tensor([0.0, 1, 0]))
    vectors.write_text("zzz 1 0 0\n")
    with pytest.raises(InputError, match=r"--vectors .* has none of the \d+ words of the training part"):
        run(files, tmp_path, vectors=vectors, out=tmp_path / "b")


def test_tags_that_training_lacks_count_as_wrong_and_other_tags_are_refused(files, tmp_path):
    strange = json_lines(tmp_path / "strange.jsonl", [(["Ann", "lives"], ["B-PER", "B-MISC"])])
    folder = run((files[0], strange), tmp_path)
    found = metrics(folder)
    assert (
        "1 words of the test part have tags that the training part lacks ('B-MISC'); they count as wrong"
        in found["notes"]
    )
    assert found["test"]["accuracy"] <= 0.5
    other = json_lines(tmp_path / "other.jsonl", [(["Ann"], ["NOUN"])])
    with pytest.raises(
        InputError, match=r"tags of 1 of 1 words \('NOUN'\) are not among those of the training data, B-LOC"
    ):
        recur.load(folder).evaluate(other)


def test_a_test_sentence_that_was_learned_is_told(tmp_path):
    rows = list(sentences(30))
    files = columns(tmp_path / "a.bio", rows), columns(tmp_path / "b.bio", rows[:4])
    notes = metrics(run(files, tmp_path, baselines=False))["notes"]
    assert any(re.match(r"4 of 4 test sentences \(100.0%\) are in the training file too", note) for note in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "xpso"}, "--column must be one of form, lemma, upos, xpos, .*, got 'xpso', did you mean 'xpos'"),
        ({"tag_column": 0}, "--tag-column must be a number from 1, the first column, got 0"),
        ({"word_dropout": 1.0}, "--word-dropout must be from 0 up to, not including, 1, got 1.0"),
        ({"freeze_embedding": True}, "--freeze-embedding needs --vectors"),
        ({"tag_column": 9}, r"train.bio, line 1: expected the tags in column 9, found 2 columns"),
        ({"validation": "no.conllu"}, "there is no file no.conllu"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_folder_is_made(files, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(files, tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_one_tag_or_too_few_sentences_are_refused(tmp_path):
    one = columns(tmp_path / "one.txt", [(["a"], ["X"]), (["b"], ["X"]), (["c"], ["X"])])
    with pytest.raises(InputError, match="expected at least two different tags, found only 'X'"):
        run((one, one), tmp_path)
    few = columns(tmp_path / "few.txt", [(["a", "b"], ["X", "Y"])])
    with pytest.raises(InputError, match="must have enough sentences to cut a validation part off, got 1"):
        run((few, None), tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_the_english_web_treebank_is_tagged(data_folder, tmp_path):
    dev = data_folder / "ud_english_ewt" / "en_ewt-ud-dev.conllu.gz"
    folder = train_run(
        TAG,
        TagOptions(train=dev, epochs=3, out=tmp_path / "run", threads=1, hidden_size=64, average=0, learning_rate=0.01),
    )
    found = metrics(folder)
    assert found["test"]["accuracy"] > 0.8
    assert found["baselines"]["word-or-ending"]["accuracy"] > 0.8
