"""What tasks share that write rows of tokens: what the decoder reads, where it begins, and the search."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from recur.data.sequences import Sequences
from recur.models.decoder import BEGIN
from recur.models.decoding import BANNED, Hypothesis, StepModel, beam_search, greedy
from recur.tasks.decoding import Decoding

S = TypeVar("S")
CHUNK = 1 << 20  # ids that are counted at once


def shifted(target: Tensor) -> Tensor:
    """Return what the decoder reads: <s> and the targets [B, T] but for their last step."""
    return torch.cat([torch.full_like(target[:, :1], BEGIN), target[:, :-1]], 1)


@torch.no_grad()
def begin_with_frequencies(scores: nn.Linear, targets: Sequences) -> None:
    """Let an untrained model score each token by its frequency in the targets.

    Else the first steps teach it which tokens hardly occur, and where most of the vocabulary does not, a tied network
    can saturate over it.
    """
    counts = np.full(scores.out_features, 0.1)
    for start in range(0, len(targets.values), CHUNK):
        counts += np.bincount(targets.values[start : start + CHUNK], minlength=len(counts))
    scores.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))


def write(
    model: StepModel[S], state: S, most: Tensor, search: Decoding, banned: Sequence[int] = BANNED
) -> list[Hypothesis]:
    """Write a row of tokens for each of N rows, greedily or with a beam.

    Args:
        model: what scores the next token.
        state: before <s>.
        most: tokens to write at most, the end counted, int64 [N].
        search: how.
        banned: tokens that are never written.
    """
    first = torch.full_like(most, BEGIN)
    if search.beam == 1:
        return greedy(model, state, first, max_length=most, banned=banned)
    found = beam_search(
        model, state, first, beam=search.beam, max_length=most, alpha=search.length_penalty, banned=banned
    )
    return [best[0] for best in found]
