"""What the report of a transcriber draws: when each unit is written, mistakes, what is mixed up, greedy beside beam."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recur.models.ctc import BLANK
from recur.report import Bar, BarChart, Block, HeatMap, Section, Sentences, Table, Word
from recur.tasks.job import Result, TaskReport
from recur.tasks.job_result import between, percent
from recur.tasks.transcribe.data import Speech
from recur.tasks.transcribe.edits import differences, distance
from recur.tasks.transcribe.model import probabilities
from recur.tasks.transcribe.scores import Transcribed, count_errors

DRAWN, SHOWN, PAIRS, LENGTHS = 3, 20, 15, 5

ALIGNMENT = (
    "Sounds as they are read, and below, step by step, the probability of the blank and of each unit of what was said "
    "or written. The network chooses by itself when to write a unit."
)


class Shown(NamedTuple):
    """What one network writes for the test part: by its best paths, and with a beam."""

    greedy: Transcribed
    beam: Transcribed | None


def report(result: Result[Speech]) -> TaskReport:
    """Say what the best network reaches, and show when it writes what."""
    best, scores, test = result.best, result.best.test, result.extra
    errors = [distance(*pair) for pair in zip(test.texts, best.shown.greedy.texts, strict=True)]
    worst = sorted(range(len(errors)), key=lambda row: -errors[row] / len(test.texts[row]))
    wrong = [row for row in worst if errors[row]]
    return TaskReport(
        lead=f"{best.trained.name} writes {result.rows['test']:,} test sounds down with a character error rate of "
        f"{percent(scores.character_error_rate)}; {percent(scores.exact)} of the texts are right to the letter.",
        sections=[
            Section("Alignment", ALIGNMENT, list(_pictures(result, wrong, worst[::-1]))),
            Section("Mistakes", "The worst texts of the test part.", [_mistakes(result, wrong), *_mixed_up(result)]),
            Section(
                "Length", "The test sounds by the words that are said; whiskers are 95% intervals.", [_lengths(result)]
            ),
            Section("Greedy or beam", "The same network, searched in two ways.", [_search(result)]),
        ],
        data=[_data_table(result)],
        command=[
            "recur",
            "predict",
            str(result.options.folder),
            "sound.wav",
            "--beam",
            str(max(2, result.options.beam)),
        ],
        tried_on="On sounds of your own:",
    )


def _pictures(result: Result[Speech], wrong: Sequence[int], right: Sequence[int]) -> Iterator[Block]:
    """Yield the first right sound and the worst ones, each above its units' probabilities."""
    data, test, shown = result.data, result.extra, result.best.shown.greedy
    spectra, model = data.spectra, result.best.trained.model
    rows = [*(row for row in right[:1] if row not in wrong), *wrong[:DRAWN]]
    for row in rows:
        said, text, frames = test.texts[row], shown.texts[row], test.frames[row]
        yield HeatMap(
            said if text == said else f"{said}, written {text or '(nothing)'}",
            f"frame of {spectra.hop_ms:g} ms",
            "mel channel" if spectra.features == "log-mel" else "coefficient",
            "ln energy" if spectra.features == "log-mel" else "value",
            frames.T[::-1].astype(np.float64),
            y_names=spectra.names[::-1],
        )
        found: NDArray[np.float64] = probabilities(model, torch.from_numpy(frames)).numpy()
        ids = list(dict.fromkeys([*test.targets[row].tolist(), *shown.written[row].ids]))
        yield HeatMap(
            f"What is written while it hears {test.paths[row].name}",
            f"step of {spectra.hop_ms * model.config.stack:g} ms",
            data.units.unit,
            "probability",
            found[:, [*ids[::-1], BLANK]].T,
            limits=(0.0, 1.0),
            y_names=[data.units.name(unit) for unit in [*ids[::-1], BLANK]],
        )


def _mistakes(result: Result[Speech], wrong: Sequence[int]) -> Block:
    items = []
    for row in wrong[:SHOWN]:
        pairs = differences(result.extra.texts[row].split(), result.best.shown.greedy.texts[row].split())
        items.append(
            [Word(a or "…") if a == b else Word(a or "…", b or "(nothing)", a or "(nothing)") for a, b in pairs]
        )
    return Sentences(f"{len(items)} of {len(wrong):,} texts with a mistake", items)


def _mixed_up(result: Result[Speech]) -> Iterator[Block]:
    """Yield the most frequent differences of characters, and of words."""
    texts = list(zip(result.extra.texts, result.best.shown.greedy.texts, strict=True))
    for title, cut in (("Words mixed up most", str.split), ("Characters mixed up most", list)):
        pairs = (pair for said, text in texts for pair in differences(cut(said), cut(text)))
        counts = Counter(pair for pair in pairs if pair[0] != pair[1])
        rows: list[list[str | float | int]] = [
            [*(_named(item) for item in pair), count] for pair, count in counts.most_common(PAIRS)
        ]
        yield Table(title, ["said", "written", "times"], rows)


def _named(item: str | None) -> str:
    return "(nothing)" if item is None else item.replace(" ", "␣")


def _lengths(result: Result[Speech]) -> BarChart:
    test, texts = result.extra, result.best.shown.greedy.texts
    words = np.array([len(text.split()) for text in test.texts])
    # sounds of one number of words stay together
    parts = np.array_split(np.unique(words), min(LENGTHS, len(np.unique(words))))
    bars = []
    for part in parts:
        rows = np.flatnonzero(np.isin(words, part)).tolist()
        found = count_errors([test.texts[row] for row in rows], [texts[row] for row in rows])
        name = f"{part[0]} to {part[-1]} words" if len(part) > 1 else f"{part[0]} words"
        bars.append(Bar(name, found.character_error_rate, *found.interval, own=True, note=f"{len(rows)} sounds"))
    return BarChart("Character error rate by number of words", bars)


def _search(result: Result[Speech]) -> Table:
    shown = result.best.shown
    rows: list[list[str | float | int]] = []
    for name, found in (("greedy", shown.greedy), (f"beam {result.options.beam}", shown.beam)):
        if found is not None:
            scores = found.scores
            rates = map(percent, (scores.character_error_rate, scores.word_error_rate, scores.exact))
            rate, *others = rates
            logs = float(np.mean([one.log_probability for one in found.written]))
            rows.append([name, rate, between(result.figure, scores.interval), *others, logs])
    columns = ["", "character error rate", "95% interval", "word error rate", "exact", "mean ln p"]
    return Table("Search", columns, rows)


def _data_table(result: Result[Speech]) -> Table:
    data, spectra, model = result.data, result.data.spectra, result.best.trained.model
    seconds = data.train.frames.lengths * spectra.hop / spectra.rate
    units = data.train.targets.lengths
    rows: list[list[str | float | int]] = [
        ["training sounds", f"{result.rows['train']:,}"],
        ["validation sounds", f"{result.rows['validation']:,}"],
        ["test sounds", f"{result.rows['test']:,}"],
        ["hours learned from", f"{seconds.sum() / 3600:.2f}"],
        ["samples a second", f"{spectra.rate:,}"],
        ["features of a frame", f"{spectra.size}, {spectra.features}"],
        ["steps a second", f"{spectra.rate / spectra.hop / model.config.stack:g}"],
        [f"different {data.units.unit}s", f"{len(data.units.vocabulary.words):,}"],
        ["median length of a training sound", f"{np.median(seconds):.2f} s, {np.median(units):g} {data.units.unit}s"],
        ["padding in the batches", percent(result.best.trained.setup.facts["padding_share"])],
        ["loss on the test part", f"{result.best.test.loss:.4f}"],
    ]
    return Table("Data", ["", "value"], rows)
