"""The loss of a row as a sum over any of its steps, whichever steps have something to be wrong about."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from recur.errors import InputError, nearest

AVERAGES = ["steps", "rows"]


def sequence_loss(
    scores: Tensor,
    targets: Tensor,
    lengths: Tensor | None = None,
    *,
    steps: Sequence[int] | None = None,
    weights: Tensor | None = None,
    average: str = "steps",
) -> Tensor:
    r"""Return L = \sum_t w_t L_t: of all steps, of the last one, or of any other set of them.

    Args:
        scores: logits [B, T, C], or predicted numbers [B, T, K].
        targets: classes, int64 [B, T], for the cross-entropy, or numbers [B, T, K], for the mean squared error.
        lengths: valid steps of each row, int64 [B] in 0..T; all if None. What stands beyond has no part in it.
        steps: the steps that count, from 0, or from -1 backwards from each row's own end; all if None. Steps that a row
            does not have do not count: `steps=[-1]` is many-to-one, `steps=[0]` says whether one step is enough.
        weights: w_t, [T] or [B, T]; 1 if None.
        average: "steps" divides by the weights that count, "rows" by B: the mean over rows of their sums.

    Returns:
        one number; 0 where nothing counts.

    Raises:
        InputError: shapes that do not fit, or an unknown `average`.

    >>> scores = torch.zeros(1, 3, 4)
    >>> sequence_loss(scores, torch.tensor([[1, 2, 3]]), steps=[0, -1], average="rows")  # 2 log 4
    tensor(2.7726)
    """
    if average not in AVERAGES:
        raise InputError(f"`average` must be 'steps' or 'rows', got {average!r}{nearest(str(average), AVERAGES)}")
    numbers = targets.is_floating_point()
    if scores.dim() != 3 or targets.shape != (scores.shape if numbers else scores.shape[:2]):
        wanted = "[B, T, K] and [B, T, K]" if numbers else "[B, T, C] and [B, T]"
        raise InputError(f"`scores` and `targets` must be {wanted}, got {list(scores.shape)} and {list(targets.shape)}")
    counted = _counted(scores, lengths, steps, weights)
    where = counted != 0
    # what does not count may be anything, NaN too
    if numbers:
        losses = (scores[where] - targets[where]).square().mean(-1)
    else:
        losses = F.cross_entropy(scores[where], targets[where], reduction="none")
    shares = counted[where]
    return (shares * losses).sum() / (max(1, len(scores)) if average == "rows" else shares.sum() + (len(shares) == 0))


def _counted(scores: Tensor, lengths: Tensor | None, steps: Sequence[int] | None, weights: Tensor | None) -> Tensor:
    """Return the weight of every step, [B, T]."""
    batch, most, _ = scores.shape
    if lengths is None:
        lengths = torch.full((batch,), most)
    if lengths.shape != (batch,):
        raise InputError(f"`lengths` must be [B] = [{batch}], got {list(lengths.shape)}")
    lengths = lengths.to(scores.device)[:, None]
    place = torch.arange(most, device=scores.device).expand(batch, most)
    counted = place < lengths
    if steps is not None:
        chosen = torch.tensor(list(steps), dtype=torch.int64, device=scores.device)
        # a step counted from the end is another place in each row
        named = torch.where(chosen < 0, lengths + chosen, chosen)
        counted = counted & (place[:, :, None] == named[:, None]).any(-1)
    if weights is None:
        return counted.to(scores.dtype)
    if weights.shape not in ((most,), (batch, most)):
        raise InputError(f"`weights` must be [T] = [{most}] or [B, T], got {list(weights.shape)}")
    return counted * weights.to(scores)
