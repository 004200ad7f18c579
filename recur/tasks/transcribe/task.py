"""The task transcribe: sounds to texts, by a network over frames whose steps are aligned with the text by CTC."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recur.data.batches import PairBatches
from recur.data.spectra import Spectra
from recur.data.vocabulary import Vocabulary
from recur.models.transcriber import Transcriber, TranscriberConfig
from recur.tasks.decoding import GREEDY, Search
from recur.tasks.frames.augment import Augmentation
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.progress import Progress
from recur.tasks.transcribe.baselines import run_baselines
from recur.tasks.transcribe.data import Part, Speech, read_speech, read_test
from recur.tasks.transcribe.model import TranscribeObjective
from recur.tasks.transcribe.options import TranscribeOptions
from recur.tasks.transcribe.predictor import TranscribePredictor
from recur.tasks.transcribe.report import Shown, report
from recur.tasks.transcribe.scores import Transcribed, score
from recur.tasks.transcribe.units import Units


class Transcribe(Task[TranscribeOptions, Speech]):
    """From tables of sounds and texts to trained transcribers."""

    name = "transcribe"
    options = TranscribeOptions
    figure = Figure("character_error_rate", percent, rising=False, unit="sounds", share=True)

    def read(self, options: TranscribeOptions, progress: Progress) -> Speech:
        """Read sounds and texts, cut them into their parts, and check table and heads of the test part."""
        return read_speech(options, progress)

    def setup(self, options: TranscribeOptions, data: Speech) -> Setup:
        """Make the network, with mean and deviation of the training frames, and batches of like lengths."""
        (seed,), spectra, units = options.seed, data.spectra, data.units
        sizes = {"input_size": spectra.size, "units": len(units.vocabulary)}
        network = TranscriberConfig(**options.network(TranscriberConfig) | sizes)
        model = Transcriber(network)
        model.fit(torch.from_numpy(data.train.frames.values))
        changes = {f.name: getattr(options, f.name) for f in dataclasses.fields(Augmentation)}
        batches = PairBatches(data.train.frames, data.train.targets, options.batch_size, seed)
        validation = data.validation
        return Setup(
            TranscribeObjective(model, Augmentation(**changes), spectra.gain()),
            batches,
            PairBatches(validation.frames, validation.targets, options.batch_size, seed=0, shuffle=False),
            config={
                "units": {"words": units.vocabulary.words, "unit": units.unit, "lowercase": units.lowercase},
                "network": dataclasses.asdict(network),
                "spectra": dataclasses.asdict(spectra),
            },
            facts={"padding_share": batches.padding_share},
        )

    def score(self, options: TranscribeOptions, data: Speech, trained: list[Trained], progress: Progress) -> Scored:
        """Write the texts of validation and test part and score them, those of the test part also with a beam."""
        test, notes = read_test(data, partial(progress.share, "reading the test part"))
        baselines = run_baselines(data, test, progress.say) if options.baselines else []
        members = []
        for one in trained:

            def scored(part: Part, name: str, search: Search = GREEDY, one: Trained = one) -> Transcribed:
                shown = partial(progress.share, f"{one.name}: writing the texts of the {name}")
                return score(one.model, data.units, part, search, batch_size=options.batch_size, shown=shown)

            validation, greedy = scored(data.validation, "validation part"), scored(test, "test part")
            wide = scored(test, "test part with a beam", Search(beam=options.beam)) if options.beam > 1 else None
            members.append(Member(one, validation.scores, greedy.scores, Shown(greedy, wide)))
        parts = {"train": data.train, "validation": data.validation, "test": test}
        return Scored(members, baselines, {name: len(part.texts) for name, part in parts.items()}, notes, extra=test)

    def facts(self, result: Result[Speech], member: Member) -> dict[str, Any]:
        """Return the scores with a beam, the units, and how much sound is learned from."""
        data, spectra, beam = result.data, result.data.spectra, member.shown.beam
        shown = {} if beam is None else {"beam": dataclasses.asdict(beam.scores)}
        heard = len(data.train.frames.values) * spectra.hop / spectra.rate
        return shown | {
            "units": data.units.vocabulary.words,
            "rate": spectra.rate,
            "training_sound_seconds": heard,
        }

    def report(self, result: Result[Speech]) -> TaskReport:
        """Return when each unit is written, the mistakes, and greedy beside beam."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> Transcriber:
        """Make the transcriber; its mean and deviation come with its weights."""
        return Transcriber(TranscriberConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> TranscribePredictor:
        """Make the predictor."""
        known = config["units"]
        units = Units(Vocabulary(known["words"]), known["unit"], bool(known["lowercase"]))
        return TranscribePredictor(folder, config, model, Spectra(**config["spectra"]), units)


TRANSCRIBE = Transcribe()
