"""What `recur bench kernels` is asked for: its options, and the points that they stand for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recur.errors import InputError, nearest
from recur.tasks.options import require

SHAPES = (
    *("128x32x128x128", "128x64x256x256", "256x32x512x512", "80x128x100x64", "512x1x64x64", "256x1x256x256"),
    *("35x20x650x650", "100x1x512x1024"),
)
MODES = ("forward", "train", "stream")
PEERS = ("torch", "onnxruntime", "jax", "keras", "eager", "lstm", "compile")


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """What is measured, and for how long."""

    cells: tuple[str, ...] = ("lstm", "gru", "rnn")
    """Cells by name, or FILE.py:CLASS for one of your own."""
    shapes: tuple[str, ...] = SHAPES
    """Sizes TxBxIxH: steps, batch, inputs, hidden units."""
    modes: tuple[str, ...] = MODES
    """forward, with weights that do not change; train, forward and all gradients; stream, one step per call, for
    shapes of batch 1."""
    threads: tuple[str, ...] = ("1", "all")
    """Numbers of processor threads, or all."""
    peers: tuple[str, ...] = ()
    """Whom to measure beside recur, of torch, onnxruntime, jax and keras, and for cells that these lack eager, the
    equation in a loop of torch calls, and lstm, recur's own; all that are installed unless given."""
    torch_compile: bool = False
    """Also torch.compile of the eager loop, for the cells that have one; it compiles for minutes."""
    rounds: int = 15
    """Most rounds per point."""
    seconds: float = 2.0
    """Seconds per point and library; at least three rounds are measured."""
    busy: bool = False
    """Measure every point once more beside a process that keeps a core busy."""
    allocator: bool = False
    """Measure all once more in a process whose malloc keeps its memory (glibc)."""
    json: str | None = None
    """Write the rows to this file, after each point."""
    picture: str | None = None
    """Draw the ratios into this SVG file."""

    def check(self) -> None:
        """Raise InputError for what does not exist or is out of its range, naming the flag."""
        require(self, "rounds", lambda value: value >= 3, "at least 3, as one or two rounds prove nothing")
        require(self, "seconds", lambda value: 0 < value < 3600, "above 0 and below 3600")
        for name, known in (("modes", MODES), ("peers", PEERS)):
            for word in getattr(self, name):
                if word not in known:
                    hint = nearest(word, list(known))
                    raise InputError(f"--{name} must be of {', '.join(known)}, got {word!r}{hint}")
        for name in ("cells", "shapes", "modes", "threads"):
            require(self, name, lambda value: len(value) > 0, "at least one")


@dataclass(frozen=True)
class Shape:
    """T steps, B rows, I inputs, H hidden units."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return f"{self.T}x{self.B}x{self.I}x{self.H}"


@dataclass(frozen=True)
class Point:
    """One thing to measure."""

    cell: str
    shape: Shape
    mode: str
    threads: int

    def __str__(self) -> str:
        return f"{self.cell} {self.shape} {self.mode}, {self.threads} thread{'s' * (self.threads > 1)}"

    def row(self) -> dict[str, Any]:
        """Return the columns that name this point in a table."""
        shape = self.shape
        sizes = {"T": shape.T, "B": shape.B, "I": shape.I, "H": shape.H}
        return {"cell": self.cell, **sizes, "mode": self.mode, "threads": self.threads}


def points(options: KernelOptions, all_threads: int) -> list[Point]:
    """Return the points in the order in which they are measured.

    Raises:
        InputError: a shape or a number of threads is none, or nothing is left to measure.
    """
    options.check()
    shapes = [_shape(text) for text in options.shapes]
    counts = _unique([_threads(text, all_threads) for text in options.threads])
    found = [
        Point(cell, shape, mode, count)
        for count in counts
        for cell in _unique(options.cells)
        for shape in _unique(shapes)
        for mode in _unique(options.modes)
        if mode != "stream" or shape.B == 1
    ]
    if not found:
        raise InputError("--modes stream needs a shape of batch 1 in --shapes, such as 256x1x256x256")
    return found


def _shape(text: str) -> Shape:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)", text)
    if not match or "0" in match.groups():
        raise InputError(f"--shapes must be TxBxIxH, such as 128x32x128x128, got {text!r}")
    return Shape(*map(int, match.groups()))


def _threads(text: str, all_threads: int) -> int:
    if text != "all" and not (text.isdecimal() and 1 <= int(text) <= all_threads):
        raise InputError(f"--threads must be 1..{all_threads} on this machine, or all, got {text!r}")
    return all_threads if text == "all" else int(text)


def _unique(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
