"""From a text file to streams of ids on disk, and the coder that made them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recur.data.coders import Coder, Ids, learn_coder, load_coder
from recur.data.plain import TextPart, count_characters, cut
from recur.data.stream import StreamFile, write_stream
from recur.data.tables import fingerprint
from recur.errors import InputError
from recur.files import write_json
from recur.tasks.generate.options import GenerateOptions
from recur.tasks.progress import Progress
from recur.tasks.run import make_folder

PARTS = ("train", "validation", "test")
_CODER = "coder.json"


@dataclass(frozen=True)
class Text:
    """The three parts of a text, as ids on disk."""

    folder: Path
    """Where they lie; theirs alone."""
    coder: Coder
    parts: dict[str, StreamFile]
    counts: dict[str, list[int]]
    """By part how often each id stands in it."""
    notes: list[str] = field(default_factory=list)

    def characters(self, part: str) -> int:
        """Return how many characters a part has."""
        return int(self.parts[part].metadata["characters"])

    def delete(self) -> None:
        """Delete the files, which are made again from the texts where they are wanted."""
        _delete(self.folder)


def read_text(options: GenerateOptions, progress: Progress) -> Text:
    """Cut a text into its parts and write each as ids beside the run folder, in a stream.

    Files that are there already, made of the same texts in the same way, are used as they are.

    Raises:
        InputError: a file is missing, empty or no text, or a part is too short.
    """
    folder = options.folder.with_name(f"{options.folder.name}.tokens")
    made_of = _made_of(options)
    text = _stored(folder, made_of)
    if text is None:
        make_folder(folder)
        try:
            text = _write(options, folder, made_of, progress)
        except BaseException:
            _delete(folder)
            raise
    notes = unknown_notes(text, "validation")
    if made_of["files"].get("validation", 0) == made_of["files"].get("test", 1):
        notes.append("validation and test part are the same text: the test figure is that which chose the epoch")
    return replace(text, notes=notes)


def text_parts(options: GenerateOptions) -> dict[str, TextPart]:
    """Return where the three parts of a text stand in the files.

    Raises:
        InputError: a file is missing, empty or no text.
    """
    own = [name for name in ("validation", "test") if getattr(options, name) is None]
    shares = [getattr(options, f"{name}_share") for name in own]
    cut_off = cut(Path(options.train), shares, whole_words=options.tokens != "characters")
    parts = dict(zip(["train", *own], cut_off, strict=True))
    for name in PARTS:
        if name not in parts:
            path = Path(getattr(options, name))
            parts[name] = TextPart(path, 0, count_characters(path))
    return parts


def _delete(folder: Path) -> None:
    for path in [*(folder / f"{part}.stream" for part in PARTS), folder / _CODER]:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _made_of(options: GenerateOptions) -> dict[str, Any]:
    files = {name: getattr(options, name) for name in PARTS if getattr(options, name)}
    names = ("tokens", "lower", "vocabulary", "min_count", "validation_share", "test_share")
    return {
        "files": {name: fingerprint(path)["sha256"] for name, path in files.items()},
        "options": {name: getattr(options, name) for name in names},
    }


def _stored(folder: Path, made_of: dict[str, Any]) -> Text | None:
    try:
        stored = json.loads((folder / _CODER).read_text(encoding="utf-8"))
        if stored["made_of"] != made_of:
            return None
        parts = {part: StreamFile(folder / f"{part}.stream") for part in PARTS}
        return Text(folder, load_coder(stored["coder"]), parts, stored["counts"])
    except (OSError, ValueError, KeyError, InputError):
        return None


def _write(options: GenerateOptions, folder: Path, made_of: dict[str, Any], progress: Progress) -> Text:
    sources = text_parts(options)
    watched = partial(_watched, progress=progress)
    coder = learn_coder(
        options.tokens,
        watched(sources["train"], what="counting tokens"),
        size=options.vocabulary,
        min_count=options.min_count,
        lower=options.lower,
    )
    if len(coder) < 3:
        raise InputError(f"the train part of {sources['train'].path} must have tokens, got blanks only")
    dtype = "uint8" if len(coder) <= 1 << 8 else "uint16" if len(coder) <= 1 << 16 else "int32"
    parts, counts = {}, {name: np.zeros(len(coder), dtype=np.int64) for name in sources}
    for name, source in sources.items():
        if not (characters := length(source)):
            raise InputError(f"the {name} part of {source.path} is empty; give a longer text, or a file with --{name}")
        ids = _counted(coder.ids(watched(source, what=f"writing the {name} part as ids")), counts[name])
        parts[name] = write_stream(
            folder / f"{name}.stream", ids, dtype=dtype, joined=True, metadata={"characters": str(characters)}
        )
        if len(parts[name]) < 2:
            raise InputError(f"the {name} part of {source.path} must have at least 2 tokens, got {len(parts[name])}")
    # the last one: with it all are there
    listed = {name: found.tolist() for name, found in counts.items()}
    write_json(folder / _CODER, {"made_of": made_of, "coder": coder.state(), "counts": listed}, indent=None)
    return Text(folder, coder, parts, listed)


def length(part: TextPart) -> int:
    """Return how many characters a part has, whose end is known."""
    assert part.stop is not None
    return part.stop - part.start


def _watched(part: TextPart, progress: Progress, what: str) -> Iterator[str]:
    done = 0
    for piece in part:
        yield piece
        done += len(piece)
        progress.share(what, done / max(1, length(part)))


def _counted(ids: Iterator[Ids], counts: NDArray[np.int64]) -> Iterator[Ids]:
    # while they are at hand: to read them from the disk again takes longer, and memory for as long as it is free
    for part in ids:
        counts += np.bincount(part, minlength=len(counts))
        yield part


def unknown_notes(text: Text, part: str) -> list[str]:
    """Return a note on the tokens of a part that the training part does not have, if there are any."""
    unknown, tokens = text.counts[part][1], len(text.parts[part])
    if not unknown or text.counts["train"][1]:
        # where the training part has unknown tokens too, they are one token among others
        return []
    return [
        f"{unknown:,} of {tokens:,} tokens of the {part} part do not stand in the training part; they count as <unk>, "
        "which is hard to foretell"
    ]
