"""What was measured: a row per point, and what one must know to judge the rows."""

import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import recur
from recur.bench.allocator import allocator
from recur.bench.clock import Timing
from recur.bench.limit import Count, Machine, limit
from recur.bench.options import KernelOptions, Point
from recur.cells import Cell, cell_named
from recur.files import write_json


@dataclass
class Measured:
    """What was measured at a point."""

    point: Point
    cell: Cell
    timing: Timing
    first_ms: dict[str, float]
    busy: bool

    def row(self, machine: Machine | None) -> dict[str, Any]:
        """Return the row of the table, with the limit by the machine's best speeds so far."""
        point, timing = self.point, self.timing
        count = Count.of(self.cell, point.shape, point.mode)
        least = limit(count, point.mode, point.threads, machine) if machine else None
        others = [name for name in timing.rounds if name != "recur"]
        ratios = {name: asdict(timing.ratio(name, "recur")) for name in others}
        row = point.row() | {
            "recur_ms": timing.median("recur"),
            "limit_ms": least.ms if least else None,
            "limit_by": least.by if least else None,
            "peers": {name: timing.median(name) for name in others},
            "ratios": ratios,
        }
        if "lstm" in ratios:
            lstm = Count.of(cell_named("lstm"), point.shape, point.mode)
            row["time_per_flop"] = lstm.total / count.total / ratios["lstm"]["median"]
        row |= {"first_ms": self.first_ms, "rounds": len(timing.rounds["recur"]), "dropped_blocks": timing.dropped}
        contended = [name for name in timing.rounds if timing.contended(name)]
        return row | {"contended": contended, "busy": self.busy, "allocator": allocator()}


@dataclass
class Record:
    """All that was measured so far."""

    options: KernelOptions
    machine: Machine | None = None
    measured: list[Measured] = field(default_factory=list)
    elsewhere: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a process with another allocator."""
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per point."""
        return [one.row(self.machine) for one in self.measured] + self.elsewhere

    def as_json(self) -> dict[str, Any]:
        """Return the rows, and what one must know to judge them."""
        counts = sorted({one.point.threads for one in self.measured})
        facts = {str(count): self.machine.facts(count) for count in counts} if self.machine else {}
        return {
            "measured": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "caches": self.machine.caches if self.machine else {},
                "by_threads": facts,
            },
            "backend": str(recur.backend_info()) if hasattr(recur, "backend_info") else None,
            "versions": self.versions,
            "options": asdict(self.options),
            "notes": self.notes,
            "wrong": self.wrong,
            "rows": self.rows(),
        }

    def save(self) -> None:
        """Write the rows to the file that --json names, if it does."""
        if self.options.json:
            write_json(self.options.json, self.as_json())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Processor")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
