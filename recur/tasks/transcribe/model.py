"""The transcriber's objective, and its texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recur.data.batches import PairBatch, PairBatches
from recur.data.frames import Frames
from recur.data.sequences import Sequences
from recur.models.ctc import LogProbabilities, align, best_path, ctc_losses, needed_steps, prefix_beam_search
from recur.models.transcriber import Transcriber
from recur.tasks.decoding import GREEDY, Search
from recur.tasks.frames.augment import Augmentation
from recur.tasks.many_to_one import evaluating
from recur.tasks.training import Objective
from recur.tasks.transcribe.edits import distance

# a beam does not grow by units of less probability
LEAST = 1e-5


class TranscribeObjective(Objective):
    """-ln p of the texts to learn by, the share of right units in the best paths to choose by.

    Args:
        model: the transcriber.
        augmentation: what is done to the frames in training; None for nothing.
        louder: see `Augmentation`.
    """

    monitor = "accuracy"

    def __init__(
        self, model: Transcriber, augmentation: Augmentation | None = None, louder: Tensor | None = None
    ) -> None:
        self.transcriber, self.model, self.augmentation = model, model, augmentation
        self.louder = torch.zeros(model.config.input_size) if louder is None else louder

    def measure(self, batch: PairBatch) -> tuple[Mapping[str, Tensor], int]:
        """Return -ln p for each unit, 1 less the errors for each unit, and how many units there are."""
        frames, lengths = batch.source, batch.source_lengths
        if self.augmentation and self.model.training:
            frames, lengths = self.augmentation(frames, lengths, self.transcriber.mean, self.louder)
        scores, steps = self.model(frames, lengths), self.transcriber.steps(lengths)
        texts = [ids[:length].tolist() for ids, length in zip(batch.target, batch.target_lengths, strict=True)]
        # a validation text, or one that was quickened, may need more steps than there are
        possible = torch.tensor([needed_steps(ids) for ids in texts]) <= steps
        losses = ctc_losses(scores, steps, batch.target, batch.target_lengths)
        loss = losses[possible].sum() / batch.target_lengths[possible].sum().clamp(min=1)
        found = [best_path(logs[:length]) for logs, length in zip(scores.detach().numpy(), steps.tolist(), strict=True)]
        errors, units = sum(map(distance, texts, found)), sum(map(len, texts))
        return {"loss": loss, "accuracy": torch.tensor(1 - errors / units)}, units

    def probe(self, batch: PairBatch, rows: int) -> tuple[Any, Callable[[Any], Tensor]]:
        """Return frames and lengths of the first rows, and -ln p of their texts for each unit."""
        frames, lengths, targets, sizes = (part[:rows] for part in batch[:4])
        steps = self.transcriber.steps(lengths)

        def loss(scores: Tensor) -> Tensor:
            return ctc_losses(scores, steps, targets, sizes).sum() / sizes.sum()

        return (frames[:, : int(lengths.max())], lengths), loss


@dataclass(frozen=True)
class Written:
    """The text of a sound."""

    ids: list[int]
    log_probability: float
    """ln p of the text, all its paths added up."""
    steps: list[int]
    """Where each unit begins in its most probable path."""


def transcribe(
    model: Transcriber,
    frames: Frames,
    search: Search = GREEDY,
    batch_size: int = 64,
    shown: Callable[[float], None] = lambda done: None,
) -> list[Written]:
    """Write the texts of sounds, in evaluation mode.

    Args:
        model: the transcriber.
        frames: n sounds.
        search: the best path, or a beam.
        batch_size: sounds at a time.
        shown: is told which share of the batches is done.

    Returns:
        The texts, in the order of the sounds.
    """
    written: dict[int, Written] = {}
    empty = Sequences.of([] for _ in range(len(frames)))
    batches = PairBatches(frames, empty, batch_size, seed=0, shuffle=False)
    with evaluating(model):
        for done, batch in enumerate(batches, start=1):
            steps = model.steps(batch.source_lengths)
            scores = model(batch.source, batch.source_lengths).double()
            rows = [logs[:n] for logs, n in zip(scores.log_softmax(-1).numpy(), steps.tolist(), strict=True)]
            texts = Sequences.of(_found(row, search) for row in rows)
            padded, lengths = map(torch.from_numpy, texts.padded(np.arange(len(texts))))
            losses = ctc_losses(scores, steps, padded, lengths).tolist()
            for number, ids, loss, row in zip(batch.index.tolist(), texts, losses, rows, strict=True):
                written[number] = Written(ids.tolist(), -loss, align(row, ids.tolist()))
            shown(done / len(batches))
    return [written[row] for row in range(len(frames))]


def _found(logs: LogProbabilities, search: Search) -> list[int]:
    return best_path(logs) if search.beam == 1 else prefix_beam_search(logs, search.beam, LEAST)[0][0]


def probabilities(model: Transcriber, frames: Tensor) -> Tensor:
    """Return the probability of each unit at each step [T', C] for the frames [T, D] of one sound, in evaluation."""
    with evaluating(model):
        scores: Tensor = model(frames[None], torch.tensor([len(frames)]))[0]
    return scores.double().softmax(-1)
