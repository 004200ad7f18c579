"""Where the marks of a chart go: scales, ticks and paths, in percent of the plot, so that text keeps its size."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from recur.report.blocks import Band, BarChart, LineChart, Series
from recur.report.tables import number_column, percent

PATH_POINTS = 400  # a line is thinned to about so many points: a screen shows no more
MARKERS = 12  # at most so many markers on a line
TABLE_ROWS = 200  # at most so many rows of numbers below a chart


@dataclass(frozen=True)
class Tick:
    """A tick: where it is in percent of the axis, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """A map from values to percent of an axis."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where `value` lies between the ends, 0..100."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(100 * (value - low) / (high - low), 2)


@dataclass(frozen=True)
class Line:
    """A series as drawn: its path, its markers and its last value."""

    name: str
    path: str
    markers: list[tuple[float, float]]
    last: str
    colour: int
    shape: int


@dataclass(frozen=True)
class Shade:
    """A band as drawn: closed paths."""

    name: str
    path: str
    colour: int


@dataclass(frozen=True)
class LinePicture:
    """All that the template needs to draw a line chart and its table of numbers."""

    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Tick]
    numbers: list[tuple[float, list[str]]]
    summary: str
    shades: list[Shade] = field(default_factory=list)


@dataclass(frozen=True)
class BarRow:
    """A bar as drawn, from `start` to `start + length` percent of the axis."""

    name: str
    note: str
    own: bool
    text: str
    interval: str
    start: float
    length: float
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class BarPicture:
    """All that the template needs to draw a bar chart."""

    rows: list[BarRow]
    ticks: list[Tick]
    zero: float
    reference: Tick | None


def usable(value: float, log: bool = False) -> bool:
    """Whether a value can be drawn: finite, not at the end of the float range, and above zero on a log axis."""
    return math.isfinite(value) and abs(value) < 1e300 and (value > 1e-290 or not log)


def widened(low: float, high: float) -> tuple[float, float]:
    """Return a range around low..high where it is too narrow for floats to tell its parts."""
    size = max(abs(low), abs(high))
    if high - low > max(size * 1e-12, 1e-290):
        return low, high
    pad = size * 0.1 if size > 1e-280 else 1.0
    return low - pad, high + pad


def nice_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that cuts `span` into at most about `count` parts."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next((m * power for m in (1, 2, 5) if m * power * count >= span * 0.999), 10 * power)


def tick_text(value: float, step: float) -> str:
    """Return `value` with the decimals that `step` needs."""
    if step < 1e-4 or abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value + 0.0:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def linear_ticks(low: float, high: float, count: int, whole: bool = False) -> tuple[list[float], float]:
    """Return the round numbers that enclose low..high, and their step; `whole` allows whole numbers only."""
    low, high = widened(low, high)
    step = nice_step(high - low, count)
    if whole:
        step = max(step, 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)], step


def decade_ticks(first: int, last: int) -> list[int]:
    """Return whole exponents of ten within first..last at round distances, at most eight."""
    step = next(n * 10**k for k in range(310) for n in (1, 2, 3, 5) if n * 10**k * 7 >= last - first)
    return list(range(-(-first // step) * step, last + 1, step))


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten that enclose low..high, at most eight; within two decades 2 and 5 times them as well."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2:
        every = math.ceil((last - first) / 7)
        return [10.0**e for e in range(first, last + every, every)]
    steps = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    start = max(i for i, step in enumerate(steps) if step <= low * (1 + 1e-9))
    stop = min(i for i, step in enumerate(steps) if step >= high * (1 - 1e-9))
    return steps[start : max(stop, start + 1) + 1]


def log_axis(low: float, high: float) -> tuple[list[float], list[str], tuple[float, float]]:
    """Return ticks for low..high, their texts, and the axis' ends, all but the texts as exponents of ten."""
    if math.ceil(high) - math.floor(low) <= 2 and max(abs(low), abs(high)) < 280:
        values = log_ticks(10**low, 10**high)
        logs = [math.log10(value) for value in values]
        return logs, [_short(f"{value:.6g}") for value in values], (logs[0], logs[-1])
    low, high = widened(low, high)
    first, last = math.floor(low), math.ceil(high)
    ticks = decade_ticks(first, last)
    return [float(e) for e in ticks], [f"{10**e:g}" if -4 < e < 5 else f"1e{e}" for e in ticks], (first, last)


def _three_digits(values: Sequence[float]) -> list[str]:
    return [_short(f"{value:.3g}") if math.isfinite(value) else number_column([value])[0] for value in values]


def log_texts(logs: Sequence[float]) -> list[str]:
    """Return the numbers whose natural logarithms are given as texts of three digits, however small or large."""
    return [_log_text(value) for value in logs]


def _log_text(value: float) -> str:
    if not math.isfinite(value):
        return "0" if value == -math.inf else number_column([value])[0]
    tens = value / math.log(10)
    if abs(tens) < 280:
        return _short(f"{math.exp(value):.3g}")
    exponent = math.floor(tens)
    digits = f"{10 ** (tens - exponent):.2f}"
    return f"1.00e{exponent + 1}" if digits == "10.00" else f"{digits}e{exponent}"


def _short(text: str) -> str:
    """Write 1e-05 as 1e-5 and 1e+06 as 1e6."""
    digits, e, exponent = text.partition("e")
    return f"{digits}e{int(exponent)}" if e else text


def line_picture(chart: LineChart) -> LinePicture:
    """Lay out a line chart; series without one usable value keep their place in the legend."""
    given = [_points(series, chart.y_log and not chart.in_logs) for series in chart.series]
    points = [[(x, y if y is None else _placed(y, chart)) for x, y in line] for line in given]
    edges = [_edges(band, chart) for band in chart.bands]
    seen = [y for line in points for _, y in line if y is not None]
    seen += [y for band in edges for stretch in band for _, *ends in stretch for y in ends]
    marks = [(float(x), label) for x, label in chart.marks if usable(x)]
    names = [series.name for series in chart.series]
    texts = log_texts if chart.in_logs else _three_digits if chart.y_log else number_column
    numbers, last = _numbers(given, texts)
    if not seen:
        lines = [Line(n, "", [], t, i % 6, _shape(i)) for i, (n, t) in enumerate(zip(names, last, strict=True))]
        return LinePicture(lines, [], [], [], [], "no values")

    xs = [x for line in points for x, _ in line] + [x for x, _ in marks]
    xs += [x for band in edges for stretch in band for x, *_ in stretch]
    whole = all(x == int(x) for x in xs)
    x_values, x_step = linear_ticks(min(xs), max(xs), 10 if whole and max(xs) - min(xs) <= 10 else 6, whole)
    x_scale = Scale(*widened(min(xs), max(xs)))
    if chart.y_log or chart.in_logs:
        y_values, y_ticks, ends = log_axis(min(seen), max(seen))
    else:
        y_values, y_step = linear_ticks(min(seen), max(seen), 5)
        y_ticks, ends = [tick_text(value, y_step) for value in y_values], (y_values[0], y_values[-1])
    y_scale = Scale(*ends)

    lines = []
    for i, (name, line) in enumerate(zip(names, points, strict=True)):
        placed = [(x_scale(x), None if y is None else round(100 - y_scale(y), 2)) for x, y in _thinned(line)]
        lines.append(Line(name, _path(placed), _markers(placed), last[i], i % 6, _shape(i)))
    shades = [
        Shade(band.name, "".join(_closed(stretch, x_scale, y_scale) for stretch in parts), band.colour % 6)
        for band, parts in zip(chart.bands, edges, strict=True)
    ]
    inside = [x for x in x_values if x_scale.low <= x <= x_scale.high] if len(set(xs)) > 1 else [xs[0]]
    return LinePicture(
        lines=lines,
        x_ticks=[Tick(x_scale(x), tick_text(x, 1.0 if whole else x_step)) for x in inside],
        y_ticks=[Tick(round(100 - y_scale(y), 2), t) for y, t in zip(y_values, y_ticks, strict=True)],
        marks=[Tick(x_scale(x), label) for x, label in marks],
        numbers=[(x_scale(x), cells) for x, cells in numbers],
        summary="; ".join(f"{name} ends at {text}" for name, text in zip(names, last, strict=True)),
        shades=shades,
    )


def bar_picture(chart: BarChart) -> BarPicture:
    """Lay out a bar chart on an axis that holds zero, every value, every interval and the reference."""
    drawn = [v for row in chart.rows for v in (row.value, row.low, row.high) if v is not None and usable(v)]
    reference = chart.reference if chart.reference is not None and usable(chart.reference) else None
    ends = [0.0, *drawn] if reference is None else [0.0, *drawn, reference]
    if chart.as_percent and 0.5 < max(ends) <= 1:
        ends.append(1.0)
    values, step = linear_ticks(min(ends), max(ends), 4) if max(ends) > min(ends) else ([0.0, 1.0], 1.0)
    if chart.as_percent and values == [0.0, 0.5, 1.0]:
        values = [0.0, 0.25, 0.5, 0.75, 1.0]
    scale = Scale(values[0], values[-1])
    if chart.as_percent:
        texts = [percent(row.value) for row in chart.rows]
        ticks = [Tick(scale(v), f"{100 * v:.3g}%") for v in values]
    else:
        texts = number_column([row.value for row in chart.rows])
        ticks = [Tick(scale(v), tick_text(v, step)) for v in values]
    rows = []
    for row, text in zip(chart.rows, texts, strict=True):
        value = row.value if usable(row.value) else 0.0
        low, high = sorted((scale(0.0), scale(value)))
        whisker, interval = None, ""
        if row.low is not None and row.high is not None and usable(row.low) and usable(row.high):
            whisker = (scale(row.low), scale(row.high))
            bounds = [percent(v).rstrip("%") for v in (row.low, row.high)] if chart.as_percent else None
            interval = (" to " if row.low < 0 else "–").join(bounds or number_column([row.low, row.high]))
        rows.append(BarRow(row.name, row.note, row.own, text, interval, low, round(high - low, 2), whisker))
    mark = None
    if reference is not None:
        text = percent(reference) if chart.as_percent else number_column([reference])[0]
        mark = Tick(scale(reference), f"{chart.reference_name} {text}")
    return BarPicture(rows, ticks, scale(0.0), mark)


def _placed(y: float, chart: LineChart) -> float:
    """Return where a value stands on its axis before it is scaled: on a logarithmic one, its exponent of ten."""
    return y / math.log(10) if chart.in_logs else math.log10(y) if chart.y_log else y


def _points(series: Series, log: bool) -> list[tuple[float, float | None]]:
    """Return a series' points, None for what cannot be drawn; points without a position are left out."""
    pairs = zip(map(float, series.x), map(float, series.y), strict=True)
    return [(x, y if usable(y, log) else None) for x, y in pairs if usable(x)]


def _edges(band: Band, chart: LineChart) -> list[list[tuple[float, float, float]]]:
    """Return the stretches of a band that can be drawn, as (x, low, high)."""
    log = chart.y_log and not chart.in_logs
    stretches: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in zip(map(float, band.x), map(float, band.low), map(float, band.high), strict=True):
        if usable(x) and usable(low, log) and usable(high, log):
            stretches[-1].append((x, _placed(low, chart), _placed(high, chart)))
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _closed(stretch: list[tuple[float, float, float]], x_scale: Scale, y_scale: Scale) -> str:
    """Return a path along the upper end of a stretch and back along the lower one."""
    every = math.ceil(len(stretch) / PATH_POINTS)
    kept = stretch[::every] + ([stretch[-1]] if (len(stretch) - 1) % every else [])
    there = [(x_scale(x), round(100 - y_scale(high), 2)) for x, _, high in kept]
    back = [(x_scale(x), round(100 - y_scale(low), 2)) for x, low, _ in reversed(kept)]
    return _path([*there, *back]) + "Z"


def _thinned(line: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """Keep the lowest and the highest point of each stretch, so that a thinned line still shows its peaks."""
    if len(line) <= PATH_POINTS:
        return line
    size = math.ceil(len(line) / (PATH_POINTS // 2))
    kept: list[tuple[float, float | None]] = []
    for start in range(0, len(line), size):
        stretch = line[start : start + size]
        ys = [(y, i) for i, (_, y) in enumerate(stretch) if y is not None]
        kept.extend(stretch[i] for i in (sorted({min(ys)[1], max(ys)[1]}) if ys else [0]))
    return kept


def _path(points: Iterable[tuple[float, float | None]]) -> str:
    """Return an SVG path that lifts the pen at gaps."""
    parts, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
        else:
            parts.append(f"{pen}{x:g} {y:g}")
            pen = "L"
    return "".join(parts)


def _markers(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Return the points to mark: evenly spread ones, the last, and those that no line reaches."""
    every = math.ceil(len(points) / MARKERS)
    ys = [None, *(y for _, y in points), None]
    final = max((i for i, (_, y) in enumerate(points) if y is not None), default=-1)
    chosen = []
    for i, (x, y) in enumerate(points):
        alone = ys[i] is None and ys[i + 2] is None
        if y is not None and (i % every == 0 or i == final or alone):
            chosen.append((x, y))
    return chosen


def _numbers(
    lines: Sequence[Sequence[tuple[float, float | None]]], texts: Callable[[Sequence[float]], list[str]]
) -> tuple[list[tuple[float, list[str]]], list[str]]:
    """Return the rows (x, [text of x, text of each series]), and the text of each series' own last value."""
    xs = sorted({x for line in lines for x, _ in line})
    every = max(1, math.ceil(len(xs) / TABLE_ROWS))
    xs = xs[::every] + ([xs[-1]] if (len(xs) - 1) % every else [])
    columns, last = [], []
    for line in lines:
        at = dict(line)
        ys = [at.get(x) for x in xs] + [line[-1][1] if line else None]
        *column, end = texts([math.nan if y is None else y for y in ys])
        columns.append(column)
        last.append(end)
    cells = zip(number_column(xs), *columns, strict=True)
    return [(x, list(row)) for x, row in zip(xs, cells, strict=True)], last


def _shape(index: int) -> int:
    """Return the marker of a series: past six series, colours come again with another marker."""
    return (index + index // 6) % 6
