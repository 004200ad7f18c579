"""The parts of a data set of labelled sequences of frames, and what they must not have in common."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recur.data.frames import Frames


class Part(NamedTuple):
    """One part of a data set."""

    frames: Frames
    """Of each sequence."""
    labels: NDArray[np.int64]
    """Their classes, [n] in 0..classes-1."""
    names: Sequence[str]
    """What a person knows them by, such as their paths."""

    def known(self, *others: "Part") -> int:
        """Return how many of these sequences are in other parts too."""
        return self.frames.known(*(other.frames for other in others))

    def sample(self, rows: int) -> "Part":
        """Return so many of the sequences, drawn by chance; all if they are no more."""
        if len(self.labels) <= rows:
            return self
        index = np.sort(np.random.default_rng(0).choice(len(self.labels), rows, replace=False, shuffle=False))
        return Part(self.frames.take(index), self.labels[index], [self.names[row] for row in index.tolist()])


class Learned(Protocol):
    """What a run on frames learns from."""

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of their numbers."""
        ...

    @property
    def train(self) -> Part:
        """What the network learns from."""
        ...

    @property
    def validation(self) -> Part:
        """What chooses the best epoch."""
        ...

    @property
    def notes(self) -> list[str]:
        """What a person should know of the data."""
        ...
