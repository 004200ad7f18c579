import json
import mmap
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recur.data import (
    PAD,
    UNKNOWN,
    Indexer,
    LengthBatches,
    Sequences,
    SequenceWriter,
    Vocabulary,
    index_tokens,
    truncate,
)
from recur.errors import InputError, RunError

quick = settings(max_examples=50, deadline=None)

TEXTS = [["b", "a", "b"], ["c", "a", "b"], [], ["d"]]
token_lists = st.lists(st.lists(st.sampled_from(["a", "b", "c", "dd", PAD, UNKNOWN, "我"]), max_size=6), max_size=8)


def test_words_stand_by_frequency_and_ties_by_spelling() -> None:
    vocabulary = Vocabulary.build(iter(TEXTS))
    assert vocabulary.tokens == [PAD, UNKNOWN, "b", "a", "c", "d"]
    assert vocabulary == Vocabulary.build(reversed(TEXTS))
    assert len(vocabulary) == 6
    assert "c" in vocabulary
    assert UNKNOWN not in vocabulary


def test_size_counts_ordinary_words_and_min_count_their_frequency() -> None:
    assert Vocabulary.build(TEXTS, size=2).words == ["b", "a"]
    assert Vocabulary.build(TEXTS, min_count=2).words == ["b", "a"]
    assert Vocabulary.build(TEXTS, size=1, min_count=2).words == ["b"]
    assert Vocabulary.build(TEXTS, size=99).words == ["b", "a", "c", "d"]
    assert Vocabulary.build([]).tokens == [PAD, UNKNOWN]


def test_ids_and_back() -> None:
    vocabulary = Vocabulary(["b", "a"])
    ids = vocabulary.ids(["a", "x", "b", PAD, UNKNOWN])
    assert ids.dtype == np.int32
    assert ids.tolist() == [3, 1, 2, 1, 1]  # a text cannot hold padding
    assert [vocabulary.token(id) for id in ids[:3]] == ["a", UNKNOWN, "b"]
    assert vocabulary.token(0) == PAD
    assert vocabulary.ids([]).tolist() == []


def test_words_are_all_there_is_to_save() -> None:
    vocabulary = Vocabulary.build(TEXTS)
    again = Vocabulary(json.loads(json.dumps(vocabulary.words)))
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again != Vocabulary(["b"])


def test_wrong_arguments_of_a_vocabulary() -> None:
    with pytest.raises(InputError, match="words must differ from each other and from <pad> and <unk>, got 'a' twice"):
        Vocabulary(["a", "b", "a"])
    with pytest.raises(InputError, match="got '<unk>' twice"):
        Vocabulary(["a", UNKNOWN])
    with pytest.raises(InputError, match=r"id must be in 0..2, got 3"):
        Vocabulary(["a"]).token(3)
    with pytest.raises(InputError, match=r"id must be in 0..2, got -1"):
        Vocabulary(["a"]).token(-1)
    with pytest.raises(InputError, match="size must be at least 1, got 0"):
        Vocabulary.build(TEXTS, size=0)
    with pytest.raises(InputError, match="min_count must be at least 1, got -1"):
        index_tokens(TEXTS, min_count=-1)


@quick
@given(token_lists, st.none() | st.integers(1, 4), st.integers(1, 3))
def test_one_pass_gives_what_two_give(texts: list[list[str]], size: int | None, min_count: int) -> None:
    vocabulary, rows = index_tokens(iter(texts), size, min_count)
    assert vocabulary == Vocabulary.build(texts, size, min_count)
    assert [row.tolist() for row in rows] == [vocabulary.ids(text).tolist() for text in texts]
    assert rows.values.dtype == np.int32


def test_texts_are_held_in_four_bytes_per_token() -> None:
    words = [f"word{i}" for i in range(1000)]
    tracemalloc.start()
    _, rows = index_tokens(list(words) for _ in range(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.values.size == 1_000_000
    assert peak < 24_000_000  # codes, their growth and the result; a list of lists would take 8 MB for pointers alone


@quick
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=6))
def test_sequences_give_back_what_they_were_made_of(rows: list[list[int]]) -> None:
    sequences = Sequences.of(iter(rows))
    assert len(sequences) == len(rows)
    assert [row.tolist() for row in sequences] == rows
    assert sequences.lengths.tolist() == [len(row) for row in rows]
    assert sequences.values.dtype == np.int32
    assert sequences.offsets.dtype == np.int64
    arrays = Sequences.of(np.array(row, dtype=np.int64) for row in rows)
    assert arrays.values.tolist() == sequences.values.tolist()
    assert arrays.offsets.tolist() == sequences.offsets.tolist()


@quick
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=7),
    st.integers(1, 6),
    st.sampled_from(["first", "last"]),
)
def test_take_truncate_and_padded_agree_with_lists(
    rows: list[list[int]], numbers: list[int], max_length: int, keep: str
) -> None:
    sequences = Sequences.of(rows)
    index = np.array([number % len(rows) for number in numbers], dtype=np.int64)
    taken = [rows[i] for i in index]
    assert [row.tolist() for row in sequences.take(index)] == taken
    cut = [row[:max_length] if keep == "first" else row[-max_length:] for row in rows]
    assert [row.tolist() for row in sequences.truncate(max_length, keep)] == cut  # type: ignore[arg-type]
    assert [truncate(row, max_length, keep).tolist() for row in sequences] == cut  # type: ignore[arg-type]
    table, lengths = sequences.padded(index)
    longest = max([1, *map(len, taken)])
    assert table.shape == (len(taken), longest)
    assert table.tolist() == [row + [0] * (longest - len(row)) for row in taken]
    assert lengths.tolist() == [len(row) for row in taken]
    assert table.dtype == lengths.dtype == np.int64


def test_indexing_sequences() -> None:
    rows = Sequences.of([[1], [2, 3]])
    assert rows[-1].tolist() == [2, 3]
    with pytest.raises(IndexError, match="sequence 2 of 2"):
        rows[2]
    with pytest.raises(IndexError, match="sequence -3 of 2"):
        rows[-3]


@pytest.mark.parametrize("offsets", [[], [0, 2], [1, 3], [0, 2, 1, 3], [[0, 3]]])
def test_offsets_must_fit_the_values(offsets: list[int]) -> None:
    with pytest.raises(
        InputError, match="offsets must be one row of numbers that rise from 0 to 3, the number of values"
    ):
        Sequences(np.arange(3, dtype=np.int32), np.array(offsets, dtype=np.int64))


def test_wrong_arguments_of_truncate() -> None:
    ids = np.arange(3, dtype=np.int32)
    with pytest.raises(InputError, match="max_length must be at least 1, got 0; leave it out to keep texts whole"):
        truncate(ids, 0)
    with pytest.raises(InputError, match="keep must be 'first' or 'last', got 'middle'"):
        Sequences.of([ids]).truncate(2, "middle")  # type: ignore[arg-type]


@quick
@given(token_lists, st.none() | st.integers(1, 4), st.integers(1, 3), st.integers(0, 12), st.data())
def test_ids_in_a_file_are_those_in_memory(
    texts: list[list[str]], size: int | None, min_count: int, in_memory: int, data: st.DataObject
) -> None:
    parts = data.draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts)))
    with tempfile.TemporaryDirectory() as folder:
        indexers = Indexer(2), Indexer(2, folder, in_memory=in_memory)
        for indexer in indexers:
            for tokens, part in zip(texts, parts, strict=True):
                indexer.add(tokens, part)
        (vocabulary, here), (again, filed) = (indexer.finish(size, min_count) for indexer in indexers)
        assert os.listdir(folder) == []
        counted = [text for text, part in zip(texts, parts, strict=True) if part == 0]
        assert vocabulary == again == Vocabulary.build(counted, size, min_count)
        for number, (one, other) in enumerate(zip(here, filed, strict=True)):
            own = [text for text, part in zip(texts, parts, strict=True) if part == number]
            assert [row.tolist() for row in one] == [vocabulary.ids(text).tolist() for text in own]
            assert one.values.tobytes() == other.values.tobytes()
            assert one.offsets.tobytes() == other.offsets.tobytes()


def test_batches_from_a_file_are_those_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recur.data.mapped.RESIDENT", 1)  # memory is given back after every batch
    monkeypatch.setattr("recur.data.sequences.CHUNK", 7)  # the file is written in many pieces
    rows = [[1 + (i * j) % 17 for j in range(i % 9)] for i in range(200)]
    writer = SequenceWriter(tmp_path, in_memory=10)
    for row in rows:
        writer.append(row)
    filed = writer.finish()
    assert isinstance(filed.values.base, np.memmap | mmap.mmap)
    for one, other in ((Sequences.of(rows), filed), (Sequences.of(rows).truncate(4), filed.truncate(4))):
        both = (LengthBatches(sequences, np.arange(200) % 3, 8, seed=3) for sequences in (one, other))
        for a, b in zip(*both, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_where_words_are_too_many_the_rare_ones_are_dropped_and_no_id_is_that_of_another_word(tmp_path: Path) -> None:
    texts = [[f"often{i % 3}", f"once{i}", f"often{i % 2}", f"seldom{i % 40}"] for i in range(400)]
    for folder in (None, tmp_path):
        indexer = Indexer(folder=folder, most_words=60, in_memory=50)
        for tokens in texts:
            indexer.add(tokens)
        vocabulary, (rows,) = indexer.finish(size=5)
        assert indexer.dropped >= 1
        assert vocabulary.words[:3] == ["often0", "often1", "often2"]
        for tokens, row in zip(texts, rows, strict=True):
            for token, id in zip(tokens, row.tolist(), strict=True):
                assert vocabulary.token(id) in (token, UNKNOWN)
                assert token not in vocabulary.words[:3] or vocabulary.token(id) == token
    few = Indexer(most_words=60)
    few.add(["a", "b"])
    few.finish()
    assert few.dropped == 0


def test_a_folder_without_room_for_the_ids_is_named(tmp_path: Path) -> None:
    writer = SequenceWriter(tmp_path / "gone", in_memory=2)
    with pytest.raises(RunError, match=r"gone must have room for the ids of the texts, 12 bytes so far: No such file"):
        writer.append([1, 2, 3])
