"""What the machine can do at all: how fast it multiplies and reads, measured, and what a layer therefore must take.

The limit of a forward pass over T steps is

    input product / peak + T * max(recurrent products of a step / peak, recurrent weights of a thread / read speed)

with the speed at which all threads read as many bytes each, over and over: that of the cache that holds them. Training
adds the same recurrence backward, and the gradients of the input and of both matrices at the peak. A stream multiplies
the input step by step, so that its step reads both matrices. Activations, and reading and writing what goes in and out,
are not in the limit: no layer reaches it.
"""

import ctypes
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from recur.bench.options import Shape
from recur.cells import Cell
from recur.compiler import machine
from recur.compiler.ir import Module
from recur.compiler.target import Target, native

LEVELS = ("L1", "L2", "L3", "memory")
RUNS, RUN_SECONDS = 5, 0.004


class Speeds(Protocol):
    """What the limit is made of."""

    def peak(self, threads: int) -> float:
        """Return multiplications and additions per second, of all threads together."""

    def read(self, size: int, threads: int) -> float:
        """Return bytes per second of each of `threads` threads that read `size` bytes of their own again and again."""

    def level(self, size: int, threads: int) -> str:
        """Return the cache that holds `size` bytes of each thread."""


class Limit(NamedTuple):
    """Milliseconds that no layer goes below, and by what: "fma", or the cache that the weights come from."""

    ms: float
    by: str


@dataclass(frozen=True)
class Count:
    """Multiplications and additions of a layer's forward pass, and what a step reads; for float32."""

    steps: int
    input: float
    """Of the input's product, for all steps."""
    step: float
    """Of a step."""
    bytes: float
    """Weights that a step reads."""

    @classmethod
    def of(cls, cell: Cell, shape: Shape, mode: str) -> "Count":
        """Count a layer's; in a stream a step's input product is a part of the step."""
        gates, recurrent = len(cell.gate_names), len(cell.recurrent_names)
        T, B, I, H = shape.T, shape.B, shape.I, shape.H
        ih, hh = gates * H * I, recurrent * H * H
        if mode == "stream":
            return cls(T, 0.0, 2.0 * B * (ih + hh), 4.0 * (ih + hh))
        return cls(T, 2.0 * T * B * ih, 2.0 * B * hh, 4.0 * hh)

    @property
    def total(self) -> float:
        """All of them."""
        return self.input + self.steps * self.step

    def share(self, threads: int) -> int:
        """Return the bytes that each thread reads in a step."""
        return round(self.bytes / threads)


def limit(count: Count, mode: str, threads: int, speeds: Speeds) -> Limit:
    """Return the least time of a layer in a mode ("forward", "train" or "stream")."""
    peak, share = speeds.peak(threads), count.share(threads)
    input, step = count.input / peak, count.step / peak
    reading = share / speeds.read(share, threads) if share else 0.0
    forward = input + count.steps * max(step, reading)
    backward = count.steps * max(step, reading) + 2 * input + count.steps * step
    by = speeds.level(share, threads) if reading > step else "fma"
    return Limit(1e3 * (forward + backward if mode == "train" else forward), by)


class Machine:
    """This machine's speeds: each is measured when it is first asked for, and `again` may find a better one.

    Whatever else runs can only make a measurement slower, so that the best one counts.

    Raises:
        NotCompilable: machine code cannot be made or loaded here.
    """

    def __init__(self) -> None:
        self._target = native()
        self._functions = machine.load(_code(self._target), ["multiply", "read"], self._target)
        self._best: dict[tuple[str, int, int], float] = {}
        self._repeats: dict[tuple[str, int, int], int] = {}
        self.caches = cache_sizes()

    def peak(self, threads: int) -> float:
        """Return multiplications and additions per second, of all threads together."""
        return self._speed(("multiply", 0, threads))

    def read(self, size: int, threads: int) -> float:
        """Return bytes per second of each of `threads` threads that read `size` bytes of their own again and again."""
        return self._speed(("read", self._size(size, threads), threads))

    def level(self, size: int, threads: int) -> str:
        """Return the cache that holds `size` bytes of each thread; the third is shared."""
        for name, room in self.caches.items():
            if size * (threads if name == "L3" else 1) <= room:
                return name
        return "memory"

    def again(self, size: int, threads: int) -> None:
        """Measure the peak, and reading `size` bytes per thread, once more."""
        for key in [("multiply", 0, threads), *([("read", self._size(size, threads), threads)] if size else [])]:
            self._best[key] = max(self._best.get(key, 0.0), self._measure(key))

    def facts(self, threads: int) -> dict[str, Any]:
        """Return the peak and the speed of each level, in 1e9 per second, of all threads together."""
        last = max(self.caches.values())
        sizes = {name: last // 4 // threads if name == "L3" else room for name, room in self.caches.items()}
        sizes["memory"] = 4 * last // threads
        read = {name: round(threads * self.read(size, threads) / 1e9, 1) for name, size in sizes.items()}
        return {"gflops": round(self.peak(threads) / 1e9, 1), "read_gb_per_s": read}

    def _size(self, size: int, threads: int) -> int:
        # a thread's own caches have one speed; what a shared one gives depends on how much of it is used
        level = self.level(size, threads)
        chunk = 16 * self._target.vector_bytes
        return (self.caches[level] // 2 if level in ("L1", "L2") else size) // chunk * chunk

    def _speed(self, key: tuple[str, int, int]) -> float:
        if key not in self._best:
            self._best[key] = self._measure(key)
        return self._best[key]

    def _measure(self, key: tuple[str, int, int]) -> float:
        """Return the most work per second and thread of several runs in which all threads run at once."""
        name, size, threads = key
        lanes, count = self._target.vector_bytes // 4, _accumulators(self._target)
        work = size or threads * 2 * lanes * count
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self._functions[name])
        buffers = [np.full((size or 4 * lanes * count) // 4 + 16, 0.5, np.float32) for _ in range(threads)]
        starts = [buffer.ctypes.data + -buffer.ctypes.data % 64 for buffer in buffers]
        times, repeats = [0.0] * threads, self._repeats.get(key, 1)
        barrier = threading.Barrier(threads)

        def run(thread: int) -> None:
            barrier.wait()
            start = time.perf_counter()
            call(starts[thread], size, repeats)
            times[thread] = time.perf_counter() - start

        def once() -> float:
            workers = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
            for worker in workers:
                worker.start()
            run(0)
            for worker in workers:
                worker.join()
            return sum(work * repeats / seconds for seconds in times) / threads

        while once() and min(times) < RUN_SECONDS:
            repeats = max(2 * repeats, int(repeats * 1.2 * RUN_SECONDS / max(times)))
        self._repeats[key] = repeats
        return max(once() for _ in range(RUNS))


def cache_sizes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Return the bytes of each level of data cache, as Linux tells them; usual ones elsewhere."""
    found = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and f"L{level}" in LEVELS and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) * 1024
    return found or {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}


def _accumulators(target: Target) -> int:
    # enough to cover the latency of two or four units, few enough to stay in registers
    return 20 if target.registers >= 32 else 12


def _code(target: Target) -> str:
    """Return two functions (buffer, bytes, repeats): one multiplies in registers, one reads the whole buffer."""
    lanes, count = target.vector_bytes // 4, _accumulators(target)
    module, floats, ints = Module(), f"<{lanes} x float>", f"<{lanes} x i32>"
    multiply_add = f"@llvm.fmuladd.v{lanes}f32"
    module.declare(f"declare {floats} {multiply_add}({floats}, {floats}, {floats})")

    f = module.function("multiply", "ptr %buffer, i64 %size, i64 %repeats")
    # unknown numbers, so that nothing is worked out ahead; all 0.5, so that none grows or vanishes
    first = [f.load(floats, f.at("%buffer", str(i), floats), 64) for i in range(count)]
    with f.loop("0", "%repeats", carried=[(floats, value) for value in first]) as loop:
        half = first[0]
        loop.next(
            *(
                f.let(f"call {floats} {multiply_add}({floats} {value}, {floats} {half}, {floats} {half})")
                for value in loop.values
            )
        )
    for i, value in enumerate(loop.results):
        f.store(floats, value, f.at("%buffer", str(i), floats), 64)
    f.close()

    f = module.function("read", "ptr %buffer, i64 %size, i64 %repeats")
    zeros = [(ints, "zeroinitializer")] * 4
    with f.loop("0", "%repeats", carried=zeros) as outer:
        with f.loop(
            "0", "%size", str(16 * target.vector_bytes), carried=[(ints, value) for value in outer.values]
        ) as inner:
            base, values = f.at("%buffer", inner.index), list(inner.values)
            for i in range(16):
                vector = f.load(ints, f.at(base, str(i), ints), target.vector_bytes)
                values[i % 4] = f.let(f"or {ints} {values[i % 4]}, {vector}")
            inner.next(*values)
        outer.next(*inner.results)
    for i, value in enumerate(outer.results):
        f.store(ints, value, f.at("%buffer", str(i), ints), target.vector_bytes)
    f.close()
    return module.text
