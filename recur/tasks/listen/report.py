"""What the report of a listener draws besides that of every task on frames: spectrograms, and how long sounds are."""

from collections.abc import Iterator

import numpy as np

from recur.data.spectra import Spectra
from recur.report import Block, HeatMap, Table
from recur.tasks.frames.parts import Part
from recur.tasks.frames.report import data_table, frame_report, parts_rows, scores_rows
from recur.tasks.job import Result, TaskReport
from recur.tasks.listen.data import Recordings


def report(result: Result[Recordings]) -> TaskReport:
    """Say what the best network reaches, and show where it fails."""
    spectra = result.data.spectra
    step = f"frame of {spectra.hop_ms:g} ms"

    def draw(part: Part, row: int, title: str) -> Iterator[Block]:
        yield _spectrogram(part, row, title, spectra, step)

    command = ["recur", "predict", str(result.options.folder), "sound.wav"]
    return frame_report(result, "sounds", "Sounds and gates", draw, step, command, [_data(result)])


def _spectrogram(part: Part, row: int, title: str, spectra: Spectra, step: str) -> HeatMap:
    """Return the frames of a sound, low features at the bottom."""
    mels = spectra.features == "log-mel"
    return HeatMap(
        title,
        step,
        "mel channel" if mels else "coefficient",
        "ln energy" if mels else "value",
        part.frames[row].T[::-1].astype(np.float64),
        y_names=spectra.names[::-1],
    )


def _data(result: Result[Recordings]) -> Table:
    spectra = result.data.spectra
    lengths = result.data.train.frames.lengths * spectra.hop / spectra.rate
    return data_table(
        [
            *parts_rows(result, "sounds"),
            ["samples a second", f"{spectra.rate:,}"],
            ["features of a frame", f"{spectra.size}, {spectra.features}"],
            ["frames a second", f"{spectra.rate / spectra.hop:g}"],
            ["median length of a training sound", f"{np.median(lengths):.2f} s"],
            ["shortest and longest", f"{lengths.min():.2f} s, {lengths.max():.2f} s"],
            *scores_rows(result),
        ]
    )
