"""Cross entropy over a large vocabulary, without ever holding the scores of all positions."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from recur.compiler.target import NotCompilable, host

# so many scores at a time: they stay in a processor's cache, and memory does not grow with the window
SCORES = 1 << 21


class SoftmaxLoss(NamedTuple):
    """What `softmax_figures` returns: means over N targets."""

    loss: Tensor
    """The cross entropy with the smoothed targets; a gradient flows through this one."""
    cross_entropy: Tensor
    """-log of each target's probability, in nats."""
    right: Tensor
    """The share of the targets that nothing is scored higher than."""


def softmax_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log softmax(hidden weight' + bias) at the targets.

    It is `F.cross_entropy(F.linear(hidden, weight, bias), targets)`. Where a gradient is wanted it is computed at once,
    while a part of the scores is at hand, so that they are made once and never kept.

    Args:
        hidden: [N, D].
        weight: [V, D].
        bias: [V]; -inf for an id that is never to come.
        targets: int64 [N], in 0..V-1.

    >>> softmax_loss(torch.randn(6, 4), torch.randn(9, 4), torch.zeros(9), torch.arange(6)).shape
    torch.Size([])
    """
    return softmax_figures(hidden, weight, bias, targets).loss


def softmax_figures(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> SoftmaxLoss:
    """Return the loss of `softmax_loss` with smoothed targets, and what can be said of the scores on the way.

    Args:
        hidden, weight, bias, targets: as for `softmax_loss`; with smoothing every bias is finite.
        label_smoothing: share of each target that is spread over all V (Szegedy et al. 2015, arXiv:1512.00567, section
            7), as in `F.cross_entropy`.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad or bias.requires_grad):
        found = _Softmax.apply(hidden, weight, bias, targets, label_smoothing)  # type: ignore[no-untyped-call]
        return SoftmaxLoss(*found)
    with torch.no_grad():
        sums = [
            _Part(hidden[place], weight, bias, targets[place], label_smoothing).sums()
            for place in _parts(len(hidden), len(weight))
        ]
        return SoftmaxLoss(*_means(sums, len(hidden), hidden))


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(hidden weight' + bias) at each target, [N]; arguments are those of `softmax_loss`."""
    losses = hidden.new_empty(len(hidden))
    for part in _parts(len(hidden), len(weight)):
        losses[part] = _Part(hidden[part], weight, bias, targets[part], 0.0).losses
    return losses


class _Part:
    """The scores of some positions: their softmax, and the losses."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> None:
        # all but the last part
        self.whole = len(hidden) == _rows(len(weight))
        scores = _product(self.whole, hidden, weight, bias)
        self.targets, self.smoothing = targets[:, None], smoothing
        self.wanted, self.most = scores.gather(1, self.targets)[:, 0], scores.amax(1)
        self.mean = scores.mean(1) if smoothing else self.wanted
        self.shares = torch.softmax(scores, 1)
        # log of the sum of exp(score): the largest share is at least 1 / V, and has a logarithm
        self.total = self.most - self.shares.amax(1).log()

    @property
    def losses(self) -> Tensor:
        """-log of each target's probability."""
        return self.total - self.wanted

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of the smoothed losses, of the losses, and how many targets are scored highest."""
        losses = self.losses
        smoothed = (1 - self.smoothing) * losses + self.smoothing * (self.total - self.mean)
        return smoothed.sum(), losses.sum(), (self.wanted >= self.most).to(losses.dtype).sum()

    def gradient(self) -> Tensor:
        """Return that of the sum of the smoothed losses by the scores, in place of the softmax."""
        if self.smoothing:
            self.shares -= self.smoothing / self.shares.shape[1]
        return self.shares.scatter_add_(1, self.targets, self.shares.new_full(self.targets.shape, self.smoothing - 1))


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, ...]:
        count = len(hidden)
        to_hidden = torch.empty_like(hidden)
        # transposed, which is how the product comes out fastest
        to_weight, to_bias = weight.new_zeros(weight.shape[1], len(weight)), torch.zeros_like(bias)
        sums = []
        for place in _parts(count, len(weight)):
            part = _Part(hidden[place], weight, bias, targets[place], smoothing)
            sums.append(part.sums())
            gradient = part.gradient()
            to_hidden[place] = _product(part.whole, gradient, weight.t())
            to_weight += _product(part.whole, hidden[place].t() / count, gradient.t())
            to_bias += gradient.sum(0)
        ctx.save_for_backward(to_hidden / count, to_weight.t(), to_bias / count)
        means = _means(sums, count, hidden)
        ctx.mark_non_differentiable(*means[1:])
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors if float(gradient) == 1 else [part * gradient for part in ctx.saved_tensors]
        return (*parts, None, None)


def _means(sums: list[tuple[Tensor, Tensor, Tensor]], count: int, like: Tensor) -> tuple[Tensor, ...]:
    # of nothing the mean is NaN, as everywhere in torch
    total = torch.stack([torch.stack(each) for each in sums]).sum(0) if sums else like.new_zeros(3)
    return tuple(value.clone() for value in total / count)


def _product(whole: bool, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [N, D] times weight [V, D] transposed, plus bias [V]; any of them may be a transposed view.

    torch multiplies float32 with MKL, which on processors of AMD takes twice as long as oneDNN, which torch has too.
    But oneDNN keeps more than twice the weight for each shape that it has met, so that only whole parts go there.
    """
    if whole and x.dtype == weight.dtype == torch.float32 and x.is_cpu and _slow_blas():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


@lru_cache(maxsize=1)
def _slow_blas() -> bool:
    """Whether torch's matrix products are MKL's on a processor of AMD, and oneDNN is there."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    try:
        # what torch.compile turns a linear map into
        return host().cpu.startswith(("znver", "bdver", "btver")) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    except NotCompilable:
        return False


def _parts(rows: int, columns: int) -> list[slice]:
    step = _rows(columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _rows(columns: int) -> int:
    """Return how many rows of scores a whole part has."""
    return max(1, SCORES // columns)
