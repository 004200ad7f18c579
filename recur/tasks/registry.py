"""The tasks by name: what the command line must know of them before it imports torch, and where the rest is."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recur.errors import InputError, RunError
from recur.tasks.answer.options import AnswerOptions
from recur.tasks.caption.options import CaptionColumns, CaptionOptions
from recur.tasks.classify.options import ClassifyColumns, ClassifyOptions
from recur.tasks.decoding import Decoding, Search
from recur.tasks.forecast.options import ForecastOptions
from recur.tasks.generate.options import GenerateOptions, Sampling
from recur.tasks.listen.options import ListenOptions, SoundColumns
from recur.tasks.numbers.options import NumberColumns, asks_for_numbers
from recur.tasks.options import flag
from recur.tasks.tag.options import TagFile, TagOptions
from recur.tasks.transcribe.options import TranscribeColumns, TranscribeOptions
from recur.tasks.translate.options import TranslateColumns, TranslateOptions

if TYPE_CHECKING:
    from recur.tasks.job import Task


@dataclass(frozen=True)
class NoFlags:
    """Flags of a task that has none."""


@dataclass(frozen=True)
class Entry:
    """One task."""

    home: str
    """Module and name of the `Task`."""
    options: type
    """Of `recur train`."""
    help: str
    """What `recur train` does, in a line."""
    columns: type = NoFlags
    """How another file is read, by `recur predict --file`, `recur evaluate` and `recur flow`: their flags."""
    decoding: type = NoFlags
    """How answers are made, by `recur predict` and `recur evaluate`: their flags."""
    other: "Other | None" = None
    """The task of the same name on data of another kind."""

    @property
    def task(self) -> "Task[Any, Any]":
        """The task itself."""
        module, _, name = self.home.partition(":")
        task: Task[Any, Any] = getattr(importlib.import_module(module), name)
        return task

    def of(self, options: Mapping[str, Any]) -> "Entry":
        """Return the entry that such options of `recur train` are for."""
        return self.other.entry if self.other and self.other.asked(options) else self


@dataclass(frozen=True)
class Other:
    """A task on data of another kind."""

    kind: str
    """What the data are, in a word."""
    entry: Entry
    asked: Callable[[Mapping[str, Any]], bool]
    """Says whether options ask for it."""


TASKS = {
    "classify": Entry(
        "recur.tasks.classify.task:CLASSIFY",
        ClassifyOptions,
        "Train classifiers on labelled texts or sequences of numbers, compare them with simple methods, and write a "
        "report.",
        ClassifyColumns,
        other=Other(
            "numbers",
            Entry("recur.tasks.numbers.task:NUMBERS", ClassifyOptions, "", NumberColumns),
            asks_for_numbers,
        ),
    ),
    "tag": Entry(
        "recur.tasks.tag.task:TAG",
        TagOptions,
        "Train taggers on sentences with a tag for each word, compare them with simple methods, and write a report.",
        TagFile,
    ),
    "generate": Entry(
        "recur.tasks.generate.task:GENERATE",
        GenerateOptions,
        "Train language models on any text, compare them with n-grams, and write a report.",
        decoding=Sampling,
    ),
    "translate": Entry(
        "recur.tasks.translate.task:TRANSLATE",
        TranslateOptions,
        "Train translators on pairs of texts, compare them with a dictionary, and write a report.",
        TranslateColumns,
        Decoding,
    ),
    "forecast": Entry(
        "recur.tasks.forecast.task:FORECAST",
        ForecastOptions,
        "Train forecasters on series of numbers, compare them with naive forecasts, and write a report.",
    ),
    "listen": Entry(
        "recur.tasks.listen.task:LISTEN",
        ListenOptions,
        "Train listeners on labelled sounds, compare them with simple methods, and write a report.",
        SoundColumns,
    ),
    "transcribe": Entry(
        "recur.tasks.transcribe.task:TRANSCRIBE",
        TranscribeOptions,
        "Train transcribers on sounds with their texts, compare them with simple methods, and write a report.",
        TranscribeColumns,
        Search,
    ),
    "caption": Entry(
        "recur.tasks.caption.task:CAPTION",
        CaptionOptions,
        "Train networks that write captions of images or clips, or label frames, beside simple methods, with a report.",
        CaptionColumns,
        Decoding,
    ),
    "answer": Entry(
        "recur.tasks.answer.task:ANSWER",
        AnswerOptions,
        "Train memory networks on stories with questions, compare them with simple methods, and write a report.",
    ),
}


def entry_of(config: Mapping[str, Any], folder: object) -> Entry:
    """Return the task of a run from its config.json.

    Raises:
        RunError: it is of none of the tasks.
    """
    name = config.get("task")
    if name not in TASKS:
        raise RunError(f"{folder} must be a run of recur train {' or '.join(TASKS)}, got one of {name!r}")
    return TASKS[name].of(config.get("options", {}))


def entries() -> Iterator[tuple[str, Entry]]:
    """Yield all tasks with what a reader calls them, those on data of another kind too."""
    for name, entry in TASKS.items():
        yield name, entry
        if entry.other:
            yield f"{name} {entry.other.kind}", entry.other.entry


def chosen(kinds: Sequence[type], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given and are fields of some of `kinds`: `columns` or `decoding` of an entry."""
    return {f.name: given[f.name] for kind in kinds for f in dataclasses.fields(kind) if f.name in given}


def check_known(kinds: Sequence[type], given: Mapping[str, Any], run: object) -> None:
    """Raise InputError for a flag that the task of a run does not have."""
    known = [f.name for kind in kinds for f in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            those = f"those of its task are {', '.join(map(flag, known))}" if known else "its task has none"
            raise InputError(f"{flag(name)} is no flag for {run}; {those}")
