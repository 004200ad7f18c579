"""Options as dataclasses: the same fields make the flags, the TOML file and the saved configuration."""

import ast
import dataclasses
import inspect
import itertools
import math
import os
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from recur.errors import InputError, nearest
from recur.remedies import Remedies

Options = TypeVar("Options")
Optimizer = Literal["adam", "adamw", "rmsprop", "sgd"]
Schedule = Literal["constant", "cosine", "linear", "plateau"]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained, whatever its task."""

    epochs: int = 10
    """Most passes over the training part, or rounds of --epoch-steps."""
    epoch_steps: int | None = None
    """Steps of an epoch, after which the validation part is scored; none for a whole pass. For large training parts."""
    batch_size: int = 32
    """Rows per step."""
    learning_rate: float = 0.001
    """Step size at the start of the schedule."""
    optimizer: Optimizer = "adam"
    """Rule of the step; sgd has momentum 0.9."""
    schedule: Schedule = "linear"
    """Course of the learning rate: constant; cosine or linear down to 0 at the last step; plateau halves it after
    each epoch that did not improve the validation part."""
    warmup: float = 0.0
    """Epochs in which the learning rate first rises from 0."""
    weight_decay: float = 0.0
    """Pull of the weights towards 0: L2 penalty, decoupled with adamw."""
    clip_value: float | None = None
    """Bring each entry of each gradient into [-x, x]."""
    clip_norm: float | None = None
    """Scale each gradient tensor by itself to a 2-norm of at most x."""
    clip_global_norm: float | None = None
    """Scale all gradients together to a 2-norm of at most x."""
    average: float = 0.0
    """Decay of a running average of the weights, such as 0.999, that is validated and kept; 0 for none."""
    patience: int | None = None
    """Stop after so many epochs in a row without improvement on the validation part; none for all epochs."""
    watch_gradients: int = 100
    """Steps from one look at the gradients to the next, kept in gradients.jsonl and shown in the report; 0 for none."""
    threads: int | None = None
    """Processor threads; none for torch's choice."""
    save_seconds: float = 60.0
    """Seconds between two saves of the state for resuming, apart from the one after each epoch."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        for name in ("epochs", "epoch_steps", "batch_size", "patience", "threads"):
            require(self, name, lambda value: value >= 1, "at least 1")
        for name in ("learning_rate", "clip_value", "clip_norm", "clip_global_norm"):
            require(self, name, lambda value: 0 < value < math.inf, "greater than 0")
        for name in ("warmup", "weight_decay", "watch_gradients", "save_seconds"):
            require(self, name, lambda value: 0 <= value < math.inf, "0 or greater")
        require(self, "average", lambda value: 0 <= value < 1, "from 0 up to, not including, 1")
        require(self, "warmup", lambda value: value < self.epochs, f"fewer than all {self.epochs} epochs")
        clips = [name for name in ("clip_value", "clip_norm", "clip_global_norm") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise InputError(f"{flag(clips[0])} and {flag(clips[1])} must not be given together; leave one out")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Remedies, TrainingOptions):
    """From files to trained networks: what every task has.

    Paths may be `str` or `Path`, `cell` and `seed` one value or several.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    # what may differ when a run is carried on besides the paths: where it is, and how fast it goes
    FREE: ClassVar[tuple[str, ...]] = ("out", "resume", "overwrite", "threads", "save_seconds")

    train: str
    """File to learn from."""
    validation: str | None = None
    """File that chooses the best epoch; none cuts --validation-share of --train off."""
    validation_share: float = 0.1
    """Share of the training rows that choose the best epoch where no --validation is given."""
    test: str | None = None
    """File to score on, once, at the end; none cuts --test-share of --train off."""
    test_share: float = 0.2
    """Share of the rows that are the test part where no --test is given."""
    cell: tuple[str, ...] = ("lstm",)
    """Recurrent cells; several are trained one after the other and compared."""
    layers: int = 1
    """Recurrent layers, one on top of the other."""
    hidden_size: int = 128
    """Units of each layer and direction."""
    dropout: float = 0.3
    """Share of each layer's outputs zeroed in training."""
    seed: tuple[int, ...] = (1,)
    """Seeds of the start weights, the order and the dropouts; with several the table has means and intervals."""
    baselines: bool = True
    """Train the simple methods that the network is compared with."""
    out: str | None = None
    """Run folder; runs/NAME by default, NAME being that of the training file."""
    resume: bool = False
    """Carry the run in --out on where it was stopped; its options are those it was started with."""
    overwrite: bool = False
    """Replace the run in --out."""

    def __post_init__(self) -> None:
        for name in (*self.PATHS, "out"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.fspath(value))
        cells = [self.cell] if isinstance(self.cell, str) else self.cell
        object.__setattr__(self, "cell", tuple(c.strip() for cell in cells for c in cell.split(",") if c.strip()))
        object.__setattr__(self, "seed", (self.seed,) if isinstance(self.seed, int) else tuple(self.seed))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.out or Path("runs", Path(self.train).name.split(".")[0]))

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("layers", "hidden_size"):
            require(self, name, lambda value: value >= 1, "at least 1")
        for name in ("validation_share", "test_share"):
            require(self, name, lambda value: 0 < value < 1, "between 0 and 1, both left out")
        self.require_shares("dropout")
        for name in ("cell", "seed"):
            values = getattr(self, name)
            require(self, name, lambda value: len(value) > 0, "given")
            if len(set(values)) < len(values):
                raise InputError(f"{flag(name)} must name each one once, got {', '.join(map(str, values))}")
        require(self, "seed", lambda seeds: min(seeds) >= 0 and max(seeds) < 2**32, "from 0 to 4294967295")
        self.check_remedies(self.layers, flag)
        self.check_cells(self.cell, flag)
        if self.resume and self.overwrite:
            raise InputError("--resume and --overwrite must not be given together; leave one out")

    def require_shares(self, *names: str) -> None:
        """Raise InputError for a dropout that is not a share below 1."""
        for name in names:
            require(self, name, lambda value: 0 <= value < 1, "from 0 up to, not including, 1")

    def plain(self) -> dict[str, Any]:
        """Return the options that make the result, as JSON has them: without --resume, --overwrite and --out."""
        values = dataclasses.asdict(self)
        for name in ("resume", "overwrite", "out"):
            del values[name]
        return values

    def network(self, config: type) -> dict[str, Any]:
        """Return the options of one member that are fields of a network's `config`, its cell among them."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(config) if hasattr(self, f.name)}
        return shared | {"cell": self.cell[0]}

    def changed(self) -> dict[str, Any]:
        """Return the options that are not at their defaults."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}


def flag(name: str) -> str:
    """Return the flag of a field: hidden_size -> --hidden-size."""
    return "--" + name.replace("_", "-")


def require(options: Any, name: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Raise InputError unless the field `name` is None or `holds`."""
    value = getattr(options, name)
    if value is not None and not holds(value):
        raise InputError(f"{flag(name)} must be {expected}, got {value}")


def field_docs(options: type) -> dict[str, str]:
    """Return the docstring of each field, those of parent classes included, on one line."""
    docs: dict[str, str] = {}
    for cls in reversed(options.__mro__[:-1]):
        definition = ast.parse(inspect.getsource(cls)).body[0]
        assert isinstance(definition, ast.ClassDef)
        for field, doc in itertools.pairwise(definition.body):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read the options in a TOML file; keys may be written as fields (hidden_size) or as flags (hidden-size).

    Raises:
        InputError: the file is missing or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise InputError(f"--options {path} does not exist") from None
    except OSError as error:
        raise InputError(f"--options {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--options {path} is not a TOML file: {error}") from error
    return {key.replace("-", "_"): value for key, value in values.items()}


def make_options(cls: type[Options], values: Mapping[str, Any], source: str) -> Options:
    """Make options from plain values, such as those of a TOML or JSON file.

    Args:
        cls: the dataclass.
        values: by field name.
        source: where they come from, for the errors.

    Raises:
        InputError: an unknown key (with the nearest known one), a missing one, or a value of another type.
    """
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for key in values:
        if key not in known:
            raise InputError(f"{source}: there is no option {key!r}{nearest(key, list(known))}")
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"{source}: {flag(name)} is required")
    hints = typing.get_type_hints(cls)
    made = {}
    for key, value in values.items():
        # a single value stands for a list of one: cell = "gru"
        listed = typing.get_origin(hints[key]) is tuple and not isinstance(value, list | tuple)
        try:
            made[key] = msgspec.convert([value] if listed else value, hints[key])
        except msgspec.ValidationError as error:
            raise InputError(f"{source}: {flag(key)} is not right: {error}, got {value!r}") from None
    return cls(**made)
