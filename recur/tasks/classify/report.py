"""What the report of a classifier draws: the confusion of classes, and the worst mistakes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recur.data.sequences import Sequences
from recur.report import Block, Mistake, Mistakes, Section, Table
from recur.tasks.classify.baselines import Part
from recur.tasks.classify.data import Corpus
from recur.tasks.job import Result, TaskReport
from recur.tasks.job_result import percent
from recur.tasks.labels import confusion_block, surest_mistakes

WORST = 30


class Drawn(NamedTuple):
    """What the report draws besides the scores."""

    test: Part
    """Whole texts and their classes."""
    growth: list[tuple[int, int, int]]
    """n, distinct n-grams and distinct 1- to n-grams of the training part; empty without baselines."""
    counted: int
    """Training texts that they were counted in."""


def report(result: Result[Corpus]) -> TaskReport:
    """Say what the best network reaches, and show where it fails."""
    best, corpus = result.best, result.data
    return TaskReport(
        lead=f"{best.trained.name} puts {percent(best.test.accuracy)} of {result.rows['test']:,} test texts into the "
        f"right one of {len(corpus.labels)} classes.",
        sections=[
            Section(
                "Confusion",
                f"Of {best.trained.name}, on the test part.",
                [confusion_block(corpus.labels, best.test.confusion, "texts")],
            ),
            Section("Worst mistakes", "Wrong answers that were given with the most confidence.", [_mistakes(result)]),
        ],
        data=[_data_table(result), *_growth(result)],
        command=["recur", "predict", str(result.options.folder), "a text"],
        tried_on="On texts of your own:",
    )


def _mistakes(result: Result[Corpus]) -> Block:
    labels, truth, guesses = result.data.labels, result.extra.test.labels, result.best.shown
    predicted = guesses.argmax(axis=1)
    wrong = surest_mistakes(guesses, truth)
    worst = wrong[:WORST]
    wanted = set(worst.tolist())
    texts = {i: text for i, text in enumerate(result.data.test_file.texts()) if i in wanted} if wanted else {}
    items = [
        Mistake(texts[i], labels[truth[i]], labels[predicted[i]], float(guesses[i, predicted[i]]))
        for i in worst.tolist()
    ]
    return Mistakes(f"{len(items)} of {len(wrong):,} mistakes", items)


def _data_table(result: Result[Corpus]) -> Table:
    corpus, best, facts = result.data, result.best, result.best.trained.setup.facts
    lengths = corpus.train.sequences.lengths
    longest = corpus.encoder.max_length
    rows: list[list[str | float | int]] = [
        ["training texts", f"{len(corpus.train.labels):,}"],
        ["validation texts", f"{len(corpus.validation.labels):,}"],
        ["test texts", f"{result.rows['test']:,}"],
        ["tokens", corpus.encoder.tokenizer.kind],
        ["words in the vocabulary", f"{len(corpus.encoder.vocabulary.words):,}"],
        ["unknown in the validation part", percent(_unknown(corpus.validation.sequences))],
        ["median length of a text", f"{np.median(lengths):,.0f} tokens"],
        ["cut texts", percent(float((lengths > longest).mean()) if longest else 0.0)],
        ["padding in the batches", percent(facts["padding_share"])],
        ["macro F1 on the test part", f"{best.test.macro_f1:.4f}"],
    ]
    if "vector_coverage" in facts:
        rows.append(["words with a pretrained vector", percent(facts["vector_coverage"])])
    return Table("Data", ["", "value"], rows)


def _growth(result: Result[Corpus]) -> Iterator[Block]:
    if result.extra.growth:
        yield Table(
            "What an exact table of n-grams would need",
            ["n", "distinct n-grams", "rows for 1 to n"],
            [[n, distinct, rows] for n, distinct, rows in result.extra.growth],
            note=f"Counted in {result.extra.counted:,} training texts. A bag of n-grams sees order only within n "
            "words, and its table grows with n; a recurrent network's size does not depend on the length of what it "
            "reads.",
        )


def _unknown(sequences: Sequences) -> float:
    return sequences.count(1) / max(1, len(sequences.values))
