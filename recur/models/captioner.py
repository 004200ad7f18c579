"""Networks that read pictures: a caption of an image or of frames, or a label for each frame."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recur.errors import InputError
from recur.models.config import Config
from recur.models.decoder import DecoderConfig, DecoderState, Read
from recur.models.one_to_many import OneToMany, OneToManyConfig
from recur.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from recur.models.vision import Vision

STRUCTURES = ["one-to-many", "encoder-decoder"]
CHANNELS = (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(DecoderConfig):
    """All that a `Captioner` is built from; `dataclasses.asdict` and `CaptionerConfig(**...)` are its JSON form.

    `embedding_size` is the width of the vectors of words and of pictures alike.

    Raises:
        InputError: a value out of its range.
    """

    structure: str = "one-to-many"
    """"one-to-many" for an image, "encoder-decoder" for frames."""
    colours: int = 1
    """C, 1 for grey, 3 for colour."""
    height: int
    """H of a picture, pixels."""
    width: int
    """W, pixels."""
    channels: Sequence[int] = CHANNELS
    """Features of each block of the convolutional network."""
    bidirectional: bool = True
    """Read frames from both ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("structure", STRUCTURES)
        self.require_whole(colours=1, height=1, width=1)


class Captioner(nn.Module):
    """Write a caption of an image, or of frames.

    An image's vector, from a convolutional network, makes the first state of a `OneToMany` (Vinyals et al. 2014,
    arXiv:1411.4555); its attention, if any, looks at the places of the last map (Xu et al. 2015, arXiv:1502.03044),
    each with a learned vector that says where it is. The vectors of frames are the source of an `EncoderDecoder`
    (Venugopalan et al. 2015, arXiv:1505.00487; with attention Yao et al. 2015, arXiv:1502.08029).

    A caption is read as <s> y_1 ... y_n and scored against y_1 ... y_n </s>, ids 2 and 3. `start`, `step` and `select`
    are what `recur.models.decoding` asks of a model that writes.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell, or pictures too small for the blocks.

    >>> model = Captioner(CaptionerConfig(height=16, width=24, vocabulary_size=9, structure="encoder-decoder"))
    >>> frames = torch.randint(256, (2, 5, 1, 16, 24), dtype=torch.uint8)
    >>> words = torch.tensor([[2, 6, 4], [2, 5, 0]])
    >>> model(frames, torch.tensor([5, 3]), words, torch.tensor([3, 2])).shape
    torch.Size([2, 3, 9])
    """

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        size, attends = config.embedding_size, config.attention != "none"
        self.vision = Vision(config.colours, config.height, config.width, config.channels, size, config.dropout)
        shared: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(DecoderConfig)}
        self.positions: nn.Parameter | None = None
        self.writer: OneToMany | EncoderDecoder
        if config.structure == "one-to-many":
            width = self.vision.channels
            places = width if attends else 0
            self.writer = OneToMany(OneToManyConfig(**shared, input_size=size, places_size=places))
            if attends:
                self.positions = nn.Parameter(torch.zeros(self.vision.places, width))
        else:
            self.writer = EncoderDecoder(
                EncoderDecoderConfig(**shared, source_vocabulary_size=0, bidirectional=config.bidirectional)
            )

    def forward(
        self, pictures: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, forcing: float = 1.0
    ) -> Tensor:
        """Return the logits [B, U, V] of the word after each of the targets'; of no meaning beyond a row's length.

        Args:
            pictures: pixels 0..255, [B, T, C, H, W]; an image is one frame.
            lengths: frames of each row, int64 [B] in 1..T.
            targets: ids, int64 [B, U], the first one <s>.
            target_lengths: int64 [B] in 0..U.
            forcing: probability of reading a target's word rather than the model's own, see `Decoder.read`.
        """
        scores: Tensor = self.writer.scores(self._read(pictures, lengths, targets, target_lengths, forcing).readout)
        return scores

    def attention_weights(self, pictures: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """Return how much each word looks at each frame [B, U, T], or at each place of an image's map [B, U, h w].

        Arguments are those of a call.

        Raises:
            InputError: the model has no attention.
        """
        weights = self._read(pictures, lengths, targets, target_lengths, 1.0).weights
        if weights is None:
            raise InputError("`model` must have attention to have weights, got attention 'none'")
        return weights

    def start(self, pictures: Tensor, lengths: Tensor) -> DecoderState:
        """Look at the pictures, [B, T, C, H, W] and [B], and return the state before <s>."""
        if isinstance(self.writer, EncoderDecoder):
            return self.writer.start(see_frames(self.vision, pictures, lengths), lengths)
        seen = self.vision(pictures[:, 0])
        places = None if self.positions is None else seen.flatten(2).transpose(1, 2) + self.positions
        return self.writer.start(self.vision.vectors(seen), places)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one word of every row: ids, int64 [N] -> logits of the next [N, V], and the state after."""
        return self.writer.step(tokens, state)

    def select(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """Return the state of some rows, int64 [M], in that order; a row may be named several times."""
        return state.select(rows)

    def _read(self, pictures: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, forcing: float) -> Read:
        return self.writer.decoder.read(targets, self.start(pictures, lengths), target_lengths, forcing)


@dataclass(frozen=True, kw_only=True)
class FrameLabellerConfig(Config):
    """All that a `FrameLabeller` is built from; `dataclasses.asdict` and `FrameLabellerConfig(**...)` are its JSON.

    Raises:
        InputError: a value out of its range.
    """

    labels: int
    """C, at least 2."""
    colours: int = 1
    """1 for grey, 3 for colour."""
    height: int
    """H of a frame, pixels."""
    width: int
    """W, pixels."""
    channels: Sequence[int] = CHANNELS
    """Features of each block of the convolutional network."""
    embedding_size: int = 256
    """Width of a frame's vector."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 256
    """Units of each layer and direction."""
    bidirectional: bool = True
    """Read frames from both ends."""
    dropout: float = 0.0
    """Share of the frames' vectors and of each layer's outputs zeroed in training."""

    def __post_init__(self) -> None:
        self.require_whole(labels=2, colours=1, height=1, width=1, embedding_size=1, layers=1, hidden_size=1)
        self.require_shares("dropout")
        self.check_remedies(self.layers)


class FrameLabeller(nn.Module):
    """Score every label at each frame: the aligned many-to-many network over pictures.

    Source: Donahue et al. 2014, arXiv:1411.4389, "activity recognition".

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell, or pictures too small for the blocks.

    >>> model = FrameLabeller(FrameLabellerConfig(height=16, width=24, labels=3))
    >>> model(torch.randint(256, (2, 5, 1, 16, 24), dtype=torch.uint8), torch.tensor([5, 3])).shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, config: FrameLabellerConfig) -> None:
        super().__init__()
        self.config = config
        size = config.embedding_size
        self.vision = Vision(config.colours, config.height, config.width, config.channels, size, config.dropout)
        self.recurrent = config.layer(
            config.cell,
            size,
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(config.hidden_size * (2 if config.bidirectional else 1), config.labels)

    def forward(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits [B, T, C]; of no meaning beyond a row's length.

        Args:
            pictures: pixels 0..255, [B, T, colours, H, W].
            lengths: frames of each row, int64 [B] in 1..T.
        """
        output, _ = self.recurrent(see_frames(self.vision, pictures, lengths), lengths=lengths)
        scores: Tensor = self.scores(self.dropout(output))
        return scores


def see_frames(vision: Vision, pictures: Tensor, lengths: Tensor) -> Tensor:
    """Return the vectors [B, T, F] of frames [B, T, C, H, W]; zeros beyond the length of each row, int64 [B]."""
    # the batch's means must not know of padding
    valid = torch.arange(pictures.shape[1], device=pictures.device) < lengths.to(pictures.device)[:, None]
    vectors = vision.vectors(vision(pictures[valid]))
    return vectors.new_zeros(*valid.shape, vectors.shape[1]).index_put((valid,), vectors)
