"""What was measured, as a picture: how many times recur's time each library takes, by cell and shape, in SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from recur.bench.show import by_heading, shape
from recur.files import write_text
from recur.report.charts import Scale, log_ticks

LEFT, WIDTH, RIGHT, ROW, TOP, GAP = 210, 480, 40, 20, 64, 72
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
    names = [name for name in STYLES if any(name in row["ratios"] for row in rows)]
    ratios = [ratio for row in rows for name, ratio in row["ratios"].items() if name in STYLES]
    ends = [1.0, *(ratio[end] for ratio in ratios for end in ("low", "high"))]
    ticks = log_ticks(min(ends), max(ends))
    scale = Scale(ticks[0], ticks[-1], log=True)
    parts, y = _legend(names), float(TOP)
    for heading, panel in by_heading(rows, _heading):
        parts += _panel(heading, panel, y, ticks, scale)
        y += len(panel) * ROW + GAP
    width, height = LEFT + WIDTH + RIGHT, y
    machine = f"{found['machine']['processor']}; " + ", ".join(f"{n} {v}" for n, v in found["versions"].items())
    parts.append(_text(12, height - 12, machine[:130], size=10, fill="#666"))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}"'
    )
    style = 'font-family="system-ui, sans-serif" font-size="12" role="img"'
    title = "<title>Time of other libraries / time of recur</title>"
    return "\n".join([f"{head} {style}>", title, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def _legend(names: Sequence[str]) -> list[str]:
    parts = [_text(12, 20, "time of other libraries / time of recur: right of the line, recur is faster", bold=True)]
    for i, name in enumerate(names):
        parts += [_mark(name, LEFT + 8 + 110 * i, 38), _text(LEFT + 18 + 110 * i, 42, name)]
    return parts


def _panel(
    heading: str, rows: Sequence[Mapping[str, Any]], top: float, ticks: Sequence[float], scale: Scale
) -> list[str]:
    bottom = top + 14 + len(rows) * ROW
    parts = [_text(12, top + 4, heading, bold=True)]
    for tick in ticks:
        x = _x(scale, tick)
        parts.append(_line(x, top + 10, x, bottom, "#222" if tick == 1 else "#ddd"))
        parts.append(_text(x, bottom + 14, f"{tick:g}", anchor="middle", fill="#444"))
    for i, row in enumerate(rows):
        y = top + 14 + (i + 0.5) * ROW
        if i and rows[i - 1]["cell"] != row["cell"]:
            parts.append(_line(12, y - ROW / 2, LEFT + WIDTH, y - ROW / 2, "#ddd"))
        parts.append(_text(12, y + 4, f"{row['cell']}  {shape(row)}" + " *" * ("recur" in row["contended"])))
        for name, ratio in row["ratios"].items():
            if name in STYLES:
                ends = (_x(scale, ratio["low"]), _x(scale, ratio["high"]))
                parts += [_line(ends[0], y, ends[1], y, STYLES[name][0], 2), _mark(name, _x(scale, ratio["median"]), y)]
    return parts


def _heading(row: Mapping[str, Any]) -> str:
    mode = {"forward": "forward", "train": "forward and backward", "stream": "one step per call"}[row["mode"]]
    return f"{mode}, {row['threads']} thread{'s' * (row['threads'] > 1)}"


def _x(scale: Scale, value: float) -> float:
    return LEFT + WIDTH * scale(value) / 100


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
