"""Spectra of the products of large Jacobians at some lags, without a Jacobian being made."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.flow.graded import log_singular_values
from recur.flow.result import Array
from recur.flow.spectrum import batch_means, between
from recur.flow.subspace import Subspace

# a lag is a fifth further back than the one before, and a step
FURTHER = 5
# so many steps are measured, evenly spread
STEPS = 8
# terms e^-5 below all that is measured are left out while what becomes of them stays e^-2 below; both count squared
CUT, LOST = 5.0, 2.0
# the first lag at which terms are left out, and steps after which they are made orthogonal again at the latest
FIRST, APART = 4, 16
# what is left of a row after those before it, above rounding
REAL = 1e-4
# singular values in this range are found by iteration in float32
RANGE = 3.0
# of singular values that are measured, relative
ERROR = 1e-3


class Backward(Protocol):
    """The steps of one row, for t = 0 .. steps - 1.

    Args:
        steps: T.
        size: n, the number of entries of the state.
    """

    steps: int
    size: int

    def back(self, rows: Tensor, step: int) -> Tensor:
        """Return rows [r, n] times ds_t/ds_{t-1} of a step."""
        ...


class Spectra(NamedTuple):
    """`log_norm` [T] and `log_values` [T, k] of products, `step_values` [T, k], exponents and their errors [k]."""

    log_norm: Array
    log_values: Array
    step_values: Array
    exponents: Array
    errors: Array


def sampled_spectra(jacobians: Backward, k: int, observed: slice) -> Spectra | None:
    """Measure what `product_spectrum`, `step_spectrum` and `lyapunov` do, in float32 and at some lags and steps.

    A product is kept as orthonormal columns times rows, made orthogonal again by two QR (the QLP of Stewart 1999, SIAM
    J. Sci. Comput. 20), of which those that are small beside what is measured are left out; random combinations of
    these show whether they stay small (Halko et al. 2011, SIAM Review 53(2), 4.3). Rows go back a step by the slopes of
    its equation. Exponents are those of k rows that go back with them, which are the same in the long run.

    Returns:
        the spectra; None where float32 cannot tell them or too much was left out.
    """
    lags = sampled_lags(jacobians.steps)
    product = _Leading(jacobians.size, k, observed)
    riders = _Riders(jacobians, k)
    found = [np.zeros(1 + k)]
    for lag in range(1, jacobians.steps):
        rows = jacobians.back(torch.cat([riders.rows, product.lost, product.rows]), jacobians.steps - lag)
        riders.rows, product.lost, product.rows = torch.split(rows, [k, len(product.lost), len(product.rows)])
        riders.advance()
        if product.orthogonal + min(max(lag // 2, FIRST), APART) <= lag and not product.orthogonalise(lag):
            return None
        if lag in lags:
            measured = product.measure(lag)
            if measured is None:
                return None
            found.append(measured)
    chosen = jacobians.steps - 1 - np.array(lags[::-1])
    # between them products grow and shrink as the riders do
    path = riders.path(np.arange(jacobians.steps - 1, -1, -1))[:, None]
    logs = between(chosen, np.array(found[::-1]) - path[chosen], jacobians.steps) + path
    logs[-1] = 0
    values = _steps(jacobians, k)
    return None if values is None else Spectra(logs[:, 0], logs[:, 1:], values, *riders.exponents())


def sampled_lags(steps: int) -> list[int]:
    """Return the lags that are measured, from 0 to steps - 1."""
    lags, lag = [0], 1
    while lag < steps - 1:
        lags.append(lag)
        lag += 1 + lag // FURTHER
    return [*lags, steps - 1] if steps > 1 else lags


def _steps(jacobians: Backward, k: int) -> Array | None:
    chosen = np.unique(np.linspace(0, jacobians.steps - 1, STEPS).round().astype(np.int64))
    unit, largest = torch.eye(jacobians.size), Subspace(jacobians.size, k, ERROR)
    found = []
    for step in chosen:
        matrix = jacobians.back(unit, int(step))
        if not bool(matrix.isfinite().all()):
            return None
        found.append(largest(matrix[None]))
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(between(chosen, np.log(torch.cat(found).numpy()), jacobians.steps)))


class _Leading:
    """A product M as left diag(exp(scale)) rows, the columns of `left` orthonormal, without terms that are small."""

    def __init__(self, size: int, k: int, observed: slice) -> None:
        self.k, self.observed, self.observes_all = k, observed, len(range(size)[observed]) == size
        self.rows, self.left = torch.eye(size), torch.eye(size)
        self.scale = torch.zeros(size, dtype=torch.float64)
        # random combinations of what was left out, over exp(scale[0])
        self.random = torch.Generator().manual_seed(0)
        self.lost = torch.zeros(4, size)
        self.orthogonal = 0
        self.values = Subspace(size, k, ERROR)
        self.norm = Subspace(len(range(size)[observed]), 1, ERROR)

    def orthogonalise(self, lag: int) -> bool:
        """Make the rows orthogonal and leave out small ones; False where rounding may have the better of them."""
        self.orthogonal = lag
        precision = torch.float32 if len(self.rows) > 256 else torch.float64
        lengths = self.lengths()
        if lengths is None:
            return False
        top, scale = float(self.scale[0]), self.scale + lengths.log()
        scale, order = scale.sort(descending=True)
        rows = (self.rows / lengths.float()[:, None])[order].to(precision)
        basis, upper = torch.linalg.qr(rows.T)
        sizes = (scale - scale[0]).exp()[:, None].to(precision)
        turn, upper = torch.linalg.qr(sizes * upper.T)
        new = torch.linalg.vector_norm(upper, dim=1).double().log() + scale[0]
        left = self.left[:, order] @ turn.float()
        new, order = new.sort(descending=True)
        left, upper = left[:, order], upper[order]
        kept = new > new[self.k - 1] - CUT
        if not self.observes_all:
            seen = new + torch.linalg.vector_norm(left[self.observed], dim=0).log()
            kept |= seen > seen.max() - CUT
        if float(new[self.k - 1] - new[0]) < -80 or bool((new[kept] < (scale[kept] + np.log(REAL))).any()):
            return False
        rows = ((upper / (new - scale[0]).exp()[:, None].to(precision)) @ basis.T).float()
        weights = (new[~kept] - new[0]).exp().float() * torch.randn(4, int((~kept).sum()), generator=self.random)
        lost = self.lost * float(np.exp(top - float(new[0]))) + weights @ rows[~kept]
        # what only changes what is kept by the square of e^-LOST
        parts = lost @ rows[kept].T
        small = parts.abs().amax(0).double().log() + new[0] < new[kept] - LOST
        self.lost = lost - (parts * small) @ rows[kept]
        self.rows, self.left, self.scale = rows[kept], left[:, kept], new[kept]
        if len(self.rows) != self.values.size:
            self.values = Subspace(len(self.rows), self.k, ERROR)
        return True

    def lengths(self) -> Tensor | None:
        """Norms of the rows, which are above 0, [r]; None where there are fewer than k or float32 cannot hold them."""
        lengths: Tensor = torch.linalg.vector_norm(self.rows, dim=1).double()
        if not bool(lengths.all()):
            kept = lengths > 0
            self.rows, self.left, self.scale, lengths = (
                self.rows[kept],
                self.left[:, kept],
                self.scale[kept],
                lengths[kept],
            )
            self.values = Subspace(len(lengths), self.k, ERROR)
        if len(lengths) < self.k or not bool(((lengths > 1e-18) & (lengths < 1e18)).all()):
            return None
        return lengths

    def measure(self, lag: int) -> Array | None:
        """Logarithms of the norm of M[observed] and of M's k largest singular values; None where too much is lost."""
        lengths = self.lengths()
        if lengths is None:
            return None
        sizes = lengths.log() + self.scale
        top = float(sizes.max())
        matrix = (self.scale - top).exp().float()[:, None] * self.rows
        if top - float(sizes.topk(self.k).values[-1]) < RANGE and self.values.iterates:
            values = np.log(self.values(matrix.T[None])[0].numpy()) + top
        else:
            values = log_singular_values(sizes, self.rows.double() / lengths[:, None], self.k)
        norm = float(values[0])
        if not self.observes_all:
            norm = float(self.norm((self.left[self.observed] @ matrix).T[None])[0, 0].log()) + top
        lost = float(torch.linalg.vector_norm(self.lost, dim=1).max().log() + self.scale[0])
        if lost > min(float(values[-1]), norm) - LOST:
            return self.measure(lag) if self.orthogonal < lag and self.orthogonalise(lag) else None
        return np.array([norm, *values])


class _Riders:
    """k rows that go back through all steps, and how much they grow."""

    def __init__(self, jacobians: Backward, k: int) -> None:
        start = torch.randn(jacobians.size, k, generator=torch.Generator().manual_seed(0))
        self.rows = torch.linalg.qr(start).Q.T
        self.apart = max(1, min(4, jacobians.steps // 50))
        self.waited, self.growth = 0, list[Tensor]()

    def advance(self) -> None:
        """Look at the rows after a step."""
        self.waited += 1
        if self.waited == self.apart:
            basis, triangle = torch.linalg.qr(self.rows.T)
            self.rows = basis.T
            self.growth.append(triangle.diagonal().abs().double().log() / self.apart)
            self.waited = 0

    def path(self, lags: NDArray[np.int64]) -> Array:
        """Return the mean logarithm of how much the rows grew by each of the lags."""
        growth = self.apart * torch.stack(self.growth).mean(1).numpy()
        known = np.concatenate([[0.0], growth, growth[-1:]]).cumsum()
        return np.interp(lags, self.apart * np.arange(len(known)), np.where(np.isfinite(known), known, 0))

    def exponents(self) -> tuple[Array, Array]:
        """Return the exponents, largest first, and their standard errors."""
        return batch_means(torch.stack(self.growth).numpy())
