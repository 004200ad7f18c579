"""Attention: for every query, a weighted mean of the places of a memory, weighted by how well each place answers."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recur.errors import InputError, nearest

ATTENTIONS = ["additive", "multiplicative", "dot"]


class Memory(NamedTuple):
    """What queries look at, made once for each source by `Attention.memory`."""

    keys: Tensor
    """What queries are compared with, [B, S, A]."""
    values: Tensor
    """What is averaged, [B, S, K]."""
    valid: Tensor
    """Which places there are, bool [B, S]."""
    row: Tensor
    """The number of the row that each was made of, int64 [B]."""

    def select(self, rows: Tensor) -> "Memory":
        """Return the memory of some rows, int64 [N], in that order."""
        if torch.equal(self.row[rows], self.row):
            # rows of a beam change their places, and look at the same source as before
            return self
        return Memory(*(value.index_select(0, rows) for value in self))


class Attended(NamedTuple):
    """What queries have found: `context` [B, U, K], and the `weights` [B, U, S] that it was averaged with."""

    context: Tensor
    weights: Tensor


class Attention(nn.Module):
    r"""Weigh the places of a memory by a score, softmax over the places, and average.

    .. math::
        \text{additive: } e_{us} &= v^\top \tanh(W q_u + U k_s) \\
        \text{multiplicative: } e_{us} &= q_u^\top W k_s \\
        \text{dot: } e_{us} &= q_u^\top k_s / \sqrt{Q} \\
        a_{us} &= \operatorname{softmax}_s e_{us}, \qquad c_u = \sum_s a_{us} k_s

    Places beyond a row's length have weight 0; where a row has none, weights and context are 0.

    Args:
        query_size: Q.
        key_size: K, the width of the memory.
        kind: "additive", "multiplicative" or "dot"; the last asks for K = Q and has no parameters.
        size: A, the width in which additive scores are computed; Q if None.

    Raises:
        InputError: an unknown `kind`, or sizes that do not go together.

    Source: additive Bahdanau et al. 2014, arXiv:1409.0473, appendix A.1.2; multiplicative Luong et al. 2015,
    arXiv:1508.04025, section 3.1, "general"; dot with the scale of Vaswani et al. 2017, arXiv:1706.03762, eq. 1.

    >>> attention = Attention(4, 6)
    >>> found = attention(torch.randn(2, 5, 4), attention.memory(torch.randn(2, 3, 6), torch.tensor([3, 1])))
    >>> found.context.shape, found.weights.shape
    (torch.Size([2, 5, 6]), torch.Size([2, 5, 3]))
    """

    def __init__(
        self, query_size: int, key_size: int, kind: str = "multiplicative", *, size: int | None = None
    ) -> None:
        super().__init__()
        if kind not in ATTENTIONS:
            raise InputError(
                f"`kind` must be one of {', '.join(ATTENTIONS)}, got {kind!r}{nearest(str(kind), ATTENTIONS)}"
            )
        for name, value in (("query_size", query_size), ("key_size", key_size), ("size", 1 if size is None else size)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"`{name}` must be a whole number above 0, got {value!r}")
        if kind == "dot" and query_size != key_size:
            wanted = f"`key_size` must be `query_size` = {query_size} for kind 'dot'"
            raise InputError(f"{wanted}, got {key_size}; kind 'multiplicative' takes any")
        if size is not None and kind != "additive":
            raise InputError(f"`size` must be left out for kind {kind!r}, got {size}")
        self.kind, self.query_size, self.key_size = kind, query_size, key_size
        width = size or query_size
        self.key = None if kind == "dot" else nn.Linear(key_size, width, bias=kind == "additive")
        self.query = nn.Linear(query_size, width, bias=False) if kind == "additive" else None
        self.score = nn.Linear(width, 1, bias=False) if kind == "additive" else None

    def memory(self, values: Tensor, lengths: Tensor | None = None) -> Memory:
        """Return what queries look at; what does not depend on them is computed here, once.

        Args:
            values: [B, S, K].
            lengths: valid places of each row, int64 [B] in 0..S; all if None.

        Raises:
            InputError: shapes that do not fit.
        """
        if values.dim() != 3 or values.shape[2] != self.key_size:
            raise InputError(f"`values` must be [B, S, K] with K = {self.key_size}, got {list(values.shape)}")
        batch, places, _ = values.shape
        if lengths is None:
            valid = torch.ones(batch, places, dtype=torch.bool, device=values.device)
        else:
            if lengths.shape != (batch,):
                raise InputError(f"`lengths` must be [B] = [{batch}], got {list(lengths.shape)}")
            valid = torch.arange(places, device=values.device) < lengths.to(values.device)[:, None]
        row = torch.arange(batch, device=values.device)
        return Memory(values if self.key is None else self.key(values), values, valid, row)

    def forward(self, query: Tensor, memory: Memory) -> Attended:
        """Return what each query finds.

        Args:
            query: [B, U, Q], or [B, Q] for one query of each row.
            memory: of the same B rows.

        Returns:
            context [B, U, K] and weights [B, U, S]; without U for queries without.

        Raises:
            InputError: shapes that do not fit.
        """
        rows = len(memory.values)
        if query.dim() not in (2, 3) or query.shape[-1] != self.query_size or len(query) != rows:
            wanted = f"[B, U, Q] or [B, Q] with B = {rows}, Q = {self.query_size}"
            raise InputError(f"`query` must be {wanted}, got {list(query.shape)}")
        if query.dim() == 2:
            context, weights = self(query[:, None], memory)
            return Attended(context[:, 0], weights[:, 0])
        valid = memory.valid[:, None]
        # a finite number, not -inf: the softmax of a row without places has no NaN, nor has its gradient
        scores = self._scores(query, memory.keys).masked_fill(~valid, torch.finfo(query.dtype).min)
        weights = scores.softmax(-1) * valid
        return Attended(weights @ memory.values, weights)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        if self.query is not None and self.score is not None:
            scores: Tensor = self.score(torch.tanh(self.query(query)[:, :, None] + keys[:, None]))
            return scores.squeeze(-1)
        scale = 1 / math.sqrt(self.query_size) if self.kind == "dot" else 1.0
        return scale * query @ keys.transpose(1, 2)

    def extra_repr(self) -> str:
        """Return the sizes and the kind."""
        return f"{self.query_size}, {self.key_size}, kind={self.kind!r}"
