"""A run that is stopped half-way."""

import signal

from recur.tasks.progress import Progress


class StopsAfter(Progress):
    """Sends Ctrl-C after so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def step(self, *values):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
