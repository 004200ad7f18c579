"""The encoder-decoder: one recurrent network reads a row, another one writes one from what the first remembers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recur.errors import InputError
from recur.layers.call import run
from recur.layers.embedding import TokenEmbedding
from recur.models.decoder import Bridge, Decoder, DecoderConfig, DecoderState, Read
from recur.models.softmax import SoftmaxLoss, softmax_figures


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(DecoderConfig):
    """All that an `EncoderDecoder` is built from; `dataclasses.asdict` and `EncoderDecoderConfig(**...)` are its JSON.

    Raises:
        InputError: a value out of its range.
    """

    source_vocabulary_size: int
    """V of what is read, ids 0 (padding) and 1 (unknown) included; 0 to read vectors of `embedding_size`."""
    bidirectional: bool = True
    """Read each source from both ends."""
    shared: bool = False
    """Read sources and targets, of one vocabulary, by the same vectors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_whole(source_vocabulary_size=2 if self.source_vocabulary_size else 0)
        if self.shared and self.source_vocabulary_size != self.vocabulary_size:
            raise InputError(
                f"source_vocabulary_size must be vocabulary_size = {self.vocabulary_size} for shared vectors, "
                f"got {self.source_vocabulary_size}"
            )

    @property
    def memory_size(self) -> int:
        """K, the width of the encoder's outputs."""
        return self.hidden_size * (2 if self.bidirectional else 1)


class EncoderDecoder(nn.Module):
    """Read a source, then write a target token by token: sequence to sequence.

    The decoder starts from the encoder's final states, each layer's from its own, through a linear map and tanh;
    attention looks at the encoder's outputs. Without attention all must pass through these states (Sutskever et al.
    2014, arXiv:1409.3215); with it, it is the network of Bahdanau et al. 2014, arXiv:1409.0473, with the decoder of
    Luong et al. 2015, arXiv:1508.04025.

    A target row is read as <s> y_1 ... y_n and scored against y_1 ... y_n </s>, ids 2 and 3. `start`, `step` and
    `select` are what `recur.models.decoding` asks of a model that writes.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = EncoderDecoder(EncoderDecoderConfig(source_vocabulary_size=20, vocabulary_size=30, hidden_size=8))
    >>> source, lengths = torch.tensor([[5, 9, 0], [7, 7, 8]]), torch.tensor([2, 3])
    >>> model(source, lengths, torch.tensor([[2, 6], [2, 4]]), torch.tensor([2, 2])).shape
    torch.Size([2, 2, 30])
    """

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding: TokenEmbedding | None = None
        if config.source_vocabulary_size:
            self.embedding = TokenEmbedding(
                config.source_vocabulary_size, config.embedding_size, dropout=config.embedding_dropout
            )
        self.encoder = config.layer(
            config.cell,
            config.embedding_size,
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.decoder = Decoder(config, config.memory_size)
        if config.shared and self.embedding is not None and self.decoder.embedding is not None:
            # each reads with a dropout of its own
            self.embedding.word = self.decoder.embedding.word
        # every state of a cell is as wide as its output: no configured cell has a projection
        self.bridge = Bridge(dict.fromkeys(self.encoder.cell.state_names, config.memory_size), self.decoder.recurrent)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, source: Tensor, source_lengths: Tensor, targets: Tensor, target_lengths: Tensor, forcing: float = 1.0
    ) -> Tensor:
        """Return the logits [B, U, V] of the token after each of the targets'; of no meaning beyond a row's length.

        Args:
            source: ids, int64 [B, S], 0 for padding; or vectors [B, S, D].
            source_lengths: int64 [B] in 0..S.
            targets: ids, int64 [B, U], the first one <s>.
            target_lengths: int64 [B] in 0..U.
            forcing: probability of reading a target's token rather than the model's own, see `Decoder.read`.
        """
        return self.scores(self._read(source, source_lengths, targets, target_lengths, forcing).readout)

    def states(
        self, source: Tensor, source_lengths: Tensor, targets: Tensor, target_lengths: Tensor, forcing: float = 1.0
    ) -> Tensor:
        """Return what the scores are computed from, [N, R], at the N valid steps of the targets, row after row.

        The scores of all V tokens are most of the work: `loss` and `scores` of these leave padding out. What comes next
        is `next_tokens[next_tokens != 0]` in the same order. Arguments are those of a call.
        """
        readout = self._read(source, source_lengths, targets, target_lengths, forcing).readout
        steps = torch.arange(targets.shape[1], device=targets.device)
        return readout[steps < target_lengths.to(targets.device)[:, None]]

    def scores(self, states: Tensor) -> Tensor:
        """Return the logits [..., V] of states [..., R]."""
        scores: Tensor = self.decoder.scores(states)
        return scores

    def loss(self, states: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> SoftmaxLoss:
        """Return the mean cross entropy of targets, int64 [N], from states [N, R], and how many are scored highest.

        It is `F.cross_entropy(model.scores(states), targets)`, made part by part, so that the scores take no memory.
        """
        scores = self.decoder.scores
        return softmax_figures(states, scores.weight, scores.bias, targets, label_smoothing)

    def attention_weights(
        self, source: Tensor, source_lengths: Tensor, targets: Tensor, target_lengths: Tensor
    ) -> Tensor:
        """Return how much each step of the targets looks at each source token, [B, U, S]; rows sum to 1.

        Arguments are those of a call: for a translation, what was written after <s>.

        Raises:
            InputError: the model has no attention.
        """
        weights = self._read(source, source_lengths, targets, target_lengths, 1.0).weights
        if weights is None:
            raise InputError("`model` must have attention to have weights, got attention 'none'")
        return weights

    def start(self, source: Tensor, source_lengths: Tensor) -> DecoderState:
        """Read the sources, [B, S] or [B, S, D], and [B], and return the decoder's state before <s>."""
        if source.shape[1] == 0:
            # only empty sources: the recurrent layers want a step
            source = source.new_zeros(len(source), 1, *source.shape[2:])
        vectors = source if self.embedding is None else self.embedding(source)
        output, final = run(self.encoder, vectors, lengths=source_lengths)
        layers, directions = self.config.layers, 2 if self.config.bidirectional else 1
        both = final.map(lambda value: torch.cat(value.view(layers, directions, *value.shape[1:]).unbind(1), -1))
        return self.decoder.start(self.bridge(both), self.dropout(output), source_lengths)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one token of every row: ids, int64 [N] -> logits of the next [N, V], and the state after."""
        return self.decoder.step(tokens, state)

    def select(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """Return the state of some rows, int64 [M], in that order; a row may be named several times."""
        return state.select(rows)

    def _read(
        self, source: Tensor, source_lengths: Tensor, targets: Tensor, target_lengths: Tensor, forcing: float
    ) -> Read:
        return self.decoder.read(targets, self.start(source, source_lengths), target_lengths, forcing)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
