"""A trained classifier of numbers: its answers, its scores on other files, and rows to look at its gradients on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.data.frames import Frames
from recur.data.measured import Layout, Measured, read_measured
from recur.data.numbers import carried
from recur.errors import InputError
from recur.models.listener import Listener
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.figures import Scores
from recur.tasks.frames.parts import Part
from recur.tasks.frames.predictor import FramePredictor
from recur.tasks.job import Example, evenly
from recur.tasks.labels import Prediction
from recur.tasks.numbers.data import check_size, part_of, read_measurements, taken
from recur.tasks.options import make_options


class Sequence(NamedTuple):
    """A sequence of a file."""

    name: str
    """What the file calls it, or its number in it from 0."""
    values: NDArray[np.float32]
    """[T, D]."""


class NumbersPredictor(FramePredictor):
    """A trained classifier of sequences of numbers.

    Args:
        folder, config, model: as for every predictor.
        layout: how the training file was read.
        labels: the classes, in the order of their numbers.
    """

    unit = "sequences"

    def __init__(
        self, folder: Path, config: Mapping[str, Any], model: Listener, layout: Layout, labels: list[str]
    ) -> None:
        super().__init__(folder, config, model, labels)
        self.layout = layout

    def predict(self, sequences: Iterable[NDArray[Any] | Sequence], batch_size: int = 64) -> list[Prediction]:
        """Say which class each sequence belongs to.

        Args:
            sequences: arrays [T, D] of any lengths, or [T] where a step is one number; so an array [N, T, D] as well. A
                missing number, NaN, is the last one before it, or the mean of the training part.
            batch_size: sequences at a time.

        Raises:
            InputError: a shape that does not fit, or a number that is not finite.
        """
        rows = [self._row(number, given) for number, given in enumerate(sequences)]
        return self.answers(Frames(rows, self.model.config.input_size), batch_size)

    def items(
        self, file: str | Path, *, label: str | None = None, series: str | None = None, time: str | None = None
    ) -> Iterator[Sequence]:
        """Yield the sequences of a file; labels are not needed."""
        found = self._read(file, label, series, time, labelled=False)
        return (Sequence(name, found.frames[row]) for row, name in enumerate(found.names))

    def line(self, item: Sequence, answer: Prediction) -> str:
        """Return label, probability and name between tabs."""
        return f"{answer.label}\t{answer.probability:.4f}\t{item.name}"

    def json(self, item: Sequence, answer: Prediction) -> dict[str, Any]:
        """Return an answer as JSON."""
        return {"sequence": item.name} | asdict(answer)

    def evaluate(
        self, path: str | Path, *, label: str | None = None, series: str | None = None, time: str | None = None
    ) -> Scores:
        """Score the network on a file of labelled sequences.

        Args:
            path: of arrays, or a table in the form of the training file.
            label: column of the labels; that of the training file by default.
            series: column that names the sequence; likewise.
            time: column that steps are sorted by; likewise.

        Raises:
            InputError: the file cannot be read, or has a label that the network does not know.
        """
        part, notes = self._part(path, label, series, time)
        return self.scored(part, path, notes)

    def example(
        self,
        file: Path | None,
        rows: int,
        *,
        label: str | None = None,
        series: str | None = None,
        time: str | None = None,
    ) -> Example:
        """Return sequences at even distances through a file, or through the run's validation part.

        Raises:
            InputError: a file or label that does not fit, or the run's own file is gone or was changed.
        """
        part = self._validation() if file is None else self._part(file, label, series, time)[0]
        return self.looked_at(taken(part, evenly(len(part.labels), rows)), file or self.folder)

    def _read(
        self, file: str | Path, label: str | None, series: str | None, time: str | None, labelled: bool
    ) -> Measured:
        own = self.layout
        layout = replace(own, label=label or own.label, series=series or own.series, time=time or own.time)
        found = read_measured(file, layout, labelled)
        check_size(found.frames, self.model.config.input_size, str(file))
        return replace(found, frames=found.frames.filled(self.model.mean.numpy()))

    def _part(
        self, file: str | Path, label: str | None, series: str | None, time: str | None
    ) -> tuple[Part, list[str]]:
        found = self._read(file, label, series, time, labelled=True)
        return part_of(found, self.labels, str(file)), found.notes

    def _row(self, number: int, given: Any) -> NDArray[np.float32]:
        if isinstance(given, str):
            raise InputError(f"sequences must be arrays of numbers, got the text {given!r}; give a file with --file")
        size = self.model.config.input_size
        values = np.asarray(given.values if isinstance(given, Sequence) else given)
        if values.ndim == 1 and size == 1:
            values = values[:, None]
        if values.ndim != 2 or values.shape[1] != size or not len(values) or values.dtype.kind not in "biuf":
            raise InputError(
                f"sequence {number}, counted from 0, must be numbers [T, D] with D = {size} and T at least 1, got "
                f"{values.dtype} {list(values.shape)}"
            )
        values = values.astype(np.float32)
        if np.isinf(values).any():
            raise InputError(
                f"sequence {number}, counted from 0, must hold finite numbers, or NaN, got an infinite one"
            )
        filled, _ = carried(values, np.zeros(len(values), np.int64), np.nan)
        return np.where(np.isnan(filled), self.model.mean.numpy(), filled)

    def _validation(self) -> Part:
        """Return the sequences that chose the best epoch."""
        self.own_file(self.validation_file)
        options = make_options(ClassifyOptions, self.options, str(self.folder / "config.json"))
        return read_measurements(options).validation
