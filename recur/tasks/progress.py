"""What a person sees while a network is trained: a bar on a terminal, a line per epoch elsewhere."""

import shutil
import sys
import time
from typing import Any, TextIO


class Progress:
    """Prints the course of training to `stream`, standard error by default.

    Args:
        label: what is trained, in front of every line.
        stream: where to; on a terminal the line of the running epoch is rewritten ten times a second.
    """

    def __init__(self, label: str = "", stream: TextIO | None = None) -> None:
        self.label = f"{label}  " if label else ""
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._drawn = 0.0

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, best: str, left: float) -> None:
        """Redraw the bar: epochs and steps from 1, the mean loss of the epoch so far, the seconds left."""
        now = time.monotonic()
        if not self.live or now - self._drawn < 0.1:
            return
        self._drawn = now
        full = round(20 * step / steps)
        bar = "━" * full + " " * (20 - full)
        self._rewrite(
            f"{self.label}epoch {epoch}/{epochs} {bar} {step}/{steps}  loss {loss:.4f}  {best}{duration(left)} left"
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

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if self.live:
            self._rewrite("")
        print(text, file=self.stream, flush=True)

    def _rewrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{text[:width]}", end="", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 45 s, 3:20 min, 1:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
