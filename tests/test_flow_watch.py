"""What is kept of gradients while training: the lines, the tally of clipping, and the charts made from them."""

import json

import numpy as np
import pytest

from recur.errors import InputError
from recur.flow.growth import growth_blocks, horizon_chart
from recur.flow.result import LayerWatch
from recur.flow.watch import LAGS, Watch, reach, thinned_lags
from recur.report import LineChart, Note


def seen(rate=-0.3, T=60, name="l0"):
    norms = np.exp(rate * np.arange(T))
    return LayerWatch(
        name, "LSTM", T, norms[::-1], norms, norms / norms.sum(), {"f": 0.5, "i": 0.75}, {"f": (0.125, 0.25)}
    )


def grown(steps=10):
    """A network whose memory grows."""
    watch = Watch(100)
    for step in range(0, 100 * steps, 100):
        watch.take(step, lambda step=step: [seen(-0.5 / (1 + step / 100)), seen(name="l1")])
        for _ in range(60):
            watch.stepped(1.0)
        for kept in (0.5, 0.25, 0.75, 0.5):
            watch.stepped(kept)
    return watch


def test_a_line_is_taken_every_so_many_steps_and_never_twice():
    watch = Watch(3)
    taken = []
    for step in [0, 1, 2, 3, 3, 4, 5, 6]:
        if watch.due(step):
            watch.take(step, lambda: [seen()])
            taken.append(step)
    assert taken == [0, 3, 6]


def test_a_line_holds_what_was_seen():
    line = Watch(1).take(7, lambda: [seen()])
    (layer,) = line["layers"]
    assert (line["step"], layer["name"], layer["steps"]) == (7, "l0", 60)
    assert layer["lags"][:4] == [0, 1, 2, 3]
    assert layer["lags"][-1] == 59
    assert layer["norms"][1] == pytest.approx(np.exp(-0.3), rel=1e-5)
    assert layer["horizon"] == 15
    assert layer["spectral_radius"] == {"f": 0.5, "i": 0.75}
    assert (layer["low"], layer["high"]) == ({"f": 0.125}, {"f": 0.25})
    assert line["clipping"] == {"steps": 0, "clipped": 0, "kept": None, "kept_least": None}


def test_clipping_is_counted_between_lines():
    watch = grown()
    assert watch.lines[1]["clipping"] == {"steps": 64, "clipped": 4, "kept": 0.5, "kept_least": 0.25}
    assert watch.lines[2]["clipping"] == watch.lines[1]["clipping"]


def test_what_cannot_be_seen_is_said_and_ends_nothing():
    def blind():
        raise InputError("l0: its state h must be finite, got NaN first at step 3")

    watch = Watch(1)
    watch.take(0, blind)
    assert watch.lines[0]["unseen"].endswith("NaN first at step 3")
    assert list(growth_blocks(watch.lines)) == [
        Note("info", f"At 1 of 1 points nothing could be seen, first at step 0: {watch.lines[0]['unseen']}")
    ]
    assert list(growth_blocks([])) == [Note("info", "Nothing was watched.")]


def test_the_state_is_whole():
    watch, other = grown(), Watch(100)
    other.load(json.loads(json.dumps(watch.state())))
    for one in (watch, other):
        one.stepped(0.5)
        one.take(1000, lambda: [seen()])
    assert other.text() == watch.text()
    assert len(watch.text().splitlines()) == 11
    assert json.loads(watch.text().splitlines()[3]) == watch.lines[3]


@pytest.mark.parametrize("steps", [1, 2, LAGS, LAGS + 1, 400, 100_000])
def test_lags_are_few_and_hold_both_ends(steps):
    lags = thinned_lags(steps)
    assert lags[0] == 0
    assert lags[-1] == steps - 1
    assert len(lags) <= LAGS + 1
    assert lags == sorted(set(lags))


def test_reach_is_where_the_gradient_leaves_the_range():
    assert reach(np.array([1.0, 0.02, 0.005, 1.0])) == 1
    assert reach(np.array([1.0, 50.0, 200.0])) == 1
    assert reach(np.array([1.0, 0.5])) == 2
    assert reach(np.array([0.0, 1.0])) == 0


def test_charts_show_how_memory_grew():
    charts = {block.title: block for block in growth_blocks(grown().lines) if isinstance(block, LineChart)}
    assert list(charts) == [
        "Gradient of the loss by lag, l0",
        "Gradient of the loss by lag, l1",
        "Horizon while training",
        "Spectral radius of the recurrent matrices",
        "Saturated gates",
        "Clipping since the point before",
    ]
    first = charts["Gradient of the loss by lag, l0"].series
    assert [s.name for s in first] == [
        "at initialisation", "after 200 steps", "after 400 steps", "after 700 steps", "after 900 steps"
    ]  # fmt: skip
    horizons = charts["Horizon while training"].series
    assert [s.name for s in horizons] == ["l0", "l1"]
    assert list(horizons[0].y[:3]) == [9, 18, 27]
    assert horizons[0].y[-1] == 60
    assert [s.name for s in charts["Saturated gates"].series] == [
        "l0, f, low",
        "l0, f, high",
        "l1, f, low",
        "l1, f, high",
    ]
    assert charts["Clipping since the point before"].series[0].y[0] == 4 / 64


def test_runs_are_compared_by_name():
    chart = horizon_chart({"rnn-1": grown().lines, "lstm-1": [Watch(1).take(0, lambda: [seen()])]})
    assert [s.name for s in chart.series] == ["rnn-1, l0", "rnn-1, l1", "lstm-1"]
