import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import recur
from recur.errors import InputError, RunError
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.classify.task import CLASSIFY
from recur.tasks.figures import mean_interval, score, wilson
from recur.tasks.job_result import summary
from recur.tasks.job_run import resumed_options, train_run
from recur.tasks.labels import split
from recur.tasks.options import field_docs, make_options, read_toml

torch.set_num_threads(1)

SMALL = {"epochs": 1, "hidden_size": 6, "embedding_size": 5, "batch_size": 8, "threads": 1, "baselines": False}
WORDS = ["film", "plot", "actor", "scene", "music", "story", "camera"]


def rows(n, classes=("neg", "pos"), seed=0):
    """Different texts; a class is known by its word."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        name = classes[i % len(classes)]
        words = [*rng.choice(WORDS, size=rng.integers(1, 9)), f"is{name}", f"n{seed}x{i}"]
        yield " ".join(words), name


def write(path, lines, header="text,label"):
    path.write_text("\n".join([header, *(f"{text},{label}" for text, label in lines)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "train.csv", rows(60)), write(tmp_path / "test.csv", rows(20, seed=1))


def run(files, tmp_path, **options):
    train, test = files
    given = SMALL | {"train": train, "test": test, "out": tmp_path / "run"} | options
    return train_run(CLASSIFY, ClassifyOptions(**given))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_hold_what_was_found(files, tmp_path):
    folder = run(files, tmp_path, epochs=12, learning_rate=0.03, baselines=True)
    found = metrics(folder)
    assert found["test"]["accuracy"] > 0.9
    assert found["test"]["rows"] == 20
    assert sum(map(sum, found["test"]["confusion"])) == 20
    assert found["validation"]["rows"] == 6
    assert set(found["baselines"]) == {"majority", "bag-of-words", "nb-svm", "embedding-bag", "ngram-bag"}
    assert found["baselines"]["majority"]["accuracy"] == 0.5
    assert found["parameters"] > 0
    assert found["seconds"] > 0
    assert 0 <= found["padding_share"] < 0.5
    assert found["epochs"] == 12
    assert found["rows"] == {"train": 54, "validation": 6, "test": 20}
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "model.safetensors", "metrics.json", "metrics.jsonl", "report.html", "trainer.ckpt",
        "gradients.jsonl",
    }  # fmt: skip
    table = summary(found, CLASSIFY.figure)
    assert "lstm-1" in table
    assert "baseline nb-svm" in table


def test_predict_evaluate_and_metrics_agree_wherever_the_run_lies(files, tmp_path):
    folder = run(files, tmp_path, epochs=3)
    before = metrics(folder)["test"]
    moved = folder.rename(tmp_path / "elsewhere")
    files[0].unlink()
    predictor = recur.load(moved)
    scores = predictor.evaluate(files[1])
    assert scores.accuracy == before["accuracy"]
    assert scores.confusion == before["confusion"]
    assert scores.loss == pytest.approx(before["loss"], rel=1e-6)
    texts, labels = zip(*rows(20, seed=1), strict=True)
    answers = predictor.predict(iter(texts), batch_size=3)
    right = [answer.label == label for answer, label in zip(answers, labels, strict=True)]
    assert sum(right) / 20 == before["accuracy"]
    assert answers[0].probability == max(answers[0].probabilities.values())
    assert sum(answers[0].probabilities.values()) == pytest.approx(1, abs=1e-6)


def test_empty_and_unknown_texts_are_answered(files, tmp_path):
    predictor = recur.load(run(files, tmp_path))
    assert len(predictor.predict(["", "zzz", "   "])) == 3
    assert predictor.predict([]) == []
    with pytest.raises(InputError, match=r"`texts` must be several texts, got a single one"):
        predictor.predict("film")


def test_several_cells_and_seeds_make_a_table_with_intervals(files, tmp_path):
    folder = run(files, tmp_path, cell="rnn,gru", seed=(1, 2))
    found = metrics(folder)
    assert set(found["members"]) == {"rnn-1", "rnn-2", "gru-1", "gru-2"}
    scores = [metrics(folder / f"rnn-{seed}")["test"]["accuracy"] for seed in (1, 2)]
    assert found["cells"]["rnn"]["test"]["accuracy"] == pytest.approx(np.mean(scores))
    assert found["cells"]["rnn"]["seeds"] == 2
    best = max(found["members"].values(), key=lambda m: (m["validation"]["accuracy"], -m["validation"]["loss"]))
    assert found["members"][found["best"]] == best
    assert found["test"] == best["test"]
    for name in found["members"]:
        assert (folder / name / "report.html").exists()
        assert recur.load(folder / name).labels == ["neg", "pos"]
    assert recur.load(folder).folder == folder / found["best"]
    assert "rnn, mean of 2" in summary(found, CLASSIFY.figure)


def test_a_single_seed_has_no_interval_of_its_mean(files, tmp_path):
    found = metrics(run(files, tmp_path, cell=("rnn", "gru")))
    assert found["cells"]["gru"] == {
        "test": {"accuracy": found["members"]["gru-1"]["test"]["accuracy"], "interval": None},
        "seeds": 1,
    }


def test_the_same_seed_gives_the_same_weights(files, tmp_path):
    weights = [
        (run(files, tmp_path, out=tmp_path / name, seed=seed, dropout=0.2) / "model.safetensors").read_bytes()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert weights[0] == weights[1] != weights[2]


def test_words_are_counted_in_the_training_part_alone(files, tmp_path):
    config = json.loads((run(files, tmp_path) / "config.json").read_text())
    own = {f"n0x{i}" for i in range(60)}
    assert len(own & set(config["vocabulary"])) == 54
    assert not any(word.startswith("n1x") for word in config["vocabulary"])
    assert config["data"]["train"]["file"] == "train.csv"
    assert config["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps({k: v for k, v in config.items() if k != "options"})


def test_without_a_test_file_a_part_is_cut_and_that_is_said(files, tmp_path):
    found = metrics(run((files[0], None), tmp_path))
    assert found["rows"] == {"train": 44, "validation": 4, "test": 12}
    assert found["notes"] == [f"no --test given: 12 rows of {files[0]}, drawn by chance, are the test part"]


def test_texts_in_both_files_are_counted(files, tmp_path, capsys):
    write(files[1], [*rows(18, seed=1), *list(rows(60))[:2]])
    folder = run(files, tmp_path)
    note = "2 of 20 test texts (10.0%) are in the training file too; the score may flatter"
    assert note in metrics(folder)["notes"]
    assert note in capsys.readouterr().err
    assert note in (folder / "report.html").read_text()


def test_empty_texts_are_kept_and_counted(files, tmp_path):
    write(files[0], [*rows(60), ("", "pos"), ("  ", "neg")])
    write(files[1], [*rows(20, seed=1), ("", "pos")])
    notes = metrics(run(files, tmp_path))["notes"]
    assert f"2 empty texts in {files[0]}; they are kept, as texts of length 0" in notes
    assert "1 empty texts in the test part; they are scored, as texts of length 0" in notes


def test_bad_rows_stop_or_are_counted(files, tmp_path):
    files[0].write_text(files[0].read_text() + "one,two,three\n")
    with pytest.raises(InputError, match=r"train\.csv, line 62: expected 2 fields.*found 3; .*--skip-bad-rows"):
        run(files, tmp_path)
    assert not (tmp_path / "run").exists()
    notes = metrics(run(files, tmp_path, skip_bad_rows=True))["notes"]
    assert notes[0].startswith(f"1 bad rows of {files[0]} left out, the first: line 62")


def test_vectors_bring_their_width_and_coverage(files, tmp_path):
    vectors = tmp_path / "glove.txt"
    vectors.write_text("".join(f"{word} {i} 0.5 -1\n" for i, word in enumerate(WORDS)))
    folder = run(files, tmp_path, vectors=vectors, freeze_embedding=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["network"]["embedding_size"] == 3
    assert metrics(folder)["vector_coverage"] == pytest.approx(7 / len(config["vocabulary"]))
    model = recur.load(folder).model
    row = config["vocabulary"].index("actor") + 2
    assert any(value.shape == (len(config["vocabulary"]) + 2, 3) and value[row].tolist() == [2, 0.5, -1]
               for value in model.state_dict().values())  # fmt: skip


def test_chinese_text_is_cut_into_characters(tmp_path):
    train = write(
        tmp_path / "评论.csv", [(f"这部电影{'很好看' if i % 2 else '不好看'}{i}", "好坏"[i % 2]) for i in range(40)]
    )
    folder = run((train, None), tmp_path, epochs=2)
    assert json.loads((folder / "config.json").read_text())["tokenizer"]["kind"] == "characters"
    assert recur.load(folder).predict(["很好看"])[0].label in "好坏"


BAD = {
    "cell": ({"cell": "lstn"}, "--cell must be one of .*, found 'lstn', did you mean 'lstm'"),
    "column": ({"label": "labl"}, r"train\.csv: there is no column 'labl', did you mean 'label'\?"),
    "file": ({"train": "nowhere.csv"}, r"nowhere\.csv"),
    "vectors": ({"vectors": "nowhere.txt"}, r"nowhere\.txt"),
    "both": ({"resume": True, "overwrite": True}, "--resume and --overwrite must not be given together"),
    "frozen": ({"freeze_embedding": True}, "--freeze-embedding needs --vectors"),
    "one-hot": ({"embedding": "one-hot", "ngrams": 2}, "--embedding one-hot has no vectors to go with --ngrams"),
    "twice": ({"seed": (1, 1)}, "--seed must name each one once, got 1, 1"),
    "size": ({"hidden_size": 0}, "--hidden-size must be at least 1, got 0"),
    "share": ({"validation_share": 1.0}, "--validation-share must be between 0 and 1, both left out, got 1.0"),
    "dropout": ({"dropout": 1.0}, "--dropout must be from 0 up to, not including, 1, got 1.0"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_before_a_folder_is_made(files, tmp_path, options, message):
    if options.get("resume"):
        options = options | {"out": str(run(files, tmp_path))}
        with pytest.raises(InputError, match=message):
            run(files, tmp_path, **options)
        return
    with pytest.raises(InputError, match=message):
        run(files, tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_data_that_no_classifier_can_learn_from(files, tmp_path):
    write(files[0], rows(20, classes=["pos"]))
    with pytest.raises(
        InputError, match=r"train\.csv: the column 'label' must hold at least two classes, got only 'pos'"
    ):
        run(files, tmp_path)
    write(files[0], ((text, i) for i, (text, _) in enumerate(rows(20))))
    with pytest.raises(InputError, match=r"holds a different value in each of 20 rows; name the column of the classes"):
        run(files, tmp_path)
    write(files[0], rows(3, classes="aab"))
    with pytest.raises(
        InputError, match=r"must have enough rows of each class .* and a test part off, got 3 rows in 2 classes"
    ):
        run((files[0], None), tmp_path)
    files[0].write_text("")
    with pytest.raises(InputError, match=r"train\.csv is empty"):
        run(files, tmp_path)


def test_a_label_that_training_has_not_seen_is_found_at_the_start(files, tmp_path):
    write(files[1], [*rows(20, seed=1), ("odd", "neutral")])
    with pytest.raises(
        InputError, match=r"test\.csv, line 22: the label 'neutral' is not among .* training data, neg, pos"
    ):
        run(files, tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_kept(files, tmp_path):
    folder = run(files, tmp_path)
    with pytest.raises(RunError, match="holds a run already; carry it on with --resume, replace it with --overwrite"):
        run(files, tmp_path)
    with pytest.raises(InputError):
        run(files, tmp_path, overwrite=True, label="nope")
    assert (folder / "metrics.json").exists()
    assert run(files, tmp_path, overwrite=True) == folder


def test_only_finished_runs_can_be_loaded(files, tmp_path):
    folder = run(files, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing: the run is not finished"):
        recur.load(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["network"]["hidden_size"]
    config["network"]["hidden"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"config\.json is not that of a run of classify, or damaged"):
        recur.load(folder)


def test_parts_are_cut_alike_from_each_class():
    numbers = np.array([0] * 50 + [1] * 30 + [2] * 4)
    train, validation, test = split(numbers, 0.1, 0.2)
    assert sorted([*train, *validation, *test]) == list(range(84))
    assert np.bincount(numbers[test]).tolist() == [10, 6, 1]
    assert np.bincount(numbers[validation]).tolist() == [4, 2, 1]
    assert all(np.array_equal(a, b) for a, b in zip(split(numbers, 0.1, 0.2), (train, validation, test), strict=True))


def test_scores_of_predictions_known_by_hand():
    guesses = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.5, 0.25, 0.25]], dtype=np.float32)
    scores = score(guesses, np.array([0, 1, 1, 0]))
    assert scores.accuracy == 0.75
    assert scores.confusion == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores.loss == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4) + math.log(0.5)) / 4)


def test_intervals_known_from_tables():
    # Newcombe 1998, table I: 81 of 263
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert mean_interval([0.8, 0.9, 1.0]) == pytest.approx((0.9, 4.303 * 0.1 / math.sqrt(3)))
    assert mean_interval([0.5])[1] == math.inf


def test_options_come_from_toml_with_unknown_keys_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('train = "a.csv"\nhidden-size = 7\ncell = ["gru", "lstm"]\nseed = 4\nmax_length = 9\n')
    made = make_options(ClassifyOptions, read_toml(path), str(path))
    assert (made.hidden_size, made.cell, made.seed, made.max_length) == (7, ("gru", "lstm"), (4,), 9)
    for text, message in {
        'train = "a"\nhiden_size = 7': r"run\.toml: there is no option 'hiden_size', did you mean 'hidden_size'\?",
        'train = "a"\nepochs = "ten"': r"run\.toml: --epochs is not right: Expected `int`, got `str`, got 'ten'",
        "epochs = 3": r"run\.toml: --train is required",
        "epochs = ": r"run\.toml is not a TOML file",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            make_options(ClassifyOptions, read_toml(path), str(path))
    with pytest.raises(InputError, match=r"--options .*none\.toml does not exist"):
        read_toml(tmp_path / "none.toml")


def test_every_option_is_documented():
    docs = field_docs(ClassifyOptions)
    assert set(docs) == {field.name for field in dataclasses.fields(ClassifyOptions)}
    assert all(doc.endswith(".") for doc in docs.values())


def test_options_in_config_make_the_same_options_again(files, tmp_path):
    folder = run(files, tmp_path, cell="gru", seed=5, max_length=None)
    stored = json.loads((folder / "config.json").read_text())["options"]
    made = make_options(ClassifyOptions, stored, "config.json")
    assert (
        made.plain()
        == ClassifyOptions(**SMALL, train=files[0], test=files[1], cell="gru", seed=5, max_length=None).plain()
    )


def test_nothing_is_written_outside_the_run_folder(files, tmp_path, monkeypatch, capsys):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    run(files, tmp_path)
    assert not list(inside.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside", "run", "test.csv", "train.csv"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "Lightning" not in err


def test_bad_rows_of_the_test_file_are_counted_too(files, tmp_path):
    with open(files[1], "a", encoding="utf-8") as file:
        file.write("one,two,three\n,\n")
    with pytest.raises(InputError, match=r"test\.csv, line 22: expected 2 fields as in the header, found 3"):
        run(files, tmp_path)
    folder = run(files, tmp_path, skip_bad_rows=True)
    notes = json.loads((folder / "metrics.json").read_text())["notes"]
    assert any("2 bad rows of" in note and "test.csv" in note for note in notes)
    scores = recur.load(folder).evaluate(files[1], skip_bad_rows=True)
    assert any("2 bad rows of" in note for note in scores.notes)


def test_a_row_without_a_label_is_a_bad_row(files, tmp_path):
    write(files[0], [*rows(40), ("nothing said", "")])
    with pytest.raises(
        InputError, match=r"train\.csv, line 42: expected a value as 'label', found none; correct it, or"
    ):
        run(files, tmp_path)


def test_scoring_on_the_training_file_is_said(files, tmp_path):
    predictor = recur.load(run(files, tmp_path))
    assert any("is the file that the network was trained on" in note for note in predictor.evaluate(files[0]).notes)
    assert not predictor.evaluate(files[1]).notes


def test_evidence_tables_are_no_larger_than_the_data(files, tmp_path):
    folder = run(files, tmp_path, evidence=3)
    assert (folder / "model.safetensors").stat().st_size < 2_000_000


def test_options_that_no_run_can_have(files, tmp_path):
    with pytest.raises(InputError, match="--seed must be from 0 to 4294967295, got"):
        run(files, tmp_path, seed=2**32)
    folder = run(files, tmp_path)
    (folder / "metrics.json").unlink()
    with pytest.raises(InputError, match="there is no option 'epoch', did you mean 'epochs'"):
        resumed_options(CLASSIFY, {"out": str(folder), "epoch": 3})
    with pytest.raises(InputError, match="--seed is not right"):
        resumed_options(CLASSIFY, {"out": str(folder), "seed": 1.5})
    with pytest.raises(InputError, match=r"--options .* cannot be read"):
        read_toml(tmp_path)


def test_labels_that_look_like_numbers(files, tmp_path):
    for path in files:
        changed = path.read_text().replace("pos", "--1").replace("neg", "1")
        path.write_text(changed)
    assert recur.load(run(files, tmp_path)).labels == ["--1", "1"]


def test_vectors_of_another_language_are_refused(files, tmp_path):
    (tmp_path / "v.txt").write_text("好 1 2\n坏 3 4\n", encoding="utf-8")
    before = (run(files, tmp_path) / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"v\.txt has none of the \d+ words of the texts"):
        run(files, tmp_path, vectors=str(tmp_path / "v.txt"), overwrite=True)
    # the run that was to be replaced is still there
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
