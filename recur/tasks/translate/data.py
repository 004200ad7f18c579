"""From files of pairs to ids: the parts are cut, the subwords learned from the training part alone."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recur.data.aligned import AlignedFiles
from recur.data.sequences import Ids, Sequences, SequenceWriter
from recur.data.subwords import END, Subwords
from recur.data.tables import FORMATS, read_table
from recur.errors import InputError
from recur.files import existing_folder
from recur.tasks.groups import group_of, split
from recur.tasks.options import flag
from recur.tasks.translate.options import TranslateOptions

Rows = NDArray[np.int64]
# a part that is cut off by chance has no more pairs: translating them takes time
MOST_CUT = 10_000


@dataclass(frozen=True)
class Encoder:
    """From texts to ids, as the network was trained on them, and back."""

    subwords: Subwords

    def __call__(self, texts: Iterable[str]) -> Sequences:
        """Return the ids of each text, </s> behind them."""
        return Sequences.of(self.ids(text) for text in texts)

    def ids(self, text: str) -> Ids:
        """Return the ids of a text, </s> behind them, int32 [T]."""
        return np.append(self.subwords.encode(text), np.int32(END))

    def text(self, ids: list[int]) -> str:
        """Return the text of some ids."""
        return self.subwords.decode(ids)


@dataclass(frozen=True)
class PairFile:
    """Some pairs of texts of a table or of two text files, streamed: every `for` reads them anew."""

    path: str
    target_path: str | None = None
    """The file of the translations, line by line; None for a table."""
    source: str = "source"
    target: str = "target"
    header: bool = True
    quotes: bool = True
    skip_bad_rows: bool = False
    rows: Rows | None = None
    """Row numbers, rising, from 0; None for all."""
    skipped: list[str] = field(default_factory=list, compare=False)
    """What was wrong with each pair left out, complete after the last one."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield (source, target).

        Raises:
            InputError: a file or a row cannot be read.
        """
        chosen: Iterable[int] = repeat(1)
        if self.rows is not None:
            mask = np.zeros(self.rows.max(initial=-1) + 1, np.uint8)
            mask[self.rows] = 1
            chosen = mask.tobytes()
        for wanted, pair in zip(chosen, self._pairs(), strict=False):
            if wanted:
                yield pair

    def _pairs(self) -> Iterator[tuple[str, str]]:
        try:
            if self.target_path is not None:
                lines = AlignedFiles(self.path, self.target_path, skip_bad_rows=self.skip_bad_rows)
                yield from ((source, target) for source, target in lines)
                self.skipped[:] = lines.skipped
                return
            columns = [self.source, self.target]
            table = read_table(
                self.path, columns, skip_bad_rows=self.skip_bad_rows, header=self.header, quotes=self.quotes
            )
            for row in table:
                yield row[self.source], row[self.target]
            self.skipped[:] = [f"{self.path}, {problem}" for problem in table.skipped]
        except InputError as error:
            raise InputError(f"{error}{self._hint(str(error))}") from None

    def _hint(self, problem: str) -> str:
        if not Path(self.path).name.lower().removesuffix(".gz").endswith((".csv", ".tsv")):
            return ""
        if self.header and "there is no column" in problem:
            return "; a file without a header needs --no-header, its columns are then called 1, 2 and so on"
        if self.quotes and "quote" in problem:
            return "; where quotes are ordinary characters, give --no-quotes"
        return ""

    def sources(self) -> Iterator[str]:
        """Yield the sources."""
        return (source for source, _ in self)


def pair_file(
    path: str,
    target_path: str | None,
    *,
    source: str | None,
    target: str | None,
    header: bool,
    quotes: bool,
    skip_bad_rows: bool,
    name: str = "train",
) -> PairFile:
    """Return the pairs of a table, or of two text files.

    Raises:
        InputError: a text file alone; the message names the flag that belongs to `name`.
    """
    if target_path is None and not Path(path).name.lower().removesuffix(".gz").endswith(FORMATS):
        raise InputError(
            f"{flag(name)} {path} is one text file of a pair: give that of its translations with {flag(name)}-target, "
            f"or a table, whose name ends in {', '.join(FORMATS)}"
        )
    first, second = ("source", "target") if header else ("1", "2")
    source, target = source or first, target or second
    if source == target:
        raise InputError(f"--source and --target must name two columns, got {source!r} twice")
    return PairFile(path, target_path, source, target, header, quotes, skip_bad_rows)


@dataclass(frozen=True)
class Part:
    """Pairs in ids, and in words."""

    sources: Sequences
    targets: Sequences
    texts: list[tuple[str, str]]
    """Source and target as they were read; empty for the training part, which need not fit into memory."""


@dataclass(frozen=True)
class Corpus:
    """What a run learns from, and where its test part is."""

    encoder: Encoder
    train_file: PairFile
    train: Part
    validation: Part
    test_file: PairFile
    """Read once at the start to see that it can be, and for its texts at the end."""
    seen: NDArray[np.uint64]
    """Hashes of the sources of the training part, rising."""
    notes: list[str]


@dataclass(frozen=True)
class Parts:
    """Where the pairs of each part are."""

    files: dict[str, PairFile]
    """By the name of the part."""
    seen: NDArray[np.uint64]
    """Hashes of the sources of the training part."""
    notes: list[str]


def read_corpus(options: TranslateOptions) -> Corpus:
    """Read the training file, cut it into its parts, and see that the test file can be read.

    Raises:
        InputError: a file or a row that cannot be read, or too few pairs.
    """
    parts = find_parts(options)
    learned = parts.files["train"]
    subwords = Subwords.build((text for pair in learned for text in pair), options.subwords, lower=options.lowercase)
    encoder = Encoder(subwords)
    pairs, long = _encode_training(encoder, learned, options.max_length, existing_folder(options.folder))
    if long:
        parts.notes.append(
            f"{_pairs(long)} of {options.train} with a text of more than {options.max_length} subwords left out of the "
            "training part"
        )
    if not len(pairs.sources):
        raise InputError(f"{options.train}: no pair is left to learn from; give a larger --max-length")
    return Corpus(
        encoder=encoder,
        train_file=learned,
        train=pairs,
        validation=read_part(encoder, parts.files["validation"]),
        test_file=parts.files["test"],
        seen=np.unique(parts.seen),
        notes=parts.notes,
    )


def find_parts(options: TranslateOptions) -> Parts:
    """Read all files once, and cut the parts that have none off the training file.

    Raises:
        InputError: a file or a row that cannot be read, or too few pairs.
    """
    files = {name: _file(options, name) for name in ("train", "validation", "test") if getattr(options, name)}
    hashes, usable = _scan(files["train"])
    notes = _notes(files["train"], len(usable) - int(usable.sum()))
    for name in ("validation", "test"):
        if name in files:
            _, filled = _scan(files[name])
            notes += _notes(files[name], len(filled) - int(filled.sum()), kept=True)
    whole = np.flatnonzero(usable)
    hashes = hashes[whole]
    given = {"validation": options.validation_share, "test": options.test_share}
    shares = [0.0 if name in files else min(share, MOST_CUT / max(1, len(whole))) for name, share in given.items()]
    train, *others = split(hashes, *shares)
    for name, share, rows in zip(given, shares, others, strict=True):
        if share and not (len(rows) and len(train)):
            raise InputError(
                f"{options.train} must have enough pairs to cut a {name} part off, got {len(whole)} with "
                f"{len(np.unique(hashes))} different sources; give more pairs, or {flag(name)}"
            )
        if share:
            notes.append(
                f"no {flag(name)} given: {_pairs(len(rows))} of {options.train}, drawn by chance, are that part"
            )
            files[name] = _only(files["train"], whole[rows])
    files["train"] = _only(files["train"], whole[train])
    return Parts(files, hashes[train], notes)


def read_part(encoder: Encoder, file: PairFile) -> Part:
    """Read pairs with their texts.

    Raises:
        InputError: a file or row that cannot be read.
    """
    texts = list(file)
    return Part(encoder(s for s, _ in texts), encoder(t for _, t in texts), texts)


def read_test(corpus: Corpus) -> tuple[Part, list[str]]:
    """Read the test part, and what a person should know of it."""
    part = read_part(corpus.encoder, corpus.test_file)
    known = int(np.isin([group_of(source) for source, _ in part.texts], corpus.seen).sum())
    share = f"{known} of {len(part.texts)} test sources ({known / len(part.texts):.1%})"
    return part, [f"{share} are in the training file too; the score may flatter"] if known else []


def _file(options: TranslateOptions, name: str) -> PairFile:
    return pair_file(
        getattr(options, name),
        getattr(options, f"{name}_target"),
        source=options.source,
        target=options.target,
        header=options.header,
        quotes=options.quotes,
        skip_bad_rows=options.skip_bad_rows,
        name=name,
    )


def _scan(file: PairFile) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Read all pairs once: the hash of each source, and whether both texts have something in them."""
    hashes, usable = array("Q"), bytearray()
    for source, target in file:
        hashes.append(group_of(source))
        usable.append(bool(source.strip()) and bool(target.strip()))
    return np.frombuffer(hashes, dtype=np.uint64), np.frombuffer(usable, dtype=np.bool_)


def _notes(file: PairFile, empty: int, kept: bool = False) -> list[str]:
    notes = []
    if file.skipped:
        notes.append(f"{len(file.skipped):,} bad rows left out of {file.path}, the first: {file.skipped[0]}")
    if empty:
        what = "kept, and scored" if kept else "left out"
        notes.append(f"{_pairs(empty)} of {file.path} with an empty text {what}")
    return notes


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' if count > 1 else ''}"


def _only(file: PairFile, rows: Rows) -> PairFile:
    return replace(file, rows=rows, skipped=[])


def _encode_training(encoder: Encoder, file: PairFile, max_length: int, folder: Path) -> tuple[Part, int]:
    """Encode pairs in a stream, into files of `folder` where they are too many for memory.

    How many were left out for their length is returned beside them.
    """
    writers = SequenceWriter(folder), SequenceWriter(folder)
    long = 0
    for pair in file:
        ids = [encoder.ids(text) for text in pair]
        if max(map(len, ids)) > max_length + 1:
            long += 1
            continue
        for writer, row in zip(writers, ids, strict=True):
            writer.append(row)
    return Part(writers[0].finish(), writers[1].finish(), []), long
