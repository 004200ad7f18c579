"""What the report of a tagger draws: scores by tag and by span, the confusion of tags, and the worst sentences."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.report import Bar, BarChart, Block, Confusion, Section, Sentences, Table, Word
from recur.tasks.figures import wilson
from recur.tasks.job import Result, TaskReport
from recur.tasks.job_result import percent
from recur.tasks.tag.data import TagData
from recur.tasks.tag.words import Tagged

WORST = 20
MOST_TAGS = 50
LONGEST = 60  # words of a sentence that are shown


class Drawn(NamedTuple):
    """What the report draws besides the scores."""

    test: Tagged
    known: NDArray[np.bool_]
    """Of each form of the test part, whether the training part has it."""


def report(result: Result[TagData]) -> TaskReport:
    """Say what the best network reaches, and show where it fails."""
    best = result.best.test
    lead = f"{result.best.trained.name} gives {percent(best.accuracy)} of {best.words:,} test words the right one of "
    lead += f"{len(result.data.encoder.tags)} tags"
    if best.spans:
        lead += f", and finds {percent(best.spans['recall'])} of {best.spans['true']:,} spans exactly"
    return TaskReport(
        lead=f"{lead}.",
        sections=[
            Section("By word", _by_word_text(result), [_by_word(result)]),
            Section("By tag", f"Of {result.best.trained.name}, on the test part.", list(_by_tag(result))),
            Section(
                "Worst sentences",
                "The sentences of the test part whose wrong words got their tags with the most confidence; below a "
                "wrong word stand the tag it got and the true one.",
                [_worst(result)],
            ),
        ],
        data=[_data_table(result)],
        command=["recur", "predict", str(result.options.folder), "The cat sat ."],
        tried_on="On sentences of your own, their words between blanks:",
    )


def _by_word_text(result: Result[TagData]) -> str:
    best = result.best.test
    return (
        f"{best.unknown:,} of {best.words:,} test words do not occur in the training part: of those the network knows "
        f"letters and neighbours alone. {percent(best.sentence_accuracy)} of the sentences have no mistake."
    )


def _by_word(result: Result[TagData]) -> Block:
    best, bars = result.best.test, []
    for name, share, count in (
        ("known words", best.known_accuracy, best.words - best.unknown),
        ("unknown words", best.unknown_accuracy, best.unknown),
    ):
        if share is not None:
            bars.append(Bar(name, share, *wilson(round(share * count), count), own=True, note=f"{count:,} words"))
    return BarChart("Test accuracy", bars)


def _by_tag(result: Result[TagData]) -> Iterator[Block]:
    best = result.best.test
    if best.spans:
        found = best.spans["types"].items()
        rows = [[kind, *_shares(one), one["true"], one["predicted"]] for kind, one in found]
        yield Table("Spans", ["type", "precision", "recall", "F1", "true", "predicted"], rows)
    if best.confusion is None:
        yield Table("Most frequent mix-ups", ["true", "predicted", "words"], [list(row) for row in best.mistaken])
    else:
        yield Confusion(best.labels, best.confusion)
    by_tag = sorted(best.by_tag, key=lambda one: -one["true"])[:MOST_TAGS]
    yield Table(
        "Words",
        ["tag", "precision", "recall", "F1", "true", "predicted"],
        [[one["tag"], *_shares(one), one["true"], one["predicted"]] for one in by_tag],
        note=f"The mean F1 of all {len(best.by_tag)} tags is {best.macro_f1:.4f}.",
    )


def _shares(one: dict[str, float]) -> list[str]:
    return [percent(one[name]) for name in ("precision", "recall", "f1")]


def _worst(result: Result[TagData]) -> Block:
    test, guesses = result.extra.test, result.best.shown
    wrong = guesses.tags != test.tags.values
    starts = test.sentences.offsets
    sums = np.concatenate([[0.0], np.cumsum(np.where(wrong, guesses.probability, 0.0), dtype=np.float64)])
    blame = sums[starts[1:]] - sums[starts[:-1]]
    order = [row for row in np.argsort(-blame, kind="stable")[:WORST].tolist() if blame[row]]
    mistaken = int((blame > 0).sum())
    items = []
    for row in order:
        words, first = test.text(row), int(starts[row])
        items.append(
            [
                Word(word, test.names[guesses.tags[i]], test.names[test.tags.values[i]]) if wrong[i] else Word(word)
                for i, word in enumerate(words[:LONGEST], start=first)
            ]
            + ([Word(f"… ({len(words) - LONGEST} more words)")] if len(words) > LONGEST else [])
        )
    return Sentences(f"{len(items)} of {mistaken:,} sentences with a mistake", items)


def _data_table(result: Result[TagData]) -> Table:
    data, test, facts = result.data, result.extra.test, result.best.trained.setup.facts
    rows: list[list[str | float | int]] = []
    for name, part in (("training", data.train), ("validation", data.validation), ("test", test)):
        rows.append([f"{name} part", f"{len(part):,} sentences, {len(part.sentences.values):,} words"])
    rows += [
        ["words of the training part that are known", f"{data.encoder.learned:,}"],
        ["characters", f"{len(data.encoder.characters.words):,}"],
        ["unknown words in the test part", percent(result.best.test.unknown / result.best.test.words)],
        ["median length of a sentence", f"{np.median(data.train.sentences.lengths):,.0f} words"],
        ["padding in the batches", percent(facts["padding_share"])],
    ]
    if "vector_coverage" in facts:
        rows.append(["words with a given vector", percent(facts["vector_coverage"])])
    return Table("Data", ["", "value"], rows)
