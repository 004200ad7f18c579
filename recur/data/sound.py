"""Files of sound: where they lie, what they are called, and their samples."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recur.data.sources import check_file
from recur.data.tables import read_table
from recur.errors import InputError, MissingExtra

SOUNDS = (".wav", ".flac", ".ogg")
MOST_TAPS = 1 << 24
ZERO_CROSSINGS = 16

Samples = NDArray[np.float32]


class Sound(NamedTuple):
    """A file of sound with its label."""

    path: Path
    label: str


def sound_files(folder: str | Path) -> list[Path]:
    """Return the files of sound in a folder and its sub-folders, in the order of their paths; hidden ones are left out.

    Raises:
        InputError: no such folder, or it has none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        check_file(folder)
        raise InputError(f"{folder} must be a folder, got a file")
    found, others = [], set()
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        if path.suffix.lower() in SOUNDS:
            found.append(path)
        else:
            others.add(path.suffix or path.name)
    if not found:
        shown = f"files that end in {', '.join(sorted(others)[:5])}" if others else "no files"
        raise InputError(f"{folder} must hold files that end in {', '.join(SOUNDS)}, found {shown}")
    return sorted(found)


def labelled_sounds(
    source: str | Path, *, sound: str = "path", label: str = "label", pattern: str | None = None
) -> list[Sound]:
    """Return the files of sound that a folder holds or a table names, with their labels; no file is opened.

    Args:
        source: a folder, whose sub-folders are the labels; or a table, see `read_table`, with paths relative to it.
        sound: column of the paths.
        label: column of the labels.
        pattern: a regular expression with a group `label` that the names of the files in a folder begin with.

    Raises:
        InputError: no such folder or table, a file that is not there or has no label, or a bad pattern.
    """
    source = Path(source)
    if not source.is_dir():
        check_file(source)
        if pattern is not None:
            raise InputError(f"--pattern is for folders; {source} is a table, which names the labels itself")
        return [Sound(path, row[label].strip()) for path, row in sound_rows(source, sound, [label])]
    expression = compiled(pattern, "--pattern", group="label")
    sounds = []
    for path in sound_files(source):
        if expression:
            found = expression.match(path.name)
            name = found.group("label") if found else None
            hint = f"--pattern {pattern} does not fit its name; correct it, or take the file out"
        else:
            first, *rest = path.relative_to(source).parts
            name = first if rest else None
            hint = "put it into a sub-folder named after its label, or say by --pattern '(?P<label>...)' what of its "
            hint += "name is the label"
        if not name:
            raise InputError(f"{path} has no label: {hint}")
        sounds.append(Sound(path, name))
    return sounds


def listed_sounds(source: str | Path, *, sound: str = "path") -> list[Path]:
    """Return the files of sound that a folder holds or a table names, which need no labels.

    Raises:
        InputError: no such folder or table, or a file that is not there.
    """
    source = Path(source)
    if source.is_dir():
        return sound_files(source)
    return [path for path, _ in sound_rows(source, sound, [])]


def sound_rows(table: str | Path, sound: str, columns: Sequence[str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the files of sound that a table names, with some columns of their rows.

    Args:
        table: see `read_table`.
        sound: column of the paths, relative to the folder of the table.
        columns: others, in which each row must have a value.

    Raises:
        InputError: no such table or column, a file that is not there, or a row without a value.
    """
    # a folder that is not there has no ending either
    table, names = Path(table), [sound, *columns]
    check_file(table)
    opened = read_table(table, names, filled=names)
    return ((_beside(table, row[sound], opened.place), row) for row in opened)


def compiled(pattern: str | None, name: str, group: str = "") -> re.Pattern[str] | None:
    """Return a regular expression of the user; None for none.

    Raises:
        InputError: it is none, or has not the group.
    """
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{name} must be a regular expression, got {pattern!r}: {error}") from None
    if group and group not in expression.groupindex:
        raise InputError(f"{name} must have the group (?P<{group}>...), got {pattern!r}")
    return expression


def read_sound(path: str | Path) -> tuple[Samples, int]:
    """Return the samples [n] of a file of sound, about -1..1, the mean of its channels, and their number per second.

    Raises:
        InputError: no such file, no sound, an empty one, or samples that are no numbers.
        MissingExtra: soundfile is not installed.
    """
    path, library = Path(path), _soundfile()
    check_file(path)
    try:
        samples, rate = library.read(path, dtype="float32", always_2d=True)
    except (library.LibsndfileError, OSError) as error:
        raise InputError(f"{path} must be a file of sound (WAV, FLAC, OGG), found: {_reason(error)}") from error
    mono: Samples = samples.mean(axis=1)
    if not len(mono):
        raise InputError(f"{path} must hold sound, found none: it has no samples")
    if not np.isfinite(mono).all():
        raise InputError(f"{path} must hold finite samples, found NaN or infinity among them")
    return mono, int(rate)


def sound_rate(path: str | Path) -> int:
    """Return the samples a second of a file of sound; its head alone is read.

    Raises:
        InputError: no such file, or no sound.
        MissingExtra: soundfile is not installed.
    """
    path, library = Path(path), _soundfile()
    check_file(path)
    try:
        return int(library.info(path).samplerate)
    except (library.LibsndfileError, OSError) as error:
        raise InputError(f"{path} must be a file of sound (WAV, FLAC, OGG), found: {_reason(error)}") from error


def resample(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return samples [n] at `rate` as [ceil(n * wanted / rate)] at `wanted` per second.

    A sinc low-pass below the smaller of the two Nyquist frequencies, cut by a Hann window at 16 zero crossings and laid
    out as one filter for each place of a new sample between two old ones.

    Raises:
        InputError: the rates have so small a common divisor that there would be millions of weights.

    Source: Smith, Digital Audio Resampling Home Page, https://ccrma.stanford.edu/~jos/resample/, "Theory of Operation".

    >>> resample(np.ones(300, np.float32), 3, 2)[90:93].round(2).tolist()
    [1.0, 1.0, 1.0]
    """
    if rate == wanted:
        return samples
    divisor = math.gcd(rate, wanted)
    old, new = rate // divisor, wanted // divisor
    kernel, width = _kernel(old, new)
    padded = F.pad(torch.from_numpy(samples)[None, None], (width, width + old))
    phases = F.conv1d(padded, kernel, stride=old)
    count = -(-len(samples) * new // old)
    result: Samples = phases[0].T.reshape(-1)[:count].numpy()
    return result


@lru_cache(maxsize=4)
def _kernel(old: int, new: int) -> tuple[Tensor, int]:
    """Return the filters [new, 1, taps] and how many old samples before the first they reach."""
    cutoff = 0.95 * min(1.0, new / old)
    width = math.ceil(ZERO_CROSSINGS / cutoff)
    taps = 2 * width + old
    if new * taps > MOST_TAPS:
        raise InputError(
            f"the rates {old} and {new}, divided by what they share, are too large to resample from one to the other; "
            "choose a --rate that shares a larger divisor with that of the files"
        )
    place = torch.arange(-width, width + old, dtype=torch.float64)[None] - old / new * torch.arange(new)[:, None]
    window = torch.cos(math.pi / 2 * (place * cutoff / ZERO_CROSSINGS).clamp(-1, 1)) ** 2
    return (cutoff * torch.sinc(cutoff * place) * window).float()[:, None], width


def _beside(table: Path, name: str, place: str) -> Path:
    path = table.parent / name.strip()
    try:
        check_file(path)
    except InputError as error:
        raise InputError(f"{table}, {place}: {error}; paths are relative to the folder of the table") from None
    return path


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", "") or error).strip().rstrip(".")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise MissingExtra("soundfile", "audio", "Reading sound") from error
    return soundfile
