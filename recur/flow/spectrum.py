"""Singular values and Lyapunov exponents of long products of step Jacobians, in logarithms."""

from collections.abc import Iterator
from math import inf, isqrt, log
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.errors import InputError

Array = NDArray[np.float64]

CHUNK_BYTES = 64 << 20
ROUNDING = float(torch.finfo(torch.float64).eps)


class StepJacobians(Protocol):
    """The Jacobians of the steps of one row, ds_t/ds_{t-1} for t = 0 .. steps - 1.

    Args:
        steps: T.
        size: n, the number of entries of the state.
    """

    steps: int
    size: int

    def __call__(self, start: int, stop: int) -> Tensor:
        """Return those of steps start .. stop - 1, [stop - start, n, n] float64."""
        ...


def product_spectrum(jacobians: StepJacobians, k: int, observed: slice) -> tuple[Array, Array]:
    """Measure how the last state depends on every earlier one.

    The products leave the range of float64 and their singular values drift hundreds of decades apart, so each is kept
    as an orthogonal matrix times a diagonal of logarithms times a well-conditioned matrix (Stewart 1997, "On graded QR
    decompositions of products of matrices"); singular values are right in relative terms however small.

    Args:
        jacobians: the steps'.
        k: how many singular values, 1 .. n.
        observed: the part of the last state of which the norm is taken, such as h of an LSTM's h and c.

    Returns:
        The natural logarithm of the spectral norm of ds_{T-1}[observed]/ds_t, [T], and of the singular values of all of
        ds_{T-1}/ds_t, largest first, [T, k]. At t = T-1 they are 0; where a derivative is exactly 0 they are -inf.

    Raises:
        InputError: k is not in 1 .. n, or a Jacobian is not finite, with its step.
    """
    _check(jacobians, k)
    steps, size = jacobians.steps, jacobians.size
    norms, values = np.zeros(steps), np.zeros((steps, k))
    product = _Product(size, observed)
    everything = len(range(size)[observed]) == size
    for step, jacobian in _backwards(jacobians):
        product.extend(jacobian)
        values[step - 1] = product.log_singular_values(k)
        norms[step - 1] = values[step - 1, 0] if everything else product.log_norm_observed()
    return norms, values


def step_spectrum(jacobians: StepJacobians, k: int) -> Array:
    """Return the k largest singular values of every step's Jacobian, largest first, [T, k].

    Args:
        jacobians: the steps'.
        k: how many, 1 .. n.

    Raises:
        InputError: k is not in 1 .. n, or a Jacobian is not finite, with its step.
    """
    _check(jacobians, k)
    chunks = [torch.linalg.svdvals(chunk)[:, :k] for _, chunk in _forwards(jacobians)]
    return np.asarray(torch.cat(chunks).numpy(), dtype=np.float64)


def lyapunov(jacobians: StepJacobians, k: int, seed: int = 0) -> tuple[Array, Array]:
    """Estimate the k largest Lyapunov exponents: how fast nearby states part, on average over the steps.

    k random directions are carried along and made orthonormal at every step; the logarithms of what QR takes off are
    averaged over the steps after a transient, in which the directions turn to where they belong (Benettin et al. 1980,
    Meccanica 15; the QR form: Geist, Parlitz & Lauterborn 1990, Prog. Theor. Phys. 83). Steps depend on each other, so
    the error is that of the means of batches of about sqrt(steps) successive steps (Flegal & Jones 2010,
    arXiv:0811.1729).

    Args:
        jacobians: the steps'.
        k: how many, 1 .. n.
        seed: of the first directions.

    Returns:
        The exponents in nats per step, largest first, [k], and their standard errors, [k]: inf where fewer than four
        steps are left after the transient. An exponent is -inf where a step is singular, with an error of 0.

    Raises:
        InputError: k is not in 1 .. n, or a Jacobian is not finite, with its step.
    """
    _check(jacobians, k)
    start = torch.randn(jacobians.size, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    directions = torch.linalg.qr(start).Q
    growth = torch.empty(jacobians.steps, k, dtype=torch.float64)
    for first, chunk in _forwards(jacobians):
        for i, jacobian in enumerate(chunk):
            moved, lengths = _unit_columns(jacobian @ directions)
            directions, triangle = torch.linalg.qr(moved)
            growth[first + i] = _without_noise(triangle).log() + lengths
    return _batch_means(growth.numpy())


def horizon(log_norm: Array) -> int:
    """Return how many steps back the signal stays within 1% and 100 times.

    Args:
        log_norm: natural logarithm of the norm of ds_{T-1}/ds_t, [T].

    Returns:
        The smallest lag T-1-t at which the norm is below 0.01 or above 100, less one; T where there is none.
    """
    lags = np.abs(log_norm[::-1])
    outside = np.flatnonzero(lags > log(100))
    return int(outside[0]) - 1 if outside.size else len(log_norm)


class _Product:
    """M^T of a product M as Q diag(exp(scale)) W: Q orthonormal columns, W rows of norm 1 and well conditioned.

    M grows on its right, M J, which is J^T on the left of Q. A row is only added to rows that weigh as much or more,
    so that what little a small singular value holds is not drowned.
    """

    def __init__(self, size: int, observed: slice) -> None:
        self.observed = observed
        self.basis = torch.eye(size, dtype=torch.float64)
        self.scale = torch.zeros(size, dtype=torch.float64)
        self.mix = torch.eye(size, dtype=torch.float64)
        # which entries of the state reach the end at all; rounding would leave 1e-16 of a product that is 0
        self.alive = torch.ones(size, dtype=torch.bool)
        self.alive_observed = torch.zeros(size, dtype=torch.bool)
        self.alive_observed[observed] = True

    def extend(self, jacobian: Tensor) -> None:
        linked = jacobian != 0
        self.alive = linked[self.alive].any(0)
        self.alive_observed = linked[self.alive_observed].any(0)
        if not len(self.scale):
            return
        moved = jacobian.T @ self.basis
        moved[~self.alive] = 0
        moved, growth = _unit_columns(moved)
        order = (growth + self.scale).argsort(descending=True)
        scale, mix = (growth + self.scale)[order], self.mix[order]
        basis, triangle = torch.linalg.qr(moved[:, order])
        kept = _without_noise(triangle).log() + scale
        for _ in range(8):
            order = kept.argsort(descending=True)
            if bool((kept[order] <= kept + 5).all()):
                break
            scale, mix = scale[order], mix[order]
            turn, triangle = torch.linalg.qr(triangle[:, order])
            basis = basis @ turn
            kept = _without_noise(triangle).log() + scale
        real = kept > -inf
        real[int(self.alive.sum()) :] = False
        weights = triangle[real].abs().log() + scale
        if not len(weights):
            self.scale = self.scale[:0]
            return
        top = weights.amax(1)
        mix, length = _unit_columns(((triangle[real].sign() * (weights - top[:, None]).exp()) @ mix).T)
        self.scale, order = (top + length).sort(descending=True)
        self.basis, self.mix = basis[:, real][:, order], mix.T[order]

    def log_singular_values(self, k: int) -> Array:
        values = np.full(k, -inf)
        found = min(k, len(self.scale))
        if found:
            values[:found] = _graded(self.scale, self.mix, found)
        return values

    def log_norm_observed(self) -> float:
        if not self.alive_observed.any() or not len(self.scale):
            return -inf
        part = self.mix[:, self.observed]
        size = self.scale + part.norm(dim=1).log()
        top = float(size.max())
        if top == -inf:
            return -inf
        rows = size > top - 45
        scaled = part[rows] * (self.scale[rows] - top).exp()[:, None]
        return top + float(torch.linalg.matrix_norm(scaled, 2).log())


def _graded(scale: Tensor, mix: Tensor, k: int) -> Array:
    """Logarithms of the k largest singular values of diag(exp(scale)) mix, scale descending, k <= rows of mix."""
    # a row e^-20 below the k-th changes its singular value by e^-40 of itself
    rows = int((scale > scale[k - 1] - 20).sum())
    scale, mix = scale[:rows], mix[:rows]
    if scale[0] - scale[-1] < 25:
        return _log_svdvals(scale, mix)[:k]
    # two double steps of QR iteration on the graded matrix: far apart ones decouple (Stewart 1999, QLP)
    for _ in range(2):
        lower = torch.linalg.qr(mix.T).R.T
        down = (scale[:, None] - scale).clamp(max=0).exp()
        mix = torch.linalg.qr(lower * down).R * down.T
    lower = torch.linalg.qr(mix.T).R.T
    size = (scale + lower.diagonal().abs().log()).numpy()
    values = np.empty(k)
    done = 0
    while done < k:
        near = np.flatnonzero((size[done] + 7 > size) & (size > size[done] - 25))
        first, last = min(int(near[0]), done), int(near[-1]) + 1
        found = _log_svdvals(scale[first:last], lower[first:last, first:last])
        stop = done + 1
        while stop < min(k, last) and size[stop] > size[done] - 7:
            stop += 1
        values[done:stop] = found[done - first : stop - first]
        done = stop
    return values


def _log_svdvals(scale: Tensor, mix: Tensor) -> Array:
    top = scale.max()
    return np.asarray((torch.linalg.svdvals((scale - top).exp()[:, None] * mix).log() + top).numpy())


def _unit_columns(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of norm 1, and the logarithms of what their norms were, from -inf to beyond those of 1e308."""
    largest = columns.abs().amax(0)
    columns = columns / torch.where(largest > 0, largest, 1)
    length = columns.norm(dim=0)
    return columns / torch.where(largest > 0, length, 1), largest.log() + torch.where(largest > 0, length, 1).log()


def _without_noise(triangle: Tensor) -> Tensor:
    """|r_ii|, 0 where that is what rounding leaves of a column that is a combination of those before it."""
    diagonal, lengths = triangle.diagonal().abs(), triangle.norm(dim=0)
    return torch.where(diagonal > 2 * ROUNDING * len(triangle) ** 0.5 * lengths, diagonal, 0.0)


def _batch_means(growth: Array) -> tuple[Array, Array]:
    """Mean of growth [T, k] after the transient and its standard error, largest first."""
    steps = len(growth)
    settled = growth[min(steps // 10, 1000) :] if steps > 1 else growth
    mean = settled.mean(0)
    if len(settled) < 4:
        error = np.full(len(mean), inf)
    else:
        length = isqrt(len(settled))
        batches = len(settled) // length
        with np.errstate(invalid="ignore"):
            means = settled[len(settled) - batches * length :].reshape(batches, length, -1).mean(1)
            error = means.std(0, ddof=1) / np.sqrt(batches)
    error = np.where(np.isneginf(mean), 0.0, error)
    order = np.argsort(-mean, kind="stable")
    return mean[order], error[order]


def _forwards(jacobians: StepJacobians) -> Iterator[tuple[int, Tensor]]:
    """Chunks of steps' Jacobians, first to last, with their first step."""
    length = max(1, CHUNK_BYTES // (8 * jacobians.size**2))
    for start in range(0, jacobians.steps, length):
        yield start, _finite(jacobians(start, min(start + length, jacobians.steps)), start)


def _backwards(jacobians: StepJacobians) -> Iterator[tuple[int, Tensor]]:
    """Steps T-1 .. 1, each with its Jacobian."""
    length = max(1, CHUNK_BYTES // (8 * jacobians.size**2))
    for stop in range(jacobians.steps, 1, -length):
        start = max(stop - length, 1)
        chunk = _finite(jacobians(start, stop), start)
        for step in range(stop - 1, start - 1, -1):
            yield step, chunk[step - start]


def _finite(chunk: Tensor, start: int) -> Tensor:
    bad = ~chunk.isfinite().flatten(1).all(1)
    if bad.any():
        raise InputError(f"the Jacobian of step {start + int(bad.nonzero()[0])} is not finite")
    return chunk


def _check(jacobians: StepJacobians, k: int) -> None:
    if not 1 <= k <= jacobians.size:
        raise InputError(f"`k` must be in 1 .. n = {jacobians.size}, got {k}")
