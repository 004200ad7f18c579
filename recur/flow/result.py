"""What a gradient flow is: plain arrays, one set for each layer and direction.

Steps are counted as they run, t = 0 .. T-1: for a backward direction t = 0 is the row's last step. h_t is the state
after step t; "the state" s_t is all of a cell's states side by side, n = H units of h, n = 2 H of an LSTM's h and c.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Verdict = Literal["vanishing", "exploding", "healthy"]


@dataclass(frozen=True)
class Criteria:
    """The criteria by which books judge a recurrent matrix, beside what was measured.

    Args:
        name: the gate whose matrix it is, as the cell names it.
        largest_entry: max |w_ij|.
        spectral_radius: max |eigenvalue|.
        largest_singular_value: the spectral norm.
        gamma: the largest slope of the gate's activation, 1/4 of sigmoid, 1 of tanh and relu; None of others.
        bound: largest singular value times gamma; below 1 gradients must vanish (Pascanu et al. 2013, sec. 2.1).
        eigenvalues: of the matrix, [H] complex.
        says: by criterion ("largest entry", "spectral radius", "largest singular value", "bound"), what it foretells:
            "vanishing", "exploding" or, where it foretells nothing, "".
        agrees: by criterion, whether that is what was measured; None where it foretells nothing.
    """

    name: str
    largest_entry: float
    spectral_radius: float
    largest_singular_value: float
    gamma: float | None
    bound: float | None
    eigenvalues: NDArray[np.complex128]
    says: Mapping[str, str]
    agrees: Mapping[str, bool | None]


@dataclass(frozen=True)
class GateUse:
    """How a gate is used, over all valid steps, rows and units.

    Args:
        mean: its mean.
        histogram: share of its values in each of `edges`' bins, [bins].
        edges: the bins' ends, [bins + 1]; 0 .. 1 of a sigmoid, -1 .. 1 of a tanh.
        low: share below 0.1 of a sigmoid, below -0.9 of a tanh: saturated.
        high: share above 0.9.
    """

    mean: float
    histogram: Array
    edges: Array
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """A remedy that fits.

    Args:
        remedy: its name, such as "orthogonal initialisation".
        argument: what turns it on, such as "recur.orthogonal_(layer)" or "--clip-global-norm 1".
        evidence: the measured figures that speak for it.
        source: where it comes from.
    """

    remedy: str
    argument: str
    evidence: str
    source: str


@dataclass(frozen=True)
class LayerFlow:
    """The gradient flow of one layer in one direction; norms are 2-norms.

    Args:
        name: such as "recurrent.l0" or "recurrent.l1_reverse"; "step" of a step function.
        cell: the cell's name.
        steps: T.
        hidden_gradient: norm of dL/dh_t over rows and units by step, [T]; total derivative, padded steps 0.
        cell_gradient: the same of the other states by name ("c"), through h_t too, [T] each; empty where h is the only
            one.
        unit_gradient: norm of dL/dh_t over rows, [T, H].
        lag_gradient: norm of dL/dh over rows and units by distance from each row's own last step, which is [0], [T].
        weight_share: each step's share in dL/dW_hh, the norm of delta_t h_{t-1}^T over the sum of all steps', [T].
        log_jacobian: natural logarithm of the spectral norm of dh_{T-1}/dh_t, [T]; -inf where it is exactly 0.
        log_singular_values: of ds_{T-1}/ds_t, natural logarithms, largest first, [T, k].
        step_singular_values: of ds_t/ds_{t-1}, largest first, [T, k].
        lyapunov: Lyapunov exponents in nats per step, largest first, [k].
        lyapunov_error: their standard errors, [k].
        horizon: how many steps back dh_{T-1}/dh_t is still between 1% and 100 times; T where it never leaves that.
        criteria: one for each recurrent matrix.
        gates: use of each gate by name.
        truth_table: of an LSTM, share of (step, row, unit) by what c does: "keep" (i=0, f=1), "add" (1, 1), "clear"
            (0, 0), "overwrite" (1, 0), with i and f rounded; None of others.
        time_constants: 1 / (1 - f) in steps, f a unit's mean of the gate that keeps the state, [H]; None without one.
        verdict: what the gradients do.
        advice: the remedies that fit, the best first; empty where all is well.
        rows: the batch rows of which Jacobians were taken.
    """

    name: str
    cell: str
    steps: int
    hidden_gradient: Array
    cell_gradient: Mapping[str, Array]
    unit_gradient: Array
    lag_gradient: Array
    weight_share: Array
    log_jacobian: Array
    log_singular_values: Array
    step_singular_values: Array
    lyapunov: Array
    lyapunov_error: Array
    horizon: int
    criteria: tuple[Criteria, ...]
    gates: Mapping[str, GateUse]
    truth_table: Mapping[str, float] | None
    time_constants: Array | None
    verdict: Verdict
    advice: tuple[Advice, ...]
    rows: tuple[int, ...]

    @property
    def jacobian(self) -> Array:
        """Spectral norm of dh_{T-1}/dh_t, [T]; 0 or inf where that leaves the range of float64, see `log_jacobian`."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_jacobian)

    @property
    def jacobian_singular_values(self) -> Array:
        """Singular values of ds_{T-1}/ds_t, [T, k]; 0 or inf where they leave the range of float64."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_singular_values)


@dataclass(frozen=True)
class LayerWatch:
    """What is cheap to know of a layer and direction while it is trained; fields as those of `LayerFlow`.

    Args:
        name: of the layer and direction.
        cell: the cell's name.
        steps: T.
        hidden_gradient: [T].
        lag_gradient: [T].
        weight_share: [T].
        spectral_radius: of each recurrent matrix, by gate.
        saturation: of each gate, shares of its values at its low and at its high end.
    """

    name: str
    cell: str
    steps: int
    hidden_gradient: Array
    lag_gradient: Array
    weight_share: Array
    spectral_radius: Mapping[str, float]
    saturation: Mapping[str, tuple[float, float]]
