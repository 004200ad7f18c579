"""The objective of a listener, and its predictions."""

from torch import Tensor, zeros

from recur.data.frames import FrameBatch, FrameBatches, Frames
from recur.models.listener import Listener
from recur.tasks import many_to_one
from recur.tasks.frames.augment import Augmentation
from recur.tasks.many_to_one import ClassObjective, Probabilities, Shown


class FrameObjective(ClassObjective):
    """The objective of sequences of frames.

    Args:
        model: the listener.
        augmentation: what is done to the frames in training; None for nothing.
        louder: see `Augmentation`.
    """

    def __init__(self, model: Listener, augmentation: Augmentation | None = None, louder: Tensor | None = None) -> None:
        self.listener, self.model, self.augmentation = model, model, augmentation
        self.louder = zeros(model.config.input_size) if louder is None else louder

    def logits(self, batch: FrameBatch) -> Tensor:
        """Return the scores of the classes; of changed frames in training."""
        frames, lengths = batch.frames, batch.lengths
        if self.augmentation and self.model.training:
            frames, lengths = self.augmentation(frames, lengths, self.listener.mean, self.louder)
        scores: Tensor = self.model(frames, lengths)
        return scores


def probabilities(
    model: Listener, frames: Frames, batch_size: int = 64, shown: Shown = lambda done: None
) -> Probabilities:
    """Return the probability of each class for each sequence [n, C], in evaluation mode.

    Args:
        model: the listener.
        frames: n sequences.
        batch_size: sequences at a time.
        shown: is told which share of the batches is done.
    """
    batches = FrameBatches(frames, None, batch_size, seed=0, shuffle=False)
    return many_to_one.probabilities(model, batches, len(frames), shown)
