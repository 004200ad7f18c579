"""Tables too large for memory: what goes to a file must give what memory gives, and leave nothing behind."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recur.data import Indexer, read_table
from recur.data.sources import watched
from recur.errors import InputError
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.classify.task import CLASSIFY
from recur.tasks.job_run import train_run

torch.set_num_threads(1)

SMALL = {"epochs": 2, "hidden_size": 4, "embedding_size": 4, "batch_size": 8, "threads": 1, "baselines": False}


def table(path, count, seed=0, classes=("neg", "pos")):
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for i in range(count):
        name = classes[i % len(classes)]
        words = [f"w{word}" for word in rng.zipf(1.5, size=rng.integers(0, 12))]
        lines.append(f"{' '.join([f'is{name}', *words, f'n{seed}x{i}'])},{name}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("options", [{}, {"max_length": 5, "keep": "first"}, {"max_length": 5, "evidence": 2}])
def test_ids_in_files_train_the_same_network_to_the_bit(tmp_path, monkeypatch, options):
    train = table(tmp_path / "train.csv", 120)
    runs = []
    for name, in_memory in (("memory", 1 << 25), ("files", 10)):
        monkeypatch.setattr("recur.data.sequences.IN_MEMORY", in_memory)
        monkeypatch.setattr("recur.data.mapped.RESIDENT", in_memory)
        given = SMALL | {"train": train, "out": tmp_path / name, "min_count": 2} | options
        runs.append(train_run(CLASSIFY, ClassifyOptions(**given)))
    one, other = runs
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    found = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert found[0]["test"] == found[1]["test"]
    assert found[0]["validation"] == found[1]["validation"]
    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", "memory", "files"}
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def test_baselines_of_large_data_learn_from_a_part_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("recur.tasks.classify.task.MOST_ROWS", 20)
    given = SMALL | {"train": table(tmp_path / "train.csv", 200), "out": tmp_path / "run", "baselines": True}
    found = json.loads((train_run(CLASSIFY, ClassifyOptions(**given)) / "metrics.json").read_text())
    note = "the baselines learn from 20 of 144 training texts and are scored on 20 of 40 test texts, drawn by chance"
    assert note in found["notes"]
    assert found["rows"] == {"train": 144, "validation": 16, "test": 40}
    assert found["test"]["rows"] == 40
    assert found["baselines"]["majority"]["accuracy"] in {i / 20 for i in range(21)}


def test_too_many_distinct_words_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("recur.data.vocabulary.MOST_WORDS", 50)
    given = SMALL | {"train": table(tmp_path / "train.csv", 200), "out": tmp_path / "run", "vocabulary": 10}
    folder = train_run(CLASSIFY, ClassifyOptions(**given))
    (note,) = [note for note in json.loads((folder / "metrics.json").read_text())["notes"] if "distinct words" in note]
    assert "were dropped on the way, and are unknown" in note
    assert set(json.loads((folder / "config.json").read_text())["vocabulary"]) >= {"isneg", "ispos", "w1", "w2"}


def test_the_validation_part_may_be_a_file_of_its_own(tmp_path):
    train, validation = table(tmp_path / "train.csv", 100), table(tmp_path / "validation.csv", 30, seed=1)
    with open(validation, "a") as file:
        file.write(train.read_text().splitlines()[1] + "\n,pos\n")
    given = SMALL | {"train": train, "validation": validation, "out": tmp_path / "run"}
    folder = train_run(CLASSIFY, ClassifyOptions(**given))
    found = json.loads((folder / "metrics.json").read_text())
    assert found["rows"] == {"train": 80, "validation": 32, "test": 20}
    assert found["validation"]["rows"] == 32
    assert any(note.startswith("1 of 32 validation texts (3.1%) are in the training file") for note in found["notes"])
    assert "1 empty texts in the validation part; they are scored, as texts of length 0" in found["notes"]
    config = json.loads((folder / "config.json").read_text())
    assert set(config["data"]) == {"train", "validation"}
    assert not any(word.startswith("n1x") for word in config["vocabulary"])
    test = table(tmp_path / "test.csv", 20, seed=2)
    both = train_run(CLASSIFY, ClassifyOptions(**given | {"test": test, "out": tmp_path / "both"}))
    assert json.loads((both / "metrics.json").read_text())["rows"] == {"train": 100, "validation": 32, "test": 20}
    other = table(tmp_path / "other.csv", 10, seed=3, classes=("neg", "odd"))
    with pytest.raises(InputError, match=r"other.csv, line 3: the label 'odd' is not among those of the training data"):
        train_run(CLASSIFY, ClassifyOptions(**given | {"validation": other, "out": tmp_path / "never"}))
    assert not (tmp_path / "never").exists()


def test_reading_tells_how_far_it_is(tmp_path):
    rows = 40_000
    plain = table(tmp_path / "plain.csv", rows)
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    for path in (plain, packed):
        told: list[tuple[Path, int, int]] = []
        reader = read_table(path, ["text", "label"])
        with watched(lambda *now, told=told: told.append(now)):
            read = sum(1 for _ in reader)
        assert read == rows
        done = [done for _, done, _ in told]
        assert len(done) > 2
        assert done == sorted(done)
        assert done[-1] == path.stat().st_size
        assert {(path, path.stat().st_size)} == {(where, total) for where, _, total in told}
        before = len(told)
        assert next(iter(reader))
        assert len(told) == before


def test_ctrl_c_while_reading_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("recur.data.sequences.IN_MEMORY", 10)
    train = table(tmp_path / "train.csv", 100)
    taken = []

    def add(indexer, tokens, part=0):
        whole(indexer, tokens, part)
        taken.append(tokens)
        if len(taken) == 50:
            raise KeyboardInterrupt

    whole = Indexer.add
    monkeypatch.setattr(Indexer, "add", add)
    with pytest.raises(KeyboardInterrupt):
        train_run(CLASSIFY, ClassifyOptions(**SMALL | {"train": train, "out": tmp_path / "run"}))
    assert sum(map(len, taken)) > 10  # there was a file
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
