"""The task answer: questions about stories, by a memory network whose hops are recurrences."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from recur.data.stories import StoryBatches
from recur.data.text import Tokenizer
from recur.data.vocabulary import Vocabulary
from recur.models.memory import MemoryConfig, MemoryNetwork
from recur.tasks.answer.baselines import run_baselines
from recur.tasks.answer.data import Corpus, Encoder, read_corpus, read_test
from recur.tasks.answer.model import AnswerObjective, probabilities
from recur.tasks.answer.options import AnswerOptions
from recur.tasks.answer.predictor import AnswerPredictor
from recur.tasks.answer.report import Drawn, report
from recur.tasks.answer.scores import score
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.progress import Progress


class Answer(Task[AnswerOptions, Corpus]):
    """From stories with questions to trained memory networks."""

    name = "answer"
    options = AnswerOptions
    figure = Figure("accuracy", percent, unit="questions", share=True)

    def read(self, options: AnswerOptions, progress: Progress) -> Corpus:
        """Read the questions, and cut whole stories into parts."""
        return read_corpus(options)

    def setup(self, options: AnswerOptions, data: Corpus) -> Setup:
        """Make the network, and batches of stories of like length."""
        (seed,), encoder = options.seed, data.encoder
        sizes = {"vocabulary_size": len(encoder.vocabulary), "classes": len(encoder.labels)}
        network = MemoryConfig(**options.network(MemoryConfig) | sizes)
        batches = StoryBatches(data.train.stories, options.batch_size, seed)
        return Setup(
            AnswerObjective(MemoryNetwork(network)),
            batches,
            StoryBatches(data.validation.stories, options.batch_size, seed=0, shuffle=False),
            config={
                "labels": encoder.labels,
                "network": dataclasses.asdict(network),
                "tokenizer": dataclasses.asdict(encoder.tokenizer),
                "words": encoder.vocabulary.words,
            },
            facts={"padding_share": batches.padding_share},
        )

    def score(self, options: AnswerOptions, data: Corpus, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and baselines on the questions of the test part."""
        test, notes = read_test(data)
        parts = {"train": data.train, "validation": data.validation, "test": test}
        baselines = []
        if options.baselines:
            questions = data.train.questions, data.validation.questions, test.questions
            baselines = run_baselines(*questions, data.encoder, lambda name: progress.say(f"baseline {name}"))
        members = []
        for one in trained:
            guesses = [
                probabilities(
                    one.model,
                    parts[name].stories,
                    options.batch_size,
                    partial(progress.share, f"scoring {one.name} on the {name} part"),
                )
                for name in ("validation", "test")
            ]
            scores = score(guesses[0], data.validation), score(guesses[1], test)
            members.append(Member(one, *scores, shown=guesses[1]))
        rows = {name: len(part.questions) for name, part in parts.items()}
        return Scored(members, baselines, rows, notes, extra=Drawn(test))

    def facts(self, result: Result[Corpus], member: Member) -> dict[str, Any]:
        """Return the answers that the network knows."""
        return {"labels": result.data.encoder.labels}

    def report(self, result: Result[Corpus]) -> TaskReport:
        """Return which sentences each hop reads, the accuracy by file, and the worst mistakes."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> MemoryNetwork:
        """Make the network."""
        return MemoryNetwork(MemoryConfig(**config["network"]))

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> AnswerPredictor:
        """Make the predictor."""
        encoder = Encoder(
            Tokenizer(**config["tokenizer"]),
            Vocabulary(config["words"]),
            list(config["labels"]),
            config["options"]["max_sentences"],
        )
        return AnswerPredictor(folder, config, model, encoder)


ANSWER = Answer()
