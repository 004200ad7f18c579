"""A trained captioner or frame labeller: its answers, its scores on other pictures, and rows to see gradients on."""

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recur.data.pictures import ClipBatches, Clips, PictureForm, frame_files, read_picture
from recur.errors import InputError
from recur.tasks.caption.data import Captions, Labels, Part, Source, read_part, read_pictures, validation_pictures
from recur.tasks.caption.model import CaptionObjective, LabelObjective, captions, label_probabilities
from recur.tasks.caption.options import CaptionOptions
from recur.tasks.caption.scores import CaptionScores, FrameScores, label_scores, score_captions
from recur.tasks.decoding import Decoding
from recur.tasks.job import Example, Predictor, evenly
from recur.tasks.job_result import percent
from recur.tasks.labels import scores_text
from recur.tasks.options import make_options

LONGEST = 4  # rows whose Jacobians are taken, the longest ones

Given = str | Path | np.ndarray[Any, Any]


@dataclass(frozen=True)
class Caption:
    """What a network writes of a picture."""

    caption: str
    log_probability: float
    """Of the caption, in nats."""
    finished: bool
    """Whether it came to an end before the longest length."""


@dataclass(frozen=True)
class FrameLabels:
    """What a network says of the frames of a clip."""

    labels: list[str]
    probabilities: list[float]
    """Of each label."""


class PicturePredictor(Predictor):
    """What captioner and frame labeller share.

    Args:
        folder, config, model: as for every predictor.
        encoder: from captions or labels to ids and back.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], model: Any, encoder: Captions | Labels) -> None:
        super().__init__(folder, config, model)
        self.encoder = encoder
        self.structure = str(config["structure"])
        self.form, self.resize = PictureForm(*config["form"]), bool(config["resize"])

    def items(
        self,
        file: str | Path,
        *,
        image: str | None = None,
        text: str | None = None,
        root: str | None = None,
        skip_bad_rows: bool = False,
    ) -> Iterator[str]:
        """Yield the paths of the pictures in a table; captions are not needed."""
        source = self._source(file, image, text, root, skip_bad_rows)
        return (str(picture.path) for picture in read_pictures(source, texts=False)[0])

    def json(self, item: Given, answer: Any) -> dict[str, Any]:
        """Return an answer as JSON."""
        return {"path": str(item)} | dataclasses.asdict(answer)

    def example(
        self,
        file: Path | None,
        rows: int,
        *,
        image: str | None = None,
        text: str | None = None,
        root: str | None = None,
        skip_bad_rows: bool = False,
    ) -> Example:
        """Return pictures at even distances through a table, or through the run's validation part.

        Raises:
            InputError: a table or picture that does not fit, no clip of two frames, or the run's own table is gone or
                was changed.
        """
        if file is None:
            self.own_file(self.validation_file)
            options = make_options(CaptionOptions, self.options, str(self.folder / "config.json"))
            pictures = validation_pictures(options)
        else:
            pictures = read_pictures(self._source(file, image, text, root, skip_bad_rows))[0]
        part = self._part([pictures[row] for row in evenly(len(pictures), rows).tolist()])
        first = np.flatnonzero(np.diff(part.owners, prepend=-1))
        targets = part.targets.take(first)
        (batch,) = ClipBatches(part.clips, targets, batch_size=len(first), shuffle=False)
        steps = (batch.target_lengths if self.structure == "one-to-many" else batch.lengths).numpy()
        if steps.max() < 2:
            raise InputError(f"{file or 'the validation part'} must have a clip of two frames or more, got 1 in each")
        order = np.argsort(-steps, kind="stable")[:LONGEST]
        longest = order[steps[order] >= 2].tolist()
        objective = LabelObjective(self.model) if self.structure == "aligned" else CaptionObjective(self.model)
        return Example(*objective.probe(batch, len(first)), longest)

    @abstractmethod
    def _answers(self, clips: Clips, batch_size: int, **decoding: Any) -> list[Any]:
        """Answer clips."""

    def _predicted(self, pictures: Iterable[Given], batch_size: int, **decoding: Any) -> list[Any]:
        if isinstance(pictures, str | os.PathLike):
            raise InputError("`pictures` must be several pictures, got a single one; put it into a list: [picture]")
        return self._answers(Clips.of(map(self._pixels, pictures), self.form), batch_size, **decoding)

    def _pixels(self, picture: Given) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the pixels [T, C, H, W] of a path, or of an array."""
        if not isinstance(picture, np.ndarray):
            files, frames = frame_files(picture), self.structure != "one-to-many"
            if frames != Path(picture).is_dir():
                wanted, found = ("a folder of frames", "a file") if frames else ("an image", "a folder")
                raise InputError(f"{picture} must be {wanted} for this network, got {found}")
            return np.stack([read_picture(file, self.form, resize=self.resize) for file in files])
        colours, height, width = self.form
        shape: Sequence[int] = (height, width) if colours == 1 else (height, width, colours)
        clip = picture[None] if self.structure == "one-to-many" else picture
        if clip.dtype != np.uint8 or clip.shape[1:] != tuple(shape) or not len(clip):
            sizes = [*([] if self.structure == "one-to-many" else ["T"]), *map(str, shape)]
            raise InputError(f"pixels must be uint8 [{', '.join(sizes)}], got {picture.dtype} {list(picture.shape)}")
        return clip.reshape(len(clip), height, width, colours).transpose(0, 3, 1, 2)

    def _source(
        self, file: str | Path, image: str | None, text: str | None, root: str | None, skip_bad_rows: bool
    ) -> Source:
        image, text = str(image or self.options["image"]), str(text or self.options["text"])
        return Source(Path(file), image, text, None if root is None else Path(root), skip_bad_rows, self.structure)

    def _part(self, pictures: list[Any]) -> Part:
        return read_part(pictures, self.encoder, self.form, self.resize, self.folder)

    def _scored(
        self, path: str | Path, image: str | None, text: str | None, root: str | None, skip_bad_rows: bool
    ) -> tuple[Part, list[str]]:
        pictures, _, notes = read_pictures(self._source(path, image, text, root, skip_bad_rows))
        return self._part(pictures), [*notes, *self.warn_if_learned(path)]


class CaptionPredictor(PicturePredictor):
    """A trained captioner."""

    encoder: Captions

    def predict(
        self, pictures: Iterable[Given], *, beam: int = 1, length_penalty: float = 1.0, batch_size: int = 64
    ) -> list[Caption]:
        """Write captions.

        Args:
            pictures: paths of images, or of folders of frames for a network that learned from these; or pixels, uint8
                [H, W] for grey and [H, W, 3] for colour, of frames with T in front.
            beam: width of the beam; 1 takes the most probable word at every step.
            length_penalty: exponent of the penalty by which a beam divides; the larger, the longer the captions.
            batch_size: pictures at a time.

        Raises:
            InputError: `pictures` is a single path, a picture cannot be read or is of another size, or an argument is
                out of its range.
        """
        return self._predicted(pictures, batch_size, beam=beam, length_penalty=length_penalty)

    def _answers(self, clips: Clips, batch_size: int, **decoding: Any) -> list[Caption]:
        search = Decoding(**decoding)
        search.check()
        found = captions(self.model, clips, int(self.config["longest"]), search, batch_size=batch_size)
        texts = (self.encoder.joined(self.encoder.tokens(one.tokens)) for one in found)
        return [Caption(text, one.log_probability, one.finished) for text, one in zip(texts, found, strict=True)]

    def line(self, item: Given, answer: Caption) -> str:
        """Return caption and path, a tab between."""
        return f"{answer.caption}\t{item}"

    def evaluate(
        self,
        path: str | Path,
        *,
        beam: int = 1,
        length_penalty: float = 1.0,
        image: str | None = None,
        text: str | None = None,
        root: str | None = None,
        skip_bad_rows: bool = False,
    ) -> CaptionScores:
        """Score the network on a table of pictures and captions.

        Args:
            path: the table.
            beam, length_penalty: as `predict`.
            image, text: its columns; those of the training table by default.
            root: folder that the paths are relative to; that of the table by default.
            skip_bad_rows: leave broken rows out.

        Raises:
            InputError: the table or a picture cannot be read, or an argument is out of its range.
        """
        search = Decoding(beam=beam, length_penalty=length_penalty)
        search.check()
        part, notes = self._scored(path, image, text, root, skip_bad_rows)
        size, most = int(self.options.get("batch_size", 64)), int(self.config["longest"])
        return score_captions(self.model, self.encoder, part, most, search, batch_size=size, notes=notes).scores

    def shown(self, scores: CaptionScores) -> str:
        """Return exact captions, CIDEr, BLEU and what the model gives the references."""
        low, high = map(percent, scores.exact_interval)
        lines = [
            f"exact          {percent(scores.exact)}  (95% interval {low} - {high}, {scores.rows:,} pictures)",
            f"CIDEr-D        {scores.cider:.3f}  (95% interval {_between(scores.cider_interval, 3)}, 10 at most)",
            f"BLEU           {scores.bleu:.2f}  (95% interval {_between(scores.bleu_interval, 2)})",
            f"signature      {scores.signature}",
            f"search         {'greedy' if scores.beam == 1 else f'beam {scores.beam}'}",
            f"references     {scores.references:.2f} for a picture",
            f"loss           {scores.loss:.4f}  (of a word)",
            f"word accuracy  {percent(scores.word_accuracy)}",
            *([f"cut off        {scores.unfinished:,}"] if scores.unfinished else []),
            *(f"note: {note}" for note in scores.notes),
        ]
        return "\n".join(lines)


class FrameLabelPredictor(PicturePredictor):
    """A trained frame labeller."""

    encoder: Labels

    def predict(self, pictures: Iterable[Given], *, batch_size: int = 64) -> list[FrameLabels]:
        """Label the frames of clips.

        Args:
            pictures: paths of folders of frames; or pixels, uint8 [T, H, W] for grey and [T, H, W, 3] for colour.
            batch_size: clips at a time.

        Raises:
            InputError: `pictures` is a single path, or a picture cannot be read or is of another size.
        """
        return self._predicted(pictures, batch_size)

    def _answers(self, clips: Clips, batch_size: int, **decoding: Any) -> list[FrameLabels]:
        if not len(clips):
            return []
        found = label_probabilities(self.model, clips, batch_size=batch_size)
        return [
            FrameLabels([self.encoder.names[label] for label in part.argmax(1)], part.max(1).tolist())
            for part in np.split(found, clips.offsets[1:-1])
        ]

    def line(self, item: Given, answer: FrameLabels) -> str:
        """Return the labels with blanks between, and the path behind a tab."""
        return f"{' '.join(answer.labels)}\t{item}"

    def evaluate(
        self,
        path: str | Path,
        *,
        image: str | None = None,
        text: str | None = None,
        root: str | None = None,
        skip_bad_rows: bool = False,
    ) -> FrameScores:
        """Score the network on a table of clips and labels; the arguments are those of a captioner.

        Raises:
            InputError: the table or a picture cannot be read, or a label is unknown.
        """
        part, notes = self._scored(path, image, text, root, skip_bad_rows)
        _, scores = label_scores(self.model, part, batch_size=int(self.options.get("batch_size", 64)))
        return dataclasses.replace(scores, notes=tuple(notes))

    def shown(self, scores: FrameScores) -> str:
        """Return accuracy, F1, loss, whole clips and the confusion."""
        whole = f"whole     {percent(scores.whole)}  (all frames right, {scores.clips:,} clips)"
        return f"{whole}\n{scores_text(self.encoder.names, scores, 'frames')}"


def _between(interval: tuple[float, float], digits: int) -> str:
    return f"{interval[0]:.{digits}f} - {interval[1]:.{digits}f}"
