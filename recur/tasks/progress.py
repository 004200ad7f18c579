"""What a person sees while a network is trained: a bar on a terminal, a line per epoch elsewhere."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO, TypeVar

T = TypeVar("T", covariant=True)
# seconds between two lines about the same work where no bar can be drawn
LINE_SECONDS = 30.0


class Counted(Protocol[T]):
    """What can be gone through and counted."""

    def __iter__(self) -> Iterator[T]: ...
    def __len__(self) -> int: ...


class Progress:
    """Prints the course of training to `stream`, standard error by default, as long as that takes it.

    Args:
        label: what is trained, in front of every line.
        stream: where to; on a terminal the line of the running epoch is rewritten ten times a second.
    """

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        self.label = f"{label}  " if label else ""
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._drawn = 0.0
        self._work: dict[str, tuple[float, float, float]] = {}

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, best: str, left: float) -> None:
        """Redraw the bar: epochs and steps from 1, the epoch's mean loss so far, the seconds left for this network."""
        if not self._due():
            return
        full = round(20 * step / steps)
        bar = "━" * full + " " * (20 - full)
        self._rewrite(
            f"{self.label}epoch {epoch}/{epochs} {bar} {step}/{steps}  loss {loss:.4f}  "
            f"{best}{duration(left)} left for this network"
        )

    def epoch(self, epochs: int, line: dict[str, Any], monitor: str, is_best: bool) -> None:
        """Print the line of a finished epoch, as it stands in metrics.jsonl."""
        loss = line["train"]["loss"]
        score = line["validation"][monitor]
        text = (
            f"{self.label}epoch {line['epoch']}/{epochs}  loss {'-' if loss is None else f'{loss:.4f}'}  "
            f"validation {monitor} {'-' if score is None else f'{score:.4f}'}{' *' if is_best else '  '}  "
            f"{line['seconds']:.1f} s"
        )
        if line["nonfinite"]:
            text += f"  {sum(line['nonfinite'].values())} gradients not finite, steps skipped"
        self.say(text)

    def share(self, what: str, done: float) -> None:
        """Show how much of some work other than training is done; on no terminal in a line every half minute.

        Args:
            what: the work, such as "scoring".
            done: the share of it that is done, 0..1; where it falls, the same work begins again.
        """
        now = time.monotonic()
        began, said, before = self._work.get(what, (now, now, 0.0))
        if done < before:
            began = said = now
        if done >= 1:
            self._work.pop(what, None)
            if self.live:
                self._rewrite("")
            return
        left = f"  {duration((now - began) * (1 - done) / done)} left" if done else ""
        text = f"{self.label}{what}  {done:.0%}{left}"
        if self._due():
            self._rewrite(text)
        elif not self.live and now - said >= LINE_SECONDS:
            said = now
            self.say(text)
        self._work[what] = began, said, done

    def reading(self, path: Path, done: int, total: int) -> None:
        """Show how much of a file was read; for `recur.data.sources.watched`."""
        self.share(f"reading {path.name}", done / max(1, total))

    def over(self, items: Counted[T], what: str) -> Iterator[T]:
        """Yield items and show how many of them are done."""
        for number, item in enumerate(items):
            self.share(what, number / len(items))
            yield item
        self.share(what, 1.0)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if self.live:
            self._rewrite("")
        self._print(text + "\n")

    def _due(self) -> bool:
        """Whether the line of the running epoch is to be rewritten now."""
        now = time.monotonic()
        if not self.live or now - self._drawn < 0.1:
            return False
        self._drawn = now
        return True

    def _rewrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._print(f"\r\033[K{text[:width]}")

    def _print(self, text: str) -> None:
        try:
            print(text, end="", file=self.stream, flush=True)
        except OSError:
            # the terminal or the reader of the pipe has gone: training goes on, and what follows, the flush at exit
            # included, goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 45 s, 3:20 min, 1:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
