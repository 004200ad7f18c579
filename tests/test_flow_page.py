"""The page and the words of a gradient flow: every figure is there, for one flow and for several."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from flows import layer, made

from recur.errors import InputError
from recur.flow.flow import GradientFlow
from recur.flow.page import LINES, compose, write_page
from recur.flow.words import reach, summary, trend
from recur.report import BarChart, HeatMap, Histograms, Items, LineChart, Note, Planes, Table, render


def blocks(report, kind, title=""):
    return [b for s in report.sections for b in s.blocks if isinstance(b, kind) and title in getattr(b, "title", "")]


def changed(**fields):
    return dataclasses.replace(layer(), **fields)


def test_one_flow_shows_every_picture():
    report = compose({"LSTM": made("lstm")})
    jacobian = blocks(report, LineChart, "Jacobian by lag")[0]
    assert jacobian.in_logs
    assert jacobian.series[0].y[:3] == pytest.approx([0, -0.3, -0.6])
    assert jacobian.marks == [(15, "horizon")]
    lag = blocks(report, LineChart, "Gradient of the loss by lag")[0]
    assert lag.series[0].y[0] == 1
    assert blocks(report, HeatMap)[0].values.shape == (8, 40)
    planes = blocks(report, Planes)[0]
    assert planes.names == ["now", "at initialisation"]
    assert [panel.name for panel in planes.panels] == ["i", "f", "g", "o"]
    assert [len(points) for points in planes.panels[0].sets] == [8, 8]
    assert [panel.name for panel in blocks(report, Histograms)[0].panels] == ["i", "f", "g", "o"]
    assert blocks(report, Table, "memory")[0].rows == [["l0", "50.0%", "25.0%", "12.5%", "12.5%"]]
    assert blocks(report, BarChart)[0].rows[0].low == pytest.approx(-0.32)
    assert blocks(report, Items, "help")[0].items[0].name == "orthogonal initialisation"
    assert report.lead.startswith("In l0 (lstm) gradients vanish: 16 steps back less than 1% of the signal is left.")


def test_several_flows_lie_over_each_other_in_the_same_colours():
    flows = {"RNN": made("rnn"), "LSTM": made("lstm", rate=-0.01), "GRU": made("gru", rate=0.2)}
    report = compose(flows)
    for chart in blocks(report, LineChart, "by lag"):
        assert [series.name for series in chart.series] == ["RNN", "LSTM", "GRU"]
    maps = blocks(report, HeatMap)
    assert len({chart.limits for chart in maps}) == 1
    assert maps[0].limits[1] == max(flow.unit_gradient.max() for flow in flows.values())
    assert [panel.colour for panel in blocks(report, Histograms)[0].panels] == [1] * 4 + [2] * 3
    assert report.lead == "Gradients vanish in RNN. Gradients explode in GRU. Gradients are healthy in LSTM."
    assert len(blocks(report, Table, "Criteria")[0].rows) == 8


def test_before_and_after_share_the_planes():
    planes = blocks(compose({"before": made(initial=False), "after": made()}), Planes)[0]
    assert planes.names == ["before, now", "after, now", "after, at initialisation"]
    assert planes.hollow == [2]
    assert [len(points) for points in planes.panels[0].sets] == [8, 8, 8]


def test_many_layers_get_a_chart_for_each_place():
    report = compose({"a": made(layers=4), "b": made(layers=4, T=30)})
    charts = blocks(report, LineChart, "Jacobian by lag")
    assert [chart.title for chart in charts] == [f"Jacobian by lag, l{i}" for i in range(4)]
    assert all(len(chart.series) <= LINES for chart in charts)
    assert [series.name for series in charts[2].series] == ["a, l2", "b, l2"]


def test_the_table_of_criteria_says_which_were_right():
    table = blocks(compose({"x": made()}), Table, "Criteria")[0]
    assert re.fullmatch(r"0\.\d+: vanishing, right", table.rows[0][4])
    assert table.note == "Right: spectral radius 1 of 1."


def test_extremes_are_drawn():
    zero = changed(
        log_jacobian=np.r_[np.full(39, -np.inf), 0.0],
        unit_gradient=np.zeros((40, 8)),
        lyapunov=np.full(4, -np.inf),
        criteria=(),
        horizon=0,
        log_singular_values=np.full((40, 1), -1e4),
        step_singular_values=np.zeros((40, 0)),
    )
    long = dataclasses.replace(layer(T=3), log_jacobian=np.array([-5000.0, -2500.0, 0.0]))
    html = render(compose({"zero": GradientFlow((zero,), math.nan, "float64"), "long": GradientFlow((long,), 1.0, "")}))
    assert "No values to show." in html
    assert "e-2172" in html
    assert "takes all of the signal away" in html


def test_a_page_with_many_units_and_steps_stays_small(tmp_path):
    write_page(tmp_path / "x.html", {"big": made("lstm", layers=2, T=3000, H=64)})
    assert (tmp_path / "x.html").stat().st_size < 500_000


def test_a_flow_saves_itself_alone_and_beside_others(tmp_path):
    flow = made("rnn")
    flow.save(tmp_path / "x.html")
    flow.save(tmp_path / "y.html", also={"LSTM": made("lstm")})
    assert "<bdi>LSTM</bdi>" in (tmp_path / "y.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"x.html", "y.html"}
    with pytest.raises(InputError, match="must have other names than 'rnn'"):
        flow.save(tmp_path / "x.html", also={"rnn": made()})
    with pytest.raises(InputError, match=r"got a \.json file"):
        flow.save(tmp_path / "x.json", also={"LSTM": made()})
    with pytest.raises(InputError, match="at least one flow"):
        write_page(tmp_path / "x.html", {})


def test_json_holds_every_field(tmp_path):
    part = changed(log_jacobian=np.array([-np.inf, 0.0]))
    GradientFlow((part,), 0.5, "float64", {"l0": {"h": np.array([1 + 2j])}}).save(tmp_path / "flow.json")
    found = json.loads((tmp_path / "flow.json").read_text())
    assert set(found["layers"][0]) == {field.name for field in dataclasses.fields(part)}
    assert found["layers"][0]["log_jacobian"] == [None, 0]
    assert found["layers"][0]["lag_gradient"][:2] == [1, 0.740818]
    assert found["initial"] == {"l0": {"h": [[1, 2]]}}
    assert found["layers"][0]["criteria"][0]["says"]["spectral radius"] == "vanishing"


def test_words_say_how_far_and_how_fast():
    assert reach(layer(rate=-0.3)) == "16 steps back less than 1% of the signal is left"
    assert reach(layer(rate=0.3)) == "16 steps back the signal is more than 100 times what it was"
    assert reach(layer(rate=0.0)) == "over all 40 steps the signal stays between 1% and 100 times what it was"
    assert trend(layer(rate=math.log(0.5))).startswith("in the long run it halves every 1 steps (-0.693")
    assert trend(layer(rate=math.log(2))).startswith("in the long run it doubles every 1 steps")
    assert "neither grows nor shrinks for certain" in trend(layer(rate=0.01))
    assert trend(changed(lyapunov=np.array([-np.inf]))) == "in the long run nothing is left of it"
    assert trend(changed(lyapunov=np.array([]))) == "what a step does in the long run is not known"
    lines = summary(made("lstm")).splitlines()
    assert lines[0].startswith("l0 (lstm): gradients vanish; 16 steps back")
    assert "  gate f: mean 0.50, 3% below 0.1, 12% above 0.9" in lines
    assert "  gate g: mean 0.50, 3% below -0.9, 12% above 0.9" in lines
    assert "  try orthogonal initialisation: recur.orthogonal_(layer)" in lines


def test_notes_stand_where_there_is_nothing_to_show():
    report = compose({"x": made(rate=0.0)})
    assert Note("info", "Nothing needs to be done about the gradients.") in report.sections[0].blocks
    assert Note("info", "The cell has no gates.") in report.sections[5].blocks
