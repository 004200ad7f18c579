"""Singular values and Lyapunov exponents of long products of step Jacobians, in logarithms."""

from collections.abc import Iterator
from math import inf, isqrt, log
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.errors import InputError
from recur.flow.graded import Product, unit_columns, without_noise
from recur.flow.result import Array
from recur.flow.subspace import BATCH, Subspace

CHUNK_BYTES = 64 << 20
# lags that are measured whatever `every` says
DENSE = 8


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


def product_spectrum(jacobians: StepJacobians, k: int, observed: slice, every: int = 1) -> tuple[Array, Array]:
    """Measure how the last state depends on every earlier one.

    The products leave the range of float64 and their singular values drift hundreds of decades apart, so each is kept
    as an orthogonal matrix times a diagonal of logarithms times a well-conditioned matrix (Stewart 1997, "On graded QR
    decompositions of products of matrices"); singular values are right in relative terms however small.

    Args:
        jacobians: the steps'.
        k: how many singular values, 1 .. n.
        observed: the part of the last state of which the norm is taken, such as h of an LSTM's h and c.
        every: products are measured over the last 8 steps, from then on at every so many steps and at the first one;
            logarithms between are interpolated.

    Returns:
        The natural logarithm of the spectral norm of ds_{T-1}[observed]/ds_t, [T], and of the singular values of all of
        ds_{T-1}/ds_t, largest first, [T, k]. At t = T-1 they are 0; where a derivative is exactly 0 they are -inf.

    Raises:
        InputError: k is not in 1 .. n, or a Jacobian is not finite, with its step.
    """
    _check(jacobians, k)
    product = Product(jacobians.size, k, observed)
    steps = jacobians.steps
    found, chosen = [np.zeros(1 + k)], [steps - 1]
    for step, jacobian in _backwards(jacobians):
        product.extend(jacobian)
        lag = steps - step
        if lag > DENSE and lag % every and step > 1:
            continue
        norm, values = product.measure()
        found.append(np.concatenate([[norm], values]))
        chosen.append(step - 1)
    logs = between(np.array(chosen[::-1]), np.array(found[::-1]), steps)
    return logs[:, 0], logs[:, 1:]


def step_spectrum(jacobians: StepJacobians, k: int, every: int = 1) -> Array:
    """Return the k largest singular values of every step's Jacobian, largest first, [T, k].

    Beyond n = 128 they are right to 1e-4 of their size, by subspace iteration with a Chebyshev filter (Zhou et al.
    2006, J. Comput. Phys. 219), from the directions found for earlier steps; where that does not converge, exact.

    Args:
        jacobians: the steps'.
        k: how many, 1 .. n.
        every: one of so many steps is measured, and the last; logarithms between are interpolated.

    Raises:
        InputError: k is not in 1 .. n, or a Jacobian is not finite, with its step.
    """
    _check(jacobians, k)
    subspace = Subspace(jacobians.size, k)
    chosen = np.arange(jacobians.steps)
    chosen = chosen[(chosen % every == 0) | (chosen == chosen[-1])]
    values = []
    for first, chunk in _forwards(jacobians):
        own = chosen[(chosen >= first) & (chosen < first + len(chunk))] - first
        values += [subspace(part) for part in torch.split(chunk if every == 1 else chunk[own], BATCH)]
    measured = np.asarray(torch.cat(values).numpy(), dtype=np.float64)
    if every == 1:
        return measured
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(between(chosen, np.log(measured), jacobians.steps)))


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
            moved, lengths = unit_columns(jacobian @ directions)
            directions, triangle = torch.linalg.qr(moved)
            growth[first + i] = without_noise(triangle).log() + lengths
    return batch_means(growth.numpy())


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


def between(chosen: NDArray[np.int64], logs: Array, steps: int) -> Array:
    """Logarithms [m, k] at the steps `chosen`, first to last among them, as [steps, k]: linear between."""
    if len(chosen) == steps:
        return logs
    right = np.searchsorted(chosen, np.arange(steps))
    left = np.maximum(right - (chosen[right] > np.arange(steps)), 0)
    width = np.maximum(chosen[right] - chosen[left], 1)
    share = ((np.arange(steps) - chosen[left]) / width)[:, None]
    with np.errstate(invalid="ignore"):
        result = (1 - share) * logs[left] + share * logs[right]
    # 0 * -inf
    result[chosen] = logs
    return np.asarray(result)


def batch_means(growth: Array) -> tuple[Array, Array]:
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
    bad = ~torch.linalg.vector_norm(chunk, inf, dim=(1, 2)).isfinite()
    if bad.any():
        raise InputError(f"the Jacobian of step {start + int(bad.nonzero()[0])} is not finite")
    return chunk


def _check(jacobians: StepJacobians, k: int) -> None:
    if not 1 <= k <= jacobians.size:
        raise InputError(f"`k` must be in 1 .. n = {jacobians.size}, got {k}")
