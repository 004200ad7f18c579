"""The largest singular values of many matrices that resemble each other."""

from math import exp, inf

import torch
from torch import Tensor

# up to this size all singular values are cheap
SMALL = 128
# rounding of the squares, 1e-16 of the largest, is 1e-10 of one that is e^7 smaller, that of the values at e^14
GRAM = 7.0
# steps whose directions are iterated together
BATCH = 8
# the degree of the filter, and how often it is applied at most
DEGREE, ROUNDS = 4, 5


class Subspace:
    """The k largest singular values of matrices [m, n] that resemble those before them, right to `error`, relative."""

    def __init__(self, size: int, k: int, error: float = 1e-4) -> None:
        self.size, self.k, self.error = size, k, error
        # directions drawn anew for each batch, and all that are iterated
        self.fresh, self.width = max(k, 4), k + 3 * max(k, 4)
        self.iterates = size > SMALL and 4 * self.width <= size
        self.random = torch.Generator().manual_seed(0)
        if self.iterates:
            self.start()

    def start(self) -> None:
        """Forget the matrices before."""
        self.basis = torch.randn(self.size, self.width, generator=self.random)
        self.squares = torch.ones(self.width)

    def __call__(self, matrices: Tensor) -> Tensor:
        """The k largest singular values of each of the matrices [N, m, n], [N, k]."""
        if not self.iterates:
            return _largest(matrices.double(), self.k)
        scale = torch.linalg.vector_norm(matrices, inf, dim=(1, 2))
        scaled = torch.empty(matrices.shape, dtype=torch.float32)
        torch.mul(matrices, (1 / torch.where(scale > 0, scale, 1))[:, None, None], out=scaled)
        # a direction that no earlier step had is only found from random ones
        fresh = torch.randn(self.size, self.fresh, generator=self.random) / self.size**0.5
        basis = torch.cat([self.basis[:, : -self.fresh], fresh], 1).expand(len(matrices), -1, -1)
        squares = self.squares.expand(len(matrices), -1)
        for _ in range(ROUNDS):
            basis = _filtered(scaled, basis, torch.maximum(squares[:, -self.fresh], 0.05 * squares[:, 0]))
            lengths = torch.linalg.vector_norm(basis, dim=1, keepdim=True)
            if not bool(((lengths > 0) & lengths.isfinite()).all()):
                self.start()
                return _largest(matrices.double(), self.k)
            basis, squares, errors = _ritz(scaled, basis / lengths, self.k)
            if bool((errors < self.error).all()):
                break
        self.basis, self.squares = basis[-1], squares[-1]
        values: Tensor = squares[:, : self.k].double().clamp(min=0).sqrt() * scale[:, None]
        wrong = ~(errors < self.error) | (values[:, -1] < values[:, 0] * exp(-GRAM / 2))
        if wrong.any():
            values[wrong] = _largest(matrices[wrong].double(), self.k)
        return values


def _filtered(matrices: Tensor, basis: Tensor, bound: Tensor) -> Tensor:
    """A Chebyshev polynomial of J^T J on a basis, which damps what is below the bounds [N]."""
    half = bound.clamp(min=1e-30)[:, None, None] / 2
    before, now = basis, (matrices.mT @ (matrices @ basis)) / half - basis
    for _ in range(DEGREE - 1):
        before, now = now, 2 * ((matrices.mT @ (matrices @ now)) / half - now) - before
    return now


def _ritz(matrices: Tensor, basis: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz vectors and values of J^T J, the largest first, and bounds of the relative errors of the first k, [N]."""
    basis = torch.linalg.qr(basis).Q
    image = matrices @ basis
    squares, turn = torch.linalg.eigh(image.mT @ image)
    squares, turn = squares.flip(1), turn.flip(2)
    basis = basis @ turn
    top = squares[:, :k]
    rest = matrices.mT @ (image @ turn[:, :, :k]) - basis[:, :, :k] * top[:, None]
    rest = torch.linalg.vector_norm(rest, dim=1)
    gap = top - squares[:, (k + squares.shape[1]) // 2, None]
    errors = torch.minimum(rest, rest.square() / gap.clamp(min=1e-30)) / top
    return basis, squares, errors.amax(1) / 2


def _largest(matrices: Tensor, k: int) -> Tensor:
    """The k largest singular values of each of the matrices [N, n, n]."""
    scale = torch.linalg.vector_norm(matrices, inf, dim=(1, 2))
    scaled = matrices / torch.where(scale > 0, scale, 1)[:, None, None]
    squares = torch.linalg.eigvalsh(scaled @ scaled.mT).flip(1)[:, :k]
    values: Tensor = squares.clamp(min=0).sqrt() * scale[:, None]
    small = values[:, -1] < values[:, 0] * exp(-GRAM)
    values[small] = torch.linalg.svdvals(matrices[small])[:, :k]
    return values
