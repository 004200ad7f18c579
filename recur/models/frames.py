"""What networks on frames of numbers share: mean and deviation of the training part, and slopes."""

import torch
from torch import Tensor, nn

# no feature is stretched without end where it hardly varies
LEAST_DEVIATION = 1e-3


class FrameReader(nn.Module):
    """A network on frames, which brings each of their numbers to mean 0 and deviation 1.

    `mean` and `deviation` [D] are taken from the training part by `fit` and saved with the weights.

    Args:
        input_size: D, numbers of a frame.
        slopes: put the slope of each number, and the slope of that, beside it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, input_size: int, slopes: bool) -> None:
        super().__init__()
        self.slopes = slopes
        self.width = input_size * (3 if slopes else 1)
        """Numbers of a frame as `inputs` returns it."""
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("deviation", torch.ones(input_size))

    def fit(self, frames: Tensor) -> None:
        """Take mean and deviation from the frames [N, D] of the training part."""
        self.scale_by(frames.mean(0), frames.std(0, unbiased=False).clamp(min=LEAST_DEVIATION))

    def scale_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Take a mean and a deviation, [D] each."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def inputs(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return what the network reads, `[B, T, D]`, or `[B, T, 3 D]` with slopes."""
        inputs = (frames - self.mean) / self.deviation
        if not self.slopes:
            return inputs
        first = deltas(inputs, lengths)
        return torch.cat([inputs, first, deltas(first, lengths)], dim=-1)


def deltas(frames: Tensor, lengths: Tensor, reach: int = 2) -> Tensor:
    """Return the slope of each feature `[B, T, D]` in a line through 2 reach + 1 frames, the ends repeated.

    Source: Young et al., The HTK Book 3.4, equation 5.16.

    >>> deltas(torch.arange(5.0)[None, :, None], torch.tensor([5]))[0, :, 0]
    tensor([0.5000, 0.8000, 1.0000, 0.8000, 0.5000])
    """
    steps = torch.arange(frames.shape[1], device=frames.device)
    last = (lengths.to(frames.device) - 1).clamp(min=0)[:, None]
    slope = torch.zeros_like(frames)
    for n in range(1, reach + 1):
        later, earlier = torch.minimum(steps + n, last), torch.minimum((steps - n).clamp(min=0), last)
        slope = slope + n * (_at(frames, later) - _at(frames, earlier))
    return slope / (2 * sum(n * n for n in range(1, reach + 1)))


def _at(frames: Tensor, index: Tensor) -> Tensor:
    return frames.gather(1, index[..., None].expand(-1, -1, frames.shape[2]))
