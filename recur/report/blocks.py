"""The blocks that a report's sections are made of: plain values, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError


@dataclass(frozen=True)
class Series:
    """One line of a line chart.

    Args:
        name: as the legend shows it.
        x: positions, rising, for example epochs.
        y: values, as many as `x`; NaN and infinity leave a gap.

    Raises:
        InputError: `x` and `y` differ in length.
    """

    name: str
    x: Sequence[float] | NDArray[np.float64]
    y: Sequence[float] | NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise InputError(
                f"Series {self.name!r}: x and y must be of one length, got {len(self.x)} and {len(self.y)} values"
            )


@dataclass(frozen=True)
class Band:
    """A shaded range behind the lines of a chart, for example a prediction interval.

    Args:
        name: as the legend shows it.
        x: positions, rising.
        low, high: its lower and upper end, as many as `x`; where one of them is not finite, the band has a gap.
        colour: number of the series whose colour it has.

    Raises:
        InputError: `x`, `low` and `high` differ in length.
    """

    name: str
    x: Sequence[float] | NDArray[np.float64]
    low: Sequence[float] | NDArray[np.float64]
    high: Sequence[float] | NDArray[np.float64]
    colour: int = 0

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.low) == len(self.high):
            raise InputError(
                f"Band {self.name!r}: x, low and high must be of one length, got {len(self.x)}, {len(self.low)} and "
                f"{len(self.high)} values"
            )


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis, with their numbers folded below.

    Args:
        title: what is shown, for example "Loss".
        x_label, y_label: what the axes count, with the unit.
        series: the lines; each keeps its colour and marker by its position.
        y_log: a logarithmic y axis; values of zero and below leave a gap.
        in_logs: the series hold natural logarithms of what is shown, on such an axis, so that it may lie far beyond the
            range of floats; -inf, the logarithm of zero, leaves a gap.
        marks: (x, label) pairs drawn as upright lines, for example the chosen epoch.
        bands: ranges drawn behind the lines.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    y_log: bool = False
    in_logs: bool = False
    marks: Sequence[tuple[float, str]] = ()
    bands: Sequence[Band] = ()


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

    Args:
        name: what was measured.
        value: its value; with `as_percent` a share in 0..1.
        low, high: an interval around the value, drawn as a whisker when both are given.
        own: this run's own result, set off against what it is compared with.
        note: a few words under the name, for example "3 seeds".
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    own: bool = False
    note: str = ""


@dataclass(frozen=True)
class BarChart:
    """Bars from zero, one row each, in the order given.

    Args:
        title: what is compared, with the unit.
        rows: the bars.
        as_percent: values are shares and shown as percent.
        reference: a value marked by an upright line through all rows.
        reference_name: what that line stands for.
    """

    title: str
    rows: Sequence[Bar]
    as_percent: bool = True
    reference: float | None = None
    reference_name: str = "reference"


@dataclass(frozen=True)
class HeatMap:
    """Numbers by row and column as colours; many are thinned to means of neighbours.

    Args:
        title: what is shown.
        x_label, y_label: what columns and rows count.
        value_label: what the colours stand for.
        values: [rows, columns]; NaN, infinity and, with `log`, zero and below are left blank.
        log: colours by the logarithm.
        limits: the values of the first and the last colour, so that several maps compare; those found by default.
        x_first, y_first: the number of the first column and row.
        x_names, y_names: what to call each column and row instead, such as the words of a text.

    Raises:
        InputError: `values` has not two dimensions, the limits do not rise or, with `log`, are not above zero, or there
            are other numbers of names than of rows or columns.
    """

    title: str
    x_label: str
    y_label: str
    value_label: str
    values: NDArray[np.float64]
    log: bool = False
    limits: tuple[float, float] | None = None
    x_first: int = 0
    y_first: int = 0
    x_names: Sequence[str] = ()
    y_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if np.ndim(self.values) != 2:
            raise InputError(
                f"HeatMap {self.title!r}: values must be [rows, columns], got {list(np.shape(self.values))}"
            )
        for axis, names, count in zip("yx", (self.y_names, self.x_names), np.shape(self.values), strict=True):
            if names and len(names) != count:
                raise InputError(f"HeatMap {self.title!r}: {axis}_names must be {count} names, got {len(names)}")
        if self.limits and not (self.limits[0] < self.limits[1] and (self.limits[0] > 0 or not self.log)):
            raise InputError(
                f"HeatMap {self.title!r}: limits must rise{' from above zero' if self.log else ''}, got {self.limits}"
            )


@dataclass(frozen=True)
class Plane:
    """A complex plane: sets of points, in the order of the names in `Planes`.

    Args:
        name: its heading.
        sets: complex numbers [n] each; an empty set is left out, as are numbers that are not finite.
        note: a few words below.
    """

    name: str
    sets: Sequence[NDArray[np.complex128]]
    note: str = ""


@dataclass(frozen=True)
class Planes:
    """Complex planes side by side, on axes of one scale, with the unit circle.

    Args:
        title: what is shown, for example "Eigenvalues".
        names: of the sets, as the legend shows them; each keeps its colour and marker by its position.
        panels: the planes.
        hollow: positions of the sets that are drawn as rings, the others as dots; by default markers take turns.

    Raises:
        InputError: a panel with more or fewer sets than there are names.
    """

    title: str
    names: Sequence[str]
    panels: Sequence[Plane]
    hollow: Sequence[int] = ()

    def __post_init__(self) -> None:
        for panel in self.panels:
            if len(panel.sets) != len(self.names):
                raise InputError(
                    f"Planes {self.title!r}: {panel.name!r} must have {len(self.names)} sets, got {len(panel.sets)}"
                )


@dataclass(frozen=True)
class Histogram:
    """Shares of values by bins.

    Args:
        name: its heading.
        edges: the bins' ends, rising, [bins + 1].
        shares: of all values, 0..1, [bins].
        note: a few words below, for example the mean.
        colour: number of its colour, for example that of the network it belongs to.

    Raises:
        InputError: not one edge more than there are shares.
    """

    name: str
    edges: Sequence[float]
    shares: Sequence[float]
    note: str = ""
    colour: int = 0

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.shares) + 1:
            raise InputError(
                f"Histogram {self.name!r}: edges must be one more than shares, got {len(self.edges)} "
                f"and {len(self.shares)}"
            )


@dataclass(frozen=True)
class Histograms:
    """Small histograms side by side, each on its own range and as high as its largest share.

    Args:
        title: what is shown.
        panels: the histograms.
        names: what the colours stand for, in their order; none for no legend.
    """

    title: str
    panels: Sequence[Histogram]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Confusion:
    """How often each true label was predicted as each label.

    Args:
        labels: the L labels in the order of rows and columns.
        counts: `counts[true][predicted]`, L x L.
        title: its heading.

    Raises:
        InputError: `counts` is not L x L.
    """

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    title: str = "Confusion"

    def __post_init__(self) -> None:
        size = len(self.labels)
        if len(self.counts) != size:
            raise InputError(f"Confusion: counts must have a row for each of {size} labels, got {len(self.counts)}")
        for label, row in zip(self.labels, self.counts, strict=True):
            if len(row) != size:
                raise InputError(f"Confusion: row {label!r} must have {size} counts, got {len(row)}")


@dataclass(frozen=True)
class Table:
    """A table; columns that hold only numbers are aligned and rounded alike.

    Args:
        title: its heading.
        columns: the column names.
        rows: cells, one for each column; the first cell names its row.
        note: a sentence below.

    Raises:
        InputError: a row with more or fewer cells than there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise InputError(
                    f"Table {self.title!r}: row {number} must have {len(self.columns)} cells, got {len(row)}"
                )


@dataclass(frozen=True)
class Mistake:
    """A text that the model got wrong.

    Args:
        text: as it stands in the data.
        truth: its label.
        predicted: the label given to it.
        probability: that the model gave to `predicted`, in 0..1.
    """

    text: str
    truth: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Mistakes:
    """Mistakes with their texts, long ones folded."""

    title: str
    items: Sequence[Mistake]


@dataclass(frozen=True)
class Word:
    """A word of a sentence.

    Args:
        text: the word.
        given: what a model said of it, where that is wrong; empty for a word that is right.
        truth: what it should have said.
    """

    text: str
    given: str = ""
    truth: str = ""


@dataclass(frozen=True)
class Sentences:
    """Sentences whose wrong words are marked, with what was said of them and what is true."""

    title: str
    items: Sequence[Sequence[Word]]


@dataclass(frozen=True)
class Item:
    """A point of a list.

    Args:
        name: what it is about.
        text: a sentence or two.
        code: what to type, if anything.
        note: less important words, such as a source.
    """

    name: str
    text: str
    code: str = ""
    note: str = ""


@dataclass(frozen=True)
class Items:
    """Points one below the other, in order."""

    title: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Passage:
    """Running text with its line ends, its pieces shaded by a number each: the pointer shows it.

    Args:
        title: its heading.
        pieces: the text in pieces, such as tokens.
        values: of the pieces, 0 for no shade; NaN for none known. None shades nothing.
        unit: what the values count, for example "bits".
        full: the value of the darkest shade.
        note: a sentence below.

    Raises:
        InputError: not one value for each piece, or `full` is not above 0.
    """

    title: str
    pieces: Sequence[str]
    values: Sequence[float] | None = None
    unit: str = ""
    full: float = 1.0
    note: str = ""

    def __post_init__(self) -> None:
        if self.values is not None and len(self.values) != len(self.pieces):
            raise InputError(
                f"Passage {self.title!r}: values must be one for each of {len(self.pieces)} pieces, "
                f"got {len(self.values)}"
            )
        if not self.full > 0:
            raise InputError(f"Passage {self.title!r}: full must be above 0, got {self.full}")


@dataclass(frozen=True)
class Frame:
    """A picture of a strip.

    Args:
        pixels: grey [rows, columns] or red, green and blue [rows, columns, 3], 0..255.
        name: a word below it.
        wrong: whether that is wrong, and marked so.

    Raises:
        InputError: `pixels` is something else.
    """

    pixels: NDArray[np.uint8]
    name: str = ""
    wrong: bool = False

    def __post_init__(self) -> None:
        shape = np.shape(self.pixels)
        if self.pixels.dtype != np.uint8 or shape[2:] not in ((), (3,)) or len(shape) < 2 or 0 in shape:
            raise InputError(
                f"Frame: pixels must be uint8 [rows, columns] or [rows, columns, 3], got {self.pixels.dtype} "
                f"{list(shape)}"
            )


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, and what is said of them.

    Args:
        frames: the pictures.
        text: what a model said.
        truth: what it should have said, where that is something else; empty where it is right.
        note: less important words.
    """

    frames: Sequence[Frame]
    text: str
    truth: str = ""
    note: str = ""


@dataclass(frozen=True)
class Strips:
    """Pictures with what is said of them, one strip below the other."""

    title: str
    items: Sequence[Strip]


@dataclass(frozen=True)
class Settings:
    """Every setting of a run by group, folded: `{"Training": {"learning rate": "0.001"}}`."""

    groups: Mapping[str, Mapping[str, str]]
    title: str = "All settings"


@dataclass(frozen=True)
class Command:
    """A command line to copy."""

    text: str


@dataclass(frozen=True)
class Note:
    """A remark that is set off from the text.

    Args:
        kind: "info" or "warning".
        text: a sentence or two.

    Raises:
        InputError: another kind.
    """

    kind: Literal["info", "warning"]
    text: str

    def __post_init__(self) -> None:
        if self.kind not in ("info", "warning"):
            raise InputError(f"Note: kind must be 'info' or 'warning', got {self.kind!r}")


Block = (
    LineChart
    | BarChart
    | HeatMap
    | Planes
    | Histograms
    | Confusion
    | Table
    | Mistakes
    | Sentences
    | Items
    | Passage
    | Strips
    | Settings
    | Command
    | Note
)
