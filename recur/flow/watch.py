"""Gradients watched while a network trains: a line every so many steps, and what clipping did in between."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recur.errors import InputError
from recur.flow.result import Array, LayerWatch

LAGS = 40  # norms are kept at about so many lags, close together where they are short
Line = dict[str, Any]


class Watch:
    """The lines of gradients.jsonl, and the tally of clipping since the last.

    Args:
        every: steps from one line to the next, at least 1.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.lines: list[Line] = []
        self._steps = self._clipped = 0
        self._kept_sum, self._kept_least = 0.0, 1.0

    def due(self, step: int) -> bool:
        """Whether a line is to be taken before step `step`, counted from 0; none is taken twice."""
        return step % self.every == 0 and not (self.lines and self.lines[-1]["step"] >= step)

    def take(self, step: int, look: Callable[[], Sequence[LayerWatch]]) -> Line:
        """Add a line after `step` steps of training; where nothing can be seen it says why.

        Args:
            step: so many steps were trained.
            look: returns what is seen, or raises InputError, of states that are not finite, say.

        Returns:
            the line.
        """
        line: Line = {"step": step, "layers": [], "clipping": self._clipping()}
        try:
            line["layers"] = [_layer(seen) for seen in look()]
        except InputError as error:
            line["unseen"] = str(error)
        self.lines.append(line)
        self._steps = self._clipped = 0
        self._kept_sum, self._kept_least = 0.0, 1.0
        return line

    def stepped(self, kept: float) -> None:
        """Count a step of training, of whose gradient clipping left the share `kept` of its norm, 1 for all."""
        self._steps += 1
        if kept < 1:
            self._clipped += 1
            self._kept_sum += kept
            self._kept_least = min(self._kept_least, kept)

    def _clipping(self) -> dict[str, float | int | None]:
        """Return steps since the last line, how many were clipped, and the mean and least share that they kept."""
        some = self._clipped > 0
        return {
            "steps": self._steps,
            "clipped": self._clipped,
            "kept": _digits(self._kept_sum / self._clipped) if some else None,
            "kept_least": _digits(self._kept_least) if some else None,
        }

    def text(self) -> str:
        """Return the lines as gradients.jsonl holds them."""
        return "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.lines)

    def state(self) -> dict[str, Any]:
        """Return what `load` carries on from."""
        tally = [self._steps, self._clipped, self._kept_sum, self._kept_least]
        return {"lines": self.lines, "tally": tally}

    def load(self, state: dict[str, Any]) -> None:
        """Carry on from `state`."""
        self.lines = list(state["lines"])
        self._steps, self._clipped, self._kept_sum, self._kept_least = state["tally"]


def thinned_lags(steps: int) -> list[int]:
    """Return about `LAGS` lags in 0..steps - 1: the first few one by one, the others at equal ratios."""
    if steps <= LAGS:
        return list(range(steps))
    return sorted({0, *np.rint(np.geomspace(1, steps - 1, LAGS)).astype(int).tolist()})


def reach(lag_gradient: Array) -> int:
    """Return how many steps back the gradient stays within 1% to 100 times of that at lag 0; T where it never leaves.

    Args:
        lag_gradient: norm by lag, [T].
    """
    own = lag_gradient[0]
    out = np.flatnonzero(~((lag_gradient >= 0.01 * own) & (lag_gradient <= 100 * own)))
    return int(out[0]) - 1 if len(out) else len(lag_gradient)


def _layer(seen: LayerWatch) -> Line:
    lags = thinned_lags(seen.steps)
    return {
        "name": seen.name,
        "steps": seen.steps,
        "horizon": max(0, reach(seen.lag_gradient)),
        "lags": lags,
        "norms": [_digits(float(seen.lag_gradient[lag])) for lag in lags],
        "spectral_radius": {gate: _digits(radius) for gate, radius in seen.spectral_radius.items()},
        "low": {gate: _digits(low) for gate, (low, _) in seen.saturation.items()},
        "high": {gate: _digits(high) for gate, (_, high) in seen.saturation.items()},
    }


def _digits(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
