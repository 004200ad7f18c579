"""`write_page`: one flow, or several beside each other, as a page that opens offline."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recur.errors import InputError
from recur.flow.flow import GradientFlow
from recur.flow.result import Array, Criteria, LayerFlow
from recur.flow.words import VERDICTS, gate_sentence, reach, sentence
from recur.report import (
    Bar,
    BarChart,
    Block,
    Fact,
    HeatMap,
    Histogram,
    Histograms,
    Item,
    Items,
    LineChart,
    Note,
    Plane,
    Planes,
    Report,
    Section,
    Series,
    Table,
    write_report,
)

LINES = 6  # a chart has at most so many lines; more layers get a chart each
MAPS = 8  # so many heat maps are drawn
EXPONENTS = 24  # so many bars of Lyapunov exponents


@dataclass(frozen=True)
class Entry:
    """A layer of one of the flows: how the page calls it, the flow's name, the flow and the layer."""

    label: str
    name: str
    flow: GradientFlow
    layer: LayerFlow


def write_page(path: str | Path, flows: Mapping[str, GradientFlow], title: str = "Gradient flow") -> None:
    """Write flows as one HTML page, which opens anywhere without a connection.

    Args:
        path: the file, replaced if it is there.
        flows: by the names that the page shows, such as {"RNN": ..., "LSTM": ...} or {"before": ..., "after": ...};
            what can be laid over each other is.
        title: the page's heading.

    Raises:
        InputError: there is no flow.
        RunError: the file cannot be written.
    """
    write_report(path, compose(flows, title))


def compose(flows: Mapping[str, GradientFlow], title: str = "Gradient flow") -> Report:
    """Return the page as a report: the verdict in words, then how far back, through what, and with which gates."""
    if not flows:
        raise InputError("`flows` must hold at least one flow, got none")
    entries = _entries(flows)
    return Report(
        title=title,
        lead=_lead(entries),
        facts=[Fact(e.label, _horizon(e.layer), VERDICTS[e.layer.verdict]) for e in entries[:LINES]],
        sections=[
            Section(
                "In words", "\n\n".join(f"{e.label}: {sentence(e.layer)}" for e in entries), list(_advice(entries))
            ),
            Section("How far back", HOW_FAR, list(_lags(entries))),
            Section("Step by step", "", [*_shares(entries), *_maps(entries)]),
            Section("Recurrent matrices", MATRICES, [*_spectra(entries), *_criteria(entries)]),
            Section("In the long run", LONG_RUN, list(_exponents(entries))),
            Section("Gates", "", list(_gates(entries)) or [Note("info", "The cell has no gates.")]),
            Section("Details", "", [_details(entries)]),
        ],
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        version=version("recur"),
    )


HOW_FAR = (
    "The norm of the Jacobian says how much the last state changes with an earlier one, whatever is learned; the norm "
    "of the gradient of the loss, what learning sees of it. A straight fall on this scale is exponential decay; the "
    "horizon is where the Jacobian leaves the range from 1% to 100 times."
)
MATRICES = (
    "Eigenvalues of each recurrent matrix beside the unit circle. What books read from such a matrix and what was "
    "measured along the data often differ: the activation's slope, the gates and the directions of the data count too."
)
LONG_RUN = (
    "Lyapunov exponents: how fast small changes of the state grow (above 0) or die out (below 0), in nats per step, in "
    "as many directions; whiskers are twice the standard error. At 0 memory lasts."
)


def _entries(flows: Mapping[str, GradientFlow]) -> list[Entry]:
    single = all(len(flow.layers) == 1 for flow in flows.values())

    def label(name: str, layer: LayerFlow) -> str:
        return layer.name if len(flows) == 1 else name if single else f"{name}, {layer.name}"

    return [Entry(label(name, layer), name, flow, layer) for name, flow in flows.items() for layer in flow.layers]


def _lead(entries: list[Entry]) -> str:
    if len(entries) == 1:
        layer = entries[0].layer
        text = f"In {layer.name} ({layer.cell}) {VERDICTS[layer.verdict]}: {reach(layer)}."
        return text if not layer.advice else f"{text} First remedy: {layer.advice[0].remedy}."
    groups = {verdict: [e.label for e in entries if e.layer.verdict == verdict] for verdict in VERDICTS}
    return " ".join(f"{VERDICTS[v].capitalize()} in {', '.join(names)}." for v, names in groups.items() if names)


def _horizon(layer: LayerFlow) -> str:
    return f"{'≥ ' if layer.horizon >= layer.steps else ''}{layer.horizon:,} step{'s' * (layer.horizon != 1)}"


def _advice(entries: list[Entry]) -> Iterator[Block]:
    for e in entries:
        if e.layer.advice:
            title = f"What may help{_of(e, always=len(entries) > 1)}, the best first"
            yield Items(title, [Item(a.remedy, a.evidence, a.argument, a.source) for a in e.layer.advice])
    if not any(e.layer.advice for e in entries):
        yield Note("info", "Nothing needs to be done about the gradients.")


def _lags(entries: list[Entry]) -> Iterator[Block]:
    for where, group in _charts(entries):
        yield LineChart(
            f"Jacobian by lag{where}",
            "steps back",
            "norm of dh_last/dh_t",
            [Series(e.label, range(e.layer.steps), e.layer.log_jacobian[::-1]) for e in group],
            in_logs=True,
            marks=[(group[0].layer.horizon, "horizon")] if len(group) == 1 else (),
        )
        yield LineChart(
            f"Gradient of the loss by lag{where}",
            "steps back from each row's last step",
            "norm of dL/dh",
            [Series(e.label, range(e.layer.steps), e.layer.lag_gradient) for e in group],
            y_log=True,
        )
    for e in entries[:MAPS]:
        if len(entries) <= 2 and e.layer.log_singular_values.shape[1] > 2:
            yield _products(e)


def _products(entry: Entry) -> LineChart:
    logs = entry.layer.log_singular_values
    k = logs.shape[1]
    picked = {"largest": 0, "median": k // 2, "smallest": k - 1}
    return LineChart(
        f"Singular values of the Jacobian of all states{_of(entry)}",
        "steps back",
        "singular value of ds_last/ds_t",
        [Series(f"{name} of {k}", range(len(logs)), logs[::-1, i]) for name, i in picked.items()],
        in_logs=True,
    )


def _shares(entries: list[Entry]) -> Iterator[Block]:
    for where, group in _charts(entries):
        yield LineChart(
            f"Share of each step in the gradient of the recurrent weights{where}",
            "step",
            "share",
            [Series(e.label, range(e.layer.steps), e.layer.weight_share) for e in group],
        )
        yield LineChart(
            f"Largest singular value of each step{where}",
            "step",
            "norm of ds_t/ds_(t-1)",
            [Series(e.label, range(e.layer.steps), _first(e.layer.step_singular_values)) for e in group],
            y_log=True,
        )


def _first(values: Array) -> Array:
    return values[:, 0] if values.shape[1] else np.full(len(values), math.nan)


def _maps(entries: list[Entry]) -> Iterator[Block]:
    shown = entries[:MAPS]
    positive = [e.layer.unit_gradient[e.layer.unit_gradient > 0] for e in shown]
    low, high = (float(f([f(p) for p in positive if len(p)] or [1.0])) for f in (min, max))
    for e in shown:
        yield HeatMap(
            f"Gradient by step and unit{_of(e, always=len(entries) > 1)}",
            "step",
            "unit",
            "norm of dL/dh_t",
            e.layer.unit_gradient.T,
            log=True,
            limits=(low, high) if len(shown) > 1 and low < high else None,
        )
    if len(entries) > MAPS:
        yield Note("info", f"Maps of the first {MAPS} of {len(entries)} layers are shown.")


def _spectra(entries: list[Entry]) -> Iterator[Block]:
    flows = {e.name: e.flow for e in entries}
    moments = [(name, then) for name, flow in flows.items() for then in (False, True) if flow.initial or not then]
    found = {(e.name, e.layer.name, c.name): (e, c) for e in entries for c in e.layer.criteria}

    def values(name: str, then: bool, where: str, gate: str) -> NDArray[np.complex128]:
        if (name, where, gate) not in found:
            return np.empty(0, np.complex128)
        if then:
            return np.asarray(flows[name].initial.get(where, {}).get(gate, ()), np.complex128)
        return found[name, where, gate][1].eigenvalues

    places = list(dict.fromkeys((where, gate) for _, where, gate in found))
    layers = {where for where, _ in places}
    panels = [
        Plane(
            f"{where}, {gate}" if len(layers) > 1 else gate,
            [values(name, then, where, gate) for name, then in moments],
        )
        for where, gate in places
    ]
    names = [
        (f"{name}, " if len(flows) > 1 else "") + ("at initialisation" if then else "now") for name, then in moments
    ]
    if panels:
        yield Planes("Eigenvalues", names, panels, hollow=[i for i, (_, then) in enumerate(moments) if then])


def _criteria(entries: list[Entry]) -> Iterator[Block]:
    told, right = dict.fromkeys(CRITERIA, 0), dict.fromkeys(CRITERIA, 0)
    rows = []
    for e in entries:
        for c in e.layer.criteria:
            cells = []
            for name, value in zip(CRITERIA, _values(c), strict=True):
                agrees = c.agrees.get(name)
                told[name] += agrees is not None
                right[name] += agrees is True
                says = "" if agrees is None else f": {c.says[name]}, {'right' if agrees else 'wrong'}"
                cells.append("–" if value is None else f"{value:.3g}{says}")
            rows.append([e.label, f"{e.layer.lyapunov[0]:+.3g}" if len(e.layer.lyapunov) else "–", c.name, *cells])
    if not rows:
        yield Note("info", "There is no recurrent matrix to judge.")
        return
    score = "; ".join(f"{name} {right[name]} of {told[name]}" for name in CRITERIA if told[name])
    yield Table(
        "Criteria: what each matrix foretells, and whether that was measured",
        ["", "exponent", "gate", *CRITERIA],
        rows,
        note=f"Right: {score}." if score else "No criterion foretells anything here.",
    )


CRITERIA = ("largest entry", "spectral radius", "largest singular value", "bound")


def _values(c: Criteria) -> tuple[float | None, ...]:
    return c.largest_entry, c.spectral_radius, c.largest_singular_value, c.bound


def _exponents(entries: list[Entry]) -> Iterator[Block]:
    each = max(1, EXPONENTS // len(entries))
    bars = []
    for e in entries:
        pairs = list(zip(e.layer.lyapunov.tolist(), e.layer.lyapunov_error.tolist(), strict=True))
        for number, (value, error) in enumerate(pairs[:each], 1):
            name = e.label if number == 1 or len(entries) > 1 else ""
            bars.append(Bar(f"{name} {number}".strip(), value, value - 2 * error, value + 2 * error))
    yield BarChart("Lyapunov exponents in nats per step, largest first", bars, as_percent=False)
    zero = sum(bool(len(e.layer.lyapunov)) and math.isinf(e.layer.lyapunov[0]) for e in entries)
    if zero:
        yield Note("info", "An exponent of -∞ stands for a step that takes all of the signal away.")


def _gates(entries: list[Entry]) -> Iterator[Block]:
    panels = [
        Histogram(
            f"{e.label}, {name}" if len(entries) > 1 else name,
            use.edges.tolist(),
            use.histogram.tolist(),
            gate_sentence("", use).removeprefix("gate : "),
            colour,
        )
        for colour, e in enumerate(entries)
        for name, use in e.layer.gates.items()
    ]
    if panels:
        yield Histograms("Values of the gates, over all steps, rows and units", panels)
    tables = [(e.label, e.layer.truth_table) for e in entries if e.layer.truth_table is not None]
    if tables:
        ways = list(tables[0][1])
        yield Table(
            "What becomes of a cell's memory at a step",
            ["", *ways],
            [[label, *(f"{table[way]:.1%}" for way in ways)] for label, table in tables],
            note="keep: i=0, f=1; add: i=1, f=1; clear: i=0, f=0; overwrite: i=1, f=0, both gates rounded.",
        )
    times = [(e.label, np.sort(e.layer.time_constants)[::-1]) for e in entries if e.layer.time_constants is not None]
    if times:
        yield LineChart(
            "How long units remember by their gate's mean, 1 / (1 - f)",
            "units, the slowest first",
            "time constant in steps",
            [Series(label, range(1, len(values) + 1), values) for label, values in times],
            y_log=True,
        )


def _details(entries: list[Entry]) -> Table:
    rows = [
        [
            *(e.label, e.layer.cell, e.layer.steps, e.layer.unit_gradient.shape[1], f"{e.flow.loss:.4g}"),
            *(e.flow.precision, ", ".join(map(str, e.layer.rows))),
        ]
        for e in entries
    ]
    names = ["", "cell", "steps", "units", "loss", "precision", "rows whose Jacobians were taken"]
    return Table("What was measured", names, rows)


def _charts(entries: list[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """Yield the lines of each chart: all where they fit into one, else those of each place in the networks."""
    if len(entries) <= LINES:
        yield "", entries
        return
    groups: dict[str, list[Entry]] = {}
    for e in entries:
        groups.setdefault(e.layer.name, []).append(e)
    for where, group in groups.items():
        yield f", {where}", group


def _of(entry: Entry, always: bool = True) -> str:
    return f", {entry.label}" if always else ""
