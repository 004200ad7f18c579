"""From files of labelled text to ids: the parts are cut, the words counted in the training part alone."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from recur.data.sequences import Keep, Sequences
from recur.data.tables import Table, read_table
from recur.data.text import Tokenizer, guess_kind
from recur.data.vectors import WordVectors
from recur.data.vocabulary import Vocabulary, index_tokens
from recur.errors import InputError
from recur.tasks.classify.baselines import Part
from recur.tasks.classify.options import ClassifyOptions

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Encoder:
    """From texts to ids, as the network was trained on them."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    max_length: int | None
    keep: Keep

    def whole(self, texts: Iterable[str]) -> Sequences:
        """Return the ids of each text, none cut."""
        return Sequences.of(self.vocabulary.ids(self.tokenizer(text)) for text in texts)

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
        chosen = None if self.rows is None else set(self.rows.tolist())
        for number, row in enumerate(self.table()):
            if chosen is None or number in chosen:
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
    seen: set[int]
    """Hashes of the texts of the training file that are not in the test part."""
    notes: list[str]
    """What a person should know of the data."""
    vectors: WordVectors | None = None
    """Given vectors of the words."""


def read_corpus(options: ClassifyOptions) -> Corpus:
    """Read the training file, cut it into its parts, and check the labels of the test file.

    Raises:
        InputError: a file or row that cannot be read, one class only, too few rows, labels that do not fit.
    """
    file = LabelledFile(options.train, options.text, options.label, options.skip_bad_rows)
    names: list[str] = []
    hashes: list[int] = []
    empty = 0
    table = file.table()
    for row in table:
        text = row[options.text]
        names.append(row[options.label].strip())
        hashes.append(hash(text.strip()))
        empty += not text.strip()
    notes = _skipped(table)
    if empty:
        notes.append(f"{empty} empty texts in {options.train}; they are kept, as texts of length 0")
    labels = _classes(options, names)
    numbers = _numbers(labels, names)
    test_share = 0.0 if options.test else options.test_share
    train, validation, test = split(numbers, options.validation_share, test_share)
    if not len(validation) or not (options.test or len(test)):
        raise InputError(
            f"{options.train} must have enough rows of each class to cut a validation part"
            f"{'' if options.test else ' and a test part'} off, got {len(names)} rows in {len(labels)} classes; "
            "give more rows, or a larger --validation-share"
        )
    if options.test:
        test_file = LabelledFile(options.test, options.text, options.label, options.skip_bad_rows)
        notes += _check_labels(test_file, labels)
    else:
        test_file = LabelledFile(options.train, options.text, options.label, options.skip_bad_rows, test)
        notes.append(f"no --test given: {len(test)} rows of {options.train}, drawn by chance, are the test part")
    learned = _only(file, train)
    tokenizer = Tokenizer(guess_kind(learned.texts()) if options.tokens == "auto" else options.tokens)
    vocabulary, sequences = index_tokens(
        (tokenizer(text) for text in learned.texts()), options.vocabulary, options.min_count
    )
    encoder = Encoder(tokenizer, vocabulary, options.max_length, options.keep)
    outside = set(test.tolist())
    return Corpus(
        labels=labels,
        encoder=encoder,
        train=Part(sequences, numbers[train]),
        validation=Part(encoder.whole(_only(file, validation).texts()), numbers[validation]),
        test_file=test_file,
        seen={h for i, h in enumerate(hashes) if i not in outside},
        notes=notes,
    )


def read_test(corpus: Corpus) -> tuple[Part, list[str]]:
    """Read the test part: its whole texts and classes, and what a person should know of it."""
    names: list[str] = []
    duplicates = empty = 0

    def texts() -> Iterator[str]:
        nonlocal duplicates, empty
        for text, name in corpus.test_file:
            names.append(name)
            empty += not text.strip()
            duplicates += hash(text.strip()) in corpus.seen
            yield text

    part = Part(corpus.encoder.whole(texts()), np.empty(0, dtype=np.int64))
    notes = []
    if duplicates:
        share = duplicates / len(names)
        notes.append(
            f"{duplicates} of {len(names)} test texts ({share:.1%}) are in the training file too; the score may flatter"
        )
    if empty:
        notes.append(f"{empty} empty texts in the test part; they are scored, as texts of length 0")
    return part._replace(labels=_numbers(corpus.labels, names)), notes


def read_labelled(file: LabelledFile, encoder: Encoder, labels: list[str]) -> tuple[Part, list[str]]:
    """Read all rows of another file, for a trained network to be scored on, and what a person should know of them.

    Raises:
        InputError: a file or row that cannot be read, or a label that the network does not know.
    """
    notes = _check_labels(file, labels)
    names: list[str] = []

    def texts() -> Iterator[str]:
        for text, name in file:
            names.append(name)
            yield text

    sequences = encoder(texts())
    return Part(sequences, _numbers(labels, names)), notes


def split(numbers: Rows, validation: float, test: float) -> tuple[Rows, Rows, Rows]:
    """Cut rows into training, validation and test part by chance, each class in the same shares.

    The cut is a function of the arguments alone: runs with other seeds have the same parts.

    Args:
        numbers: class of each row [n].
        validation: share of what is no test part.
        test: share, may be 0.

    Returns:
        The row numbers of each part, rising. A class of two rows or more has one in the validation part at least, and
        of three or more in the test part if there is one.
    """
    generator = np.random.default_rng(0)
    parts: tuple[list[Rows], ...] = ([], [], [])
    for number in np.unique(numbers):
        rows = generator.permutation(np.flatnonzero(numbers == number))
        n_test = min(max(1, round(test * len(rows))), len(rows) - 2) if test and len(rows) > 2 else 0
        left = len(rows) - n_test
        n_validation = min(max(1, round(validation * left)), left - 1)
        for part, piece in zip(parts, np.split(rows, [left - n_validation, left]), strict=True):
            part.append(piece)
    train, validation_rows, test_rows = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation_rows, test_rows


def _only(file: LabelledFile, rows: Rows) -> LabelledFile:
    return LabelledFile(file.path, file.text, file.label, file.skip_bad_rows, rows)


def _classes(options: ClassifyOptions, names: list[str]) -> list[str]:
    counts = Counter(names)
    if len(counts) < 2:
        raise InputError(
            f"{options.train}: the column {options.label!r} must hold at least two classes, got only "
            f"{next(iter(counts))!r}; a classifier needs something to tell apart"
        )
    if len(counts) == len(names):
        raise InputError(
            f"{options.train}: the column {options.label!r} holds a different value in each of {len(names)} rows; "
            "name the column of the classes with --label"
        )
    numeric = all(re.fullmatch(r"-?\d{1,18}", name) for name in counts)
    return sorted(counts, key=(lambda name: (int(name), name)) if numeric else None)


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


def _numbers(labels: list[str], names: list[str]) -> Rows:
    number = {label: i for i, label in enumerate(labels)}
    return np.array([number[name] for name in names], dtype=np.int64)
