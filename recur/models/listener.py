"""The recurrent listener: frames of numbers, recurrent layers over them, one score per class."""

from dataclasses import dataclass

from torch import Tensor, nn

from recur.layers.pooling import POOLINGS, pool, pooled_size
from recur.models.config import Config
from recur.models.frames import FrameReader


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


class Listener(FrameReader):
    """Read frame by frame and score the class of the whole: the many-to-one network on numbers.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = Listener(ListenerConfig(input_size=40, classes=10, cell="gru"))
    >>> model(torch.randn(2, 30, 40), lengths=torch.tensor([30, 12])).shape
    torch.Size([2, 10])
    """

    def __init__(self, config: ListenerConfig) -> None:
        super().__init__(config.input_size, config.deltas)
        self.config = config
        self.recurrent = config.layer(
            config.cell,
            self.width,
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            # between layers only: with one layer torch.nn warns that it does nothing
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(pooled_size(config.hidden_size, config.pooling, config.directions), config.classes)

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
