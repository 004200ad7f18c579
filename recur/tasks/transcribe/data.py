"""From tables of sounds and texts to frames and units; the test part is read at the end alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.data.frames import Frames
from recur.data.sequences import Sequences
from recur.data.sound import sound_rows
from recur.data.spectra import Spectra
from recur.errors import InputError
from recur.models.ctc import needed_steps
from recur.tasks.groups import group_of, split
from recur.tasks.options import flag
from recur.tasks.progress import Progress
from recur.tasks.sounds.reading import find_spectra, read_frames
from recur.tasks.transcribe.options import TranscribeOptions
from recur.tasks.transcribe.units import Units


class Utterance(NamedTuple):
    """A row of a table."""

    path: Path
    text: str
    group: str
    """What it belongs to; the name of its file, if nothing else is said."""


class Part(NamedTuple):
    """One part of a data set."""

    frames: Frames
    """Of each sound."""
    targets: Sequences
    """The units of each text."""
    texts: list[str]
    """As they are scored."""
    paths: list[Path]
    """Where the sounds lie."""

    def take(self, rows: NDArray[np.int64]) -> "Part":
        """Return some rows."""
        chosen = rows.tolist()
        frames = Frames((self.frames[row] for row in chosen), self.frames.size)
        texts, paths = ([values[row] for row in chosen] for values in (self.texts, self.paths))
        return Part(frames, self.targets.take(rows), texts, paths)


@dataclass(frozen=True)
class Speech:
    """What a run learns from, and where its test part is."""

    units: Units
    spectra: Spectra
    train: Part
    validation: Part
    test: list[Utterance]
    """Their heads are checked at the start, their samples not read before the end."""
    notes: list[str]
    """What a person should know of the data."""


def read_speech(options: TranscribeOptions, progress: Progress) -> Speech:
    """Read the sounds and texts to learn from, cut them into parts, and check the table and heads of the test part.

    Raises:
        InputError: a file that cannot be read or is too short, a row without a text, too few rows, rates that differ,
            or no text that its sound is long enough for.
        MissingExtra: soundfile is not installed.
    """
    parts, notes = find_parts(options)
    every = [row.path for rows in parts.values() for row in rows]
    spectra, told = find_spectra(every, options, progress)
    units = Units.build((row.text for row in parts["train"]), options.unit, options.lowercase, options.min_count)
    train, validation = (
        read_part(parts[name], units, spectra, partial(progress.share, f"reading the {shown} part"))
        for name, shown in (("train", "training"), ("validation", "validation"))
    )
    possible = _possible(train, options.stack)
    if not possible.any():
        raise InputError(
            f"{options.train}: no text has a unit or fewer for each step of its sound; give a smaller --stack or "
            "--hop-ms, or --unit word"
        )
    if not possible.all():
        count = int((~possible).sum())
        train = train.take(np.flatnonzero(possible))
        told.append(f"{count:,} training rows left out whose texts have more units than their sounds have steps")
    twice = validation.frames.known(train.frames)
    if twice:
        told.append(f"{twice} validation sounds are in the training part too")
    return Speech(units, spectra, train, validation, parts["test"], [*notes, *told])


def find_parts(options: TranscribeOptions) -> tuple[dict[str, list[Utterance]], list[str]]:
    """Read all tables, and cut the parts that have none off the training table; return notes too.

    Raises:
        InputError: a table that cannot be read, a row without a text, a file that is not there, or too few rows.
    """
    found = {name: _rows(options, name) for name in ("train", "validation", "test") if getattr(options, name)}
    learned, notes = found["train"], []
    given = {"validation": options.validation_share, "test": options.test_share}
    groups = np.array([group_of(row.group) for row in learned], dtype=np.uint64)
    train, *others = split(groups, *(0.0 if name in found else share for name, share in given.items()))
    for name, rows in zip(given, others, strict=True):
        if name in found:
            continue
        if not (len(rows) and len(train)):
            unit = "sounds" if options.group is None else f"values of {options.group!r}"
            raise InputError(
                f"{options.train} must have enough {unit} to cut a {name} part off, got {len(np.unique(groups))}; give "
                f"more, or {flag(name)}"
            )
        found[name] = [learned[row] for row in rows]
        notes.append(f"no {flag(name)} given: {len(rows):,} sounds of {options.train}, drawn by chance, are that part")
    found["train"] = [learned[row] for row in train]
    known = {row.group for row in found["train"]}
    for name in given if options.group else ():
        shared = sum(row.group in known for row in found[name])
        if shared:
            notes.append(f"{shared:,} {name} sounds are of a {options.group} of the training part")
    return found, notes


def read_test(data: Speech, shown: Callable[[float], None]) -> tuple[Part, list[str]]:
    """Read the test part; return notes on what of it is learned from as well, or is not known."""
    test = read_part(data.test, data.units, data.spectra, shown)
    known = test.frames.known(data.train.frames, data.validation.frames)
    notes = []
    if known:
        notes.append(f"{known} test sounds are in the training file too; the score on them says nothing of other data")
    strange = sum(bool((ids == 1).any()) for ids in test.targets)
    if strange:
        notes.append(f"{strange:,} test texts have a {data.units.unit} that no training text has")
    return test, notes


def read_part(
    rows: Sequence[Utterance], units: Units, spectra: Spectra, shown: Callable[[float], None] = lambda done: None
) -> Part:
    """Read sounds and turn them into frames.

    Raises:
        InputError: a file that cannot be read or is too short.
    """
    paths = [row.path for row in rows]
    texts = [units.plain(row.text) for row in rows]
    return Part(read_frames(paths, spectra, shown), units.sequences(texts), texts, paths)


def read_rows(table: str | Path, sound: str, text: str, group: str | None = None) -> Iterator[Utterance]:
    """Yield the rows of a table.

    Raises:
        InputError: no table, a column or file that is not there, or a row without a text.
    """
    if Path(table).is_dir():
        raise InputError(f"{table} is a folder; give a table (.csv, .tsv, .jsonl) with the columns {sound} and {text}")
    for path, row in sound_rows(table, sound, [text, *([group] if group else [])]):
        yield Utterance(path, row[text], row[group or sound])


def _rows(options: TranscribeOptions, name: str) -> list[Utterance]:
    return list(read_rows(getattr(options, name), options.sound, options.text, options.group))


def _possible(part: Part, stack: int) -> NDArray[np.bool_]:
    """Return which texts have a path through the steps of their sounds."""
    needed = np.array([needed_steps(ids.tolist()) for ids in part.targets])
    possible: NDArray[np.bool_] = needed <= -(-part.frames.lengths // stack)
    return possible
