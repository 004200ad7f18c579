"""What the report of a listener draws: the confusion, the worst mistakes, and sounds beside the gates."""

from collections.abc import Iterator

import numpy as np
import torch

from recur.cells import cell_named
from recur.report import Block, HeatMap, Mistake, Mistakes, Section, Table
from recur.tasks.job import Result, TaskReport
from recur.tasks.job_result import percent
from recur.tasks.labels import confusion_block, surest_mistakes
from recur.tasks.listen.data import Part, Recordings

WORST = 30
DRAWN = 3


def report(result: Result[Recordings]) -> TaskReport:
    """Say what the best network reaches, and show where it fails."""
    best, data = result.best, result.data
    return TaskReport(
        lead=f"{best.trained.name} puts {percent(best.test.accuracy)} of {result.rows['test']:,} test sounds into the "
        f"right one of {len(data.labels)} classes.",
        sections=[
            Section(
                "Confusion",
                f"Of {best.trained.name}, on the test part.",
                [confusion_block(data.labels, best.test.confusion, "sounds")],
            ),
            Section("Worst mistakes", "Wrong answers that were given with the most confidence.", [_mistakes(result)]),
            Section("Sounds and gates", _gate_text(result), list(_gates(result))),
        ],
        data=[_data_table(result)],
        command=["recur", "predict", str(result.options.folder), "sound.wav"],
        tried_on="On sounds of your own:",
    )


def _mistakes(result: Result[Recordings]) -> Block:
    test, labels = result.extra, result.data.labels
    wrong = surest_mistakes(result.best.shown, test.labels)
    items = []
    for row in wrong[:WORST].tolist():
        guess = result.best.shown[row]
        items.append(
            Mistake(str(test.paths[row]), labels[test.labels[row]], labels[guess.argmax()], float(guess.max()))
        )
    return Mistakes(f"{len(items)} of {len(wrong):,} mistakes", items)


def _kept(result: Result[Recordings]) -> str:
    """Return the gate that keeps the state, empty if the cell has none."""
    return cell_named(result.best.trained.options.cell[0]).keep.lstrip("-")


def _gate_text(result: Result[Recordings]) -> str:
    cell, gate = result.best.trained.options.cell[0], _kept(result)
    what = f"the gate {gate}, which keeps the state," if gate else "the state h"
    return (
        f"The worst mistakes and the answer that was surest and right: the frames as they are read, and {what} of the "
        f"last {cell} layer, forward in time, unit by unit."
    )


def _gates(result: Result[Recordings]) -> Iterator[Block]:
    guesses, test, labels = result.best.shown, result.extra, result.data.labels
    right = np.flatnonzero(guesses.argmax(axis=1) == test.labels)
    surest = right[np.argsort(-guesses[right].max(axis=1), kind="stable")]
    for row in [*surest_mistakes(guesses, test.labels)[:DRAWN].tolist(), *surest[:1].tolist()]:
        truth, given = labels[test.labels[row]], labels[guesses[row].argmax()]
        told = f"right with {guesses[row].max():.0%}" if truth == given else f"taken for {given}"
        yield from _pictures(result, test, row, f"{truth}, {told}: {test.paths[row].name}")


def _pictures(result: Result[Recordings], test: Part, row: int, title: str) -> Iterator[Block]:
    """Yield the frames of a sound, low features at the bottom, and the gate below."""
    spectra, model = result.data.spectra, result.best.trained.model
    frames = test.frames[row]
    time = f"frame of {spectra.hop_ms:g} ms"
    yield HeatMap(
        title,
        time,
        "mel channel" if spectra.features == "log-mel" else "coefficient",
        "ln energy" if spectra.features == "log-mel" else "value",
        frames.T[::-1].astype(np.float64),
        y_names=spectra.names[::-1],
    )
    gate = _kept(result)
    one, lengths = torch.from_numpy(frames)[None], torch.tensor([len(frames)])
    with torch.no_grad():
        trace = model.recurrent.trace(model.inputs(one, lengths), lengths=lengths)
    place = len(trace.states) - model.config.directions
    values = trace.gates[place][gate] if gate else trace.states[place].h
    yield HeatMap(
        f"{gate or 'h'} while it hears {test.paths[row].name}",
        time,
        "unit",
        f"gate {gate}" if gate else "h",
        values[0].T.double().numpy(),
        limits=(0.0, 1.0) if gate else None,
    )


def _data_table(result: Result[Recordings]) -> Table:
    data, spectra = result.data, result.data.spectra
    lengths = data.train.frames.lengths * spectra.hop / spectra.rate
    rows: list[list[str | float | int]] = [
        ["training sounds", f"{len(data.train.labels):,}"],
        ["validation sounds", f"{len(data.validation.labels):,}"],
        ["test sounds", f"{result.rows['test']:,}"],
        ["samples a second", f"{spectra.rate:,}"],
        ["features of a frame", f"{spectra.size}, {spectra.features}"],
        ["frames a second", f"{spectra.rate / spectra.hop:g}"],
        ["median length of a training sound", f"{np.median(lengths):.2f} s"],
        ["shortest and longest", f"{lengths.min():.2f} s, {lengths.max():.2f} s"],
        ["padding in the batches", percent(result.best.trained.setup.facts["padding_share"])],
        ["macro F1 on the test part", f"{result.best.test.macro_f1:.4f}"],
    ]
    return Table("Data", ["", "value"], rows)
