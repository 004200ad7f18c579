"""The options of `recur train listen`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import Literal

from recur.errors import InputError
from recur.tasks.sounds.options import SoundOptions


@dataclass(frozen=True, kw_only=True)
class ListenOptions(SoundOptions):
    """From a folder or a table of labelled sounds (WAV, FLAC, OGG) to a trained listener."""

    train: str
    """Folder of sounds in sub-folders named after their labels, or a table of paths and labels."""
    label: str = "label"
    """Column of the labels."""
    pattern: str | None = None
    """Regular expression with a group `label`, which the names of the files of a folder begin with; none for labels by
    sub-folder."""
    test_pattern: str | None = None
    """Regular expression that the paths of the test part hold and no others; none cuts --test-share off."""
    pooling: Literal["last", "mean", "max", "concat"] = "concat"
    """What of the outputs is scored: the last, their mean or maximum, or the three side by side."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        if self.test is not None and self.test_pattern is not None:
            raise InputError("--test and --test-pattern must not be given together; leave one out")


@dataclass(frozen=True, kw_only=True)
class SoundColumns:
    """What a folder or table of sounds is read by, where it differs from what the network was trained on."""

    sound: str | None = None
    """Column of the files' paths; that of the training table by default."""
    label: str | None = None
    """Column of the labels; that of the training file by default."""
    pattern: str | None = None
    """Regular expression with a group `label`, which the names of a folder's files begin with; that of the training
    folder by default."""
