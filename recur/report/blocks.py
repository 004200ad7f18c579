"""The blocks that a report's sections are made of: plain values, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise InputError(
                f"Series {self.name!r}: x and y must be of one length, got {len(self.x)} and {len(self.y)} values"
            )


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis, with their numbers folded below.

    Args:
        title: what is shown, for example "Loss".
        x_label, y_label: what the axes count, with the unit.
        series: the lines; each keeps its colour and marker by its position.
        y_log: a logarithmic y axis; values of zero and below leave a gap.
        marks: (x, label) pairs drawn as upright lines, for example the chosen epoch.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    y_log: bool = False
    marks: Sequence[tuple[float, str]] = ()


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


Block = LineChart | BarChart | Confusion | Table | Mistakes | Settings | Command | Note
