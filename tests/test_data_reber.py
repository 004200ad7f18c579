import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from recur.data import (
    embedded_reber,
    embedded_reber_table,
    is_embedded_reber,
    is_reber,
    read_table,
    write_reber_files,
)
from recur.data.reber import ALPHABET, reber
from recur.errors import InputError, RunError


# the examples of Cleeremans, Servan-Schreiber & McClelland (1989), and strings read off Reber's diagram by hand
@pytest.mark.parametrize("text", ["BTXSE", "BPVVE", "BTSSXSE", "BTXXVVE", "BPTVPXVVE", "BTSXXTVVE", "BPTTTVPSE"])
def test_strings_of_the_grammar(text: str) -> None:
    assert is_reber(text)
    assert is_embedded_reber(f"BT{text}TE")
    assert is_embedded_reber(f"BP{text}PE")
    assert not is_embedded_reber(f"BT{text}PE")
    assert not is_embedded_reber(f"BP{text}TE")


@pytest.mark.parametrize(
    "text", ["", "B", "BTXS", "BTXSEE", "BTSSE", "BPXVE", "TXSE", "BTPSE", "BTXVE", "btxse", "BT XSE", "BSXSE", "我"]
)
def test_strings_not_of_the_grammar(text: str) -> None:
    assert not is_reber(text)
    assert not is_embedded_reber(f"BT{text}TE")


def test_strings_drawn_are_of_the_grammar_and_use_all_of_it() -> None:
    rng = random.Random(0)
    drawn = [reber(rng) for _ in range(2000)]
    assert all(map(is_reber, drawn))
    pairs = Counter(pair for text in drawn for pair in pairwise(text))
    assert {"".join(pair) for pair in pairs} == {
        *("BT", "BP", "TS", "TX", "SS", "SX", "PT", "PV", "TT", "TV", "XX", "XT", "XV", "XS", "VP", "VV", "PX", "PS"),
        *("SE", "VE"),
    }
    first = Counter(text[1] for text in drawn)
    assert first["T"] / 2000 == pytest.approx(0.5, abs=0.05)
    embedded = [embedded_reber(rng) for _ in range(500)]
    assert all(map(is_embedded_reber, embedded))
    assert {text[1] for text in embedded} == {"T", "P"}


@pytest.fixture(scope="module")
def table() -> list[tuple[str, str]]:
    return embedded_reber_table(2000, seed=1, min_length=12, max_length=40)


def test_labels_of_the_table_are_true(table: list[tuple[str, str]]) -> None:
    for text, label in table:
        assert set(text) <= set(ALPHABET)
        assert is_embedded_reber(text) == (label == "valid")
        mended = text[:-2] + text[1] + text[-1]
        assert is_embedded_reber(mended)


def test_the_table_is_balanced_in_every_four_rows(table: list[tuple[str, str]]) -> None:
    for start in range(0, len(table), 4):
        kinds = {(text[1], text[-2], label) for text, label in table[start : start + 4]}
        assert kinds == {("T", "T", "valid"), ("P", "P", "valid"), ("T", "P", "broken"), ("P", "T", "broken")}


def test_no_inner_string_comes_twice_and_lengths_are_spread(table: list[tuple[str, str]]) -> None:
    assert len({text[2:-2] for text, _ in table}) == len(table)
    lengths = np.array([len(text) for text, _ in table])
    assert lengths.min() == 12
    assert lengths.max() == 40
    assert (np.bincount(lengths)[24:] > 40).all()
    assert abs(lengths[:1000].mean() - lengths[1000:].mean()) < 1  # any cut gives two parts of a kind


def test_the_table_is_a_function_of_its_arguments(table: list[tuple[str, str]]) -> None:
    assert embedded_reber_table(2000, 1, 12, 40) == table
    assert embedded_reber_table(2000, 2, 12, 40) != table


def test_counts_of_neighbouring_symbols_say_nothing() -> None:
    # least squares on the counts of symbols and pairs: trained on one half, at chance on the other
    rows = embedded_reber_table(6000, seed=0)
    names = sorted({"".join(pair) for text, _ in rows for pair in pairwise(text)} | set(ALPHABET))
    features = np.array([[text.count(name) for name in names] + [1] for text, _ in rows], dtype=float)
    for values in (features, np.minimum(features, 1)):
        target = np.array([1.0 if label == "valid" else -1.0 for _, label in rows])
        weights = np.linalg.lstsq(values[:3000], target[:3000], rcond=None)[0]
        accuracy = (np.sign(values[3000:] @ weights) == target[3000:]).mean()
        assert 0.46 < accuracy < 0.54


def test_all_strings_of_a_length_can_be_drawn() -> None:
    assert sorted(text[2:-2] for text, _ in embedded_reber_table(2, 0, 9, 9)) == ["BPVVE", "BTXSE"]
    rows = embedded_reber_table(16, seed=0, min_length=14, max_length=14)
    assert len({text[2:-2] for text, _ in rows}) == 16


def test_wrong_arguments() -> None:
    with pytest.raises(
        InputError, match=r"min_length and max_length must be 9 <= min_length <= max_length, got 8 and 20: the shortest"
    ):
        embedded_reber_table(2, 0, 8, 20)
    with pytest.raises(InputError, match="got 21 and 20"):
        embedded_reber_table(2, 0, 21, 20)
    with pytest.raises(
        InputError, match=r"n must be in 1..16, the number of Reber strings .* 14..14 symbols, got 17; a "
    ):
        embedded_reber_table(17, 0, 14, 14)
    with pytest.raises(InputError, match="n must be in 1"):
        embedded_reber_table(0, 0, 9, 20)


def test_files_for_training_and_test(tmp_path: Path) -> None:
    train, test = write_reber_files(tmp_path / "new" / "folder", n_train=40, n_test=20, seed=3)
    assert (train.name, test.name) == ("train.csv", "test.csv")
    parts = [[(row["text"], row["label"]) for row in read_table(path, ["text", "label"])] for path in (train, test)]
    assert [len(part) for part in parts] == [40, 20]
    assert parts[0] + parts[1] == embedded_reber_table(60, 3)
    assert train.read_text(encoding="utf-8").startswith("text,label\n")
    assert [Counter(label for _, label in part) for part in parts] == [
        {"valid": 20, "broken": 20},
        {"valid": 10, "broken": 10},
    ]
    before = train.read_bytes()
    write_reber_files(tmp_path / "new" / "folder", 40, 20, seed=3)
    assert train.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"the folder .*/file cannot be made: .*; give another one"):
        write_reber_files(tmp_path / "file", 4, 4, seed=0)
