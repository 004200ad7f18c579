"""What the report of a language model draws: samples, and what of the test part it did not foresee."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.report import Block, Passage, Section, Table
from recur.tasks.generate.data import Text
from recur.tasks.generate.model import Scores, Surprise
from recur.tasks.job import Member, Result, TaskReport

BEFORE = 40
COSTLY = 20
# characters of the beginning
SHOWN = 2000


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
        lead=f"{best.trained.name} needs {scores.bits_per_character:.3f} bits for a character of the test part: it "
        f"foretells {scores.tokens:,} tokens with a perplexity of {scores.perplexity:.2f}.",
        sections=[
            Section("In other units", "", [_units(result)]),
            Section("Samples", f"Written by {best.trained.name} from the start of a line.", list(_samples(result))),
            Section(
                "Surprise",
                f"What {best.trained.name} did not foresee in the test part: -log2 of each token's probability.",
                list(_surprise(result)),
            ),
        ],
        data=[_data_table(result)],
        command=["recur", "generate", str(result.options.folder), "--prefix", "..."],
        tried_on="To go on from words of your own:",
    )


def _units(result: Result[Text]) -> Block:
    characters = result.data.characters("test")
    found = [(member.trained.name, member.test) for member in result.members]
    found += [(name, one.scores(characters)) for name, one in result.extra.baselines.items()]
    columns = ["", "perplexity", "nats per token", "bits per token", "bits per character"]
    rows: list[list[str | float | int]] = [
        [name, s.perplexity, s.loss, s.bits_per_token, s.bits_per_character] for name, s in found
    ]
    return Table("On the test part", columns, rows)


def _samples(result: Result[Text]) -> Iterator[Block]:
    for temperature, text in result.extra.samples[result.best.trained.name]:
        yield Passage(f"temperature {temperature:g}", [text])


def _surprise(result: Result[Text]) -> Iterator[Block]:
    found: Surprise = result.best.shown
    coder, drawn = result.data.coder, result.extra
    bits = [math.nan, *(loss / math.log(2) for loss in found.excerpt)]
    pieces = list(map(coder.writer(), drawn.excerpt[: len(bits)].tolist()))
    shown = int(np.searchsorted(np.cumsum([len(piece) for piece in pieces]), SHOWN)) + 1
    yield Passage(
        "The beginning",
        pieces[:shown],
        bits[: len(pieces[:shown])],
        unit="bits",
        full=max(4.0, math.ceil(float(np.nanquantile(bits, 0.98)))),
        note="The pointer shows the bits of each token.",
    )
    cost = np.argsort(-found.by_token, kind="stable")[:COSTLY]
    yield Table(
        "Where the bits go",
        ["token", "bits each", "times", "share of all bits"],
        [
            [
                _named(coder.tokens[id]),
                found.by_token[id] / found.tokens[id] / math.log(2),
                int(found.tokens[id]),
                f"{found.by_token[id] / found.total:.1%}",
            ]
            for id in cost.tolist()
            if found.tokens[id]
        ],
    )
    yield Table(
        "Most surprising tokens",
        ["came", "bits", "behind"],
        [
            [_named(coder.tokens[ids[-1]]), loss / math.log(2), "".join(map(coder.writer(), ids[:-1]))]
            for loss, ids in ((loss, drawn.contexts[place].tolist()) for loss, place in sorted(found.worst)[::-1])
        ],
    )


def _named(token: str) -> str:
    """Return a token so that it can be seen."""
    return {"\n": "line end", " ": "blank", "\t": "tab"}.get(token, token)


def _data_table(result: Result[Text]) -> Table:
    data = result.data
    rows: list[list[str | float | int]] = [
        [f"{part} tokens", f"{result.rows[part] + 1:,}"] for part in ("train", "validation", "test")
    ]
    rows += [["tokens are", data.coder.unit], ["in the vocabulary", f"{len(data.coder) - 1:,}"]]
    return Table("Data", ["", "value"], rows)
