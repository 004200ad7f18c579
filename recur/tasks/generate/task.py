"""The task generate: a language model of any text."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recur.data.coders import load_coder
from recur.data.stream import StreamWindows
from recur.errors import InputError
from recur.models.language import LanguageConfig, LanguageModel
from recur.tasks.generate.data import PARTS, Text, read_text, unknown_notes
from recur.tasks.generate.model import LanguageObjective, Surprise, surprise, surprise_of
from recur.tasks.generate.ngrams import KneserNey
from recur.tasks.generate.options import GenerateOptions
from recur.tasks.generate.predictor import GeneratePredictor
from recur.tasks.generate.report import Drawn, report
from recur.tasks.generate.writing import Writer, prefix_ids
from recur.tasks.job import Baseline, Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.progress import Progress

# of a longer text the n-gram model learns the first ones
NGRAM_TOKENS = 5_000_000
TEMPERATURES = (0.5, 0.8, 1.0)
SAMPLE = {"characters": 600, "words": 120, "spaces": 120, "bpe": 150}


class Foretold(NamedTuple):
    """A baseline and how surprised it was by the test part."""

    baseline: Baseline
    surprise: Surprise


class Generate(Task[GenerateOptions, Text]):
    """From any text to trained language models."""

    name = "generate"
    options = GenerateOptions
    figure = Figure("perplexity", lambda value: f"{value:.3f}", rising=False, unit="tokens")
    layers = ("ttt",)

    def read(self, options: GenerateOptions, progress: Progress) -> Text:
        """Cut the text into its parts, and write them as ids beside the run folder."""
        text = read_text(options, progress)
        for part, needed in (("train", options.batch_size * options.steps), ("validation", options.batch_size)):
            if len(text.parts[part]) <= needed:
                wanted = "a window" if part == "train" else "a token"
                found = len(text.parts[part])
                text.delete()
                raise InputError(
                    f"the {part} part must have more than {needed:,} tokens, {wanted} for each of --batch-size "
                    f"{options.batch_size} rows, got {found:,}; give a longer text, or lower --batch-size or --steps"
                )
        return text

    def setup(self, options: GenerateOptions, data: Text) -> Setup:
        """Make the network, which begins with the frequencies of the tokens, and windows of the stream."""
        network = LanguageConfig(**options.network(LanguageConfig) | {"vocabulary_size": len(data.coder)})
        model = LanguageModel(network)
        counts = data.counts["train"]
        model.start_at(torch.tensor(counts))
        train, validation = (
            StreamWindows(data.parts[part], options.batch_size, options.steps, batch_first=True)
            for part in ("train", "validation")
        )
        return Setup(
            LanguageObjective(model, options.activation_penalty, options.change_penalty),
            train,
            validation,
            config={
                "network": dataclasses.asdict(network),
                "coder": data.coder.state(),
                # whether the network knows what an unknown token is
                "unknown": bool(counts[1]) and data.coder.unit != "bpe",
            },
        )

    def score(self, options: GenerateOptions, data: Text, trained: list[Trained], progress: Progress) -> Scored:
        """Read validation and test part once with each network and each baseline."""

        def seen(what: str) -> Callable[[float], None]:
            return lambda share: progress.share(what, share)

        notes = unknown_notes(data, "test")
        members, samples = [], {}
        for one in trained:
            validation, test = (
                surprise(one.model, data.parts[part], seen(f"{one.name} reads the {part} part"))
                for part in ("validation", "test")
            )
            scores = validation.scores(data.characters("validation")), test.scores(data.characters("test"))
            members.append(Member(one, *scores, shown=test))
            samples[one.name] = _samples(one.model, data)
        foretold = list(_baselines(options, data, progress, notes)) if options.baselines else []
        rows = {part: len(data.parts[part]) - 1 for part in PARTS}
        drawn = Drawn.of(data, members, samples, {one.baseline.name: one.surprise for one in foretold})
        # the run holds all that is needed from here on, and resume makes them again
        data.delete()
        return Scored(members, [one.baseline for one in foretold], rows, notes, extra=drawn)

    def facts(self, result: Result[Text], member: Member) -> dict[str, Any]:
        """Return what was counted."""
        return {"tokens": result.data.coder.unit, "vocabulary": len(result.data.coder) - 1}

    def report(self, result: Result[Text]) -> TaskReport:
        """Return samples, and what surprised the best network."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> LanguageModel:
        """Make the language model."""
        return LanguageModel(LanguageConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> GeneratePredictor:
        """Make the predictor."""
        return GeneratePredictor(folder, config, model, load_coder(config["coder"]), bool(config["unknown"]))


def _samples(model: LanguageModel, data: Text) -> list[tuple[float, str]]:
    model.eval()
    start = prefix_ids(data.coder, "", unknown=True)
    length = SAMPLE[data.coder.unit]
    return [
        (temperature, "".join(Writer(model, data.coder, start, temperature=temperature).write(length)))
        for temperature in TEMPERATURES
    ]


def _baselines(options: GenerateOptions, data: Text, progress: Progress, notes: list[str]) -> Any:
    """Yield what tokens alone, and n-grams of them, reach; id 0, which never comes, is left out."""
    size = len(data.coder) - 1
    train = data.parts["train"].values
    longest = options.ngram or (7 if data.coder.unit == "characters" else 5)
    for order in (1, longest):
        name = "unigram" if order == 1 else f"{order}-gram"
        progress.say(f"baseline {name}")
        start = time.monotonic()
        model = KneserNey(np.asarray(train[:NGRAM_TOKENS]).astype(np.int64) - 1, order, size)
        found = {part: surprise_of(model, data.parts[part]) for part in ("validation", "test")}
        scores = {part: one.scores(data.characters(part)) for part, one in found.items()}
        what = "how often each token comes" if order == 1 else "counts of n-grams, modified Kneser-Ney, interpolated"
        baseline = Baseline(
            name,
            what,
            scores["validation"].perplexity,
            scores["test"].perplexity,
            time.monotonic() - start,
            scores["test"].interval,
        )
        yield Foretold(baseline, found["test"])
    if len(train) > NGRAM_TOKENS:
        notes.append(f"the n-grams are those of the first {NGRAM_TOKENS:,} of {len(train):,} tokens")


GENERATE = Generate()
