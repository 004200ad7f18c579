"""A heat map as drawn: a small picture that the page stretches, and its numbers for the pointer."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recur.report.blocks import HeatMap
from recur.report.charts import Tick, linear_ticks, log_axis, tick_text
from recur.report.png import png
from recur.report.tables import number_column

COLUMNS, ROWS = 160, 48  # a map is thinned to at most so many cells
NAME, SENTENCE = 14, 40  # so many characters of a name are drawn, and of one of a row that is a sentence
# viridis of Smith and van der Walt (2015, CC0), which rises evenly in lightness for all eyes, at ten even places
VIRIDIS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
COLOURS = 255


@dataclass(frozen=True)
class HeatPicture:
    """All that the template needs to draw a heat map; `image` is empty where there is no value to show.

    Args:
        image: the map as a data URI, a pixel for each cell.
        scale: the colours from low to high, likewise.
        levels: each cell's value as two bytes, base64: 0 for none, 1..65535 from low to high.
        low, high: the ends of the scale; exponents of ten with `log`.
        columns, rows: of cells.
        x_per, y_per: how many columns and rows of the map a cell is the mean of.
        x_count, y_count: columns and rows of the map.
        summary: its largest and smallest value, in words.
        long: the rows' names are sentences, and have the room for it.
    """

    image: str
    scale: str
    levels: str
    low: float
    high: float
    columns: int
    rows: int
    x_per: int
    y_per: int
    x_count: int
    y_count: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    scale_ticks: list[Tick]
    summary: str
    long: bool = False


def heat_picture(block: HeatMap) -> HeatPicture:
    """Lay out a heat map."""
    values = np.asarray(block.values, dtype=np.float64)
    y_count, x_count = values.shape
    x_per, y_per = max(1, math.ceil(x_count / COLUMNS)), max(1, math.ceil(y_count / ROWS))
    # a subword or label is cut, a sentence is not told by its first word
    long = any(name.count(" ") > 1 for name in block.y_names)
    usable = np.isfinite(values) & ((values > 0) if block.log else (np.abs(values) < 1e300))
    cells = _means(np.where(usable, values, np.nan), y_per, x_per)
    if not np.isfinite(cells).any():
        return HeatPicture("", "", "", 0, 1, 0, 0, 1, 1, x_count, y_count, [], [], [], "no values")
    with np.errstate(divide="ignore"):
        placed = np.log10(cells) if block.log else cells
    low, high = _ends(block, placed)
    shares = np.clip((placed - low) / (high - low), 0, 1)
    blank = ~np.isfinite(shares)
    shares = np.where(blank, 0, shares)
    levels = np.where(blank, 0, 1 + np.rint(shares * 65534)).astype("<u2")
    pixels = np.where(blank, 0, 1 + np.rint(shares * (COLOURS - 1))).astype(np.uint8)
    return HeatPicture(
        image=_png(pixels),
        scale=_png(np.arange(1, COLOURS + 1, dtype=np.uint8)[None]),
        levels=base64.b64encode(levels.tobytes()).decode(),
        low=low,
        high=high,
        columns=cells.shape[1],
        rows=cells.shape[0],
        x_per=x_per,
        y_per=y_per,
        x_count=x_count,
        y_count=y_count,
        x_ticks=_ticks(block.x_names, block.x_first, x_count, cells.shape[1] * x_per, 6),
        y_ticks=_ticks(block.y_names, block.y_first, y_count, cells.shape[0] * y_per, 5, SENTENCE if long else NAME),
        scale_ticks=_scale_ticks(low, high, block.log),
        summary=_summary(block, values, usable),
        long=long,
    )


def _means(values: NDArray[np.float64], y_per: int, x_per: int) -> NDArray[np.float64]:
    """Return the means of blocks of cells, of those that are not NaN; the last blocks may be smaller."""
    rows, columns = values.shape
    padded = np.pad(values, ((0, -rows % y_per), (0, -columns % x_per)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // y_per, y_per, padded.shape[1] // x_per, x_per)
    counts = np.isfinite(blocks).sum(axis=(1, 3))
    with np.errstate(over="ignore"):
        # divided first, so that no sum of large numbers overflows
        means: NDArray[np.float64] = np.nansum(blocks / np.maximum(counts, 1)[:, None, :, None], axis=(1, 3))
    return np.where(counts > 0, means, np.nan)


def _ends(block: HeatMap, placed: NDArray[np.float64]) -> tuple[float, float]:
    if block.limits:
        low, high = (math.log10(v) if block.log else v for v in block.limits)
        return low, high
    finite = placed[np.isfinite(placed)]
    low, high = float(finite.min()), float(finite.max())
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-290):
        return low, high
    return low - max(abs(low) * 0.1, 0.5 if block.log else 1e-9), high + max(
        abs(high) * 0.1, 0.5 if block.log else 1e-9
    )


def _ticks(names: Sequence[str], first: int, count: int, drawn: int, most: int, length: int = NAME) -> list[Tick]:
    """Return a tick for each row or column that has a name, or ticks of round numbers."""
    if names and drawn == count:
        short = (name if len(name) <= length else name[: length - 1] + "…" for name in names)
        return [Tick(round(100 * (i + 0.5) / count, 2), name) for i, name in enumerate(short)]
    return _count_ticks(first, count, drawn, most)


def _count_ticks(first: int, count: int, drawn: int, most: int) -> list[Tick]:
    """Return ticks at the middle of rows or columns; `drawn` of them fill the axis."""
    values, _ = linear_ticks(first, first + max(count - 1, 1), most, whole=True)
    inside = [int(v) for v in values if first <= v < first + count]
    return [Tick(round(100 * (v - first + 0.5) / drawn, 2), f"{v:,}") for v in inside]


def _scale_ticks(low: float, high: float, log: bool) -> list[Tick]:
    if log:
        values, texts, _ = log_axis(low, high)
    else:
        values, step = linear_ticks(low, high, 4)
        texts = [tick_text(v, step) for v in values]
    return [
        Tick(round(100 * (v - low) / (high - low), 2), text)
        for v, text in zip(values, texts, strict=True)
        if low - 1e-9 * (high - low) <= v <= high + 1e-9 * (high - low)
    ]


def _summary(block: HeatMap, values: NDArray[np.float64], usable: NDArray[np.bool_]) -> str:
    parts = []
    for word, fill, find in (("largest", -np.inf, np.argmax), ("smallest", np.inf, np.argmin)):
        row, column = (int(i) for i in np.unravel_index(find(np.where(usable, values, fill)), values.shape))
        x = block.x_names[column] if block.x_names else block.x_first + column
        y = block.y_names[row] if block.y_names else block.y_first + row
        at = f"{block.x_label} {x}, {block.y_label} {y}"
        parts.append(f"{word} {number_column([float(values[row, column])])[0]} at {at}")
    if blank := int((~usable).sum()):
        parts.append(f"{blank:,} of {values.size:,} blank{' (zero)' if block.log else ''}")
    return "; ".join(parts)


def _png(pixels: NDArray[np.uint8]) -> str:
    """Return pixels [rows, columns], 0 transparent and 1..255 colours, as the data URI of a PNG with a palette."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in VIRIDIS.split()], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, COLOURS)
    palette = np.stack([np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T], axis=1)
    return png(pixels, np.rint(palette).astype(np.uint8))
