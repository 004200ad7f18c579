import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from recur.app import main as cli
from recur.app.main import main
from recur.tasks.classify.options import ClassifyOptions

torch.set_num_threads(1)

TRAIN = "--epochs 2 --hidden-size 6 --embedding-size 5 --batch-size 8 --threads 1 --no-baselines"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "reviews.tsv"
    lines = [
        f"{i % 2}\t{' '.join(rng.choice(['a', 'film', 'so', 'it'], 5))} {['bad', 'good'][i % 2]} {i}" for i in range(60)
    ]
    path.write_text("\n".join(["stars\treview", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(data):
    folder = data.parent / "run"
    columns = ["--text", "review", "--label", "stars"]
    assert main(["train", "classify", "--train", str(data), "--out", str(folder), *columns, *TRAIN.split()]) == 0
    return folder


def fails(capsys, *tokens):
    """Run a command line that must fail, and return its message."""
    assert main(list(tokens)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("recur: ")
    assert "Traceback" not in err
    return err


def test_help_needs_no_torch():
    code = "import sys, recur.app.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_main_path_in_processes_of_its_own(data, tmp_path):
    def recur(*tokens, **more):
        command = [sys.executable, "-m", "recur.app.main", *tokens]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, **more)

    options = ["--text", "review", "--label", "stars", *TRAIN.split()]
    result = recur("train", "classify", "--train", str(data), "--cell", "gru", *options)
    assert "gru-1" in result.stdout
    assert "report: runs/reviews/report.html" in result.stdout
    assert len([line for line in result.stderr.splitlines() if "epoch" in line]) == 2
    assert "\r" not in result.stderr
    answers = recur("predict", "runs/reviews", input="a good film\n\nbad\n").stdout.splitlines()
    assert [answer.split("\t")[2] for answer in answers] == ["a good film", "", "bad"]


def test_predict_answers_arguments_files_and_standard_input_alike(trained, data, capsys, monkeypatch):
    texts = [line.split("\t")[1] for line in data.read_text().splitlines()[1:]]
    capsys.readouterr()
    assert main(["predict", str(trained), *texts]) == 0
    given = capsys.readouterr().out
    assert main(["predict", str(trained), "--file", str(data)]) == 0
    assert capsys.readouterr().out == given
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts) + "\n"))
    assert main(["predict", str(trained)]) == 0
    assert capsys.readouterr().out == given
    label, probability, text = given.splitlines()[0].split("\t")
    assert label in "01"
    assert 0.5 <= float(probability) <= 1
    assert text == texts[0]


def test_predict_as_json_has_every_class(trained, capsys):
    capsys.readouterr()
    assert main(["predict", str(trained), "很好\tfilm", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "很好\tfilm"
    assert answer["probability"] == answer["probabilities"][answer["label"]]


def test_predict_needs_one_source_of_texts(trained, data, capsys, monkeypatch):
    capsys.readouterr()
    assert "--file and texts must not be given together" in fails(
        capsys, "predict", str(trained), "a", "--file", str(data)
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert "give texts, --file, or lines on standard input" in fails(capsys, "predict", str(trained))


def test_evaluate_gives_the_training_files_score(trained, data, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(trained), str(data), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["rows"] == 60
    assert main(["evaluate", str(trained), str(data)]) == 0
    out = capsys.readouterr().out
    assert f"accuracy  {scores['accuracy']:.2%}" in out
    assert "true \\ predicted" in out
    assert "there is no column 'text'" in fails(capsys, "evaluate", str(trained), str(data), "--text", "text")


def test_nearest_words(tmp_path, capsys):
    path = tmp_path / "v.txt"
    path.write_text("king 1 0.1\nqueen 1 0\ntree 0 1\n")
    assert main(["vectors", "nearest", str(path), "king", "--count", "1"]) == 0
    assert capsys.readouterr().out == "0.9950  queen\n"
    assert "'kong' is not among the 3 words" in fails(capsys, "vectors", "nearest", str(path), "kong")


def test_mistyped_commands_and_flags_are_answered_with_the_nearest(capsys):
    assert 'Unknown command "trian". Did you mean "train"?' in fails(capsys, "trian")
    assert "--hiden-size. Did you mean --hidden-size?" in fails(capsys, "train", "classify", "--hiden-size", "3")
    assert "--train is required" in fails(capsys, "train", "classify")
    error = fails(capsys, "train", "classify", "--train", "x.csv", "--epochs", "ten")
    assert "--epochs" in error
    assert "ten" in error
    assert "--pooling" in fails(capsys, "train", "classify", "--train", "x.csv", "--pooling", "sum")


def test_errors_are_one_message_and_code_2(data, trained, tmp_path, capsys):
    capsys.readouterr()
    new = ["--out", str(tmp_path / "new")]
    there = ["train", "classify", "--train", str(data), "--out", str(trained)]
    assert "carry it on with --resume, replace it with --overwrite" in fails(capsys, *there)
    assert "nowhere.csv" in fails(capsys, "train", "classify", "--train", "nowhere.csv", *new)
    assert "did you mean 'gru'" in fails(capsys, "train", "classify", "--train", str(data), "--cell", "gruu", *new)
    assert "is not a run folder" in fails(capsys, "predict", str(tmp_path / "none"), "text")


def test_flags_override_the_toml_file(data, tmp_path, capsys):
    toml = tmp_path / "o.toml"
    toml.write_text(f'train = "{data}"\ntext = "review"\nlabel = "stars"\ncell = "gru"\nepochs = 1\nhidden-size = 3\n')
    out = tmp_path / "run"
    tokens = ["train", "classify", "--options", str(toml), "--hidden-size", "4", "--out", str(out), "--no-baselines"]
    assert main([*tokens, "--max-length", "none", "--seed", "7"]) == 0
    options = json.loads((out / "config.json").read_text())["options"]
    assert options | {"cell": ["gru"], "epochs": 1, "hidden_size": 4, "max_length": None, "seed": [7]} == options
    capsys.readouterr()
    toml.write_text("hidden = 3\n")
    assert "o.toml: there is no option 'hidden'" in fails(capsys, *tokens)


def test_lists_are_given_with_commas_or_by_repeating(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_train", lambda name, options: seen.append(options))
    for tokens in (
        ["--cell", "rnn,gru", "--seed", "1,2"],
        ["--cell", "rnn", "--cell", "gru", "--seed", "1", "--seed", "2"],
    ):
        assert main(["train", "classify", "--train", "x.csv", *tokens]) == 0
    assert seen[0] == seen[1] == ClassifyOptions(train="x.csv", cell=("rnn", "gru"), seed=(1, 2))


def test_help_names_every_option(capsys):
    assert main(["train", "classify", "--help"]) == 0
    text = capsys.readouterr().out
    for name in (field.name for field in dataclasses.fields(ClassifyOptions)):
        assert f"--{name.replace('_', '-')}" in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_ctrl_c_outside_of_training_is_130(monkeypatch, capsys):
    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_train", stop)
    assert main(["train", "classify", "--train", "x.csv"]) == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_the_demo_ends_with_the_command_for_the_readers_own_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "DEMO_DATA", cli.DEMO_DATA | {"n_train": 100, "n_test": 40})
    monkeypatch.setattr(cli, "DEMO_OPTIONS", cli.DEMO_OPTIONS | {"epochs": 1, "warmup": 0.0, "baselines": False})
    for _ in range(2):
        assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
        out = capsys.readouterr().out
        assert all(f"{cell}-1" in out for cell in ("rnn", "lstm", "gru"))
        assert f"report: {tmp_path / 'demo' / 'run' / 'report.html'}" in out
        assert out.endswith(" train classify --train FILE.csv --text COLUMN --label COLUMN\n")
