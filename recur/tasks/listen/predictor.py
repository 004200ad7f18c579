"""A trained listener: its answers, its scores on other sounds, and rows to look at its gradients on."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recur.data.sound import Sound, labelled_sounds, listed_sounds
from recur.data.spectra import Spectra
from recur.errors import InputError
from recur.models.listener import Listener
from recur.tasks.figures import Scores
from recur.tasks.frames.predictor import FramePredictor
from recur.tasks.job import Example, evenly
from recur.tasks.labels import Prediction
from recur.tasks.listen.data import read_part, validation_sounds
from recur.tasks.listen.options import ListenOptions
from recur.tasks.options import make_options
from recur.tasks.sounds.reading import Heard, read_frames


class ListenPredictor(FramePredictor):
    """A trained listener.

    Args:
        folder, config, model: as for every predictor.
        spectra: from samples to frames.
        labels: the classes, in the order of their numbers.
    """

    unit = "sounds"

    def __init__(
        self, folder: Path, config: Mapping[str, Any], model: Listener, spectra: Spectra, labels: list[str]
    ) -> None:
        super().__init__(folder, config, model, labels)
        self.spectra = spectra

    def predict(self, sounds: Iterable[Heard], batch_size: int = 64) -> list[Prediction]:
        """Say which class each sound belongs to.

        Args:
            sounds: paths of files, which are brought to the rate of the training sounds; or samples [n] at that rate.
            batch_size: sounds at a time.

        Raises:
            InputError: `sounds` is a single path, or a file cannot be read or is too short.
        """
        if isinstance(sounds, str | os.PathLike):
            raise InputError("`sounds` must be several sounds, got a single one; put it into a list: [sound]")
        return self.answers(read_frames(list(sounds), self.spectra), batch_size)

    def items(
        self, file: str | Path, *, sound: str | None = None, label: str | None = None, pattern: str | None = None
    ) -> Iterator[str]:
        """Yield the paths of the sounds in a folder or table; labels are not needed."""
        return (str(path) for path in listed_sounds(file, sound=sound or str(self.options.get("sound", "path"))))

    def line(self, item: str, answer: Prediction) -> str:
        """Return label, probability and path between tabs."""
        return f"{answer.label}\t{answer.probability:.4f}\t{item}"

    def json(self, item: str, answer: Prediction) -> dict[str, Any]:
        """Return an answer as JSON."""
        return {"path": item} | dataclasses.asdict(answer)

    def evaluate(
        self, path: str | Path, *, sound: str | None = None, label: str | None = None, pattern: str | None = None
    ) -> Scores:
        """Score the network on labelled sounds.

        Args:
            path: a folder or a table.
            sound: column of the paths; that of the training table by default.
            label: column of the labels; likewise.
            pattern: what of the files' names in a folder is the label; that of the training folder by default.

        Raises:
            InputError: a file cannot be read or has no label, or one that the network does not know.
        """
        part = read_part(self._sounds(path, sound, label, pattern), self.labels, self.spectra)
        return self.scored(part, path, [])

    def example(
        self,
        file: Path | None,
        rows: int,
        *,
        sound: str | None = None,
        label: str | None = None,
        pattern: str | None = None,
    ) -> Example:
        """Return sounds at even distances through a folder or table, or through the run's validation part.

        Raises:
            InputError: a file or label that does not fit, or the run's own file is gone or was changed.
        """
        sounds = self._validation() if file is None else self._sounds(file, sound, label, pattern)
        if not sounds:
            raise InputError(f"{file} must have at least one sound, got none")
        chosen = evenly(len(sounds), rows).tolist()
        part = read_part([sounds[row] for row in chosen], self.labels, self.spectra)
        return self.looked_at(part, file or self.folder)

    def _sounds(self, source: str | Path, sound: str | None, label: str | None, pattern: str | None) -> list[Sound]:
        if pattern is None and Path(source).is_dir():
            pattern = self.options.get("pattern")
        names = {"sound": sound, "label": label}
        chosen = {name: str(given or self.options.get(name, name)) for name, given in names.items()}
        return labelled_sounds(source, pattern=pattern, **chosen)

    def _validation(self) -> list[Sound]:
        """Return the sounds that chose the best epoch."""
        self.own_file(self.validation_file)
        return validation_sounds(make_options(ListenOptions, self.options, str(self.folder / "config.json")))
