"""Numbers and texts as a report shows them: rounding by column, confusion matrices, shortened texts."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from recur.report.blocks import Confusion, Mistake, Passage, Table

MISSING = "–"
WHOLE_CELLS = 6  # up to so many labels a matrix's cells have room for the share below the count
MATRIX_LABELS = 50  # a matrix of more labels is not drawn
LISTED = 20  # so many confused pairs are listed
EXCERPT = 280  # characters of a text that show before it is unfolded
SHADES = 9
LONGEST = 20_000  # characters of a text that are kept at all


def number_column(values: Sequence[float]) -> list[str]:
    """Return numbers as texts with as many decimals each, so that a column of them lines up; NaN becomes a dash."""
    finite = [float(v) for v in values if math.isfinite(v)]
    biggest = max((abs(v) for v in finite), default=0.0)
    if all(v == int(v) for v in finite) and biggest < 1e15:
        return [f"{int(v):,}" if math.isfinite(v) else _missing(v) for v in values]
    if biggest >= 1e6 or biggest < 1e-3:
        return [f"{v:.3g}" if math.isfinite(v) else _missing(v) for v in values]
    decimals = min(4, max(0, 3 - math.floor(math.log10(biggest))))
    texts = [f"{v:,.{decimals}f}" if math.isfinite(v) else _missing(v) for v in values]
    while decimals > 1 and all(t.endswith("0") for t, v in zip(texts, values, strict=True) if math.isfinite(v)):
        decimals -= 1
        texts = [t[:-1] if math.isfinite(v) else t for t, v in zip(texts, values, strict=True)]
    return texts


def percent(share: float) -> str:
    """Return a share in 0..1 as percent with one decimal."""
    return f"{100 * share:.1f}%" if math.isfinite(share) else _missing(share)


def _missing(value: float) -> str:
    return MISSING if math.isnan(value) else "∞" if value > 0 else "-∞"


@dataclass(frozen=True)
class TableView:
    """A table as drawn: texts, and for each column whether it holds numbers."""

    columns: list[tuple[str, bool]]
    rows: list[list[tuple[str, bool]]]


def table_view(table: Table) -> TableView:
    """Round a table's numbers by column."""
    texts, numeric = [], []
    for column in zip(*table.rows, strict=True) if table.rows else [() for _ in table.columns]:
        numbers = [float(cell) for cell in column if _is_number(cell)]
        rounded = iter(number_column(numbers))
        texts.append([next(rounded) if _is_number(cell) else str(cell) for cell in column])
        numeric.append(len(numbers) > len(column) / 2)
    rows = [[(text, numeric[i]) for i, text in enumerate(row)] for row in zip(*texts, strict=True)]
    return TableView(list(zip(table.columns, numeric, strict=True)), rows)


def _is_number(cell: object) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool)


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix: its count, its share of the row as text and as a shade 0..9."""

    count: str
    share: str
    shade: int


@dataclass(frozen=True)
class MatrixRow:
    """A row of a matrix: the true label, its cells, how many there are and how many of them are right."""

    label: str
    cells: list[Cell]
    total: str
    right: str


@dataclass(frozen=True)
class ConfusionView:
    """A confusion matrix as drawn; `rows` is empty when it has too many labels, `pairs` when it has few."""

    labels: Sequence[str]
    rows: list[MatrixRow]
    with_shares: bool
    pairs: list[tuple[str, str, str, str]]
    too_many: bool


def confusion_view(confusion: Confusion) -> ConfusionView:
    """Lay out a confusion matrix; with more than 12 labels the pairs confused most often are listed too."""
    labels, size = confusion.labels, len(confusion.labels)
    totals = [sum(row) for row in confusion.counts]
    rows = []
    for i, row in enumerate(confusion.counts if size <= MATRIX_LABELS else []):
        shares = [count / totals[i] if totals[i] else 0.0 for count in row]
        # the root lifts small shares, which are the mistakes one looks for
        cells = [
            Cell(f"{c:,}" if c or size <= WHOLE_CELLS else "·", percent(s), math.ceil(9 * math.sqrt(s)))
            for c, s in zip(row, shares, strict=True)
        ]
        rows.append(MatrixRow(labels[i], cells, f"{totals[i]:,}", percent(shares[i]) if totals[i] else MISSING))
    wrong = [(-confusion.counts[i][j], i, j) for i in range(size) for j in range(size) if i != j and size > 12]
    pairs = [
        (labels[i], labels[j], f"{-minus:,}", percent(-minus / totals[i]))
        for minus, i, j in sorted(wrong)[:LISTED]
        if minus
    ]
    return ConfusionView(labels, rows, size <= WHOLE_CELLS, pairs, size > MATRIX_LABELS)


@dataclass(frozen=True)
class PieceView:
    """A piece of a passage as drawn: its text, how dark, 0..9, and what the pointer shows; that is empty for none."""

    text: str
    level: int = 0
    shown: str = ""


def passage_view(passage: Passage) -> list[PieceView]:
    """Give each piece of a passage its shade."""
    if passage.values is None:
        return [PieceView("".join(passage.pieces))]
    views = []
    for text, value in zip(passage.pieces, passage.values, strict=True):
        if math.isnan(value):
            views.append(PieceView(text))
        else:
            level = round(SHADES * min(1.0, max(0.0, value / passage.full)))
            views.append(PieceView(text, level, f"{value:.2f} {passage.unit}".strip()))
    return views


@dataclass(frozen=True)
class MistakeView:
    """A mistake as drawn; `excerpt` is empty when the text is short enough to stand whole."""

    truth: str
    predicted: str
    probability: str
    excerpt: str
    text: str


def mistake_view(mistake: Mistake) -> MistakeView:
    """Shorten a mistake's text for its card."""
    text = mistake.text.strip()
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"
    return MistakeView(mistake.truth, mistake.predicted, percent(mistake.probability), _excerpt(text), text)


def _excerpt(text: str) -> str:
    """Return the beginning of a long text, cut at a space where there is one, never within a composed character."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text[:EXCERPT])
    end = EXCERPT - wide // 2
    if len(text) <= end * 1.25:
        return ""
    space = text.rfind(" ", end - 40, end)
    if space > 0:
        return text[:space] + " …"
    stop = end - 40
    while end > stop and (text[end - 1] == "\u200d" or unicodedata.category(text[end]) in ("Mn", "Me", "Cf", "Sk")):
        end -= 1
    return text[:end] + " …"
