"""The recurrent tagger: words and their letters to vectors, recurrent layers both ways, scores at each word."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.layers import make
from recur.layers.crf import CRF
from recur.layers.embedding import TokenEmbedding
from recur.layers.pooling import pool
from recur.models.config import Config

UNKNOWN = 1


@dataclass(frozen=True)
class TaggerConfig(Config):
    """All that a `Tagger` is built from; `dataclasses.asdict` and `TaggerConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    vocabulary_size: int
    """V, ids 0 (padding) and 1 (unknown) included."""
    tags: int
    """C, at least 2."""
    characters: int = 0
    """Size of the table of characters, ids 0 and 1 as of the words; 0 to read no letters."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers over the words, one on top of the other."""
    hidden_size: int = 128
    """H, units of each layer and direction."""
    bidirectional: bool = True
    """Read each sentence from both ends."""
    embedding_size: int = 100
    """D, the width of the words' vectors."""
    freeze_embedding: bool = False
    """Leave the words' vectors as they are given."""
    character_size: int = 32
    """Width of the characters' vectors."""
    character_hidden: int = 100
    """Units in each direction of the layer that reads a word's letters."""
    crf: bool = False
    """Score whole sequences of tags instead of each tag by itself."""
    word_dropout: float = 0.0
    """Share of the words replaced by the unknown one in training; their letters stay."""
    embedding_dropout: float = 0.0
    """Share of the inputs' features zeroed in training, the same ones all along a sentence."""
    dropout: float = 0.0
    """Share of each recurrent layer's outputs zeroed in training."""

    def __post_init__(self) -> None:
        least = {"vocabulary_size": 2, "tags": 2, "characters": 0, "layers": 1, "hidden_size": 1}
        least |= {"embedding_size": 1, "character_size": 1, "character_hidden": 1}
        self.require_whole(**least)
        self.require_shares("word_dropout", "embedding_dropout", "dropout")
        self.check_remedies(self.layers)

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1


class TaggerInput(NamedTuple):
    """Sentences as a `Tagger` reads them: each distinct word of the batch is spelled once."""

    words: Tensor
    """Ids of the words, int64 [B, T], 0 for padding."""
    lengths: Tensor
    """Words in each sentence, int64 [B] in 0..T."""
    spelled: Tensor
    """Which row of `letters` spells each word, int64 [B, T]."""
    letters: Tensor
    """Ids of the characters of the S distinct words, int64 [S, L], 0 for padding."""
    letter_lengths: Tensor
    """Characters of each, int64 [S]."""


class Tagger(nn.Module):
    """Read a sentence from both ends and score every tag at each word: the aligned many-to-many network.

    A word is the vector of its id and, beside it, the final states of a recurrent layer that reads its letters in both
    directions (Ling et al. 2015, arXiv:1508.02096; Plank et al. 2016, arXiv:1604.05529), which knows words that
    training never saw by their shape. Each distinct word of a batch is spelled once.

    Args:
        config: the sizes and options.
        matrix: vectors `[V, D]` to begin with instead of random ones; not needed to load saved weights.

    Raises:
        InputError: an unknown cell, or a matrix of another shape.

    >>> model = Tagger(TaggerConfig(vocabulary_size=30, tags=5, characters=9))
    >>> words, spelled = torch.tensor([[5, 9, 0], [7, 7, 8]]), torch.tensor([[0, 1, 0], [2, 2, 3]])
    >>> letters = torch.tensor([[2, 3], [4, 0], [5, 6], [7, 8]])
    >>> model(words, torch.tensor([2, 3]), spelled, letters, torch.tensor([2, 1, 2, 2])).shape
    torch.Size([2, 3, 5])
    """

    def __init__(self, config: TaggerConfig, *, matrix: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(
            config.vocabulary_size, config.embedding_size, matrix=matrix, frozen=config.freeze_embedding
        )
        self.spelling: Spelling | None = None
        if config.characters:
            self.spelling = Spelling(config.characters, config.character_size, config.character_hidden, config.cell)
        self.recurrent = config.layer(
            config.cell,
            config.embedding_size + (self.spelling.size if self.spelling else 0),
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            # between layers only: with one layer torch.nn warns that it does nothing
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.scores = nn.Linear(config.hidden_size * config.directions, config.tags)
        self.crf = CRF(config.tags) if config.crf else None

    def forward(
        self, words: Tensor, lengths: Tensor, spelled: Tensor, letters: Tensor, letter_lengths: Tensor
    ) -> Tensor:
        """Return the score of every tag at each word, `[B, T, C]`; the arguments are those of `TaggerInput`."""
        known = words
        if self.training and self.config.word_dropout:
            away = torch.rand(words.shape, device=words.device) < self.config.word_dropout
            known = words.masked_fill(away & (words != 0), UNKNOWN)
        inputs = self.embedding(known)
        if self.spelling is not None:
            inputs = torch.cat([inputs, F.embedding(spelled, self.spelling(letters, letter_lengths))], dim=-1)
        inputs = self._locked(inputs, self.config.embedding_dropout)
        output, _ = self.recurrent(inputs, lengths=lengths)
        scores: Tensor = self.scores(self._locked(output, self.config.dropout))
        return scores

    def _locked(self, values: Tensor, share: float) -> Tensor:
        """Zero features in training, the same ones at every step of a row (Gal and Ghahramani 2016, section 4.1)."""
        if not self.training or not share:
            return values
        return values * F.dropout(values.new_ones(len(values), 1, values.shape[-1]), share)

    def loss(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean over all words of -log p(tag), of whole sequences of tags with a CRF.

        Args:
            scores: what the model returned, `[B, T, C]`.
            tags: int64 `[B, T]`; of no effect behind the end of a sentence, and those outside 0..C-1 nowhere.
            lengths: int64 `[B]`.
        """
        inside = torch.arange(tags.shape[1], device=tags.device) < lengths[:, None]
        known = inside & (tags >= 0) & (tags < self.config.tags)
        if self.crf is None:
            wanted = tags.masked_fill(~known, -100).flatten()
            return F.cross_entropy(scores.flatten(0, 1), wanted, reduction="sum") / known.sum().clamp(min=1)
        # a sequence with a tag that there is no score for has no probability
        whole = (known == inside).all(1) & (lengths > 0)
        if not whole.any():
            return scores.sum() * 0.0
        losses = self.crf.loss(scores[whole], tags[whole].masked_fill(~known[whole], 0), lengths[whole])
        return losses.sum() / lengths[whole].sum()

    @torch.no_grad()
    def decode(self, scores: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tags, int64 `[B, T]`, and the probability of every tag at each word, `[B, T, C]`.

        With a CRF the tags are the most probable sequence, and the probabilities those of each word by itself.
        """
        if self.crf is None:
            return scores.argmax(-1), scores.softmax(-1)
        return self.crf.decode(scores, lengths), self.crf.marginals(scores, lengths)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class Spelling(nn.Module):
    """Read the letters of words from both ends: ids `[S, L]` to the two final states, `[S, 2 * hidden]`.

    Args:
        characters: size of the table of characters.
        width: of their vectors.
        hidden: units in each direction.
        cell: a name in `recur.cells.CELLS`.
    """

    def __init__(self, characters: int, width: int, hidden: int, cell: str) -> None:
        super().__init__()
        self.characters = TokenEmbedding(characters, width)
        self.recurrent = make(cell, width, hidden, 1, bidirectional=True, batch_first=True)
        self.size = 2 * hidden

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the vectors of words; a word of no letters is zeros."""
        output, _ = self.recurrent(self.characters(letters), lengths=lengths)
        return pool(output, lengths, "last", 2)
