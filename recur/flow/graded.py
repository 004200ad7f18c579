"""Products of many matrices in graded form, and their singular values in logarithms."""

from math import inf

import numpy as np
import torch
from torch import Tensor

from recur.flow.result import Array
from recur.flow.subspace import GRAM

# rows e^-11 below a singular value change it by e^-22, 3e-10
MARGIN = 11.0
# a column's part that is not in those before it
SKEW = 0.1
ROUNDING = float(torch.finfo(torch.float64).eps)


class Product:
    """M^T of a product M as X diag(exp(scale)) W: columns of X that are far from dependent, rows of W of norm 1.

    M grows on its right, M J, which is J^T on the left of X. Before its columns turn to each other, X becomes a Q of
    orthonormal columns by a QR that works on the largest first: a row of W is only added to rows that weigh as much or
    more, so that what little a small singular value holds is not drowned.
    """

    def __init__(self, size: int, k: int, observed: slice) -> None:
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
        if torch.linalg.vector_norm(jacobian, -inf) == 0 or not self.alive.all():
            linked = jacobian != 0
            self.alive = linked[self.alive].any(0)
            self.alive_observed = linked[self.alive_observed].any(0)
            self.moved[~self.alive] = 0
        else:
            self.alive_observed[:] = self.alive_observed.any()

    def measure(self) -> tuple[float, Array]:
        """Logarithms of the norm of M[observed] and of M's k largest singular values."""
        norm, values = -inf, np.full(self.k, -inf)
        lengths = self.moved.norm(dim=0)
        if not bool(((lengths > 1e-100) & (lengths < 1e100)).all()):
            self.orthogonalise()
            lengths = torch.ones_like(self.scale)
        margin = MARGIN
        while len(self.scale):
            sizes = lengths.log() + self.scale
            rows = self.rows(sizes, margin)
            leading = self.leading(lengths, rows, self.rows(sizes, 2 * margin))
            if leading is None:
                self.orthogonalise()
                lengths = torch.ones_like(self.scale)
                continue
            scale, mix = leading
            found = log_singular_values(scale, mix, min(self.k, rows))
            if rows == len(sizes) or sizes[rows:].max() < found[-1] - MARGIN + 1:
                values[: len(found)] = found
                if self.observes_all:
                    norm = found[0]
                elif self.alive_observed.any():
                    norm = _log_norm(scale, mix[:, self.observed])
                break
            margin += 5
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
        """Make the columns of X orthonormal, the largest first."""
        moved, growth = unit_columns(self.moved)
        order = (growth + self.scale).argsort(descending=True)
        scale, mix = (growth + self.scale)[order], self.mix[order]
        basis, triangle = torch.linalg.qr(moved[:, order])
        kept = without_noise(triangle).log() + scale
        for _ in range(8):
            order = kept.argsort(descending=True)
            if bool((kept[order] <= kept + 5).all()):
                break
            scale, mix = scale[order], mix[order]
            turn, triangle = torch.linalg.qr(triangle[:, order])
            basis = basis @ turn
            kept = without_noise(triangle).log() + scale
        real = kept > -inf
        real[int(self.alive.sum()) :] = False
        top, weights = _row_scaled(triangle[real], scale)
        mix, length = unit_columns((weights @ mix).T)
        self.scale, order = (top + length).sort(descending=True)
        self.moved, self.mix = basis[:, real][:, order], mix.T[order]


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


def log_singular_values(scale: Tensor, mix: Tensor, k: int) -> Array:
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


def unit_columns(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of norm 1, and the logarithms of what their norms were, from -inf to beyond those of 1e308."""
    largest = columns.abs().amax(0)
    columns = columns / torch.where(largest > 0, largest, 1)
    length = columns.norm(dim=0)
    return columns / torch.where(largest > 0, length, 1), largest.log() + torch.where(largest > 0, length, 1).log()


def without_noise(triangle: Tensor) -> Tensor:
    """|r_ii|, 0 where that is what rounding leaves of a column that is a combination of those before it."""
    diagonal, lengths = triangle.diagonal().abs(), triangle.norm(dim=0)
    return torch.where(diagonal > 2 * ROUNDING * len(triangle) ** 0.5 * lengths, diagonal, 0.0)
