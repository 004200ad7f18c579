"""Draw the pictures of structures.md, `docs/structures/*.svg`: python docs/structures.py."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "structures"
# colours that stand out on white and on black
COLOURS = {"input": "#3a8f5c", "hidden": "#3b76b8", "output": "#b8552f", "loss": "#8a6bb0"}
LINE, WIDTH, HEIGHT, ACROSS, DOWN = "#8a8f98", 44, 26, 66, 52


class Column(NamedTuple):
    """One step: what it reads, its state, and what it writes; empty for nothing."""

    reads: str = ""
    state: str = "h"
    writes: str = ""
    loss: str = ""


def box(x: float, y: float, text: str, kind: str) -> str:
    """Return a box around a centre."""
    place = f'x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"'
    label = f'<text x="{x:g}" y="{y + 4:g}" fill="#fff" text-anchor="middle">{text}</text>'
    return f'<rect {place} fill="{COLOURS[kind]}"/>{label}'


def arrow(path: str, dashed: bool = False) -> str:
    """Return a line with a head."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#head)"{dash}/>'


def picture(columns: list[Column], *, fed_back: bool = False, attends: tuple[int, int] | None = None) -> str:
    """Return the SVG of a network unrolled over its steps.

    Args:
        columns: the steps.
        fed_back: whether each output is read at the next step.
        attends: the step that looks at the states of all before the number given second.
    """
    rows = ["loss"] if any(column.loss for column in columns) else []
    rows += ["output", "hidden", "input"]
    y = {kind: 30 + DOWN * n for n, kind in enumerate(rows)}
    half = HEIGHT / 2 + 3
    parts: list[str] = []
    for n, column in enumerate(columns):
        x = 40 + ACROSS * n
        parts.append(box(x, y["hidden"], column.state, "hidden"))
        if n:
            parts.append(arrow(f"M{x - ACROSS + WIDTH / 2} {y['hidden']} H{x - WIDTH / 2 - 3}"))
        if column.reads:
            parts += [
                box(x, y["input"], column.reads, "input"),
                arrow(f"M{x} {y['input'] - half + 3} V{y['hidden'] + half}"),
            ]
        if column.writes:
            parts.append(box(x, y["output"], column.writes, "output"))
            parts.append(arrow(f"M{x} {y['hidden'] - half + 3} V{y['output'] + half}"))
            if fed_back and n + 1 < len(columns):
                middle, low = x + ACROSS / 2, y["hidden"] + half + 8
                into = f"H{middle} V{low} H{x + ACROSS} V{y['hidden'] + half}"
                parts.append(arrow(f"M{x + WIDTH / 2} {y['output']} {into}", dashed=True))
        if column.loss:
            parts += [
                box(x, y["loss"], column.loss, "loss"),
                arrow(f"M{x} {y['output'] - half + 3} V{y['loss'] + half}"),
            ]
    if attends:
        step, places = attends
        x = 40 + ACROSS * step
        for n in range(places):
            start = f"M{40 + ACROSS * n} {y['hidden'] - half + 3}"
            bend = (
                f"C{40 + ACROSS * n} {y['output'] - 6}, {x - 60} {y['output'] - 6}, {x - WIDTH / 2 - 3} {y['output']}"
            )
            parts.append(arrow(f"{start} {bend}", dashed=True))
    width, height = 80 + ACROSS * (len(columns) - 1), 60 + DOWN * (len(rows) - 1)
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>'
    )
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {style}>'
    return "\n".join([opening, head, *parts, "</svg>", ""])


def pictures() -> dict[str, str]:
    """Return the pictures by name."""
    numbers = "₀₁₂₃₄"
    read = [Column(f"x{numbers[t]}", f"h{numbers[t]}") for t in range(1, 5)]
    fed = [Column(state=f"h{numbers[t]}", writes=f"y{numbers[t]}") for t in range(1, 5)]
    source = [Column(f"x{numbers[t]}", f"h{numbers[t]}") for t in range(1, 4)]
    written = [Column("&lt;s&gt;", "s₁", "y₁"), Column("", "s₂", "y₂"), Column("", "s₃", "&lt;/s&gt;")]
    return {
        "one-to-one": picture([Column("x", "h", "y")]),
        "many-to-one": picture([*read[:3], read[3]._replace(writes="y")]),
        "one-to-many-first": picture([fed[0]._replace(reads="v"), *(one._replace(reads="0") for one in fed[1:])]),
        "one-to-many-feedback": picture([Column("v", "h₀"), *fed], fed_back=True),
        "aligned": picture([one._replace(writes=f"y{numbers[t]}") for t, one in enumerate(read, start=1)]),
        "encoder-decoder": picture([*source, *written], fed_back=True),
        "attention": picture([*source, *written], attends=(3, 3)),
        "loss": picture([Column(f"x{n}", f"h{n}", f"y{n}", f"w{n}L{n}") for n in numbers[1:]]),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (FOLDER / f"{name}.svg").write_text(text, encoding="utf-8")
