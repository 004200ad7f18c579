"""What the report draws of sequences of frames and their labels: the confusion, the worst mistakes, gates, evidence."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recur.cells import cell_named
from recur.models.listener import Listener
from recur.report import Block, HeatMap, LineChart, Mistake, Mistakes, Section, Series, Table
from recur.tasks.frames.parts import Part
from recur.tasks.job import Result, TaskReport, evenly
from recur.tasks.job_result import percent
from recur.tasks.labels import confusion_block, surest_mistakes
from recur.tasks.many_to_one import evaluating

WORST = 30
DRAWN = 3
PREFIXES = 60
"""So many beginnings of a sequence are answered at most."""

Drawing = Callable[[Part, int, str], Iterable[Block]]
"""Draws a sequence of a part, by its row, under a title."""


def frame_report(
    result: Result[Any], unit: str, heading: str, draw: Drawing, step: str, command: list[str], data: Iterable[Block]
) -> TaskReport:
    """Say what the best network reaches, and show where it fails.

    Args:
        result: of a task on frames, with the test part as `extra` and probabilities as what members show.
        unit: what sequences are called.
        heading: of the section with single sequences.
        draw: what is drawn of a sequence.
        step: what a step is, on the axis of time.
        command: one that uses the run.
        data: tables of the data, for the details.
    """
    best, labels = result.best, result.data.labels
    return TaskReport(
        lead=f"{best.trained.name} puts {percent(best.test.accuracy)} of {result.rows['test']:,} test {unit} into the "
        f"right one of {len(labels)} classes.",
        sections=[
            Section(
                "Confusion",
                f"Of {best.trained.name}, on the test part.",
                [confusion_block(labels, best.test.confusion, unit)],
            ),
            Section("Worst mistakes", "Wrong answers that were given with the most confidence.", [_mistakes(result)]),
            Section(heading, _singles_text(result), list(_singles(result, draw, step))),
        ],
        data=data,
        command=command,
        tried_on=f"On {unit} of your own:",
    )


def _mistakes(result: Result[Any]) -> Block:
    test, labels = result.extra, result.data.labels
    wrong = surest_mistakes(result.best.shown, test.labels)
    items = []
    for row in wrong[:WORST].tolist():
        guess = result.best.shown[row]
        items.append(Mistake(test.names[row], labels[test.labels[row]], labels[guess.argmax()], float(guess.max())))
    return Mistakes(f"{len(items)} of {len(wrong):,} mistakes", items)


def _kept(result: Result[Any]) -> str:
    """Return the gate that keeps the state, empty if the cell has none."""
    return cell_named(result.best.trained.options.cell[0]).keep.lstrip("-")


def _singles_text(result: Result[Any]) -> str:
    cell, gate = result.best.trained.options.cell[0], _kept(result)
    what = f"the gate {gate}, which keeps the state," if gate else "the state h"
    return (
        "The worst mistakes and the answer that was surest and right: the frames as they are read; what the network "
        f"would have said, had it ended there; and {what} of the last {cell} layer, forward in time, unit by unit."
    )


def _singles(result: Result[Any], draw: Drawing, step: str) -> Iterator[Block]:
    guesses, test, labels = result.best.shown, result.extra, result.data.labels
    right = np.flatnonzero(guesses.argmax(axis=1) == test.labels)
    surest = right[np.argsort(-guesses[right].max(axis=1), kind="stable")]
    for row in [*surest_mistakes(guesses, test.labels)[:DRAWN].tolist(), *surest[:1].tolist()]:
        truth, given = labels[test.labels[row]], labels[guesses[row].argmax()]
        told = f"right with {guesses[row].max():.0%}" if truth == given else f"taken for {given}"
        yield from draw(test, row, f"{truth}, {told}: {test.names[row]}")
        model, classes = result.best.trained.model, list(dict.fromkeys([test.labels[row], guesses[row].argmax()]))
        ends, found = beginnings(model, test.frames[row])
        yield LineChart(
            f"What it says while it reads {test.names[row]}",
            f"{step}s read",
            "probability",
            [Series(labels[number], ends.astype(np.float64), found[:, number]) for number in classes],
        )
        yield _gate_map(result, test, row, step)


def beginnings(model: Listener, frames: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Answer the beginnings of a sequence, each as if it were all of it.

    Args:
        model: the network.
        frames: a sequence [T, D].

    Returns:
        Where they end, rising [n], at most 60 of them, and the probability of each class [n, C].
    """
    ends = evenly(len(frames), PREFIXES) + 1
    one = torch.from_numpy(frames)
    with evaluating(model):
        scores = model(one.expand(len(ends), *one.shape), torch.from_numpy(ends))
    return ends, scores.double().softmax(1).numpy()


def _gate_map(result: Result[Any], test: Part, row: int, step: str) -> Block:
    gate, model, frames = _kept(result), result.best.trained.model, test.frames[row]
    one, lengths = torch.from_numpy(frames)[None], torch.tensor([len(frames)])
    with evaluating(model):
        trace = model.recurrent.trace(model.inputs(one, lengths), lengths=lengths)
    place = len(trace.states) - model.config.directions
    values = trace.gates[place][gate] if gate else trace.states[place].h
    return HeatMap(
        f"{gate or 'h'} while it reads {test.names[row]}",
        step,
        "unit",
        f"gate {gate}" if gate else "h",
        values[0].T.double().numpy(),
        limits=(0.0, 1.0) if gate else None,
    )


def parts_rows(result: Result[Any], unit: str) -> list[list[str | float | int]]:
    """Return how many sequences each part has, as rows of a table."""
    named = {"training": "train", "validation": "validation", "test": "test"}
    return [[f"{name} {unit}", f"{result.rows[part]:,}"] for name, part in named.items()]


def scores_rows(result: Result[Any]) -> list[list[str | float | int]]:
    """Return padding and macro F1, as rows of a table."""
    return [
        ["padding in the batches", percent(result.best.trained.setup.facts["padding_share"])],
        ["macro F1 on the test part", f"{result.best.test.macro_f1:.4f}"],
    ]


def data_table(rows: list[list[str | float | int]]) -> Table:
    """Return the table of the data."""
    return Table("Data", ["", "value"], rows)
