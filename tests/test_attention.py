"""Attention on cases worked out by hand."""

import math

import pytest
import torch

import recur
from recur.layers.attention import ATTENTIONS, Attention


def test_multiplicative_scores_are_the_formula() -> None:
    attention = Attention(2, 2)
    with torch.no_grad():
        attention.key.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    values = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    context, weights = attention(torch.tensor([[[1.0, 1.0]]]), attention.memory(values))
    # q W k: (1, 1) W = (1, 3), so 1 for the first place and 3 for the second
    expected = torch.tensor([math.exp(1), math.exp(3)]) / (math.exp(1) + math.exp(3))
    torch.testing.assert_close(weights[0, 0], expected)
    torch.testing.assert_close(context[0, 0], expected)


def test_dot_scores_are_scaled_by_the_root_of_the_width() -> None:
    attention = Attention(4, 4, "dot")
    values = torch.randn(1, 3, 4)
    query = torch.randn(1, 1, 4)
    expected = (values[0] @ query[0, 0] / 2).softmax(0)
    torch.testing.assert_close(attention(query, attention.memory(values)).weights[0, 0], expected)
    assert not list(attention.parameters())


def test_additive_scores_are_the_formula() -> None:
    attention = Attention(3, 2, "additive", size=5)
    values, query = torch.randn(1, 4, 2), torch.randn(1, 1, 3)
    w, u, b, v = attention.query.weight, attention.key.weight, attention.key.bias, attention.score.weight[0]
    scores = torch.stack([v @ torch.tanh(w @ query[0, 0] + u @ place + b) for place in values[0]])
    torch.testing.assert_close(attention(query, attention.memory(values)).weights[0, 0], scores.softmax(0))


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_places_beyond_the_length_do_not_matter_and_none_give_zeros(kind: str) -> None:
    torch.manual_seed(0)
    attention = Attention(4, 4, kind)
    values = torch.randn(3, 5, 4, requires_grad=True)
    query = torch.randn(3, 2, 4, requires_grad=True)
    context, weights = attention(query, attention.memory(values, torch.tensor([5, 2, 0])))
    torch.testing.assert_close(weights.sum(-1), torch.tensor([[1.0] * 2, [1.0] * 2, [0.0] * 2]))
    alone = attention(query[1:2], attention.memory(values[1:2, :2]))
    torch.testing.assert_close(weights[1:2, :, :2], alone.weights)
    torch.testing.assert_close(context[1:2], alone.context)
    assert not weights[1, :, 2:].any()
    assert not context[2].any()
    context.sum().backward()
    assert values.grad.isfinite().all()
    assert query.grad.isfinite().all()
    assert not values.grad[2].any()
    assert not values.grad[1, 2:].any()


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_one_query_at_a_time_is_all_at_once(kind: str) -> None:
    attention = Attention(4, 4, kind)
    memory = attention.memory(torch.randn(2, 3, 4), torch.tensor([3, 1]))
    query = torch.randn(2, 6, 4)
    all_at_once = attention(query, memory)
    for t in range(6):
        context, weights = attention(query[:, t], memory)
        torch.testing.assert_close(context, all_at_once.context[:, t])
        torch.testing.assert_close(weights, all_at_once.weights[:, t])


def test_rows_are_selected_and_copied_only_where_they_look_at_others() -> None:
    memory = Attention(4, 4).memory(torch.randn(3, 5, 4), torch.tensor([5, 2, 3]))
    twice = memory.select(torch.tensor([0, 0, 2, 2]))
    assert torch.equal(twice.values, memory.values[[0, 0, 2, 2]])
    assert torch.equal(twice.keys, memory.keys[[0, 0, 2, 2]])
    assert twice.valid.sum(1).tolist() == [5, 5, 3, 3]
    assert twice.select(torch.tensor([1, 0, 2, 2])) is twice
    assert torch.equal(twice.select(torch.tensor([2, 1])).values, memory.values[[2, 0]])


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_gradients_are_right(kind: str) -> None:
    attention = Attention(2, 2, kind).double()
    values = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    query = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3, 0])
    assert torch.autograd.gradcheck(lambda q, v: attention(q, attention.memory(v, lengths)).context, (query, values))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(recur.InputError, match=r"`kind` must be one of .* did you mean 'additive'"):
        Attention(3, 3, "aditive")
    with pytest.raises(recur.InputError, match="`key_size` must be `query_size` = 3 for kind 'dot', got 4"):
        Attention(3, 4, "dot")
    with pytest.raises(recur.InputError, match="`size` must be left out"):
        Attention(3, 4, size=2)
    with pytest.raises(recur.InputError, match="`query_size` must be a whole number above 0, got 0"):
        Attention(0, 4)
    attention = recur.Attention(3, 4)
    with pytest.raises(recur.InputError, match=r"`values` must be \[B, S, K\] with K = 4, got \[2, 4\]"):
        attention.memory(torch.randn(2, 4))
    with pytest.raises(recur.InputError, match=r"`lengths` must be \[B\] = \[2\]"):
        attention.memory(torch.randn(2, 3, 4), torch.tensor([1]))
    with pytest.raises(recur.InputError, match=r"`query` must be .* B = 2, Q = 3, got \[1, 3\]"):
        attention(torch.randn(1, 3), attention.memory(torch.randn(2, 3, 4)))
