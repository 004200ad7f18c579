"""Times of a table as whole numbers: what they are counted in, how far apart they are, what a calendar says of them."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError

Ticks = NDArray[np.int64]
Unit = Literal["number", "second", "month"]

HOUR, DAY = 3600, 86400
_NUMBER = re.compile(r"[+-]?\d{1,18}")
# thinnest steps at which a part of the calendar says something, in seconds
_FINER = {"hour": DAY, "weekday": 7 * DAY, "monthday": 28 * DAY, "yearday": 180 * DAY, "month": 360 * DAY}


@dataclass(frozen=True)
class Clock:
    """What times are counted in.

    Args:
        unit: "number" for whole numbers, "second" for dates and times, "month" for the first days of months.
        step: the distance of most neighbours, in units.
        weekdays: days without Saturdays and Sundays.
    """

    unit: Unit
    step: int
    weekdays: bool = False

    def after(self, last: int, count: int) -> Ticks:
        """Return the `count` times that follow `last`."""
        if not self.weekdays:
            return last + self.step * np.arange(1, count + 1, dtype=np.int64)
        days = last + DAY * np.arange(1, 2 * count + 3, dtype=np.int64)
        return days[_weekday(days) < 5][:count]

    def text(self, tick: int) -> str:
        """Return a time as it is written: a number, a month, a day, or a day with its time."""
        if self.unit == "number":
            return str(tick)
        if self.unit == "month":
            return str(np.datetime64(int(tick), "M"))
        day, time = str(np.datetime64(int(tick), "s")).split("T")
        return day if self.step % DAY == 0 and time == "00:00:00" else f"{day} {time}"

    @property
    def step_text(self) -> str:
        """The step as a person says it."""
        if self.unit == "number":
            return str(self.step)
        if self.unit == "month":
            return _count(self.step, "month")
        for size, name in ((7 * DAY, "week"), (DAY, "day"), (HOUR, "hour"), (60, "minute")):
            if self.step % size == 0:
                return _count(self.step // size, name)
        return _count(self.step, "second")

    @property
    def season(self) -> int | None:
        """How many steps a day, a week or a year has, whichever is next above a step; None of numbers."""
        if self.unit == "number":
            return None
        if self.unit == "month":
            return 12 // self.step if 12 % self.step == 0 and self.step < 12 else 1
        if self.weekdays:
            return 5
        if self.step == 7 * DAY:
            return 52
        longer = next((size for size in (DAY, 7 * DAY) if self.step < size), self.step)
        return longer // self.step if longer % self.step == 0 else None

    @property
    def calendar(self) -> tuple[str, ...]:
        """The parts of a calendar that tell steps apart."""
        if self.unit == "number":
            return ()
        if self.unit == "month":
            return ("month",) if self.step < 12 else ()
        return tuple(name for name in ("hour", "weekday", "yearday") if self.step < _FINER[name])


def parse_times(texts: Sequence[str]) -> tuple[Ticks, Unit] | int:
    """Read times: all whole numbers, or all dates in ISO order with or without a time of day.

    Args:
        texts: such as "7", "1949-01", "2016/07/01", "2016-07-01 13:00", "2016-07-01T13:00:00Z"; those with an offset,
            such as +02:00, are brought to UTC.

    Returns:
        The times in seconds, months or numbers, and which of them; or the place of the first that cannot be read.

    >>> parse_times(["1949-01", "1949-02"])
    (array([-252, -251]), 'month')
    """
    if texts and _NUMBER.fullmatch(texts[0].strip()):
        bad = next((i for i, text in enumerate(texts) if not _NUMBER.fullmatch(text.strip())), None)
        return bad if bad is not None else (np.array([int(text) for text in texts], dtype=np.int64), "number")
    plain = [text.strip().removesuffix("Z").replace("/", "-") for text in texts]
    try:
        found = _as_dates(plain)
    except ValueError:
        return next(i for i, text in enumerate(plain) if not _is_date(text))
    if np.isnat(found).any():
        return int(np.isnat(found).argmax())
    months = found.astype("datetime64[M]")
    if (months.astype("datetime64[s]") == found).all():
        return months.astype(np.int64), "month"
    return found.astype(np.int64), "second"


def calendar_features(ticks: Ticks, clock: Clock, names: Sequence[str]) -> NDArray[np.float32]:
    """Return where times stand in day, week, month or year, as points of a circle, float32 [N, 2 * names].

    Raises:
        InputError: the times are numbers.

    >>> calendar_features(np.array([0, 6 * 3600]), Clock("second", 3600), ["hour"]).round(2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if names and clock.unit == "number":
        raise InputError("--calendar needs dates as times, got numbers")
    seconds = ticks.astype("datetime64[M]").astype("datetime64[s]") if clock.unit == "month" else _dates(ticks)
    days, months = seconds.astype("datetime64[D]"), seconds.astype("datetime64[M]")
    years = seconds.astype("datetime64[Y]")
    whole = seconds.astype(np.int64)
    turns: dict[str, Any] = {
        "hour": lambda: whole % DAY / DAY,
        "weekday": lambda: _weekday(whole) / 7,
        "monthday": lambda: (days - months.astype("datetime64[D]")).astype(np.int64) / 31,
        "yearday": lambda: (days - years.astype("datetime64[D]")).astype(np.int64) / 366,
        "month": lambda: months.astype(np.int64) % 12 / 12,
    }
    columns = [wave(2 * np.pi * turns[name]()) for name in names for wave in (np.sin, np.cos)]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(ticks), 0), np.float32)


def _dates(ticks: Ticks) -> Any:
    return ticks.astype("datetime64[s]")


def _weekday(seconds: Ticks) -> Ticks:
    """Return 0 for Monday to 6 for Sunday."""
    return (seconds // DAY + 3) % 7


def weekdays_only(ticks: Ticks) -> bool:
    """Whether days have no Saturday and no Sunday among them."""
    return bool((ticks % DAY == 0).all() and (_weekday(ticks) < 5).all())


def _count(number: int, name: str) -> str:
    return f"1 {name}" if number == 1 else f"{number} {name}s"


def _as_dates(texts: str | list[str]) -> Any:
    with warnings.catch_warnings():
        # numpy turns times with an offset into UTC, as it should, and warns that it does not keep the zone
        warnings.simplefilter("ignore", UserWarning)
        return np.array(texts, dtype="datetime64[s]")


def _is_date(text: str) -> bool:
    try:
        return not np.isnat(_as_dates(text))
    except ValueError:
        return False
