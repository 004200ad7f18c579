"""What the gradient flow foretells of a probe's networks, against closed forms and by hand."""

import json
import math
import re

import numpy as np
import pytest
import torch

import recur
from recur.tasks.figures import pearson, spearman
from recur.tasks.probe.flow import compare, foretell


def test_correlations():
    rng = np.random.default_rng(1)
    x, y = rng.random(30), rng.random(30)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson([1, 2, 3], [10, 8, 6]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    # ranks 1.5, 1.5, 3, 4 and 1, 2, 3.5, 3.5, their correlation by hand
    assert spearman([5, 5, 7, 9], [1, 2, 3, 3]) == pytest.approx(4 / 4.5)
    assert pearson([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 3], [0, 0, 0]) is None


@pytest.mark.parametrize(("factor", "horizon"), [(0.5, 6), (0.9, 43), (0.99, 60)])
def test_the_horizon_of_a_state_that_shrinks_by_a_factor_at_each_step(factor: float, horizon: int):
    # at h = 0, x = 0 the slope of tanh is 1
    layer = recur.RNN(2, 5, batch_first=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_hh_l0.copy_(factor * torch.eye(5))
    found = foretell(layer, torch.zeros(3, 60, 2))
    assert found["horizon"] == horizon
    assert found["exponent"] == pytest.approx(math.log(factor), abs=1e-4)
    assert found["lags"] == list(range(60))
    assert found["log_norms"] == pytest.approx([lag * math.log(factor) for lag in range(60)], abs=1e-3)


def test_of_stacked_layers_the_one_that_reaches_furthest_counts():
    layers = recur.LSTM(2, 8, 2, batch_first=True)
    with torch.no_grad():
        layers.bias_ih_l1[8:16] = 20.0
    assert foretell(layers, torch.rand(2, 50, 2))["horizon"] == 50
    assert foretell(layers, torch.full((2, 50, 2), 1e30) * 1e30) is None


def line(cell: str, lag: int, seed: int, horizon: int | None, learned: bool) -> dict:
    flow = None if horizon is None else {"horizon": horizon}
    return {"cell": cell, "lag": lag, "seed": seed, "flow": {"initial": flow}, "learned": learned}


def test_horizons_are_set_beside_the_longest_lags_learned():
    lines = [
        *(line("rnn", 10, 1, 9, True), line("rnn", 50, 1, 9, False)),
        *(line("rnn", 10, 2, 12, True), line("rnn", 50, 2, 11, False)),
        *(line("lstm", 10, 1, 10, True), line("lstm", 50, 1, 50, True)),
        *(line("lstm", 10, 2, None, False), line("lstm", 50, 2, 50, False)),
    ]
    found = compare(lines, "initial")
    assert list(found.horizons) == [9, 11, 50, 50]
    assert list(found.longest) == [10, 10, 50, 0]
    assert found.counts == {
        "foretold, learned": 3,
        "foretold, not learned": 1,
        "not foretold, learned": 1,
        "not foretold, not learned": 2,
    }
    assert found.pearson == pytest.approx(np.corrcoef([9, 11, 50, 50], [10, 10, 50, 0])[0, 1])


def test_a_run_says_what_was_foretold(tmp_path):
    options = {"hidden_size": 8, "validation_rows": 20, "test_rows": 20, "steps": 3, "check_every": 3, "threads": 1}
    found = recur.probe("latest", cell=("rnn", "gru"), lag=(12, 30), seed=(1, 2), out=tmp_path / "run", **options)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["foretold"]["initial"]["points"] == 4
    assert sum(metrics["foretold"]["trained"]["networks"].values()) == 8
    for network in metrics["networks"]:
        lags = network["flow"]["trained"]["lags"]
        assert lags[0] == 0
        assert lags[-1] == 2 * network["lag"] - 1
        # gates that start out for the lag hold a state over it, an Elman network of this size does not
        assert (network["flow"]["initial"]["horizon"] >= network["lag"]) == (network["cell"] == "gru")
    assert "horizon before training and longest lag learned, 4 cells and seeds: Spearman" in str(found)
    page = re.sub("</?span>", "", (tmp_path / "run" / "report.html").read_text())
    assert "What the gradient flow foretold" in page
    assert "learned within the horizon: 0 of 4 networks, beyond it: 0 of 4" in str(found)
    assert "recur probe latest --cell rnn,gru --lag 12,30 --seed 1,2 --hidden-size 8 --steps 3" in page
    without = recur.probe("latest", cell="rnn", lag=12, seed=1, flow=False, **options)
    assert "horizon" not in str(without)
    assert without.networks[0]["flow"] == {"initial": None, "trained": None}
    without.save(tmp_path / "x.html")
    assert "foretold" not in (tmp_path / "x.html").read_text()
