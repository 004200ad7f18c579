"""Remedies as options of a model: the layer that has them, what excludes what, and a run that is trained so."""

import dataclasses
import json

import pytest
import torch

from recur import InputError, load
from recur.app.main import main
from recur.cells import CELLS
from recur.models.classifier import Classifier, ClassifierConfig
from recur.remedies import Remedies
from recur.tasks.classify.options import ClassifyOptions


def test_a_layer_has_what_was_asked_for():
    plain = Remedies().layer("lstm", 3, 8, 2)
    layer = Remedies(zoneout=0.2, clip_step=0.5, residual=True, recurrent_dropout=0.1).layer("lstm", 3, 8, 2)
    assert repr(layer.cell) == "ClippedGradient(Zoneout(LSTM(), h=0.2, c=0.2), bound=0.5)"
    assert layer.residual
    assert layer.recurrent_dropout == 0.1
    # weights of the one fit the other
    plain.load_state_dict(layer.state_dict())
    start = Remedies(initialisation="orthogonal", forget_bias=2.0).layer("gru", 3, 8, 1)
    assert torch.allclose(torch.linalg.svdvals(start.weight_hh_l0[:8]), torch.ones(8), atol=1e-5)
    assert torch.equal(start.bias_ih_l0[8:16], torch.full((8,), 2.0))
    chrono = Remedies(chrono=50, chrono_inputs=True).layer("lstm", 3, 8, 1)
    assert torch.equal(chrono.bias_ih_l0[:8], -chrono.bias_ih_l0[8:16])
    assert torch.equal(Remedies(initialisation="identity").layer("rnn-relu", 3, 8, 1).weight_hh_l0, torch.eye(8))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_can_have_them_all(cell: str):
    given = Remedies(
        zoneout=0.1, clip_step=1.0, residual=True, recurrent_dropout=0.1, initialisation="orthogonal", chrono=9
    )
    layer = given.layer(cell, 3, 4, 2, batch_first=True)
    layer(torch.randn(2, 5, 3)).output.sum().backward()
    assert all(value.grad.isfinite().all() for value in layer.parameters())


WRONG = [
    ({"initialisation": "orthogonl"}, "initialisation must be one of default, orthogonal, identity, got 'orthogonl'"),
    ({"zoneout": 1.0}, "zoneout must be from 0 up to, not including, 1, got 1.0"),
    ({"clip_step": 0.0}, "clip_step must be greater than 0, got 0.0"),
    ({"forget_bias": float("inf")}, "forget_bias must be a finite number, got inf"),
    ({"chrono": 1}, "chrono must be 0, or a whole number from 2 up, got 1"),
    ({"chrono": 9, "forget_bias": 1.0}, "chrono and forget_bias start the same bias and must not be given together"),
    ({"chrono_inputs": True}, "chrono_inputs needs chrono, the lag; leave it out"),
    ({"residual": True}, "residual needs layers 2 or more, got 1"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_is_wrong_or_cannot_be_together_is_named(given: dict, message: str):
    with pytest.raises(InputError, match=message):
        ClassifierConfig(20, 2, **given)
    with pytest.raises(InputError, match="--"):
        ClassifyOptions(train="x.csv", **given).check()


def test_an_option_that_no_cell_has_a_use_for_is_refused():
    for cell, given, message in (
        ("rnn", {"forget_bias": 1.0}, "--forget-bias needs a cell with a gate that keeps the state, got rnn; leave it"),
        ("mingru,indrnn", {"initialisation": "orthogonal"}, "--initialisation needs a cell with recurrent matrices"),
        ("indrnn", {"recurrent_dropout": 0.1}, "--recurrent-dropout needs a cell with recurrent matrices, got indrnn"),
    ):
        with pytest.raises(InputError, match=message):
            ClassifyOptions(train="x.csv", cell=cell, **given).check()
    ClassifyOptions(train="x.csv", cell="rnn,lstm", forget_bias=1.0).check()


def test_a_run_keeps_them(tmp_path):
    rows = [f"a {word} film number {i},{label}" for i in range(20) for word, label in (("fine", 1), ("dull", 0))]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    options = "--layers 2 --residual --zoneout 0.1 --clip-step 0.5 --initialisation orthogonal --forget-bias 1"
    small = "--hidden-size 8 --embedding-size 4 --epochs 1 --threads 1 --no-baselines --cell gru"
    given = ["--train", str(tmp_path / "train.csv"), "--out", str(tmp_path / "run"), *options.split(), *small.split()]
    assert main(["train", "classify", *given]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    wanted = {"residual": True, "zoneout": 0.1, "clip_step": 0.5, "initialisation": "orthogonal", "forget_bias": 1.0}
    for part in ("options", "network"):
        assert {name: config[part][name] for name in wanted} == wanted
    predictor = load(tmp_path / "run")
    assert repr(predictor.model.recurrent.cell).startswith("ClippedGradient(Zoneout(GRU(")
    assert predictor.model.recurrent.residual
    assert predictor.predict(["a fine film"])[0].label in ("0", "1")
    # read word by word, the same
    tokens = torch.tensor([[3, 4, 5]])
    stream = predictor.model.stream()
    scores = [stream.step(token) for token in tokens[0].split(1)][-1]
    assert torch.allclose(scores, predictor.model(tokens, torch.tensor([3])), atol=1e-5)


def test_a_run_from_before_there_were_remedies_is_read():
    config = dataclasses.asdict(ClassifierConfig(20, 2, chrono=9, recurrent_dropout=0.1))
    for name in ("initialisation", "forget_bias", "residual", "zoneout", "clip_step"):
        del config[name]
    assert Classifier(ClassifierConfig(**config)).config == ClassifierConfig(20, 2, chrono=9, recurrent_dropout=0.1)
