"""Random masks kept as bits: drawn for a whole sequence at once, as `dropout` and zoneout draw them, used in parts."""

import torch
import torch.nn.functional as F
from torch import Tensor

# so many numbers are packed at a time
_PART = 1 << 22


class Bits:
    """Masks of 0 and 1, [T, B, H], an eighth of a byte each.

    Args:
        mask: [T, B, H]; what is not 0 counts as 1.
    """

    def __init__(self, mask: Tensor) -> None:
        self.size = mask.shape[-1]
        self.places = 2 ** torch.arange(8, device=mask.device, dtype=torch.uint8)
        steps = max(1, _PART // max(1, mask[0].numel()))
        self.packed = torch.cat([self._pack(part) for part in torch.split(mask, steps)])

    def _pack(self, mask: Tensor) -> Tensor:
        full = F.pad((mask != 0).to(torch.uint8), (0, -self.size % 8)).view(*mask.shape[:2], -(-self.size // 8), 8)
        packed: Tensor = (full * self.places).sum(-1, dtype=torch.uint8)
        return packed

    def part(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Return those of the steps from `start` up to, not including, `stop`: [stop-start, B, H]."""
        found = (self.packed[start:stop, ..., None] & self.places) != 0
        return found.flatten(-2)[..., : self.size].to(dtype)


def drawn(rate: float, like: Tensor, shape: tuple[int, ...]) -> Bits:
    """Return bits that are 1 with probability `rate`, those that `bernoulli_` on a tensor of this shape gives.

    Args:
        rate: 0..1.
        like: of the type and device for which they are drawn.
        shape: [T, B, H].
    """
    # on CPUs what is drawn does not depend on the type, and int32 is what torch draws
    dtype = torch.int32 if like.device.type == "cpu" else like.dtype
    return Bits(torch.empty(shape, dtype=dtype, device=like.device).bernoulli_(rate))


def drawn_for_dropout(rate: float, like: Tensor, shape: tuple[int, ...]) -> Bits:
    """Return the bits of what `torch.nn.functional.dropout` keeps of a dense tensor of this shape, type and device."""
    if like.device.type == "cpu" and rate < 1:
        return drawn(1 - rate, like, shape)
    return Bits(F.dropout(torch.ones(shape, dtype=like.dtype, device=like.device), rate, True))
