"""Random convolutions: many small kernels that nobody trains, and a linear map from what they find to the labels."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.frames import Frames
from recur.tasks.frames.parts import Part

KERNELS, WIDTH = 500, 9
PENALTIES = (1e-3, 1e-1, 1e1, 1e3)
AT_A_TIME = 1 << 15  # steps that are looked at together, few enough for the caches


def random_convolutions(train: Part, validation: Part, test: Part, classes: int) -> list[NDArray[np.int64]]:
    """Return the answers for validation and test part of ridge regression on random convolutions.

    Dempster et al. 2020, arXiv:1910.13051 (ROCKET), sections 3.1 and 3.2, with fewer kernels, all of width 9 and each
    on one number of a step: the largest value of each kernel, and the share of steps at which it is above zero.
    """
    mean, deviation = (torch.from_numpy(m).float() for m in train.frames.moments())
    deviation = torch.where(deviation > 0, deviation, 1.0)
    kernels = _Kernels(train.frames.size, int(np.median(train.frames.lengths)))
    found = [_features(part.frames, kernels, mean, deviation) for part in (train, validation, test)]
    middle, spread = found[0].mean(0), found[0].std(0).clamp(min=1e-6)
    learned, *others = ((table - middle) / spread for table in found)
    wanted = 2 * F.one_hot(torch.from_numpy(train.labels), classes).double() - 1
    values, axes = torch.linalg.eigh(learned.T @ learned)
    along = axes.T @ (learned.T @ (wanted - wanted.mean(0)))
    best, answers = -1.0, list[NDArray[np.int64]]()
    for penalty in PENALTIES:
        # the eigenvalues of so many rows grow with their number
        weights = axes @ (along / (values.clamp(min=0) + penalty * len(learned))[:, None])
        guesses = [(table @ weights + wanted.mean(0)).argmax(1).numpy() for table in others]
        reached = float((guesses[0] == validation.labels).mean())
        if reached > best:
            best, answers = reached, guesses
    return answers


class _Kernels:
    """Kernels with random weights, biases, dilations and numbers of a step to look at, the same in every run."""

    def __init__(self, size: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(KERNELS, 1, WIDTH, generator=generator)
        self.weights = weights - weights.mean(2, keepdim=True)
        self.biases = 2 * torch.rand(KERNELS, generator=generator) - 1
        columns = torch.randint(size, (KERNELS,), generator=generator).tolist()
        most = max(0.0, float(np.log2(max(1, steps - 1) / (WIDTH - 1))))
        dilations = (2 ** (most * torch.rand(KERNELS, generator=generator))).long().tolist()
        pairs = list(zip(columns, dilations, strict=True))
        self.alike = {
            pair: torch.tensor([i for i, own in enumerate(pairs) if own == pair]) for pair in sorted(set(pairs))
        }
        """Numbers of the kernels that look at one number of a step with one dilation."""


def _features(frames: Frames, kernels: _Kernels, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return two numbers for each kernel, float64 [n, 2 K]."""
    table = torch.empty(len(frames), KERNELS, 2)
    order = np.argsort(frames.lengths, kind="stable")
    rows = max(1, AT_A_TIME // int(frames.lengths.max()))
    for first in range(0, len(frames), rows):
        index = order[first : first + rows]
        padded, lengths = (torch.from_numpy(array) for array in frames.padded(index))
        inside = torch.arange(padded.shape[1]) < lengths[:, None]
        scaled = ((padded - mean) / deviation * inside[..., None]).transpose(1, 2)
        outside = None if bool(inside.all()) else ~inside[:, None]
        for (column, dilation), own in kernels.alike.items():
            reach = dilation * (WIDTH - 1) // 2
            found = F.conv1d(
                scaled[:, column, None], kernels.weights[own], kernels.biases[own], padding=reach, dilation=dilation
            )
            if outside is not None:
                found.masked_fill_(outside, -torch.inf)
            both = [found.amax(2), (found > 0).sum(2) / lengths[:, None]]
            table[torch.from_numpy(index)[:, None], own] = torch.stack(both, dim=2)
    return table.flatten(1).double()
