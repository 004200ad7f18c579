"""The recurrent transcriber: frames of sound, recurrent layers over them, scores of every unit at each step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.models.config import Config
from recur.models.frames import FrameReader


@dataclass(frozen=True)
class TranscriberConfig(Config):
    """All that a `Transcriber` is built from; `dataclasses.asdict` and `TranscriberConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    input_size: int
    """D, numbers of a frame."""
    units: int
    """C, the blank included, whose id is 0."""
    stack: int = 1
    """Frames that are read side by side in one step."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """H, units of each layer and direction."""
    bidirectional: bool = True
    """Read the frames from both ends."""
    deltas: bool = False
    """Put the slope of each number, and the slope of that, beside it."""
    dropout: float = 0.0
    """Share of the outputs zeroed in training after every layer, before the scores too."""

    def __post_init__(self) -> None:
        self.require_whole(input_size=1, units=2, stack=1, layers=1, hidden_size=1)
        self.require_shares("dropout")
        self.check_remedies(self.layers)

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1


class Transcriber(FrameReader):
    """Read frames and score every unit and the blank at each step, for `ctc_losses` and the searches of `models.ctc`.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = Transcriber(TranscriberConfig(input_size=40, units=17, stack=2))
    >>> model(torch.randn(2, 31, 40), lengths=torch.tensor([31, 12])).shape
    torch.Size([2, 16, 17])
    """

    def __init__(self, config: TranscriberConfig) -> None:
        super().__init__(config.input_size, config.deltas)
        self.config = config
        self.recurrent = config.layer(
            config.cell,
            self.width * config.stack,
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            # between layers only: with one layer torch.nn warns that it does nothing
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(config.hidden_size * config.directions, config.units)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits `[B, T', C]`, T' being the steps of the longest row.

        Args:
            frames: `[B, T, D]`.
            lengths: int64 `[B]` in 1..T.
        """
        inputs = self.inputs(frames, lengths)
        inside = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
        # what fills the last step up is the mean
        inputs = inputs * inside[..., None]
        inputs = F.pad(inputs, (0, 0, 0, -inputs.shape[1] % self.config.stack))
        inputs = inputs.reshape(len(inputs), -1, inputs.shape[2] * self.config.stack)
        output, _ = self.recurrent(inputs, lengths=self.steps(lengths))
        scores: Tensor = self.scores(self.dropout(output))
        return scores

    def steps(self, lengths: Tensor) -> Tensor:
        """Return how many steps frames make, int64 as `lengths`."""
        return (lengths + self.config.stack - 1) // self.config.stack
