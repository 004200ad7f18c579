"""`recur train answer`: from files of stories to memory networks, their parts and what is refused."""

import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from stopping import StopsAfter

import recur
from recur.app.main import main
from recur.data.stories import Question, read_questions, story_files
from recur.data.text import Tokenizer
from recur.data.vocabulary import Vocabulary
from recur.errors import InputError
from recur.tasks.answer.baselines import BASELINES
from recur.tasks.answer.data import Encoder, read_corpus
from recur.tasks.answer.options import AnswerOptions
from recur.tasks.answer.predictor import as_question
from recur.tasks.answer.task import ANSWER
from recur.tasks.interrupt import Interrupted
from recur.tasks.job_run import train_run

SMALL = {"epochs": 1, "hidden_size": 8, "threads": 1, "batch_size": 16, "baselines": False}
NAMES, PLACES, THINGS = ["Mary", "John", "Ann"], ["garden", "kitchen", "hall"], ["milk", "ball"]


def where(stories, seed):
    """Persons go to places; the latest counts."""
    draw = random.Random(seed)
    for _ in range(stories):
        place, line = {}, 0
        for _ in range(2):
            for _ in range(2):
                line += 1
                name, to = draw.choice(NAMES), draw.choice(PLACES)
                place[name] = to
                yield f"{line} {name} went to the {to}."
            line += 1
            name = draw.choice(sorted(place))
            yield f"{line} Where is {name}?\t{place[name]}\t1"


def has(stories, seed):
    """Persons take things; who has one?"""
    draw = random.Random(seed)
    for _ in range(stories):
        names = draw.sample(NAMES, 2)
        for line, (name, thing) in enumerate(zip(names, THINGS, strict=True), start=1):
            yield f"{line} {name} took the {thing}."
        asked = draw.randrange(2)
        yield f"3 Who has the {THINGS[asked]}?\t{names[asked]}"


@pytest.fixture
def folder(tmp_path):
    """Two kinds of stories, learned from and tested on; one file is packed."""
    root = tmp_path / "stories"
    root.mkdir()
    for number, kind in ((2, where), (10, has)):
        (root / f"q{number}_train.txt").write_text("\n".join(kind(120, number)) + "\n")
        text = "\n".join(kind(20, 99 + number)) + "\n"
        if number == 2:
            (root / f"q{number}_test.txt").write_text(text)
        else:
            with gzip.open(root / f"q{number}_test.txt.gz", "wt") as file:
                file.write(text)
    (root / ".hidden.txt").write_text("nothing")
    (root / "readme.md").write_text("nothing")
    return root


def run(source, tmp_path, **options):
    given = SMALL | {"train": source, "test_pattern": "_test", "out": tmp_path / "run"} | options
    return train_run(ANSWER, AnswerOptions(**given))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_places_are_learned_and_the_run_answers(folder, tmp_path, capsys):
    made = run(folder, tmp_path, epochs=12, hidden_size=32, cell="mingru", hops=1, learning_rate=0.02, baselines=True)
    found = metrics(made)
    assert found["test"]["accuracy"] > 0.9
    assert list(found["test"]["files"]) == ["q2_test.txt", "q10_test.txt.gz"]
    assert found["rows"] == {"train": 324, "validation": 36, "test": 60}
    baselines = {name: one["accuracy"] for name, one in found["baselines"].items()}
    assert baselines["majority"] < baselines["question"] < baselines["latest"] < found["test"]["accuracy"]
    page = (made / "report.html").read_text()
    assert "hop 1 →" in page
    assert "q2_test.txt: Where is" in page
    network = recur.load(made)
    text = "Mary went to the hall. John went to the kitchen. Mary went to the garden. Where is Mary?"
    (reply,) = network.predict([text])
    assert reply.answer == "garden"
    assert max(range(3), key=reply.reads[0].__getitem__) == 2
    # words that training has not met
    assert network.predict(["Zoe swam. Who is Zoe?"])[0].answer in found["labels"]
    scores = network.evaluate(folder / "q2_test.txt")
    assert scores.rows == 40
    assert scores.accuracy == found["test"]["files"]["q2_test.txt"]
    capsys.readouterr()
    assert main(["predict", str(made), text]) == 0
    assert capsys.readouterr().out.split("\t")[::2] == ["garden", "Where is Mary?\n"]
    asked = tmp_path / "asked.txt"
    asked.write_text("1 Ann went to the hall.\n2 Where is Ann?\n")
    assert main(["predict", str(made), "--file", str(asked), "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["story"] == ["Ann went to the hall."]
    assert line["answer"] == "hall"
    assert main(["evaluate", str(made), str(folder)]) == 0
    assert "q10_test.txt.gz" in capsys.readouterr().out
    assert main(["flow", str(made), "--out", str(tmp_path / "flow")]) == 0
    assert (tmp_path / "flow" / "flow.html").exists()
    assert main(["evaluate", str(made), str(asked)]) == 2
    assert "asked.txt, line 2: expected an answer behind a tab" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"hops": 0, "cell": "gru"}, {"cell": "lstm", "hops": 2, "max_sentences": 1}])
def test_other_cells_and_no_memory(folder, tmp_path, options):
    made = run(folder, tmp_path, **options)
    assert recur.load(made).evaluate(folder / "q2_test.txt").rows == 40
    assert ("What is read" in (made / "report.html").read_text()) == (options["hops"] > 0)


def test_a_resumed_run_is_the_same_to_the_bit(folder, tmp_path):
    options = SMALL | {"train": folder, "epochs": 2, "dropout": 0.3}
    whole = train_run(ANSWER, AnswerOptions(**options, out=tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train_run(ANSWER, AnswerOptions(**options, out=tmp_path / "cut"), StopsAfter(30))
    train_run(ANSWER, AnswerOptions(train=folder, out=tmp_path / "cut", resume=True))
    first, second = (recur.load(made).model.state_dict() for made in (whole, tmp_path / "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stories_stay_whole_and_only_the_training_part_is_learned(folder, tmp_path):
    with (folder / "q2_train.txt").open("a") as file:
        file.write("1 Rare words stay.\n2 Where is Mary?\tnowhere\n")
    corpus = read_corpus(AnswerOptions(train=str(folder), validation_share=0.3))
    parts = [corpus.train.questions, corpus.validation.questions, corpus.test]
    stories = [{(q.path, q.start) for q in part} for part in parts]
    # no story is in two parts
    assert sum(map(len, stories)) == len(set.union(*stories)) == 121 + 120 + 20 + 20
    words = {word for q in parts[0] for text in (*q.story, q.text) for word in corpus.encoder.words(text)}
    assert set(corpus.encoder.vocabulary.words) == words
    assert set(corpus.encoder.labels) == {q.answer for q in parts[0]}
    # an answer that training never gave counts as wrong, and is told
    (folder / "q2_test.txt").write_text("1 Mary went to the hall.\n2 Where is Mary?\tcellar\n3 Where is Mary?\thall\n")
    made = run(folder, tmp_path)
    assert any(
        "1 test questions have an answer that the training part never gives" in n for n in metrics(made)["notes"]
    )
    assert metrics(made)["test"]["files"]["q2_test.txt"] <= 0.5


def test_baselines_count_what_they_say():
    def ask(story, text, answer=""):
        return Question(tuple(story), text, answer, Path("q.txt"), 1, 1)

    train = [ask([], "Where is A?", "hall"), ask([], "Where is A?", "hall"), ask([], "Where is B?", "yard")]
    train += [ask([], "Who has C?", name) for name in ("A", "B", "B", "B")]
    encoder = Encoder(Tokenizer("words", lower=False), Vocabulary([]), ["A", "B", "hall", "yard"], None)
    majority, question, latest = (learn(train, encoder) for _, learn in BASELINES.values())
    story = ["A is in the yard.", "B is in the hall.", "A is in the yard.", "B has C."]
    asked = [ask(story, text) for text in ("Where is A?", "Where is C?", "Who has D?", "Why?")]
    assert [majority(one) for one in asked] == ["B", "B", "B", "B"]
    assert [question(one) for one in asked] == ["hall", "hall", "B", "B"]
    assert [latest(one) for one in asked] == ["yard", "yard", "B", "B"]
    assert latest(ask(["Nobody is here."], "Where is B?")) == "yard"


def test_questions_are_read_with_their_stories(tmp_path):
    file = tmp_path / "some.txt"
    file.write_text("1 A is b.\n2 What is A? \tb\t1\n3 C is d.\n\n4 What is C?\td,e\n1 E is f.\n2 What is E?\n")
    found = list(read_questions(file, answered=False))
    assert found[0] == Question(("A is b.",), "What is A?", "b", file, 2, 1)
    assert found[1] == Question(("A is b.", "C is d."), "What is C?", "d,e", file, 5, 1)
    assert found[2] == Question(("E is f.",), "What is E?", "", file, 7, 6)
    assert as_question("A is b! What is A?")[:2] == (("A is b!",), "What is A?")
    assert as_question("小明去了厨房。小明在哪里？")[:2] == (("小明去了厨房。",), "小明在哪里？")


def test_files_come_in_the_order_of_their_numbers(folder):
    names = [path.name for path in story_files(folder)]
    assert names == ["q2_test.txt", "q2_train.txt", "q10_test.txt.gz", "q10_train.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Mary went.\n", r"line 1: expected a number, a blank and a sentence, found 'Mary went.'"),
        ("1 A.\n3 B?\tc\n", r"line 2: expected the number 2, or 1 for a new story, found 3"),
        ("1 A.\n2 B?\n", r"line 2: expected an answer behind a tab after the question 'B\?', found none"),
        ("1 A.\n2 B?\t \t1\n", r"line 2: expected an answer behind a tab"),
        ("1 A.\n2 B.\n", r"expected questions, lines with a tab or a question mark at the end, found none"),
        ("", r"expected questions"),
        (b"1 A\xff.\n", r"line 1: expected UTF-8, found the byte 0xff"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    file = tmp_path / "bad.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match="bad.txt.*" + message):
        list(read_questions(file))


def test_what_cannot_be_is_refused(folder, tmp_path):
    def refused(text, **options):
        with pytest.raises(InputError, match=text):
            run(options.pop("train", folder), tmp_path, overwrite=True, **options)

    refused("--test-pattern must fit the names of some of the 4 files .* which fits none", test_pattern="nothing")
    refused("which fits all", test_pattern="q")
    refused("--test-pattern must be a regular expression", test_pattern="(")
    refused("--test and --test-pattern must not be given together", test=folder)
    refused("--hops must be 0 or greater, got -1", hops=-1)
    refused("there is no file", train=tmp_path / "none")
    good = (folder / "q2_test.txt").read_text()
    (folder / "q2_test.txt").write_text(good + "4 Where is Ann?\n")
    refused("q2_test.txt, line 121: expected the number 7, or 1 for a new story, found 4")
    assert not (tmp_path / "run").exists()
    (folder / "q2_test.txt").write_text(good)
    one = tmp_path / "one.txt"
    one.write_text("1 A.\n2 B?\tc\n")
    refused("must have enough stories in each file to cut .* got 1", train=one, test_pattern=None)
    one.write_text("1 A.\n2 B?\tc\n" * 9)
    refused("must have questions of two answers at least, found only 'c'", train=one, test_pattern=None)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(r"must hold files that end in .txt or .txt.gz, found none", train=empty)
    run(folder, tmp_path)
    with pytest.raises(InputError, match="several texts"):
        recur.load(tmp_path / "run").predict("A.")
    with pytest.raises(InputError, match="must be sentences of which the last is the question, got ' '"):
        recur.load(tmp_path / "run").predict([" "])
