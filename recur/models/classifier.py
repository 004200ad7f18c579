"""The recurrent classifier: words to vectors, recurrent layers, one vector per text, one score per class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.errors import InputError
from recur.layers.embedding import KINDS, TokenEmbedding
from recur.layers.evidence import Evidence
from recur.layers.pooling import POOLINGS, pool, pooled_size
from recur.models.config import Config
from recur.stream import as_rows

# brings log-odds to about the size of the word vectors
EVIDENCE_SCALE = 0.3


@dataclass(frozen=True)
class ClassifierConfig(Config):
    """All that a `Classifier` is built from; `dataclasses.asdict` and `ClassifierConfig(**...)` are its JSON form.

    Raises:
        InputError: a value out of its range.
    """

    vocabulary_size: int
    """V, ids 0 (padding) and 1 (unknown) included."""
    classes: int
    """C, at least 2."""
    cell: str = "lstm"
    """A name in `recur.cells.CELLS`."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """H, units of each layer and direction."""
    bidirectional: bool = False
    """Read each text from both ends."""
    embedding: str = "trained"
    """"trained" for a table of vectors, "one-hot" for V inputs without one."""
    embedding_size: int = 100
    """D, the width of the table; of no effect with one-hot."""
    freeze_embedding: bool = False
    """Leave the words' vectors as they are given."""
    ngrams: int = 1
    """Longest hashed n-gram that is added to the words' vectors; 1 for none."""
    ngram_buckets: int = 200_000
    """Rows of the n-gram table."""
    evidence: int = 0
    """Longest n-gram whose counted log-odds of the classes go in beside the words' vectors; 0 for none."""
    evidence_buckets: int = 2**20
    """Rows of the table of these counts, for n-grams of each length."""
    pooling: str = "last"
    """"last", "mean", "max", or "concat" for all three."""
    word_dropout: float = 0.0
    """Share of the words taken away in training."""
    embedding_dropout: float = 0.0
    """Share of the vectors' features zeroed in training, the same ones all along a text."""
    dropout: float = 0.0
    """Share of the outputs zeroed in training after every layer, before the scores too."""

    def __post_init__(self) -> None:
        least = {"vocabulary_size": 2, "classes": 2, "layers": 1, "hidden_size": 1, "embedding_size": 1, "ngrams": 1}
        least |= {"ngram_buckets": 1, "evidence": 0, "evidence_buckets": 1}
        self.require_whole(**least)
        self.require_shares("word_dropout", "embedding_dropout", "dropout")
        self.require_choice("embedding", KINDS)
        self.require_choice("pooling", POOLINGS)
        self.check_remedies(self.layers)
        if self.embedding == "one-hot" and (self.ngrams > 1 or self.freeze_embedding):
            what = "ngrams > 1" if self.ngrams > 1 else "freeze_embedding"
            raise InputError(f"embedding 'one-hot' has no vectors to go with {what}; choose embedding 'trained'")

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1


class Classifier(nn.Module):
    """Read a text word by word and score its class from what the last recurrent layer remembers.

    With pooling "last" it is the many-to-one network: only the last step's state reaches the scores (Elman 1990 for
    the network, Sutskever et al. 2014, arXiv:1409.3215, for the last state as the meaning of a sentence).

    Args:
        config: the sizes and options.
        matrix: vectors `[V, D]` to begin with instead of random ones; not needed to load saved weights.
        sparse: sparse gradients for the tables, see `TokenEmbedding`.

    Raises:
        InputError: an unknown cell, or a matrix of another shape.

    >>> model = Classifier(ClassifierConfig(vocabulary_size=30, classes=2, cell="gru"))
    >>> model(torch.tensor([[5, 9, 0], [7, 7, 8]]), lengths=torch.tensor([2, 3])).shape
    torch.Size([2, 2])
    """

    def __init__(self, config: ClassifierConfig, *, matrix: Tensor | None = None, sparse: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(
            config.vocabulary_size,
            None if config.embedding == "one-hot" else config.embedding_size,
            kind=config.embedding,
            matrix=matrix,
            frozen=config.freeze_embedding,
            ngrams=config.ngrams,
            ngram_buckets=config.ngram_buckets,
            word_dropout=config.word_dropout,
            dropout=config.embedding_dropout,
            sparse=sparse,
        )
        self.evidence: Evidence | None = None
        if config.evidence:
            self.evidence = Evidence(config.classes, config.evidence, config.evidence_buckets)
        self.recurrent = config.layer(
            config.cell,
            self.embedding.embedding_size + (self.evidence.size if self.evidence else 0),
            config.hidden_size,
            config.layers,
            bidirectional=config.bidirectional,
            # between layers only: with one layer torch.nn warns that it does nothing
            dropout=config.dropout if config.layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.scores = nn.Linear(pooled_size(config.hidden_size, config.pooling, config.directions), config.classes)

    def forward(self, tokens: Tensor, lengths: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the logits `[B, C]`.

        Args:
            tokens: ids, int64 `[B, T]`, 0 for padding.
            lengths: int64 `[B]` in 0..T.
            own: the labels `[B]`, of use while training with `evidence`: each text is left out of its own counts.
        """
        scores: Tensor = self.scores(self.dropout(self.pooled(tokens, lengths, own)))
        return scores

    def pooled(self, tokens: Tensor, lengths: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the vector of each text, `[B, H * directions]`, three times as wide for pooling "concat"."""
        if tokens.shape[1] == 0:
            # only empty texts: the recurrent layers want a step
            tokens = F.pad(tokens, (0, 1))
        output, _ = self.recurrent(self.inputs(tokens, own), lengths=lengths)
        return pool(output, lengths, self.config.pooling, self.config.directions)

    def inputs(self, tokens: Tensor, own: Tensor | None = None) -> Tensor:
        """Return what the recurrent layers read, `[B, T, D]`: words' vectors, those of n-grams, and evidence."""
        inputs: Tensor = self.embedding(tokens)
        if self.evidence is None:
            return inputs
        shown = self.evidence(tokens, own)
        if self.training and self.config.word_dropout:
            shown = shown * (torch.rand(*tokens.shape, 1, device=tokens.device) >= self.config.word_dropout)
        return torch.cat([inputs, (EVIDENCE_SCALE * shown).to(inputs.dtype)], dim=-1)

    def stream(self, batch: int = 1) -> "ClassifierStream":
        """Return a stream that reads `batch` texts word by word and scores each after every word.

        Raises:
            InputError: the model is bidirectional, or not in evaluation.
        """
        return ClassifierStream(self, batch)

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class ClassifierStream:
    """Texts that are read word by word, each scored after every word; `Classifier.stream` makes one.

    The scores are those of the text so far. One thread at a time may call it.

    Args:
        model: the classifier, of one direction and in evaluation.
        batch: B, how many texts are read side by side.

    Raises:
        InputError: the model is bidirectional, or not in evaluation.

    >>> stream = Classifier(ClassifierConfig(vocabulary_size=30, classes=2, cell="gru")).eval().stream()
    >>> [stream.step(torch.tensor([word])).shape for word in (5, 9)]
    [torch.Size([1, 2]), torch.Size([1, 2])]
    """

    def __init__(self, model: Classifier, batch: int = 1) -> None:
        config = model.config
        if config.bidirectional:
            raise InputError(
                "`model` must read in one direction to be streamed, got a bidirectional one, which needs the whole "
                "text; train one with bidirectional=False"
            )
        self.batch, self._model = batch, model
        self._layers = model.recurrent.stream(batch)
        self._longest = max(config.ngrams, config.evidence, 1)
        device = model.scores.weight.device
        self._words = torch.zeros(batch, self._longest, dtype=torch.int64, device=device)
        self._count = torch.zeros(batch, dtype=torch.int64, device=device)
        width = model.scores.weight.new_zeros(batch, config.hidden_size)
        self._sum, self._most = width, torch.full_like(width, -torch.inf)
        self._check_mode()

    def _check_mode(self) -> None:
        if self._model.training:
            raise InputError(
                "`model` must be in evaluation to be streamed, got it in training; call model.eval() first"
            )

    def step(self, tokens: Tensor) -> Tensor:
        """Read one word of every text: ids, int64 `[B]`, 0 for a word that is none -> logits `[B, C]`.

        Raises:
            InputError: `tokens` has another shape, an id is unknown, or the model is no longer in evaluation.
        """
        self._check_mode()
        if tokens.shape != (self.batch,):
            raise InputError(f"`tokens` must be [B] = [{self.batch}], got {list(tokens.shape)}")
        with torch.no_grad():
            words = torch.cat([self._words[:, 1:], tokens[:, None].to(self._words)], dim=1)
            h = self._layers.step(self._model.inputs(words)[:, -1])
            self._words, self._count = words, self._count + 1
            parts = {"last": h}
            if self._model.config.pooling in ("mean", "concat"):
                self._sum = self._sum + h
                parts["mean"] = self._sum / self._count[:, None]
            if self._model.config.pooling in ("max", "concat"):
                parts["max"] = self._most = torch.maximum(self._most, h)
            how = self._model.config.pooling
            pooled = torch.cat(list(parts.values()), dim=-1) if how == "concat" else parts[how]
            scores: Tensor = self._model.scores(pooled)
            return scores

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Begin new texts in some rows, see `recur.Stream.reset`, or in all."""
        index = as_rows(rows, self.batch).to(self._words.device)
        self._layers.reset(index)
        self._words, self._count = self._words.index_fill(0, index, 0), self._count.index_fill(0, index, 0)
        self._sum, self._most = self._sum.index_fill(0, index, 0), self._most.index_fill(0, index, -torch.inf)
