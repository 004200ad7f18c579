"""The task listen: sounds to classes, by a many-to-one network over frames."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recur.data.frames import FrameBatches
from recur.data.spectra import Spectra
from recur.models.listener import Listener, ListenerConfig
from recur.tasks.figures import score
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.listen.baselines import run_baselines
from recur.tasks.listen.data import Recordings, read_recordings, read_test
from recur.tasks.listen.model import ListenObjective, probabilities
from recur.tasks.listen.options import ListenOptions
from recur.tasks.listen.predictor import ListenPredictor
from recur.tasks.listen.report import report
from recur.tasks.progress import Progress
from recur.tasks.sounds.augment import Augmentation


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
        (seed,), spectra = options.seed, data.spectra
        sizes = {"input_size": spectra.size, "classes": len(data.labels)}
        network = ListenerConfig(**options.network(ListenerConfig) | sizes)
        model = Listener(network)
        model.fit(torch.from_numpy(data.train.frames.values))
        changes = {f.name: getattr(options, f.name) for f in dataclasses.fields(Augmentation)}
        batches = FrameBatches(data.train.frames, data.train.labels, options.batch_size, seed)
        validation = data.validation
        return Setup(
            ListenObjective(model, Augmentation(**changes), spectra.gain()),
            batches,
            FrameBatches(validation.frames, validation.labels, options.batch_size, seed=0, shuffle=False),
            config={
                "labels": data.labels,
                "network": dataclasses.asdict(network),
                "spectra": dataclasses.asdict(spectra),
            },
            facts={"padding_share": batches.padding_share},
        )

    def score(self, options: ListenOptions, data: Recordings, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and baselines on the test sounds."""
        test, notes = read_test(data, partial(progress.share, "reading the test part"))
        baselines = []
        if options.baselines:
            parts = (data.train, data.validation, test)
            baselines = run_baselines(*parts, len(data.labels), lambda name: progress.say(f"baseline {name}"))
        members = []
        for one in trained:
            guesses = [
                probabilities(
                    one.model,
                    part.frames,
                    options.batch_size,
                    partial(progress.share, f"scoring {one.name} on the {name} part"),
                )
                for name, part in (("validation", data.validation), ("test", test))
            ]
            scores = score(guesses[0], data.validation.labels), score(guesses[1], test.labels)
            members.append(Member(one, *scores, shown=guesses[1]))
        rows = {"train": len(data.train.labels), "validation": len(data.validation.labels), "test": len(test.labels)}
        return Scored(members, baselines, rows, notes, extra=test)

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
