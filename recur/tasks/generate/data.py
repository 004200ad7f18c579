"""From a text file to streams of ids on disk, and the coder that made them."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recur.data.coders import Coder, learn_coder, load_coder
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
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Text:
    """The three parts of a text, as ids on disk."""

    folder: Path
    """Where they lie; theirs alone."""
    coder: Coder
    parts: dict[str, StreamFile]
    notes: list[str] = field(default_factory=list)

    def characters(self, part: str) -> int:
        """Return how many characters a part has."""
        return int(self.parts[part].metadata["characters"])

    def counts(self) -> Tensor:
        """Return how often each id stands in the training part, int64 [V]."""
        values, counts = self.parts["train"].values, np.zeros(len(self.coder), dtype=np.int64)
        for start in range(0, len(values), _CHUNK):
            counts += np.bincount(values[start : start + _CHUNK], minlength=len(counts))
        return torch.from_numpy(counts)

    def unknown(self, part: str) -> int:
        """Return how many tokens of a part the training part does not have."""
        values = self.parts[part].values
        return sum(int((values[start : start + _CHUNK] == 1).sum()) for start in range(0, len(values), _CHUNK))

    def delete(self) -> None:
        """Delete the files, which are made again from the texts where they are wanted."""
        for path in [*(self.folder / f"{part}.stream" for part in PARTS), self.folder / _CODER]:
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()


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
            Text(folder, load_coder({"unit": "characters", "lower": False, "vocabulary": []}), {}).delete()
            raise
    return Text(folder, text.coder, text.parts, unknown_notes(text, "validation"))


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
        return Text(folder, load_coder(stored["coder"]), parts)
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
    parts = {}
    for name, source in sources.items():
        if not (characters := length(source)):
            raise InputError(f"the {name} part of {source.path} is empty; give a longer text, or a file with --{name}")
        ids = coder.ids(watched(source, what=f"writing the {name} part as ids"))
        parts[name] = write_stream(
            folder / f"{name}.stream", ids, dtype=dtype, joined=True, metadata={"characters": str(characters)}
        )
        if len(parts[name]) < 2:
            raise InputError(f"the {name} part of {source.path} must have at least 2 tokens, got {len(parts[name])}")
    # the last one: with it all are there
    write_json(folder / _CODER, {"made_of": made_of, "coder": coder.state()}, indent=None)
    return Text(folder, coder, parts)


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


def unknown_notes(text: Text, part: str) -> list[str]:
    """Return a note on the tokens of a part that the training part does not have, if there are any."""
    unknown, tokens = text.unknown(part), len(text.parts[part])
    if not unknown or text.unknown("train"):
        # where the training part has unknown tokens too, they are one token among others
        return []
    return [
        f"{unknown:,} of {tokens:,} tokens of the {part} part do not stand in the training part; they count as <unk>, "
        "which is hard to foretell"
    ]
