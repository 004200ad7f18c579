"""The task listen: sounds to classes, by a many-to-one network over frames."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recur.data.spectra import Spectra
from recur.models.listener import Listener, ListenerConfig
from recur.tasks.frames.augment import Augmentation
from recur.tasks.frames.outline import make_setup, score_parts
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.listen.data import Recordings, read_part, read_recordings
from recur.tasks.listen.options import ListenOptions
from recur.tasks.listen.predictor import ListenPredictor
from recur.tasks.listen.report import report
from recur.tasks.progress import Progress

BASELINES = ("majority", "nearest-mean", "mean-and-deviation")


class Listen(Task[ListenOptions, Recordings]):
    """From files of labelled sound to trained listeners."""

    name = "listen"
    options = ListenOptions
    figure = Figure("accuracy", percent, unit="sounds", share=True)

    def read(self, options: ListenOptions, progress: Progress) -> Recordings:
        """Read the sounds, cut them into their parts, and check labels and heads of the test part."""
        return read_recordings(options, progress)

    def setup(self, options: ListenOptions, data: Recordings) -> Setup:
        """Make the network, with mean and deviation of the training frames, and batches of like lengths."""
        changes = {f.name: getattr(options, f.name) for f in dataclasses.fields(Augmentation)}
        return make_setup(
            options,
            data,
            lambda model: model.fit(torch.from_numpy(data.train.frames.values)),
            Augmentation(**changes),
            data.spectra.gain(),
            {"spectra": dataclasses.asdict(data.spectra)},
        )

    def score(self, options: ListenOptions, data: Recordings, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and baselines on the test sounds."""
        test = read_part(data.test, data.labels, data.spectra, partial(progress.share, "reading the test part"))
        return score_parts(options, data, test, "sounds", trained, BASELINES, progress)

    def facts(self, result: Result[Recordings], member: Member) -> dict[str, Any]:
        """Return the classes, and how much sound is learned from."""
        data, spectra = result.data, result.data.spectra
        heard = len(data.train.frames.values) * spectra.hop / spectra.rate
        return {"labels": data.labels, "rate": spectra.rate, "training_sound_seconds": heard}

    def report(self, result: Result[Recordings]) -> TaskReport:
        """Return the confusion, the worst mistakes, and sounds beside the gates."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> Listener:
        """Make the listener; its mean and deviation come with its weights."""
        return Listener(ListenerConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> ListenPredictor:
        """Make the predictor."""
        return ListenPredictor(folder, config, model, Spectra(**config["spectra"]), list(config["labels"]))


LISTEN = Listen()
