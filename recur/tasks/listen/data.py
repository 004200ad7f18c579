"""From files of sound to frames: the parts are cut, and the test part is read at the end alone."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.data.sound import Sound, compiled, labelled_sounds
from recur.data.spectra import Spectra
from recur.errors import InputError
from recur.tasks.frames.parts import Part
from recur.tasks.labels import class_numbers, in_order, split
from recur.tasks.listen.options import ListenOptions
from recur.tasks.progress import Progress
from recur.tasks.sounds.reading import find_spectra, read_frames


@dataclass(frozen=True)
class Recordings:
    """What a run learns from, and where its test part is."""

    labels: list[str]
    """The classes, in the order of their numbers."""
    spectra: Spectra
    train: Part
    validation: Part
    test: list[Sound]
    """Their labels and heads are checked at the start, their samples not read before the end."""
    notes: list[str]
    """What a person should know of the data."""


def read_recordings(options: ListenOptions, progress: Progress) -> Recordings:
    """Read the sounds to learn from, cut them into parts, and check labels and heads of the test part.

    Raises:
        InputError: a file that cannot be read, is too short or has no label, one class only, too few sounds of a class,
            rates that differ.
        MissingExtra: soundfile is not installed.
    """
    cut = _cut(options)
    every = [sound.path for sound in (*cut.train, *cut.validation, *cut.test)]
    spectra, told = find_spectra(every, options, progress)
    notes = [*cut.notes, *told]
    train, validation = (
        read_part(part, cut.labels, spectra, partial(progress.share, f"reading the {name} part"))
        for name, part in (("training", cut.train), ("validation", cut.validation))
    )
    twice = validation.known(train)
    if twice:
        notes.append(f"{twice} validation sounds are in the training part too")
    return Recordings(cut.labels, spectra, train, validation, cut.test, notes)


def validation_sounds(options: ListenOptions) -> list[Sound]:
    """Return the sounds that choose the best epoch of a run with these options."""
    return _cut(options).validation


class _Cut(NamedTuple):
    """Which sounds are in which part."""

    labels: list[str]
    train: list[Sound]
    validation: list[Sound]
    test: list[Sound]
    notes: list[str]


def _cut(options: ListenOptions) -> _Cut:
    """Find the sounds and cut them into parts, as a function of their names and labels alone."""
    sounds = _sounds(options, options.train)
    test = _sounds(options, options.test) if options.test else []
    if options.test_pattern is not None:
        test, sounds = _parted(sounds, options)
    labels = _classes(sounds, options)
    validation = _sounds(options, options.validation) if options.validation else []
    shares = 0.0 if validation else options.validation_share, 0.0 if test else options.test_share
    rows = split(numbered(sounds, labels).astype(np.int32), *shares)
    cut = [[sounds[row] for row in part.tolist()] for part in rows]
    if not (validation or cut[1]) or not (test or cut[2]):
        raise InputError(
            f"{options.train} must have enough sounds of each label to cut a validation and a test part off, got "
            f"{len(sounds)} sounds of {len(labels)} labels; give more sounds, or name parts by --validation and --test"
        )
    notes = []
    if not test:
        notes.append(f"no --test given: {len(cut[2])} sounds of {options.train}, drawn by chance, are the test part")
    for part in (validation, test):
        numbered(part, labels)
    return _Cut(labels, cut[0], validation or cut[1], test or cut[2], notes)


def read_part(
    sounds: Sequence[Sound], labels: Sequence[str], spectra: Spectra, shown: Callable[[float], None] = lambda done: None
) -> Part:
    """Read sounds and turn them into frames.

    Raises:
        InputError: a file that cannot be read or is too short, or an unknown label.
    """
    paths = [sound.path for sound in sounds]
    return Part(read_frames(paths, spectra, shown), numbered(sounds, labels), list(map(str, paths)))


def numbered(sounds: Sequence[Sound], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each sound's label.

    Raises:
        InputError: one is unknown.
    """
    return class_numbers([sound.label for sound in sounds], labels, lambda row: str(sounds[row].path))


def _sounds(options: ListenOptions, source: str) -> list[Sound]:
    """Return the labelled sounds of a folder or table, read as the training sounds are."""
    folder = Path(source).is_dir()
    # a pattern is for the folders among the files
    pattern = options.pattern if folder or source == options.train else None
    return labelled_sounds(source, sound=options.sound, label=options.label, pattern=pattern)


def _parted(sounds: list[Sound], options: ListenOptions) -> tuple[list[Sound], list[Sound]]:
    """Return the sounds that --test-pattern names, and the others."""
    expression = compiled(options.test_pattern, "--test-pattern")
    assert expression
    root = Path(options.train)
    root = root if root.is_dir() else root.parent
    found = [bool(expression.search(Path(os.path.relpath(sound.path, root)).as_posix())) for sound in sounds]
    if all(found) or not any(found):
        which = "all" if all(found) else "none"
        raise InputError(
            f"--test-pattern must fit some of the {len(sounds)} sounds of {options.train} and leave others, got "
            f"{options.test_pattern!r}, which fits {which}, such as {sounds[0].path.name}"
        )
    pairs = list(zip(sounds, found, strict=True))
    return [sound for sound, test in pairs if test], [sound for sound, test in pairs if not test]


def _classes(sounds: Sequence[Sound], options: ListenOptions) -> list[str]:
    names = {sound.label for sound in sounds}
    if len(names) < 2:
        found = f"only {names.pop()!r}" if names else "no sounds"
        raise InputError(f"{options.train} must have sounds of at least two labels, found {found}{_hint(options)}")
    if len(names) == len(sounds):
        raise InputError(
            f"{options.train} has a label of its own for each of {len(sounds)} sounds; several must share one"
            f"{_hint(options)}"
        )
    return in_order(names)


def _hint(options: ListenOptions) -> str:
    if options.pattern is not None:
        return f"; see the group `label` of --pattern {options.pattern}"
    if Path(options.train).is_dir():
        return "; the labels are the names of its sub-folders, or come from the files' names by --pattern"
    return f"; name the column of the labels by --label, now {options.label!r}"
