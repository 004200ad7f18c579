"""Ctrl-C and SIGTERM as a wish that is granted between two steps, so that what is saved is whole."""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType

from recur.errors import RecurError


class Interrupted(RecurError):
    """Training was stopped by Ctrl-C or SIGTERM, and its state saved."""

    def __init__(self, signum: int, folder: Path) -> None:
        super().__init__(f"stopped; the state is saved in {folder}")
        self.signum, self.folder = signum, folder


class Stop:
    """While it is entered, Ctrl-C and SIGTERM are a wish that the loop grants at the next whole step.

    A second Ctrl-C stops at once, and the last saved state is what remains.
    """

    signum: int | None = None

    def __enter__(self) -> "Stop":
        # Python hands signals to the main thread only, and only it may ask for them
        here = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if here else ()
        self._before = {number: signal.signal(number, self._wish) for number in signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _wish(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
