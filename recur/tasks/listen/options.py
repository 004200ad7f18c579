"""The options of `recur train listen`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import Literal

from recur.errors import InputError
from recur.tasks.options import RunOptions, require


@dataclass(frozen=True, kw_only=True)
class ListenOptions(RunOptions):
    """From a folder or a table of labelled sounds (WAV, FLAC, OGG) to a trained listener."""

    train: str
    """Folder of sounds in sub-folders named after their labels, or a table of paths and labels."""
    sound: str = "path"
    """Column of the files' paths, relative to the table's folder."""
    label: str = "label"
    """Column of the labels."""
    pattern: str | None = None
    """Regular expression with a group `label`, which the names of the files of a folder begin with; none for labels by
    sub-folder."""
    test_pattern: str | None = None
    """Regular expression that the paths of the test part hold and no others; none cuts --test-share off."""
    rate: int | None = None
    """Samples a second that all sounds are brought to; none for that of the files, which must be one."""
    features: Literal["log-mel", "mfcc"] = "log-mel"
    """What a frame is: the logarithms of mel energies, or their cosine transform."""
    mels: int = 40
    """Mel channels."""
    coefficients: int = 13
    """Coefficients of the cosine transform that are kept, with mfcc."""
    window_ms: float = 25.0
    """Width of a frame, milliseconds."""
    hop_ms: float = 10.0
    """From one frame to the next, milliseconds."""
    deltas: bool = False
    """Put the slope of each feature, and the slope of that, beside it."""
    bidirectional: bool = True
    """Read each sound from both ends."""
    pooling: Literal["last", "mean", "max", "concat"] = "concat"
    """What of the outputs is scored: the last, their mean or maximum, or the three side by side."""
    time_mask: int = 8
    """Most frames that a mask hides in training; 0 for none."""
    feature_mask: int = 8
    """Most features that a mask hides in training; 0 for none."""
    masks: int = 2
    """Masks of either kind for each sound."""
    shift: int = 3
    """Most frames that a sound is moved by in training, forth or back."""
    stretch: float = 0.1
    """Most that a sound is slowed or quickened by in training, as a share of its length."""
    gain: float = 6.0
    """Most decibels that a sound is made louder or softer by in training."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("rate", "mels", "coefficients"):
            require(self, name, lambda value: value >= 1, "at least 1")
        for name in ("window_ms", "hop_ms"):
            require(self, name, lambda value: 0 < value < 10_000, "greater than 0 and less than 10000")
        for name in ("time_mask", "feature_mask", "masks", "shift"):
            require(self, name, lambda value: value >= 0, "0 or greater")
        require(self, "gain", lambda value: 0 <= value <= 100, "from 0 to 100")
        require(self, "stretch", lambda value: 0 <= value < 1, "from 0 up to, not including, 1")
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
