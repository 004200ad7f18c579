"""What the report of a memory network draws: which sentences each hop reads, the files' scores, the worst mistakes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recur.report import Block, HeatMap, Mistake, Mistakes, Section, Table
from recur.tasks.answer.data import Corpus, Part
from recur.tasks.answer.model import reads
from recur.tasks.job import Result, TaskReport
from recur.tasks.job_result import percent
from recur.tasks.labels import surest_mistakes

WORST = 30
DRAWN = 20
LONGEST_MAP = 15
READ = (
    "Questions of the test part, one of each file, with the sentences before them, and how far each sentence moves the "
    "state in each pass of the memory, forward and backward, as a share of what all move it: hop 1 begins with the "
    "question as it stands, each further one with what the hop before has made of it at each sentence."
)


class Drawn(NamedTuple):
    """What the report draws besides the scores."""

    test: Part


def report(result: Result[Corpus]) -> TaskReport:
    """Say what the best network reaches, and show what it reads."""
    best = result.best
    sections = [
        Section("Files", "Share of right answers in each file of the test part.", [_files(result)]),
        Section("Worst mistakes", "Wrong answers that were given with the most confidence.", [_mistakes(result)]),
    ]
    if best.trained.model.config.hops:
        sections.insert(0, Section("What is read", READ, list(_maps(result))))
    return TaskReport(
        lead=f"{best.trained.name} answers {percent(best.test.accuracy)} of {result.rows['test']:,} test questions "
        f"right, out of {len(result.data.encoder.labels)} answers.",
        sections=sections,
        data=[_data_table(result)],
        command=["recur", "predict", str(result.options.folder), "A story. And a question?"],
        tried_on="On a story of your own:",
    )


def _maps(result: Result[Corpus]) -> Iterator[Block]:
    """Yield what is read for one question of each file, one with a right answer if there is one."""
    test, model, encoder = result.extra.test, result.best.trained.model, result.data.encoder
    guesses = result.best.shown.argmax(axis=1)
    chosen: dict[str, int] = {}
    # of each file the longest story that a picture holds
    order = sorted(range(len(guesses)), key=lambda row: -len(test.questions[row].story))
    for right in (True, False):
        for row in order:
            story = test.questions[row].story
            if 0 < len(story) <= LONGEST_MAP and (guesses[row] == test.stories.answers[row]) == right:
                chosen.setdefault(test.questions[row].path.name, row)
    names = list(dict.fromkeys(question.path.name for question in test.questions))
    rows = [chosen[name] for name in names if name in chosen][:DRAWN]
    questions = [test.questions[row] for row in rows]
    for row, question, shares in zip(rows, questions, reads(model, encoder(questions)), strict=True):
        given = encoder.labels[guesses[row]]
        told = given if given == question.answer else f"{given} (wrong: {question.answer})"
        passes = [f"hop {number // 2 + 1} {'←' if number % 2 else '→'}" for number in range(len(shares))]
        yield HeatMap(
            f"{question.path.name}: {question.text} {told}",
            "pass",
            "sentence",
            "share",
            shares.T,
            limits=(0.0, 1.0),
            x_names=passes,
            y_names=question.story[-shares.shape[1] :],
        )


def _files(result: Result[Corpus]) -> Table:
    members = result.members
    counts: dict[str, int] = {}
    for question in result.extra.test.questions:
        counts[question.path.name] = counts.get(question.path.name, 0) + 1
    rows: list[list[str | float | int]] = [
        [name, count, *(percent(member.test.files[name]) for member in members)] for name, count in counts.items()
    ]
    mean = [percent(float(np.mean(list(member.test.files.values())))) for member in members]
    rows.append(["mean of the files", sum(counts.values()), *mean])
    return Table("Accuracy by file", ["file", "questions", *(member.trained.name for member in members)], rows)


def _mistakes(result: Result[Corpus]) -> Block:
    test, labels, guesses = result.extra.test, result.data.encoder.labels, result.best.shown
    wrong = surest_mistakes(guesses, test.stories.answers)
    items = []
    for row in wrong[:WORST].tolist():
        question, guess = test.questions[row], guesses[row]
        text = " ".join((*question.story, question.text))
        items.append(Mistake(text, question.answer, labels[int(guess.argmax())], float(guess.max())))
    return Mistakes(f"{len(items)} of {len(wrong):,} mistakes", items)


def _data_table(result: Result[Corpus]) -> Table:
    data = result.data
    told = data.train.stories.stories.lengths
    rows: list[list[str | float | int]] = [
        ["training questions", f"{result.rows['train']:,}"],
        ["validation questions", f"{result.rows['validation']:,}"],
        ["test questions", f"{result.rows['test']:,}"],
        ["answers", f"{len(data.encoder.labels):,}"],
        ["words", f"{len(data.encoder.vocabulary):,}"],
        ["different training sentences", f"{len(data.train.stories.sentences):,}"],
        ["sentences before a question, median", f"{np.median(told):g}"],
        ["sentences before a question, most", f"{told.max():,}"],
        ["padding in the batches", percent(result.best.trained.setup.facts["padding_share"])],
    ]
    return Table("Data", ["", "value"], rows)
