"""The classifier's objective, and its predictions."""

import itertools

import numpy as np
import torch
from torch import Tensor

from recur.data.batches import Batch, LengthBatches
from recur.data.sequences import Sequences
from recur.layers.evidence import Evidence
from recur.models.classifier import Classifier
from recur.tasks import many_to_one
from recur.tasks.classify.baselines import Part
from recur.tasks.many_to_one import ClassObjective, Probabilities, Shown

COUNTED_IDS = 1 << 22


class ClassifyObjective(ClassObjective):
    """The objective of texts."""

    def __init__(self, model: Classifier) -> None:
        self.model = model

    def logits(self, batch: Batch) -> Tensor:
        """Return the scores of the classes."""
        # a training text must not meet itself among the counts of `evidence`
        scores: Tensor = self.model(batch.tokens, batch.lengths, batch.labels if self.model.training else None)
        return scores


def count_evidence(evidence: Evidence, part: Part) -> None:
    """Count the training part, about so many ids at a time that they fit into memory with all that is made of them."""
    ends = part.sequences.offsets
    bounds = np.searchsorted(ends, np.arange(0, ends[-1] + COUNTED_IDS, COUNTED_IDS)).clip(max=len(part.labels))
    for first, last in itertools.pairwise(np.unique(np.append(bounds, len(part.labels)))):
        texts = part.sequences.take(np.arange(first, last))
        counted = (texts.values, texts.lengths, part.labels[first:last])
        evidence.count(*(torch.from_numpy(numbers.astype(np.int64)) for numbers in counted))


def probabilities(
    model: Classifier, sequences: Sequences, batch_size: int = 128, shown: Shown = lambda done: None
) -> Probabilities:
    """Return the probability of each class for each sequence [n, C], in evaluation mode.

    Args:
        model: the classifier.
        sequences: n of them.
        batch_size: sequences at a time.
        shown: is told which share of the batches is done.
    """
    batches = LengthBatches(sequences, None, batch_size, seed=0, shuffle=False)
    return many_to_one.probabilities(model, batches, len(sequences), shown)
