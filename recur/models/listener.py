"""The recurrent listener: frames of numbers, recurrent layers over them, one score per class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recur.layers.pooling import POOLINGS, pool, pooled_size
from recur.models.config import Config

# no feature is stretched without end where it hardly varies
LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class ListenerConfig(Config):
    """All that a `Listener` is built from; `dataclasses.asdict` and `ListenerConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    input_size: int
    """D, numbers of a frame."""
    classes: int
    """C, at least 2."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """H, units of each layer and direction."""
    bidirectional: bool = False
    """Read the frames from both ends."""
    deltas: bool = False
    """Put the slope of each number, and the slope of that, beside it."""
    pooling: str = "concat"
    """"last", "mean", "max", or "concat" for all three."""
    dropout: float = 0.0
    """Share of the outputs zeroed in training after every layer, before the scores too."""

    def __post_init__(self) -> None:
        self.require_whole(input_size=1, classes=2, layers=1, hidden_size=1)
        self.require_shares("dropout")
        self.require_choice("pooling", POOLINGS)
        self.check_remedies(self.layers)

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1


class Listener(nn.Module):
    """Read frame by frame and score the class of the whole: the many-to-one network on numbers.

    The frames are brought to mean 0 and deviation 1 by `mean` and `deviation` [D], which `fit` takes from the training
    part and which are saved with the weights.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = Listener(ListenerConfig(input_size=40, classes=10, cell="gru"))
    >>> model(torch.randn(2, 30, 40), lengths=torch.tensor([30, 12])).shape
    torch.Size([2, 10])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: ListenerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.input_size))
        self.register_buffer("deviation", torch.ones(config.input_size))
        self.recurrent = config.layer(
            config.cell,
            config.input_size * (3 if config.deltas else 1),
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            # between layers only: with one layer torch.nn warns that it does nothing
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(pooled_size(config.hidden_size, config.pooling, config.directions), config.classes)

    def fit(self, frames: Tensor) -> None:
        """Take mean and deviation from the frames [N, D] of the training part."""
        self.mean.copy_(frames.mean(0))
        self.deviation.copy_(frames.std(0, unbiased=False).clamp(min=LEAST_DEVIATION))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits `[B, C]`.

        Args:
            frames: `[B, T, D]`.
            lengths: int64 `[B]` in 1..T.
        """
        output, _ = self.recurrent(self.inputs(frames, lengths), lengths=lengths)
        pooled = pool(output, lengths, self.config.pooling, self.config.directions)
        scores: Tensor = self.scores(self.dropout(pooled))
        return scores

    def inputs(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return what the recurrent layers read, `[B, T, D]`, or `[B, T, 3 D]` with deltas."""
        inputs = (frames - self.mean) / self.deviation
        if not self.config.deltas:
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
