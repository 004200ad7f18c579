"""A causal convolution over a few steps, each feature by itself."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def short_convolution(input: Tensor, weight: Tensor) -> Tensor:
    """Return y_t = sum over i of weight_i * input_{t+i}.

    Args:
        input: [T + K - 1, .., D], beginning with the K - 1 steps before the first.
        weight: [K, D].

    >>> short_convolution(torch.ones(6, 2, 3), torch.ones(4, 3)).shape
    torch.Size([3, 2, 3])
    """
    return _ShortConvolution.apply(input, weight)  # type: ignore[no-any-return, no-untyped-call]


class _ShortConvolution(torch.autograd.Function):
    """By products of whole slices: torch's own takes [B, D, T], and its derivative by parts twice as long."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input, weight)
        steps = len(input) - len(weight) + 1
        output = input[:steps] * weight[0]
        for place in range(1, len(weight)):
            output.addcmul_(input[place : place + steps], weight[place])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        input, weight = ctx.saved_tensors
        d_input, d_weight = torch.zeros_like(input), torch.empty_like(weight)
        flat = gradient.reshape(-1, gradient.shape[-1])
        for place in range(len(weight)):
            part = slice(place, place + len(gradient))
            d_input[part].addcmul_(gradient, weight[place])
            d_weight[place] = (flat * input[part].reshape(flat.shape)).sum(0)
        return d_input, d_weight
