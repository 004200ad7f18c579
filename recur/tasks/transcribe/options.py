"""The options of `recur train transcribe`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import Literal

from recur.tasks.options import require
from recur.tasks.sounds.options import SoundOptions


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions(SoundOptions):
    """From a table of sounds (WAV, FLAC, OGG) with their texts to a trained transcriber."""

    train: str
    """Table of paths and texts."""
    text: str = "text"
    """Column of what is said."""
    group: str | None = None
    """Column, such as the speaker, whose rows of one value stay together where parts are cut off --train."""
    unit: Literal["character", "word"] = "character"
    """What is written at a step of the network."""
    min_count: int = 1
    """How often a unit must be in the training texts; rarer ones are one unknown unit."""
    lowercase: bool = False
    """Turn capital letters into small ones, before training and before scoring."""
    layers: int = 2
    """Recurrent layers, one on top of the other."""
    stack: int = 2
    """Frames that are read side by side in one step of the network."""
    beam: int = 10
    """Width of the beam whose texts are compared with greedy ones on the test part; 1 for none."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("min_count", "stack", "beam"):
            require(self, name, lambda value: value >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class TranscribeColumns:
    """What a table of sounds is read by, where it differs from the training table."""

    sound: str | None = None
    """Column of the files' paths; that of the training table by default."""
    text: str | None = None
    """Column of the texts; that of the training table by default."""
