"""How many threads a call is worth that has to meet at every step: learnt from how long calls took.

On a quiet machine two threads halve the time of a single row; where another process has one of the cores, each meeting
can cost a time slice. Results have the same bits either way, so the choice may follow the clock.
"""

from collections import deque

FIRST = 2  # calls of either way before there is a choice
PROBE_FIRST, PROBE_LAST = 8, 64  # then, calls between looks at the other way


class Choice:
    """Between all threads and one."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._times: dict[int, deque[float]] = {threads: deque(maxlen=4), 1: deque(maxlen=4)}
        self._best, self._interval, self._since = threads, PROBE_FIRST, 0
        self._warm = False

    def next(self) -> int:
        """Return how many threads to take for the next call."""
        if len(self._times[1]) < FIRST or len(self._times[self.threads]) < FIRST:
            return 1 if len(self._times[1]) < len(self._times[self.threads]) else self.threads
        self._since += 1
        if self._since < self._interval:
            return self._best
        self._since = 0
        return 1 if self._best == self.threads else self.threads

    def took(self, threads: int, seconds: float) -> None:
        """Take note of a call."""
        if not self._warm:  # the first call finds neither threads nor caches ready
            self._warm = True
            return
        self._times[threads].append(seconds)
        if min(map(len, self._times.values())) < FIRST:
            return
        best = min(self._times, key=lambda n: _typical(self._times[n]))
        self._interval = PROBE_FIRST if best != self._best else min(PROBE_LAST, self._interval + 1)
        self._best = best


def _typical(times: "deque[float]") -> float:
    # the lower median: one call that was disturbed says nothing, two do
    return sorted(times)[(len(times) - 1) // 2]
