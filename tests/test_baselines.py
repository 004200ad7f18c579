"""Baselines on rows whose answer is known."""

import sys

import numpy as np
import pytest
import torch

from recur.data.sequences import Sequences
from recur.errors import InputError, MissingExtra
from recur.tasks.classify.baselines import BASELINES, Baseline, Part, run_baselines

EMPTY = Part(Sequences.of([]), np.zeros(0, np.int64))


def word_decides(rows: int, classes: int, seed: int) -> Part:
    """Rows of noise, some empty but for the word that names the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    texts = []
    for label in labels:
        text = random.integers(100, 130, random.integers(0, 9)).tolist()
        text.insert(int(random.integers(0, len(text) + 1)), 2 + int(label))
        texts.append(text)
    return Part(Sequences.of(texts), labels)


def order_decides(rows: int, seed: int) -> Part:
    """Class 1 has 2 before 3, class 0 has 3 before 2, side by side; the words are the same."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = []
    for label in labels:
        text = random.integers(100, 130, 6).tolist()
        place = int(random.integers(0, 7))
        texts.append(text[:place] + ([2, 3] if label else [3, 2]) + text[place:])
    return Part(Sequences.of(texts), labels)


def by_name(results: list[Baseline]) -> dict[str, Baseline]:
    return {result.name: result for result in results}


def test_majority_is_the_share_of_the_largest_training_class() -> None:
    rows = Sequences.of([[2]] * 5)
    train, test = Part(rows, np.array([0, 2, 2, 1, 2])), Part(rows, np.array([2, 2, 0, 0, 1]))
    [result] = run_baselines(train, EMPTY, test, vocabulary_size=3, classes=3, names=["majority"])
    assert (result.validation, result.test) == (None, 0.4)


@pytest.mark.parametrize("classes", [2, 4])
def test_where_a_word_decides_all_but_majority_are_right(classes: int) -> None:
    parts = [word_decides(rows, classes, seed) for seed, rows in enumerate((800, 100, 200))]
    seen: list[str] = []
    results = run_baselines(*parts, vocabulary_size=130, classes=classes, progress=seen.append)
    assert seen == [result.name for result in results] == list(BASELINES)
    for result in results[1:]:
        assert result.test >= 0.97, result
        assert result.description
        assert result.seconds > 0
    assert results[0].test < 0.65


def test_where_order_decides_only_word_pairs_are_right() -> None:
    parts = [order_decides(rows, seed) for seed, rows in enumerate((400, 200, 400))]
    results = by_name(run_baselines(*parts, vocabulary_size=130, classes=2))
    for blind in ("majority", "bag-of-words", "embedding-bag"):
        assert results[blind].test < 0.6, results[blind]
    for name in ("nb-svm", "ngram-bag"):
        assert results[name].test >= 0.97, results[name]


def test_many_classes_and_classes_that_training_lacks() -> None:
    train, validation, test = (word_decides(rows, 50, seed) for seed, rows in enumerate((600, 50, 200)))
    names = ["bag-of-words", "nb-svm"]
    results = run_baselines(train, validation, test, vocabulary_size=130, classes=60, names=names)
    assert min(result.test for result in results) > 0.9
    one = Part(train.sequences, np.full(600, 3))
    for result in run_baselines(one, validation, test, vocabulary_size=130, classes=60):
        assert result.test == (test.labels == 3).mean(), result


def test_empty_rows_and_empty_parts_are_allowed() -> None:
    train = Part(Sequences.of([[], [2, 3], [4], [], [2], [3, 3]]), np.array([0, 1, 1, 0, 1, 1]))
    for result in run_baselines(train, EMPTY, train, vocabulary_size=5, classes=2):
        assert result.validation is None
        assert result.test >= 4 / 6
    blank = Part(Sequences.of([[], [], []]), np.array([0, 1, 1]))
    for result in run_baselines(blank, blank, EMPTY, vocabulary_size=5, classes=2):
        assert result.test is None


def test_the_same_seed_gives_the_same_scores_and_nothing_of_the_callers_changes() -> None:
    parts = [word_decides(60, 2, seed) for seed in range(3)]
    before = [part.sequences.values.copy() for part in parts]
    state = torch.get_rng_state()
    runs = [run_baselines(*parts, vocabulary_size=130, classes=2, seed=7) for _ in range(2)]
    assert [(r.validation, r.test) for r in runs[0]] == [(r.validation, r.test) for r in runs[1]]
    assert torch.equal(torch.get_rng_state(), state)
    for part, values in zip(parts, before, strict=True):
        assert np.array_equal(part.sequences.values, values)


def test_wrong_arguments_are_named() -> None:
    part = word_decides(5, 2, 0)
    with pytest.raises(InputError, match=r"train must have at least one row, got 0"):
        run_baselines(EMPTY, part, part, vocabulary_size=130, classes=2)
    with pytest.raises(InputError, match=r"a baseline must be one of .* got 'nbsvm', did you mean 'nb-svm'\?"):
        run_baselines(part, part, part, vocabulary_size=130, classes=2, names=["nbsvm"])


def test_without_scikit_learn_the_command_to_install_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    part = word_decides(5, 2, 0)
    with pytest.raises(MissingExtra, match=r"scikit-learn: pip install 'recur\[train\]'"):
        run_baselines(part, part, part, vocabulary_size=130, classes=2, names=["bag-of-words"])
    run_baselines(part, part, part, vocabulary_size=130, classes=2, names=["majority", "embedding-bag"])
