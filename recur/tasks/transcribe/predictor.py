"""A trained transcriber: its texts, its scores on other sounds, and rows to look at its gradients on."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recur.data.batches import PairBatches
from recur.data.sound import listed_sounds
from recur.data.spectra import Spectra
from recur.errors import InputError
from recur.models.transcriber import Transcriber
from recur.tasks.decoding import Search
from recur.tasks.job import Example, Predictor, evenly, longest
from recur.tasks.job_result import percent
from recur.tasks.options import make_options
from recur.tasks.sounds.reading import Heard, read_frames
from recur.tasks.transcribe.data import Part, Utterance, find_parts, read_part, read_rows
from recur.tasks.transcribe.model import TranscribeObjective, transcribe
from recur.tasks.transcribe.options import TranscribeOptions
from recur.tasks.transcribe.scores import TranscribeScores, score
from recur.tasks.transcribe.units import Units


@dataclass(frozen=True)
class Transcription:
    """What a network hears."""

    text: str
    log_probability: float
    """ln p of the text."""
    units: list[tuple[float, str]]
    """The second at which each unit begins in the most probable alignment, and the unit."""


class TranscribePredictor(Predictor):
    """A trained transcriber.

    Args:
        folder, config, model: as for every predictor.
        spectra: from samples to frames.
        units: from texts to ids and back.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], model: Transcriber, spectra: Spectra, units: Units
    ) -> None:
        super().__init__(folder, config, model)
        self.spectra, self.units = spectra, units

    def predict(self, sounds: Iterable[Heard], *, beam: int = 1, batch_size: int = 64) -> list[Transcription]:
        """Write what is said in each sound.

        Args:
            sounds: paths of files, which are brought to the rate of the training sounds; or samples [n] at that rate.
            beam: width of the beam of texts; 1 takes the most probable path.
            batch_size: sounds at a time.

        Raises:
            InputError: `sounds` is a single path, a file cannot be read or is too short, or `beam` is below 1.
        """
        if isinstance(sounds, str | os.PathLike):
            raise InputError("`sounds` must be several sounds, got a single one; put it into a list: [sound]")
        search = Search(beam=beam)
        search.check()
        found = transcribe(self.model, read_frames(list(sounds), self.spectra), search, batch_size)
        step = self.model.config.stack * self.spectra.hop / self.spectra.rate
        name = self.units.vocabulary.token
        return [
            Transcription(
                self.units.text(one.ids),
                one.log_probability,
                [(round(at * step, 3), name(unit)) for at, unit in zip(one.steps, one.ids, strict=True)],
            )
            for one in found
        ]

    def items(self, file: str | Path, *, sound: str | None = None, text: str | None = None) -> Iterator[str]:
        """Yield the paths of the sounds in a folder or table; texts are not needed."""
        return map(str, listed_sounds(file, sound=sound or str(self.options.get("sound", "path"))))

    def line(self, item: str, answer: Transcription) -> str:
        """Return text and path between tabs."""
        return f"{answer.text}\t{item}"

    def json(self, item: str, answer: Transcription) -> dict[str, Any]:
        """Return an answer as JSON."""
        return {"path": item} | dataclasses.asdict(answer)

    def evaluate(
        self, path: str | Path, *, beam: int = 1, sound: str | None = None, text: str | None = None
    ) -> TranscribeScores:
        """Score the network on sounds with their texts.

        Args:
            path: a table.
            beam: as `predict`.
            sound: column of the paths; that of the training table by default.
            text: column of the texts; likewise.

        Raises:
            InputError: a file cannot be read or has no text, or `beam` is below 1.
        """
        search = Search(beam=beam)
        search.check()
        part = read_part(self._rows(path, sound, text), self.units, self.spectra)
        size = int(self.options.get("batch_size", 64))
        return score(self.model, self.units, part, search, batch_size=size, notes=self.warn_if_learned(path)).scores

    def shown(self, scores: TranscribeScores) -> str:
        """Return the error rates, and what the model gives the true texts."""
        low, high = map(percent, scores.interval)
        edits = f"{scores.substitutions:,} others, {scores.deletions:,} left out, {scores.insertions:,} too many"
        lines = [
            f"character error rate  {percent(scores.character_error_rate)}  (95% interval {low} - {high})",
            f"of characters         {scores.characters:,}: {edits}",
            f"word error rate       {percent(scores.word_error_rate)}",
            f"exact                 {percent(scores.exact)}",
            f"loss                  {scores.loss:.4f}  (of a {self.units.unit})",
            f"sounds                {scores.rows:,}, {'greedy' if scores.beam == 1 else f'beam {scores.beam}'}",
            *(f"note: {note}" for note in scores.notes),
        ]
        return "\n".join(lines)

    def example(self, file: Path | None, rows: int, *, sound: str | None = None, text: str | None = None) -> Example:
        """Return sounds at even distances through a table, or through the run's validation part.

        Raises:
            InputError: a file or text that does not fit, or the run's own file is gone or was changed.
        """
        found = self._validation() if file is None else self._rows(file, sound, text)
        part = self._read([found[row] for row in evenly(len(found), rows)])
        (batch,) = PairBatches(part.frames, part.targets, len(part.texts), seed=0, shuffle=False)
        steps = self.model.steps(batch.source_lengths)
        if steps.max() < 2:
            raise InputError(f"{file}: one of the {len(steps)} sounds must have 2 steps or more, got 1 in each")
        return Example(*TranscribeObjective(self.model).probe(batch, len(steps)), longest(steps))

    def _read(self, rows: list[Utterance]) -> Part:
        return read_part(rows, self.units, self.spectra)

    def _rows(self, path: str | Path, sound: str | None, text: str | None) -> list[Utterance]:
        names = {"sound": (sound, "path"), "text": (text, "text")}
        chosen = {name: str(given or self.options.get(name, usual)) for name, (given, usual) in names.items()}
        return list(read_rows(path, **chosen))

    def _validation(self) -> list[Utterance]:
        """Return the sounds that chose the best epoch."""
        self.own_file(self.validation_file)
        options = make_options(TranscribeOptions, self.options, str(self.folder / "config.json"))
        return find_parts(options)[0]["validation"]
