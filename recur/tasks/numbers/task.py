"""The task classify on numbers: sequences of numbers to classes, by a many-to-one network."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recur.data.measured import Layout
from recur.models.listener import Listener, ListenerConfig
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.frames.augment import Augmentation
from recur.tasks.frames.baselines import BASELINES
from recur.tasks.frames.outline import make_setup, score_parts
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.numbers.data import Measurements, read_measurements
from recur.tasks.numbers.predictor import NumbersPredictor
from recur.tasks.numbers.report import report
from recur.tasks.progress import Progress

CHANGES = ("time_mask", "feature_mask", "shift", "stretch")


class ClassifyNumbers(Task[ClassifyOptions, Measurements]):
    """From files of labelled sequences of numbers to trained classifiers."""

    name = "classify"
    options = ClassifyOptions
    figure = Figure("accuracy", percent, unit="sequences", share=True)

    def read(self, options: ClassifyOptions, progress: Progress) -> Measurements:
        """Read the sequences and cut them into their parts."""
        return read_measurements(options)

    def setup(self, options: ClassifyOptions, data: Measurements) -> Setup:
        """Make the network, with mean and deviation of the training part, and batches of like lengths."""
        changed = any(getattr(options, name) for name in CHANGES)
        changes = {name: getattr(options, name) for name in (*CHANGES, "masks")}
        scale = torch.from_numpy(data.mean), torch.from_numpy(data.deviation)
        return make_setup(
            options,
            data,
            lambda model: model.scale_by(*scale),
            Augmentation(**changes) if changed else None,
            None,
            {"layout": dataclasses.asdict(data.layout)},
        )

    def score(self, options: ClassifyOptions, data: Measurements, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and baselines on the test sequences."""
        return score_parts(options, data, data.test, "sequences", trained, tuple(BASELINES), progress)

    def facts(self, result: Result[Measurements], member: Member) -> dict[str, Any]:
        """Return the classes, and how long sequences are."""
        lengths = result.data.train.frames.lengths
        return {
            "labels": result.data.labels,
            "numbers": result.data.train.frames.size,
            "steps": {"least": int(lengths.min()), "mean": float(lengths.mean()), "most": int(lengths.max())},
        }

    def report(self, result: Result[Measurements]) -> TaskReport:
        """Return the confusion, the worst mistakes, and sequences beside the gates."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> Listener:
        """Make the network; its mean and deviation come with its weights."""
        return Listener(ListenerConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> NumbersPredictor:
        """Make the predictor."""
        layout = dict(config["layout"])
        layout["numbers"] = tuple(layout["numbers"])
        return NumbersPredictor(folder, config, model, Layout(**layout), list(config["labels"]))


NUMBERS = ClassifyNumbers()
