"""What tasks share that give each row one class by a network: the objective, answers, scores, rows to look at."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from recur.errors import InputError
from recur.tasks.figures import score
from recur.tasks.job import Example, Member, Trained, longest
from recur.tasks.progress import Progress
from recur.tasks.training import Objective, SizedBatches

Probabilities = NDArray[np.float32]
Shown = Callable[[float], None]


class Labelled(Protocol):
    """A part of a data set."""

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Classes of its rows, [n]."""
        ...


P = TypeVar("P", bound=Labelled)


class ClassObjective(Objective):
    """Cross entropy to learn by, accuracy to choose by.

    Batches are tuples that begin with what the model reads, [B, T] or [B, T, D], and have `lengths` and `labels`.
    """

    monitor = "accuracy"

    @abstractmethod
    def logits(self, batch: Any) -> Tensor:
        """Return the scores of the classes [B, C], in training or evaluation as the model is."""

    def measure(self, batch: Any) -> tuple[Mapping[str, Tensor], int]:
        """Return the mean loss and accuracy of a batch, and its rows."""
        scores = self.logits(batch)
        right = (scores.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": F.cross_entropy(scores, batch.labels), "accuracy": right}, len(batch.labels)

    def probe(self, batch: Any, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return what the model reads of the first rows, their lengths, and their cross entropy."""
        read, lengths, labels = batch[0][:rows], batch.lengths[:rows], batch.labels[:rows]
        return (read[:, : int(lengths.max())], lengths), lambda scores: F.cross_entropy(scores, labels)

    def example(self, batch: Any, source: object, rows: str, steps: str) -> Example:
        """Return the rows of a batch to look at gradients on.

        Args:
            batch: the rows.
            source: where they come from, for the error.
            rows: what they are called.
            steps: what is counted in them.

        Raises:
            InputError: none of them has two steps.
        """
        lengths = batch.lengths.tolist()
        if max(lengths) < 2:
            raise InputError(
                f"{source}: the {len(lengths)} {rows} looked at must have one of at least 2 {steps}, for a gradient "
                f"to flow through; the longest has {max(lengths)}"
            )
        return Example(*self.probe(batch, len(lengths)), longest(batch.lengths))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run without dropouts and gradients, and leave the network as it was."""
    training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)


def probabilities(model: Any, batches: SizedBatches, rows: int, shown: Shown = lambda done: None) -> Probabilities:
    """Return the probability of each class for each row [n, C], in evaluation mode.

    Args:
        model: the network.
        batches: all rows, once.
        rows: how many there are.
        shown: is told which share of the batches is done.
    """
    result = np.empty((rows, model.config.classes), dtype=np.float32)
    device = next(model.parameters()).device
    with evaluating(model):
        for done, batch in enumerate(batches, start=1):
            scores = model(batch[0].to(device), batch.lengths.to(device))
            result[batch.index.numpy()] = scores.double().softmax(dim=1).float().cpu().numpy()
            shown(done / len(batches))
    return result


def score_members(
    trained: Sequence[Trained],
    answer: Callable[[Any, P, Shown], Probabilities],
    validation: P,
    test: P,
    progress: Progress,
) -> list[Member]:
    """Score networks on the validation and the test part; they show their probabilities on the latter.

    Args:
        trained: the networks.
        answer: from a network and a part to probabilities [n, C].
        validation: the part that chose the best epochs.
        test: the test part.
        progress: what is shown.
    """
    members = []
    for one in trained:
        guesses = [
            answer(one.model, part, partial(progress.share, f"scoring {one.name} on the {name} part"))
            for name, part in (("validation", validation), ("test", test))
        ]
        scores = score(guesses[0], validation.labels), score(guesses[1], test.labels)
        members.append(Member(one, *scores, shown=guesses[1]))
    return members
