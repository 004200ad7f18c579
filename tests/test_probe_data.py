"""The probes: what is drawn, what the right answer is, and what guessing reaches."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recur import InputError
from recur.data.probes import COPIED, NOUNS, PROBES, Draw, probe_named
from recur.data.reber import ALPHABET, GRAMMAR, is_embedded_reber
from recur.data.walks import symbols, walks


def drawn(name: str, rows: int, lag: int, seed: int = 1) -> Draw:
    return PROBES[name].draw(np.random.default_rng(seed), rows, lag)


@pytest.mark.parametrize("name", PROBES)
@settings(max_examples=20, deadline=None)
@given(extra=st.integers(0, 70), seed=st.integers(0, 5))
def test_every_lag_from_the_least_on_can_be_drawn(name: str, extra: int, seed: int):
    probe, lag = PROBES[name], PROBES[name].least + extra
    draw = drawn(name, 6, lag, seed)
    assert draw.inputs.shape == (6, probe.steps(lag), len(probe.symbols))
    assert draw.inputs.dtype == np.float32
    assert draw.targets.shape[1] >= probe.scored
    if probe.classes:
        assert draw.targets.min() >= 0
        assert draw.targets.max() < probe.classes
        assert (draw.inputs.sum(axis=2) == 1).all()
    again = drawn(name, 6, lag, seed)
    assert np.array_equal(draw.inputs, again.inputs)
    assert np.array_equal(draw.targets, again.targets)


def strings(length: int) -> list[str]:
    """All Reber strings of a length, by walking the diagram."""
    found, open_ends = [], [("", 0)]
    for _ in range(length):
        open_ends = [(text + symbol, after) for text, node in open_ends for symbol, after in GRAMMAR[node]]
        found = [text for text, node in open_ends if node == len(GRAMMAR)]
        open_ends = [(text, node) for text, node in open_ends if node < len(GRAMMAR)]
    return found


def test_walks_of_a_length_are_equally_likely():
    every = strings(9)
    names = symbols(GRAMMAR)
    found = walks(GRAMMAR, 9, 40 * len(every), np.random.default_rng(1))
    counts = Counter("".join(names[i] for i in row) for row in found)
    assert set(counts) == set(every)
    # chi squared: mean n - 1, deviation sqrt(2 (n - 1))
    statistic = sum((count - 40) ** 2 / 40 for count in counts.values())
    assert statistic < len(every) - 1 + 5 * math.sqrt(2 * (len(every) - 1))


def test_walks_of_any_length_keep_their_chances_in_range():
    assert walks(GRAMMAR, 5000, 2, np.random.default_rng(1)).shape == (2, 5000)
    with pytest.raises(InputError, match="`length` must be that of a walk through the diagram, got 4, which none has"):
        walks(GRAMMAR, 4, 2, np.random.default_rng(1))


@pytest.mark.parametrize("lag", [5, 6, 40])
def test_reber_asks_for_the_symbol_that_makes_the_string_whole(lag: int):
    rows = PROBES["reber"].written(drawn("reber", 200, lag))
    for text, answer in rows:
        assert is_embedded_reber(f"{text}{answer}E")
        assert len(text) - 2 == lag
        assert text[1] == answer
    assert {answer for _, answer in rows} == {"T", "P"}


def test_adding_asks_for_the_sum_of_the_two_marked_numbers():
    draw = drawn("adding", 500, 31)
    for (values, marks), (target,) in zip(draw.inputs.transpose(0, 2, 1), draw.targets, strict=True):
        first, second = np.flatnonzero(marks)
        assert first < 15 <= second
        assert target == pytest.approx(values[first] + values[second])
        assert 0 <= values.min() <= values.max() < 1
    places = draw.inputs[..., 1].sum(axis=0)
    assert (places > 0).all()


def test_copy_asks_for_the_letters_after_the_sign():
    for text, answer in PROBES["copy"].written(drawn("copy", 100, 7)):
        match = re.fullmatch(r"([a-h]{10})_{6}\?_{10}", text)
        assert match
        assert match[1] == answer
    draw = drawn("copy", 3, 7)
    assert (draw.targets[:, :-COPIED] == 8).all()


@pytest.mark.parametrize("lag", [10, 57])
def test_order_asks_for_the_two_signals(lag: int):
    for text, answer in PROBES["order"].written(drawn("order", 300, lag)):
        signals = re.sub("[abcd]", "", text)
        assert signals == answer
        first, second = (match.start() for match in re.finditer("[XY]", text))
        assert lag // 10 <= first < lag // 5
        assert 2 * lag // 5 <= second < lag // 2


def test_latest_asks_for_the_last_signal():
    rows = PROBES["latest"].written(drawn("latest", 300, 12))
    for text, answer in rows:
        assert len(text) == 24
        assert text[11] == answer
        assert not re.search("[XY]", text[12:])
    assert 3 < sum(len(re.sub("[abcd]", "", text)) for text, _ in rows) / 300 < 4.5


@pytest.mark.parametrize("lag", [8, 41])
def test_count_asks_for_the_ticks_after_the_reset(lag: int):
    rows = PROBES["count"].written(drawn("count", 300, lag))
    for text, answer in rows:
        before, _, after = text.partition("R")
        assert len(text) == lag
        assert "R" not in after
        assert lag // 4 // 2 <= len(before) < lag // 4
        assert after.count("+") == int(answer)
    assert {answer for _, answer in rows} == set("01234")


def test_agreement_is_with_the_first_noun():
    for text, verb in PROBES["agreement"].written(drawn("agreement", 300, 13)):
        words = text.split()
        assert words[0] == "The"
        assert words[2] == "which"
        assert len(words) - 2 == 13
        assert verb == ("was" if words[1] in NOUNS else "were")
        assert words[-1] in {*NOUNS, *NOUNS.values()}
        assert len([word for word in words if word in {*NOUNS, *NOUNS.values()}]) >= 2


def test_nothing_after_the_subject_says_its_number():
    draw = drawn("agreement", 20_000, 9)
    later = draw.inputs[:, 2:].sum(axis=1)  # how often each word comes
    plural = draw.targets[:, 0] == 1
    difference = later[plural].mean(axis=0) - later[~plural].mean(axis=0)
    assert np.abs(difference).max() < 0.05


@pytest.mark.parametrize("name", PROBES)
def test_guessing_reaches_what_is_said_of_it(name: str):
    probe, lag = PROBES[name], PROBES[name].least + 12
    draw = drawn(name, 20_000, lag)
    rules = probe.rules(draw)
    guess = next(iter(rules.values()))
    assert np.unique(guess).size == 1
    assert probe.errors(guess, draw.targets) == pytest.approx(probe.chance, abs=0.012)
    if not probe.classes:
        assert probe.chance_loss(lag) == probe.chance
        best = draw.targets.mean()
        assert best == pytest.approx(1, abs=0.01)
        return
    # cross entropy of the best answer that never looks: the shares of the classes at each step
    loss = 0.0
    for answers in draw.targets.T:
        shares = np.bincount(answers) / len(answers)
        loss -= float((shares * np.log(np.maximum(shares, 1e-300))).sum())
    assert loss / draw.targets.shape[1] == pytest.approx(probe.chance_loss(lag), rel=1e-3)


def test_what_the_other_rules_reach():
    found = {}
    for name, lag in (("reber", 30), ("adding", 30), ("order", 30), ("latest", 9), ("agreement", 4)):
        draw = drawn(name, 20_000, lag)
        found |= {
            f"{name}: {rule}": PROBES[name].errors(a, draw.targets) for rule, a in PROBES[name].rules(draw).items()
        }
    assert found["reber: the last T or P"] == pytest.approx(1 / 2, abs=0.012)
    assert found["adding: the second number + 1/2"] == pytest.approx(1 / 12, abs=0.003)
    assert found["order: the second signal"] == pytest.approx(1 / 2, abs=0.012)
    assert found["agreement: as the last noun"] == pytest.approx(1 / 2, abs=0.012)
    # n more signals besides the last, each with chance 1/4
    wrong = sum(math.comb(8, n) * 0.25**n * 0.75 ** (8 - n) * (0.5 if n else 0.0) for n in range(9))
    assert found["latest: the first signal"] == pytest.approx(wrong, abs=0.012)
    assert 0.2 < found["latest: most signals"] < 0.4
    # of two nouns the majority is right where both agree, and a tie is "was"
    assert found["agreement: as most nouns"] == pytest.approx(1 / 4, abs=0.012)


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(
        InputError,
        match=r"one of reber, adding, copy, order, latest, count, agreement, got 'ading', did you mean 'adding'\?",
    ):
        probe_named("ading")
    assert "".join(PROBES["reber"].symbols) == ALPHABET
