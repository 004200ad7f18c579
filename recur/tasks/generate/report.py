"""What the report of a language model draws: samples, and what of the test part it did not foresee."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.report import Block, Section, Table
from recur.tasks.generate.data import Text
from recur.tasks.generate.model import Scores, Surprise
from recur.tasks.job import Member, Result, TaskReport

BEFORE = 40
COSTLY = 20


@dataclass(frozen=True)
class Drawn:
    """What the report draws besides the scores."""

    excerpt: NDArray[np.int64]
    """The first ids of the test part."""
    contexts: Mapping[int, NDArray[np.int64]]
    """By the place of a surprising token the ids before it, and its own."""
    samples: Mapping[str, Sequence[tuple[float, str]]]
    """By network: temperatures and texts."""
    baselines: Mapping[str, Surprise]

    @classmethod
    def of(
        cls,
        data: Text,
        members: Sequence[Member],
        samples: Mapping[str, Sequence[tuple[float, str]]],
        baselines: Mapping[str, Surprise],
    ) -> "Drawn":
        """Take what is drawn out of the stream on disk."""
        values = data.parts["test"].values
        most = max((len(member.shown.excerpt) for member in members), default=0) + 1
        places = {place for member in members for _, place in member.shown.worst}
        contexts = {place: values[max(0, place - BEFORE) : place + 1].astype(np.int64) for place in places}
        return cls(values[:most].astype(np.int64), contexts, samples, baselines)


def report(result: Result[Text]) -> TaskReport:
    """Say how well the best network foretells the test part, show what it writes, and what it did not foresee."""
    best = result.best
    scores: Scores = best.test
    return TaskReport(
        lead=f"{best.trained.name} needs {scores.bits_per_character:.3f} bits for a character of the test part; of "
        f"{scores.tokens:,} tokens it foretells each with a perplexity of {scores.perplexity:.2f}.",
        sections=[
            Section("Samples", "Written by the network from the start of a line.", list(_samples(result))),
            Section("Surprise", "", list(_surprise(result))),
        ],
        data=[_data_table(result)],
        command=["recur", "generate", str(result.options.folder), "--prefix", "..."],
        tried_on="To go on from words of your own:",
    )


def _samples(result: Result[Text]) -> Iterator[Block]:
    rows = [[f"{t:g}", text] for t, text in result.extra.samples[result.best.trained.name]]
    yield Table("By temperature", ["temperature", "text"], rows)


def _surprise(result: Result[Text]) -> Iterator[Block]:
    found: Surprise = result.best.shown
    data = result.data
    rows = []
    for loss, place in sorted(found.worst, reverse=True):
        ids = result.extra.contexts[place].tolist()
        before = "".join(map(data.coder.writer(), ids[:-1]))
        rows.append([before, data.coder.tokens[ids[-1]], loss / np.log(2)])
    yield Table("Most surprising tokens", ["after", "came", "bits"], rows)


def _data_table(result: Result[Text]) -> Table:
    data = result.data
    rows: list[list[str | float | int]] = [
        [f"{part} tokens", f"{result.rows[part] + 1:,}"] for part in ("train", "validation", "test")
    ]
    rows += [["tokens are", data.coder.unit], ["in the vocabulary", f"{len(data.coder) - 1:,}"]]
    return Table("Data", ["", "value"], rows)
