"""The options of `recur train classify` that are for sequences of numbers: how they lie in a table, how they change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recur.errors import InputError
from recur.tasks.options import RunOptions, require

ARRAYS = (".npz", ".npy")


@dataclass(frozen=True, kw_only=True)
class NumberOptions(RunOptions):
    """What is asked for of sequences of numbers alone."""

    series: str | None = None
    """Numbers, a row for each step: column that names the sequence."""
    time: str | None = None
    """Numbers, a row for each step: column that the steps of a sequence are sorted by; none for the order of the
    rows."""
    numbers: tuple[str, ...] = ()
    """Columns of the numbers, each may be a pattern such as pixel*; none for all others that hold numbers."""
    step_size: int | None = None
    """Numbers, a row for each sequence: so many of them are a step."""
    scale: Literal["each", "together", "none"] = "each"
    """Numbers are brought to mean 0 and deviation 1 of the training part: each number of a step by its own, all
    together, or not at all."""
    deltas: bool = False
    """Put the slope of each number, and the slope of that, beside it."""
    time_mask: int = 0
    """Most steps that a mask hides in training; 0 for none."""
    feature_mask: int = 0
    """Most numbers of a step that a mask hides in training; 0 for none."""
    masks: int = 1
    """Masks of either kind for each sequence."""
    shift: int = 0
    """Most steps that a sequence is moved by in training, forth or back, its ends repeated."""
    stretch: float = 0.0
    """Most that a sequence is slowed or quickened by in training, as a share of its length."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        require(self, "step_size", lambda value: value >= 1, "at least 1")
        for name in ("time_mask", "feature_mask", "masks", "shift"):
            require(self, name, lambda value: value >= 0, "0 or greater")
        require(self, "stretch", lambda value: 0 <= value < 1, "from 0 up to, not including, 1")
        if self.series is not None and self.step_size is not None:
            raise InputError(
                "--series, for a row for each step, and --step-size, for a row for each sequence, must not be given "
                "together; leave one out"
            )


@dataclass(frozen=True, kw_only=True)
class NumberColumns:
    """What a table of sequences is read by, where it differs from the training file."""

    label: str | None = None
    """Column of the labels; that of the training file by default."""
    series: str | None = None
    """Column that names the sequence; that of the training file by default."""
    time: str | None = None
    """Column that steps are sorted by; that of the training file by default."""


def asks_for_numbers(options: Mapping[str, Any]) -> bool:
    """Say whether options are about sequences of numbers and not about texts: by the file, or by its columns."""
    path = str(options.get("train", "")).lower()
    return path.endswith(ARRAYS) or any(options.get(name) for name in ("series", "numbers", "step_size"))
