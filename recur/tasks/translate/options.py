"""The options of `recur train translate`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from recur.errors import InputError
from recur.tasks.options import RunOptions, flag, require

SIDES = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class TranslateOptions(RunOptions):
    """From pairs of texts to a trained translator: a table with two columns, or two text files with a line each."""

    PATHS: ClassVar[tuple[str, ...]] = tuple(name for side in SIDES for name in (side, f"{side}_target"))

    train_target: str | None = None
    """Text file whose lines are the translations of those of --train; none if --train is a table."""
    validation_target: str | None = None
    """Likewise of --validation."""
    test_target: str | None = None
    """Likewise of --test."""
    source: str | None = None
    """Column of a table that is translated; "source" by default, "1" without a header."""
    target: str | None = None
    """Column of its translations; "target" by default, "2" without a header."""
    header: bool = True
    """Whether a .csv or .tsv file begins with the names of its columns; else they are called 1, 2 and so on."""
    quotes: bool = True
    """Whether double quotes in a .csv or .tsv file enclose fields; else they are ordinary characters."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
    lowercase: bool = False
    """Turn capital letters into small ones, before training and before BLEU."""
    subwords: int = 8000
    """Pieces of words, learned by byte-pair encoding from the training part of both languages together."""
    max_length: int = 100
    """Longest text to learn from, in subwords; pairs with a longer one are left out of the training part."""
    bidirectional: bool = True
    """Read each source from both ends."""
    embedding_size: int = 256
    """Width of the subwords' vectors."""
    attention: Literal["additive", "multiplicative", "dot", "none"] = "multiplicative"
    """How the decoder looks back at the source; none leaves it the encoder's last state alone."""
    input_feeding: bool = False
    """Let the decoder read what the step before has seen; step by step, so that training takes longer."""
    tied: bool = True
    """Score a subword by its own vector: one table for reading both languages and for writing."""
    embedding_dropout: float = 0.2
    """Share of the vectors' features zeroed in training."""
    label_smoothing: float = 0.1
    """Share of the probability that the loss spreads evenly over all subwords."""
    teacher_forcing: float = 1.0
    """Probability that the decoder reads the true token before, not its own guess, while training; with a schedule
    that at the end of training."""
    teacher_forcing_schedule: Literal["constant", "linear", "exponential", "inverse-sigmoid"] = "constant"
    """Course of that probability: constant, or from 1 at the first step down to --teacher-forcing."""
    beam: int = 5
    """Width of the beam whose translations are compared with greedy ones on the test part; 1 for none."""
    length_penalty: float = 1.0
    """Exponent of the penalty by which a beam divides: the larger, the longer its translations."""
    bleu_tokens: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How sacrebleu cuts words for BLEU; zh or char for languages without blanks."""

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("max_length", "embedding_size", "beam"):
            require(self, name, lambda value: value >= 1, "at least 1")
        require(self, "subwords", lambda value: value >= 320, "at least 320: single bytes take 260 of them")
        self.require_shares("embedding_dropout", "label_smoothing")
        require(self, "teacher_forcing", lambda value: 0 <= value <= 1, "from 0 to 1")
        require(self, "length_penalty", lambda value: value >= 0, "0 or greater")
        if self.input_feeding and self.attention == "none":
            raise InputError("--input-feeding needs attention, got --attention none; leave one of the two out")
        if self.teacher_forcing_schedule == "exponential" and self.teacher_forcing == 0:
            raise InputError("--teacher-forcing must be greater than 0 with the schedule exponential, got 0.0")
        for side in SIDES:
            if getattr(self, f"{side}_target") is None:
                continue
            if getattr(self, side) is None:
                raise InputError(f"{flag(side)}-target needs {flag(side)}, the file of the other language")
            if self.source is not None or self.target is not None:
                given = "--source" if self.source is not None else "--target"
                raise InputError(
                    f"{given} names a column of a table, but {flag(side)}-target is a text file without any"
                )


@dataclass(frozen=True, kw_only=True)
class TranslateColumns:
    """What a file of pairs is read by, where it differs from the training file."""

    source: str | None = None
    """Column of what is translated; that of the training file by default."""
    target: str | None = None
    """Column of the translations, or a text file with a translation in each line."""
    header: bool | None = None
    """Whether a .csv or .tsv file begins with the names of its columns; as the training file by default."""
    quotes: bool | None = None
    """Whether double quotes in a .csv or .tsv file enclose fields; as the training file by default."""
    skip_bad_rows: bool = False
    """Leave broken rows out and count them, instead of stopping."""
