"""The report of `recur train classify`, from what the run found."""

import dataclasses
import math
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from recur.flow.growth import TEXT, growth_blocks, horizon_chart
from recur.report import (
    Bar,
    BarChart,
    Block,
    Command,
    Confusion,
    Fact,
    LineChart,
    Mistake,
    Mistakes,
    Note,
    Report,
    Section,
    Series,
    Settings,
    Table,
)
from recur.tasks.classify_result import Member, Result, between, percent
from recur.tasks.figures import mean_interval, wilson
from recur.tasks.options import TrainingOptions
from recur.tasks.progress import duration
from recur.tasks.run import versions

HORIZON = (
    "How many steps back the gradient of the loss stays within 1% and 100 times of that at the text's end, in one "
    "batch now and then; the report of each network has more."
)
WORST = 30
MOST_CLASSES = 30


def compose_report(result: Result) -> Report:
    """Say what a run found: the comparison first, then how it was learned, then where it fails."""
    best, corpus = result.best, result.corpus
    rows = len(result.test.labels)
    rivals = [b for b in result.baselines if b.test is not None]
    strongest = max(rivals, key=lambda b: b.test or 0.0, default=None)
    facts = [
        Fact(
            "test accuracy", percent(best.test.accuracy), f"95% interval {between(best.test.interval)}, {rows:,} texts"
        ),
        Fact("validation accuracy", percent(best.validation.accuracy), f"{len(corpus.validation.labels):,} texts"),
    ]
    if strongest:
        facts.append(Fact("strongest baseline", percent(strongest.test or 0.0), strongest.name))
    facts += [
        Fact("parameters", f"{best.trained.model.parameter_count:,}"),
        Fact(
            "training",
            duration(math.fsum(m.trained.seconds for m in result.members)),
            f"{sum(len(m.trained.training.history) for m in result.members)} epochs",
        ),
    ]
    return Report(
        title=f"{', '.join(result.cells)} on {corpus.fingerprints['train']['file']}",
        lead=_lead(result, strongest.name if strongest else None, strongest.test if strongest else None),
        facts=facts,
        sections=[
            Section("Comparison", _comparison_text(result), [*_comparison(result), *_warnings(result)]),
            Section("Learning", _learning_text(result), list(_learning(result))),
            *_memory(result),
            Section("Confusion", f"Of {best.trained.name}, on the test part.", [_confusion(result)]),
            Section("Worst mistakes", "Wrong answers that were given with the most confidence.", [_mistakes(result)]),
            Section(
                "Use it",
                "On texts of your own:",
                [Command(shlex.join(["recur", "predict", str(result.options.folder), "a text"]))],
            ),
            Section("Details", "", [_data_table(result), *_growth(result), _settings(result)]),
        ],
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        version=versions()["recur"],
    )


def _lead(result: Result, rival: str | None, reached: float | None) -> str:
    best, labels = result.best, len(result.corpus.labels)
    text = (
        f"{best.trained.name} puts {percent(best.test.accuracy)} of {len(result.test.labels):,} test texts into "
        f"the right one of {labels} classes."
    )
    if rival is None or reached is None:
        return text
    low, high = best.test.interval
    if low <= reached <= high:
        return f"{text} The strongest baseline, {rival}, reaches {percent(reached)}: no clear difference."
    verdict = "less" if reached < low else "more"
    return f"{text} The strongest baseline, {rival}, reaches {percent(reached)}, which is {verdict}."


def _comparison_text(result: Result) -> str:
    seeds = max(len(group) for group in result.cells.values())
    text = "Share of right answers on the test part, which was scored once, at the end."
    if seeds > 1:
        return f"{text} The whiskers of the networks are 95% intervals of the mean over {seeds} seeds (Student's t)."
    return f"{text} The whiskers are 95% intervals for the number of test texts (Wilson)."


def _comparison(result: Result) -> Iterator[Block]:
    rows = len(result.test.labels)
    bars = []
    for cell, group in result.cells.items():
        if len(group) > 1:
            mean, half = mean_interval([m.test.accuracy for m in group])
            low, high = max(0.0, mean - half), min(1.0, mean + half)
            bars.append(Bar(cell, mean, low, high, own=True, note=f"{len(group)} seeds"))
        else:
            bars.append(Bar(cell, group[0].test.accuracy, *group[0].test.interval, own=True))
    for baseline in result.baselines:
        reached = baseline.test or 0.0
        low, high = wilson(round(reached * rows), rows)
        bars.append(Bar(baseline.name, reached, low, high, note=baseline.description))
    yield BarChart("Test accuracy", bars)
    if len(result.members) > 1:
        yield Table(
            "Every network",
            ["", "test accuracy", "validation accuracy", "macro F1", "parameters", "best epoch", "seconds"],
            [
                [
                    m.trained.name,
                    percent(m.test.accuracy),
                    percent(m.validation.accuracy),
                    round(m.test.macro_f1, 4),
                    m.trained.model.parameter_count,
                    m.trained.training.best_epoch,
                    round(m.trained.seconds),
                ]
                for m in result.members
            ],
            note=f"The best on the validation part, {result.best.trained.name}, is the one that predicts.",
        )


def _warnings(result: Result) -> list[Block]:
    return [Note("warning" if "training file too" in note else "info", note) for note in result.notes]


def _learning_text(result: Result) -> str:
    skipped = sum(line["skipped_steps"] for m in result.members for line in m.trained.training.history)
    text = "The network of the epoch with the best validation accuracy is kept."
    return f"{text} {skipped} steps with gradients that were not finite were left out." if skipped else text


def _learning(result: Result) -> Iterator[Block]:
    if len(result.members) == 1:
        training = result.best.trained.training
        marks = [(training.best_epoch, "kept")]
        for figure in ("accuracy", "loss"):
            series = [_series(result.best, part, figure, part) for part in ("train", "validation")]
            yield LineChart(figure.capitalize(), "epoch", figure, series, marks=marks)
        return
    for figure in ("accuracy", "loss"):
        series = [_series(m, "validation", figure, m.trained.name) for m in result.members]
        yield LineChart(f"Validation {figure}", "epoch", figure, series)


def _memory(result: Result) -> Iterator[Section]:
    """Yield how memory grew while training; of several networks only how far back each reached."""
    watched = {m.trained.name: m.trained.training.watch.lines for m in result.members if m.trained.training.watch}
    if len(result.members) == 1 and watched:
        yield Section("Memory", TEXT, list(growth_blocks(*watched.values())))
    elif watched:
        yield Section("Memory", HORIZON, [horizon_chart(watched)])


def _series(member: Member, part: str, figure: str, name: str) -> Series:
    history = member.trained.training.history
    values = [line[part][figure] for line in history]
    return Series(name, [line["epoch"] for line in history], [float("nan") if v is None else v for v in values])


def _confusion(result: Result) -> Block:
    labels, counts = result.corpus.labels, np.array(result.best.test.confusion)
    if len(labels) <= MOST_CLASSES:
        return Confusion(labels, counts.tolist())
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST_CLASSES]
    pairs = [np.unravel_index(i, errors.shape) for i in order if errors.flat[i]]
    rows: list[list[str | float | int]] = [[labels[t], labels[p], int(errors[t, p])] for t, p in pairs]
    return Table("Most frequent mix-ups", ["true", "predicted", "texts"], rows)


def _mistakes(result: Result) -> Block:
    labels, truth, guesses = result.corpus.labels, result.test.labels, result.best.probabilities
    predicted = guesses.argmax(axis=1)
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(-guesses[wrong, predicted[wrong]], kind="stable")][:WORST]
    wanted = set(worst.tolist())
    texts = {i: text for i, text in enumerate(result.corpus.test_file.texts()) if i in wanted} if wanted else {}
    items = [
        Mistake(texts[i], labels[truth[i]], labels[predicted[i]], float(guesses[i, predicted[i]]))
        for i in worst.tolist()
    ]
    return Mistakes(f"{len(items)} of {len(wrong):,} mistakes", items)


def _data_table(result: Result) -> Table:
    corpus, best = result.corpus, result.best
    lengths = corpus.train.sequences.lengths
    longest = corpus.encoder.max_length
    rows: list[list[str | float | int]] = [
        ["training texts", f"{len(corpus.train.labels):,}"],
        ["validation texts", f"{len(corpus.validation.labels):,}"],
        ["test texts", f"{len(result.test.labels):,}"],
        ["tokens", corpus.encoder.tokenizer.kind],
        ["words in the vocabulary", f"{len(corpus.encoder.vocabulary.words):,}"],
        ["unknown in the validation part", percent(_unknown(corpus.validation.sequences.values))],
        ["median length of a text", f"{np.median(lengths):,.0f} tokens"],
        ["cut texts", percent(float((lengths > longest).mean()) if longest else 0.0)],
        ["padding in the batches", percent(best.trained.padding_share)],
        ["macro F1 on the test part", f"{best.test.macro_f1:.4f}"],
    ]
    if best.trained.coverage is not None:
        rows.append(["words with a pretrained vector", percent(best.trained.coverage)])
    return Table("Data", ["", "value"], rows)


def _growth(result: Result) -> Iterator[Block]:
    if result.growth:
        yield Table(
            "What an exact table of n-grams would need",
            ["n", "distinct n-grams", "rows for 1 to n"],
            [[n, distinct, rows] for n, distinct, rows in result.growth],
            note="A bag of n-grams sees order only within n words, and its table grows with n; a recurrent network's "
            "size does not depend on the length of what it reads.",
        )


def _unknown(ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> float:
    return float((ids == 1).mean()) if len(ids) else 0.0


def _settings(result: Result) -> Settings:
    training = {field.name for field in dataclasses.fields(TrainingOptions)}
    groups: dict[str, dict[str, str]] = {"Data and network": {}, "Training": {}, "Versions": versions()}
    for name, value in result.options.plain().items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        groups["Training" if name in training else "Data and network"][name.replace("_", " ")] = shown
    return Settings(groups)
