"""`recur train classify`: from files of labelled text to trained classifiers, their scores and a report."""

import dataclasses
import math
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from recur.cells import cell_named
from recur.data.batches import LengthBatches
from recur.data.vectors import WordVectors, read_vectors
from recur.errors import InputError
from recur.files import write_json
from recur.models.classifier import Classifier
from recur.report import write_report
from recur.tasks.baselines import ngram_table_growth, run_baselines
from recur.tasks.checkpoint import seed_all
from recur.tasks.classify_data import Corpus, read_corpus, read_test
from recur.tasks.classify_model import ClassifyObjective, count_evidence, describe, network_config, probabilities
from recur.tasks.classify_options import FREE_ON_RESUME, ClassifyOptions
from recur.tasks.classify_report import compose_report
from recur.tasks.classify_result import Member, Result, Trained, member_metrics, run_metrics
from recur.tasks.figures import score
from recur.tasks.interrupt import Interrupted
from recur.tasks.options import make_options
from recur.tasks.progress import Progress
from recur.tasks.run import (
    carried_on,
    check_free,
    check_same_data,
    clear_leftovers,
    create_run,
    locked,
    make_folder,
    read_config,
    save_model,
    versions,
    write_config,
)
from recur.tasks.training import train

__all__ = ["ClassifyOptions", "resumed_options", "train_classify"]


def train_classify(options: ClassifyOptions, progress: Progress | None = None) -> Path:
    """Train a classifier for each cell and seed, score them and the baselines on the test part, and write the run.

    Args:
        options: what to do; with `resume` those of the run in `out`, from which a value given must not differ.
        progress: what is shown; a bar or lines on standard error by default.

    Returns:
        The run folder. With several cells or seeds it holds a run folder CELL-SEED for each of them.

    Raises:
        InputError: an option or a file is not right.
        RunError: the folder is in use, or cannot be read or written.
        Interrupted: Ctrl-C or SIGTERM; `resume` carries the run on.
        MissingExtra: a package is not installed.
    """
    if options.resume:
        options = resumed_options(_changed(options))
    options.check()
    for cell in options.cell:
        _check_cell(cell)
    if options.threads:
        torch.set_num_threads(options.threads)
    folder, progress = options.folder, progress or Progress()
    if not options.resume:
        check_free(folder, overwrite=options.overwrite)
    elif (folder / "metrics.json").is_file():
        progress.say(f"{folder} is finished; nothing is left to do")
        return folder
    progress.say(f"reading {options.train}")
    corpus = read_corpus(options)
    vectors = read_vectors(options.vectors, corpus.encoder.vocabulary) if options.vectors else None
    if vectors is not None and not vectors.words:
        # before the folder is touched: a run that is to be overwritten must outlive a wrong file
        raise InputError(
            f"--vectors {options.vectors} has none of the {len(corpus.encoder.vocabulary.words)} words of the texts; "
            "give vectors of their language and spelling, or leave it out"
        )
    for note in corpus.notes:
        progress.say(f"note: {note}")
    with locked(folder):
        _open_run(options, corpus)
        try:
            members = [_train_member(member, corpus, vectors, progress) for member in _members(options)]
            _write_results(_score(options, corpus, members, progress))
        except (Interrupted, KeyboardInterrupt) as stopped:
            # what is to be resumed is the whole run
            signum = stopped.signum if isinstance(stopped, Interrupted) else signal.SIGINT
            raise Interrupted(signum, folder) from stopped
    return folder


def resumed_options(given: Mapping[str, Any]) -> ClassifyOptions:
    """Return the options of the run in `given["out"]`, with paths, threads and the like replaced by those given.

    Raises:
        InputError: another option that is given differs from the run's.
        RunError: there is no run.
    """
    if not given.get("out") and not given.get("train"):
        raise InputError("--resume needs --out, the run folder to carry on")
    source = "recur train classify --resume"
    folder = make_options(ClassifyOptions, {"train": ""} | dict(given), source).folder
    return carried_on(ClassifyOptions, folder, given, FREE_ON_RESUME, source)


def _changed(options: ClassifyOptions) -> dict[str, Any]:
    """Return the options that are not at their defaults."""
    fields = dataclasses.fields(options)
    return {f.name: getattr(options, f.name) for f in fields if getattr(options, f.name) != f.default}


def _check_cell(name: str) -> None:
    try:
        cell_named(name)
    except InputError as error:
        raise InputError(str(error).replace("`cell`", "--cell")) from None


def _members(options: ClassifyOptions) -> list[ClassifyOptions]:
    """Return the options of each cell and seed, each with its own folder."""
    pairs = [(cell, seed) for cell in options.cell for seed in options.seed]
    if len(pairs) == 1:
        return [dataclasses.replace(options, out=str(options.folder))]
    return [
        dataclasses.replace(options, cell=(cell,), seed=(seed,), out=str(options.folder / f"{cell}-{seed}"))
        for cell, seed in pairs
    ]


def _open_run(options: ClassifyOptions, corpus: Corpus) -> None:
    """Make the folder and write its first config.json, or see that the data are those that it was started with."""
    folder, members = options.folder, _members(options)
    if options.resume:
        clear_leftovers(folder)
        stored = read_config(folder).get("data", {})
        for name, found in corpus.fingerprints.items():
            check_same_data(name, stored.get(name, {}), found)
        return
    create_run(folder, overwrite=options.overwrite)
    named = {"members": [member.folder.name for member in members]} if len(members) > 1 else {}
    write_config(folder, _origin(options, corpus) | named)


def _origin(options: ClassifyOptions, corpus: Corpus) -> dict[str, Any]:
    """Return what config.json says of where a run comes from."""
    return {
        "task": "classify",
        "options": options.plain(),
        "data": corpus.fingerprints,
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _train_member(options: ClassifyOptions, corpus: Corpus, vectors: WordVectors | None, progress: Progress) -> Trained:
    """Train one cell with one seed in its own folder, from the start or from where it was stopped."""
    (cell,), (seed,), folder, encoder = options.cell, options.seed, options.folder, corpus.encoder
    make_folder(folder)
    clear_leftovers(folder)
    seed_all(seed)
    network = network_config(options, len(encoder.vocabulary), len(corpus.labels), vectors.size if vectors else None)
    matrix, coverage = vectors.table(encoder.vocabulary, seed) if vectors else (None, None)
    cut = [part._replace(sequences=encoder.cut(part.sequences)) for part in (corpus.train, corpus.validation)]
    texts = cut[0].sequences
    if network.evidence:
        # no more rows than there can be n-grams, so that small data make small files
        rows = min(options.evidence_buckets, max(1024, 1 << int(texts.lengths.sum()).bit_length()))
        network = dataclasses.replace(network, evidence_buckets=rows)
    model = Classifier(network, matrix=None if matrix is None else torch.from_numpy(matrix))
    if not (options.resume and (folder / "trainer.ckpt").exists()):
        own = {"seed": seed, "parameters": model.parameter_count} | describe(encoder, network, corpus.labels)
        write_config(folder, _origin(options, corpus) | own)
    progress.label = f"{cell}, seed {seed}  "
    if coverage is not None:
        progress.say(f"{coverage:.1%} of the {len(encoder.vocabulary.words)} words have a vector in {options.vectors}")
    if model.evidence is not None:
        count_evidence(model.evidence, cut[0])
    batches = LengthBatches(*cut[0], options.batch_size, seed)
    padding_share = batches.padding_share
    objective = ClassifyObjective(model)
    training = train(
        objective,
        batches,
        LengthBatches(*cut[1], options.batch_size, seed=0, shuffle=False),
        options,
        folder=folder,
        seed=seed,
        resume=options.resume,
        progress=progress,
        look=objective.look,
    )
    progress.label = ""
    save_model(folder, model)
    return Trained(options, model, training, padding_share, coverage)


def _score(options: ClassifyOptions, corpus: Corpus, trained: list[Trained], progress: Progress) -> Result:
    """Read the test part, for the first and only time, and score the networks and the baselines on it."""
    test, notes = read_test(corpus)
    for note in notes:
        progress.say(f"note: {note}")
    baselines = []
    if options.baselines:
        longer = float((test.sequences.lengths > (options.max_length or math.inf)).mean())
        if longer:
            notes.append(
                f"the baselines read whole texts, the networks the {options.keep} {options.max_length} tokens of each; "
                f"{longer:.1%} of the test texts are longer"
            )
            progress.say(f"note: {notes[-1]}")
        baselines = run_baselines(
            corpus.train,
            corpus.validation,
            test,
            vocabulary_size=len(corpus.encoder.vocabulary),
            classes=len(corpus.labels),
            progress=lambda name: progress.say(f"baseline {name}"),
        )
    members = []
    for one in trained:
        guesses = [
            probabilities(one.model, corpus.encoder.cut(part.sequences), options.batch_size)
            for part in (corpus.validation, test)
        ]
        members.append(
            Member(one, score(guesses[0], corpus.validation.labels), score(guesses[1], test.labels), guesses[1])
        )
    growth = ngram_table_growth(corpus.train.sequences) if options.baselines else []
    return Result(options, corpus, test, members, baselines, growth, [*corpus.notes, *notes])


def _write_results(result: Result) -> None:
    for member in result.members:
        folder = member.trained.options.folder
        alone = dataclasses.replace(result, members=[member])
        write_report(folder / "report.html", compose_report(alone))
        write_json(folder / "metrics.json", member_metrics(result, member))
    if len(result.members) > 1:
        write_report(result.options.folder / "report.html", compose_report(result))
        write_json(result.options.folder / "metrics.json", run_metrics(result))
