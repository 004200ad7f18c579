"""Gradient flows made by hand, for tests of what is drawn and said of them."""

import numpy as np

from recur.flow.flow import GradientFlow
from recur.flow.result import Advice, Criteria, GateUse, LayerFlow

GATES = {"rnn": "h", "lstm": "ifgo", "gru": "rzn"}
CRITERIA = ("largest entry", "spectral radius", "largest singular value", "bound")


def criteria(name, matrix, gamma, measured):
    radius = np.abs(eigenvalues := np.linalg.eigvals(matrix)).max()
    largest = np.linalg.norm(matrix, 2)
    says = dict.fromkeys(CRITERIA, "") | {"spectral radius": "vanishing" if radius < 1 else "exploding"}
    agrees = {key: (word == measured if word else None) for key, word in says.items()}
    return Criteria(name, np.abs(matrix).max(), radius, largest, gamma, gamma * largest, eigenvalues, says, agrees)


def gate(rng, tanh=False):
    edges = np.linspace(-1 if tanh else 0, 1, 21)
    return GateUse(0.5, rng.dirichlet(np.ones(20)), edges, 0.03, 0.125)


def layer(cell="rnn", name="l0", T=40, H=8, rate=-0.3, seed=0):
    """Return a layer in which the Jacobian changes by `rate` nats a step."""
    rng = np.random.default_rng(seed)
    back = np.arange(T)[::-1].astype(float)
    measured = "vanishing" if rate < -0.05 else "exploding" if rate > 0.05 else "healthy"
    horizon = min(T, int(np.log(100) / abs(rate))) if rate else T
    norms = np.exp(rate * back)
    advice = Advice("orthogonal initialisation", "recur.orthogonal_(layer)", "the radius is 0.58", "Saxe et al. 2014")
    gates = {} if cell == "rnn" else {g: gate(rng, tanh=g in "gn") for g in GATES[cell]}
    return LayerFlow(
        name=name,
        cell=cell,
        steps=T,
        hidden_gradient=norms,
        cell_gradient={"c": norms} if cell == "lstm" else {},
        unit_gradient=norms[:, None] * rng.lognormal(size=(T, H)),
        lag_gradient=norms[::-1].copy(),
        weight_share=norms / norms.sum(),
        log_jacobian=rate * back,
        log_singular_values=rate * back[:, None] - np.arange(4),
        step_singular_values=np.exp(rate) * np.ones((T, 4)) * [1, 0.9, 0.8, 0.7],
        lyapunov=rate - np.arange(4) / 10,
        lyapunov_error=np.full(4, 0.01),
        horizon=horizon,
        criteria=tuple(
            criteria(g, rng.uniform(-1, 1, (H, H)) / np.sqrt(H), 0.25 if g in "ifozr" else 1.0, measured)
            for g in GATES[cell]
        ),
        gates=gates,
        truth_table={"keep": 0.5, "add": 0.25, "clear": 0.125, "overwrite": 0.125} if cell == "lstm" else None,
        time_constants=None if cell == "rnn" else rng.lognormal(1, size=H) + 1,
        verdict=measured,
        advice=(advice,) if measured == "vanishing" else (),
        rows=(0, 1),
    )


def made(cell="rnn", layers=1, initial=True, **options):
    """Return a flow."""
    parts = tuple(layer(cell, f"l{i}", seed=i, **options) for i in range(layers))
    rng = np.random.default_rng(9)
    start = {part.name: {c.name: rng.normal(size=8) / 4 + 0j for c in part.criteria} for part in parts}
    return GradientFlow(parts, 0.7, "float32", start if initial else None)
