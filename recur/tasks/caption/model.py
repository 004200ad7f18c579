"""The captioner's and the frame labeller's objectives, and what they make of pictures."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.pictures import ClipBatch, ClipBatches, Clips
from recur.data.sequences import Sequences
from recur.models.captioner import Captioner, FrameLabeller
from recur.models.decoder import BEGIN, PAD, UNKNOWN
from recur.models.decoding import Hypothesis
from recur.tasks.caption.augment import Affine
from recur.tasks.decoding import GREEDY, Decoding
from recur.tasks.training import Objective
from recur.tasks.writing import shifted, write

# what no caption holds
BANNED = (PAD, UNKNOWN, BEGIN)
# a caption has at most so many words for each of the longest one learned from, and besides
LONGER, LONGEST_MORE = 1.5, 5

Shown = Callable[[float], None]


def silent(done: float) -> None:
    """Show nothing."""


class CaptionObjective(Objective):
    """Cross entropy at the words of the captions, the words before given.

    Args:
        model: what is trained.
        affine: what is done to the pictures in training.
        one_each: whether each validation picture has one caption: the share of captions whose every word is scored
            highest, which are those that greedy search writes to the letter, then chooses the best epoch.
    """

    def __init__(self, model: Captioner, affine: Affine | None = None, *, one_each: bool = True) -> None:
        self.model: Captioner = model
        self.affine = affine or Affine()
        self.monitor = "exact" if one_each else "loss"

    def measure(self, batch: ClipBatch) -> tuple[Mapping[str, Any], int]:
        """Return the mean cross entropy (nats) and accuracy of a batch's words, and the share of exact captions."""
        pictures = self.affine(batch.pictures) if self.model.training else batch.pictures
        scores = self.model(pictures, batch.lengths, shifted(batch.target), batch.target_lengths)
        known = batch.target != 0
        right = allowed(scores).argmax(-1) == batch.target
        figures = {
            "loss": F.cross_entropy(scores[known], batch.target[known]),
            "word accuracy": right[known].float().mean(),
            "exact": ((right | ~known).all(1).float().mean(), len(right)),
        }
        return figures, int(known.sum())

    def probe(self, batch: ClipBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return the first rows of a batch, and their cross entropy."""
        few = batch.first(rows)
        inputs = (few.pictures, few.lengths, shifted(few.target), few.target_lengths)
        known = few.target != 0
        return inputs, lambda scores: F.cross_entropy(scores[known], few.target[known])


class LabelObjective(Objective):
    """Cross entropy of the frames' labels to learn by, accuracy to choose by.

    Args:
        model: what is trained.
        affine: what is done to the frames in training.
    """

    monitor = "accuracy"

    def __init__(self, model: FrameLabeller, affine: Affine | None = None) -> None:
        self.model: FrameLabeller = model
        self.affine = affine or Affine()

    def measure(self, batch: ClipBatch) -> tuple[Mapping[str, Any], int]:
        """Return the mean loss and accuracy over the frames of a batch, and how many frames there are."""
        pictures = self.affine(batch.pictures) if self.model.training else batch.pictures
        inside = _inside(batch)
        scores, truth = self.model(pictures, batch.lengths)[inside], batch.target[inside]
        right = (scores.argmax(-1) == truth).float().mean()
        return {"loss": F.cross_entropy(scores, truth), "accuracy": right}, len(truth)

    def probe(self, batch: ClipBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return the first rows of a batch, and their cross entropy."""
        few = batch.first(rows)
        inside = _inside(few)
        return (few.pictures, few.lengths), lambda scores: F.cross_entropy(scores[inside], few.target[inside])


def _inside(batch: ClipBatch) -> Tensor:
    """Return which steps [B, T] are frames."""
    return torch.arange(batch.pictures.shape[1]) < batch.lengths[:, None]


def allowed(scores: Tensor) -> Tensor:
    """Return scores with those of what no caption holds at -inf."""
    return scores.index_fill(-1, torch.tensor(BANNED), -torch.inf)


def longest_caption(targets: Sequences) -> int:
    """Return how many words a caption may have at most, by those that are learned from."""
    return round(LONGER * int(targets.lengths.max(initial=1))) + LONGEST_MORE


@torch.no_grad()
def captions(
    model: Captioner,
    clips: Clips,
    most: int,
    search: Decoding = GREEDY,
    *,
    batch_size: int = 64,
    shown: Shown = silent,
) -> list[Hypothesis]:
    """Write a caption for each clip, in evaluation mode.

    Args:
        model: the network.
        clips: n pictures.
        most: words to write at most.
        search: greedy, or a beam.
        batch_size: pictures at a time.
        shown: is told which share of the batches is done.
    """
    written: list[Hypothesis | None] = [None] * len(clips)
    training = model.training
    model.eval()
    batches = _without_targets(clips, batch_size)
    for done, batch in enumerate(batches, start=1):
        state = model.start(batch.pictures, batch.lengths)
        found = write(model, state, torch.full_like(batch.lengths, most), search, BANNED)
        for row, one in zip(batch.index.tolist(), found, strict=True):
            written[row] = one
        shown(done / len(batches))
    model.train(training)
    return [one for one in written if one is not None]


@torch.no_grad()
def cross_entropy(
    model: Captioner, clips: Clips, targets: Sequences, owners: NDArray[np.int64], batch_size: int = 64
) -> tuple[float, float]:
    """Return the mean cross entropy of the captions' words in nats, and the share of them scored highest."""
    objective = CaptionObjective(model)
    training = model.training
    model.eval()
    loss = right = count = 0.0
    for batch in ClipBatches(clips, targets, owners, batch_size=batch_size, shuffle=False):
        figures, words = objective.measure(batch)
        loss += words * float(figures["loss"])
        right += words * float(figures["word accuracy"])
        count += words
    model.train(training)
    return loss / count, right / count


@torch.no_grad()
def label_probabilities(
    model: FrameLabeller, clips: Clips, *, batch_size: int = 64, shown: Shown = silent
) -> NDArray[np.float32]:
    """Return the probability of each label for every frame of all clips, one clip after the other, [N, C]."""
    result = np.empty((len(clips.values), model.config.labels), dtype=np.float32)
    training = model.training
    model.eval()
    batches = _without_targets(clips, batch_size)
    for done, batch in enumerate(batches, start=1):
        found = model(batch.pictures, batch.lengths).double().softmax(-1).float().numpy()
        for place, row in enumerate(batch.index.tolist()):
            start, end = clips.offsets[row : row + 2]
            result[start:end] = found[place, : end - start]
        shown(done / len(batches))
    model.train(training)
    return result


def _without_targets(clips: Clips, batch_size: int) -> ClipBatches:
    empty = Sequences.of([] for _ in range(len(clips)))
    return ClipBatches(clips, empty, batch_size=batch_size, shuffle=False)
