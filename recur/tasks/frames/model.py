"""The objective of a listener, and its predictions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.frames import FrameBatch, FrameBatches, Frames
from recur.models.listener import Listener
from recur.tasks.frames.augment import Augmentation
from recur.tasks.training import Objective

Probabilities = NDArray[np.float32]


class FrameObjective(Objective):
    """Cross entropy to learn by, accuracy to choose by.

    Args:
        model: the listener.
        augmentation: what is done to the frames in training; None for nothing.
        louder: see `Augmentation`.
    """

    monitor = "accuracy"

    def __init__(self, model: Listener, augmentation: Augmentation | None = None, louder: Tensor | None = None) -> None:
        self.listener, self.model, self.augmentation = model, model, augmentation
        self.louder = torch.zeros(model.config.input_size) if louder is None else louder

    def measure(self, batch: FrameBatch) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss and accuracy of a batch, and its rows."""
        frames, lengths = batch.frames, batch.lengths
        if self.augmentation and self.model.training:
            frames, lengths = self.augmentation(frames, lengths, self.listener.mean, self.louder)
        scores = self.model(frames, lengths)
        right = (scores.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(scores, batch.labels), "accuracy": right}, len(batch.labels)

    def probe(self, batch: FrameBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return frames and lengths of the first rows, and their cross entropy."""
        frames, lengths, labels = batch.frames[:rows], batch.lengths[:rows], batch.labels[:rows]
        return (frames[:, : int(lengths.max())], lengths), lambda scores: F.cross_entropy(scores, labels)


@contextmanager
def evaluating(model: Listener) -> Iterator[None]:
    """Run without dropouts and gradients, and leave the network as it was."""
    training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)


def probabilities(
    model: Listener, frames: Frames, batch_size: int = 64, shown: Callable[[float], None] = lambda done: None
) -> Probabilities:
    """Return the probability of each class for each sequence [n, C], in evaluation mode.

    Args:
        model: the listener.
        frames: n sequences.
        batch_size: sequences at a time.
        shown: is told which share of the batches is done.
    """
    result = np.empty((len(frames), model.config.classes), dtype=np.float32)
    batches = FrameBatches(frames, None, batch_size, seed=0, shuffle=False)
    with evaluating(model):
        for done, batch in enumerate(batches, start=1):
            scores = model(batch.frames, batch.lengths)
            result[batch.index.numpy()] = scores.double().softmax(dim=1).float().numpy()
            shown(done / len(batches))
    return result
