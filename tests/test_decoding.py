"""Writing token by token: a table of probabilities stands for a model, so that every row can be counted."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from recur.errors import InputError
from recur.models.decoding import Hypothesis, beam_search, draw, greedy, length_penalty, sample

END = 3


class Table:
    """A model whose next token depends on the source and on all that was written; ids 4 and up and the end."""

    def __init__(self, size: int = 7, seed: int = 0, sharp: float = 2.0) -> None:
        self.size, self.seed, self.sharp, self.steps = size, seed, sharp, 0

    def row(self, history: tuple[int, ...]) -> Tensor:
        seed = self.seed
        for token in history:
            seed = (seed * 31 + token + 1) % 1_000_003
        return self.sharp * torch.randn(self.size, generator=torch.Generator().manual_seed(seed))

    def step(self, tokens: Tensor, state: list[tuple[int, ...]]) -> tuple[Tensor, list[tuple[int, ...]]]:
        self.steps += 1
        after = [(*history, token) for history, token in zip(state, tokens.tolist(), strict=True)]
        return torch.stack([self.row(history) for history in after]), after

    def select(self, state: list[tuple[int, ...]], rows: Tensor) -> list[tuple[int, ...]]:
        return [state[row] for row in rows.tolist()]


def every_row(table: Table, source: int, max_length: int, alpha: float = 0.0, min_length: int = 0) -> list[Hypothesis]:
    """Return all rows that can be written, best first."""
    found = []
    words = [token for token in range(table.size) if token not in (0, 2, END)]
    for length in range(1, max_length + 1):
        for tokens in itertools.product(words, repeat=length):
            for ends in (True, False):
                written = [*tokens[:-1], END] if ends else list(tokens)
                if (ends and (tokens[-1] != words[0] or length <= min_length)) or (not ends and length < max_length):
                    continue
                history, total = (source, 2), 0.0
                for token in written:
                    total += float(table.row(history).log_softmax(0)[token])
                    history = (*history, token)
                score = total / length_penalty(length, alpha)
                found.append(Hypothesis(written[:-1] if ends else written, total, score, ends))
    return sorted(found, key=lambda one: (-one.finished, -one.score))


def begin(sources: int) -> tuple[list[tuple[int, ...]], Tensor]:
    return [(source,) for source in range(sources)], torch.full((sources,), 2)


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    assert [one.finished for one in found] == [one.finished for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("min_length", [0, 2])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_rows(alpha: float, min_length: int) -> None:
    table, best = Table(), 10
    state, first = begin(3)
    options = {"beam": 4**3, "max_length": 4, "alpha": alpha, "min_length": min_length, "best": best}
    found = beam_search(table, state, first, **options)
    for source, rows in enumerate(found):
        assert_same(rows, every_row(table, source, 4, alpha, min_length)[:best])


def test_a_beam_of_one_is_greedy() -> None:
    for seed in range(20):
        table = Table(seed=seed, size=6)
        one = [rows[0] for rows in beam_search(table, *begin(4), beam=1, max_length=12)]
        assert_same(one, greedy(table, *begin(4), max_length=12))


def test_sources_do_not_depend_on_each_other() -> None:
    table = Table(size=9, sharp=1.0)
    together = beam_search(table, *begin(6), beam=3, best=3, max_length=torch.tensor([3, 9, 9, 5, 9, 1]), alpha=0.6)
    for source, limit in enumerate([3, 9, 9, 5, 9, 1]):
        alone = beam_search(table, [(source,)], torch.tensor([2]), beam=3, best=3, max_length=limit, alpha=0.6)
        assert_same(together[source], alone[0])
    rows = greedy(table, *begin(30), max_length=20)
    for source, row in enumerate(rows):
        assert_same([row], greedy(table, [(source,)], torch.tensor([2]), max_length=20))


def test_a_wider_beam_finds_what_greedy_misses() -> None:
    # a: 0.6, then nothing better than 0.4; b: 0.4, then the end for sure
    class Trap(Table):
        def row(self, history: tuple[int, ...]) -> Tensor:
            shares = {4: [0, 0.3, 0, 0.4, 0.3, 0], 5: [0, 0, 0, 1, 0, 0]}.get(history[-1], [0, 0, 0, 0, 0.6, 0.4])
            return torch.tensor(shares, dtype=torch.float32).log()

    trap = Trap(size=6)
    (likeliest,) = greedy(trap, *begin(1), max_length=5)
    assert likeliest.tokens == [4]
    assert likeliest.log_probability == pytest.approx(math.log(0.24))
    ((best,),) = beam_search(trap, *begin(1), beam=2, max_length=5)
    assert best.tokens == [5]
    assert best.log_probability == pytest.approx(math.log(0.4))


def test_the_length_penalty_is_the_papers() -> None:
    assert length_penalty(7, 0.5) == pytest.approx(math.sqrt(2))
    assert length_penalty(100, 0.0) == 1


def test_lengths_are_kept_and_specials_are_never_written() -> None:
    table = Table(size=6, sharp=3.0)
    limits = torch.tensor([1, 4, 7, 9] * 5)
    for rows in (
        greedy(table, *begin(20), max_length=limits, min_length=1),
        sample(table, *begin(20), max_length=limits, min_length=1),
        [found[0] for found in beam_search(table, *begin(20), beam=3, max_length=limits, min_length=1)],
    ):
        for row, limit in zip(rows, limits.tolist(), strict=True):
            assert 1 <= len(row.tokens) <= limit - row.finished
            assert row.finished or len(row.tokens) == limit
            assert not {0, 2, END} & set(row.tokens)


def test_log_probabilities_are_those_of_what_was_written() -> None:
    table = Table(size=9)
    for row in sample(table, [(4,)] * 5, torch.full((5,), 2), max_length=6, temperature=0.7, top_k=3):
        history, total = (4, 2), 0.0
        for token in [*row.tokens, *([END] if row.finished else [])]:
            total += float(table.row(history).log_softmax(0)[token])
            history = (*history, token)
        assert row.log_probability == pytest.approx(total, abs=1e-4)


def test_top_k_of_one_is_greedy_and_a_seed_repeats_a_draw() -> None:
    table = Table(size=9, sharp=0.5)
    assert_same(sample(table, *begin(8), max_length=9, top_k=1), greedy(table, *begin(8), max_length=9))

    def drawn(seed: int) -> list[Hypothesis]:
        return sample(table, *begin(8), max_length=9, generator=torch.Generator().manual_seed(seed))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
        # the first alone has 0.5: enough for 0.5, not for 0.51
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.8}, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
        ({"top_p": 1.0}, [0.5, 0.25, 0.15, 0.1]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        # of two thirds and one third, 0.6 takes the first
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        ({"temperature": 1e-30}, [1, 0, 0, 0]),
    ],
)
def test_draws_have_the_shares_they_should_have(options: dict[str, float], expected: list[float]) -> None:
    scores = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().expand(20_000, 4)
    ids = draw(scores, **options, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(ids, minlength=4)[[1, 3, 2, 0]] / 20_000
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float32), atol=0.02, rtol=0)
    assert all(share == 0 for share, wanted in zip(shares.tolist(), expected, strict=True) if wanted == 0)


def test_without_an_end_every_row_has_the_length_asked_for() -> None:
    rows = sample(Table(), *begin(3), max_length=15, end=None, banned=())
    assert [len(row.tokens) for row in rows] == [15] * 3
    assert any(END in row.tokens for row in rows)


def test_every_token_is_read_once() -> None:
    table = Table(sharp=0.1)
    greedy(table, *begin(5), max_length=8, min_length=7)
    assert table.steps == 8


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t, s, f: greedy(t, s, f, max_length=0), "`max_length` must be whole numbers above 0"),
        (lambda t, s, f: greedy(t, s, f, max_length=torch.tensor([1, 2, 3])), r"one or \[N\] = \[2\]"),
        (lambda t, s, f: greedy(t, s, f, max_length=3, min_length=4), "`min_length` must be from 0 to `max_length`"),
        (lambda t, s, f: greedy(t, s, f.float(), max_length=3), "`first` must be ids"),
        (lambda t, s, f: sample(t, s, f, max_length=3, temperature=0), "`temperature` must be above 0, got 0; greedy"),
        (lambda t, s, f: sample(t, s, f, max_length=3, top_k=0), "`top_k` must be at least 1"),
        (lambda t, s, f: sample(t, s, f, max_length=3, top_p=1.5), "`top_p` must be above 0, at most 1"),
        (lambda t, s, f: beam_search(t, s, f, max_length=3, beam=0), "`beam` must be at least 1"),
        (lambda t, s, f: beam_search(t, s, f, max_length=3, beam=2, best=3), "`best` from 1 to `beam`"),
        (lambda t, s, f: beam_search(t, s, f, max_length=3, beam=2, alpha=-1), "`alpha` must be at least 0"),
    ],
)
def test_wrong_arguments_are_named(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(Table(), *begin(2))
