import numpy as np
import pytest

from recur.tasks.generate.ngrams import KneserNey, _discounts


def probability(model, *ids):
    return float(np.exp(-model.losses(np.array(ids))[-1]))


def test_bigrams_as_reckoned_by_hand():
    # <s> a b a c: each bigram comes once, and a stands behind two tokens, b and c behind one; with counts so few the
    # discounts are 1/2, 1, 3/2
    model = KneserNey(np.array([0, 1, 0, 2]), order=2, size=3)
    a, b = (2 - 1) / 4 + 2 / 4 / 3, (1 - 0.5) / 4 + 2 / 4 / 3
    assert probability(model, 0) == pytest.approx(a)
    assert probability(model, 0, 1) == pytest.approx(0.5 / 2 + 1 / 2 * b)
    assert probability(model, 0, 0) == pytest.approx(1 / 2 * a)
    assert probability(model, 1, 0) == pytest.approx(0.5 + 0.5 * a)
    assert probability(model, 2, 0) == pytest.approx(a), "nothing ever came behind c"


def test_discounts_are_those_of_the_formula():
    counts = np.array([0, 1, 1, 1, 1, 2, 2, 3, 4, 9.0])
    assert _discounts(counts).tolist() == pytest.approx([0, 1 - 0.5 * 2 * 2 / 4, 2 - 3 * 0.5 / 2, 3 - 4 * 0.5])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_of_what_may_come_sum_to_one(order):
    rng = np.random.default_rng(0)
    text = rng.choice(6, size=800, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    model = KneserNey(text, order, 8)
    for context in ([], [0], [0, 1], [3, 2, 0], [7, 7], [5, 7, 0, 1], text[:6].tolist()):
        assert sum(probability(model, *context, last) for last in range(8)) == pytest.approx(1)


def test_longer_contexts_foretell_what_needs_them():
    text = np.tile([0, 1, 2, 0, 3, 2], 50)
    losses = [KneserNey(text, order, 4).losses(text)[6:].mean() for order in (1, 2, 4)]
    # behind 2 0 as behind 0 stands 1 as often as 3
    assert losses[1] == pytest.approx(np.log(2) / 3, abs=0.05)
    assert losses[2] < 0.05
    assert losses[0] > 1


def test_a_long_text_is_looked_up_in_pieces(monkeypatch):
    rng = np.random.default_rng(1)
    text, other = rng.integers(0, 5, (2, 300))
    model = KneserNey(text, 4, 5)
    whole = model.losses(other)
    monkeypatch.setattr("recur.tasks.generate.ngrams._CHUNK", 7)
    assert model.losses(other).tolist() == whole.tolist()
