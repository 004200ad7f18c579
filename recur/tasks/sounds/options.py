"""The options of all tasks on sounds: what a frame is, and how sounds are changed at random in training."""

from dataclasses import dataclass
from typing import Literal

from recur.tasks.options import RunOptions, require


@dataclass(frozen=True, kw_only=True)
class SoundOptions(RunOptions):
    """From files of sound (WAV, FLAC, OGG) to a trained network."""

    sound: str = "path"
    """Column of the files' paths, relative to the table's folder."""
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
