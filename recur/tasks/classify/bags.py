"""Bags of embeddings: the mean of a text's vectors, then one linear map to the scores."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Bags(NamedTuple):
    """Rows of feature ids, of any number each."""

    ids: Tensor
    """All ids, one row after the other, int64 [N]; 0 does not count."""
    offsets: Tensor
    """Where each row starts, and N at the end, int64 [n + 1]."""
    labels: Tensor
    """int64 [n]."""


def train_bag(
    parts: list[Bags],
    sizes: tuple[int, int],
    classes: int,
    seed: int,
    *,
    rate: float = 0.005,
    width: int = 16,
    dropout: float = 0.3,
) -> list[NDArray[np.float64]]:
    """Train on the first part, stop by the second, and return the scores [n, classes] of the second and third.

    Joulin et al. 2016, arXiv:1607.01759, section 2, with Adam in place of plain steps. The state with the best accuracy
    on the second part is kept, of equal ones that with the smaller loss; with no rows there, the last one.

    Args:
        parts: training, validation and test rows.
        sizes: how many ids are words (they begin at random), and how many after them are hashed n-grams (at zero: one
            that training never saw says nothing).
        classes: number of classes.
        seed: of the first vectors and the order; torch's own generator is not touched.
        rate: learning rate.
        width: features of a vector.
        dropout: share of the ids left out in training, else few texts are known by heart through their pairs.
    """
    train, validation, _ = parts
    generator = torch.Generator().manual_seed(seed)
    table = torch.zeros(sum(sizes), width)
    table[1 : sizes[0]].normal_(std=0.1, generator=generator)
    weight, bias = torch.zeros(classes, width), torch.zeros(classes)
    parameters = [p.requires_grad_() for p in (table, weight, bias)]
    # a dense fused step over so narrow a table is faster than gathering the batch's rows
    optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)

    def score(part: Bags, index: Tensor) -> Tensor:
        ids, starts = _gather(part, index)
        if torch.is_grad_enabled():
            ids = ids * (torch.rand(len(ids), generator=generator) >= dropout)
        means = F.embedding_bag(ids, table, starts, mode="mean", padding_idx=0, include_last_offset=True)
        return F.linear(means, weight, bias)

    @torch.no_grad()
    def score_all(part: Bags) -> Tensor:
        batches = torch.split(torch.arange(len(part.labels)), 512)
        return torch.cat([torch.zeros(0, classes), *(score(part, index) for index in batches if len(index))])

    # a round is an epoch, or as many as make 100 steps
    epochs = math.ceil(100 / math.ceil(len(train.labels) / 64))
    best, waited, kept = (-1.0, 0.0), 0, [p.detach().clone() for p in parameters]
    with _one_thread():
        for _ in range(12):
            for _ in range(epochs):
                for index in torch.split(torch.randperm(len(train.labels), generator=generator), 64):
                    loss = F.cross_entropy(score(train, index), train.labels[index])
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
            reached = _quality(score_all(validation), validation.labels)
            waited = waited + 1 if reached <= best and len(validation.labels) else 0
            if waited == 0:
                best, kept = reached, [p.detach().clone() for p in parameters]
            elif waited == 2:
                break
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        return [score_all(part).double().numpy() for part in parts[1:]]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Steps this small are slower on many threads, by far so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _quality(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy and minus the loss; what is greater is better."""
    if len(labels) == 0:
        return 0.0, 0.0
    return float((scores.argmax(1) == labels).float().mean()), -float(F.cross_entropy(scores, labels))


def _gather(part: Bags, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids of the rows `index`, one after the other, and where each starts, with the end."""
    first = part.offsets[index]
    lengths = part.offsets[index + 1] - first
    starts = F.pad(lengths.cumsum(0), (1, 0))
    place = torch.arange(int(starts[-1])) + torch.repeat_interleave(first - starts[:-1], lengths)
    return part.ids[place], starts
