"""The recurrent language model: the tokens so far to scores of the next one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import _register_namedtuple

from recur.errors import InputError
from recur.layers.embedding import TokenEmbedding
from recur.layers.ttt import TTTLinear
from recur.models.config import Config
from recur.models.softmax import softmax_loss, token_losses
from recur.stream import as_rows

# layers' states, each as the layer takes it
Carried = tuple[Any, ...]


@dataclass(frozen=True)
class LanguageConfig(Config):
    """All that a `LanguageModel` is built from; `dataclasses.asdict` and `LanguageConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    vocabulary_size: int
    """V, ids 0 (never read or foretold) and 1 (unknown) included."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`, or ttt, see `recur.TTTLinear`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """H, units of each layer."""
    embedding_size: int | None = None
    """D, the width of the tokens' vectors; none for H."""
    tied: bool = False
    """Score a token by the vector that it is read with."""
    word_dropout: float = 0.0
    """Share of the vocabulary whose vectors are zeroed for a window, in training."""
    embedding_dropout: float = 0.0
    """Share of the vectors' features zeroed in training, the same ones all along a window."""
    dropout: float = 0.0
    """Share of a layer's outputs zeroed before the next layer reads them, in training, all along a window."""
    output_dropout: float = 0.0
    """Share of the last layer's outputs zeroed before the scores, in training, all along a window."""
    heads: int = 8
    """Of the cell ttt: its inner models, of H / heads features each."""
    mini_batch: int = 16
    """Of the cell ttt: tokens whose inner gradients are taken at the same weights."""

    def __post_init__(self) -> None:
        self.require_whole(vocabulary_size=3, layers=1, hidden_size=1)
        if self.embedding_size is not None:
            self.require_whole(embedding_size=1)
        self.require_shares("word_dropout", "embedding_dropout", "dropout", "output_dropout")
        self.check_remedies(self.layers)
        if self.cell == "ttt":
            self.check_no_cell(self.cell)


class Read(NamedTuple):
    """What a `LanguageModel` returns."""

    hidden: Tensor
    """What the scores are made of, [B, T, H], after dropout."""
    output: Tensor
    """The last layer's outputs, [B, T, H]."""
    state: Carried
    """After the last step; it belongs before the next window."""


_register_namedtuple(Read, serialized_type_name="recur.models.language.Read")


class LanguageModel(nn.Module):
    """Read tokens one by one and score which comes next (Mikolov et al. 2010).

    Dropout is locked: one mask for all steps of a window (Gal and Ghahramani 2016, arXiv:1512.05287), on the inputs,
    between layers and on the outputs. With `tied` the scores use the tokens' own vectors (Press and Wolf 2017,
    arXiv:1608.05859). Both, and `word_dropout`, as in Merity et al. 2017, arXiv:1708.02182.

    Args:
        config: the sizes and options.

    Raises:
        InputError: an unknown cell.

    >>> model = LanguageModel(LanguageConfig(vocabulary_size=30, cell="gru"))
    >>> read = model(torch.tensor([[5, 9, 2], [7, 7, 8]]))
    >>> model.scores(read.hidden).shape, model.loss(read.hidden, torch.tensor([[9, 2, 3], [7, 8, 4]])).shape
    (torch.Size([2, 3, 30]), torch.Size([]))
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        size, hidden = config.embedding_size or config.hidden_size, config.hidden_size
        self.embedding = TokenEmbedding(config.vocabulary_size, size, dropout=config.embedding_dropout)
        # one by one, for a mask of its own between each two
        self.layers = nn.ModuleList(_layer(config, hidden if number else size) for number in range(config.layers))
        # all but id 0, which never comes
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size - 1))
        self.projection = nn.Linear(hidden, size) if config.tied and size != hidden else nn.Identity()
        self.weight: nn.Parameter | None = None
        if not config.tied:
            self.weight = nn.Parameter(torch.empty(config.vocabulary_size, hidden))
            nn.init.uniform_(self.weight, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def forward(self, tokens: Tensor, state: Carried | None = None) -> Read:
        """Read a window.

        Args:
            tokens: ids, int64 [B, T].
            state: what the window before ended with; zeros if None.
        """
        config = self.config
        values = self._vectors(tokens).transpose(0, 1)
        after = []
        for number, layer in enumerate(self.layers):
            given = _locked(values, config.dropout, self.training) if number else values
            output, last = layer(given, state[number] if state else None)
            values = values + output if config.residual and number else output
            after.append(last)
        output = values.transpose(0, 1)
        return Read(_locked(values, config.output_dropout, self.training).transpose(0, 1), output, tuple(after))

    def _vectors(self, tokens: Tensor) -> Tensor:
        share = self.config.word_dropout
        if not self.training or not share:
            return self.embedding(tokens)  # type: ignore[no-any-return]
        dropped = torch.rand(self.config.vocabulary_size, device=tokens.device) < share
        # id 0 stands for no word, and its vector is zero
        return self.embedding(tokens.masked_fill(dropped[tokens], 0)) / (1 - share)  # type: ignore[no-any-return]

    def scores(self, hidden: Tensor) -> Tensor:
        """Return the logits [.., V] of `hidden` [.., H]; -inf for id 0."""
        weight, bias = self._output()
        return nn.functional.linear(self.projection(hidden), weight, bias)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy, in nats, of `targets` [B, T] from `hidden` [B, T, H]."""
        return softmax_loss(self.projection(hidden).flatten(0, -2), *self._output(), targets.flatten())

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return -log of each target's probability, in nats, [B, T], without gradient."""
        found = token_losses(self.projection(hidden).flatten(0, -2), *self._output(), targets.flatten())
        return found.view(targets.shape)

    def _output(self) -> tuple[Tensor, Tensor]:
        weight = self.weight if self.weight is not None else self.embedding.word.weight  # type: ignore[union-attr]
        return weight, torch.cat([self.bias.new_full((1,), -math.inf), self.bias])

    @torch.no_grad()
    def start_at(self, counts: Tensor) -> None:
        """Begin with the frequencies of the tokens: `counts` [V] of the training part go into the bias."""
        shares = (counts[1:].double() + 1).log()
        self.bias.copy_(shares - shares.logsumexp(0))

    def stream(self, batch: int = 1) -> "LanguageStream":
        """Return a stream that reads `batch` texts token by token and scores what comes next.

        Raises:
            InputError: the model is not in evaluation.
        """
        return LanguageStream(self, batch)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def _locked(values: Tensor, share: float, training: bool) -> Tensor:
    """Zero features of `values` [T, B, H], the same ones at each step of a row."""
    if not training or not share:
        return values
    return values * nn.functional.dropout(values.new_ones(1, *values.shape[1:]), share)


def _layer(config: LanguageConfig, size: int) -> nn.Module:
    if config.cell == "ttt":
        return TTTLinear(size, config.hidden_size, heads=config.heads, mini_batch=config.mini_batch, forget=True)
    return config.layer(config.cell, size, config.hidden_size, 1)


class LanguageStream:
    """Texts that are read token by token; `LanguageModel.stream` makes one. One thread at a time may call it.

    Args:
        model: the model, in evaluation.
        batch: B, how many texts are read side by side.

    Raises:
        InputError: the model is not in evaluation.

    >>> stream = LanguageModel(LanguageConfig(vocabulary_size=30, cell="gru")).eval().stream()
    >>> stream.step(torch.tensor([5])).shape
    torch.Size([1, 30])
    """

    def __init__(self, model: LanguageModel, batch: int = 1) -> None:
        if model.training:
            raise InputError("`model` must be in evaluation to be streamed, got it in training; call model.eval()")
        self.batch, self._model = batch, model
        self._layers = [layer.stream(batch) for layer in model.layers]  # type: ignore[operator]

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Read one token of every text: ids, int64 [B] -> logits of the next one [B, V].

        Raises:
            InputError: `tokens` has another shape, or an id is unknown.
        """
        if tokens.shape != (self.batch,):
            raise InputError(f"`tokens` must be [B] = [{self.batch}], got {list(tokens.shape)}")
        values = self._model.embedding(tokens[:, None])[:, 0]
        for number, layer in enumerate(self._layers):
            output = layer.step(values)
            values = values + output if self._model.config.residual and number else output
        return self._model.scores(values)

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Begin new texts in some rows, or in all."""
        for layer in self._layers:
            layer.reset(as_rows(rows, self.batch))
