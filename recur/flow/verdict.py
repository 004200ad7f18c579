"""What the gradients of a layer do, and which remedies fit what was measured."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recur.flow.result import Advice, Array, LayerFlow, Verdict

# outside 1% .. 100 times the signal counts as gone or blown up
RANGE = math.log(100)
# a gate with more of its values than this below 0.1 or above 0.9 is saturated
SATURATED = 0.5


@dataclass(frozen=True)
class Setting:
    """What the advice depends on beside the flow.

    Args:
        layer: how the layer is named in an argument, such as "module.recurrent".
        keep: the gate that keeps the state, or "".
        has_bias: whether the layer has biases.
        relu: whether the activation is a ReLU.
        products: whether it has recurrent matrices.
        gates: how many gates it has.
        depth: layers one on top of the other.
        passed_down: norm of dL/dh over all steps in the lowest layer, of that in the highest.
    """

    layer: str
    keep: str = ""
    has_bias: bool = True
    relu: bool = False
    products: bool = True
    gates: int = 0
    depth: int = 1
    passed_down: float = 1.0


def verdict(log_jacobian: Array) -> Verdict:
    """Return what the gradients of h do within the sequence.

    "healthy": the spectral norm of dh_{T-1}/dh_t stays between 1% and 100 times for all t. Else, going back from the
    last step, it leaves that range by its lower end first, "vanishing", or by its upper one, "exploding".
    """
    outside = np.flatnonzero(np.abs(np.nan_to_num(log_jacobian[::-1], nan=0.0, posinf=np.inf, neginf=-np.inf)) > RANGE)
    if not len(outside):
        return "healthy"
    return "vanishing" if log_jacobian[::-1][outside[0]] < 0 else "exploding"


def advise(flow: LayerFlow, setting: Setting) -> tuple[Advice, ...]:
    """Return the remedies that fit, the best first; none for a layer where all is well."""
    found = {"healthy": _when_healthy, "vanishing": _when_vanishing, "exploding": _when_exploding}[flow.verdict]
    return tuple(found(flow, setting))


def _when_healthy(flow: LayerFlow, setting: Setting) -> Iterator[Advice]:
    yield from _depth(setting)


def _when_vanishing(flow: LayerFlow, setting: Setting) -> Iterator[Advice]:
    lag = min(flow.horizon + 1, flow.steps - 1)
    reach = f"dh_T/dh_t is below 1% from {lag} of {flow.steps} steps back, {_rate(flow)}"
    keep = setting.keep.lstrip("-")
    if keep and setting.has_bias:
        kept = _kept(flow, keep)
        yield Advice(
            "chrono initialisation",
            f"recur.chrono_({setting.layer}, {flow.steps}), --chrono {flow.steps}",
            f"{kept}{reach}",
            "Tallec and Ollivier 2018, arXiv:1804.11188",
        )
        yield Advice(
            "forget-gate bias",
            f"recur.forget_bias_({setting.layer}, 1), --forget-bias 1",
            f"{kept}{reach}",
            "Gers et al. 2000, Neural Computation 12(10); Jozefowicz et al. 2015",
        )
    radius, sigma = _largest(flow)
    matrices = f"recurrent matrix: spectral radius {radius:.3g}, largest singular value {sigma:.3g}"
    if setting.gates == 1 and not keep:
        yield Advice(
            "another cell",
            "--cell lstm, recur.LSTM",
            f"{flow.cell} has no gate that keeps its state; {reach}",
            "Hochreiter and Schmidhuber 1997, Neural Computation 9(8)",
        )
    if setting.products and setting.relu:
        yield Advice(
            "identity initialisation",
            f"recur.identity_({setting.layer}), --initialisation identity",
            matrices,
            "Le et al. 2015, arXiv:1504.00941",
        )
    if setting.products and radius < 1:
        yield Advice(
            "orthogonal initialisation",
            f"recur.orthogonal_({setting.layer}), --initialisation orthogonal",
            matrices,
            "Saxe et al. 2014, arXiv:1312.6120",
        )
    yield from _saturated(flow, setting.keep)
    yield from _depth(setting)
    if flow.horizon < flow.steps // 2:
        window = max(2 * flow.horizon, 2)
        yield Advice(
            "shorter truncation",
            f"recur.TruncatedBPTT(module, loss, k2={window})",
            f"{_beyond(flow, window)} of the norms of dL/dh lies {window} steps or more before the rows' last: a cut "
            "there costs little, and does not lengthen the memory",
            "Williams and Peng 1990, Neural Computation 2(4)",
        )


def _when_exploding(flow: LayerFlow, setting: Setting) -> Iterator[Advice]:
    peak = float(np.nanmax(flow.log_jacobian))
    growth = f"dh_T/dh_t grows {_times(peak)} within {flow.steps} steps, {_rate(flow)}"
    if flow.lyapunov[0] < 0:
        growth += "; it fades in the long run: the growth is a transient of a non-normal matrix"
    norms = flow.hidden_gradient
    spread = f"dL/dh is {norms.max():.3g} at its largest and {norms[-1]:.3g} at the last step; {growth}"
    clips = "Pascanu et al. 2013, arXiv:1211.5063, algorithm 1"
    yield Advice("clipping by global norm", "--clip-global-norm 1, recur.gradients.clip_by_global_norm", spread, clips)
    radius, sigma = _largest(flow)
    if setting.products and max(radius, sigma) > 1:
        yield Advice(
            "orthogonal initialisation",
            f"recur.orthogonal_({setting.layer}), --initialisation orthogonal",
            f"recurrent matrix: spectral radius {radius:.3g}, largest singular value {sigma:.3g}; {growth}",
            "Saxe et al. 2014, arXiv:1312.6120",
        )
    step = float(np.nanmax(flow.step_singular_values[:, 0]))
    yield Advice(
        "clipping in each step",
        "recur.cells.ClippedGradient(cell, bound), --clip-step BOUND",
        f"a single step stretches a gradient up to {step:.3g} times; {growth}",
        "Graves 2013, arXiv:1308.0850, section 2.1",
    )
    yield Advice("clipping by norm", "--clip-norm 1, recur.gradients.clip_by_norm", spread, clips)
    yield Advice(
        "clipping by value",
        "--clip-value 1, recur.gradients.clip_by_value",
        spread + "; it turns the direction of the gradient",
        "Mikolov 2012",
    )
    yield Advice(
        "learning rate",
        "a lower --learning-rate",
        f"a step of the optimiser is as long as the gradient where nothing clips it; {growth}",
        clips,
    )
    yield Advice(
        "shorter truncation",
        f"recur.TruncatedBPTT(module, loss, k2={max(flow.horizon, 1)})",
        f"up to {max(flow.horizon, 1)} steps back the gradient stays below 100 times; what lies further is lost",
        "Williams and Peng 1990, Neural Computation 2(4)",
    )
    yield from _depth(setting)


def _depth(setting: Setting) -> Iterator[Advice]:
    """Where the lowest of several layers gets next to nothing, or far too much."""
    if setting.depth < 2 or 0.01 <= setting.passed_down <= 100:
        return
    evidence = f"the lowest of {setting.depth} layers gets {setting.passed_down:.3g} times the gradient of the highest"
    yield Advice(
        "skip connections", "residual=True, --residual", evidence, "Wu et al. 2016, arXiv:1609.08144, section 3.1"
    )
    yield Advice("fewer layers", f"--layers {setting.depth - 1}, num_layers={setting.depth - 1}", evidence, "as above")


def _saturated(flow: LayerFlow, keep: str) -> Iterator[Advice]:
    def without_slope(name: str) -> float:
        use = flow.gates[name]
        if name != keep.lstrip("-"):
            return use.low + use.high
        # a gate that stands where it keeps the state remembers
        return use.high if keep.startswith("-") else use.low

    worst = max(flow.gates, key=without_slope, default=None)
    if worst is None:
        return
    use = flow.gates[worst]
    if without_slope(worst) > SATURATED:
        yield Advice(
            "learning rate",
            "a lower --learning-rate, smaller inputs or weights",
            f"gate {worst} is saturated: {use.low:.0%} at its low and {use.high:.0%} at its high end, with next to no "
            "slope",
            "Hochreiter 1991; Glorot and Bengio 2010",
        )


def _kept(flow: LayerFlow, keep: str) -> str:
    if flow.time_constants is None:
        return ""
    median = float(np.median(flow.time_constants))
    return f"gate {keep} keeps a state for {median:.3g} steps (median over units); "


def _beyond(flow: LayerFlow, window: int) -> str:
    """The share of the gradient of h that a window leaves out, by distance from each row's own last step."""
    total = float(flow.lag_gradient.sum())
    if not 0 < total < math.inf:
        return "little"
    return f"{float(flow.lag_gradient[window:].sum()) / total:.2%}"


def _largest(flow: LayerFlow) -> tuple[float, float]:
    if not flow.criteria:
        return math.nan, math.nan
    return (
        max(c.spectral_radius for c in flow.criteria),
        max(c.largest_singular_value for c in flow.criteria),
    )


def _rate(flow: LayerFlow) -> str:
    """The exponent as words: "e^(-0.5 ± 0.01) per step"."""
    exponent, error = float(flow.lyapunov[0]), float(flow.lyapunov_error[0])
    within = f" ± {error:.2g}" if math.isfinite(error) else ""
    return f"{exponent:.3g}{within} nats per step"


def _times(logarithm: float) -> str:
    exponent = logarithm / math.log(10)
    return f"{math.exp(logarithm):.3g} times" if exponent < 6 else f"10^{exponent:.0f} times"
