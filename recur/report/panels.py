"""Small multiples as drawn: complex planes and histograms, in percent of their plots."""

import math
from dataclasses import dataclass

import numpy as np

from recur.report.blocks import Histograms, Planes
from recur.report.charts import Tick, linear_ticks, tick_text
from recur.report.tables import percent


@dataclass(frozen=True)
class PointSet:
    """A set of points as drawn: a path of dots, and its largest absolute value as text."""

    name: str
    path: str
    largest: str
    colour: int
    shape: int


@dataclass(frozen=True)
class PlanePicture:
    """All that the template needs to draw complex planes; `reach` is where all axes end, either way."""

    reach: float
    ticks: list[Tick]
    radius: float
    panels: list[list[PointSet]]
    legend: list[PointSet]


@dataclass(frozen=True)
class HistogramBar:
    """A bar as drawn, in percent, and what it stands for."""

    x: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class HistogramPicture:
    """All that the template needs to draw a histogram; `top` is the share of its highest bar."""

    bars: list[HistogramBar]
    ticks: list[Tick]
    top: str


def plane_picture(block: Planes) -> PlanePicture:
    """Lay out complex planes on one scale that holds all points and the unit circle."""
    panels = [[np.asarray(points, dtype=np.complex128).ravel() for points in panel.sets] for panel in block.panels]
    panels = [[points[np.isfinite(points) & (np.abs(points) < 1e300)] for points in sets] for sets in panels]
    extents = [max(np.abs(p.real).max(), np.abs(p.imag).max()) for sets in panels for p in sets if len(p)]
    reach = max([1.0, *map(float, extents)]) * 1.08
    values, step = linear_ticks(-reach, reach, 5)

    def at(value: float) -> float:
        return round(50 + 50 * value / reach, 2)

    def shape(index: int) -> int:
        return int(index in block.hollow) if block.hollow else index % 3

    def drawn(index: int, points: np.ndarray[tuple[int], np.dtype[np.complex128]]) -> PointSet:
        path = "".join(f"M{at(z.real):g} {at(-z.imag):g}h0" for z in points)
        largest = f"{np.abs(points).max():.3g}" if len(points) else ""
        return PointSet(block.names[index], path, largest, index % 6, shape(index))

    return PlanePicture(
        reach=reach,
        ticks=[Tick(at(v), tick_text(v, step)) for v in values if abs(v) <= reach],
        radius=round(50 / reach, 2),
        panels=[[drawn(i, points) for i, points in enumerate(sets)] for sets in panels],
        legend=[PointSet(name, "", "", i % 6, shape(i)) for i, name in enumerate(block.names)],
    )


def histogram_pictures(block: Histograms) -> list[HistogramPicture]:
    """Lay out histograms, each as high as its largest share: what compares is their form."""
    pictures = []
    for panel in block.panels:
        top = max((s for s in panel.shares if math.isfinite(s)), default=0.0) or 1.0
        edges = [float(e) for e in panel.edges]
        low, span = edges[0], (edges[-1] - edges[0]) or 1.0
        values, step = linear_ticks(edges[0], edges[-1], 2)
        bars = [
            HistogramBar(
                round(100 * (left - low) / span, 2),
                round(100 * (right - left) / span, 2),
                round(100 * share / top, 2) if math.isfinite(share) else 0.0,
                f"{left:.3g} to {right:.3g}: {percent(share)}",
            )
            for left, right, share in zip(edges, edges[1:], panel.shares, strict=False)
        ]
        ticks = [Tick(round(100 * (v - low) / span, 2), tick_text(v, step)) for v in values if low <= v <= edges[-1]]
        pictures.append(HistogramPicture(bars, ticks, percent(top)))
    return pictures
