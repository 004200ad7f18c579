"""A linear-chain conditional random field: scores for tags that follow each other, on top of scores at each step."""

import torch
from torch import Tensor, nn

from recur.errors import InputError


class CRF(nn.Module):
    """Score whole sequences of tags: their emissions, and a trained number for each tag after another.

    p(y | x) = exp(s(y)) / Z, s(y) = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_{t-1}, y_t] + end[y_T]
    (Lafferty et al. 2001; on a recurrent network Huang et al. 2015, arXiv:1508.01991, section 2.4).

    Args:
        tags: C, at least 1.

    Raises:
        InputError: `tags` below 1.

    >>> crf = CRF(3)
    >>> emissions, lengths = torch.randn(2, 4, 3), torch.tensor([4, 2])
    >>> crf.decode(emissions, lengths).shape, crf.loss(emissions, torch.zeros(2, 4, dtype=torch.long), lengths).shape
    (torch.Size([2, 4]), torch.Size([2]))
    """

    def __init__(self, tags: int) -> None:
        super().__init__()
        if tags < 1:
            raise InputError(f"`tags` must be at least 1, got {tags}")
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start = nn.Parameter(torch.zeros(tags))
        self.end = nn.Parameter(torch.zeros(tags))

    def loss(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Return -log p of each row's tags, `[B]`; 0 for a row of length 0.

        Args:
            emissions: scores of each tag at each step, `[B, T, C]`.
            tags: int64 `[B, T]` in 0..C-1; of no effect behind the end of a row.
            lengths: int64 `[B]` in 0..T.
        """
        return self.log_partition(emissions, lengths) - self._score(emissions, tags, lengths)

    def log_partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Return log Z of each row by the forward algorithm, `[B]`; 0 for a row of length 0."""
        if emissions.shape[1] == 0:
            return emissions.new_zeros(len(emissions))
        forward = self.start + emissions[:, 0]
        for t in range(1, emissions.shape[1]):
            step = torch.logsumexp(forward[:, :, None] + self.transitions, dim=1) + emissions[:, t]
            forward = torch.where((t < lengths)[:, None], step, forward)
        return torch.where(lengths > 0, torch.logsumexp(forward + self.end, dim=1), 0.0)

    def _score(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(emissions.shape[1], device=emissions.device)
        inside = (steps < lengths[:, None]).to(emissions.dtype)
        own = emissions.gather(2, tags[..., None])[..., 0] * inside
        if emissions.shape[1] == 0:
            return own.sum(1)
        moves = self.transitions[tags[:, :-1], tags[:, 1:]] * inside[:, 1:]
        last = tags.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        ends = (self.start[tags[:, 0]] + self.end[last]) * inside[:, 0]
        return own.sum(1) + moves.sum(1) + ends

    def marginals(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Return the probability of each tag at each step, `[B, T, C]`; zeros behind the end of a row.

        They are the derivative of log Z by the emissions, which autograd takes: the backward algorithm.
        """
        with torch.enable_grad():
            scores = emissions.detach().requires_grad_()
            total = self.log_partition(scores, lengths).sum()
            return torch.autograd.grad(total, scores)[0]

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Return the most probable tags of each row, int64 `[B, T]`, by Viterbi's algorithm; 0 behind the end."""
        rows, steps, _ = emissions.shape
        result = torch.zeros(rows, steps, dtype=torch.int64, device=emissions.device)
        if steps == 0:
            return result
        best, came = self.start + emissions[:, 0], []
        for t in range(1, steps):
            step, origin = (best[:, :, None] + self.transitions).max(dim=1)
            inside = (t < lengths)[:, None]
            # behind the end a path stays where it is
            came.append(torch.where(inside, origin, torch.arange(origin.shape[1], device=origin.device)))
            best = torch.where(inside, step + emissions[:, t], best)
        tag = (best + self.end).argmax(dim=1)
        for t in range(steps - 1, -1, -1):
            result[:, t] = tag
            if t:
                tag = came[t - 1].gather(1, tag[:, None])[:, 0]
        inside = torch.arange(steps, device=result.device) < lengths[:, None]
        return result * inside
