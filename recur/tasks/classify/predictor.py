"""A trained classifier: its answers, its scores on other files, and rows to look at its gradients on."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recur.data.batches import LengthBatches
from recur.data.tables import read_table
from recur.errors import InputError
from recur.models.classifier import Classifier
from recur.tasks.classify.data import Encoder, LabelledFile, read_labelled
from recur.tasks.classify.model import ClassifyObjective, probabilities
from recur.tasks.figures import Scores, score
from recur.tasks.job import Example, Predictor, evenly
from recur.tasks.labels import Prediction, Rows, predictions, scores_text, split


class ClassifyPredictor(Predictor):
    """A trained classifier.

    Args:
        folder, config, model: as for every predictor.
        encoder: from texts to ids.
        labels: the classes, in the order of their numbers.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], model: Classifier, encoder: Encoder, labels: list[str]
    ) -> None:
        super().__init__(folder, config, model)
        self.encoder, self.labels = encoder, labels

    def predict(self, texts: Iterable[str], batch_size: int = 128) -> list[Prediction]:
        """Say which class each text belongs to.

        Args:
            texts: any number; an empty one is answered as well.
            batch_size: texts at a time.

        Raises:
            InputError: `texts` is a single string.
        """
        if isinstance(texts, str):
            raise InputError("`texts` must be several texts, got a single one; put it into a list: [text]")
        guesses = probabilities(self.model, self.encoder(texts), batch_size)
        return list(predictions(self.labels, guesses))

    def items(
        self, file: str | Path, *, text: str | None = None, label: str | None = None, skip_bad_rows: bool = False
    ) -> Iterator[str]:
        """Yield the texts of a table, in a stream."""
        column = text or self.options.get("text", "text")
        return (row[column] for row in read_table(file, [column], skip_bad_rows=skip_bad_rows))

    def line(self, item: str, answer: Prediction) -> str:
        """Return label, probability and text between tabs."""
        return f"{answer.label}\t{answer.probability:.4f}\t{' '.join(item.split())}"

    def evaluate(
        self, path: str | Path, *, text: str | None = None, label: str | None = None, skip_bad_rows: bool = False
    ) -> Scores:
        """Score the network on a file of labelled texts.

        Args:
            path: the file.
            text: column of the texts; that of the training file by default.
            label: column of the labels; likewise.
            skip_bad_rows: leave broken rows out.

        Raises:
            InputError: the file cannot be read, or has a label that the network does not know.
        """
        file = LabelledFile(str(path), *self._columns(text, label), skip_bad_rows)
        part, notes = read_labelled(file, self.encoder, self.labels)
        scores = score(probabilities(self.model, part.sequences, self.options.get("batch_size", 128)), part.labels)
        return dataclasses.replace(scores, notes=(*notes, *self.warn_if_learned(path)))

    def shown(self, scores: Scores) -> str:
        """Return accuracy, F1, loss and the confusion."""
        return scores_text(self.labels, scores, "texts")

    def example(
        self,
        file: Path | None,
        rows: int,
        *,
        text: str | None = None,
        label: str | None = None,
        skip_bad_rows: bool = False,
    ) -> Example:
        """Return rows at even distances through a file, or through the validation part of the training file.

        Raises:
            InputError: a file, column or label that does not fit, no text of two tokens, or the run's own file is gone
                or was changed.
        """
        source = self._chosen(file, rows, self._columns(text, label), skip_bad_rows)
        part, _ = read_labelled(source, self.encoder, self.labels)
        if not len(part.labels):
            raise InputError(f"{source.path} must have at least one row, got none")
        (batch,) = LengthBatches(part.sequences, part.labels, len(part.labels), seed=0, shuffle=False)
        return ClassifyObjective(self.model).example(batch, source.path, "texts", "tokens")

    def _columns(self, text: str | None, label: str | None) -> tuple[str, str]:
        return str(text or self.options.get("text", "text")), str(label or self.options.get("label", "label"))

    def _chosen(self, path: Path | None, rows: int, columns: tuple[str, str], skip_bad_rows: bool) -> LabelledFile:
        options = self.options
        if path is not None:
            file = LabelledFile(str(path), *columns, skip_bad_rows)
            numbers: Rows = np.arange(sum(1 for _ in file))
        else:
            file = LabelledFile(self.own_file(self.validation_file), *columns, bool(options.get("skip_bad_rows")))
            classes = {label: number for number, label in enumerate(self.labels)}
            found = np.array([classes[label] for _, label in file], dtype=np.int64)
            numbers = np.arange(len(found))
            if self.validation_file == "train":
                numbers = split(
                    found, options["validation_share"], 0.0 if options.get("test") else options["test_share"]
                )[1]
        return dataclasses.replace(file, rows=numbers[evenly(len(numbers), rows)])
