"""Frames changed at random in training, in ways that leave their label: moved, stretched, louder, partly hidden."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is done to the frames of a batch; all numbers come from torch's generator.

    Masks: Park et al. 2019, arXiv:1904.08779 (SpecAugment), section 2, with the mean in place of what they hide; the
    time mask of a row is at most a fifth of it, their p.
    """

    time_mask: int = 0
    """Most frames that a mask hides."""
    feature_mask: int = 0
    """Most features that a mask hides."""
    masks: int = 1
    """Masks of either kind for each row."""
    shift: int = 0
    """Most frames that a row is moved by, its ends repeated."""
    stretch: float = 0.0
    """Most that a row is slowed or quickened by, a share of its length."""
    gain: float = 0.0
    """Most decibels that a row is made louder or softer by."""

    def __call__(self, frames: Tensor, lengths: Tensor, mean: Tensor, louder: Tensor) -> tuple[Tensor, Tensor]:
        """Return changed frames [B, T', D], and how many each row has.

        Args:
            frames: [B, T, D].
            lengths: int64 [B], each at least 1.
            mean: of the features [D], what a mask shows.
            louder: what each feature [D] rises by where all energies grow by the factor e.
        """
        frames, lengths = self._moved(frames, lengths)
        # 10 decibels are a factor of 10 in energy
        decibels = self.gain * (2 * torch.rand(len(frames), 1, 1) - 1)
        frames = frames + decibels * (torch.log(torch.tensor(10.0)) / 10) * louder
        for _ in range(self.masks):
            hidden = _spans(torch.full_like(lengths, frames.shape[2]), self.feature_mask, frames.shape[2])[:, None, :]
            most = (lengths // 5).clamp(max=self.time_mask)
            hidden = hidden | _spans(lengths, most, frames.shape[1])[:, :, None]
            frames = torch.where(hidden, mean, frames)
        steps = torch.arange(frames.shape[1])
        return frames * (steps < lengths[:, None])[..., None], lengths

    def _moved(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read each row at other places: every new frame lies between two old ones."""
        factor = 1 + self.stretch * (2 * torch.rand(len(frames)) - 1)
        moved = (self.shift * (2 * torch.rand(len(frames)) - 1)).round()
        new = (lengths * factor).round().long().clamp(min=1)
        steps = torch.arange(int(new.max()))
        place = (steps / factor[:, None] - moved[:, None]).clamp(min=0)
        place = torch.minimum(place, (lengths - 1)[:, None].float())
        before = place.floor().long()
        after = torch.minimum(before + 1, (lengths - 1)[:, None])
        share = (place - before)[..., None]
        wide = (-1, -1, frames.shape[2])
        old, next_one = (frames.gather(1, index[..., None].expand(wide)) for index in (before, after))
        return torch.lerp(old, next_one, share), new


def _spans(sizes: Tensor, most: Tensor | int, width: int) -> Tensor:
    """Return a run of True in each row [B, width], of 0 to `most` places, anywhere within the row's size."""
    length = (torch.rand(len(sizes)) * (torch.as_tensor(most) + 1)).floor()
    first = (torch.rand(len(sizes)) * (sizes - length + 1).clamp(min=1)).floor()
    places = torch.arange(width)
    return (places >= first[:, None]) & (places < (first + length)[:, None])
