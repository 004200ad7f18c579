"""From word ids to vectors: a trained or given table, one-hot, and hashed n-grams for local order."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recur.errors import InputError, nearest

KINDS = ["trained", "one-hot"]
_PRIME = 2**31 - 1
_FACTOR = 116049371


class TokenEmbedding(nn.Module):
    """Turn ids `[B, T]` into vectors `[B, T, D]`; id 0 is padding and gives zeros.

    With `ngrams` = N >= 2, position t also gets the sum of the vectors of the n-grams, n = 2..N, that end at t
    (Joulin et al. 2016, arXiv:1607.01759, section 2.2: hashed, so that the table does not grow). N-grams never reach
    over the row's start or over padding. Their table starts at zero: an n-gram that training never saw adds nothing.

    Args:
        vocabulary_size: V, the ids are 0..V-1.
        embedding_size: D; with one-hot or a `matrix` it follows from V or the matrix and may be left out.
        kind: "trained" for a table, "one-hot" for 1 at the id's place (D = V, no parameters, no table in memory).
        matrix: vectors `[V, D]` to begin with, as from word2vec or GloVe; row 0 is set to zero.
        frozen: leave the words' table as it is in training; n-grams are trained all the same.
        ngrams: N, the longest n-gram that gets a vector; 1 for words only.
        ngram_buckets: rows of the n-gram table, which all n-grams share by hash.
        word_dropout: share of the tokens taken away in training, with the n-grams they are in; what is left is not
            scaled up (Iyyer et al. 2015, section 3.1).
        dropout: share of the features zeroed in training, the same ones at every step of a row (Gal and Ghahramani
            2016, arXiv:1512.05287, section 4.1), the rest scaled up to keep the mean.
        sparse: gradients of the tables hold only the batch's rows. Of use with `torch.optim.SparseAdam` from about
            100,000 rows up; `torch.optim.Adam` refuses them.

    Raises:
        InputError: an argument out of range, or a matrix of another height.

    >>> TokenEmbedding(10, 3)(torch.tensor([[4, 9, 0]])).shape
    torch.Size([1, 3, 3])
    """

    like: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int | None = None,
        *,
        kind: str = "trained",
        matrix: Tensor | None = None,
        frozen: bool = False,
        ngrams: int = 1,
        ngram_buckets: int = 200_000,
        word_dropout: float = 0.0,
        dropout: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"embedding must be one of {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
        for name, share in (("word_dropout", word_dropout), ("embedding dropout", dropout)):
            if not 0 <= share < 1:
                raise InputError(f"{name} must be from 0 up to, not including, 1, got {share}")
        if ngrams < 1 or ngram_buckets < 1:
            raise InputError(f"ngrams and ngram_buckets must be at least 1, got {ngrams} and {ngram_buckets}")
        if kind == "one-hot" and (ngrams > 1 or matrix is not None):
            what = "ngrams > 1" if ngrams > 1 else "a matrix of vectors"
            raise InputError(f"embedding 'one-hot' has no vectors to go with {what}; choose embedding 'trained'")

        self.vocabulary_size = vocabulary_size
        self.ngrams, self.ngram_buckets = ngrams, ngram_buckets
        self.word_dropout, self.dropout = word_dropout, dropout
        self.word: nn.Embedding | None = None
        self.ngram: nn.Embedding | None = None
        if kind == "one-hot":
            self.embedding_size = vocabulary_size
            # has no numbers; it follows .to(), and so knows the device and dtype of the output
            self.register_buffer("like", torch.empty(0), persistent=False)
            return
        self.word = _table(vocabulary_size, embedding_size, matrix, sparse and not frozen)
        self.word.weight.requires_grad_(not frozen)
        self.embedding_size = self.word.embedding_dim
        if ngrams > 1:
            self.ngram = nn.Embedding(ngram_buckets + 1, self.embedding_size, padding_idx=0, sparse=sparse)
            nn.init.zeros_(self.ngram.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors `[B, T, D]` of `ids`, int64 `[B, T]` in 0..V-1.

        Raises:
            InputError: an id is not in 0..V-1.
        """
        if self.training and self.word_dropout:
            ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.word_dropout, 0)
        try:
            vectors = self._one_hot(ids) if self.word is None else self.word(ids)
        except (IndexError, RuntimeError) as error:
            if ids.numel() == 0 or (ids.min() >= 0 and ids.max() < self.vocabulary_size):
                raise
            found = f"{int(ids.min())}..{int(ids.max())}"
            raise InputError(f"ids must be in 0..{self.vocabulary_size - 1}, got {found}") from error
        if self.ngram is not None:
            for n in range(2, self.ngrams + 1):
                vectors = vectors + self.ngram(hash_ngrams(ids, n, self.ngram_buckets))
        if self.training and self.dropout:
            vectors = vectors * F.dropout(vectors.new_ones(len(ids), 1, self.embedding_size), self.dropout)
        return vectors

    def _one_hot(self, ids: Tensor) -> Tensor:
        vectors = self.like.new_zeros(*ids.shape, self.vocabulary_size)
        return vectors.scatter_(-1, ids[..., None], (ids != 0)[..., None].to(vectors.dtype))


def hash_ngrams(ids: Tensor, n: int, buckets: int) -> Tensor:
    """Return for every position the bucket of the n ids that end there.

    The n-gram's ids are the digits of a number in base 116049371 (fastText's factor) modulo the prime 2**31 - 1: with
    products below 2**62 it is the same number on every device. The n-gram's length is the first digit, and a last
    multiplication scatters neighbours.

    Args:
        ids: int64 `[..., T]`, 0 for padding.
        n: length of the n-grams, at least 2.
        buckets: how many buckets there are.

    Returns:
        int64 `[..., T]` in 1..buckets, and 0 where the n ids reach over the row's start or hold padding.

    >>> hash_ngrams(torch.tensor([5, 7, 5, 7]), 2, 1000).tolist()
    [0, 762, 40, 762]
    """
    count = ids.shape[-1] - n + 1
    if count <= 0:
        return torch.zeros_like(ids)
    value = torch.full_like(ids[..., :count], n)
    whole = torch.ones_like(value, dtype=torch.bool)
    for i in range(n):
        part = ids[..., i : i + count]
        value = (value * _FACTOR + part) % _PRIME
        whole = whole & (part != 0)
    bucket = 1 + value * _FACTOR % _PRIME % buckets
    return F.pad(bucket * whole, (n - 1, 0))


def _table(vocabulary_size: int, embedding_size: int | None, matrix: Tensor | None, sparse: bool) -> nn.Embedding:
    if matrix is None:
        if embedding_size is None or embedding_size < 1:
            raise InputError(f"embedding_size must be at least 1, got {embedding_size}")
        table = nn.Embedding(vocabulary_size, embedding_size, padding_idx=0, sparse=sparse)
        # vectors of length about 1 at D = 100: words that training hardly sees stay quiet
        nn.init.normal_(table.weight, std=0.1)
    else:
        if matrix.ndim != 2 or len(matrix) != vocabulary_size or embedding_size not in (None, matrix.shape[1]):
            width = embedding_size or "D"
            raise InputError(
                f"matrix must be [V, D] = [{vocabulary_size}, {width}], got {list(matrix.shape)};"
                " read_vectors(...).table(vocabulary) makes one that fits"
            )
        table = nn.Embedding(vocabulary_size, matrix.shape[1], padding_idx=0, sparse=sparse)
        with torch.no_grad():
            table.weight.copy_(matrix)
    with torch.no_grad():
        table.weight[0] = 0
    return table
