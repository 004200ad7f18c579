"""The classifier's objective, and its predictions."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.batches import Batch, LengthBatches
from recur.data.sequences import Sequences
from recur.layers.evidence import Evidence
from recur.models.classifier import Classifier
from recur.tasks.classify.baselines import Part
from recur.tasks.training import Objective

Probabilities = NDArray[np.float32]
COUNTED_IDS = 1 << 22


class ClassifyObjective(Objective):
    """Cross entropy to learn by, accuracy to choose by."""

    monitor = "accuracy"

    def __init__(self, model: Classifier) -> None:
        self.model = model

    def measure(self, batch: Batch) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss and accuracy of a batch, and its rows."""
        # a training text must not meet itself among the counts of `evidence`
        scores = self.model(batch.tokens, batch.lengths, batch.labels if self.model.training else None)
        right = (scores.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(scores, batch.labels), "accuracy": right}, len(batch.labels)

    def probe(self, batch: Batch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return tokens and lengths of the first rows, and their cross entropy."""
        tokens, lengths, labels = batch.tokens[:rows], batch.lengths[:rows], batch.labels[:rows]
        return (tokens[:, : int(lengths.max())], lengths), lambda scores: F.cross_entropy(scores, labels)


def count_evidence(evidence: Evidence, part: Part) -> None:
    """Count the training part, about so many ids at a time that they fit into memory with all that is made of them."""
    ends = part.sequences.offsets
    bounds = np.searchsorted(ends, np.arange(0, ends[-1] + COUNTED_IDS, COUNTED_IDS)).clip(max=len(part.labels))
    for first, last in itertools.pairwise(np.unique(np.append(bounds, len(part.labels)))):
        texts = part.sequences.take(np.arange(first, last))
        counted = (texts.values, texts.lengths, part.labels[first:last])
        evidence.count(*(torch.from_numpy(numbers.astype(np.int64)) for numbers in counted))


@torch.no_grad()
def probabilities(
    model: Classifier,
    sequences: Sequences,
    batch_size: int = 128,
    shown: Callable[[float], None] = lambda done: None,
) -> Probabilities:
    """Return the probability of each class for each sequence [n, C], in evaluation mode.

    Args:
        model: the classifier.
        sequences: n of them.
        batch_size: sequences at a time.
        shown: is told which share of the batches is done.
    """
    result = np.empty((len(sequences), model.config.classes), dtype=np.float32)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    batches = LengthBatches(sequences, None, batch_size, seed=0, shuffle=False)
    for done, batch in enumerate(batches, start=1):
        scores = model(batch.tokens.to(device), batch.lengths.to(device))
        result[batch.index.numpy()] = scores.double().softmax(dim=1).float().cpu().numpy()
        shown(done / len(batches))
    model.train(training)
    return result
