"""How many threads a call is worth that has to meet at every step: learnt from how long calls took.

On a quiet machine two threads halve the time of a single row; where another process has one of the cores, each meeting
can cost a time slice. Results have the same bits either way, so the choice may follow the clock.
"""

from collections import deque
from statistics import median

PROBE_FIRST, PROBE_LAST = 8, 64  # calls between looks at the other way


class Choice:
    """Between all threads and one."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._times: dict[int, deque[float]] = {threads: deque(maxlen=3), 1: deque(maxlen=3)}
        self._best, self._interval, self._since = threads, PROBE_FIRST, 0

    def next(self) -> int:
        """Return how many threads to take for the next call."""
        self._since += 1
        other = 1 if self._best == self.threads else self.threads
        known = len(self._times[other])
        if self._times[self._best] and (not known or self._since >= self._interval):
            self._since = 0
            return other
        return self._best

    def took(self, threads: int, seconds: float) -> None:
        """Take note of a call."""
        self._times[threads].append(seconds)
        if not all(self._times.values()):
            return
        best = min(self._times, key=lambda n: median(self._times[n]))
        self._interval = PROBE_FIRST if best != self._best else min(PROBE_LAST, self._interval + 1)
        self._best = best
