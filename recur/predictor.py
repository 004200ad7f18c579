"""`recur.load(run)`: a trained network from its run folder, ready to predict."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recur.data.tables import fingerprint
from recur.errors import InputError, RunError
from recur.tasks.classify_data import LabelledFile, read_labelled
from recur.tasks.classify_model import Trained, probabilities, read_trained
from recur.tasks.figures import Scores, score
from recur.tasks.run import read_config, read_metrics


@dataclass(frozen=True)
class Prediction:
    """What a network says of a text."""

    label: str
    """The most probable class."""
    probability: float
    """Its probability."""
    probabilities: dict[str, float]
    """That of every class."""


class Predictor:
    """A trained classifier.

    Args:
        folder: its run folder.
        trained: what was read from there.
    """

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder, self.model, self.labels = folder, trained.model, trained.labels
        self.encoder = trained.encoder
        self._options: dict[str, Any] = trained.config.get("options", {})
        self._data: dict[str, Any] = trained.config.get("data", {})

    @property
    def text_column(self) -> str:
        """The column of the texts in the training file."""
        return str(self._options.get("text", "text"))

    def predict(self, texts: Iterable[str], batch_size: int = 128) -> list[Prediction]:
        """Say which class each text belongs to.

        Args:
            texts: any number; an empty text is answered as well.
            batch_size: texts at a time.

        Raises:
            InputError: `texts` is a single string.
        """
        if isinstance(texts, str):
            raise InputError("`texts` must be several texts, got a single one; put it into a list: [text]")
        guesses = probabilities(self.model, self.encoder(texts), batch_size)
        predictions = []
        for row in guesses.tolist():
            best = max(range(len(row)), key=row.__getitem__)
            predictions.append(Prediction(self.labels[best], row[best], dict(zip(self.labels, row, strict=True))))
        return predictions

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
        columns = (text or self.text_column, label or self._options.get("label", "label"))
        part, notes = read_labelled(LabelledFile(str(path), *columns, skip_bad_rows), self.encoder, self.labels)
        if fingerprint(path)["sha256"] == self._data.get("train", {}).get("sha256"):
            notes.append(
                f"{path} is the file that the network was trained on; the score says nothing about other texts"
            )
        batch_size = self._options.get("batch_size", 128)
        scores = score(probabilities(self.model, part.sequences, batch_size), part.labels)
        return replace(scores, notes=tuple(notes))


def load(run: str | Path) -> Predictor:
    """Read a trained network.

    Args:
        run: a run folder, wherever it lies now; of a run with several cells or seeds the network that was best on the
            validation part is taken. Nothing that is read can hold code.

    Returns:
        The predictor.

    Raises:
        RunError: not a finished run, or a damaged file; the message names it.

    Example:
        >>> recur.load("runs/reviews").predict(["a film to remember"])[0].label  # doctest: +SKIP
        'pos'
    """
    folder = Path(run)
    config = read_config(folder)
    if members := config.get("members"):
        best = str(read_metrics(folder).get("best"))
        if best not in members:
            raise RunError(f"{folder / 'metrics.json'} must name one of the members {', '.join(members)}, got {best!r}")
        folder = folder / best
    return Predictor(folder, read_trained(folder))
