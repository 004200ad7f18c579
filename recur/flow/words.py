"""A gradient flow in plain words."""

import math
from collections.abc import Iterator

from recur.flow.flow import GradientFlow
from recur.flow.result import GateUse, LayerFlow

VERDICTS = {"vanishing": "gradients vanish", "exploding": "gradients explode", "healthy": "gradients are healthy"}


def sentence(layer: LayerFlow) -> str:
    """Return the verdict on a layer with the figures that it rests on."""
    return f"{VERDICTS[layer.verdict]}; {reach(layer)}; {trend(layer)}."


def reach(layer: LayerFlow) -> str:
    """Return how far back the layer's last state still depends on earlier ones."""
    if layer.horizon >= layer.steps:
        return f"over all {_steps(layer.steps)} the signal stays between 1% and 100 times what it was"
    lag = min(layer.horizon + 1, layer.steps - 1)
    if layer.log_jacobian[layer.steps - 1 - lag] > 0:
        return f"{_steps(lag)} back the signal is more than 100 times what it was"
    return f"{_steps(lag)} back less than 1% of the signal is left"


def trend(layer: LayerFlow) -> str:
    """Return what a step does to the signal in the long run."""
    if not len(layer.lyapunov) or math.isnan(layer.lyapunov[0]):
        return "what a step does in the long run is not known"
    rate, error = float(layer.lyapunov[0]), float(layer.lyapunov_error[0])
    if math.isinf(rate):
        return "in the long run nothing is left of it"
    figure = f"({rate:+.3g} ± {error:.2g} nats a step)"
    if abs(rate) <= 2 * error:
        return f"in the long run it neither grows nor shrinks for certain {figure}"
    return (
        f"in the long run it {'doubles' if rate > 0 else 'halves'} every {math.log(2) / abs(rate):.3g} steps {figure}"
    )


def gate_sentence(name: str, use: GateUse) -> str:
    """Return how a gate is used."""
    low, high = ("-0.9", "0.9") if use.edges[0] < 0 else ("0.1", "0.9")
    return f"gate {name}: mean {use.mean:.2f}, {use.low:.0%} below {low}, {use.high:.0%} above {high}"


def summary(flow: GradientFlow) -> str:
    """Return a flow in plain words, for a terminal: each layer's verdict and gates, then what to do about it."""
    return "\n".join(_lines(flow))


def _lines(flow: GradientFlow) -> Iterator[str]:
    for layer in flow.layers:
        yield f"{layer.name} ({layer.cell}): {sentence(layer)}"
        yield from (f"  {gate_sentence(name, use)}" for name, use in layer.gates.items())
        for advice in layer.advice:
            yield f"  try {advice.remedy}: {advice.argument}"
            yield f"    {advice.evidence} ({advice.source})"


def _steps(count: int) -> str:
    return f"{count:,} step{'s' * (count != 1)}"
