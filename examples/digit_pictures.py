"""Pictures and clips made of MNIST digits, with a caption for each, to try `recur train caption` on.

    python examples/digit_pictures.py --mnist mnist --out digits --kind images --count 20000
    recur train caption --train digits/train.csv --validation digits/validation.csv --test digits/test.csv

images  one to four digits in a row: "three seven two".
clips   one or two digits that move over eight frames, told from left to right: "a three moves left and a five moves
        up".
stills  the first frame of such a clip: "three five". To learn digits from before they move, by --vision.
labels  a digit that comes, wanders and goes over ten frames; each frame has a label: where the digit has come from
        since the frame before (left, right, up, down; in its first frame where it goes next), or blank.

The test part is made of MNIST's test digits, the validation part of 5,000 of its training digits that the training part
lacks; both have a tenth as many pictures as the training part. The four files are those of
https://yann.lecun.com/exdb/mnist (train-images-idx3-ubyte.gz and so on). Needs pillow.
"""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from cyclopts import run
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Generator = np.random.Generator

WORDS = "zero one two three four five six seven eight nine".split()
MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
VALIDATION_DIGITS = 5000
# of the strings of digits
HEIGHT, WIDTH, MOST_DIGITS = 32, 104, 4
# of the clips: pixels of a side, frames, pixels from frame to frame
CLIP, CLIP_FRAMES, CLIP_STEP = 48, 8, 2
# of the clips with labels
WALK, WALK_FRAMES, WALK_STEP, TURN = 40, 10, 3, 0.3


class Digits(NamedTuple):
    """Handwritten digits to draw from: pictures [n, 28, 28], and what they are [n]."""

    pictures: Pixels
    labels: NDArray[np.uint8]

    def draw(self, generator: Generator) -> tuple[Pixels, str]:
        """Return a digit and its word."""
        row = generator.integers(len(self.labels))
        return self.pictures[row], WORDS[self.labels[row]]

    def ink(self, generator: Generator) -> tuple[Pixels, str]:
        """Return a digit cut to its ink, 20 x 20 at most, and its word."""
        picture, word = self.draw(generator)
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], word


def row_of_digits(digits: Digits, generator: Generator) -> tuple[list[Pixels], str]:
    """Return a picture of one to four digits, and their words."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    count = int(generator.integers(1, MOST_DIGITS + 1))
    gaps = generator.integers(22, 26, count - 1)
    left = int(generator.integers(WIDTH - 28 - gaps.sum() + 1))
    words = []
    for gap in (0, *gaps.tolist()):
        left += gap
        picture, word = digits.draw(generator)
        _put(canvas, picture, int(generator.integers(HEIGHT - 28 + 1)), left)
        words.append(word)
    return [canvas], " ".join(words)


def moving_digits(digits: Digits, generator: Generator) -> tuple[list[Pixels], str]:
    """Return frames in which one or two digits move without touching, and what they do."""
    count = int(generator.integers(1, 3))
    sprites = [digits.ink(generator) for _ in range(count)]
    while True:
        names = generator.choice(list(MOVES), count)
        ways = [_straight(sprite, str(name), generator) for (sprite, _), name in zip(sprites, names, strict=True)]
        if count == 1 or _apart(*ways, *(sprite.shape for sprite, _ in sprites)):
            break
    frames = [np.zeros((CLIP, CLIP), np.uint8) for _ in range(CLIP_FRAMES)]
    for (sprite, _), way in zip(sprites, ways, strict=True):
        for frame, (top, left) in zip(frames, way.tolist(), strict=True):
            _put(frame, sprite, top, left)
    order = sorted(range(count), key=lambda i: int(ways[i][0, 1]))
    return frames, " and ".join(f"a {sprites[i][1]} moves {names[i]}" for i in order)


def still_digits(digits: Digits, generator: Generator) -> tuple[list[Pixels], str]:
    """Return the first frame of a clip of moving digits, and their words from left to right."""
    frames, text = moving_digits(digits, generator)
    return frames[:1], " ".join(word for word in text.split() if word in WORDS)


def wandering_digit(digits: Digits, generator: Generator) -> tuple[list[Pixels], str]:
    """Return frames with a digit in some of them, and the label of each frame."""
    sprite, _ = digits.ink(generator)
    first, last = int(generator.integers(0, 3)), int(generator.integers(WALK_FRAMES - 2, WALK_FRAMES + 1))
    most = np.array([WALK, WALK]) - sprite.shape
    place = generator.integers(0, most + 1)
    frames = [np.zeros((WALK, WALK), np.uint8) for _ in range(WALK_FRAMES)]
    labels = ["blank"] * WALK_FRAMES
    name = ""
    for number in range(first, last):
        if number > first:
            inside = [way for way in MOVES if _within(place + WALK_STEP * np.array(MOVES[way]), most)]
            if name not in inside or generator.random() < TURN:
                name = str(generator.choice(inside))
            place = place + WALK_STEP * np.array(MOVES[name])
        _put(frames[number], sprite, *place.tolist())
        labels[number] = name
    labels[first] = labels[first + 1]
    return frames, " ".join(labels)


def _put(canvas: Pixels, picture: Pixels, top: int, left: int) -> None:
    part = canvas[top : top + picture.shape[0], left : left + picture.shape[1]]
    np.maximum(part, picture, out=part)


def _straight(sprite: Pixels, name: str, generator: Generator) -> NDArray[np.int64]:
    """Return top and left in every frame of a digit that moves and stays in the picture, [T, 2]."""
    way = CLIP_STEP * np.arange(CLIP_FRAMES)[:, None] * np.array(MOVES[name])
    low, high = -way.min(0), np.array([CLIP, CLIP]) - sprite.shape - way.max(0)
    return generator.integers(low, high + 1) + way


def _within(place: NDArray[np.int64], most: NDArray[np.int64]) -> bool:
    return bool(((place >= 0) & (place <= most)).all())


def _apart(a: NDArray[np.int64], b: NDArray[np.int64], a_size: tuple[int, ...], b_size: tuple[int, ...]) -> bool:
    """Whether two digits never touch, and begin so far apart that there is a left one."""
    free = ((a + a_size < b) | (b + b_size < a)).any(1).all()
    return bool(free and abs(a[0, 1] - b[0, 1]) >= 6)


KINDS: dict[str, Callable[[Digits, Generator], tuple[list[Pixels], str]]] = {
    "images": row_of_digits,
    "clips": moving_digits,
    "stills": still_digits,
    "labels": wandering_digit,
}


def read_digits(folder: Path, part: str) -> Digits:
    """Return the digits of MNIST's "train" or "t10k" part."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        return Digits(pictures, np.frombuffer(file.read(), np.uint8, offset=8))


def write_part(out: Path, name: str, kind: str, digits: Digits, count: int, generator: Generator) -> None:
    """Write `count` pictures, or folders of frames, and a table of their paths and captions."""
    (out / name).mkdir(parents=True)
    with open(out / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text"])
        for number in range(count):
            frames, text = KINDS[kind](digits, generator)
            path = out / name / (f"{number:05}.png" if len(frames) == 1 else f"{number:05}")
            if len(frames) > 1:
                path.mkdir()
            for place, frame in enumerate(frames):
                Image.fromarray(frame).save(path if len(frames) == 1 else path / f"{place}.png", compress_level=1)
            table.writerow([path.relative_to(out).as_posix(), text])


def main(
    *,
    mnist: Path,
    out: Path,
    kind: Literal["images", "clips", "stills", "labels"] = "images",
    count: int = 20_000,
    seed: int = 1,
) -> None:
    """Write train.csv, validation.csv and test.csv, and what they name.

    Args:
        mnist: folder of the four files.
        out: folder to write into; must not exist.
        kind: what to make.
        count: pictures of the training part.
        seed: of all that is random.
    """
    known, unseen = read_digits(mnist, "train"), read_digits(mnist, "t10k")
    parts = {
        "train": (Digits(*(part[VALIDATION_DIGITS:] for part in known)), count),
        "validation": (Digits(*(part[:VALIDATION_DIGITS] for part in known)), max(1, count // 10)),
        "test": (unseen, max(1, count // 10)),
    }
    out.mkdir(parents=True)
    for number, (name, (digits, size)) in enumerate(parts.items()):
        write_part(out, name, kind, digits, size, np.random.default_rng([seed, number]))
        print(f"{size} {kind} in {out / name}.csv")


if __name__ == "__main__":
    run(main)
