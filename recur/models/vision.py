"""A small convolutional network: pictures to maps of features, and to a vector each."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from recur.errors import InputError

# no colour is stretched without end where it hardly varies
LEAST_DEVIATION = 1.0


class Vision(nn.Module):
    """See pictures: blocks of a 3 x 3 convolution, 2 x 2 maximum pooling, batch normalisation and ReLU.

    Pixels are brought to mean 0 and deviation 1 by `mean` and `deviation` [C, 1, 1], which `fit` takes from the
    training part and which are saved with the weights.

    Args:
        colours: C, 1 or 3.
        height, width: of a picture, pixels.
        channels: features of each block; each halves height and width, rounded up.
        size: F, the width of a picture's vector.
        dropout: share of the vector zeroed in training.

    Raises:
        InputError: a picture of which one place would be left.

    >>> see = Vision(1, 28, 60, [8, 16], 32)
    >>> seen = see(torch.randint(256, (5, 1, 28, 60), dtype=torch.uint8))
    >>> seen.shape, see.vectors(seen).shape
    (torch.Size([5, 16, 7, 15]), torch.Size([5, 32]))
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, colours: int, height: int, width: int, channels: Sequence[int], size: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(colours, 1, 1))
        self.register_buffer("deviation", torch.ones(colours, 1, 1))
        self.blocks = nn.Sequential(*(_block(*pair) for pair in zip([colours, *channels], channels, strict=False)))
        # pictures with the colours of a pixel side by side are seen in half the time on processors
        self.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.blocks_shape = (colours, *channels)
        self.channels, halved = channels[-1], 2 ** len(channels)
        self.rows, self.columns = -(-height // halved), -(-width // halved)
        # one place of one picture has no deviation to be normalised by
        if self.places < 2:
            raise InputError(
                f"a picture must be more than {halved} pixels high or wide for {len(channels)} blocks, "
                f"got {height} x {width}"
            )
        self.vector = nn.Linear(self.channels * self.places, size)
        self.dropout = nn.Dropout(dropout)

    @property
    def places(self) -> int:
        """Of a map: h w."""
        return int(self.rows * self.columns)

    @torch.no_grad()
    def fit(self, pixels: Iterable[Tensor]) -> None:
        """Take mean and deviation of each colour from the training part, pixels [N, C, H, W] in one or more tensors."""
        sums, count = torch.zeros(2, len(self.mean), dtype=torch.float64), 0
        for part in pixels:
            values = part.to(torch.float64)
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
            count += values[:, 0].numel()
        mean, square = sums / count
        self.mean.copy_(mean[:, None, None])
        self.deviation.copy_((square - mean**2).clamp(min=0).sqrt().clamp(min=LEAST_DEVIATION)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the maps [N, K, h, w] of pictures [N, C, H, W], 0..255."""
        values = (pixels.to(self.mean.dtype) - self.mean) / self.deviation
        seen: Tensor = self.blocks(values.contiguous(memory_format=torch.channels_last))
        return seen

    def vectors(self, seen: Tensor) -> Tensor:
        """Return the vectors [N, F] of maps."""
        vectors: Tensor = self.dropout(torch.relu(self.vector(seen.flatten(1))))
        return vectors


def _block(before: int, after: int) -> nn.Sequential:
    # the normalisation has a bias of its own, and a quarter of the work behind the pooling
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2, ceil_mode=True), _Norm(after), nn.ReLU())


class _Norm(nn.BatchNorm2d):
    """Batch normalisation whose running means are those of the last hundreds of batches: frames of a clip are alike."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            self.momentum = max(0.01, 1 / (int(self.num_batches_tracked or 0) + 1))
        return super().forward(input)
