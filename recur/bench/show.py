"""What was measured, as text for a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from recur.bench.options import MODES

MARK = "*"  # the machine was too busy


def table(found: Mapping[str, Any]) -> str:
    """Return a measurement, as `Record.as_json` gives it, as text: the machine, and a table per mode and threads."""
    rows = found["rows"]
    parts = [_machine(found)]
    if rows:
        parts.append(
            "Times in ms. For a library: its time / recur's, the median of the rounds (and their middle half)."
        )
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["allocator"], row["busy"], MODES.index(row["mode"]))):
        groups.setdefault(_heading(row), []).append(row)
    parts += [f"{heading}\n{_table(group)}" for heading, group in groups.items()]
    if any(row["contended"] for row in rows):
        parts.append(
            f"{MARK} threads waited for a core, or for each other, in nearly every round: these rounds count too"
        )
    if found["wrong"]:
        parts.append("Not timed:\n" + "\n".join(f"  {line}" for line in found["wrong"]))
    return "\n\n".join([*parts, *(["\n".join(found["notes"])] if found["notes"] else [])])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Line up columns: the first two to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [
            f"{cell:<{width}}" if i < 2 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))


def digits(value: float) -> str:
    """Return a time with three digits that count, and all before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else f"{value}"


def shape(row: Mapping[str, Any]) -> str:
    """Return a row's sizes as TxBxIxH."""
    return "x".join(str(row[name]) for name in "TBIH")


def _heading(row: Mapping[str, Any]) -> str:
    mode = {"forward": "Forward", "train": "Forward and backward", "stream": "T calls of one step each"}[row["mode"]]
    beside = ", beside a busy process" if row["busy"] else ""
    memory = ", malloc keeping its memory" if row["allocator"] == "kept" else ""
    return f"{mode}, {row['threads']} thread{'s' * (row['threads'] > 1)}{beside}{memory}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    flops = any("time_per_flop" in row for row in rows)
    head = ["cell", "TxBxIxH", "recur", "limit", "by", "reached", *names, *(["time/flop"] if flops else [])]
    lines = [head]
    for row in rows:
        least = row["limit_ms"]
        line = [row["cell"], shape(row), digits(row["recur_ms"]) + MARK * ("recur" in row["contended"])]
        line += [digits(least), row["limit_by"], f"{least / row['recur_ms']:.0%}"] if least else ["", "", ""]
        line += [_ratio(row["ratios"].get(name)) + MARK * (name in row["contended"]) for name in names]
        lines.append(line + ([f"{row['time_per_flop']:.2f}" if "time_per_flop" in row else ""] if flops else []))
    return columns(lines)


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return "-"
    low, high = (f"{ratio[name]:.2f}" for name in ("low", "high"))
    return f"{ratio['median']:.2f} ({low}-{high})"


def _machine(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    lines = [f"{machine['processor']}, {machine['cores']} cores"]
    lines.append(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    for threads, facts in machine["by_threads"].items():
        read = ", ".join(f"{name} {speed:.0f}" for name, speed in facts["read_gb_per_s"].items())
        plural = "s" * (int(threads) > 1)
        lines.append(f"{threads} thread{plural}: {facts['gflops']:.0f} GFLOP/s; reads {read} GB/s")
    return "\n".join(lines)
