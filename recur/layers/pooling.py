"""From the outputs of every step to one vector per row."""

import torch
from torch import Tensor
from torch.nn import functional as F

from recur.errors import InputError, nearest
from recur.scan import readable

POOLINGS = ["last", "mean", "max", "concat"]


def pool(output: Tensor, lengths: Tensor, how: str, directions: int = 1) -> Tensor:
    """Reduce a recurrent layer's outputs over time; steps beyond a row's length never matter.

    Args:
        output: `[B, T, H * directions]`, the forward direction's H features first, as torch.nn has them.
        lengths: int64 `[B]`, each in 0..T.
        how: "last" (each direction's final output: at the last valid step forward, at step 0 backward), "mean", "max",
            or "concat", which is the three side by side in this order (Howard and Ruder 2018, arXiv:1801.06146,
            section 3.3).
        directions: 1, or 2 for a bidirectional layer.

    Returns:
        `[B, H * directions]`, three times as wide for "concat"; rows of length 0 give zeros.

    Raises:
        InputError: an unknown `how`, or shapes that do not go together.

    >>> pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2]), "concat")
    tensor([[3., 2., 3.]])
    """
    if how not in POOLINGS:
        raise InputError(f"pooling must be one of {', '.join(POOLINGS)}, got {how!r}{nearest(how, POOLINGS)}")
    if output.ndim != 3 or lengths.shape != output.shape[:1] or output.shape[2] % directions:
        shapes = f"{list(output.shape)} and {list(lengths.shape)}"
        raise InputError(f"output and lengths must be [B, T, H * {directions}] and [B], got {shapes}")
    if output.shape[1] == 0:
        output = F.pad(output, (0, 0, 0, 1))
    lengths = lengths.to(output.device)
    if how == "concat":
        return torch.cat([_last(output, lengths, directions), _mean(output, lengths), _max(output, lengths)], dim=-1)
    if how == "last":
        return _last(output, lengths, directions)
    return _mean(output, lengths) if how == "mean" else _max(output, lengths)


def pooled_size(hidden_size: int, how: str, directions: int = 1) -> int:
    """Return the width of what `pool` returns."""
    return hidden_size * directions * (3 if how == "concat" else 1)


def _last(output: Tensor, lengths: Tensor, directions: int) -> Tensor:
    width = output.shape[2] // directions
    end = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, width)
    ends = output[..., :width].gather(1, end)[:, 0]
    if directions == 2:
        ends = torch.cat([ends, output[:, 0, width:]], dim=-1)
    return torch.where((lengths > 0)[:, None], ends, 0.0)


def _mean(output: Tensor, lengths: Tensor) -> Tensor:
    return _filled(output, lengths, 0.0).sum(1) / lengths.clamp(min=1)[:, None].to(output.dtype)


def _max(output: Tensor, lengths: Tensor) -> Tensor:
    largest = _filled(output, lengths, -torch.inf).max(1).values
    return torch.where((lengths > 0)[:, None], largest, 0.0)


def _filled(output: Tensor, lengths: Tensor, value: float) -> Tensor:
    """Return the outputs with a value at steps beyond a row's length."""
    # copies of long outputs cost as much as a layer
    if readable(lengths) and not lengths.is_cuda and bool((lengths == output.shape[1]).all()):
        return output
    valid = torch.arange(output.shape[1], device=output.device) < lengths[:, None]
    return output.masked_fill(~valid[..., None], value)
