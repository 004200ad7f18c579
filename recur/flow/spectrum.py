"""Singular values and Lyapunov exponents of long products of step Jacobians, in logarithms."""

from collections.abc import Iterator
from math import exp, inf, isqrt, log
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.errors import InputError
from recur.flow.subspace import BATCH, GRAM, SMALL, Subspace

Array = NDArray[np.float64]

CHUNK_BYTES = 64 << 20
# lags that are measured whatever `every` says
DENSE = 8
# rows e^-11 below a singular value change it by e^-22, 3e-10
MARGIN = 11.0
# a column's part that is not in those before it
SKEW = 0.1
ROUNDING = float(torch.finfo(torch.float64).eps)
# terms e^-22 below all that is measured are left out, while what becomes of them stays e^-16 below
CUT, LOST = 22.0, 16.0


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
    decompositions of products of matrices"); singular values are right in relative terms however small. Beyond n = 128,
    terms far below those measured are left out; random vectors show what would have become of them, and where that is
    not far below, all is done anew with all terms (the estimate of a norm: Halko et al. 2011, SIAM Review 53(2), 4.3).

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
    measured = _products(jacobians, _Product(jacobians.size, k, observed, cuts=jacobians.size > SMALL), every)
    if measured is None:
        measured = _products(jacobians, _Product(jacobians.size, k, observed, cuts=False), every)
    assert measured is not None
    return measured


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
        return np.asarray(np.exp(_between(chosen, np.log(measured), jacobians.steps)))


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


def _products(jacobians: StepJacobians, product: "_Product", every: int) -> tuple[Array, Array] | None:
    """What `product_spectrum` returns, None where too much was left out."""
    steps = jacobians.steps
    found, chosen = [np.zeros(1 + product.k)], [steps - 1]
    for step, jacobian in _backwards(jacobians):
        product.extend(jacobian)
        lag = steps - step
        if lag > DENSE and lag % every and step > 1:
            continue
        measured = product.measure()
        if measured is None:
            return None
        norm, values = measured
        found.append(np.concatenate([[norm], values]))
        chosen.append(step - 1)
    logs = _between(np.array(chosen[::-1]), np.array(found[::-1]), steps)
    return logs[:, 0], logs[:, 1:]


def _between(chosen: NDArray[np.int64], logs: Array, steps: int) -> Array:
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


class _Product:
    """M^T of a product M as X diag(exp(scale)) W: columns of X that are far from dependent, rows of W of norm 1.

    M grows on its right, M J, which is J^T on the left of X. Before its columns turn to each other, X becomes a Q of
    orthonormal columns by a QR that works on the largest first: a row of W is only added to rows that weigh as much or
    more, so that what little a small singular value holds is not drowned.
    """

    def __init__(self, size: int, k: int, observed: slice, cuts: bool) -> None:
        self.cuts, self.lost = cuts, _Lost(size)
        self.margin = LOST / 2 if cuts else MARGIN
        self.k, self.observed, self.observes_all = k, observed, len(range(size)[observed]) == size
        self.moved = torch.eye(size, dtype=torch.float64)
        self.scale = torch.zeros(size, dtype=torch.float64)
        self.mix = torch.eye(size, dtype=torch.float64)
        # which entries of the state reach the end at all; rounding would leave 1e-16 of a product that is 0
        self.alive = torch.ones(size, dtype=torch.bool)
        self.alive_observed = torch.zeros(size, dtype=torch.bool)
        self.alive_observed[observed] = True

    def extend(self, jacobian: Tensor) -> None:
        """M becomes M J."""
        self.moved = jacobian.T @ self.moved
        self.lost.extend(jacobian)
        if torch.linalg.vector_norm(jacobian, -inf) == 0 or not self.alive.all():
            linked = jacobian != 0
            self.alive = linked[self.alive].any(0)
            self.alive_observed = linked[self.alive_observed].any(0)
            self.moved[~self.alive] = 0
            self.lost.clear(~self.alive)
        else:
            self.alive_observed[:] = self.alive_observed.any()

    def measure(self, fresh: bool = False) -> tuple[float, Array] | None:
        """Logarithms of the norm of M[observed] and of M's k largest singular values; None where too much is lost."""
        norm, values = -inf, np.full(self.k, -inf)
        lengths = self.moved.norm(dim=0)
        if not bool(((lengths > 1e-100) & (lengths < 1e100)).all()):
            self.orthogonalise()
            lengths, fresh = torch.ones_like(self.scale), True
        lengths = self.cut(lengths)
        margin = self.margin
        while len(self.scale):
            sizes = lengths.log() + self.scale
            rows = self.rows(sizes, margin)
            leading = self.leading(lengths, rows, self.rows(sizes, 2 * margin))
            if leading is None:
                self.orthogonalise()
                lengths, fresh = self.cut(torch.ones_like(self.scale)), True
                continue
            scale, mix = leading
            found = _log_singular_values(scale, mix, min(self.k, rows))
            if rows == len(sizes) or sizes[rows:].max() < found[-1] - self.margin + 1:
                values[: len(found)] = found
                if self.observes_all:
                    norm = found[0]
                elif self.alive_observed.any():
                    norm = _log_norm(scale, mix[:, self.observed])
                break
            margin += 5
        if self.lost.size() > min(float(values[-1]), norm) - LOST:
            if fresh:
                return None
            self.orthogonalise()
            return self.measure(fresh=True)
        return norm, values

    def rows(self, sizes: Tensor, margin: float) -> int:
        """How many of the leading terms of X diag(exp(scale)) W are within e^margin of what is measured."""
        needed = sizes > sizes.topk(min(self.k, len(sizes))).values[-1] - margin
        if not self.observes_all:
            seen = sizes + self.mix[:, self.observed].norm(dim=1).log()
            needed |= seen > seen.max() - margin
        return int(needed.nonzero().max()) + 1

    def leading(self, lengths: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor] | None:
        """The first rows of R diag(exp(scale)) W, X = Q R, as logarithms of sizes and rows; None where X is too skew.

        What is left out is a small part of smaller rows, which counts by its square.
        """
        part = self.moved[:, :columns] / lengths[:columns]
        gram = part[:, :rows].T @ part
        triangle, failed = torch.linalg.cholesky_ex(gram[:, :rows], upper=True)
        if failed or triangle.diagonal().min() < SKEW:
            return None
        if columns > rows:
            rest = torch.linalg.solve_triangular(triangle.T, gram[:, rows:], upper=False)
            triangle = torch.cat([triangle, rest], 1)
        top, weights = _row_scaled(triangle, lengths[:columns].log() + self.scale[:columns])
        return top, weights @ self.mix[:columns]

    def orthogonalise(self) -> None:
        moved, growth = _unit_columns(self.moved)
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
        top, weights = _row_scaled(triangle[real], scale)
        mix, length = _unit_columns((weights @ mix).T)
        self.scale, order = (top + length).sort(descending=True)
        self.moved, self.mix = basis[:, real][:, order], mix.T[order]
        if len(self.scale):
            self.lost.absorb(self.moved, self.scale.clamp(max=self.seen(self.scale)))

    def seen(self, sizes: Tensor) -> float:
        """Logarithm of the largest term's part that counts for the norm, roughly."""
        if not self.observes_all:
            sizes = sizes + self.mix[:, self.observed].norm(dim=1).log()
        return float(sizes.max())

    def cut(self, lengths: Tensor) -> Tensor:
        """Leave out the terms, if many, that are far below all that is measured; return the lengths of those left."""
        sizes = lengths.log() + self.scale
        if not self.cuts or len(sizes) <= self.k:
            return lengths
        measured = min(float(sizes.topk(self.k).values[-1]), self.seen(sizes))
        kept = sizes > measured - CUT
        if int(kept.sum()) > 0.9 * len(kept):
            return lengths
        self.lost.add(self.moved[:, ~kept], self.scale[~kept], self.mix[~kept])
        self.moved, self.scale, self.mix = self.moved[:, kept], self.scale[kept], self.mix[kept]
        return lengths[kept]


class _Lost:
    """What was left out of M^T, as its products with a few random vectors, which have the size of its norm."""

    def __init__(self, size: int) -> None:
        self.vectors = torch.randn(size, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.moved: Tensor | None = None
        self.scale = -inf

    def extend(self, jacobian: Tensor) -> None:
        if self.moved is not None:
            self.moved = jacobian.T @ self.moved

    def clear(self, dead: Tensor) -> None:
        if self.moved is not None:
            self.moved[dead] = 0

    def size(self) -> float:
        """Logarithm of the norm, roughly, rather too large than too small."""
        if self.moved is None:
            return -inf
        largest = float(self.moved.norm(dim=0).max())
        if not largest:
            return -inf
        if not 1e-100 < largest < 1e100:
            self.moved, self.scale = self.moved / largest, self.scale + log(largest)
            largest = 1.0
        return log(largest) + self.scale

    def add(self, basis: Tensor, scale: Tensor, mix: Tensor) -> None:
        """Leave out basis diag(exp(scale)) mix."""
        top = max(self.scale, float(scale.max()))
        added = basis @ ((scale - top).exp()[:, None] * (mix @ self.vectors))
        self.moved = added if self.moved is None else self.moved * exp(self.scale - top) + added
        self.scale = top

    def absorb(self, basis: Tensor, scale: Tensor) -> None:
        """Take off what only changes terms of a graded product by less than e^-16 of their size."""
        if self.moved is None:
            return
        parts = basis.T @ self.moved
        small = parts.abs().amax(1).log() + self.scale < scale - LOST
        self.moved = self.moved - basis @ (parts * small[:, None])


def _row_scaled(triangle: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A triangle times diag(exp(scale)) as logarithms of its rows' sizes, roughly, and the rows over these."""
    rows = scale[: len(triangle)]
    if len(rows) and scale.max() - scale.min() < 600:
        return rows, triangle * (scale - scale[0]).exp() / (rows - scale[0]).exp()[:, None]
    weights = triangle.abs().log() + scale
    top = weights.amax(1) if len(rows) else rows
    return top, triangle.sign() * (weights - top[:, None]).exp()


def _log_norm(scale: Tensor, mix: Tensor) -> float:
    """Logarithm of the spectral norm of diag(exp(scale)) mix."""
    size = scale + mix.norm(dim=1).log()
    top = size.max()
    if top == -inf:
        return -inf
    rows = size > top - MARGIN
    scaled = (scale[rows] - top).exp()[:, None] * mix[rows]
    gram = scaled @ scaled.T if len(scaled) < scaled.shape[1] else scaled.T @ scaled
    return float(top + torch.linalg.eigvalsh(gram)[-1].log() / 2)


def _log_singular_values(scale: Tensor, mix: Tensor, k: int) -> Array:
    """Logarithms of the k largest singular values of diag(exp(scale)) mix, k <= rows of mix."""
    size = scale + mix.norm(dim=1).log()
    keep = size > size.topk(k).values[-1] - MARGIN
    values = _graded(scale[keep], mix[keep], k)
    if not keep.all() and size[~keep].max() > values[-1] - MARGIN + 1:
        values = _graded(scale, mix, k)
    return values


def _graded(scale: Tensor, mix: Tensor, k: int) -> Array:
    """Logarithms of the k largest singular values of diag(exp(scale)) mix."""
    size, order = (scale + mix.norm(dim=1).log()).sort(descending=True)
    span = size[0] - size[k - 1]
    if span < GRAM:
        scaled = (scale - size[0]).exp()[:, None] * mix
        squares = torch.linalg.eigvalsh(scaled @ scaled.T).flip(0)[:k]
        return np.asarray((squares.log() / 2 + size[0]).numpy())
    scale, mix = size, torch.nn.functional.normalize(mix[order], dim=1)
    if span < 2 * GRAM:
        return _log_svdvals(scale, mix)[:k]
    # two double steps of QR iteration on the graded matrix: those far apart decouple (QLP, Stewart 1999)
    for _ in range(2):
        lower = torch.linalg.qr(mix.T).R.T
        down = (scale[:, None] - scale).clamp(max=0).exp()
        mix = torch.linalg.qr(lower * down).R * down.T
    lower = torch.linalg.qr(mix.T).R.T
    return _windows(scale, lower, k)


def _windows(scale: Tensor, lower: Tensor, k: int) -> Array:
    """Logarithms of the k largest singular values of diag(exp(scale)) lower, where only values of like size couple."""
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
    bad = ~torch.linalg.vector_norm(chunk, inf, dim=(1, 2)).isfinite()
    if bad.any():
        raise InputError(f"the Jacobian of step {start + int(bad.nonzero()[0])} is not finite")
    return chunk


def _check(jacobians: StepJacobians, k: int) -> None:
    if not 1 <= k <= jacobians.size:
        raise InputError(f"`k` must be in 1 .. n = {jacobians.size}, got {k}")
