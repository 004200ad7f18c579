"""`recur flow` and `--watch-gradients` on runs of the classifier, as a person uses them."""

import json
import shutil

import numpy as np
import pytest
import torch

import recur
from recur.app.main import main
from recur.data.batches import LengthBatches
from recur.tasks.flow import FlowData, flows_of

torch.set_num_threads(1)

SMALL = "--epochs 2 --hidden-size 6 --embedding-size 5 --batch-size 8 --threads 1 --no-baselines --max-length 20"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    lines = [
        f"{i % 2},{' '.join(rng.choice(['a', 'film', 'so', 'it'], 9))} {['bad', 'good'][i % 2]} {i}" for i in range(80)
    ]
    path.write_text("\n".join(["stars,review", *lines]) + "\n")
    return path


def train(data, name, *more):
    out = data.parent / name
    columns = ["--text", "review", "--label", "stars"]
    assert main(["train", "classify", "--train", str(data), "--out", str(out), *columns, *SMALL.split(), *more]) == 0
    return out


@pytest.fixture(scope="module")
def watched(data):
    return train(data, "watched", "--watch-gradients", "3", "--clip-global-norm", "0.1")


@pytest.fixture(scope="module")
def cells(data):
    return train(data, "cells", "--cell", "rnn,gru", "--seed", "1,2", "--layers", "2", "--bidirectional")


def lines(run):
    return [json.loads(line) for line in (run / "gradients.jsonl").read_text().splitlines()]


def fails(capsys, *tokens):
    capsys.readouterr()
    assert main(["flow", *map(str, tokens)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_watching_changes_no_bit_of_what_is_trained(data, watched):
    blind = train(data, "blind", "--watch-gradients", "0", "--clip-global-norm", "0.1")
    assert (blind / "model.safetensors").read_bytes() == (watched / "model.safetensors").read_bytes()
    assert not (blind / "gradients.jsonl").exists()
    assert "Horizon while training" not in (blind / "report.html").read_text()


def test_lines_are_taken_from_the_start_to_after_the_last_step(watched):
    found = lines(watched)
    steps = json.loads((watched / "metrics.json").read_text())["rows"]["train"] // 8 + 1
    assert [line["step"] for line in found] == [
        *range(0, 2 * steps, 3),
        2 * steps,
    ]
    assert sum(line["clipping"]["steps"] for line in found) == 2 * steps
    clipped = sum(line["clipping"]["clipped"] for line in found)
    assert clipped == json.loads((watched / "metrics.json").read_text())["clipped_steps"] > 0
    assert 0 < found[1]["clipping"]["kept"] < 1
    assert found[0]["layers"][0]["name"] == "recurrent.l0"
    assert found[0]["layers"][0]["norms"] != found[-1]["layers"][0]["norms"]


def test_the_report_shows_how_memory_grew(watched, cells):
    page = (watched / "report.html").read_text()
    for title in ("Gradient of the loss by lag, recurrent.l0", "Horizon while training", "Clipping since"):
        assert title in page
    assert "at initialisation" in page
    assert "<bdi>gru-1, recurrent.l0</bdi>" in (cells / "report.html").read_text()


def test_the_page_is_written_beside_the_run_and_nothing_else_is_touched(watched, capsys):
    before = {path.name: path.read_bytes() for path in watched.iterdir()}
    capsys.readouterr()
    assert main(["flow", str(watched)]) == 0
    out = capsys.readouterr().out
    assert "recurrent.l0 (LSTM): gradients " in out
    assert out.endswith(f"page: {watched / 'flow.html'}\n")
    after = {path.name: path.read_bytes() for path in watched.iterdir()}
    assert set(after) - set(before) == {"flow.html", "flow.json"}
    assert all(after[name] == content for name, content in before.items())
    found = json.loads((watched / "flow.json").read_text())["flows"]["lstm-1"]
    assert found["layers"][0]["steps"] == 11
    assert len(found["layers"][0]["rows"]) == 4


def test_the_start_is_the_one_that_was_trained_from(watched, cells):
    radii = lines(watched)[0]["layers"][0]["spectral_radius"]
    (flow,) = flows_of(watched).values()
    for gate, values in flow.initial["recurrent.l0"].items():
        assert np.abs(values).max() == pytest.approx(radii[gate], rel=1e-2)
    for name, flow in flows_of(cells).items():
        for layer in lines(cells / name)[0]["layers"]:
            for gate, values in flow.initial[layer["name"]].items():
                assert np.abs(values).max() == pytest.approx(layer["spectral_radius"][gate], rel=1e-2)


def test_another_version_leaves_the_start_unknown(watched, tmp_path):
    run = shutil.copytree(watched, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["versions"]["torch"] = "1.0"
    (run / "config.json").write_text(json.dumps(config))
    (flow,) = flows_of(run).values()
    assert flow.initial == {}


def test_the_flow_is_that_of_the_runs_loss_on_the_rows_given(watched, data):
    (flow,) = flows_of(watched, FlowData(data, 7, {"text": "review", "label": "stars"})).values()
    predictor = recur.load(watched)
    rows = [line.split(",") for line in data.read_text().splitlines()[1:]]
    chosen = [rows[i] for i in np.linspace(0, 79, 7).astype(int)]
    sequences = predictor.encoder([text for _, text in chosen])
    (batch,) = LengthBatches(sequences, np.array([int(label) for label, _ in chosen]), 7, seed=0, shuffle=False)
    loss = torch.nn.functional.cross_entropy(predictor.model(batch.tokens, batch.lengths), batch.labels)
    assert flow.loss == pytest.approx(float(loss.detach()), rel=1e-5)


def test_a_run_of_several_cells_shows_the_best_seed_of_each(cells, tmp_path, capsys):
    assert main(["flow", str(cells), "--out", str(tmp_path / "there")]) == 0
    members = json.loads((cells / "metrics.json").read_text())["members"]
    best = [
        max(
            (f"{cell}-{seed}" for seed in (1, 2)),
            key=lambda n: (members[n]["validation"]["accuracy"], -members[n]["validation"]["loss"]),
        )
        for cell in ("rnn", "gru")
    ]
    assert list(json.loads((tmp_path / "there" / "flow.json").read_text())["flows"]) == best
    assert not (cells / "flow.html").exists()
    page = (tmp_path / "there" / "flow.html").read_text()
    assert f"{best[0]}, recurrent.l1_reverse" in page


def test_two_runs_lie_over_each_other(watched, cells, tmp_path, capsys):
    assert main(["flow", str(watched), "--against", str(cells / "gru-1"), "--out", str(tmp_path)]) == 0
    assert list(json.loads((tmp_path / "flow.json").read_text())["flows"]) == ["watched lstm-1", "gru-1 gru-1"]


def test_what_does_not_fit_is_said_in_a_line(watched, data, tmp_path, capsys):
    assert "is not a run folder: there is no such folder" in fails(capsys, tmp_path / "none")
    assert "there is no column 'text'" in fails(capsys, watched, "--data", data, "--text", "text")
    assert "nothing.csv" in fails(capsys, watched, "--data", tmp_path / "nothing.csv")
    assert "--rows must be at least 1, got 0" in fails(capsys, watched, "--rows", "0")
    assert "--against must be another run" in fails(capsys, watched, "--against", watched)
    short = tmp_path / "short.csv"
    short.write_text("stars,review\n1,good\n")
    assert "at least 2 tokens" in fails(capsys, watched, "--data", short)
    short.write_text("stars,review\n")
    assert "row" in fails(capsys, watched, "--data", short)
    short.write_text("stars,review\n7,good film\n")
    assert "the label '7' is not among those" in fails(capsys, watched, "--data", short)
    run = shutil.copytree(watched, tmp_path / "run")
    (run / "metrics.json").unlink()
    assert "is not finished" in fails(capsys, run)
    moved = data.rename(data.with_name("moved.csv"))
    try:
        assert "is not there, or was changed; give rows with --data FILE" in fails(capsys, watched)
    finally:
        moved.rename(data)


def test_a_new_run_takes_the_pages_of_the_old_one_away(data, watched):
    run = shutil.copytree(watched, watched.parent / "again")
    (run / "flow.html").write_text("old")
    train(data, "again", "--overwrite", "--watch-gradients", "0")
    assert not (run / "flow.html").exists()
    assert not (run / "gradients.jsonl").exists()
