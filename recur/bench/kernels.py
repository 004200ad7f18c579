"""The measurement: at every point all libraries side by side, each only after it gave the right numbers."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby

import torch

from recur.bench.allocator import measure_keeping
from recur.bench.clock import measure
from recur.bench.limit import Count, Machine
from recur.bench.options import PEERS, Point, points
from recur.bench.peers import Peer, Work, peers
from recur.bench.problem import Problem, Truth, WrongResult, load_cell
from recur.bench.record import Measured, Record
from recur.cells import Cell
from recur.compiler.target import NotCompilable
from recur.errors import InputError, MissingExtra

Say = Callable[[str], None]


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
    chosen = _chosen(record)
    record.versions = _versions(chosen)
    try:
        record.machine = Machine()
    except NotCompilable as error:
        record.notes.append(f"the machine's limit is not measured: {error}")
    try:
        _measure_all(record, todo, cells, chosen, say)
    finally:
        torch.set_num_threads(before)
    if options.allocator:
        say("once more, with malloc keeping its memory")
        found = measure_keeping(options)
        if found is None:
            record.notes.append("nothing was measured with malloc keeping its memory")
            return
        record.elsewhere = found["rows"]
        record.wrong += [f"with malloc keeping its memory, {line}" for line in found["wrong"]]
        record.save()


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
            done, before = done + 1, len(record.wrong)
            for one in _measure(record, point, problem, truth, chosen):
                record.measured.append(one)
                say(f"[{done}/{len(todo)}] {_line(one)}")
            for line in record.wrong[before:]:
                say(f"[{done}/{len(todo)}] {line}")
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


def _chosen(record: Record) -> list[Peer]:
    """Return whom to measure, recur first; note who is missing."""
    known, options = peers(), record.options
    asked = ["recur", *(options.peers or PEERS[:-1]), *(["compile"] if options.torch_compile else [])]
    chosen = []
    for peer in (known[name] for name in dict.fromkeys(asked)):
        if not peer.missing:
            chosen.append(peer)
        elif peer.name in options.peers:
            raise MissingExtra(peer.missing[0], "bench", f"--peers {peer.name}")
        else:
            record.notes.append(f"{peer.name} is not measured: pip install 'recur[bench]'")
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
