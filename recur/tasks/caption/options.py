"""The options of `recur train caption`: every field is a flag, a key of the TOML file, and a line of config.json."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from recur.errors import InputError
from recur.tasks.options import RunOptions, require

Structure = Literal["auto", "one-to-many", "encoder-decoder", "aligned"]


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(RunOptions):
    """From a table of pictures, or of folders of frames, and captions to a network that writes them."""

    FREE: ClassVar[tuple[str, ...]] = (*RunOptions.FREE, "root")

    train: str
    """Table of pictures and captions to learn from; several rows of one picture are several captions of it."""
    image: str = "image"
    """Column of the paths: files, or folders of frames in the order of their names."""
    text: str = "text"
    """Column of the captions; with --structure aligned of the labels, one for each frame, blanks between."""
    root: str | None = None
    """Folder that the paths are relative to; that of each table by default."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
    structure: Structure = "auto"
    """one-to-many: from an image to a caption; encoder-decoder: from frames to a caption; aligned: a label for each
    frame; auto takes the first for files and the second for folders."""
    size: str | None = None
    """Height x width in pixels that all pictures are brought to, such as 32x48; none for that of the first, which all
    must have."""
    colours: Literal["auto", "grey", "colour"] = "auto"
    """What is seen of pictures; auto is grey where the first one is."""
    tokenizer: Literal["words", "characters", "jieba"] = "words"
    """What captions are written in."""
    lowercase: bool = True
    """Turn the captions' capital letters into small ones."""
    min_count: int = 1
    """Fewest times that a word must be in the training captions to be written."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Features of the blocks of the convolutional network; each block halves height and width, rounded up."""
    vision: str | None = None
    """Run of recur train caption whose convolutional blocks the network begins with, and learns on from; it must have
    the same --channels and colours."""
    embedding_size: int = 256
    """Width of the vectors of pictures and of words."""
    bidirectional: bool = True
    """Read frames from both ends."""
    attention: Literal["additive", "multiplicative", "dot", "none"] = "multiplicative"
    """How the decoder looks back at the places of an image, or at frames; none leaves it a single vector."""
    input_feeding: bool = False
    """Let the decoder read what it saw at the word before, so that it knows what is told; word by word, slower."""
    shift: int = 2
    """Most pixels that a picture is moved by in training, each way; all frames of a clip alike."""
    rotate: float = 5.0
    """Most degrees that it is turned by."""
    zoom: float = 0.1
    """Most that it is made larger or smaller by, as a share."""
    beam: int = 5
    """Width of the beam whose captions are compared with greedy ones on the test part; 1 for none."""
    length_penalty: float = 1.0
    """Exponent of the penalty by which a beam divides: the larger, the longer its captions."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("min_count", "embedding_size", "beam"):
            require(self, name, lambda value: value >= 1, "at least 1")
        require(self, "channels", lambda value: value and min(value) >= 1, "whole numbers above 0")
        for name in ("shift", "length_penalty"):
            require(self, name, lambda value: value >= 0, "0 or greater")
        require(self, "rotate", lambda value: 0 <= value <= 180, "from 0 to 180")
        require(self, "zoom", lambda value: 0 <= value < 1, "from 0 up to, not including, 1")
        if self.input_feeding and self.attention == "none":
            raise InputError("--input-feeding needs attention, got --attention none; leave one of the two out")
        _ = self.pixels

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Height and width of --size.

        Raises:
            InputError: it does not say them.
        """
        if self.size is None:
            return None
        found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", self.size)
        if not found:
            raise InputError(f"--size must be height x width in pixels, such as 32x48, got {self.size!r}")
        return int(found[1]), int(found[2])


@dataclass(frozen=True, kw_only=True)
class CaptionColumns:
    """What a table of pictures is read by, where it differs from the training table."""

    image: str | None = None
    """Column of the paths; that of the training table by default."""
    text: str | None = None
    """Column of the captions or labels; that of the training table by default."""
    root: str | None = None
    """Folder that the paths are relative to; that of the table by default."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
