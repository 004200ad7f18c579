"""The main job on real reviews: a small part of IMDB, from the file to a score well above chance."""

import csv
import json
from itertools import islice

import pytest

import recur
from recur.data import read_table
from recur.tasks.classify.options import ClassifyOptions
from recur.tasks.classify.task import CLASSIFY
from recur.tasks.job_run import train_run


@pytest.mark.data
@pytest.mark.slow
def test_reviews_are_learned_from_a_table(data_folder, tmp_path):
    for part, count in (("train", 3000), ("test", 1000)):
        with open(tmp_path / f"{part}.csv", "w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"])
            writer.writeheader()
            writer.writerows(islice(read_table(data_folder / "imdb" / f"{part}.csv.gz", ["text", "label"]), count))
    folder = train_run(
        CLASSIFY,
        ClassifyOptions(
            train=tmp_path / "train.csv",
            test=tmp_path / "test.csv",
            out=tmp_path / "run",
            cell="gru",
            hidden_size=32,
            max_length=150,
            evidence=2,
            epochs=2,
            learning_rate=0.003,
            threads=1,
            vectors=data_folder / "wordvecs" / "glove.6B.50d.top9k.txt.gz",
        ),
    )
    found = json.loads((folder / "metrics.json").read_text())
    assert found["test"]["accuracy"] > 0.75
    assert found["padding_share"] < 0.1
    assert 0.7 < found["baselines"]["nb-svm"]["accuracy"] < 0.95
    assert found["baselines"]["majority"]["accuracy"] < 0.55
    good, bad = recur.load(folder).predict(
        ["A wonderful, moving film with great acting.", "The worst movie ever: boring, bad and a waste of time."]
    )
    assert (good.label, bad.label) == ("1", "0")
