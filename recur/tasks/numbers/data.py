"""From files of sequences of numbers to parts: cut, filled and scaled by what the training part holds alone."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recur.data.arrays import is_arrays
from recur.data.frames import Frames
from recur.data.measured import Layout, Measured, read_measured
from recur.errors import InputError
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.frames.parts import Part
from recur.tasks.labels import Rows, class_numbers, in_order, split

# what varies less than float32 can tell is constant
LEAST_VARIATION = 1e-7


@dataclass(frozen=True)
class Measurements:
    """What a run learns from."""

    labels: list[str]
    """The classes, in the order of their numbers."""
    layout: Layout
    """How the files are read, with the names of all columns of numbers."""
    train: Part
    validation: Part
    test: Part
    """Nobody looks at it before the end, but to see that it can be read."""
    mean: NDArray[np.float64]
    """What numbers are scaled by, [D]."""
    deviation: NDArray[np.float64]
    notes: list[str]
    """What a person should know of the data."""


def layout_of(options: ClassifyOptions) -> Layout:
    """Return where sequences stand in the files of a run."""
    return Layout(options.label, options.series, options.time, options.numbers, options.step_size)


def read_measurements(options: ClassifyOptions) -> Measurements:
    """Read all files of a run and cut them into parts.

    Raises:
        InputError: a file that cannot be read, one class only, too few sequences, labels or sizes that do not fit.
    """
    layout = layout_of(options)
    file = read_measured(options.train, layout)
    layout, notes = replace(layout, numbers=file.read), list(file.notes)
    labels = _classes(options, file)
    whole = part_of(file, labels, options.train)
    given = {}
    for name, path in (("validation", options.validation), ("test", options.test)):
        if path:
            other = read_measured(path, layout)
            notes += other.notes
            given[name] = part_of(other, labels, path, whole.frames.size)
    shares = 0.0 if "validation" in given else options.validation_share, 0.0 if "test" in given else options.test_share
    rows = dict(zip(("train", "validation", "test"), split(whole.labels, *shares), strict=True))
    mean, deviation = whole.frames.take(rows["train"].astype(np.int64)).moments()
    whole, *others = (part._replace(frames=part.frames.filled(mean)) for part in (whole, *given.values()))
    parts = {name: taken(whole, own) for name, own in rows.items()} | dict(zip(given, others, strict=True))
    if not len(parts["validation"].labels) or not len(parts["test"].labels):
        raise InputError(
            f"{options.train} must have enough sequences of each label to cut a validation and a test part off, got "
            f"{len(whole.labels)} of {len(labels)} labels; give more, or name parts by --validation and --test"
        )
    if "test" not in given:
        count = len(parts["test"].labels)
        notes.append(f"no --test given: {count} sequences of {options.train}, drawn by chance, are the test part")
    if twice := parts["validation"].known(parts["train"]):
        notes.append(f"{twice} validation sequences are in the training part too")
    scale = scaling(mean, deviation, options.scale)
    return Measurements(labels, layout, **parts, mean=scale[0], deviation=scale[1], notes=notes)


def part_of(file: Measured, labels: list[str], path: str, size: int | None = None) -> Part:
    """Return the sequences of a file with the numbers of their classes.

    Raises:
        InputError: an unknown label, or steps of another size than the training file's.
    """
    assert file.labels is not None
    check_size(file.frames, size, path)
    names = file.names if file.named else [f"row {number}" for number in file.names]
    numbers = class_numbers(file.labels.tolist(), labels, lambda row: f"{path}, {names[row]}")
    return Part(file.frames, numbers, names)


def check_size(frames: Frames, size: int | None, path: str) -> None:
    """Raise InputError where steps have another number of numbers than those of the training file."""
    if size is not None and frames.size != size:
        raise InputError(f"{path} must have {size} numbers in a step, as the training file has, got {frames.size}")


def taken(part: Part, rows: Rows) -> Part:
    """Return some rows of a part."""
    return Part(part.frames.take(rows.astype(np.int64)), part.labels[rows], [part.names[row] for row in rows.tolist()])


def scaling(
    mean: NDArray[np.float64], deviation: NDArray[np.float64], scale: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is taken from each number of a step, and what it is divided by; a constant one by 1.

    Args:
        mean: of the training part, [D].
        deviation: likewise.
        scale: "each", "together" or "none".
    """
    if scale == "none":
        return np.zeros_like(mean), np.ones_like(mean)
    if scale == "together":
        both = np.sqrt((deviation**2 + mean**2).mean() - mean.mean() ** 2)
        mean, deviation = np.full_like(mean, mean.mean()), np.full_like(mean, both)
    return mean, np.where(deviation > LEAST_VARIATION * np.abs(mean), deviation, 1.0)


def _classes(options: ClassifyOptions, file: Measured) -> list[str]:
    assert file.labels is not None
    where = "y" if is_arrays(options.train) else f"the column {options.label!r}"
    names = set(file.labels.tolist())
    if len(names) < 2:
        raise InputError(f"{options.train}: {where} must hold at least two labels, got only {names.pop()!r}")
    if len(names) == len(file.labels):
        raise InputError(
            f"{options.train}: {where} has a label of its own for each of {len(names)} sequences; several must share "
            "one; see --label and --series"
        )
    return in_order(names)
