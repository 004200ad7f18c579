"""Sounds as sequences of numbers: the frames of each, as a table with a row for each frame, or as arrays.

    python examples/sound_frames.py --data recordings --pattern '(?P<label>\\d)_' --test '_[0-4]\\.wav$' --out frames
    recur train classify --train frames/train.csv.gz --test frames/test.csv.gz --series sound

With `--arrays` train.npz and test.npz: x [N, T, D], zeros behind the ends, y [N], lengths [N].
"""

import csv
import gzip
import re
from pathlib import Path

import numpy as np
from cyclopts import run

from recur.data import Frames
from recur.data.sound import Sound, labelled_sounds, read_sound, resample
from recur.data.spectra import Spectra


def main(
    *, data: Path, out: Path, pattern: str | None = None, test: str, coefficients: int = 13, arrays: bool = False
) -> None:
    """Write the frames, mel-frequency cepstral coefficients, of a folder of sounds.

    Parameters
    ----------
    data
        Folder of sounds, in sub-folders named after their labels or with labels in their names.
    out
        Folder to write into.
    pattern
        Regular expression with a group `label`, which the names of the files begin with.
    test
        Regular expression that the paths of the test part hold and no others.
    coefficients
        Numbers of a frame.
    arrays
        Write arrays in place of tables.
    """
    out.mkdir(parents=True, exist_ok=True)
    sounds = labelled_sounds(data, pattern=pattern)
    _, rate = read_sound(sounds[0].path)
    spectra = Spectra(rate, features="mfcc", coefficients=coefficients)
    for part, wanted in (("train", False), ("test", True)):
        own = [sound for sound in sounds if bool(re.search(test, str(sound.path))) == wanted]
        file = out / f"{part}{'.npz' if arrays else '.csv.gz'}"
        (write_arrays if arrays else write_table)(file, own, spectra)
        print(f"{len(own)} sounds in {file}")


def frames_of(sound: Sound, spectra: Spectra) -> np.ndarray:
    """Return the frames [T, D] of a sound."""
    samples, rate = read_sound(sound.path)
    return spectra(resample(samples, rate, spectra.rate))


def write_table(file: Path, sounds: list[Sound], spectra: Spectra) -> None:
    """Write a row for each frame."""
    with gzip.open(file, "wt", encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["sound", "label", *(f"c{i}" for i in range(spectra.size))])
        for sound in sounds:
            for frame in frames_of(sound, spectra):
                writer.writerow([sound.path.name, sound.label, *(f"{value:.4f}" for value in frame)])


def write_arrays(file: Path, sounds: list[Sound], spectra: Spectra) -> None:
    """Write all frames, zeros behind the ends."""
    frames = Frames((frames_of(sound, spectra) for sound in sounds), spectra.size)
    x, lengths = frames.padded(np.arange(len(frames)))
    np.savez(file, x=x, y=np.array([sound.label for sound in sounds]), lengths=lengths)


if __name__ == "__main__":
    run(main)
