"""What the gradient flow foretells of a network, and whether it was right."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recur.errors import InputError
from recur.flow.measure import gradient_flow
from recur.tasks.figures import pearson, spearman

WHEN = ("initial", "trained")
_ROWS = 2
_LAGS = 101  # of so many the norm is kept


def foretell(layers: nn.Module, inputs: Tensor) -> dict[str, Any] | None:
    """Return how far back the states of recurrent layers reach: that of the layer that reaches furthest.

    Args:
        layers: recurrent layers, batch first.
        inputs: rows to be read, [B, T, D]; the Jacobians of the first few are averaged.

    Returns:
        `horizon` in steps, `verdict`, the largest Lyapunov `exponent` in nats per step, and for some `lags` the natural
        logarithm of the norm of dh_last/dh_(last - lag); None where a state is not finite.
    """
    rows = range(min(_ROWS, len(inputs)))
    try:
        with torch.enable_grad():
            flow = gradient_flow(layers, inputs[: len(rows)], rows=rows, k=1)
    except InputError:
        return None
    best = max(flow, key=lambda layer: layer.horizon)
    norms = best.log_jacobian[::-1]
    lags = np.unique(np.linspace(0, len(norms) - 1, _LAGS).astype(int))
    return {
        "horizon": best.horizon,
        "verdict": best.verdict,
        "exponent": _number(best.lyapunov[0]),
        "lags": lags.tolist(),
        "log_norms": [_number(norms[lag]) for lag in lags],
    }


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


@dataclass(frozen=True)
class Foretold:
    """How what a flow foretold and what was learned agree.

    Args:
        when: "initial", before training, or "trained", after it.
        horizons: by cell and seed, on the rows of the longest lag.
        longest: the longest lag learned, likewise.
        reached: by network, whether the horizon covers the lag.
        learned: by network, whether the lag was learned.
    """

    when: str
    horizons: Sequence[int]
    longest: Sequence[int]
    reached: Sequence[bool]
    learned: Sequence[bool]

    @property
    def pearson(self) -> float | None:
        """Correlation of horizon and longest lag learned, over cells and seeds; None where one does not vary."""
        return pearson(self.horizons, self.longest)

    @property
    def spearman(self) -> float | None:
        """The same of their ranks."""
        return spearman(self.horizons, self.longest)

    @property
    def counts(self) -> dict[str, int]:
        """Networks by what was foretold and what came."""
        pairs = list(zip(self.reached, self.learned, strict=True))
        return {
            f"{'foretold' if reached else 'not foretold'}, {'learned' if learned else 'not learned'}": pairs.count(
                (reached, learned)
            )
            for reached in (True, False)
            for learned in (True, False)
        }

    def as_json(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "pearson": self.pearson,
            "spearman": self.spearman,
            "points": len(self.horizons),
            "networks": self.counts,
        }


def compare(networks: Sequence[Mapping[str, Any]], when: str) -> Foretold:
    """Set horizons beside lags learned; networks without a flow are left out.

    Args:
        networks: lines of metrics.json.
        when: "initial" or "trained".
    """
    lines = [line for line in networks if line["flow"][when] is not None]
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["cell"], line["seed"]), []).append(line)
    furthest = [max(group, key=lambda line: line["lag"]) for group in groups.values()]
    return Foretold(
        when=when,
        horizons=[line["flow"][when]["horizon"] for line in furthest],
        longest=[max((o["lag"] for o in group if o["learned"]), default=0) for group in groups.values()],
        reached=[line["flow"][when]["horizon"] >= line["lag"] for line in lines],
        learned=[line["learned"] for line in lines],
    )
