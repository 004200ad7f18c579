"""What a run of `recur probe` found: as values, as metrics.json, and as the table on the screen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recur.data.probes import Probe
from recur.report import write_report
from recur.tasks.figures import mean_interval
from recur.tasks.job_result import columns
from recur.tasks.probe.flow import WHEN, Foretold, compare
from recur.tasks.probe.options import ProbeOptions
from recur.tasks.probe.train import LEARNED
from recur.tasks.progress import duration


@dataclass(frozen=True)
class Point:
    """A cell at a lag, over its seeds.

    Args:
        cell, lag: which.
        errors: on the test rows, by seed: share of wrong answers, or mean squared error; that of guessing where
            training diverged.
        learned: how many seeds learned the lag.
        steps: training steps of each of those up to the look that was kept.
    """

    cell: str
    lag: int
    errors: tuple[float, ...]
    learned: int
    steps: tuple[int, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The mean error and half the width of its 95% interval over the seeds, infinite for a single one."""
        return mean_interval(self.errors)


@dataclass(frozen=True)
class ProbeResult:
    """All that a run found.

    Args:
        probe: the task.
        options: what was asked for, with the lags.
        networks: a line for each network, as in metrics.json.
        rules: errors of the simple rules on the test rows, by lag and name.
    """

    probe: Probe
    options: ProbeOptions
    networks: Sequence[Mapping[str, Any]]
    rules: Mapping[int, Mapping[str, float]]

    @property
    def points(self) -> list[Point]:
        """Each cell at each lag, in the order of the options."""
        return [self._point(cell, lag) for cell in self.options.cell for lag in sorted(self.options.lag)]

    def _point(self, cell: str, lag: int) -> Point:
        lines = [line for line in self.networks if (line["cell"], line["lag"]) == (cell, lag)]
        errors = tuple(error_of(self.probe, line) for line in lines)
        learned = [line for line in lines if line["learned"]]
        return Point(cell, lag, errors, len(learned), tuple(line["best_step"] for line in learned))

    def longest(self, cell: str, seed: int) -> int:
        """Return the longest lag that a cell learned with a seed, 0 if none."""
        return max(
            (line["lag"] for line in self.networks if (line["cell"], line["seed"]) == (cell, seed) and line["learned"]),
            default=0,
        )

    @property
    def foretold(self) -> list[Foretold]:
        """What the gradient flow foretold, before and after training; empty where it was not measured."""
        return [compare(self.networks, when) for when in WHEN] if self.options.flow else []

    def save(self, path: str | Path) -> None:
        """Write the page, one HTML file that opens offline.

        Raises:
            RunError: it cannot be written.
        """
        from recur.tasks.probe.report import compose_report

        write_report(path, compose_report(self))

    def as_json(self) -> dict[str, Any]:
        """Return metrics.json."""
        return {
            "probe": self.probe.name,
            "figure": "accuracy" if self.probe.classes else "mean squared error",
            "learned_below": LEARNED * self.probe.chance,
            "chance": {"error": self.probe.chance},
            "rules": {str(lag): dict(rules) for lag, rules in self.rules.items()},
            "points": [
                {
                    "cell": point.cell,
                    "lag": point.lag,
                    "error": point.interval[0],
                    # a single seed has no interval of its mean, and JSON no infinity
                    "half_width": None if math.isinf(point.interval[1]) else point.interval[1],
                    "seeds": len(point.errors),
                    "learned": point.learned,
                    "steps": list(point.steps),
                }
                for point in self.points
            ],
            "longest": {
                cell: {str(seed): self.longest(cell, seed) for seed in self.options.seed} for cell in self.options.cell
            },
            "foretold": {foretold.when: foretold.as_json() for foretold in self.foretold},
            "networks": [dict(line) for line in self.networks],
        }

    def __str__(self) -> str:
        lags = sorted(self.options.lag)
        lines: list[Sequence[str]] = [(self._heading, *(f"lag {lag}" for lag in lags), "longest learned")]
        for cell in self.options.cell:
            points = [point for point in self.points if point.cell == cell]
            longest = ", ".join(str(self.longest(cell, seed) or "none") for seed in self.options.seed)
            lines.append((cell, *(cell_text(self.probe, point) for point in points), longest))
        for name in next(iter(self.rules.values())):
            lines.append((f"rule: {name}", *(figure(self.probe, self.rules[lag][name]) for lag in lags)))
        return "\n".join([columns(lines), *map(foretold_text, self.foretold)])

    @property
    def _heading(self) -> str:
        return f"{self.probe.name}, {'accuracy' if self.probe.classes else 'error'}"


def foretold_text(foretold: Foretold) -> str:
    """Return how well a horizon foretold what was learned, in a sentence."""

    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.2f}"

    when = {"initial": "before", "trained": "after"}[foretold.when]
    counts = foretold.counts
    within, beyond = (
        f"{counts[f'{name}, learned']} of {counts[f'{name}, learned'] + counts[f'{name}, not learned']}"
        for name in ("foretold", "not foretold")
    )
    return (
        f"horizon {when} training and longest lag learned, {len(foretold.horizons)} cells and seeds: "
        f"Spearman {shown(foretold.spearman)}, Pearson {shown(foretold.pearson)}; "
        f"learned within the horizon: {within} networks, beyond it: {beyond}"
    )


def error_of(probe: Probe, line: Mapping[str, Any]) -> float:
    """Return the test error of a network, that of guessing where there is none."""
    return probe.chance if line["left"] is None else line["left"] * probe.chance


def figure(probe: Probe, error: float) -> str:
    """Return an error as a person reads it: an accuracy, or a mean squared error."""
    return f"{1 - error:.1%}" if probe.classes else f"{error:.4f}"


def cell_text(probe: Probe, point: Point) -> str:
    """Return the mean with its 95% interval, and how many seeds learned."""
    mean, half = point.interval
    spread = "" if math.isinf(half) else f" ±{half:.1%}" if probe.classes else f" ±{half:.4f}"
    return f"{figure(probe, mean)}{spread} ({point.learned}/{len(point.errors)})"


def verdict(probe: Probe, line: Mapping[str, Any]) -> str:
    """Return what became of a network, in a few words."""
    if "diverged" in line:
        return f"diverged: {line['diverged']}"
    name = "accuracy" if probe.classes else "error"
    after = f"after {line['best_step']} steps" if line["learned"] else f"in {line['steps']} steps"
    learned = "learned" if line["learned"] else "not learned"
    return f"{name} {figure(probe, error_of(probe, line))}, {learned} {after}, {duration(line['seconds'])}"
