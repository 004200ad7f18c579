"""The memory network's objective, and its answers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.stories import Stories, StoryBatch, StoryBatches
from recur.models.memory import MemoryNetwork
from recur.tasks.training import Objective

Probabilities = NDArray[np.float32]


class AnswerObjective(Objective):
    """Cross entropy to learn by, accuracy to choose by.

    Args:
        model: the memory network.
    """

    monitor = "accuracy"

    def __init__(self, model: MemoryNetwork) -> None:
        self.model = model

    def measure(self, batch: StoryBatch) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss and accuracy of a batch, and its rows; an answer that is no class is wrong."""
        scores = self.model(*batch[:4])
        right = (scores.argmax(dim=1) == batch.answers).float().mean()
        return {"loss": _loss(scores, batch.answers), "accuracy": right}, len(batch.answers)

    def probe(self, batch: StoryBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return sentences, stories, questions and lengths of the first rows, and their cross entropy."""
        lengths, answers = batch.lengths[:rows], batch.answers[:rows]
        story = batch.story[:rows, : max(1, int(lengths.max()))]
        return (batch.sentences, story, batch.question[:rows], lengths), lambda scores: _loss(scores, answers)


def _loss(scores: Tensor, answers: Tensor) -> Tensor:
    known = answers >= 0
    return F.cross_entropy(scores[known], answers[known], reduction="sum") / known.sum().clamp(min=1)


def probabilities(
    model: MemoryNetwork, stories: Stories, batch_size: int = 64, shown: Callable[[float], None] = lambda done: None
) -> Probabilities:
    """Return the probability of each answer for each question [n, C], in evaluation mode.

    Args:
        model: the memory network.
        stories: n questions.
        batch_size: questions at a time.
        shown: is told which share of the batches is done.
    """
    result = np.empty((len(stories.questions), model.config.classes), dtype=np.float32)
    batches = StoryBatches(stories, batch_size, seed=0, shuffle=False)
    for done, (index, scores) in enumerate(_each(model, model, batches), start=1):
        result[index] = scores.double().softmax(dim=1).float().numpy()
        shown(done / len(batches))
    return result


def reads(model: MemoryNetwork, stories: Stories) -> list[NDArray[np.float64]]:
    """Return what each pass of each hop takes of each sentence, [P, S] for each question: see `MemoryNetwork.reads`."""
    found: dict[int, NDArray[np.float64]] = {}
    lengths = stories.stories.lengths
    for index, shares in _each(model, model.reads, StoryBatches(stories, 64, seed=0, shuffle=False)):
        for row, share in zip(index.tolist(), shares.double().numpy(), strict=True):
            found[row] = share[:, : lengths[row]]
    return [found[row] for row in range(len(found))]


@torch.no_grad()
def _each(
    model: MemoryNetwork, run: Callable[..., Tensor], batches: StoryBatches
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield rows and what `run` makes of them, the model in evaluation."""
    training = model.training
    model.eval()
    try:
        for batch in batches:
            yield batch.index.numpy(), run(*batch[:4])
    finally:
        model.train(training)
