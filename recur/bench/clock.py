"""Timing side by side: short blocks of calls, A B C C B A in every round, without those that had to wait for a core."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

LEAST_ROUNDS = 3
WAITED = 0.02  # the share of a block that our threads may stand in line for a core
LONG = 0.25  # seconds: a call that takes longer does not notice whose data is in the caches when it starts
SETTLE = 0.005  # seconds: worker threads of the library before spin for a few milliseconds, and would take a core


@dataclass(frozen=True)
class Ratio:
    """The median over rounds, and the quarter below and above which the rounds lie."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Round:
    """A library's milliseconds per call in a round: of all its blocks, and of those that did not wait, if any."""

    all: float
    clean: float | None


@dataclass
class Timing:
    """Rounds by library; in all of them, all libraries took their turns."""

    rounds: dict[str, list[Round]]
    dropped: dict[str, int]
    """Blocks that waited."""

    def contended(self, name: str) -> bool:
        """Whether so few rounds were free of waiting that the others count too."""
        return sum(one.clean is not None for one in self.rounds[name]) < LEAST_ROUNDS

    def median(self, name: str) -> float:
        """Return the median over the rounds."""
        clean = [one.clean for one in self.rounds[name] if one.clean is not None]
        return statistics.median([one.all for one in self.rounds[name]] if self.contended(name) else clean)

    def ratio(self, name: str, base: str) -> Ratio:
        """Return how many times the time of `base` it takes, round by round."""
        pairs = list(zip(self.rounds[name], self.rounds[base], strict=True))
        ratios = [one.clean / of.clean for one, of in pairs if one.clean is not None and of.clean is not None]
        if len(ratios) < LEAST_ROUNDS:
            ratios = [one.all / of.all for one, of in pairs]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(statistics.median(ratios), low, high)


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    alone: bool = True,
    settle: float = SETTLE,
) -> Timing:
    """Time calls against one another.

    Args:
        calls: what to time, by name; each has been called before.
        rounds: most rounds; each has every name twice, in an order and in its reverse, so that drift cancels.
        seconds: per name; no round starts later than that, but for the first three. Where the first of `calls` had to
            wait too often, thrice as long is tried.
        alone: drop blocks in which our threads waited for a core; not wanted beside a busy process.
        settle: seconds of sleep before a block.
    """
    once = {name: _block(call, 1)[0] for name, call in calls.items()}
    counts = {name: max(1, min(10_000, int(seconds / (2 * rounds) / value))) for name, value in once.items()}
    timing = Timing({name: [] for name in calls}, dict.fromkeys(calls, 0))
    order, start = list(calls), time.perf_counter()
    for done in range(rounds):
        spent = (time.perf_counter() - start) / len(calls)
        if done >= LEAST_ROUNDS and spent > (3 if timing.contended(next(iter(calls))) else 1) * seconds:
            break
        blocks: dict[str, list[tuple[float, bool]]] = {name: [] for name in calls}
        for name in chain(order, reversed(order)):
            time.sleep(settle)
            value, waited = _block(calls[name], counts[name], warm=once[name] < LONG)
            blocks[name].append((1e3 * value, alone and waited > WAITED))
        for name, pair in blocks.items():
            clean = [value for value, waited in pair if not waited]
            mean = statistics.fmean(value for value, _ in pair)
            timing.rounds[name].append(Round(mean, statistics.fmean(clean) if clean else None))
            timing.dropped[name] += len(pair) - len(clean)
        # whoever stood behind a library with restless threads stands elsewhere in the next round
        order = order[1:] + order[:1]
    return timing


def _block(call: Callable[[], object], count: int, warm: bool = True) -> tuple[float, float]:
    """Return the median seconds of `count` calls, and how long threads stood in line in that time, as a share of it."""
    if warm:
        call()
    # threads of one library that stand in each other's way count too: the system does not tell whom they wait for
    waits, start = _waits(), time.perf_counter()
    times = []
    for _ in range(count):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    elapsed = time.perf_counter() - start
    after = _waits()
    waited = sum(after[task] - wait for task, wait in waits.items() if task in after) / 1e9
    return statistics.median(times), waited / elapsed


def _waits() -> dict[str, int]:
    """Return how long each of our threads has stood in line for a core, in ns; nothing where the system doesn't say."""
    waits = {}
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/schedstat") as file:
                waits[task] = int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        pass
    return waits
