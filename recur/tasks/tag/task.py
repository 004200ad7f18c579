"""The task tag: a tag for each word of a sentence, by an aligned many-to-many network."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recur.data.vocabulary import Vocabulary
from recur.models.tagger import Tagger, TaggerConfig
from recur.tasks.job import Baseline, Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.progress import Progress
from recur.tasks.tag.baselines import run_baselines
from recur.tasks.tag.data import TagData, read_data, read_test
from recur.tasks.tag.model import TagObjective, guess
from recur.tasks.tag.options import TagOptions
from recur.tasks.tag.predictor import TagPredictor
from recur.tasks.tag.report import Drawn, report
from recur.tasks.tag.scores import reached, score
from recur.tasks.tag.words import Encoder, TagBatches

ACCURACY = Figure("accuracy", percent, unit="words", share=True)
SPAN_F1 = Figure("f1", percent, unit="words", share=True)


class Tag(Task[TagOptions, TagData]):
    """From files of sentences with a tag for each word to trained taggers."""

    name = "tag"
    options = TagOptions
    figure = ACCURACY

    def figure_of(self, scores: Mapping[str, Any]) -> Figure:
        """Return the F1 of spans where the tags mark some, else the accuracy."""
        return ACCURACY if scores["f1"] is None else SPAN_F1

    def read(self, options: TagOptions, progress: Progress) -> TagData:
        """Read the training file, cut off what has no file of its own, and see that the test file can be read."""
        data = read_data(options)
        if data.vectors:
            words = data.encoder.learned
            progress.say(f"{coverage(data):.1%} of the {words} words have a vector in {options.vectors}")
        return data

    def setup(self, options: TagOptions, data: TagData) -> Setup:
        """Make the network, with word vectors where asked for, and batches of sentences of like length."""
        (seed,), encoder = options.seed, data.encoder
        sizes = {
            "vocabulary_size": len(encoder.words),
            "tags": len(encoder.tags),
            "characters": len(encoder.characters) if options.characters else 0,
        }
        matrix, facts = None, dict[str, float]()
        if data.vectors:
            matrix, _ = data.vectors.table(encoder.words, seed)
            facts["vector_coverage"] = coverage(data)
            sizes["embedding_size"] = data.vectors.size
        network = TaggerConfig(**options.network(TaggerConfig) | sizes)
        model = Tagger(network, matrix=None if matrix is None else torch.from_numpy(matrix))
        batches = TagBatches(data.train, encoder.table(data.train.forms), options.batch_size, seed)
        validation = TagBatches(
            data.validation, encoder.table(data.validation.forms), options.batch_size, shuffle=False
        )
        return Setup(
            TagObjective(model, encoder.tags),
            batches,
            validation,
            config={"network": dataclasses.asdict(network), "encoder": plain(encoder)},
            facts={"padding_share": batches.padding_share} | facts,
        )

    def score(self, options: TagOptions, data: TagData, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and taggers that see one word at a time on the test sentences."""
        test, notes = read_test(data)
        parts = [data.validation, test]
        tables = [data.encoder.table(part.forms) for part in parts]
        known = [data.encoder.knows(part.forms) for part in parts]
        members = []
        for one in trained:
            guesses = [guess(one.model, part, table) for part, table in zip(parts, tables, strict=True)]
            validation, tested = (score(*three) for three in zip(guesses, parts, known, strict=True))
            members.append(Member(one, validation, tested, shown=guesses[1]))
        baselines = []
        for name, description, tags, seconds in run_baselines(data.train, parts) if options.baselines else ():
            progress.say(f"baseline {name}")
            (chosen, _), (final, interval) = map(reached, tags, parts)
            baselines.append(Baseline(name, description, chosen, final, seconds, interval))
        rows = {"train": data.train, "validation": data.validation, "test": test}
        counts = {name: len(part.sentences.values) for name, part in rows.items()}
        return Scored(members, baselines, counts, notes, extra=Drawn(test, known[1]))

    def facts(self, result: Result[TagData], member: Member) -> dict[str, Any]:
        """Return the tags, the size of the vocabulary, and how many sentences there are."""
        data = result.data
        parts = {"train": data.train, "validation": data.validation, "test": result.extra.test}
        return {
            "tags": data.encoder.tags,
            "vocabulary": data.encoder.learned,
            "sentences": {name: len(part) for name, part in parts.items()},
        }

    def report(self, result: Result[TagData]) -> TaskReport:
        """Return the scores by tag, the confusion, and the worst sentences."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> Tagger:
        """Make the tagger; where it began with given vectors, no numbers are drawn for its table."""
        network = TaggerConfig(**config["network"])
        given = config.get("options", {}).get("vectors")
        return Tagger(network, matrix=torch.zeros(network.vocabulary_size, network.embedding_size) if given else None)

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> TagPredictor:
        """Make the predictor."""
        stored = config["encoder"]
        vocabularies = {name: Vocabulary(stored[name]) for name in ("words", "characters")}
        return TagPredictor(folder, config, model, Encoder(**(stored | vocabularies)))


def coverage(data: TagData) -> float:
    """Return the share of the training part's words that have a given vector."""
    words = data.encoder.words.words[: data.encoder.learned]
    return sum(word in data.vectors.numbers for word in words) / len(words) if data.vectors else 0.0


def plain(encoder: Encoder) -> dict[str, Any]:
    """Return an encoder as JSON has it."""
    own = {name: getattr(encoder, name) for name in ("tags", "lower", "learned", "longest")}
    return {"words": encoder.words.words, "characters": encoder.characters.words} | own


TAG = Tag()
