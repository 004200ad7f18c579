"""How memory grew while a network trained, as charts, from the lines that `Watch` kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any

from recur.flow.watch import Line
from recur.report import Block, LineChart, Note, Series

MOMENTS = 5  # so many points of training are laid over each other

TEXT = (
    "The norm of the gradient of the loss by its distance from each text's end, before the first step and later: where "
    "the line falls, nothing is learned of what lies further back. The horizon is how many steps back it stays within "
    "1% and 100 times. Each point is one batch; no line can be longer than its texts."
)


def growth_blocks(lines: Sequence[Line]) -> Iterator[Block]:
    """Yield what is to be seen: norms by lag at several points of training, horizon, spectral radius, gates, clipping.

    Args:
        lines: those of gradients.jsonl.
    """
    seen = [line for line in lines if line["layers"]]
    if not seen:
        yield Note("info", _blind(lines))
        return
    for name in dict.fromkeys(layer["name"] for line in seen for layer in line["layers"]):
        own = [(line["step"], layer) for line in seen for layer in line["layers"] if layer["name"] == name]
        yield LineChart(
            f"Gradient of the loss by lag, {name}",
            "steps back from each row's last step",
            "norm of dL/dh",
            [Series(_moment(step), layer["lags"], _numbers(layer["norms"])) for step, layer in _spread(own)],
            y_log=True,
        )
    yield horizon_chart({"": lines})
    yield _by_step(
        "Spectral radius of the recurrent matrices", "largest absolute eigenvalue", seen, {"spectral_radius": ""}
    )
    gates = _by_step("Saturated gates", "share of values", seen, {"low": "low", "high": "high"})
    used = [series for series in gates.series if any(y > 0 for y in series.y)]
    if used:
        yield replace(gates, series=used)
    elif gates.series:
        yield Note("info", "No gate was saturated: none had values below 0.1 (of a tanh, -0.9) or above 0.9.")
    clipped = [line for line in lines if line["clipping"]["steps"]]
    if any(line["clipping"]["clipped"] for line in clipped):
        yield _clipping(clipped)
    if len(seen) < len(lines):
        yield Note("info", _blind(lines))


def horizon_chart(runs: Mapping[str, Sequence[Line]]) -> LineChart:
    """Return how the horizon moved, of each layer of each run, by the runs' names; none for a single run."""
    series = []
    for run, lines in runs.items():
        names = dict.fromkeys(layer["name"] for line in lines for layer in line["layers"])
        for name in names:
            own = [(line["step"], layer) for line in lines for layer in line["layers"] if layer["name"] == name]
            label = ", ".join(part for part in (run, name if len(names) > 1 or not run else "") if part)
            series.append(Series(label, [step for step, _ in own], [float(layer["horizon"]) for _, layer in own]))
    return LineChart("Horizon while training", "step of training", "steps back", series)


def _by_step(title: str, y_label: str, lines: Sequence[Line], fields: Mapping[str, str]) -> LineChart:
    """Return a line for each layer and gate of the fields, which are shown by their values."""
    found: dict[str, list[tuple[int, float | None]]] = {}
    several = len({layer["name"] for line in lines for layer in line["layers"]}) > 1
    for line in lines:
        for layer in line["layers"]:
            for field, shown in fields.items():
                for gate, value in layer[field].items():
                    parts = (layer["name"] if several else "", gate, shown)
                    found.setdefault(", ".join(filter(None, parts)), []).append((line["step"], value))
    series = [
        Series(name, [step for step, _ in points], _numbers([value for _, value in points]))
        for name, points in found.items()
    ]
    return LineChart(title, "step of training", y_label, series)


def _clipping(lines: Sequence[Line]) -> LineChart:
    steps = [line["step"] for line in lines]
    tallies = [line["clipping"] for line in lines]
    return LineChart(
        "Clipping since the point before",
        "step of training",
        "share",
        [
            Series("steps that were clipped", steps, [t["clipped"] / t["steps"] for t in tallies]),
            Series("of the norm that was kept, mean", steps, _numbers([t["kept"] for t in tallies])),
            Series("of the norm that was kept, least", steps, _numbers([t["kept_least"] for t in tallies])),
        ],
    )


def _spread(points: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return the first, the last and evenly spread ones between."""
    last = len(points) - 1
    return [points[i] for i in sorted({round(last * k / (MOMENTS - 1)) for k in range(MOMENTS)})]


def _moment(step: int) -> str:
    return f"after {step:,} steps" if step else "at initialisation"


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [nan if value is None else value for value in values]


def _blind(lines: Sequence[Line]) -> str:
    unseen = [line for line in lines if "unseen" in line]
    if not unseen:
        return "Nothing was watched."
    step, why = unseen[0]["step"], unseen[0]["unseen"]
    return f"At {len(unseen)} of {len(lines)} points nothing could be seen, first at step {step}: {why}"
