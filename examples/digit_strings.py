"""Spoken strings of 3 to 7 digits, composed of single spoken digits, with their text: "three seven two".

    python examples/digit_strings.py --recordings recordings.zip --out digits --train 4000 --test 1000 --seed 1
    recur train transcribe --train digits/train.csv --validation digits/validation.csv --test digits/test.csv

The recordings are those of the Free Spoken Digit Dataset, DIGIT_SPEAKER_NUMBER.wav, in a folder or a zip. Its official
split decides what a string may be made of: numbers 0 to 4 of each digit and speaker are for the test strings alone, 45
to 49 for the validation strings alone, 5 to 44 for the training strings, so that no recording is heard in two parts.

A string has one speaker, and each of its digits is drawn anew. A quarter of the pauses between two digits is left out,
the others take 30 to 250 ms; there are 50 to 300 ms before and behind. A string is made louder or softer by up to 6
decibels, each of its digits by up to 3 more, and lies in white noise of -70 to -50 decibels of full scale.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from cyclopts import run
from numpy.typing import NDArray

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUMBERS = {"train": range(5, 45), "validation": range(45, 50), "test": range(5)}

Samples = NDArray[np.float32]
Digits = dict[tuple[str, str], list[tuple[str, Samples]]]


def read_recordings(source: Path) -> tuple[dict[str, Digits], int]:
    """Return the recordings of each part by speaker and digit, with their names, and the samples a second."""
    parts: dict[str, Digits] = {name: {} for name in NUMBERS}
    rates = set()
    for name, file in sorted(_files(source)):
        found = re.fullmatch(r"(\d)_(\w+)_([1-4]?\d)\.wav", name)
        if not found:
            continue
        samples, rate = soundfile.read(io.BytesIO(file), dtype="float32")
        rates.add(rate)
        digit, speaker, number = found.groups()
        (part,) = (part for part, numbers in NUMBERS.items() if int(number) in numbers)
        parts[part].setdefault((speaker, digit), []).append((name.removesuffix(".wav"), samples))
    if len(rates) != 1 or any(len(digits) < 10 for digits in parts.values()):
        raise SystemExit(f"{source} must hold recordings 0_NAME_0.wav to 9_NAME_49.wav of one rate")
    return parts, rates.pop()


def compose(digits: Digits, rate: int, generator: np.random.Generator) -> tuple[Samples, list[str], str]:
    """Return the samples of a string, the names of its recordings and its speaker."""
    speakers = sorted({speaker for speaker, _ in digits})
    speaker = speakers[generator.integers(len(speakers))]
    pieces, names = [_silence(generator.uniform(0.05, 0.3), rate)], []
    for place in range(generator.integers(3, 8)):
        if place and generator.random() > 0.25:
            pieces.append(_silence(generator.uniform(0.03, 0.25), rate))
        several = digits[speaker, str(generator.integers(10))]
        name, samples = several[generator.integers(len(several))]
        pieces.append(samples * _factor(generator.uniform(-3, 3)))
        names.append(name)
    samples = np.concatenate([*pieces, _silence(generator.uniform(0.05, 0.3), rate)]) * _factor(
        generator.uniform(-6, 6)
    )
    noise = _factor(generator.uniform(-70, -50)) * generator.standard_normal(len(samples))
    return np.clip(samples + noise, -1, 1).astype(np.float32), names, speaker


def main(
    *, recordings: Path, out: Path, train: int = 4000, validation: int = 500, test: int = 1000, seed: int = 1
) -> None:
    """Write WAV files and train.csv, validation.csv and test.csv with the columns path, text, speaker, recordings.

    Parameters
    ----------
    recordings
        Folder or zip of the recordings of the Free Spoken Digit Dataset.
    out
        Folder for the strings.
    train
        Strings to learn from.
    validation
        Strings that choose the best epoch.
    test
        Strings to score on.
    seed
        Of all that is drawn.
    """
    parts, rate = read_recordings(recordings)
    for number, (part, count) in enumerate({"train": train, "validation": validation, "test": test}.items()):
        generator = np.random.default_rng([seed, number])
        (out / part).mkdir(parents=True, exist_ok=True)
        with open(out / f"{part}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "text", "speaker", "recordings"])
            for row in range(count):
                samples, names, speaker = compose(parts[part], rate, generator)
                path = f"{part}/{row:05}.wav"
                soundfile.write(out / path, samples, rate, subtype="PCM_16")
                writer.writerow([path, " ".join(WORDS[int(name[0])] for name in names), speaker, " ".join(names)])
    print(f"{train:,} training, {validation:,} validation and {test:,} test strings in {out}")


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        yield from ((path.name, path.read_bytes()) for path in source.rglob("*.wav"))
        return
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if name.endswith(".wav"):
                yield Path(name).name, archive.read(name)


def _silence(seconds: float, rate: int) -> Samples:
    return np.zeros(round(seconds * rate), np.float32)


def _factor(decibels: float) -> float:
    return float(10 ** (decibels / 20))


if __name__ == "__main__":
    run(main)
