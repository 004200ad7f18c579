"""From files of sound to frames: one rate for all, one length of window, what is too short is refused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recur.data.frames import Frames
from recur.data.sound import read_sound, resample, sound_rate
from recur.data.spectra import Frame, Spectra
from recur.errors import InputError
from recur.tasks.progress import Progress
from recur.tasks.sounds.options import SoundOptions

Heard = str | Path | np.ndarray[Any, Any]
"""A sound: the path of a file, or samples [n] at the rate of the training sounds."""


def find_spectra(paths: Sequence[Path], options: SoundOptions, progress: Progress) -> tuple[Spectra, list[str]]:
    """Look at the heads of all files of a run; return how they become frames, and what a person should know of it.

    Raises:
        InputError: no sound, rates that differ where none is wanted, or frames that cannot be.
        MissingExtra: soundfile is not installed.
    """
    rates: dict[int, Path] = {}
    for path in progress.over(paths, "looking at the sounds"):
        rates.setdefault(sound_rate(path), path)
    if options.rate is None and len(rates) > 1:
        shown = ", ".join(f"{rate} in {path}" for rate, path in list(rates.items())[:3])
        raise InputError(
            f"the sounds must all have the same number of samples a second, found {shown}; give the one that they are "
            f"to be brought to, such as --rate {min(rates)}"
        )
    notes = []
    if options.rate and set(rates) != {options.rate}:
        others = ", ".join(f"{rate:,}" for rate in sorted(rates) if rate != options.rate)
        notes.append(f"sounds of {others} samples a second are brought to {options.rate:,}")
    return _spectra(options, options.rate or next(iter(rates))), notes


def _spectra(options: SoundOptions, rate: int) -> Spectra:
    try:
        return Spectra(rate, options.window_ms, options.hop_ms, options.mels, options.features, options.coefficients)
    except InputError as error:
        text = str(error)
        for name in ("window_ms", "hop_ms", "mels", "coefficients"):
            text = re.sub(rf"\b{name} (?=must|and)|\b{name}(?= longer)", f"--{name.replace('_', '-')} ", text)
        raise InputError(re.sub(" +", " ", text)) from None


def read_frames(
    sounds: Sequence[Heard], spectra: Spectra, shown: Callable[[float], None] = lambda done: None
) -> Frames:
    """Read sounds and turn them into frames; `shown` is told which share of them is done.

    Raises:
        InputError: a file that cannot be read, or a sound that is too short.
    """
    frames = []
    for count, sound in enumerate(sounds):
        shown(count / len(sounds))
        frames.append(frames_of(sound, spectra))
    shown(1.0)
    return Frames(frames, spectra.size)


def frames_of(sound: Heard, spectra: Spectra) -> Frame:
    """Return the frames [T, D] of a sound, a file brought to the rate of `spectra`.

    Raises:
        InputError: no sound, an empty one, or one shorter than a frame.
    """
    if isinstance(sound, np.ndarray):
        if sound.ndim != 1 or len(sound) < spectra.window:
            raise InputError(f"samples must be [n] with n at least {spectra.window}, got {list(sound.shape)}")
        return spectra(sound.astype(np.float32))
    samples, rate = read_sound(sound)
    needed = -(-spectra.window * rate // spectra.rate)
    if len(samples) < needed:
        raise InputError(
            f"{sound} is too short: it has {len(samples)} samples, {1000 * len(samples) / rate:.1f} ms, and must have "
            f"{needed}, a frame of {spectra.window_ms:g} ms (--window-ms); take it out"
        )
    return spectra(resample(samples, rate, spectra.rate))
