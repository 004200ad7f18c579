"""The task classify: texts to classes, by a many-to-one network."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recur.data.batches import LengthBatches
from recur.data.text import Tokenizer
from recur.data.vectors import read_vectors
from recur.data.vocabulary import Vocabulary
from recur.errors import InputError
from recur.models.classifier import Classifier, ClassifierConfig
from recur.tasks.classify.baselines import MOST_IDS, MOST_ROWS, ngram_table_growth, run_baselines
from recur.tasks.classify.data import Corpus, Encoder, read_corpus, read_test
from recur.tasks.classify.model import ClassifyObjective, count_evidence, probabilities
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.classify.predictor import ClassifyPredictor
from recur.tasks.classify.report import Drawn, report
from recur.tasks.job import Figure, Member, Result, Scored, Setup, Task, TaskReport, Trained
from recur.tasks.job_result import percent
from recur.tasks.many_to_one import score_members
from recur.tasks.numbers.options import asks_for_numbers
from recur.tasks.progress import Progress


class Classify(Task[ClassifyOptions, Corpus]):
    """From files of labelled text to trained classifiers."""

    name = "classify"
    options = ClassifyOptions
    figure = Figure("accuracy", percent, unit="texts", share=True)

    def read(self, options: ClassifyOptions, progress: Progress) -> Corpus:
        """Read the training file, cut it into its parts, and check the labels of the test file."""
        if asks_for_numbers(dataclasses.asdict(options)):
            raise InputError(f"{options.train} is asked for as numbers; give recur.tasks.numbers.task.NUMBERS instead")
        corpus = read_corpus(options)
        if not options.vectors:
            return corpus
        words = len(corpus.encoder.vocabulary.words)
        vectors = read_vectors(options.vectors, corpus.encoder.vocabulary)
        if not vectors.words:
            raise InputError(
                f"--vectors {options.vectors} has none of the {words} words of the texts; give vectors of their "
                "language and spelling, or leave it out"
            )
        progress.say(f"{len(vectors.words) / words:.1%} of the {words} words have a vector in {options.vectors}")
        return dataclasses.replace(corpus, vectors=vectors)

    def setup(self, options: ClassifyOptions, data: Corpus) -> Setup:
        """Make the network, with counted evidence and word vectors where asked for, and batches of like lengths."""
        (seed,), encoder, vectors = options.seed, data.encoder, data.vectors
        train, validation = (
            part._replace(sequences=encoder.cut(part.sequences)) for part in (data.train, data.validation)
        )
        sizes = {"vocabulary_size": len(encoder.vocabulary), "classes": len(data.labels)}
        matrix, facts = None, {}
        if vectors is not None:
            matrix, facts["vector_coverage"] = vectors.table(encoder.vocabulary, seed)
            sizes["embedding_size"] = vectors.size
        if options.evidence:
            # no more rows than there can be n-grams, so that small data make small files
            rows = max(1024, 1 << int(train.sequences.lengths.sum()).bit_length())
            sizes["evidence_buckets"] = min(options.evidence_buckets, rows)
        network = ClassifierConfig(**options.network(ClassifierConfig) | sizes)
        model = Classifier(network, matrix=None if matrix is None else torch.from_numpy(matrix))
        if model.evidence is not None:
            count_evidence(model.evidence, train)
        batches = LengthBatches(*train, options.batch_size, seed)
        return Setup(
            ClassifyObjective(model),
            batches,
            LengthBatches(*validation, options.batch_size, seed=0, shuffle=False),
            config={
                "labels": data.labels,
                "network": dataclasses.asdict(network),
                "tokenizer": dataclasses.asdict(encoder.tokenizer),
                "max_length": encoder.max_length,
                "keep": encoder.keep,
                "vocabulary": encoder.vocabulary.words,
            },
            facts={"padding_share": batches.padding_share} | facts,
        )

    def score(self, options: ClassifyOptions, data: Corpus, trained: list[Trained], progress: Progress) -> Scored:
        """Score networks and bags of words on the test texts."""
        test, notes = read_test(data)
        baselines, growth, counted = [], [], 0
        if options.baselines:
            learned, chosen, scored = (part.sample(MOST_ROWS, MOST_IDS) for part in (data.train, data.validation, test))
            if len(learned.labels) < len(data.train.labels) or len(scored.labels) < len(test.labels):
                notes.append(
                    f"the baselines learn from {len(learned.labels):,} of {len(data.train.labels):,} training texts "
                    f"and are scored on {len(scored.labels):,} of {len(test.labels):,} test texts, drawn by chance"
                )
            longer = float((test.sequences.lengths > (options.max_length or math.inf)).mean())
            if longer:
                notes.append(
                    f"the baselines read whole texts, the networks the {options.keep} {options.max_length} tokens of "
                    f"each; {longer:.1%} of the test texts are longer"
                )
            baselines = run_baselines(
                learned,
                chosen,
                scored,
                vocabulary_size=len(data.encoder.vocabulary),
                classes=len(data.labels),
                progress=lambda name: progress.say(f"baseline {name}"),
            )
            growth, counted = ngram_table_growth(learned.sequences), len(learned.labels)
        members = score_members(
            trained,
            lambda model, part, shown: probabilities(
                model, data.encoder.cut(part.sequences), options.batch_size, shown
            ),
            data.validation,
            test,
            progress,
        )
        parts = {"train": data.train, "validation": data.validation, "test": test}
        rows = {name: len(part.labels) for name, part in parts.items()}
        return Scored(members, baselines, rows, notes, extra=Drawn(test, growth, counted))

    def facts(self, result: Result[Corpus], member: Member) -> dict[str, Any]:
        """Return the classes and the size of the vocabulary."""
        return {"labels": result.data.labels, "words": len(result.data.encoder.vocabulary.words)}

    def report(self, result: Result[Corpus]) -> TaskReport:
        """Return the confusion and the worst mistakes."""
        return report(result)

    def build(self, config: Mapping[str, Any]) -> Classifier:
        """Make the classifier; where it began with given vectors, no numbers are drawn for its table."""
        network = ClassifierConfig(**config["network"])
        given = config.get("options", {}).get("vectors")
        matrix = torch.zeros(network.vocabulary_size, network.embedding_size) if given else None
        return Classifier(network, matrix=matrix)

    def load(self, folder: Path, config: Mapping[str, Any], model: Any) -> ClassifyPredictor:
        """Make the predictor."""
        vocabulary = Vocabulary(config["vocabulary"])
        encoder = Encoder(Tokenizer(**config["tokenizer"]), vocabulary, config["max_length"], config["keep"])
        return ClassifyPredictor(folder, config, model, encoder, list(config["labels"]))


CLASSIFY = Classify()
