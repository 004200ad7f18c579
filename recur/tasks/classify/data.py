"""From files of labelled text to ids: the parts are cut, the words counted in the training part alone."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.data.sequences import Keep, Sequences, SequenceWriter
from recur.data.tables import Table, read_table
from recur.data.text import GUESSED_BY, Tokenizer, guess_kind
from recur.data.vectors import WordVectors
from recur.data.vocabulary import Indexer, Vocabulary
from recur.errors import InputError
from recur.files import existing_folder
from recur.tasks.classify.baselines import Part
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.labels import Rows, in_order, split


@dataclass(frozen=True)
class Encoder:
    """From texts to ids, as the network was trained on them."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    max_length: int | None
    keep: Keep

    def whole(self, texts: Iterable[str], folder: Path | None = None) -> Sequences:
        """Return the ids of each text, none cut; those too many for memory in a file in `folder`, if one is given."""
        writer = SequenceWriter(folder)
        for text in texts:
            writer.append(self.vocabulary.ids(self.tokenizer(text)))
        return writer.finish()

    def cut(self, sequences: Sequences) -> Sequences:
        """Cut the sequences to the longest length."""
        return sequences if self.max_length is None else sequences.truncate(self.max_length, self.keep)

    def __call__(self, texts: Iterable[str]) -> Sequences:
        """Return the ids of each text as the network reads them."""
        return self.cut(self.whole(texts))


@dataclass(frozen=True)
class LabelledFile:
    """Some rows of a table of labelled texts, streamed: every `for` reads the file anew."""

    path: str
    text: str
    label: str
    skip_bad_rows: bool = False
    rows: Rows | None = None
    """Row numbers, rising, from 0; None for all."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield (text, label)."""
        chosen: Iterable[int] = repeat(1)
        if self.rows is not None:
            mask = np.zeros(self.rows.max(initial=-1) + 1, np.uint8)
            mask[self.rows] = 1
            chosen = mask.tobytes()
        for wanted, row in zip(chosen, self.table(), strict=False):
            if wanted:
                yield row[self.text], row[self.label].strip()

    def table(self) -> Table:
        """Return all rows; one without a label is a bad one."""
        return read_table(self.path, [self.text, self.label], skip_bad_rows=self.skip_bad_rows, filled=[self.label])

    def texts(self) -> Iterator[str]:
        """Yield the texts."""
        return (text for text, _ in self)


@dataclass(frozen=True)
class Corpus:
    """What a run learns from, and where its test part is."""

    labels: list[str]
    """The classes, in the order of their numbers."""
    encoder: Encoder
    train: Part
    """Whole texts."""
    validation: Part
    test_file: LabelledFile
    """Its labels are checked at the start, its texts not read before the end."""
    seen: NDArray[np.int64]
    """Hashes of the texts of the training file that are not in the test part, rising."""
    notes: list[str]
    """What a person should know of the data."""
    folder: Path
    """Where what is too much for memory goes."""
    vectors: WordVectors | None = None
    """Given vectors of the words."""


def read_corpus(options: ClassifyOptions) -> Corpus:
    """Read the training file, cut it into its parts, and check the labels of the other files.

    Of every row number, class and hash stay in memory; ids that are too many for it go to a file without a name.

    Raises:
        InputError: a file or row that cannot be read, one class only, too few rows, labels that do not fit.
        RunError: the folder of the run has no room for the ids.
    """
    file, validation_file, test_file = (
        LabelledFile(path, options.text, options.label, options.skip_bad_rows) if path else None
        for path in (options.train, options.validation, options.test)
    )
    assert file
    survey = _survey(file)
    notes = survey.notes
    labels, numbers = _classes(options, survey)
    shares = 0.0 if validation_file else options.validation_share, 0.0 if test_file else options.test_share
    train, validation, test = split(numbers, *shares)
    if not (validation_file or len(validation)) or not (test_file or len(test)):
        cut = " and ".join(
            f"a {name} part" for name, given in (("validation", validation_file), ("test", test_file)) if not given
        )
        raise InputError(
            f"{options.train} must have enough rows of each class to cut {cut} off, got {len(numbers)} rows in "
            f"{len(labels)} classes; give more rows, or a larger --validation-share"
        )
    for given in filter(None, (validation_file, test_file)):
        notes += _check_labels(given, labels)
    if not test_file:
        test_file = _only(file, test)
        notes.append(f"no --test given: {len(test)} rows of {options.train}, drawn by chance, are the test part")
    learned = _only(file, train[:GUESSED_BY]).texts()
    tokenizer = Tokenizer(guess_kind(learned) if options.tokens == "auto" else options.tokens)
    folder = existing_folder(options.folder)
    part = np.zeros(len(numbers), np.uint8)
    part[validation], part[test] = 1, 2
    classes, validated = numbers[part == 0], numbers[part == 1]
    seen = survey.hashes[part < 2]
    seen.sort()
    # of 20 million rows these are half a gigabyte
    del survey, numbers, train, validation
    indexer = Indexer(2, folder)
    for where, row in zip(part.tobytes(), file.table(), strict=False):
        if where < 2:
            indexer.add(tokenizer(row[options.text]), where)
    if validation_file:
        gathered = _Gathered(labels, seen)
        for text in gathered.texts(validation_file):
            indexer.add(tokenizer(text), 1)
        validated = gathered.numbers()
        notes += gathered.notes("validation", "the best epoch is chosen on texts that are known")
    vocabulary, (sequences, validation_sequences) = indexer.finish(options.vocabulary, options.min_count)
    if indexer.dropped:
        notes.append(
            f"the training texts have more distinct words than can be counted at a time: those seen {indexer.dropped} "
            "times or fewer were dropped on the way, and are unknown"
        )
    return Corpus(
        labels=labels,
        encoder=Encoder(tokenizer, vocabulary, options.max_length, options.keep),
        train=Part(sequences, classes),
        validation=Part(validation_sequences, validated),
        test_file=test_file,
        seen=seen,
        notes=notes,
        folder=folder,
    )


def read_test(corpus: Corpus) -> tuple[Part, list[str]]:
    """Read the test part: its whole texts and classes, and what a person should know of it."""
    gathered = _Gathered(corpus.labels, corpus.seen)
    sequences = corpus.encoder.whole(gathered.texts(corpus.test_file), corpus.folder)
    return Part(sequences, gathered.numbers()), gathered.notes("test", "the score may flatter")


def read_labelled(file: LabelledFile, encoder: Encoder, labels: list[str]) -> tuple[Part, list[str]]:
    """Read all rows of another file, for a trained network to be scored on, and what a person should know of them.

    Raises:
        InputError: a file or row that cannot be read, or a label that the network does not know.
    """
    notes = _check_labels(file, labels)
    gathered = _Gathered(labels)
    sequences = encoder(gathered.texts(file))
    return Part(sequences, gathered.numbers()), notes


class _Gathered:
    """Notes the classes of texts as they pass, and what a person should know of them.

    Args:
        labels: the classes.
        seen: hashes of known texts, rising; None if nobody asks.
    """

    def __init__(self, labels: list[str], seen: NDArray[np.int64] | None = None) -> None:
        self._number = {label: i for i, label in enumerate(labels)}
        self._seen = seen
        self._numbers, self._hashes = array("i"), array("q")
        self._empty = 0

    def texts(self, file: LabelledFile) -> Iterator[str]:
        """Yield the texts of a file."""
        for text, name in file:
            self._numbers.append(self._number[name])
            stripped = text.strip()
            self._empty += not stripped
            if self._seen is not None:
                self._hashes.append(hash(stripped))
            yield text

    def numbers(self) -> Rows:
        """Return the class of each text."""
        return np.frombuffer(self._numbers, np.int32)

    def notes(self, part: str, consequence: str) -> list[str]:
        """Say how many texts are known, and how many empty."""
        notes, rows = [], len(self._numbers)
        if self._seen is not None and len(self._seen):
            hashes = np.frombuffer(self._hashes, np.int64)
            place = np.searchsorted(self._seen, hashes).clip(max=len(self._seen) - 1)
            if known := int((self._seen[place] == hashes).sum()):
                notes.append(
                    f"{known} of {rows} {part} texts ({known / rows:.1%}) are in the training file too; {consequence}"
                )
        if self._empty:
            notes.append(f"{self._empty} empty texts in the {part} part; they are scored, as texts of length 0")
        return notes


def _only(file: LabelledFile, rows: Rows) -> LabelledFile:
    return LabelledFile(file.path, file.text, file.label, file.skip_bad_rows, rows)


class _Survey(NamedTuple):
    """What is known of a file of labelled texts before any text is cut into tokens."""

    names: list[str]
    """The labels, in the order of their appearance."""
    numbers: NDArray[np.int32]
    """Which of them each row has."""
    hashes: NDArray[np.int64]
    """Of the texts."""
    notes: list[str]


def _survey(file: LabelledFile) -> _Survey:
    known: defaultdict[str, int] = defaultdict(count().__next__)
    numbers, hashes = array("i"), array("q")
    empty = 0
    table = file.table()
    for row in table:
        text = row[file.text].strip()
        numbers.append(known[row[file.label].strip()])
        hashes.append(hash(text))
        empty += not text
    notes = _skipped(table)
    if empty:
        notes.append(f"{empty} empty texts in {file.path}; they are kept, as texts of length 0")
    return _Survey(list(known), np.frombuffer(numbers, np.int32), np.frombuffer(hashes, np.int64), notes)


def _classes(options: ClassifyOptions, survey: _Survey) -> tuple[list[str], NDArray[np.int32]]:
    """Return the classes, and the number of each row's."""
    names, rows = survey.names, len(survey.numbers)
    if len(names) < 2:
        raise InputError(
            f"{options.train}: the column {options.label!r} must hold at least two classes, got only "
            f"{names[0]!r}; a classifier needs something to tell apart"
        )
    if len(names) == rows:
        raise InputError(
            f"{options.train}: the column {options.label!r} holds a different value in each of {rows} rows; "
            "name the column of the classes with --label"
        )
    labels = in_order(names)
    number = {label: i for i, label in enumerate(labels)}
    return labels, np.array([number[name] for name in names], np.int32)[survey.numbers]


def _check_labels(file: LabelledFile, labels: list[str]) -> list[str]:
    """See that the labels of a file are known; return what a person should know of its bad rows."""
    known, table = set(labels), file.table()
    for row in table:
        name = row[file.label].strip()
        if name not in known:
            shown = ", ".join(islice(labels, 10)) + (", ..." if len(labels) > 10 else "")
            raise InputError(
                f"{file.path}, {table.place}: the label {name!r} is not among those of the training data, {shown}; "
                "correct it, or take such rows out"
            )
    return _skipped(table)


def _skipped(table: Table) -> list[str]:
    count = len(table.skipped)
    return [f"{count} bad rows of {table.path} left out, the first: {table.skipped[0]}"] if count else []
