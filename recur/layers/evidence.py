"""What words and n-grams say about the classes, counted in the training part, as inputs beside the word vectors."""

import torch
from torch import Tensor, nn

from recur.layers.embedding import hash_ngrams

# pull towards "says nothing", in texts: an n-gram of one text must not decide alone
PRIOR = 2.0


class Evidence(nn.Module):
    """Turn ids `[B, T]` into log-odds `[B, T, N * C']`: how much the n-gram that ends at a step speaks for each class.

    These are the log-count ratios of naive Bayes (Wang and Manning 2012, "Baselines and bigrams", section 2.1), on
    the number of training texts with the n-gram. A recurrent network then reads the evidence in its order, instead of
    a linear model its sum. While training, a text is left out of its own counts: otherwise an n-gram that only it
    has would give its label away.

    Args:
        classes: C; two classes need one number, C' = 1, more need C' = C.
        ngrams: N, the longest n-gram; 1 for words only.
        buckets: rows of the table that n-grams of each length share by hash.

    Shapes: the table is int32 `[N, buckets + 1, C]`; it is a part of the state_dict and is not trained.

    >>> evidence = Evidence(classes=2, ngrams=1, buckets=100)
    >>> texts, labels = torch.tensor([[5, 7], [5, 8], [6, 7], [6, 8]]), torch.tensor([0, 0, 1, 1])
    >>> evidence.count(texts.flatten(), torch.tensor([2, 2, 2, 2]), labels)
    >>> evidence(torch.tensor([[5, 6, 7, 99]])).sign().flatten().tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """

    texts: Tensor
    totals: Tensor

    def __init__(self, classes: int, ngrams: int, buckets: int) -> None:
        super().__init__()
        self.classes, self.ngrams, self.buckets = classes, ngrams, buckets
        self.size = ngrams * (1 if classes == 2 else classes)
        self.register_buffer("texts", torch.zeros(ngrams, buckets + 1, classes, dtype=torch.int32))
        self.register_buffer("totals", torch.zeros(classes, dtype=torch.int32))

    def count(self, values: Tensor, lengths: Tensor, labels: Tensor) -> None:
        """Add texts of the training part to the counts.

        Args:
            values: the ids of all texts, one after the other, int64 [sum of lengths].
            lengths: of each text, int64 [n].
            labels: of each text, int64 [n] in 0..C-1.
        """
        text = torch.repeat_interleave(lengths)
        start = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        step = torch.arange(len(values)) - start
        self.totals += torch.bincount(labels, minlength=self.classes)
        for n in range(1, self.ngrams + 1):
            # no n-gram reaches over the start of its text
            bucket = self._bucket(values, n) * (step >= n - 1)
            once = torch.unique(text * (self.buckets + 1) + bucket)
            cell = once % (self.buckets + 1) * self.classes + labels[once // (self.buckets + 1)]
            counts = torch.bincount(cell, minlength=(self.buckets + 1) * self.classes)
            self.texts[n - 1] += counts.view(self.buckets + 1, self.classes)
            self.texts[n - 1, 0] = 0

    def forward(self, ids: Tensor, own: Tensor | None = None) -> Tensor:
        """Return the log-odds of `ids`, int64 `[B, T]`, 0 for padding.

        Args:
            ids: the texts.
            own: the labels `[B]` of texts that were counted, to leave each out of its own counts; None for others.
        """
        # a class without texts is rare, not impossible
        share = (self.totals / self.totals.sum().clamp(min=1)).clamp(1e-6, 1 - 1e-6)
        prior = share.logit()
        result = []
        for n in range(1, self.ngrams + 1):
            bucket = self._bucket(ids, n)
            texts = self.texts[n - 1][bucket].float()
            if own is not None:
                texts[torch.arange(len(ids), device=ids.device), :, own] -= 1
                texts.clamp_(min=0)
            total = texts.sum(-1, keepdim=True)
            odds = (texts + PRIOR * share).log() - (total - texts + PRIOR * (1 - share)).log() - prior
            result.append(odds.masked_fill((bucket == 0).unsqueeze(-1), 0))
        log_odds = torch.stack(result, dim=-2)
        return (log_odds[..., 1:] if self.classes == 2 else log_odds).flatten(-2)

    def _bucket(self, ids: Tensor, n: int) -> Tensor:
        # words keep a row of their own as long as there are enough
        return torch.where(ids == 0, 0, 1 + (ids - 1) % self.buckets) if n == 1 else hash_ngrams(ids, n, self.buckets)
