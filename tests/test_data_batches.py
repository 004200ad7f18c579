import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recur.data import Batch, LengthBatches, PairBatches, Sequences, read_table
from recur.errors import InputError

quick = settings(max_examples=50, deadline=None)


def ragged(lengths: list[int]) -> Sequences:
    return Sequences.of([100 * i + t + 2 for t in range(length)] for i, length in enumerate(lengths))


def make(lengths: list[int], batch_size: int = 3, seed: int = 0, shuffle: bool = True, pool: int = 2) -> LengthBatches:
    return LengthBatches(ragged(lengths), np.arange(len(lengths)) % 2, batch_size, seed, shuffle, pool)


def order(batches: LengthBatches) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


some_lengths = st.lists(st.integers(0, 9), min_size=1, max_size=40)
sizes = st.integers(1, 7)
pools = st.integers(1, 4)


@quick
@given(some_lengths, sizes, pools, st.booleans(), st.integers(0, 3))
def test_every_row_comes_exactly_once_and_whole(
    lengths: list[int], batch_size: int, pool: int, shuffle: bool, epoch: int
) -> None:
    batches = make(lengths, batch_size, shuffle=shuffle, pool=pool)
    batches.set_epoch(epoch)
    seen: list[int] = []
    cells = 0
    delivered = list(batches)
    for batch in delivered:
        rows = batch.index.tolist()
        assert 1 <= len(rows) <= batch_size
        assert batch.tokens.shape == (len(rows), max([1, *(lengths[i] for i in rows)]))
        for row, length, label, i in zip(batch.tokens, batch.lengths, batch.labels, rows, strict=True):
            assert length == lengths[i]
            assert label == i % 2
            assert row.tolist() == [100 * i + t + 2 for t in range(lengths[i])] + [0] * (len(row) - lengths[i])
        seen += rows
        cells += batch.tokens.numel()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(delivered) == len(batches) == -(-len(lengths) // batch_size)
    assert batches.padding_share == pytest.approx(1 - sum(lengths) / cells)


@quick
@given(some_lengths, sizes, pools, st.integers(0, 2**32), st.integers(0, 5))
def test_the_order_is_a_function_of_seed_and_epoch(
    lengths: list[int], batch_size: int, pool: int, seed: int, epoch: int
) -> None:
    walked = make(lengths, batch_size, seed, pool=pool)
    for _ in range(epoch):
        list(walked)
    jumped = make(lengths, batch_size, seed, pool=pool)
    jumped.set_epoch(epoch)
    assert order(walked) == order(jumped)


@quick
@given(some_lengths, sizes, pools, st.booleans(), st.data())
def test_resuming_gives_the_remaining_batches(
    lengths: list[int], batch_size: int, pool: int, shuffle: bool, data: st.DataObject
) -> None:
    whole = make(lengths, batch_size, 5, shuffle, pool)
    straight = [order(whole) for _ in range(3)]
    broken_off = make(lengths, batch_size, 5, shuffle, pool)
    list(broken_off)
    cut = data.draw(st.integers(1, len(broken_off)))
    iterator = iter(broken_off)
    first = [next(iterator).index.tolist() for _ in range(cut)]
    resumed = make(lengths, batch_size, 5, shuffle, pool)
    resumed.load_state_dict(json.loads(json.dumps(broken_off.state_dict())))
    if cut < len(resumed):
        assert first + order(resumed) == straight[1]
    assert order(resumed) == straight[2]


def test_seeds_and_epochs_differ() -> None:
    lengths = [i % 7 for i in range(60)]
    batches = make(lengths)
    first, second = order(batches), order(batches)
    assert first != second
    assert first != order(make(lengths, seed=1))
    assert first == order(make(lengths))


def test_without_shuffle_rows_come_by_length_and_then_number() -> None:
    batches = make([3, 0, 2, 3, 2], batch_size=2, shuffle=False)
    assert order(batches) == order(batches) == [[1, 2], [4, 0], [3]]


def test_an_epoch_left_halfway_begins_again_and_a_whole_one_is_followed_by_the_next() -> None:
    batches = make(list(range(20)))
    expected = order(make(list(range(20))))
    next(iter(batches))
    assert order(batches) == expected
    # a caller who stops after the last batch, without asking for one more, has had the whole epoch
    batches = make(list(range(20)))
    for _, batch in zip(range(len(batches)), batches, strict=False):
        assert isinstance(batch, Batch)
    assert batches.state_dict()["delivered"] == len(batches)
    assert order(batches) != expected
    assert batches.epoch == 1


def test_batches_are_int64_tensors_and_labels_may_be_missing() -> None:
    (batch,) = LengthBatches(ragged([2, 0]), None, 4, seed=0, shuffle=False)
    assert all(isinstance(part, Tensor) and part.dtype == torch.int64 for part in batch)
    assert batch.tokens.tolist() == [[0, 0], [2, 3]]
    assert batch.lengths.tolist() == [0, 2]
    assert batch.labels.tolist() == [-1, -1]


def test_empty_texts_alone_and_no_rows_at_all() -> None:
    (batch,) = make([0, 0])
    assert batch.tokens.tolist() == [[0], [0]]
    nothing = LengthBatches(ragged([]), [], 2, seed=0)
    assert list(nothing) == list(nothing) == []
    assert len(nothing) == 0
    assert nothing.padding_share == 0.0


def test_collation_is_a_matter_of_milliseconds() -> None:
    batches = LengthBatches(Sequences.of(np.ones(300, dtype=np.int32) for _ in range(6400)), None, 64, seed=0)
    start = time.process_time()
    assert sum(int(batch.lengths.sum()) for batch in batches) == 1_920_000
    assert time.process_time() - start < 2  # 0.05 s on an idle core


@pytest.mark.parametrize("batch_size", [32, 64, 128])
def test_padding_is_a_small_part_of_that_of_random_batches(batch_size: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5.3, 0.6, 20_000).astype(int)
    offsets = np.concatenate(([0], lengths.cumsum()))
    batches = LengthBatches(Sequences(np.ones(offsets[-1], dtype=np.int32), offsets), None, batch_size, seed=0)
    at_random = sum(batch_size * lengths[i : i + batch_size].max() for i in range(0, 20_000, batch_size))
    assert batches.padding_share < 0.08
    assert batches.padding_share < 0.1 * (1 - lengths.sum() / at_random)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        make([1], batch_size=0)
    with pytest.raises(InputError, match="pool must be at least 1, got 0"):
        make([1], pool=0)
    with pytest.raises(InputError, match=r"labels must be one for each of the 2 sequences, got shape \[3\]"):
        LengthBatches(ragged([1, 2]), [0, 1, 0], 2, seed=0)


def test_a_state_of_other_data_is_refused() -> None:
    state = make([1, 2, 3]).state_dict()
    with pytest.raises(
        InputError,
        match=r"the saved place in the data belongs to rows 3, ids 6, .*seed 0.*, but the data are now rows 2, .*; "
        "resume with the data and options of the start, or begin a new run",
    ):
        make([1, 2]).load_state_dict(state)
    with pytest.raises(InputError, match="the saved place in the data belongs to"):
        make([1, 2, 3], batch_size=2).load_state_dict(state)


@pytest.mark.data
def test_padding_is_under_a_tenth_on_imdb() -> None:
    if "RECUR_TEST_DATA" not in os.environ:
        pytest.skip("RECUR_TEST_DATA is not set")
    table = read_table(Path(os.environ["RECUR_TEST_DATA"]) / "imdb" / "train.csv.gz", ["text"])
    rows = Sequences.of(np.ones(len(row["text"].split()), dtype=np.int32) for row in table)
    for cut in (rows, rows.truncate(400)):
        for batch_size in (32, 64, 128):
            assert LengthBatches(cut, None, batch_size, seed=0).padding_share < 0.1


some_pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40)


def pairs(lengths: list[tuple[int, int]], batch_size: int = 3, shuffle: bool = True) -> PairBatches:
    sources, targets = (ragged([pair[side] for pair in lengths]) for side in (0, 1))
    return PairBatches(sources, targets, batch_size, seed=0, shuffle=shuffle, pool=2)


@quick
@given(some_pairs, sizes, st.booleans())
def test_every_pair_comes_exactly_once_and_together(
    lengths: list[tuple[int, int]], batch_size: int, shuffle: bool
) -> None:
    batches = pairs(lengths, batch_size, shuffle)
    seen: list[int] = []
    cells = 0
    for batch in batches:
        rows = batch.index.tolist()
        seen += rows
        cells += batch.source.numel() + batch.target.numel()
        for side, table, counts in ((0, batch.source, batch.source_lengths), (1, batch.target, batch.target_lengths)):
            assert counts.tolist() == [lengths[i][side] for i in rows]
            for row, i in zip(table.tolist(), rows, strict=True):
                assert [value for value in row if value] == [100 * i + t + 2 for t in range(lengths[i][side])]
    assert sorted(seen) == list(range(len(lengths)))
    assert batches.padding_share == pytest.approx(1 - sum(map(sum, lengths)) / cells)


def test_pairs_go_on_where_they_were_left() -> None:
    lengths = [(i % 7, i % 5) for i in range(23)]
    whole = [batch.index.tolist() for batch in pairs(lengths)]
    first = pairs(lengths)
    head = [batch.index.tolist() for _, batch in zip(range(3), first, strict=False)]
    second = pairs(lengths)
    second.load_state_dict(first.state_dict())
    assert head + [batch.index.tolist() for batch in second] == whole


def test_pairs_sorted_by_both_lengths_waste_little() -> None:
    generator = np.random.default_rng(0)
    lengths = [(int(a), max(1, int(a) + int(b))) for a, b in generator.integers((1, -5), (40, 6), (2000, 2))]
    assert pairs(lengths, batch_size=20, shuffle=False).padding_share < 0.08


def test_pairs_of_different_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="one for each of the 2 sources, got 1"):
        PairBatches(ragged([1, 2]), ragged([1]), 2, seed=0)
