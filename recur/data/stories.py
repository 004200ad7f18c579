"""Stories with questions, in the text format of the bAbI tasks: numbered sentences, answers behind a tab."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recur.data.batches import ByLength
from recur.data.sequences import Sequences
from recur.data.sources import broken_text, check_file, open_binary
from recur.errors import InputError

ENDINGS = (".txt", ".txt.gz")
_NUMBERED = re.compile(r"\s*(\d+)\s+(\S.*)")
_PIECES = re.compile(r"(\d+)|(\D+)")


class Question(NamedTuple):
    """A question with what was told before it."""

    story: tuple[str, ...]
    """The sentences before it, oldest first; questions are none."""
    text: str
    answer: str
    """Empty if the file gives none."""
    path: Path
    line: int
    """Of the question, counted from 1."""
    start: int
    """Line of the first sentence of its story."""


def story_files(source: str | Path) -> list[Path]:
    """Return a file, or the files that end in .txt or .txt.gz in a folder and its sub-folders, but for hidden ones.

    The numbers in names count as numbers: qa2.txt comes before qa10.txt.

    Raises:
        InputError: no such file or folder, or one without such files.
    """
    source = Path(source)
    if not source.is_dir():
        check_file(source)
        return [source]
    found = [
        path
        for path in source.rglob("*")
        if path.is_file()
        and path.name.lower().endswith(ENDINGS)
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]
    if not found:
        raise InputError(f"{source} must hold files that end in {' or '.join(ENDINGS)}, found none")
    return sorted(found, key=lambda path: [(int(n or 0), text) for n, text in _PIECES.findall(str(path))])


def read_questions(path: str | Path, *, answered: bool = True) -> Iterator[Question]:
    """Yield the questions of a file, each with the story before it.

    A line is a number, a blank and a sentence; the number 1 begins a new story. A line with a tab, or that ends in a
    question mark, is a question: behind the tab stands its answer, and behind another tab what is not read, such as
    the numbers of the sentences that support it.

    Args:
        path: the file, also .gz; UTF-8.
        answered: whether every question must have its answer.

    Raises:
        InputError: a line that is none of these, a number that does not follow the one before, a question without an
            answer, or no question at all.
    """
    path = Path(path)
    story: list[str] = []
    before = start = questions = 0
    with open_binary(path) as file:
        # broken bytes become surrogates here and are found where the line is known
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
        for line, raw in enumerate(lines, start=1):
            if raw.isspace():
                continue
            place = f"{path}, line {line}"
            if problem := broken_text(raw):
                raise InputError(f"{place}: {problem}")
            found = _NUMBERED.fullmatch(raw.rstrip("\r\n"))
            if not found:
                raise InputError(f"{place}: expected a number, a blank and a sentence, found {raw.strip()[:40]!r}")
            number = int(found[1])
            if number != before + 1 and number != 1:
                raise InputError(
                    f"{place}: expected the number {before + 1}, or 1 for a new story, found {number}; correct it"
                )
            if number == 1:
                story, start = [], line
            before = number
            text, *rest = (part.strip() for part in found[2].split("\t"))
            if not rest and not text.endswith(("?", "？")):
                story.append(text)
                continue
            if answered and not (rest and rest[0]):
                raise InputError(f"{place}: expected an answer behind a tab after the question {text!r}, found none")
            questions += 1
            yield Question(tuple(story), text, rest[0] if rest else "", path, line, start)
    if not questions:
        raise InputError(f"{path}: expected questions, lines with a tab or a question mark at the end, found none")


class StoryBatch(NamedTuple):
    """Some questions, laid out for a network: each different sentence of the batch is there once."""

    sentences: Tensor
    """Ids of the words, int64 [N, J]; 0 behind the end of each sentence."""
    story: Tensor
    """Numbers of the sentences before each question, int64 [B, S]; of no meaning behind the end of each row."""
    question: Tensor
    """Number of the sentence that is asked, int64 [B]."""
    lengths: Tensor
    """Sentences of each story, int64 [B]; 0 for none."""
    answers: Tensor
    """Classes, int64 [B]; -1 for an answer that is none of them."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """Numbers of the rows in the data, int64 [B]."""


class Stories(NamedTuple):
    """Questions as numbers."""

    sentences: Sequences
    """Ids of the words of each different sentence."""
    stories: Sequences
    """Of each of n questions the numbers of the sentences before it."""
    questions: NDArray[np.int64]
    """Of each the number of the sentence that is asked, [n]."""
    answers: NDArray[np.int64]
    """Of each the class of its answer, [n]; -1 for one that is none of the classes."""


class StoryBatches(ByLength):
    """Batches of questions about stories of like length, in the order of `ByLength`; yields a `StoryBatch`.

    Args:
        stories: n questions.
        batch_size, seed, shuffle, pool: see `ByLength`.

    Raises:
        InputError: a size below 1.
    """

    def __init__(self, stories: Stories, batch_size: int, seed: int, shuffle: bool = True, pool: int = 50) -> None:
        super().__init__((stories.stories,), stories.stories.lengths, batch_size, seed, shuffle, pool)
        self.data = stories

    def _batch(self, rows: NDArray[np.int64]) -> StoryBatch:
        data = self.data
        story, lengths = data.stories.padded(rows)
        used, numbers = np.unique(np.append(story, data.questions[rows]), return_inverse=True)
        sentences, _ = data.sentences.padded(used)
        story, question = numbers[: story.size].reshape(story.shape), numbers[story.size :]
        arrays = (sentences, story, question, lengths, data.answers[rows], rows)
        return StoryBatch(*(torch.from_numpy(array) for array in arrays))
