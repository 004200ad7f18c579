"""What a task is: it says what is read, trained, scored and drawn; `recur.tasks.job_run.train_run` does the rest."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recur.data.tables import fingerprint
from recur.errors import InputError
from recur.report import Block, Section
from recur.tasks.options import RunOptions
from recur.tasks.progress import Progress
from recur.tasks.training import Batches, Objective, SizedBatches, Training


class Data(Protocol):
    """What a run learns from."""

    @property
    def notes(self) -> list[str]:
        """What a person should know of the data."""


# rows whose Jacobians are taken
LONGEST = 4

O = TypeVar("O", bound=RunOptions)
D = TypeVar("D", bound=Data)


@dataclass(frozen=True)
class Figure:
    """The figure that networks and baselines are compared by."""

    name: str
    """The field of the scores, and its key in metrics.json."""
    show: Callable[[float], str]
    """As text."""
    rising: bool = True
    """Whether more is better."""
    unit: str = "rows"
    """What is counted in the test part."""
    share: bool = False
    """Whether it lies in 0..1 and is shown as percent."""
    label: str = ""
    """What readers call it, where that is not its name."""

    @property
    def title(self) -> str:
        """What readers call it."""
        return self.label or self.name.replace("_", " ")

    def better(self, value: float | None) -> float:
        """Return a number that rises with how good a value is."""
        if value is None or math.isnan(value):
            return -math.inf
        return value if self.rising else -value


@dataclass(frozen=True)
class Setup:
    """What one cell with one seed is trained with."""

    objective: Objective
    batches: Batches
    validation: SizedBatches
    config: Mapping[str, Any]
    """What `Task.build` and `Task.load` need, for config.json."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For metrics.json, such as the share of padding."""


@dataclass(frozen=True)
class Trained:
    """One cell with one seed, trained."""

    options: Any
    setup: Setup
    training: Training

    @property
    def name(self) -> str:
        """Cell and seed."""
        return f"{self.options.cell[0]}-{self.options.seed[0]}"

    @property
    def model(self) -> Any:
        """The network of the best epoch."""
        return self.training.model

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return count_parameters(self.model)

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return math.fsum(line["seconds"] for line in self.training.history)


@dataclass(frozen=True)
class Member:
    """The same, scored."""

    trained: Trained
    validation: Any
    """Scores: a dataclass with the task's figure, and where known its 95% `interval`."""
    test: Any
    shown: Any = None
    """What the report draws of the test part."""


@dataclass(frozen=True)
class Baseline:
    """What a simple method reached."""

    name: str
    description: str
    """One line for a reader."""
    validation: float | None
    """The figure on the validation part; None if it has no rows."""
    test: float | None
    """The figure on the test part; None if it has no rows."""
    seconds: float
    """For training, choosing and scoring."""
    interval: tuple[float, float] | None = None
    """95% interval of the figure on the test part."""


@dataclass(frozen=True)
class Scored:
    """What the test part says of networks and baselines."""

    members: list[Member]
    baselines: list[Baseline]
    rows: dict[str, int]
    """Of each part, in the unit of the figure."""
    notes: list[str] = field(default_factory=list)
    extra: Any = None
    """What else the report draws."""


@dataclass(frozen=True)
class Result(Generic[D]):
    """All that a run found."""

    task: "Task[Any, D]"
    options: Any
    data: D
    members: list[Member]
    baselines: list[Baseline]
    rows: dict[str, int]
    notes: list[str]
    extra: Any = None

    @property
    def best(self) -> Member:
        """The member that is best on the validation part; where equal, the one with the smaller validation loss."""
        return max(self.members, key=lambda m: (self.reached(m.validation), -getattr(m.validation, "loss", 0.0)))

    @property
    def cells(self) -> dict[str, list[Member]]:
        """The members of each cell."""
        cells: dict[str, list[Member]] = {}
        for member in self.members:
            cells.setdefault(member.trained.options.cell[0], []).append(member)
        return cells

    @property
    def strongest(self) -> Baseline | None:
        """The baseline that is best on the test part."""
        rivals = [baseline for baseline in self.baselines if baseline.test is not None]
        return max(rivals, key=lambda b: self.figure.better(b.test), default=None)

    @property
    def figure(self) -> Figure:
        """The figure that all is compared by."""
        return self.task.figure_of(dataclasses.asdict(self.members[0].test))

    def value(self, scores: Any) -> float:
        """Return the figure of some scores."""
        return float(getattr(scores, self.figure.name))

    def reached(self, scores: Any) -> float:
        """Return a number that rises with how good some scores are."""
        return self.figure.better(self.value(scores))


@dataclass(frozen=True)
class TaskReport:
    """What a task adds to the report that all tasks share."""

    lead: str
    """What was found, in a sentence."""
    sections: list[Section]
    """Its own pictures."""
    data: Iterable[Block]
    """Tables of the data, for the details."""
    command: list[str]
    """A command that uses the run."""
    tried_on: str = "On data of your own:"
    """What the command does."""


class Example(NamedTuple):
    """What the gradient flow of a trained network is measured on."""

    inputs: Any
    """The model's arguments."""
    loss: Callable[[Any], Tensor]
    """Of its output."""
    rows: list[int] | None
    """The rows whose Jacobians are taken; None for the longest one."""


class Predictor(ABC):
    """A trained network in its run folder.

    Args:
        folder: the run folder.
        config: what config.json holds.
        model: the network, in evaluation.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], model: Any) -> None:
        self.folder, self.config, self.model = folder, config, model
        self.options: dict[str, Any] = dict(config.get("options", {}))

    # the arguments are each task's own

    @abstractmethod
    def predict(self, *items: Any, **decoding: Any) -> list[Any]:
        """Answer several items: `predict(items)`."""

    @abstractmethod
    def items(self, *file: Any, **columns: Any) -> Iterator[Any]:
        """Yield what a file holds, as `predict` takes it: `items(file)`."""

    @abstractmethod
    def line(self, *pair: Any, **none: Any) -> str:
        """Return an answer as a line for the terminal: `line(item, answer)`."""

    @property
    def heading(self) -> str:
        """What stands above the lines; empty for nothing."""
        return ""

    def own(self) -> Iterator[Any] | None:
        """Yield what is answered where nothing is given; None where something must be."""
        return None

    def json(self, item: Any, answer: Any) -> dict[str, Any]:
        """Return an answer as JSON."""
        return {"text": item} | dataclasses.asdict(answer)

    @abstractmethod
    def evaluate(self, *file: Any, **how: Any) -> Any:
        """Score the network on a file: `evaluate(path)`."""

    @abstractmethod
    def shown(self, *scores: Any, **none: Any) -> str:
        """Return scores as lines for the terminal: `shown(scores)`."""

    @abstractmethod
    def example(self, *file_and_rows: Any, **columns: Any) -> Example:
        """Return some rows of a file, or of the validation part, to look at gradients on: `example(file, rows)`."""

    @property
    def validation_file(self) -> str:
        """Which of the run's files holds the validation part: "validation", or "train" that it was cut from."""
        return "validation" if self.options.get("validation") else "train"

    def own_file(self, name: str, remedy: str = "give rows with --data FILE") -> str:
        """Return the path of a file that the run was made of.

        Args:
            name: the option that named it.
            remedy: what to do without it.

        Raises:
            InputError: it is gone or was changed.
        """
        path, known = str(self.options.get(name) or ""), self.config.get("data", {}).get(name, {})
        if not path or not Path(path).exists() or fingerprint(path)["sha256"] != known.get("sha256"):
            raise InputError(f"the run's {name} file, {path}, is not there, or was changed; {remedy}")
        return path

    def warn_if_learned(self, path: str | Path) -> list[str]:
        """Return a note if a file is the one that the network was trained on."""
        if fingerprint(path)["sha256"] != self.config.get("data", {}).get("train", {}).get("sha256"):
            return []
        return [f"{path} is the file that the network was trained on; the score says nothing about other data"]


class Task(ABC, Generic[O, D]):
    """One job, from files to a trained network."""

    name: str
    """As in `recur train NAME`."""
    options: type[O]
    figure: Figure
    layers: ClassVar[tuple[str, ...]] = ()
    """What `--cell` may name besides a cell of `recur.cells.CELLS`."""

    def figure_of(self, scores: Mapping[str, Any]) -> Figure:
        """Return the figure that networks are compared by, where it hangs on the data.

        Args:
            scores: of a network on the test part, as metrics.json has them.
        """
        return self.figure

    @abstractmethod
    def read(self, options: O, progress: Progress) -> D:
        """Read what is learned from, and see that the test part can be read.

        Raises:
            InputError: a file or an option is not right.
        """

    @abstractmethod
    def setup(self, options: O, data: D) -> Setup:
        """Make one member's network, objective and batches; the random numbers are those of its seed."""

    @abstractmethod
    def score(self, options: O, data: D, trained: list[Trained], progress: Progress) -> Scored:
        """Read the test part, for the first and only time, and score networks and baselines on it."""

    def facts(self, result: Result[D], member: Member) -> dict[str, Any]:
        """Return what else metrics.json says of a member."""
        return {}

    @abstractmethod
    def report(self, result: Result[D]) -> TaskReport:
        """Return what the report says and draws besides that of every task."""

    @abstractmethod
    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Make the network that config.json describes, with random weights as at the start of its training."""

    @abstractmethod
    def load(self, folder: Path, config: Mapping[str, Any], model: nn.Module) -> Predictor:
        """Make the predictor of a finished run.

        Raises:
            KeyError, TypeError, RecurError: config.json is not of this task.
        """


def evenly(count: int, rows: int) -> NDArray[np.int64]:
    """Return at most so many row numbers at even distances through `count` rows."""
    return np.unique(np.linspace(0, count - 1, min(rows, count)).astype(np.int64))


def longest(lengths: Tensor) -> list[int]:
    """Return the rows [n] whose Jacobians are taken: a few, the longest first, of two steps or more."""
    order = torch.argsort(lengths, descending=True, stable=True)[:LONGEST].tolist()
    return [row for row in order if lengths[row] >= 2]


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers of a network are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
