"""Pictures changed at random in training, in ways that leave their caption: moved, turned, made larger or smaller."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Affine:
    """An affine map of the pictures of a batch, one for each row; all numbers come from torch's generator."""

    shift: int = 0
    """Most pixels that a row is moved by, up or down and to a side."""
    rotate: float = 0.0
    """Most degrees that it is turned by, either way."""
    zoom: float = 0.0
    """Most that it is made larger or smaller by, a share."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return changed pixels [B, T, C, H, W] as floats; what comes in from outside is the nearest edge."""
        if not (self.shift or self.rotate or self.zoom):
            return pictures
        rows, (height, width) = len(pictures), pictures.shape[3:]
        drawn = 2 * torch.rand(4, rows) - 1
        angle, scale = drawn[0] * math.radians(self.rotate), 1 + drawn[1] * self.zoom
        down, right = 2 * self.shift * drawn[2] / height, 2 * self.shift * drawn[3] / width
        cos, sin = scale * angle.cos(), scale * angle.sin()
        # places run from -1 to 1 along both sides, however long
        maps = torch.stack([cos, -sin * height / width, right, sin * width / height, cos, down], 1).view(rows, 2, 3)
        grid = F.affine_grid(maps, [rows, 1, height, width], align_corners=False)
        moved = F.grid_sample(pictures.flatten(1, 2).float(), grid, padding_mode="border", align_corners=False)
        return moved.view(pictures.shape)
