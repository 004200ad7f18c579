"""The measurement: at every point all libraries side by side, each only after it gave the right numbers."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from recur.bench.clock import Timing, measure
from recur.bench.limit import Count, Machine, limit
from recur.bench.options import KernelOptions, Point, points
from recur.bench.peers import Peer, Work, peers
from recur.bench.problem import Problem, Truth, WrongResult, load_cell
from recur.cells import Cell
from recur.compiler.target import NotCompilable
from recur.errors import InputError
from recur.files import write_json
from recur.tasks.options import flag

# a malloc that keeps what it got: no memory of its own for large blocks, none given back
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 28)}

Say = Callable[[str], None]


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
            lstm = Count.of(load_cell("lstm"), point.shape, point.mode)
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


def bench(record: Record, say: Say) -> None:
    """Measure all that `record.options` ask for.

    Args:
        record: is filled point by point, so that what was measured survives an interruption.
        say: is told of every point.

    Raises:
        InputError: an option names something that does not exist.
    """
    options = record.options
    before = torch.get_num_threads()
    todo = points(options, before)
    cells = {name: load_cell(name) for name in dict.fromkeys(point.cell for point in todo)}
    if options.allocator and platform.libc_ver()[0] != "glibc":
        raise InputError("--allocator needs glibc's malloc, which this system does not have")
    chosen = _chosen(record, list(cells))
    record.versions = _versions(chosen)
    try:
        record.machine = Machine()
    except NotCompilable as error:
        record.notes.append(f"the machine's limit is not measured: {error}")
    try:
        _measure_all(record, todo, cells, chosen, say)
    finally:
        torch.set_num_threads(before)
    if options.allocator and allocator() == "default":
        _with_other_allocator(record, say)


def allocator() -> str:
    """Return "kept" where this process runs with KEEPING, else "default"."""
    return "kept" if all(os.environ.get(name) == value for name, value in KEEPING.items()) else "default"


def _measure_all(record: Record, todo: list[Point], cells: dict[str, Cell], chosen: list[Peer], say: Say) -> None:
    done = threads = 0
    for (count, name, shape), group in groupby(todo, key=lambda point: (point.threads, point.cell, point.shape)):
        if count != threads:
            threads = count
            torch.set_num_threads(count)
            for peer in chosen:
                peer.use_threads(count)
        problem = Problem(name, cells[name], shape)
        same = list(group)
        truth = problem.truth(any(point.mode == "train" for point in same))
        for point in same:
            done += 1
            for one in _measure(record, point, problem, truth, chosen):
                record.measured.append(one)
                say(f"[{done}/{len(todo)}] {_line(one)}")
                record.save()


def _measure(record: Record, point: Point, problem: Problem, truth: Truth, chosen: list[Peer]) -> Iterator[Measured]:
    """Make every library ready, check its numbers, and time those that are right."""
    train = point.mode == "train"
    parts = {"forward": ("y", *problem.states), "stream": ("y",), "train": tuple(truth.values)}[point.mode]
    works: dict[str, Work] = {}
    first_ms: dict[str, float] = {}
    for peer in chosen:
        start = time.perf_counter()
        try:
            work = peer.build(problem, point.mode, point.threads)
            if work is None:
                continue
            results = work.results()
            first_ms[peer.name] = 1e3 * (time.perf_counter() - start)
            other = work.problem is not problem
            work.problem.check(results, (work.problem.truth(train).only(*results) if other else truth.only(*parts)))
        except Exception as error:
            # a library that cannot, or whose numbers are wrong, must not keep the others from being measured
            kind = "is wrong" if isinstance(error, WrongResult) else f"failed ({type(error).__name__})"
            record.wrong.append(f"{point}: {peer.name} {kind}: {next(iter(str(error).splitlines()), '')}")
            continue
        works[peer.name] = work
    if "recur" not in works:
        return
    if record.machine:
        record.machine.again(Count.of(problem.cell, point.shape, point.mode).share(point.threads), point.threads)
    for busy in (False, True) if record.options.busy else (False,):
        with _busy_process() if busy else nullcontext():
            calls = {name: work.call for name, work in works.items()}
            timing = measure(calls, rounds=record.options.rounds, seconds=record.options.seconds, alone=not busy)
        yield Measured(point, problem.cell, timing, first_ms, busy)


def _chosen(record: Record, cells: Sequence[str]) -> list[Peer]:
    """Return whom to measure, recur first; note who is missing."""
    known = peers()
    asked = list(record.options.peers) or [name for name in known if name != "compile"]
    asked = ["recur", *asked, *(["compile"] if record.options.torch_compile else [])]
    chosen = []
    for peer in (known[name] for name in dict.fromkeys(asked)):
        if missing := peer.missing:
            record.notes.append(f"{peer.name} is not measured, as {missing[0]} is missing: pip install 'recur[bench]'")
        else:
            chosen.append(peer)
    return chosen


def _versions(chosen: list[Peer]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("recur", "torch", "numpy", "llvmlite"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for peer in chosen:
        found |= peer.versions
    return found


def _line(one: Measured) -> str:
    timing = one.timing
    parts = [f"recur {timing.median('recur'):.3f} ms"]
    parts += [f"{name} {timing.ratio(name, 'recur').median:.2f}x" for name in timing.rounds if name != "recur"]
    return f"{one.point}{' beside a busy process' * one.busy}: {', '.join(parts)}"


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def _with_other_allocator(record: Record, say: Say) -> None:
    """Measure the same in a process whose malloc keeps its memory, as malloc reads its settings when it starts."""
    say("once more with malloc kept from returning memory")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [
            sys.executable,
            "-m",
            "recur.app.main",
            "bench",
            "kernels",
            *_flags(record.options),
            "--json",
            str(path),
        ]
        try:
            subprocess.run(command, env=os.environ | KEEPING, stdout=subprocess.DEVNULL, check=False)
        finally:
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
                record.elsewhere = found["rows"]
                record.wrong += [f"with memory kept, {line}" for line in found["wrong"]]
                record.save()


def _flags(options: KernelOptions) -> list[str]:
    """Return the flags that stand for these options, without what is written and the allocator."""
    flags = []
    for one in fields(options):
        value = getattr(options, one.name)
        if value == one.default or one.name in ("json", "picture", "allocator"):
            continue
        if value is True:
            flags.append(flag(one.name))
        else:
            flags += [flag(one.name), ",".join(value) if isinstance(value, tuple) else str(value)]
    return flags


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Processor")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
