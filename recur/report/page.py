"""A report as one HTML file: no outside request, readable without scripts, and safe with any text in it."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from recur.files import write_text
from recur.report.blocks import (
    BarChart,
    Block,
    Confusion,
    HeatMap,
    Histograms,
    LineChart,
    Mistakes,
    Passage,
    Planes,
    Strips,
    Table,
)
from recur.report.charts import bar_picture, line_picture
from recur.report.heat import heat_picture
from recur.report.panels import histogram_pictures, plane_picture
from recur.report.png import png
from recur.report.tables import confusion_view, mistake_view, passage_view, table_view


@dataclass(frozen=True)
class Fact:
    """A figure at the head of a report: `Fact("test accuracy", "91.4%", "25,000 reviews")`."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A titled part of a report.

    Args:
        title: its heading.
        text: prose above the blocks; an empty line starts a new paragraph.
        blocks: charts, tables and the rest, in order.
    """

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    Args:
        title: what was done, on what data.
        lead: the result in a sentence or two.
        facts: the few figures that matter most.
        sections: the rest, most important first.
        created: the date, ISO 8601.
        version: recur's version.
    """

    title: str
    lead: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    created: str
    version: str


def render(report: Report) -> str:
    """Return a report as HTML; the same report always gives the same text."""
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = _template().render(report=report, style=style, script=script, policy=policy, view=_view)
    # text read from broken files may hold lone surrogates, which no encoding can write
    return html.encode("utf-8", "replace").decode("utf-8")


def write_report(path: str | Path, report: Report) -> None:
    """Write a report to `path`, replacing what is there only when all is written.

    Raises:
        RunError: the file cannot be written.
    """
    write_text(path, render(report))


def _view(block: Block) -> Any:
    """Return what the template needs beyond the block itself."""
    match block:
        case LineChart():
            return line_picture(block)
        case BarChart():
            return bar_picture(block)
        case HeatMap():
            return heat_picture(block)
        case Planes():
            return plane_picture(block)
        case Histograms():
            return histogram_pictures(block)
        case Confusion():
            return confusion_view(block)
        case Table():
            return table_view(block)
        case Passage():
            return passage_view(block)
        case Strips():
            return [[png(frame.pixels) for frame in strip.frames] for strip in block.items]
        case Mistakes():
            return [mistake_view(item) for item in block.items]
        case _:
            return None


def _resource(name: str) -> str:
    return files("recur.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.from_string(_resource("page.html"))


def _hash(source: str) -> str:
    """Return the name by which a content security policy allows exactly this inline source."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
