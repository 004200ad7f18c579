"""The task caption: from images and frames to captions, or to a label for each frame."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recur.data.pictures import ClipBatches
from recur.data.text import Tokenizer
from recur.errors import InputError
from recur.files import existing_folder
from recur.models.captioner import Captioner, CaptionerConfig, FrameLabeller, FrameLabellerConfig
from recur.models.vision import Vision
from recur.tasks.bleu import sacrebleu_metrics
from recur.tasks.caption.augment import Affine
from recur.tasks.caption.baselines import caption_baselines, label_baselines
from recur.tasks.caption.data import Album, Captions, Labels, Part, read_album, read_test
from recur.tasks.caption.model import CaptionObjective, LabelObjective, longest_caption
from recur.tasks.caption.options import CaptionOptions
from recur.tasks.caption.predictor import CaptionPredictor, FrameLabelPredictor, PicturePredictor
from recur.tasks.caption.report import report
from recur.tasks.caption.scores import Captioned, figure_name, label_scores, score_captions
from recur.tasks.decoding import GREEDY, Decoding
from recur.tasks.job import Baseline, Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.predictor import load
from recur.tasks.progress import Progress
from recur.tasks.writing import begin_with_frequencies

FIGURES = {
    "exact": Figure("exact", percent, unit="pictures", share=True, label="exact captions"),
    "cider": Figure("cider", "{:.3f}".format, unit="pictures", label="CIDEr-D"),
    "accuracy": Figure("accuracy", percent, unit="frames", share=True),
}


class Caption(Task[CaptionOptions, Album]):
    """From pictures with captions to trained captioners, or from clips with labels to frame labellers."""

    name = "caption"
    options = CaptionOptions
    figure = FIGURES["exact"]

    def figure_of(self, scores: Mapping[str, Any]) -> Figure:
        """Return accuracy for labels; for captions the exact ones where each picture has one, else CIDEr."""
        return FIGURES["accuracy" if "accuracy" in scores else figure_name(scores["references"])]

    def read(self, options: CaptionOptions, progress: Progress) -> Album:
        """Read the pictures, cut them into their parts, and check captions and heads of the test part."""
        if options.structure != "aligned":
            sacrebleu_metrics()  # else it would be found missing when the training is over
        return read_album(options, progress)

    def setup(self, options: CaptionOptions, data: Album) -> Setup:
        """Make the network, with mean and deviation of the training pixels, and batches of like lengths."""
        (seed,), form = options.seed, data.form
        affine = Affine(options.shift, options.rotate, options.zoom)
        pictures: dict[str, Any] = form._asdict()
        objective: CaptionObjective | LabelObjective
        if isinstance(data.encoder, Labels):
            given = options.network(FrameLabellerConfig) | pictures | {"labels": len(data.encoder.names)}
            objective = LabelObjective(FrameLabeller(FrameLabellerConfig(**given)), affine)
            known: dict[str, Any] = {"labels": data.encoder.names}
        else:
            sizes = pictures | {"vocabulary_size": len(data.encoder), "structure": data.structure}
            given = options.network(CaptionerConfig) | sizes
            model = Captioner(CaptionerConfig(**given))
            begin_with_frequencies(model.writer.decoder.scores, data.train.targets)
            objective = CaptionObjective(model, affine, one_each=data.validation.one_each)
            tokenizer = dataclasses.asdict(data.encoder.tokenizer)
            longest = longest_caption(data.train.targets)
            known = {"words": data.encoder.words, "tokenizer": tokenizer, "longest": longest}
        objective.model.vision.fit(map(torch.from_numpy, data.train.clips.parts()))
        if options.vision:
            _begin_with(objective.model.vision, options.vision)
        batches = _batches(data.train, options.batch_size, seed)
        return Setup(
            objective,
            batches,
            _batches(data.validation, options.batch_size, shuffle=False),
            config={
                "network": dataclasses.asdict(objective.model.config),
                "structure": data.structure,
                "form": list(form),
                "resize": data.resize,
                **known,
            },
            facts={"padding_share": batches.padding_share},
        )

    def score(self, options: CaptionOptions, data: Album, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and baselines on validation and test part, captions of the test part also with a beam."""
        shown = partial(progress.share, "reading the test part")
        test, notes = read_test(data, shown, existing_folder(options.folder))
        parts = {"train": data.train, "validation": data.validation, "test": test}
        say = lambda name: progress.say(f"baseline {name}")  # noqa: E731
        baselines: list[Baseline] = []
        if isinstance(data.encoder, Labels):
            if options.baselines:
                baselines = label_baselines(data.train, data.validation, test, say)
            members = [_score_labels(one, data, test, options, progress) for one in trained]
            rows = {name: len(part.targets.values) for name, part in parts.items()}
        else:
            if options.baselines:
                baselines = caption_baselines(data.encoder, data.train, data.validation, test, say)
            members = [_score_captions(one, data, data.encoder, test, options, progress) for one in trained]
            rows = {name: len(part.pictures) for name, part in parts.items()}
        return Scored(members, baselines, rows, notes, extra=test)

    def facts(self, result: Result[Album], member: Member) -> dict[str, Any]:
        """Return what is seen, and the scores with a beam."""
        data = result.data
        facts: dict[str, Any] = {"structure": data.structure, "form": data.form._asdict()}
        if isinstance(data.encoder, Labels):
            return facts | {"labels": data.encoder.names}
        beam = member.shown.get("beam")
        return facts | {"words": len(data.encoder.words)} | ({"beam": dataclasses.asdict(beam.scores)} if beam else {})

    def report(self, result: Result[Album]) -> TaskReport:
        """Return pictures with what was said of them, where it looked, and scores."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Make the network; its mean and deviation come with its weights."""
        if config["structure"] == "aligned":
            return FrameLabeller(FrameLabellerConfig(**config["network"]))
        return Captioner(CaptionerConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> PicturePredictor:
        """Make the predictor."""
        if config["structure"] == "aligned":
            return FrameLabelPredictor(folder, config, model, Labels(config["labels"]))
        return CaptionPredictor(folder, config, model, Captions(config["words"], Tokenizer(**config["tokenizer"])))


def _begin_with(vision: Vision, run: str) -> None:
    """Take the weights of a run's convolutional blocks over.

    Raises:
        InputError: it is a run of another task, or has other blocks.
        RunError: it is no finished run.
    """
    other = getattr(load(run).model, "vision", None)
    if not isinstance(other, Vision):
        raise InputError(f"--vision {run} must be a run of recur train caption, got one of another task")
    if other.blocks_shape != vision.blocks_shape:
        wanted, found = (
            f"{colours} colours and --channels {','.join(map(str, channels))}"
            for colours, *channels in (vision.blocks_shape, other.blocks_shape)
        )
        raise InputError(f"--vision {run} must be a run with {wanted}, got one with {found}; make them alike")
    vision.blocks.load_state_dict(other.blocks.state_dict())


def _batches(part: Part, size: int, seed: int = 0, shuffle: bool = True) -> ClipBatches:
    return ClipBatches(part.clips, part.targets, part.owners, batch_size=size, seed=seed, shuffle=shuffle)


def _score_labels(one: Trained, data: Album, test: Part, options: CaptionOptions, progress: Progress) -> Member:
    found = [
        label_scores(
            one.model,
            part,
            batch_size=options.batch_size,
            shown=partial(progress.share, f"{one.name}: labelling the {name} part"),
        )
        for name, part in (("validation", data.validation), ("test", test))
    ]
    return Member(one, found[0][1], found[1][1], shown=found[1][0])


def _score_captions(
    one: Trained, data: Album, encoder: Captions, test: Part, options: CaptionOptions, progress: Progress
) -> Member:
    most = longest_caption(data.train.targets)

    def scored(part: Part, name: str, search: Decoding = GREEDY) -> Captioned:
        shown = partial(progress.share, f"{one.name}: writing captions of the {name}")
        return score_captions(one.model, encoder, part, most, search, batch_size=options.batch_size, shown=shown)

    validation, greedy = scored(data.validation, "validation part"), scored(test, "test part")
    found = {"greedy": greedy}
    if options.beam > 1:
        wide = Decoding(beam=options.beam, length_penalty=options.length_penalty)
        found["beam"] = scored(test, "test part with a beam", wide)
    return Member(one, validation.scores, greedy.scores, found)


CAPTION = Caption()
