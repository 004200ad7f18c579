"""What the report of a classifier of numbers draws besides that of every task on frames: the numbers of a sequence."""

from collections.abc import Iterator

import numpy as np

from recur.report import Block, HeatMap, LineChart, Series
from recur.tasks.frames.parts import Part
from recur.tasks.frames.report import data_table, frame_report, parts_rows, scores_rows
from recur.tasks.job import Result, TaskReport
from recur.tasks.numbers.data import Measurements

MOST_LINES = 4
"""So many numbers of a step are drawn as lines, more as colours."""


def report(result: Result[Measurements]) -> TaskReport:
    """Say what the best network reaches, and show where it fails."""
    data = result.data
    size, lengths = data.train.frames.size, data.train.frames.lengths
    names = data.layout.numbers if len(data.layout.numbers) == size else tuple(map(str, range(1, size + 1)))

    def draw(part: Part, row: int, title: str) -> Iterator[Block]:
        values = part.frames[row].T.astype(np.float64)
        if size > MOST_LINES:
            # as the network sees them: numbers of different units in the same colours
            seen = (values - data.mean[:, None]) / data.deviation[:, None]
            label = "value" if result.options.scale == "none" else "deviations from the mean"
            yield HeatMap(title, "step", "number", label, seen, y_names=names)
        else:
            steps = np.arange(values.shape[1], dtype=np.float64)
            lines = [Series(name, steps, own) for name, own in zip(names, values, strict=True)]
            yield LineChart(title, "step", "value", lines)

    told = data_table(
        [
            *parts_rows(result, "sequences"),
            ["numbers of a step", f"{size:,}"],
            ["median steps of a training sequence", f"{np.median(lengths):,.0f}"],
            ["fewest and most", f"{lengths.min():,}, {lengths.max():,}"],
            *scores_rows(result),
        ]
    )
    command = ["recur", "predict", str(result.options.folder), "--file", str(result.options.test or "new.csv")]
    return frame_report(result, "sequences", "Sequences and gates", draw, "step", command, [told])
