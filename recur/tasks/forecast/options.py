"""The options of `recur train forecast`: every field is a flag, a key of the TOML file, and a line of config.json."""

from dataclasses import dataclass
from typing import Literal

from recur.errors import InputError, nearest
from recur.tasks.options import RunOptions, require

# those of recur.data.times, which the command line has no use for
CALENDAR = ("auto", "hour", "weekday", "monthday", "yearday", "month")


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(RunOptions):
    """From a table of numbers by time (.csv, .tsv, .jsonl, each also .gz, or .parquet) to a trained forecaster."""

    train: str
    """Table to learn from; its last part is kept for validation and test."""
    validation: str | None = None
    """Table that chooses the best epoch and goes on where --train ends; none cuts the end of --train off."""
    validation_share: float = 0.1
    """Share of the times that chooses the best epoch where no --validation is given; it lies before the test part."""
    test: str | None = None
    """Table to score on, once, at the end, which goes on where the others end; none cuts the end of --train off."""
    test_share: float = 0.2
    """Share of the times, the last ones, that is the test part where no --test is given."""
    split: tuple[int, ...] = ()
    """Instead of shares so many times of --train for training, validation and test, such as 8640,2880,2880; later ones
    are left out."""
    time: str | None = None
    """Column of the times: dates such as 2016-07-01 13:00 or 2016-07, or whole numbers; none for the first one."""
    values: tuple[str, ...] = ()
    """Columns of numbers that are read; none for all that hold numbers."""
    target: tuple[str, ...] = ()
    """Those of them that are foretold; none for all."""
    series: str | None = None
    """Column that names the series where the rows of many stand in one table; none where all rows are of one."""
    known: tuple[str, ...] = ()
    """Columns of numbers that are known in advance, such as prices."""
    calendar: tuple[str, ...] = ()
    """What of a date is known in advance: hour, weekday, monthday, yearday, month; auto chooses by the step."""
    static: tuple[str, ...] = ()
    """Columns of numbers or names that are the same in all rows of a series."""
    uneven: Literal["error", "fill", "rows"] = "error"
    """Where times are not all one step apart: stop; fill what lies between with missing values; or take each row as a
    step, as of the days of an exchange."""
    horizon: int = 24
    """Steps that are foretold."""
    window: int | None = None
    """Steps that a forecast is made from; none for four times the horizon, within 24 and a quarter of the training
    part, in whole seasons."""
    stride: int = 1
    """Take each so-many-th window of the training part in an epoch."""
    test_stride: int = 1
    """Forecast from each so-many-th time of validation and test part."""
    form: Literal["segments", "direct", "recursive"] = "segments"
    """segments: the network's steps are segments of the window, and it reads all segments of the horizon off at once;
    direct: all steps of the horizon at once, from the state after the window; recursive: one step, fed back."""
    segment: int | None = None
    """Steps of a segment, a divisor of --window; none for the largest one up to 48 and the horizon."""
    together: bool = False
    """Read and foretell all columns in one network; without it each column is foretold from its own past."""
    channel_vectors: bool = True
    """Give each column a vector of its own, by which a network that sees one at a time knows them apart."""
    normalise: Literal["none", "last", "window"] = "last"
    """What each window is freed of before, and given back after: nothing; its last value; its mean and deviation."""
    loss: Literal["mae", "mse", "huber"] = "mae"
    """What is lowered where single values are foretold."""
    quantiles: tuple[float, ...] = ()
    """Foretell quantiles, such as 0.1,0.5,0.9, 0.5 among them; with --distribution those that are shown."""
    distribution: Literal["normal", "student-t"] | None = None
    """Foretell distributions."""
    season: int | None = None
    """Steps of a season, for the seasonal baseline; none for a day, a week or a year, or the strongest period found."""
    pictures: int = 9
    """Series drawn in the report; of more than these, those with the smallest, the middle and the largest errors."""
    cell: tuple[str, ...] = ("gru",)
    """Recurrent cells; several are trained one after the other and compared."""
    learning_rate: float = 0.005
    """Step size at the start of the schedule."""
    dropout: float = 0.1
    """Share of the outputs zeroed in training after every layer, before the forecast too."""
    schedule: Literal["constant", "cosine", "linear", "plateau"] = "cosine"
    """Course of the learning rate: constant; cosine or linear down to 0 at the last step; plateau halves it after
    each epoch that did not improve the validation part."""
    clip_global_norm: float | None = 1.0
    """Scale all gradients together to a 2-norm of at most x."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("split", "values", "target", "known", "calendar", "static", "quantiles"):
            value = getattr(self, name)
            given = (value,) if isinstance(value, str | int | float) else tuple(value)
            object.__setattr__(self, name, given)

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles that are foretold or shown; none for single values."""
        return self.quantiles or ((0.1, 0.5, 0.9) if self.distribution else ())

    def check(self) -> None:
        """Raise InputError for a value out of its range, naming the flag."""
        super().check()
        for name in ("horizon", "window", "stride", "test_stride", "segment", "season", "pictures"):
            require(self, name, lambda value: value >= 1, "at least 1")
        levels = self.quantiles
        rising = all(low < high for low, high in zip((0.0, *levels), (*levels, 1.0), strict=True))
        if levels and (not rising or 0.5 not in levels or len(levels) < 2):
            found = ", ".join(map(str, levels))
            raise InputError(f"--quantiles must be several that rise between 0 and 1, 0.5 among them, got {found}")
        if levels and self.form == "recursive" and not self.distribution:
            raise InputError("--form recursive draws paths: --quantiles needs --distribution with it")
        if self.split and (len(self.split) != 3 or min(self.split) < 1):
            found = ",".join(map(str, self.split))
            raise InputError(f"--split must be three numbers of times, such as 8640,2880,2880, got {found}")
        if self.split and (self.validation or self.test):
            raise InputError("--split cuts --train and must not be given with --validation or --test; leave one out")
        cut = (0 if self.validation else self.validation_share) + (0 if self.test else self.test_share)
        if not self.split and cut >= 1:
            raise InputError(f"--validation-share and --test-share must leave something to learn from, got {cut:g}")
        if self.segment is not None and self.form != "segments":
            raise InputError(f"--segment goes with --form segments, got --form {self.form}")
        if self.segment and self.window and self.window % self.segment:
            raise InputError(f"--segment must divide --window {self.window}, got {self.segment}")
        for name in self.calendar:
            if name not in CALENDAR:
                hint = nearest(name, list(CALENDAR))
                raise InputError(f"--calendar must be of {', '.join(CALENDAR)}, got {name!r}{hint}")
        if len(self.calendar) > 1 and "auto" in self.calendar:
            raise InputError("--calendar auto chooses by itself; leave the others out")
