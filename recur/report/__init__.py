"""The report: one HTML file that opens anywhere, offline, and says what a run found."""

from recur.report.blocks import (
    Bar,
    BarChart,
    Block,
    Command,
    Confusion,
    LineChart,
    Mistake,
    Mistakes,
    Note,
    Series,
    Settings,
    Table,
)
from recur.report.page import Fact, Report, Section, render, write_report

__all__ = [
    "Bar",
    "BarChart",
    "Block",
    "Command",
    "Confusion",
    "Fact",
    "LineChart",
    "Mistake",
    "Mistakes",
    "Note",
    "Report",
    "Section",
    "Series",
    "Settings",
    "Table",
    "render",
    "write_report",
]
