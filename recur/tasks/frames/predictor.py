"""What predictors of labels for sequences of frames share: answers, scores, and rows to look at gradients on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recur.data.frames import FrameBatches, Frames
from recur.models.listener import Listener
from recur.tasks.figures import Scores, score
from recur.tasks.frames.model import FrameObjective, probabilities
from recur.tasks.frames.parts import Part
from recur.tasks.job import Example, Predictor
from recur.tasks.labels import Prediction, predictions, scores_text


class FramePredictor(Predictor):
    """A trained listener.

    Args:
        folder, config, model: as for every predictor.
        labels: the classes, in the order of their numbers.
    """

    unit: str
    """What sequences are called."""

    def __init__(self, folder: Path, config: Mapping[str, Any], model: Listener, labels: list[str]) -> None:
        super().__init__(folder, config, model)
        self.labels = labels

    def shown(self, scores: Scores) -> str:
        """Return accuracy, F1, loss and the confusion."""
        return scores_text(self.labels, scores, self.unit)

    def answers(self, frames: Frames, batch_size: int) -> list[Prediction]:
        """Say which class each sequence belongs to."""
        return list(predictions(self.labels, probabilities(self.model, frames, batch_size)))

    def scored(self, part: Part, path: str | Path, notes: list[str]) -> Scores:
        """Score the network on sequences of a file, with notes on them."""
        scores = score(probabilities(self.model, part.frames, self.options.get("batch_size", 64)), part.labels)
        return dataclasses.replace(scores, notes=(*notes, *self.warn_if_learned(path)))

    def looked_at(self, part: Part, source: str | Path) -> Example:
        """Return sequences to look at gradients on.

        Raises:
            InputError: none of them has two steps.
        """
        (batch,) = FrameBatches(part.frames, part.labels, len(part.labels), seed=0, shuffle=False)
        return FrameObjective(self.model).example(batch, source, self.unit, "steps")
