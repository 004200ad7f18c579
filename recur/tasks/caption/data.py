"""From tables of pictures and captions to pixels and ids: the parts are cut, and the test part is read at the end."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recur.data.pictures import Clips, PictureForm, frame_files, picture_form, read_picture
from recur.data.sequences import Sequences
from recur.data.sources import check_file
from recur.data.tables import read_table
from recur.data.text import Tokenizer
from recur.data.vocabulary import Vocabulary
from recur.errors import InputError
from recur.files import existing_folder
from recur.models.decoder import END
from recur.tasks.caption.options import CaptionOptions
from recur.tasks.labels import split
from recur.tasks.progress import Progress

MARKS = ["<s>", "</s>"]  # ids 2 and 3, behind padding and unknown
SHOWN_LABELS = 10


class Source(NamedTuple):
    """How a table of pictures is read."""

    path: Path
    image: str
    text: str
    root: Path | None
    skip_bad_rows: bool
    structure: str


class Picture(NamedTuple):
    """A picture or a clip as a table names it; its files are not opened."""

    path: Path
    frames: list[Path]
    texts: list[str]
    """As they stand in the table."""


class Captions:
    """From captions to ids, as the network was trained on them, and back.

    Args:
        words: in the order of their ids, which start at 4.
        tokenizer: what a caption is cut into.
    """

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer) -> None:
        self.words, self.tokenizer = list(words), tokenizer
        self.vocabulary = Vocabulary([*MARKS, *self.words])

    @classmethod
    def learn(cls, texts: Iterable[str], tokenizer: Tokenizer, min_count: int) -> "Captions":
        """Take the words of the training captions.

        Raises:
            InputError: none is so frequent.
        """
        found = Vocabulary.build(map(tokenizer, texts), min_count=min_count).words
        words = [word for word in found if word not in MARKS]
        if not words:
            raise InputError(f"no word is {min_count} times in the training captions; give a smaller --min-count")
        return cls(words, tokenizer)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def ids(self, texts: Iterable[str]) -> Sequences:
        """Return the ids of captions, </s> behind them."""
        return Sequences.of([*self.vocabulary.ids(self.tokenizer(text)).tolist(), END] for text in texts)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of some ids."""
        return [self.vocabulary.token(i) for i in ids]

    def joined(self, tokens: Sequence[str]) -> str:
        """Return tokens as a text."""
        return (" " if self.tokenizer.kind == "words" else "").join(tokens)


class Labels:
    """From labels of frames to numbers, and back.

    Args:
        names: in the order of their numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def ids(self, pictures: Iterable[Picture]) -> Sequences:
        """Return the numbers of each clip's labels.

        Raises:
            InputError: one is unknown.
        """
        return Sequences.of(self._row(picture) for picture in pictures)

    def _row(self, picture: Picture) -> list[int]:
        labels = picture.texts[0].split()
        for label in labels:
            if label not in self._numbers:
                shown = ", ".join(self.names[:SHOWN_LABELS]) + (", ..." if len(self.names) > SHOWN_LABELS else "")
                raise InputError(
                    f"{picture.path}: the label {label!r} is not among those of the training data, {shown}; correct "
                    "it, or take such clips out"
                )
        return [self._numbers[label] for label in labels]


@dataclass(frozen=True)
class Part:
    """Pictures with their captions or labels."""

    pictures: list[Picture]
    clips: Clips
    targets: Sequences
    """Ids of every caption, those of one picture after the other; or the labels of each clip."""
    owners: NDArray[np.int64]
    """The picture of each target."""

    def hashes(self) -> set[int]:
        """Return hashes of the pixels."""
        return {hash(self.clips[row].tobytes()) for row in range(len(self.clips))}

    @property
    def one_each(self) -> bool:
        """Whether every picture has one caption."""
        return len(self.targets) == len(self.pictures)


@dataclass(frozen=True)
class Album:
    """What a run learns from, and where its test part is."""

    structure: str
    """"one-to-many", "encoder-decoder" or "aligned"."""
    form: PictureForm
    resize: bool
    encoder: Captions | Labels
    train: Part
    validation: Part
    test: list[Picture]
    """Their captions and heads are checked at the start, their pixels not read before the end."""
    notes: list[str] = field(default_factory=list)


class _Cut(NamedTuple):
    structure: str
    train: list[Picture]
    validation: list[Picture]
    test: list[Picture]
    notes: list[str]


def read_album(options: CaptionOptions, progress: Progress) -> Album:
    """Read the pictures to learn from, cut them into parts, and check captions and heads of the test part.

    Raises:
        InputError: a table, a row or a picture that cannot be read, too few pictures, sizes that differ.
        MissingExtra: pillow is not installed.
    """
    cut = _cut(options)
    first = picture_form(cut.train[0].frames[0])
    colours = {"auto": first.colours, "grey": 1, "colour": 3}[options.colours]
    form = PictureForm(colours, *(options.pixels or first[1:]))
    resize = options.pixels is not None
    encoder: Captions | Labels
    if cut.structure == "aligned":
        encoder = Labels(_names(cut.train, options))
        encoder.ids(cut.test)
    else:
        tokenizer = Tokenizer(options.tokenizer, lower=options.lowercase)
        encoder = Captions.learn((text for p in cut.train for text in p.texts), tokenizer, options.min_count)
    for picture in progress.over(cut.test, "looking at the test part"):
        for frame in picture.frames:
            _check_size(picture_form(frame), form, frame, resize)
    folder = existing_folder(options.folder)
    train, validation = (
        read_part(part, encoder, form, resize, folder, partial(progress.share, f"reading the {name} part"))
        for name, part in (("training", cut.train), ("validation", cut.validation))
    )
    notes = list(cut.notes)
    if twice := len(train.hashes() & validation.hashes()):
        notes.append(f"{twice} validation pictures are in the training part too")
    return Album(cut.structure, form, resize, encoder, train, validation, cut.test, notes)


def validation_pictures(options: CaptionOptions) -> list[Picture]:
    """Return the pictures that choose the best epoch of a run with these options."""
    return _cut(options).validation


def _cut(options: CaptionOptions) -> _Cut:
    """Read the tables and cut the pictures into parts, as a function of them alone."""
    structure: str = options.structure
    notes: list[str] = []
    given: dict[str, list[Picture]] = {}
    for name in ("train", "validation", "test"):
        if path := getattr(options, name):
            root = None if options.root is None else Path(options.root)
            source = Source(Path(path), options.image, options.text, root, options.skip_bad_rows, structure)
            given[name], structure, more = read_pictures(source)
            notes += more
    shares = [
        0.0 if name in given else share
        for name, share in (("validation", options.validation_share), ("test", options.test_share))
    ]
    pictures = given["train"]
    parts = split(np.zeros(len(pictures), np.int32), *shares)
    train, validation, test = ([pictures[row] for row in part.tolist()] for part in parts)
    validation, test = given.get("validation", validation), given.get("test", test)
    if not (train and validation and test):
        raise InputError(
            f"{options.train} must have enough pictures to cut a validation and a test part off, got {len(pictures)}; "
            "give more, or name parts by --validation and --test"
        )
    if "test" not in given:
        notes.append(f"no --test given: {len(test)} pictures of {options.train}, drawn by chance, are the test part")
    return _Cut(structure, train, validation, test, notes)


def read_pictures(source: Source, texts: bool = True) -> tuple[list[Picture], str, list[str]]:
    """Return what a table names, in the order of the first row of each picture; no picture is opened.

    Args:
        source: the table; its structure "auto" becomes that of the first row.
        texts: whether captions or labels are needed.

    Returns:
        the pictures, their structure, and what a person should know of the table.

    Raises:
        InputError: no such table or picture, an empty folder or caption, not a label for each frame, files and folders
            mixed; the message names the line.
    """
    check_file(source.path)
    columns = [source.image, source.text] if texts else [source.image]
    table = read_table(source.path, columns, skip_bad_rows=source.skip_bad_rows, filled=columns)
    root, structure = source.root or source.path.parent, source.structure
    found: dict[Path, Picture] = {}
    for row in table:
        path = root / row[source.image].strip()
        if structure == "auto":
            structure = "encoder-decoder" if path.is_dir() else "one-to-many"
        try:
            picture = found.get(path) or Picture(path, frame_files(path), [])
            _check_row(picture, row[source.text] if texts else None, structure)
        except InputError as error:
            table.bad(f"{error}; paths are relative to {root}" if not path.exists() else str(error))
            continue
        found[path] = picture
        picture.texts.extend([row[source.text]] if texts else [])
    if not found:
        raise InputError(f"{source.path}: no row is left, the first bad one is {table.skipped[0]}")
    skipped = table.skipped
    notes = [f"{len(skipped)} bad rows of {source.path} left out, the first: {skipped[0]}"] if skipped else []
    return list(found.values()), structure, notes


def _check_row(picture: Picture, text: str | None, structure: str) -> None:
    if structure == "one-to-many" and picture.path.is_dir():
        raise InputError(f"expected an image, found {picture.path}, a folder; --structure one-to-many is for images")
    if structure != "one-to-many" and not picture.path.is_dir():
        raise InputError(
            f"expected a folder of frames, found the file {picture.path}; --structure {structure} is for frames"
        )
    if text is None:
        return
    if structure == "aligned":
        if picture.texts:
            raise InputError(f"expected the labels of each clip once, found {picture.path} again")
        if len(text.split()) != len(picture.frames):
            raise InputError(
                f"expected a label for each of the {len(picture.frames)} frames of {picture.path}, found "
                f"{len(text.split())}"
            )


def _names(pictures: Sequence[Picture], options: CaptionOptions) -> list[str]:
    names = sorted({label for picture in pictures for label in picture.texts[0].split()})
    if len(names) < 2:
        raise InputError(
            f"{options.train} must have at least two labels, found only {names[0]!r}; name their column by --text, now "
            f"{options.text!r}"
        )
    return names


def _check_size(found: PictureForm, form: PictureForm, path: Path, resize: bool) -> None:
    if not resize and found[1:] != form[1:]:
        raise InputError(
            f"{path} must have {form.size} pixels, height x width, as the first training picture, got {found.size}; "
            f"bring all to one size with --size {form.size}"
        )


def read_test(data: Album, shown: Callable[[float], None], folder: Path) -> tuple[Part, list[str]]:
    """Read the test part; return notes on pictures of it that are learned from as well."""
    test = read_part(data.test, data.encoder, data.form, data.resize, folder, shown)
    learned = data.train.hashes() | data.validation.hashes()
    known = sum(hash(test.clips[row].tobytes()) in learned for row in range(len(test.clips)))
    notes = [f"{known} test pictures are in the training file too; the score on them says nothing about other data"]
    return test, notes if known else []


def read_part(
    pictures: list[Picture],
    encoder: Captions | Labels,
    form: PictureForm,
    resize: bool,
    folder: str | Path | None = None,
    shown: Callable[[float], None] = lambda done: None,
) -> Part:
    """Read pictures, and turn their captions or labels into ids.

    Raises:
        InputError: a picture that cannot be read or is of another size, a caption without words, an unknown label.
        RunError: `folder` has no room for the pixels.
    """
    if isinstance(encoder, Labels):
        targets, owners = encoder.ids(pictures), np.arange(len(pictures))
    else:
        targets = encoder.ids(text for picture in pictures for text in picture.texts)
        owners = np.repeat(np.arange(len(pictures)), [len(picture.texts) for picture in pictures])
        if (empty := np.flatnonzero(targets.lengths < 2)).size:
            raise InputError(f"{pictures[owners[empty[0]]].path} must have a caption with words, found none in it")
    return Part(pictures, read_clips([p.frames for p in pictures], form, resize, folder, shown), targets, owners)


def read_clips(
    frames: Sequence[Sequence[Path]],
    form: PictureForm,
    resize: bool,
    folder: str | Path | None = None,
    shown: Callable[[float], None] = lambda done: None,
) -> Clips:
    """Read the pixels of clips, each a row of files."""

    def read() -> Iterable[NDArray[np.uint8]]:
        for number, files in enumerate(frames):
            shown(number / len(frames))
            yield np.stack([read_picture(file, form, resize=resize) for file in files])
        shown(1.0)

    return Clips.of(read(), form, folder)
