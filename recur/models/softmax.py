"""Cross entropy over a large vocabulary, without ever holding the scores of all positions."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# so many scores at a time: they stay in a processor's cache, and memory does not grow with the window
SCORES = 1 << 21
# of a float32, so that a loss stays finite
LEAST = 1e-38


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
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad or bias.requires_grad):
        loss: Tensor = _SoftmaxLoss.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
        return loss
    return token_losses(hidden, weight, bias, targets).mean()


@torch.no_grad()
def token_losses(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(hidden weight' + bias) at each target, [N]; arguments are those of `softmax_loss`."""
    losses = hidden.new_empty(len(hidden))
    for part in _parts(len(hidden), len(weight)):
        scores = _linear(hidden[part], weight, bias)
        losses[part] = scores.logsumexp(1) - scores.gather(1, targets[part, None])[:, 0]
    return losses


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        count = len(hidden)
        loss = hidden.new_zeros(())
        to_hidden = torch.empty_like(hidden)
        # transposed, which is how the product comes out fastest
        to_weight = weight.new_zeros(weight.shape[1], len(weight))
        to_bias = torch.zeros_like(bias)
        for part in _parts(count, len(weight)):
            given, wanted = hidden[part], targets[part, None]
            # the gradient for a score is its probability, less 1 at the target
            scores = torch.softmax(_linear(given, weight, bias), 1)
            loss -= scores.gather(1, wanted).clamp_min_(LEAST).log_().sum()
            scores.scatter_add_(1, wanted, scores.new_full(wanted.shape, -1.0))
            to_hidden[part] = _linear(scores, weight.t())
            to_weight += _linear(given.t() / count, scores.t())
            to_bias += scores.sum(0)
        ctx.save_for_backward(to_hidden / count, to_weight.t(), to_bias / count)
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors if float(gradient) == 1 else [part * gradient for part in ctx.saved_tensors]
        return (*parts, None)


def _parts(rows: int, columns: int) -> list[slice]:
    step = max(1, SCORES // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _linear(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return given [N, D] times weight [V, D] transposed, plus bias."""
    if _direct(given):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
        return result
    return torch.nn.functional.linear(given, weight, bias)


def _direct(given: Tensor) -> bool:
    # oneDNN takes the widest vectors that a processor has, MKL those that it thinks its maker's own have
    return (
        given.dtype == torch.float32
        and given.device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
