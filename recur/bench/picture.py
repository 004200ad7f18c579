"""What was measured, as a picture: how many times recur's time each library takes, by cell and shape, in SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from recur.bench.options import MODES
from recur.bench.show import shape
from recur.files import write_text
from recur.report.charts import Scale, log_ticks

TITLES = {"forward": "Forward", "train": "Forward and backward", "stream": "One step per call"}
LEFT, WIDTH, ROW, TOP, GAP = 190, 330, 18, 60, 30
# Okabe & Ito's colours, which all eyes tell apart
STYLES = {
    "torch": ("#d55e00", "circle"),
    "onnxruntime": ("#0072b2", "square"),
    "jax": ("#009e73", "diamond"),
    "keras": ("#cc79a7", "triangle"),
    "eager": ("#e69f00", "circle"),
    "compile": ("#56b4e9", "square"),
}


def write_picture(path: str | Path, found: Mapping[str, Any]) -> None:
    """Draw a measurement, as `Record.as_json` gives it, into an SVG file."""
    write_text(path, picture(found))


def picture(found: Mapping[str, Any]) -> str:
    """Return the SVG: a panel per mode and number of threads, a row per cell and shape, a mark per library.

    To the right of the line at 1 a library takes longer than recur. A bar through a mark: the middle half of rounds.
    """
    rows = [row for row in found["rows"] if not row["busy"] and row["allocator"] == "default"]
    threads = sorted({row["threads"] for row in rows})
    ratios = [ratio for row in rows for name, ratio in row["ratios"].items() if name in STYLES]
    ends = [1.0, *(ratio[end] for ratio in ratios for end in ("low", "high"))]
    ticks = log_ticks(min(ends), max(ends))
    scale = Scale(ticks[0], ticks[-1], log=True)
    parts, y = _legend([name for name in STYLES if any(name in row["ratios"] for row in rows)]), float(TOP)
    for mode in MODES:
        here = [row for row in rows if row["mode"] == mode]
        if not here:
            continue
        names = list(dict.fromkeys((row["cell"], shape(row)) for row in here))
        bottom = y + 14 + len(names) * ROW
        parts.append(_text(12, y + 4, TITLES[mode], bold=True))
        for i, name in enumerate(names):
            parts.append(_text(12, y + 14 + (i + 0.5) * ROW + 4, "  ".join(name)))
            if i and names[i - 1][0] != name[0]:
                parts.append(
                    _line(12, y + 14 + i * ROW, LEFT + len(threads) * (WIDTH + GAP) - GAP, y + 14 + i * ROW, "#ddd")
                )
        for column, count in enumerate(threads):
            left = LEFT + column * (WIDTH + GAP)
            parts += _axis(left, y, bottom, ticks, scale, f"{count} thread{'s' * (count > 1)}")
            for row in here:
                if row["threads"] == count:
                    parts += _row(row, left, y + 14 + (names.index((row["cell"], shape(row))) + 0.5) * ROW, scale)
        y = bottom + 46
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    for line in wrap(f"{found['machine']['processor']}; {versions}", 110):
        parts.append(_text(12, y, line, size=10, fill="#666"))
        y += 14
    width = LEFT + len(threads) * (WIDTH + GAP)
    size = f'viewBox="0 0 {width} {y:g}" width="{width}" height="{y:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" role="img">'
    title = "<title>Time of other libraries / time of recur</title>"
    return "\n".join([head, title, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def _legend(names: Sequence[str]) -> list[str]:
    parts = [_text(12, 20, "Time of other libraries / time of recur: right of the line recur is faster", bold=True)]
    for i, name in enumerate(names):
        parts += [_mark(name, 18 + 105 * i, 36), _text(28 + 105 * i, 40, name)]
    return parts


def _axis(left: float, top: float, bottom: float, ticks: Sequence[float], scale: Scale, title: str) -> list[str]:
    parts = [_text(left + WIDTH, top + 4, title, anchor="end", fill="#444")]
    for tick in ticks:
        x = _x(left, scale, tick)
        parts.append(_line(x, top + 10, x, bottom, "#222" if tick == 1 else "#ddd"))
        parts.append(_text(x, bottom + 14, f"{tick:g}", anchor="middle", size=11, fill="#444"))
    return parts


def _row(row: Mapping[str, Any], left: float, y: float, scale: Scale) -> list[str]:
    parts = []
    for name, ratio in row["ratios"].items():
        if name in STYLES:
            low, median, high = (_x(left, scale, ratio[which]) for which in ("low", "median", "high"))
            parts += [_line(low, y, high, y, STYLES[name][0], 2), _mark(name, median, y)]
    return parts


def _x(left: float, scale: Scale, value: float) -> float:
    return left + WIDTH * scale(value) / 100


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", fill: str = "#111", bold: bool = False
) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"'
    return f"<text {place}{weight}>{escape(text)}</text>"


def _mark(name: str, x: float, y: float) -> str:
    colour, kind = STYLES[name]
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
    }[kind]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'
